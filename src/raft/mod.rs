//! Raft: the pure core of RaftNode, its window of recent entries, and the log on disk.
//!
//! ```text
//!   node.rs    what to persist, send, apply, answer: no I/O, no clock
//!   window.rs  the entries that raft-rs may ask for, in memory
//!   log        the durable log, written by the LogWriter alone
//! ```

pub mod node;
//! Consensus: what the RaftNode and LogWriter actors own.
//!
//! ```text
//!   RaftNode ── RawNode<Window> ──▶ window.rs   recent entries in memory, terms of the whole log
//!   LogWriter ── dyn LogStore ────▶ log/        the log on disk (raft-engine), or in memory for the simulator
//! ```
//! No actor, clock or thread in here.

pub mod log;
pub mod terms;
pub mod window;
