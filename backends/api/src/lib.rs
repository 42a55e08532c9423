//! What the replicated state machine asks of a storage engine, and nothing more.
//!
//! ```text
//!   Applier ──WriteBatch──▶ Backend ◀──get / scan── readers (any thread)
//! ```
//!
//! A backend is a cache of the raft log: it may lose its newest batches in a crash (the log is replayed from the applied
//! index found inside), but it may never lose part of a batch, and never a batch older than one it kept. An engine that
//! cannot promise this of a power failure is opened only if it was closed, and rebuilt from the log otherwise.

mod batch;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod row_key;

pub use batch::{Op, WriteBatch};
pub use error::{BackendError, OpenError};
pub use row_key::RowKey;

use bytes::Bytes;
use std::ops::ControlFlow;

/// A name space inside one backend. The discriminant is the prefix byte of its rows on disk: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Applied index, conf state, compaction revisions, ids.
    Meta = b'm',
    /// One row for each revision: 8-byte big-endian main, `_`, 8-byte big-endian sub, `t` if a tombstone → `mvccpb.KeyValue`.
    Kv = b'k',
    Lease = b'l',
    Alarm = b'a',
    Member = b'p',
    /// Which requests that members sent on have been carried out.
    Request = b'r',
    Auth = b'u',
}

impl Table {
    /// Every table, in prefix order.
    pub const ALL: [Table; 7] =
        [Table::Alarm, Table::Kv, Table::Lease, Table::Meta, Table::Member, Table::Request, Table::Auth];
}

/// Bytes of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What the files take on disk; for `memory`, what the rows take in RAM.
    pub allocated_bytes: u64,
    /// The part of it that holds live rows, as far as the engine knows.
    pub in_use_bytes: u64,
}

/// A visitor of rows: key without its table prefix, value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A storage engine. One writer (the Applier) and any number of concurrent readers.
pub trait Backend: Send + Sync + 'static {
    /// The name used in `--storage`, `FORMAT` and messages.
    fn name(&self) -> &'static str;

    /// Writes all of `batch` or nothing, visible to readers on return; durable only after [`Backend::flush`] or once
    /// [`Backend::durable`] shows it.
    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError>;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError>;

    /// Reads many rows, answers in the order of `keys`. Engines override it where one call is cheaper than many.
    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, BackendError> {
        keys.iter().map(|key| self.get(table, key)).collect()
    }

    /// Visits rows with `from <= key < to` in ascending order of bytes, until `visit` breaks. `to` empty means the end of the
    /// table. Rows written while the scan runs may or may not be seen; rows that were there before and stay are seen.
    /// `visit` may read the backend, but not write it.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError>;

    /// Makes every batch written before the call durable. `memory` does nothing.
    fn flush(&self) -> Result<(), BackendError>;

    /// The row as a crash at this moment would leave it: `None` where it was never flushed. Never newer than what is on disk,
    /// but it may be older: sled answers for [`Table::Meta`] only, with what the last but one flush made durable.
    fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError>;

    fn size(&self) -> Result<Size, BackendError>;

    /// Gives the space of deleted rows of `table` back, as far as that goes without holding up writers or readers. Returns
    /// when it is done, which may take minutes: call it from a thread of its own.
    fn reclaim(&self, table: Table) -> Result<(), BackendError>;

    /// Errors the engine met in its own threads since the last call. Any error here ends the process.
    fn background_errors(&self) -> Result<(), BackendError>;
}
