//! The store at one revision, for readers on any thread.
//!
//! A view is a few references: cheap to clone, and it changes no more. As long as it is held, no row goes that it can read;
//! so a long scan does not hold one, it keeps a [`RangeCursor`] and takes the newest view for each chunk.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use castd_backend_api::{Backend, Table, WriteBatch};
use castd_proto::{
    etcdserverpb::{RangeRequest, TxnRequest, TxnResponse},
    mvccpb::KeyValue,
};

use crate::ids::Revision;

use super::{
    Event, MvccError, OpCounts, REVISION_ROW, RangeOutcome, RowKey, SCHEDULED_ROW, StoreError,
    compact::{Epoch, save_revision},
    index::{Span, Tree, Walk},
    read::{Pair, Reader},
    txn,
};

#[derive(Clone)]
pub struct View {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) tree: Tree,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) bytes: u64,
    pub(super) doomed_bytes: u64,
    pub(super) epoch: Arc<Epoch>,
}

const _: fn() = || {
    fn goes_to_any_thread<T: Send + Sync>() {}
    goes_to_any_thread::<View>();
};

/// A range that is read in chunks, from views of any later revision.
#[derive(Clone, Debug)]
pub struct RangeCursor {
    at: i64,
    next: Bytes,
    range_end: Bytes,
    keys_only: bool,
    left: u64,
    /// Of the whole range, whatever the limit.
    pub count: i64,
    /// The limit leaves something out.
    pub more: bool,
    /// Of the store when the range began.
    pub revision: Revision,
}

impl RangeCursor {
    pub fn is_done(&self) -> bool {
        self.left == 0
    }
}

impl View {
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// -1 if nothing was ever compacted.
    pub fn compact_revision(&self) -> Revision {
        Revision(self.compacted)
    }

    /// How many views of this compaction's epoch there are, this one included: those that keep a later compaction from
    /// deleting.
    pub fn pinned(&self) -> usize {
        // One more is the store's own.
        Arc::strong_count(&self.epoch).saturating_sub(1)
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
        self.doomed_bytes
    }

    /// How many of them a request for `key` and `range_end` means. Costs the same for one key and for all.
    pub fn count(&self, key: &[u8], range_end: &[u8]) -> i64 {
        self.reader().count(Span::new(key, range_end), self.revision)
    }

    /// What a copy of the view's rows (see [`View::scan_rows`]) needs in `Meta`. Compaction starts over there, and finds
    /// nothing left to do.
    pub fn put_meta_rows(&self, batch: &mut WriteBatch) {
        save_revision(batch, REVISION_ROW, self.revision);
        if self.compacted >= 0 {
            save_revision(batch, SCHEDULED_ROW, self.compacted);
        }
    }

    pub(super) fn reader(&self) -> Reader<'_, &dyn Backend> {
        Reader { tree: &self.tree, current: self.revision, compacted: self.compacted, rows: &*self.backend }
    }

    /// # Errors
    /// [`MvccError::FutureRevision`] and [`MvccError::Compacted`], tested in this order.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeOutcome, MvccError> {
        self.reader().range(request)
    }

    /// As [`View::range`], each pair as the bytes of an encoded `mvccpb.KeyValue`: rows are not decoded, and can be put into
    /// a `RangeResponse` as they are.
    pub fn range_encoded(&self, request: &RangeRequest) -> Result<RangeOutcome<Bytes>, MvccError> {
        self.reader().range(request)
    }

    /// Begins a range in chunks: neither sorted nor filtered.
    pub fn range_cursor(&self, request: &RangeRequest) -> Result<RangeCursor, MvccError> {
        let reader = self.reader();
        let at = reader.revision(request.revision)?;
        let count = reader.count(Span::new(&request.key, &request.range_end), at);
        let limit = Some(request.limit).filter(|limit| *limit > 0).unwrap_or(i64::MAX);
        let left = if request.count_only { 0 } else { count.min(limit).unsigned_abs() };
        Ok(RangeCursor {
            at,
            next: request.key.clone(),
            range_end: request.range_end.clone(),
            keys_only: request.keys_only,
            left,
            count,
            more: !request.count_only && count > limit,
            revision: self.revision(),
        })
    }

    /// The next `keys_max` pairs (at least one) of a range that began in this view or an earlier one.
    ///
    /// # Errors
    /// [`MvccError::Compacted`] if compaction has overtaken the range.
    pub fn range_chunk<P: Pair>(&self, cursor: &mut RangeCursor, keys_max: usize) -> Result<Vec<P>, MvccError> {
        let reader = self.reader();
        let at = reader.revision(cursor.at)?;
        let keys_max = keys_max.max(1).min(usize::try_from(cursor.left).unwrap_or(usize::MAX));
        let picks = match Span::new(&cursor.next, &cursor.range_end) {
            _ if keys_max == 0 => return Ok(Vec::new()),
            Span::One(key) => reader.pick_one(key, at),
            Span::Many(from, to) => {
                let walk = Walk { from, to, descending: false, live_only: at == self.revision };
                reader.pick_first(walk, at, keys_max)
            }
        };
        cursor.left -= picks.len() as u64;
        match picks.last() {
            Some(last) if !cursor.range_end.is_empty() => {
                let mut next = BytesMut::with_capacity(last.key().len() + 1);
                next.extend_from_slice(last.key());
                next.put_u8(0);
                cursor.next = next.freeze();
            }
            Some(_) => {}
            None => cursor.left = 0,
        }
        Ok(reader.answer(picks, cursor.keys_only)?)
    }

    /// A txn that is [`read_only`](super::check::read_only), and what it took.
    pub fn txn(&self, request: &TxnRequest) -> Result<(TxnResponse, OpCounts), MvccError> {
        txn::execute_reads(&self.reader(), request)
    }

    /// The pair of a row. `None` if the row is not there (any more).
    pub fn row(&self, key: RowKey) -> Result<Option<KeyValue>, StoreError> {
        let Some(row) = self.backend.get(Table::Kv, &key.encode())? else { return Ok(None) };
        KeyValue::from_row(row).map(Some).ok_or(StoreError::RowDamaged(key))
    }

    /// The pair before `event`: `None` if there was none, or if that revision has been compacted.
    pub fn previous(&self, event: &Event) -> Result<Option<KeyValue>, StoreError> {
        match event.previous {
            Some(key) if event.kv.mod_revision > self.compacted => self.row(key),
            _ => Ok(None),
        }
    }
}
