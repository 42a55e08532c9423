//! The cast: one actor a concern, each a thin shell around a pure core.
//!
//! ```text
//!  edge ──Propose, ReadIndex──▶ RaftNode ──AppendLog──▶ LogWriter
//!   │ ▲                          ▲ │  ▲ └──Send──▶ PeerLinks ──Carry──▶ PeerLink (one for each peer)
//!   │ └─────replies────────────┐ │ │  └─LogPersisted─┘
//!   │                          │ │ EntriesCommitted
//!   │                 Applied──┼─┘ ▼
//!   │                          └─ Applier ──StoreChanged──▶ WatchHub ──events──▶ client streams
//!   │                              │ └──BackendDurable──▶ Snapshotter ──TruncateLog──▶ LogWriter
//!   │                              └──HistoryCompacted──▶ Compactor ──DeletePiece──▶ Applier
//!   └──KeepAlive──▶ LeaseKeeper ◀──LeasesChanged── Applier
//!                      └──LeasesExpired──▶ RaftNode
//! ```
//!
//! Mail inside the cast is never refused: `do_send`, bounded by the windows of `raft::node`. What comes from clients is
//! limited at the edge, by permits taken before a message is sent (`cast.rs`).

pub mod applier;
pub mod auditor;
pub mod compactor;
pub mod errands;
pub mod lease_keeper;
pub mod log_writer;
pub mod peer_link;
pub mod peer_links;
pub mod raft_node;
pub mod snapshotter;
pub mod ticker;
pub mod watch_hub;

use actix::Message;
use std::time::Duration;

/// Messages an actor's mailbox is meant to hold. Only `send` and `try_send` look at it; the cast uses `do_send`.
pub const MAILBOX_CAPACITY: usize = 16_384;

/// Event: time has passed. Sent by the ticker's thread, since actix fires no timer while other mail is waiting.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Tick {
    /// Monotonic time since the process started.
    pub now: Duration,
}
