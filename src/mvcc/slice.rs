//! Applies a slice of the log: every write of it goes into the index at once and into one batch for the backend.
//!
//! ```text
//!   store.begin ──▶ put, delete_range, txn, compact … ──▶ take_changes ──▶ commit: ONE batch to the backend
//!                     │ reads: rows of this slice from the batch, older ones from the backend
//! ```
//! A request that fails has changed nothing: it is checked completely before its first write. Nothing here can fail half-way
//! except a backend that cannot read or write, and then the process ends.

use bytes::Bytes;
use castd_backend_api::{Backend, Op, Table, WriteBatch};
use castd_proto::{
    etcdserverpb::{
        CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, ResponseHeader,
        TxnRequest, TxnResponse,
    },
    mvccpb::KeyValue,
};
use prost::Message;

use crate::ids::{LeaseId, Revision};

use super::{
    Changes, Event, EventKind, MvccError, OpCounts, RowKey, Store, StoreError, View,
    index::{Change, Span, Version, Walk},
    read::{Reader, Rows},
    row, txn,
};

/// What applying has to know of leases, and does to them.
pub trait Leases {
    fn exists(&self, lease: LeaseId) -> bool;
    /// The lease `key` is attached to.
    fn owner(&self, key: &[u8]) -> Option<LeaseId>;
    /// `key` was not attached, or has just been detached.
    fn attach(&mut self, lease: LeaseId, key: &Bytes);
    fn detach(&mut self, lease: LeaseId, key: &[u8]);
}

/// Whether somebody waits for the answer here. If nobody does, what could only be seen in the answer is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Wanted,
    Unwanted,
}

/// A slice being applied.
#[must_use = "the index changes at once: without `commit` the rows are missing"]
pub struct Slice<'s> {
    store: &'s mut Store,
    batch: WriteBatch,
    /// The rows of this slice, ascending, and where they are in the batch.
    staged: Vec<(RowKey, usize)>,
    /// The store's revision before the slice: older rows are in the backend.
    base: i64,
    changes: Vec<Changes>,
    /// Of the request that is being applied.
    events: Vec<Event>,
    answer: Answer,
    counts: OpCounts,
    /// Operations counted before the request that is being applied.
    counted: u64,
}

/// Reads the rows of a slice before the backend has them.
pub(super) struct StagedRows<'a> {
    backend: &'a dyn Backend,
    staged: &'a [(RowKey, usize)],
    ops: &'a [Op],
    base: i64,
}

impl Rows for StagedRows<'_> {
    fn row(&self, key: RowKey) -> Result<Bytes, StoreError> {
        if key.main.0 <= self.base {
            return self.backend.row(key);
        }
        let position = self.staged.binary_search_by_key(&key, |(staged, _)| *staged);
        match position.ok().map(|position| &self.ops[self.staged[position].1]) {
            Some(Op::Put { value, .. }) => Ok(value.clone()),
            _ => Err(StoreError::RowMissing(key)),
        }
    }
}

impl<'s> Slice<'s> {
    pub(super) fn new(store: &'s mut Store) -> Self {
        let base = store.revision;
        let batch = std::mem::take(&mut store.spare_batch);
        let answer = Answer::Wanted;
        Self {
            store,
            batch,
            staged: Vec::new(),
            base,
            changes: Vec::new(),
            events: Vec::new(),
            answer,
            counts: OpCounts::default(),
            counted: 0,
        }
    }

    /// Whether the requests from here on are answered by this member. It makes no difference to the state.
    pub fn expect_answer(&mut self, answer: Answer) {
        self.answer = answer;
    }

    pub(super) fn answer(&self) -> Answer {
        self.answer
    }

    /// What is written together with the slice: the owner adds rows of its own.
    pub fn batch(&mut self) -> &mut WriteBatch {
        &mut self.batch
    }

    /// The revision after what was applied so far.
    pub fn revision(&self) -> Revision {
        Revision(self.store.revision)
    }

    /// As [`Store::bytes`], with what was applied so far.
    pub fn bytes(&self) -> u64 {
        self.store.bytes
    }

    /// What was changed since it was last asked: one for each new revision, ascending.
    pub fn take_changes(&mut self) -> Vec<Changes> {
        std::mem::take(&mut self.changes)
    }

    /// What was carried out in the slice so far.
    pub fn counts(&self) -> OpCounts {
        self.counts
    }

    /// Begins a request that changes something.
    fn open(&mut self) {
        self.counted = self.counts.operations();
    }

    pub(super) fn count_range(&mut self) {
        self.counts.ranges += 1;
    }

    /// Writes everything, at once or not at all. Only then may a view be published.
    ///
    /// # Errors
    /// When the backend fails: the process has to end, the index is ahead of the rows.
    pub fn commit(mut self) -> Result<(), StoreError> {
        self.store.backend.write(&self.batch)?;
        self.batch.clear();
        self.store.spare_batch = self.batch;
        Ok(())
    }

