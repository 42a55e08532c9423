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
