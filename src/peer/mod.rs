//! What members say to each other: the wire, the guard in front of raft, and the two ends of a link.
//!
//! ```text
//!   this member                                                              another member
//!   RaftNode ─Send─▶ PeerLinks ─Carry─▶ PeerLink ─▶ outbox ═ urgent ═▶ server ─▶ guard ─Step, Forwarded─▶ RaftNode
//!                                          └──────▶ outbox ══ bulk ══▶ server ─▶ guard ─Step, Forwarded─▶ RaftNode
//! ```
//! A link goes one way. Each member opens two streams to each other one, on connections of their own, so that a heartbeat
//! never waits behind entries: there are four connections between two members. Nothing here waits for a queue to empty;
//! what has no room is dropped, which raft repairs.
//!
//! - `wire`: messages field by field, from and to raft's.
//! - `guard`: who may say what.
//! - `outbox`, `flight`, `pauses`: what waits on a lane, what is on its way, when to try again.
//! - `dial`, `lane`: the calling end.
//! - `service`, `handlers`: the answering end.
//! - `roster`: who there is, and since when we reach them.
//! - `calls`: single questions to a peer.
//! - `courier`, `reception`: a snapshot on its way, seen from both ends.
//! - `inquiry`: questions of a member that has not started yet.

pub mod calls;
pub mod courier;
pub mod dial;
pub mod flight;
pub mod guard;
pub mod handlers;
pub mod inquiry;
pub mod lane;
pub mod outbox;
pub mod pauses;
pub mod quiet;
pub mod reception;
pub mod roster;
pub mod service;
#[cfg(test)]
mod tests;
pub mod wire;

use crate::cast::Identity;
use crate::config::{Config, ETCD_VERSION};
use crate::ids::MemberId;
use castd_proto::castdpb::{PeerIdentity, PeerLane};
use raft::eraftpb::{Message, MessageType};
use std::time::Duration;

/// Entries that one envelope gathers; a single message may be larger.
pub const ENVELOPE_BYTES: usize = 1 << 20;
/// The largest envelope that is read, beside `--max-request-bytes`.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// The largest envelope that this member reads.
pub fn frame_bytes_max(config: &Config) -> usize {
    FRAME_BYTES_MAX + config.max_request_bytes as usize
}

/// How this member talks to its peers.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    pub identity: Identity,
    /// `--initial-advertise-peer-urls`: where to answer us, said to members whose log does not know us yet.
    pub advertised_urls: Vec<String>,
    pub election_timeout: Duration,
    /// `--raft-read-timeout`: a bulk lane that is silent for so long is closed.
    pub read_timeout: Duration,
    /// `--raft-write-timeout`: to open a lane may take so long, if the election time-out is not shorter.
    pub write_timeout: Duration,
    pub frame_bytes_max: usize,
}

impl PeerSettings {
    /// A heartbeat that takes longer is worth nothing, and after a cut a new connection is there sooner than the old one,
    /// which waits for TCP to try again.
    pub fn urgent_silence_max(&self) -> Duration {
        self.election_timeout.max(Duration::from_secs(1)).min(self.read_timeout)
    }

    pub fn open_timeout(&self) -> Duration {
        self.election_timeout.clamp(Duration::from_millis(500), Duration::from_secs(5)).min(self.write_timeout)
    }

    /// A peer that comes back must be found before the election that it is needed for.
    pub fn pause_max(&self) -> Duration {
        self.election_timeout / 2
    }
}

pub fn identity_to(own: Identity, to: MemberId) -> PeerIdentity {
    PeerIdentity { cluster_id: own.cluster.0, from: own.member.0, to: to.0, server_version: ETCD_VERSION.to_owned() }
}

/// All appends go one way, in order: an empty one that overtakes entries would be refused, and the leader would slow down.
pub fn lane_of(message: &Message) -> PeerLane {
    match message.get_msg_type() {
        MessageType::MsgAppend => PeerLane::Bulk,
        _ => PeerLane::Urgent,
    }
}
