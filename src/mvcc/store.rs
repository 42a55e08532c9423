//! The store: the index, the current revision, and what compaction is up to. It has one owner, which writes.
//!
//! ```text
//!   open: rows of the backend, in revision order ──▶ index
//!   begin ──▶ Slice ──▶ commit: one batch ──▶ view ──▶ (the owner publishes it)
//!   delete_compacted: between slices, a small batch at a time
//! ```

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use castd_backend_api::{Backend, Table, WriteBatch};

use crate::ids::{LeaseId, Revision};

use super::{
    RowKey, Slice, StoreError, View,
    compact::{Compaction, Deleted, load_revision},
    index::{Loader, Tree, Version},
    row,
};

/// Row of the table `Meta`: the store is at this revision or a later one. Written by tools that raise the revision of a
/// restored store, so that clients never see one twice; in the form of [`SCHEDULED_ROW`](super::SCHEDULED_ROW).
pub const REVISION_ROW: &str = "revision";

/// A fresh store is here; its first write is revision 2.
const FIRST_REVISION: i64 = 1;

pub struct Store {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) tree: Tree,
    pub(super) revision: i64,
    /// Of all rows of the table `Kv`, keys and values.
    pub(super) bytes: u64,
    pub(super) compaction: Compaction,
    /// Emptied, for the next slice.
    pub(super) spare_batch: WriteBatch,
    attached: Vec<(LeaseId, Bytes)>,
}

impl Store {
    /// Builds the index from the rows of `backend`.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Self, StoreError> {
        let compaction = Compaction::load(&*backend)?;
        let raised = load_revision(&*backend, REVISION_ROW)?.unwrap_or(FIRST_REVISION);
        let mut revision = compaction.compacted().max(raised).max(FIRST_REVISION);
        let mut loader = Loader::default();
        let mut leased: BTreeMap<Bytes, LeaseId> = BTreeMap::new();
        let mut bytes = 0;
        let mut damaged = None;
        backend.scan(Table::Kv, &[], &[], &mut |key, row| {
            let Some(key) = RowKey::decode(key) else {
                damaged = Some(StoreError::RowKeyDamaged(key.to_vec()));
                return ControlFlow::Break(());
            };
            let Some((version, fields)) = version(key, row) else {
                damaged = Some(StoreError::RowDamaged(key));
                return ControlFlow::Break(());
            };
            let name = &row[fields.key];
            loader.add(name, version);
            bytes += u64::from(version.bytes);
            if fields.lease != 0 {
                leased.insert(Bytes::copy_from_slice(name), LeaseId(fields.lease));
            } else if !leased.is_empty() {
                leased.remove(name);
            }
            revision = revision.max(version.main);
            ControlFlow::Continue(())
        })?;
        if let Some(error) = damaged {
            return Err(error);
        }
        let attached = leased.into_iter().map(|(key, lease)| (lease, key)).collect();
        let (tree, spare_batch) = (loader.finish(), WriteBatch::new());
        Ok(Self { backend, tree, revision, bytes, compaction, spare_batch, attached })
    }

    /// Which keys the rows found by [`Store::open`] attach to which leases, in key order. Given once.
    pub fn take_attached(&mut self) -> Vec<(LeaseId, Bytes)> {
        std::mem::take(&mut self.attached)
    }

    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// -1 if nothing was ever compacted.
    pub fn compact_revision(&self) -> Revision {
        Revision(self.compaction.compacted())
    }

    /// Up to here compaction has given the space back. -1 if it never ran.
    pub fn finished_compact_revision(&self) -> Revision {
        Revision(self.compaction.finished())
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.tree.live()
    }

    /// What the rows of all keys and their history take, with those that compaction has still to delete.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of them, what compaction has doomed and not yet deleted.
    pub fn doomed_bytes(&self) -> u64 {
        self.compaction.doomed_bytes()
    }

    /// Starts a slice.
    pub fn begin(&mut self) -> Slice<'_> {
        Slice::new(self)
    }

    /// The store as it is.
    pub fn view(&self) -> View {
        View {
            backend: self.backend.clone(),
            tree: self.tree.clone(),
            revision: self.revision,
            compacted: self.compaction.compacted(),
            bytes: self.bytes,
            doomed_bytes: self.doomed_bytes(),
            epoch: self.compaction.epoch(),
        }
    }

    /// Whether a compaction left rows that nobody can read any more.
    pub fn has_compacted_rows(&self) -> bool {
        self.compaction.is_pending()
    }

    /// Lets the index forget about so many of them, or as many as a short look finds; none while views from before the
    /// compaction are held. To be called between slices, a piece at a time, each time followed by
    /// [`Store::delete_swept`].
    pub fn sweep_compacted(&mut self, rows_max: usize) {
        self.compaction.sweep(&mut self.tree, rows_max);
    }

    /// Deletes at most `rows_max` rows of those that the index has forgotten.
    ///
    /// # Errors
    /// When the backend fails: the process has to end, the index has forgotten the rows already.
    pub fn delete_swept(&mut self, rows_max: usize) -> Result<Deleted, StoreError> {
        let (batch, bytes, deleted) = self.compaction.delete(rows_max);
        if !batch.is_empty() {
            self.backend.write(&batch)?;
        }
        self.bytes -= bytes;
        Ok(deleted)
    }

    /// Both, one after the other.
    ///
    /// # Errors
    /// As [`Store::delete_swept`].
    pub fn delete_compacted(&mut self, rows_max: usize) -> Result<Deleted, StoreError> {
        self.sweep_compacted(rows_max);
        self.delete_swept(rows_max)
    }
}

/// What the index has to know of a row. `None` if the row contradicts its key.
fn version(key: RowKey, row: &[u8]) -> Option<(Version, row::Fields)> {
    let fields = row::fields(row)?;
    let (main, sub) = (key.main.0, key.sub);
    let bytes = row::row_bytes(&key.encode(), row);
    if key.tombstone {
        let fields = row::Fields { lease: 0, ..fields };
        return Some((Version { main, create: 0, version: 0, sub, bytes }, fields));
    }
    let is_sound = fields.version > 0 && fields.mod_revision == main && (1..=main).contains(&fields.create_revision);
    is_sound.then_some((Version { main, create: fields.create_revision, version: fields.version, sub, bytes }, fields))
}
