//! Compaction, from "cannot be read any more" to "is not there any more".
//!
//! ```text
//!   Slice::compact ──▶ scheduled ──▶ no older view left? ──▶ pass over the index, step by step ──▶ finished
//!       (persisted with the slice)                             (each step: rows to delete)        (persisted with the last)
//! ```
//! The index knows every row, so a pass goes through the index and deletes exactly what it forgets there; no set of rows to
//! keep is ever built. After a crash the index is built from what is left and the pass starts over.
//!
//! A view holds the epoch of the compaction it was taken after. Rows go when all views of earlier epochs are gone: they might
//! still read them.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use castd_backend_api::{Backend, Table, WriteBatch};

use crate::ids::Revision;

use super::{
    RowKey, StoreError,
    index::{Doomed, Sweep, Tree},
};

/// Row of the table `Meta`: below this nothing can be read. The value is the key of that revision's first row, as in etcd.
pub const SCHEDULED_ROW: &str = "scheduledCompactRev";
/// Row of the table `Meta`: below this everything that cannot be read has been deleted.
pub const FINISHED_ROW: &str = "finishedCompactRev";

/// One piece of physical deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub rows: usize,
    /// Of what was compacted up to here nothing is left.
    pub finished: Option<Revision>,
    pub left: Left,
}

/// What compactions have left to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    Rows,
    /// Somebody holds a view that may still read them.
    HeldByViews,
}

/// Views taken between two compactions share one.
#[derive(Debug, Default)]
pub(super) struct Epoch;

#[derive(Debug)]
pub(super) struct Compaction {
    /// What can be read begins here; -1 if nothing was ever compacted.
    compacted: i64,
    finished: i64,
    epoch: Arc<Epoch>,
    /// Compactions that wait for their pass, and the epoch each of them ended.
    waiting: VecDeque<(i64, Weak<Epoch>)>,
    pass: Option<Pass>,
}

#[derive(Debug)]
struct Pass {
    revision: i64,
    /// Where in the index the next step begins.
    from: Option<Vec<u8>>,
    is_swept: bool,
    /// Rows that the index has forgotten and the backend not yet, of each key the oldest first.
    doomed: VecDeque<Doomed>,
    doomed_bytes: u64,
}

impl Compaction {
    pub(super) fn load(backend: &dyn Backend) -> Result<Self, StoreError> {
        let scheduled = load_revision(backend, SCHEDULED_ROW)?.unwrap_or(-1);
        let finished = load_revision(backend, FINISHED_ROW)?.unwrap_or(-1);
        let mut waiting = VecDeque::new();
        if scheduled > finished {
            waiting.push_back((scheduled, Weak::new()));
        }
        Ok(Self { compacted: scheduled.max(finished), finished, epoch: Arc::default(), waiting, pass: None })
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(super) fn finished(&self) -> i64 {
        self.finished
    }

    pub(super) fn epoch(&self) -> Arc<Epoch> {
        self.epoch.clone()
    }

    pub(super) fn schedule(&mut self, revision: i64, batch: &mut WriteBatch) {
        assert!(revision > self.compacted, "compaction goes forward: {revision} after {}", self.compacted);
        self.compacted = revision;
        let ended = std::mem::take(&mut self.epoch);
        self.waiting.push_back((revision, Arc::downgrade(&ended)));
        save_revision(batch, SCHEDULED_ROW, revision);
    }

    /// Whether something is scheduled and not finished.
    pub(super) fn is_pending(&self) -> bool {
        self.pass.is_some() || !self.waiting.is_empty()
    }

    /// What the index has forgotten and the backend not yet.
    pub(super) fn doomed_bytes(&self) -> u64 {
        self.pass.as_ref().map_or(0, |pass| pass.doomed_bytes)
    }

    /// Lets the index forget a bounded part of what cannot be read any more; nothing while views from before the compaction
    /// are held.
    pub(super) fn sweep(&mut self, tree: &mut Tree, rows_max: usize) {
        let Some(mut pass) = self.pass.take().or_else(|| self.next_pass()) else { return };
        let rows_max = rows_max.max(1);
        if !pass.is_swept && pass.doomed.len() < rows_max {
            let mut sweep = Sweep::new(pass.revision, rows_max - pass.doomed.len());
            pass.from = tree.sweep(pass.from.as_deref(), &mut sweep);
            pass.is_swept = pass.from.is_none();
            pass.doomed_bytes += bytes_of(&sweep.doomed);
            pass.doomed.extend(sweep.doomed);
        }
        self.pass = Some(pass);
    }

    /// A batch that deletes at most `rows_max` rows of those that the index has forgotten, and the bytes they take.
    pub(super) fn delete(&mut self, rows_max: usize) -> (WriteBatch, u64, Deleted) {
        let mut batch = WriteBatch::new();
        let (mut bytes, mut finished) = (0, None);
        if let Some(pass) = &mut self.pass {
            let mut rows: Vec<Doomed> = pass.doomed.drain(..rows_max.max(1).min(pass.doomed.len())).collect();
            rows.sort_unstable();
            rows.iter().for_each(|doomed| batch.delete(Table::Kv, doomed.row.encode().to_vec()));
            bytes = bytes_of(&rows);
            pass.doomed_bytes -= bytes;
            if pass.is_swept && pass.doomed.is_empty() {
                self.finished = pass.revision;
                finished = Some(Revision(pass.revision));
                self.pass = None;
            }
        }
        let rows = batch.ops().len();
        if finished.is_some() {
            save_revision(&mut batch, FINISHED_ROW, self.finished);
        }
        let left = match &self.pass {
            Some(_) => Left::Rows,
            None if self.waiting.is_empty() => Left::Nothing,
            None if finished.is_some() => Left::Rows,
            None => Left::HeldByViews,
        };
        (batch, bytes, Deleted { rows, finished, left })
    }

    /// The latest compaction that no view is in the way of. It does the work of those before it.
    fn next_pass(&mut self) -> Option<Pass> {
        let mut revision = None;
        while let Some((scheduled, epoch)) = self.waiting.front()
            && epoch.strong_count() == 0
        {
            revision = Some(*scheduled);
            self.waiting.pop_front();
        }
        Some(Pass { revision: revision?, from: None, is_swept: false, doomed: VecDeque::new(), doomed_bytes: 0 })
    }
}

fn bytes_of(rows: &[Doomed]) -> u64 {
    rows.iter().map(|doomed| u64::from(doomed.bytes)).sum()
}

pub(super) fn load_revision(backend: &dyn Backend, name: &'static str) -> Result<Option<i64>, StoreError> {
    let Some(row) = backend.get(Table::Meta, name.as_bytes())? else { return Ok(None) };
    RowKey::decode(&row).map(|key| Some(key.main.0)).ok_or(StoreError::MetaDamaged(name))
}

/// The rows of a store at `revision`, whose whole past has been compacted. Its rows of keys go once it is opened.
pub fn put_compacted(batch: &mut WriteBatch, revision: Revision) {
    save_revision(batch, super::REVISION_ROW, revision.0);
    save_revision(batch, SCHEDULED_ROW, revision.0);
}

pub(super) fn save_revision(batch: &mut WriteBatch, name: &'static str, revision: i64) {
    batch.put(Table::Meta, name.as_bytes(), RowKey::first_of(Revision(revision)).encode().to_vec());
}
