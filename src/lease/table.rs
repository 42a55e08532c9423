//! The replicated lease table: which leases there are and which keys hang on them.
//!
//! ```text
//!   leases: id  ──▶ granted and checkpointed time, keys      what a revoke deletes
//!   owners: key ──▶ id                                       what a put or a delete has to detach
//! ```
//! Part of the state machine: every member does the same to it at the same index, so there is no clock here. Rows hold the
//! times only; which keys belong to a lease is written in the keys. Copies are cheap, for views.

use super::{Grant, LeaseError, LeaseTableError};
use crate::ids::{LeaseId, LogIndex};
use crate::mvcc::Leases;
use bytes::Bytes;
use castd_backend_api::{Backend, Table, WriteBatch};
use castd_proto::castdpb::LeaseRow;
use imbl::{OrdMap, OrdSet};
use prost::Message;
use std::ops::ControlFlow;

/// The longest time to live, in seconds, which etcd chose so that it fits where nanoseconds are counted in 64 bits.
pub const TTL_SECS_MAX: i64 = 9_000_000_000;

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub ttl_secs: i64,
    /// What was left at the last checkpoint; 0 if there was none since it was last kept alive.
    pub remaining_ttl_secs: i64,
    /// The log entry that granted it.
    pub granted: LogIndex,
    pub keys: OrdSet<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTable {
    leases: OrdMap<LeaseId, Lease>,
    /// The other side of [`Lease::keys`]. Keys without a lease cost nothing here.
    owners: OrdMap<Bytes, LeaseId>,
    /// What the rows take, keys and values.
    bytes: u64,
}

