//! Raft: the pure core of RaftNode, its window of recent entries, and the log on disk.
//!
//! ```text
//!   RaftNode ── Node (node.rs) ── RawNode<Window> ──▶ window.rs   recent entries in memory, terms of the whole log
//!   LogWriter ── dyn LogStore ──────────────────────▶ log/        the durable log, or the simulator's in memory
//! ```
//! No actor, clock or thread in here.

pub mod conf_change;
pub mod forwarded;
pub mod log;
pub mod node;
pub mod punctuality;
pub mod tag;
pub mod terms;
pub mod window;