    pub(super) fn reader(&self) -> Reader<'_, StagedRows<'_>> {
        Reader {
            tree: &self.store.tree,
            current: self.request_revision(),
            compacted: self.store.compaction.compacted(),
            rows: StagedRows {
                backend: &*self.store.backend,
                staged: &self.staged,
                ops: self.batch.ops(),
                base: self.base,
            },
        }
    }

    /// What the request being applied sees as the current revision: the next one as soon as it has written something.
    pub(super) fn request_revision(&self) -> i64 {
        self.store.revision + i64::from(!self.events.is_empty())
    }

    /// Ends a request: what it changed becomes a revision.
    fn seal(&mut self) -> Revision {
        self.counts.end_txn(self.counted);
        if !self.events.is_empty() {
            self.store.revision += 1;
            let revision = Revision(self.store.revision);
            self.changes.push(Changes { revision, events: std::mem::take(&mut self.events) });
        }
        self.revision()
    }

    /// # Errors
    /// [`MvccError::LeaseNotFound`]; [`MvccError::KeyNotFound`] if a value or lease is to be kept and there is none.
    pub fn put(&mut self, request: &PutRequest, leases: &mut dyn Leases) -> Result<PutResponse, MvccError> {
        self.open();
        txn::check_lease(leases, request)?;
        let prev_kv = self.put_checked(request, leases)?;
        Ok(PutResponse { header: header(self.seal()), prev_kv })
    }

