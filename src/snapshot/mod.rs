//! Portable snapshots: the whole replicated state at one log position, in one file that any backend can be filled from.
//!
//! ```text
//!   rows of a backend ──▶ format.rs: header, chunks, checksums ──▶ store.rs: snap/<term>-<index>.cast
//! ```
//! They bring a new or lagging member up to date, rebuild a lost backend, and convert one backend into another. When one
//! is taken, sent or kept is the Snapshotter's decision, not theirs.

pub mod format;
pub mod store;

pub use format::{Row, SnapshotError, SnapshotReader, SnapshotWriter, Summary};
pub use store::{Incoming, SnapshotFile, SnapshotStore, Taking};