impl LeaseTable {
    /// Reads the rows in `backend`. `attached` is what the keys say they are attached to; a lease that is not there is
    /// ignored, as etcd does, whose backups may hold such keys.
    ///
    /// # Errors
    /// When the backend fails or a row is damaged.
    pub fn open(
        backend: &dyn Backend,
        attached: impl IntoIterator<Item = (LeaseId, Bytes)>,
    ) -> Result<Self, LeaseTableError> {
        let mut leases = OrdMap::new();
        let mut bytes = 0;
        let mut damaged = None;
        backend.scan(Table::Lease, b"", b"", &mut |key, value| match decode(key, value) {
            Some((id, lease)) => {
                bytes += row_bytes(id, &lease);
                leases.insert(id, lease);
                ControlFlow::Continue(())
            }
            None => {
                damaged = Some(LeaseTableError::RowDamaged(key.to_vec()));
                ControlFlow::Break(())
            }
        })?;
        if let Some(damaged) = damaged {
            return Err(damaged);
        }
        let mut table = Self { leases, owners: OrdMap::new(), bytes };
        for (lease, key) in attached {
            table.attach(lease, &key);
        }
        Ok(table)
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// What the rows take in a backend.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases, by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// Answers the time to live, in seconds. `granted` is the entry being applied. The caller has made sure that it is not too short (see
    /// [`super::ttl_secs_min`]) and has chosen an id.
    ///
    /// # Errors
    /// [`LeaseError::TtlTooLarge`], then [`LeaseError::Exists`]; [`LeaseError::NotFound`] for id 0, which is no lease.
    pub fn grant(
        &mut self,
        id: LeaseId,
        ttl_secs: i64,
        granted: LogIndex,
        batch: &mut WriteBatch,
    ) -> Result<i64, LeaseError> {
        if id == LeaseId(0) {
            return Err(LeaseError::NotFound);
        }
        if ttl_secs > TTL_SECS_MAX {
            return Err(LeaseError::TtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(LeaseError::Exists);
        }
        let lease = Lease { ttl_secs: ttl_secs.max(1), remaining_ttl_secs: 0, granted, keys: OrdSet::new() };
        put_row(batch, id, &lease);
        self.bytes += row_bytes(id, &lease);
        let ttl_secs = lease.ttl_secs;
        self.leases.insert(id, lease);
        Ok(ttl_secs)
    }

    /// Takes the lease out and answers its keys, in order, for the caller to delete.
    ///
    /// # Errors
    /// [`LeaseError::NotFound`].
    pub fn revoke(&mut self, id: LeaseId, batch: &mut WriteBatch) -> Result<Vec<Bytes>, LeaseError> {
        let lease = self.leases.remove(&id).ok_or(LeaseError::NotFound)?;
        self.bytes -= row_bytes(id, &lease);
        for key in &lease.keys {
            self.owners.remove(key);
        }
        batch.delete(Table::Lease, Bytes::copy_from_slice(&row_key(id)));
        Ok(lease.keys.into_iter().collect())
    }

    /// Whether there is the lease that this grant made.
    pub fn is_valid(&self, grant: Grant) -> bool {
        self.leases.get(&grant.lease).is_some_and(|lease| lease.granted == grant.index)
    }

    /// Remembers how much time is left, or with 0 that all of it is. Answers whether there is such a lease.
    pub fn checkpoint(&mut self, grant: Grant, remaining_ttl_secs: i64, batch: &mut WriteBatch) -> bool {
        match self.leases.get_mut(&grant.lease) {
            Some(lease) if lease.granted == grant.index => {
                self.bytes -= row_bytes(grant.lease, lease);
                lease.remaining_ttl_secs = remaining_ttl_secs.clamp(0, lease.ttl_secs);
                self.bytes += row_bytes(grant.lease, lease);
                put_row(batch, grant.lease, lease);
                true
            }
            _ => false,
        }
    }

    /// Every row, for a portable snapshot.
    pub fn put_rows(&self, batch: &mut WriteBatch) {
        for (id, lease) in &self.leases {
            put_row(batch, *id, lease);
        }
    }
}

impl Leases for LeaseTable {
    fn exists(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    fn owner(&self, key: &[u8]) -> Option<LeaseId> {
        if self.owners.is_empty() { None } else { self.owners.get(key).copied() }
    }

    fn attach(&mut self, lease: LeaseId, key: &Bytes) {
        let Some(attached_to) = self.leases.get_mut(&lease) else { return };
        attached_to.keys.insert(key.clone());
        let before = self.owners.insert(key.clone(), lease);
        debug_assert!(before.is_none_or(|before| before == lease));
    }

    fn detach(&mut self, lease: LeaseId, key: &[u8]) {
        if crate::planted::is_on(crate::planted::Bug::LosesTrackOfKeys) {
            return;
        }
        let owner = self.owners.remove(key);
        debug_assert!(owner.is_none_or(|owner| owner == lease));
        if let Some(attached_to) = self.leases.get_mut(&lease) {
            attached_to.keys.remove(key);
        }
    }
}

fn row_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

fn row(id: LeaseId, lease: &Lease) -> LeaseRow {
    LeaseRow {
        id: id.0,
        ttl_secs: lease.ttl_secs,
        remaining_ttl_secs: lease.remaining_ttl_secs,
        granted_index: lease.granted.0,
    }
}

fn row_bytes(id: LeaseId, lease: &Lease) -> u64 {
    (row_key(id).len() + row(id, lease).encoded_len()) as u64
}

fn put_row(batch: &mut WriteBatch, id: LeaseId, lease: &Lease) {
    batch.put(Table::Lease, Bytes::copy_from_slice(&row_key(id)), row(id, lease).encode_to_vec());
}

fn decode(key: &[u8], value: &[u8]) -> Option<(LeaseId, Lease)> {
    let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
    let row = LeaseRow::decode(value).ok()?;
    let times_are_sane =
        (1..=TTL_SECS_MAX).contains(&row.ttl_secs) && (0..=row.ttl_secs).contains(&row.remaining_ttl_secs);
    (row.id == id.0 && times_are_sane).then(|| {
        let lease = Lease {
            ttl_secs: row.ttl_secs,
            remaining_ttl_secs: row.remaining_ttl_secs,
            granted: LogIndex(row.granted_index),
            keys: OrdSet::new(),
        };
        (id, lease)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_backend_memory::Memory;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Op {
        Grant(i64, i64),
        Revoke(i64),
        Checkpoint(i64, i64),
        Put(u8, i64),
        Delete(u8),
    }

    fn id() -> impl Strategy<Value = i64> {
        prop_oneof![
            4 => prop::sample::select([i64::MIN, -1, 0, 1, 2, i64::MAX].as_slice()),
            1 => any::<i64>(),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        let ttl = prop_oneof![Just(TTL_SECS_MAX), Just(TTL_SECS_MAX + 1), Just(0), any::<i64>(), 1..100_i64];
        prop_oneof![
            3 => (id(), ttl.clone()).prop_map(|(id, ttl)| Op::Grant(id, ttl)),
            1 => id().prop_map(Op::Revoke),
            1 => (id(), ttl).prop_map(|(id, remaining)| Op::Checkpoint(id, remaining)),
            4 => (0..6_u8, id()).prop_map(|(key, id)| Op::Put(key, id)),
            1 => (0..6_u8).prop_map(Op::Delete),
        ]
    }

    #[derive(Default)]
    struct Model {
        leases: BTreeMap<i64, (i64, i64)>,
        keys: BTreeMap<u8, i64>,
    }

    fn key(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[b'k', number])
    }

    /// What mvcc does for a put.
    fn put(table: &mut LeaseTable, number: u8, id: LeaseId) {
        if let Some(owner) = table.owner(&key(number)) {
            table.detach(owner, &key(number));
        }
        table.attach(id, &key(number));
    }

    proptest! {
        #[test]
        fn it_does_what_two_maps_do_and_comes_back_from_its_rows(ops in prop::collection::vec(op(), 1..60)) {
            let backend = Memory::new();
            let mut table = LeaseTable::default();
            let mut model = Model::default();
            for (index, op) in ops.into_iter().enumerate() {
                let index = LogIndex(index as u64);
                let mut batch = WriteBatch::new();
                match op {
                    Op::Grant(id, ttl) => {
                        let expected = match id {
                            0 => Err(LeaseError::NotFound),
                            _ if ttl > TTL_SECS_MAX => Err(LeaseError::TtlTooLarge),
                            id if model.leases.contains_key(&id) => Err(LeaseError::Exists),
                            id => {
                                model.leases.insert(id, (ttl.max(1), 0));
                                Ok(ttl.max(1))
                            }
                        };
                        prop_assert_eq!(table.grant(LeaseId(id), ttl, index, &mut batch), expected);
                    }
                    Op::Revoke(id) => {
                        let expected = match model.leases.remove(&id) {
                            None => Err(LeaseError::NotFound),
                            Some(_) => {
                                let keys: Vec<u8> =
                                    model.keys.iter().filter(|(_, owner)| **owner == id).map(|(key, _)| *key).collect();
                                model.keys.retain(|_, owner| *owner != id);
                                Ok(keys.into_iter().map(key).collect())
                            }
                        };
                        prop_assert_eq!(table.revoke(LeaseId(id), &mut batch), expected);
                    }
                    Op::Checkpoint(id, remaining) => {
                        let known = model.leases.get_mut(&id).map(|(ttl, kept)| *kept = remaining.clamp(0, *ttl));
                        let granted = table.get(LeaseId(id)).map_or(index, |lease| lease.granted);
                        let grant = Grant { lease: LeaseId(id), index: granted };
                        prop_assert_eq!(table.is_valid(grant), known.is_some());
                        let other = Grant { index: LogIndex(u64::MAX), ..grant };
                        prop_assert!(!table.checkpoint(other, remaining, &mut batch), "that was another one");
                        prop_assert_eq!(table.checkpoint(grant, remaining, &mut batch), known.is_some());
                    }
                    Op::Put(number, id) if model.leases.contains_key(&id) => {
                        put(&mut table, number, LeaseId(id));
                        model.keys.insert(number, id);
                    }
                    Op::Put(number, _) | Op::Delete(number) => {
                        if let Some(owner) = table.owner(&key(number)) {
                            table.detach(owner, &key(number));
                        }
                        model.keys.remove(&number);
                    }
                }
                backend.write(&batch).unwrap();

                let mut bytes = 0;
                backend.scan(Table::Lease, b"", b"", &mut |key, row| {
                    bytes += (key.len() + row.len()) as u64;
                    ControlFlow::Continue(())
                }).unwrap();
                prop_assert_eq!(table.bytes(), bytes);
                let times: BTreeMap<i64, (i64, i64)> = table
                    .iter()
                    .map(|(id, lease)| (id.0, (lease.ttl_secs, lease.remaining_ttl_secs)))
                    .collect();
                prop_assert_eq!(&times, &model.leases);
                let from_leases: BTreeSet<(Bytes, LeaseId)> =
                    table.iter().flat_map(|(id, lease)| lease.keys.iter().map(move |key| (key.clone(), id))).collect();
                let from_owners: BTreeSet<(Bytes, LeaseId)> =
                    table.owners.iter().map(|(key, id)| (key.clone(), *id)).collect();
                prop_assert_eq!(&from_leases, &from_owners, "both sides say the same");
                let expected: BTreeSet<(Bytes, LeaseId)> =
                    model.keys.iter().map(|(number, id)| (key(*number), LeaseId(*id))).collect();
                prop_assert_eq!(&from_owners, &expected);

                let attached = model.keys.iter().map(|(number, id)| (LeaseId(*id), key(*number)));
                prop_assert_eq!(&LeaseTable::open(&backend, attached).unwrap(), &table);
            }
        }
    }

    #[test]
    fn a_damaged_row_is_an_error_and_an_unknown_lease_is_not() {
        let backend = Memory::new();
        let stray = [(LeaseId(9), Bytes::from("a"))];
        assert!(LeaseTable::open(&backend, stray).unwrap().is_empty());
        let mut batch = WriteBatch::new();
        let row = LeaseRow { id: 8, ttl_secs: 5, ..LeaseRow::default() };
        batch.put(Table::Lease, Bytes::copy_from_slice(&7_i64.to_be_bytes()), row.encode_to_vec());
        backend.write(&batch).unwrap();
        assert!(matches!(LeaseTable::open(&backend, []), Err(LeaseTableError::RowDamaged(_))));
    }
}
