//! Castd: an etcd-compatible, Raft-replicated key-value server in which every concern is an actor.
//!
//! Start with `ARCHITECTURE.md`: the walk of one put, the cast, the table of messages.

pub mod actors;
pub mod api;
pub mod boot;
pub mod cast;
pub mod castutl;
pub mod compaction;
pub mod config;
pub mod consistency;
pub mod fuzz;
pub mod handover;
pub mod ids;
pub mod installation;
pub mod lease;
pub mod member;
pub mod membership;
pub mod memory_lock;
pub mod mvcc;
pub mod peer;
pub mod planted;
pub mod ports;
pub mod process;
pub mod queue;
pub mod quota;
pub mod raft;
pub mod recovery;
pub mod snapshot;
pub mod state;
pub mod storage;
pub mod telemetry;
pub mod watch;
pub mod wiring;
