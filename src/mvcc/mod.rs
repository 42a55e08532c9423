//! The multi-version key-value store, as etcd defines it: a pure core without actors, threads or clocks.
//!
//! ```text
//!                      ┌────────── Store (one owner, writes) ─────────┐
//!   entries ──▶ Slice ─┤ index: key → versions        (memory, shared) ├─▶ one WriteBatch, Changes
//!                      │ revision, compaction                          │
//!                      └──────────────┬────────────────────────────────┘
//!                                view │ (a few references)
//!   readers ◀─────────────────── View ┴─▶ index for keys and revisions, backend for values
//! ```
//! - [`Store`] and [`Slice`]: applying. [`View`]: reading, hashing, catching up watchers.
//! - [`check`]: what is wrong with a request whatever the store holds.
//! - `index`: a copy-on-write tree that counts ranges without walking them.
//! - `compact`: forgetting, in small steps, never under the feet of a reader.
//!
//! Revisions: a fresh store is at 1. A request that changes something makes one main revision; its changes are numbered by
//! sub-revision. Each change is one row of the table `Kv`, [`RowKey`] → encoded `mvccpb.KeyValue`.
//!
//! It does not know who may do what, how much space there is, when a lease ends, or who watches.

mod changes;
pub mod check;
mod compact;
mod compaction_hashes;
mod counts;
mod error;
mod hash;
mod index;
#[cfg(test)]
pub(crate) mod model;
mod read;
mod revision;
mod row;
mod slice;
mod spans;
mod store;
mod txn;
mod view;

#[cfg(test)]
mod tests;

pub use changes::{CatchUp, Changes, Event, EventKind};
pub use compact::{Deleted, FINISHED_ROW, Left, SCHEDULED_ROW, put_compacted};
pub use compaction_hashes::{Compacted, CompactionHashes};
pub use counts::OpCounts;
pub use error::{MvccError, RequestError, StoreError};
pub use hash::HashKv;
pub use read::{Pair, RangeOutcome};
pub use revision::{EncodedRowKey, RowKey};
pub(crate) use row::key_of;
pub use slice::{Answer, Leases, Slice};
pub use store::{REVISION_ROW, Store};
pub use view::{RangeCursor, View};
