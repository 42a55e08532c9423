//! Castd: an etcd-compatible, Raft-replicated key-value server in which every concern is an actor.
//!
//! Start with `ARCHITECTURE.md`: the walk of one put, the cast, the table of messages.

pub mod config;
pub mod ids;
pub mod membership;
pub mod storage;
pub mod telemetry;
pub mod watch;
pub mod raft;
pub mod snapshot;
pub mod mvcc;
