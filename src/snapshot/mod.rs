//! Portable snapshots: the whole replicated state at one log position, in one file that any backend can be filled from.
//!
//! ```text
//!   rows of a backend ──▶ format.rs: header, chunks, checksums ──▶ store.rs: snap/<term>-<index>.cast
//!                                                              └─▶ export.rs: a file without a name, for a client
//! ```
//! They bring a new or lagging member up to date, rebuild a lost backend, and convert one backend into another. When one
//! is taken stands in policy.rs, who gets one from us in outbound.rs: the Snapshotter's cores.

pub mod export;
pub mod format;
pub mod outbound;
pub mod policy;
pub mod store;

pub use export::{Exported, Exporting, Outgoing, expect_room};
pub use format::{Row, SnapshotError, SnapshotReader, SnapshotWriter, Summary};
pub use store::{Arrived, Incoming, SnapshotFile, SnapshotStore, Taking, file_name};
