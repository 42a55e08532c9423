//! Raft: the pure core of RaftNode, its window of recent entries, and the log on disk.
//!
//! ```text
//!   node.rs    what to persist, send, apply, answer: no I/O, no clock
//!   window.rs  the entries that raft-rs may ask for, in memory
//!   log        the durable log, written by the LogWriter alone
//! ```

pub mod node;
