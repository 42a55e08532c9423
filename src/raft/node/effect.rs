//! What the node is told, and what it wants done.

use crate::ids::{LogIndex, MemberId, RequestId, Term};
use crate::membership::checks::Progress;
use crate::raft::forwarded::ForwardedProposal;
use crate::raft::terms::LogPosition;
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message};
use std::time::Duration;

/// Why raft could not carry a request out. The text belongs to `api::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaftError {
    #[error("no answer within the request time limit")]
    Timeout,
    /// Another leader was elected while it waited, or shortly before.
    #[error("no answer within the request time limit; the leader before may have failed")]
    TimeoutDueToLeaderFail,
    /// The leader, or for a leader the majority, has not been reached all the time.
    #[error("no answer within the request time limit; a connection may have been lost")]
    TimeoutDueToConnectionLost,
    #[error("leadership changed while the request was waiting")]
    LeaderChanged,
    #[error("raft dropped the proposal")]
    ProposalDropped,
}

/// What a member wants replicated.
#[derive(Debug)]
pub struct Proposal {
    pub request: RequestId,
    pub kind: EntryType,
    pub data: Bytes,
}

/// A committed entry, and the local request that waits for its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedEntry {
    pub entry: Entry,
    pub request: Option<RequestId>,
}

/// What the outside may know of this member's raft state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub term: Term,
    /// `None` while no leader is known.
    pub leader: Option<MemberId>,
    pub is_leader: bool,
    /// It does not vote.
    pub is_learner: bool,
    pub committed: LogIndex,
}

/// What this member knows of how much of the log another one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberProgress {
    /// Only the leader knows.
    NotLeader,
    NoMember,
    At(Progress),
}

/// One write of the log. Everything in it is durable before [`Node::log_persisted`] is called with its number.
///
/// [`Node::log_persisted`]: super::Node::log_persisted
#[derive(Debug, Clone, PartialEq)]
pub struct AppendLog {
    pub number: u64,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
}

/// A snapshot takes the place of the whole log. Numbered as [`AppendLog`] is, and in one row with it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplaceLog {
    pub number: u64,
    /// Where the snapshot ends and the log goes on.
    pub position: LogPosition,
    pub conf_state: ConfState,
    pub hard_state: HardState,
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    /// To the peers, now.
    Send(Vec<Message>),
    /// To the leader, now. Repeated until what it asks for has been applied here.
    Forward {
        to: MemberId,
        requests: Vec<ForwardedProposal>,
    },
    AppendLog(AppendLog),
    ReplaceLog(ReplaceLog),
    /// Read entries `low .. high` from the log: at least one, then as many as fit. Answered by [`Node::log_fetched`].
    ///
    /// [`Node::log_fetched`]: super::Node::log_fetched
    FetchLog {
        low: LogIndex,
        high: LogIndex,
        bytes_max: u64,
    },
    EntriesCommitted(Vec<CommittedEntry>),
    /// The log has been replaced by this snapshot; now the state is to be. Nothing else is committed until
    /// [`Node::install_finished`].
    ///
    /// [`Node::install_finished`]: super::Node::install_finished
    InstallSnapshot {
        position: LogPosition,
    },
    /// `to` needs entries that the log no longer has: a snapshot that contains the entry at `index_min`, answered by
    /// [`Node::snapshot_offered`]. Asked again as long as there is none.
    ///
    /// [`Node::snapshot_offered`]: super::Node::snapshot_offered
    SnapshotWanted {
        to: MemberId,
        index_min: LogIndex,
    },
    /// These reads may be answered from the published view: it has reached their read index.
    ReadsReady(Vec<RequestId>),
    Failed(RequestId, RaftError),
    /// Reads have waited for [`READ_RETRY`] and are asked again. Said once in that time.
    ///
    /// [`READ_RETRY`]: super::READ_RETRY
    ReadsLate {
        /// Of the question without an answer; 0 if there is no leader to ask.
        asked: u64,
    },
    StatusChanged(Status),
    /// The log has not answered for longer than an election time-out, so that this member must not lead.
    DiskStuck {
        is_leader: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub id: MemberId,
    /// In ticks of [`TICK`].
    ///
    /// [`TICK`]: super::TICK
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// How long a request may wait before it fails with [`RaftError::Timeout`].
    pub request_timeout: Duration,
    /// `--snapshot-catchup-entries`: entries stay in memory for followers that are no further behind.
    pub catchup_entries: u64,
    /// Seed of the election time-outs; the same seed, member and term draw the same one.
    pub seed: u64,
    /// Different after each start, so that a read context and the tag of a request are never used twice.
    pub boot: u64,
}
