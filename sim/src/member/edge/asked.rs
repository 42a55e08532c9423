//! What the edge is asked, by whom, and what it hears of on the way to an answer.

use castd::cast::RequestError;
use castd::ids::{LeaseId, MemberId};
use castd::lease;
use castd::raft::node::{MemberProgress, RaftError};
use castd::state::Outcome;
use castd_proto::etcdserverpb as pb;

/// One call of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub client: usize,
    pub number: u64,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Ask {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant { lease: i64, ttl_secs: i64 },
    Revoke { lease: i64 },
    KeepAlive { lease: i64 },
    AddMember { peer_url: String, is_learner: bool },
    RemoveMember { id: MemberId },
    UpdateMember { id: MemberId, peer_url: String },
    Promote { id: MemberId },
    MoveLeader { to: MemberId },
    ListMembers,
}

impl Ask {
    pub fn name(&self) -> &'static str {
        match self {
            Ask::Range(range) if range.revision > 0 => "Range of the past",
            Ask::Range(range) if range.serializable => "Range, serializable",
            Ask::Range(_) => "Range",
            Ask::Put(_) => "Put",
            Ask::Delete(_) => "Delete",
            Ask::Txn(_) => "Txn",
            Ask::Compact(_) => "Compact",
            Ask::Grant { .. } => "Grant",
            Ask::Revoke { .. } => "Revoke",
            Ask::KeepAlive { .. } => "KeepAlive",
            Ask::AddMember { .. } => "AddMember",
            Ask::RemoveMember { .. } => "RemoveMember",
            Ask::UpdateMember { .. } => "UpdateMember",
            Ask::Promote { .. } => "Promote",
            Ask::MoveLeader { .. } => "MoveLeader",
            Ask::ListMembers => "ListMembers",
        }
    }
}

/// What a client is told.
#[derive(Debug)]
pub enum Answer {
    Range(pb::RangeResponse),
    Txn(pb::TxnResponse),
    Written(Outcome),
    /// With the time to live; 0 if there is no such lease.
    Kept {
        ttl_secs: i64,
    },
    Members {
        member: Option<pb::Member>,
        members: Vec<pb::Member>,
    },
    Moved,
    Failed(RequestError),
    /// The connection broke, or there was none.
    Broken,
}

/// What one member asks another one, because that one leads.
#[derive(Clone, Copy, Debug)]
pub enum PeerAsk {
    KeepAlive(LeaseId),
    Promote(MemberId),
}

#[derive(Debug)]
pub enum PeerAnswer {
    Kept {
        ttl_secs: i64,
    },
    Members(Vec<pb::Member>),
    /// It does not lead, or did not answer at all.
    MayChange,
    Failed(RequestError),
}

/// Who gets the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(Call),
    /// Another member, for a client of its own.
    Peer {
        from: MemberId,
        boot: u64,
        ticket: Ticket,
    },
    /// This member makes itself known.
    Own,
}

/// Names what the edge is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the edge hears of.
#[derive(Debug)]
pub enum News {
    Written(Result<Outcome, RequestError>),
    ReadReady(Result<(), RaftError>),
    Kept(lease::Answer),
    /// The LeaseKeeper has given it up.
    Dropped,
    Progress(MemberProgress),
    Peer(PeerAnswer),
    Timer,
}