    /// # Errors
    /// Only those of the backend.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        leases: &mut dyn Leases,
    ) -> Result<DeleteRangeResponse, MvccError> {
        self.open();
        let mut response = self.delete_range_checked(request, leases)?;
        response.header = header(self.seal());
        Ok(response)
    }

    /// # Errors
    /// That of the first operation of the chosen branch that cannot be done.
    pub fn txn(&mut self, request: &TxnRequest, leases: &mut dyn Leases) -> Result<TxnResponse, MvccError> {
        let reader = self.reader();
        let path = txn::choose(&reader, request)?;
        let checked = txn::check(&reader, request, Some(leases), &path);
        self.counts.compared(path.compared());
        if !crate::planted::is_on(crate::planted::Bug::PartialTxn) {
            checked?;
        }
        self.open();
        let mut response = txn::execute(self, request, leases, &path)?;
        response.header = header(self.seal());
        Ok(response)
    }

    /// Deletes the keys that are there, in the order given, all in one revision, and says how many there were. For a lease
    /// that has ended: nothing is detached.
    pub fn delete_keys(&mut self, keys: &[Bytes]) -> u64 {
        self.open();
        self.counts.deletes += keys.len() as u64;
        for key in keys {
            if self.reader().exists(key) {
                self.delete_key(key.clone());
            }
        }
        let deleted = self.events.len() as u64;
        self.seal();
        deleted
    }

    /// The store as of what was applied so far. It can read the rows of this slice once that is committed.
    pub fn view(&self) -> View {
        self.store.view()
    }

    /// From now on nothing below `revision` can be read. The rows go later, see [`Store::delete_compacted`].
    ///
    /// # Errors
    /// [`MvccError::Compacted`] if that was done before, [`MvccError::FutureRevision`] beyond the current revision.
    pub fn compact(&mut self, revision: Revision) -> Result<CompactionResponse, MvccError> {
        let reader = self.reader();
        if revision.0 <= reader.compacted {
            return Err(reader.compacted(revision.0));
        }
        if revision.0 > reader.current {
            return Err(reader.future(revision.0));
        }
        // etcd finds out about its revision by reading some key.
        self.counts.ranges += 1;
        self.store.compaction.schedule(revision.0, &mut self.batch);
        Ok(CompactionResponse { header: header(self.revision()) })
    }

    /// The lease has been looked at.
    pub(super) fn put_checked(
        &mut self,
        request: &PutRequest,
        leases: &mut dyn Leases,
    ) -> Result<Option<KeyValue>, MvccError> {
        let keeps = request.ignore_value || request.ignore_lease;
        let returns = request.prev_kv && self.answer == Answer::Wanted;
        let before = if keeps || returns { self.reader().get(&request.key)? } else { None };
        self.counts.ranges += u64::from(keeps || request.prev_kv);
        let (mut value, mut lease) = (&request.value, request.lease);
        match &before {
            None if keeps => return Err(MvccError::KeyNotFound),
            None => {}
            Some(before) => {
                if request.ignore_value {
                    value = &before.value;
                }
                if request.ignore_lease {
                    lease = before.lease;
                }
            }
        }
        self.counts.puts += 1;
        self.counts.put_bytes += (request.key.len() + value.len()) as u64;
        self.put_key(&request.key, value, lease, leases);
        Ok(before.filter(|_| returns))
    }

    fn put_key(&mut self, key: &Bytes, value: &Bytes, lease: i64, leases: &mut dyn Leases) {
        let (main, sub) = (self.store.revision + 1, self.next_sub());
        let row = RowKey { main: Revision(main), sub, tombstone: false };
        // What the index adds to it is not known yet.
        let mut kv = KeyValue {
            key: key.clone(),
            create_revision: 0,
            mod_revision: main,
            version: 0,
            value: value.clone(),
            lease,
        };
        let (before, now) = self.store.tree.apply(key, Change::Put { main, sub, bytes: row::bytes(row, &kv) });
        (kv.create_revision, kv.version) = (now.create, now.version);
        let owner = before.filter(Version::is_live).and_then(|_| leases.owner(key));
        let lease_id = Some(LeaseId(lease)).filter(|lease| lease.0 != 0);
        if owner != lease_id {
            owner.into_iter().for_each(|owner| leases.detach(owner, key));
            lease_id.into_iter().for_each(|lease| leases.attach(lease, key));
        }
        self.stage(now, &kv);
        let previous = if now.create == now.main { None } else { self.row_before(key, before, now.main) };
        self.events.push(Event { kind: EventKind::Put, kv, previous });
    }

    pub(super) fn delete_range_checked(
        &mut self,
        request: &DeleteRangeRequest,
        leases: &mut dyn Leases,
    ) -> Result<DeleteRangeResponse, MvccError> {
        let reader = self.reader();
        let at = reader.current;
        let (keys, prev_kvs) = match Span::new(&request.key, &request.range_end) {
            Span::One(key) => {
                let before = reader.tree.live_at(key, at);
                let returned = before.filter(|_| request.prev_kv && self.answer == Answer::Wanted);
                let prev_kvs = returned.map(|version| reader.pair(version)).transpose()?;
                (before.map(|_| request.key.clone()).into_iter().collect(), prev_kvs.into_iter().collect())
            }
            Span::Many(from, to) => {
                let walk = Walk { from, to, descending: false, live_only: true };
                let (picks, _) = reader.pick(walk, at, usize::MAX, true, |_| true);
                let keys: Vec<Bytes> = picks.iter().map(|pick| pick.key().clone()).collect();
                let returned = request.prev_kv && self.answer == Answer::Wanted;
                (keys, if returned { reader.answer(picks, false)? } else { Vec::new() })
            }
        };
        self.counts.deletes += 1;
        self.counts.ranges += u64::from(request.prev_kv);
        let deleted = keys.len() as i64;
        for key in keys {
            if let Some(owner) = leases.owner(&key) {
                leases.detach(owner, &key);
            }
            self.delete_key(key);
        }
        Ok(DeleteRangeResponse { header: None, deleted, prev_kvs })
    }

    /// The key is there.
    fn delete_key(&mut self, key: Bytes) {
        let (main, sub) = (self.store.revision + 1, self.next_sub());
        let row = KeyValue { key, ..KeyValue::default() };
        let bytes = row::bytes(RowKey { main: Revision(main), sub, tombstone: true }, &row);
        let (before, now) = self.store.tree.apply(&row.key, Change::Delete { main, sub, bytes });
        self.stage(now, &row);
        let previous = self.row_before(&row.key, before, now.main);
        let kv = KeyValue { mod_revision: now.main, ..row };
        self.events.push(Event { kind: EventKind::Delete, kv, previous });
    }

    fn next_sub(&self) -> u32 {
        let sub = u32::try_from(self.events.len());
        assert!(sub.is_ok(), "one request changes {} keys", self.events.len());
        sub.unwrap_or_default()
    }

    fn stage(&mut self, version: Version, row: &KeyValue) {
        let (key, encoded, value) = (version.row(), version.row().encode(), row.encode_to_vec());
        assert_eq!(row::row_bytes(&encoded, &value), version.bytes, "the index knows how long a row is");
        self.store.bytes += u64::from(version.bytes);
        self.staged.push((key, self.batch.ops().len()));
        self.batch.put(Table::Kv, Bytes::copy_from_slice(&encoded), value);
    }

    /// The row a key had at the revision before `main`, if it was there. `before` is the version before the newest.
    fn row_before(&self, key: &[u8], before: Option<Version>, main: i64) -> Option<RowKey> {
        let version = match before? {
            before if before.main < main => Some(before).filter(Version::is_live),
            // Changed before in this very request.
            _ => self.store.tree.live_at(key, main - 1),
        };
        version.map(|version| version.row())
    }
}

/// Who answers, and in which term, is for the edge to fill in.
pub(super) fn header(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: revision.0, ..ResponseHeader::default() })
}
