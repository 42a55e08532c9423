//! What the edge may know of the cast: the ways in, the published views, and the limits on both.
//!
//! ```text
//!   handler ──Permit──▶ Cast ──Propose, ReadIndex──▶ RaftNode
//!                        └─────load──▶ Published<View>, Published<Status>   (written by one actor each)
//! ```
//!
//! A handler asks an actor once for each request. Every way in takes a [`Permit`], which only
//! [`crate::api::permit::authorize`] hands out: a handler that forgot to ask for permission does not compile.

use crate::actors::lease_keeper::LeaseKeeper;
use crate::actors::raft_node::{LookUpProgress, Propose, RaftNode, Read, ReadIndex};
use crate::actors::snapshotter::{ExportError, Snapshotter};
use crate::actors::watch_hub::WatchHub;
use crate::api::call_notes::{self, Asked};
use crate::api::permit::Permit;
use crate::api::status::Wire;
use crate::ids::{ClusterId, MemberId};
use crate::lease::LeaseError;
use crate::membership::MembershipError;
use crate::membership::downgrade::DowngradeError;
use crate::mvcc::{MvccError, RequestError as CheckError};
use crate::peer::calls::PeerCalls;
use crate::peer::roster::Connections;
use crate::queue::QueueError;
use crate::quota::{Quota, Shortage, cost};
use crate::raft::node::{MemberProgress, RaftError, Status};
use crate::state::{Alarm, Outcome, View, membership_entry};
use crate::telemetry::trace::SpanContext;
use actix::Addr;
use arc_swap::ArcSwap;
use bytes::Bytes;
use castd_proto::castdpb::{MembershipChange, RaftRequest, SpaceShortage, raft_request};
use castd_proto::etcdserverpb::ResponseHeader;
use parking_lot::Mutex;
use prost::Message as _;
use raft::eraftpb::EntryType;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests that may wait for the cast at once, reads and writes each.
const REQUESTS_MAX: usize = 16_384;
/// Bytes of writes that may wait at once.
const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Entries that may be committed and not yet applied before new writes are refused (etcd's `maxGapBetweenApplyAndCommitIndex`).
const APPLY_BACKLOG_MAX: u64 = 5_000;

/// Why a request got no answer. `api::status` knows the code and the text of each.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Raft(#[from] RaftError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("a learner does not answer this call")]
    NotSupportedForLearner,
    #[error(transparent)]
    Downgrade(#[from] DowngradeError),
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Of Maintenance.Downgrade.
    #[error("there is no such action")]
    UnknownAction,
    #[error("this member does not lead")]
    NotLeader,
    #[error("leadership cannot go to that member: it is unknown, or a learner")]
    BadLeaderTransferee,
    #[error("the member that was to lead does not lead in time")]
    LeaderTransferTimeout,
    #[error("too many requests are waiting")]
    TooManyRequests,
    #[error("the request is larger than --max-request-bytes")]
    TooLarge,
    #[error("no leader is known")]
    NoLeader,
    /// A write that was not carried out: there is no room for it, or the alarm NOSPACE is on.
    #[error("the store has reached its quota")]
    NoSpace,
    /// A write that was carried out, and went beyond this member's quota.
    #[error("the store has grown beyond its quota")]
    BeyondQuota(Shortage),
    #[error("the alarm CORRUPT is on")]
    Corrupt,
    /// The log holds it once more, and what the first one came to is not known here; or it is too old to tell.
    #[error("the request came before")]
    Repeated,
    #[error("the member is shutting down")]
    Stopped,
    /// A part of etcd's API that this release does not have yet; the text names it.
    #[error("{0}")]
    NotYet(&'static str),
    #[error("client-api-version is not valid UTF-8")]
    InvalidClientApiVersion,
    #[error("RangeStream does not support {0}")]
    RangeStreamUnsupported(&'static str),
    #[error("unknown health service")]
    UnknownHealthService,
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the caller's deadline has passed")]
    DeadlineExceeded,
    /// What the leader answered, whom this member asked.
    #[error("{}", .0.message)]
    OfPeer(Wire),
    /// Of Lock and Election, whose callers get every error without its code.
    #[error(transparent)]
    Uncoded(Box<RequestError>),
}

impl RequestError {
    pub fn of_peer(status: &tonic::Status) -> Self {
        RequestError::OfPeer(Wire { code: status.code(), message: status.message().to_owned() })
    }
}

/// A value that one actor writes and anybody reads, without waiting for either.
pub struct Published<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Published(Arc::clone(&self.0))
    }
}

impl<T> Published<T> {
    pub fn new(value: T) -> Self {
        Published(Arc::new(ArcSwap::from_pointee(value)))
    }

    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Only the owning actor calls this.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

/// The answer channel of one write, with its place among the writes under way.
pub struct Reply {
    sender: oneshot::Sender<Result<Outcome, RequestError>>,
    /// `None` for what the member asks of itself.
    _place: Option<Place>,
}

impl Reply {
    /// For a request that takes nobody's place: the member's own, or a test's.
    pub fn internal(sender: oneshot::Sender<Result<Outcome, RequestError>>) -> Self {
        Reply { sender, _place: None }
    }

    /// The client may have gone; then nobody needs the answer.
    pub fn send(self, outcome: Result<Outcome, RequestError>) {
        let _ = self.sender.send(outcome);
    }

    pub fn fail(self, error: RequestError) {
        self.send(Err(error));
    }
}

/// Room for requests, shared by all handlers.
#[derive(Default)]
struct Room {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    fn take(self: &Arc<Self>, bytes: usize) -> Result<Place, RequestError> {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        let waiting_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Place { room: Arc::clone(self), bytes };
        // One request alone always fits; what was taken too much goes back with `place`.
        if requests >= REQUESTS_MAX || (requests > 0 && waiting_bytes + bytes > REQUEST_BYTES_MAX) {
            return Err(RequestError::TooManyRequests);
        }
        Ok(place)
    }
}

/// One place, given back when dropped: when the request is answered, not when its client hangs up.
struct Place {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.requests.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads that go to RaftNode together. To wake its thread costs more than all else that a read does there, so that a
/// handler which finds others waiting leaves the sending to the first of them.
#[derive(Default)]
struct ReadTurns(Mutex<Vec<Read>>);

impl ReadTurns {
    /// Answers the turn to send for all, if nobody has it yet.
    fn join<'a>(&self, cast: &'a Cast, read: Read) -> Option<ReadTurn<'a>> {
        let mut reads = self.0.lock();
        reads.push(read);
        let is_first = reads.len() == 1;
        drop(reads);
        // Made only where it is due: dropping one sends.
        is_first.then(|| ReadTurn(cast))
    }
}

/// The duty to send. Done when dropped: by the handler in its turn, or because its client has gone.
struct ReadTurn<'a>(&'a Cast);

impl Drop for ReadTurn<'_> {
    fn drop(&mut self) {
        let reads = std::mem::take(&mut *self.0.0.read_turns.0.lock());
        self.0.0.addresses.raft_node.do_send(ReadIndex { reads });
    }
}

/// Who this member is, for response headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// Limits of single requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the encoded raft request, in bytes.
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    /// Of this member's store.
    pub quota: Quota,
}

pub struct Addresses {
    pub raft_node: Addr<RaftNode>,
    pub watch_hub: Addr<WatchHub>,
    pub lease_keeper: Addr<LeaseKeeper>,
    pub snapshotter: Addr<Snapshotter>,
}

/// What the edge may know of the other members, and how it asks them.
#[derive(Clone)]
pub struct PeerAccess {
    pub connections: Published<Connections>,
    pub calls: PeerCalls,
}

struct Inner {
    addresses: Addresses,
    view: Published<View>,
    status: Published<Status>,
    peers: PeerAccess,
    identity: Identity,
    limits: Limits,
    writes: Arc<Room>,
    reads: Arc<Room>,
    read_turns: ReadTurns,
    /// Held by who raises the alarm NOSPACE; whoever else was refused meanwhile waits for it.
    raising: tokio::sync::Mutex<()>,
}

/// The ways into the cast. Cheap to clone.
#[derive(Clone)]
pub struct Cast(Arc<Inner>);

impl Cast {
    pub fn new(
        addresses: Addresses,
        view: Published<View>,
        status: Published<Status>,
        peers: PeerAccess,
        identity: Identity,
        limits: Limits,
    ) -> Self {
        let (writes, reads, read_turns, raising) = Default::default();
        Cast(Arc::new(Inner { addresses, view, status, peers, identity, limits, writes, reads, read_turns, raising }))
    }

    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    pub fn status(&self) -> Arc<Status> {
        self.0.status.load()
    }

    /// Since when another member has been reached without a break; `None` while it is not.
    pub fn connected_since(&self, member: MemberId) -> Option<Duration> {
        self.0.peers.connections.load().since(member)
    }

    /// Single questions to other members.
    pub fn peer_calls(&self) -> &PeerCalls {
        &self.0.peers.calls
    }

    /// A header as of now; `revision` is that of the answer.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.0.identity.cluster.0,
            member_id: self.0.identity.member.0,
            revision,
            raft_term: self.0.status.load().term.0,
        }
    }

    /// Replicates `op` and answers with what applying it gave. What needs room is refused when there is none.
    pub async fn replicate(
        &self,
        _permit: &Permit,
        op: raft_request::Op,
        span: SpanContext,
    ) -> Result<Outcome, RequestError> {
        // No view is held while waiting: compaction waits for views.
        let shortage = self.0.limits.quota.shortage(self.0.view.load().size().db_size, cost::of(&op));
        if let Some(shortage) = shortage {
            return Err(self.out_of_space(shortage).await);
        }
        self.check_backlog()?;
        match self.propose(op, span).await {
            Err(RequestError::BeyondQuota(shortage)) => Err(self.out_of_space(shortage).await),
            outcome => outcome,
        }
    }

    /// Replicates a change of the membership and answers with the members after it.
    pub async fn change_membership(
        &self,
        _permit: &Permit,
        change: &MembershipChange,
        span: SpanContext,
    ) -> Result<Outcome, RequestError> {
        self.check_backlog()?;
        self.propose_entry(EntryType::EntryConfChange, membership_entry(change), span).await
    }

    fn check_backlog(&self) -> Result<(), RequestError> {
        let committed = self.0.status.load().committed.0;
        if committed > self.0.view.load().applied.0 + APPLY_BACKLOG_MAX {
            return Err(RequestError::TooManyRequests);
        }
        Ok(())
    }

    /// What a request that is wrong in another way, too, is refused with: etcd looks at the quota first.
    pub async fn refusal(&self, _permit: &Permit, cost: u64, error: RequestError) -> RequestError {
        let shortage = self.0.limits.quota.shortage(self.0.view.load().size().db_size, cost);
        match shortage {
            Some(shortage) => self.out_of_space(shortage).await,
            None => error,
        }
    }

    /// Raises the alarm of this member, unless it is on, before a client hears of it. A hundred refusals raise it once.
    async fn out_of_space(&self, shortage: Shortage) -> RequestError {
        let alarm = Alarm::no_space(self.0.identity.member);
        let _turn = self.0.raising.lock().await;
        if !self.0.view.load().alarms.contains(alarm) {
            let Shortage { db_size, needed_bytes } = shortage;
            let report = SpaceShortage { member_id: alarm.member.0, db_size, needed_bytes };
            // If it gets lost, the next refusal raises it.
            let _ = self.replicate_own(raft_request::Op::SpaceShortage(report)).await;
        }
        RequestError::NoSpace
    }

    /// As [`Cast::replicate`], for what the member does in its own name: also while a long log is being replayed.
    pub(crate) async fn replicate_own(&self, op: raft_request::Op) -> Result<Outcome, RequestError> {
        self.propose(op, SpanContext::default()).await
    }

    async fn propose(&self, op: raft_request::Op, span: SpanContext) -> Result<Outcome, RequestError> {
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec();
        self.propose_entry(EntryType::EntryNormal, data, span).await
    }

    async fn propose_entry(&self, kind: EntryType, data: Vec<u8>, span: SpanContext) -> Result<Outcome, RequestError> {
        if data.len() > self.0.limits.request_bytes_max {
            return Err(RequestError::TooLarge);
        }
        let place = self.0.writes.take(data.len())?;
        let data = Bytes::from(data);
        if kind == EntryType::EntryNormal {
            call_notes::note_asked(|| Asked::Proposed(data.clone()));
        }
        let (sender, answer) = oneshot::channel();
        self.0.addresses.raft_node.do_send(Propose { data, kind, reply: Reply { sender, _place: Some(place) }, span });
        answer.await.unwrap_or(Err(RequestError::Stopped))
    }

    /// A view at least as new as every write acknowledged before this call.
    pub async fn linearizable_view(&self, permit: &Permit, span: SpanContext) -> Result<Arc<View>, RequestError> {
        let _place = self.0.reads.take(0)?;
        let (reply, answer) = oneshot::channel();
        if let Some(turn) = self.0.read_turns.join(self, Read { reply, span }) {
            // Whoever else is ready to run on this thread joins before the message goes.
            tokio::task::yield_now().await;
            drop(turn);
        }
        answer.await.unwrap_or(Err(RequestError::Stopped))?;
        Ok(self.local_view(permit))
    }

    /// How much of the log a member has, as the leader knows it.
    pub async fn progress_of(
        &self,
        _permit: &Permit,
        member: MemberId,
        span: SpanContext,
    ) -> Result<MemberProgress, RequestError> {
        let asked = self.0.addresses.raft_node.send(LookUpProgress { member, span });
        asked.await.map_err(|_| RequestError::Stopped)
    }

    /// Whether this member only learns: it answers few calls then. Cheap, since every call asks.
    pub fn is_learner(&self) -> bool {
        self.0.status.0.load().is_learner
    }

    /// This member's newest view, which may be behind.
    pub fn local_view(&self, _permit: &Permit) -> Arc<View> {
        self.0.view.load()
    }

    /// As [`Cast::local_view`], for what the member tells about itself.
    pub(crate) fn own_view(&self) -> Arc<View> {
        self.0.view.load()
    }

    /// To be read after the cast has gone.
    pub(crate) fn published_view(&self) -> Published<View> {
        self.0.view.clone()
    }

    pub fn watch_hub(&self, _permit: &Permit) -> &Addr<WatchHub> {
        &self.0.addresses.watch_hub
    }

    pub fn lease_keeper(&self, _permit: &Permit) -> &Addr<LeaseKeeper> {
        &self.0.addresses.lease_keeper
    }

    /// For leadership that moves; who asked for it was checked before.
    pub(crate) fn own_raft_node(&self) -> &Addr<RaftNode> {
        &self.0.addresses.raft_node
    }

    pub fn snapshotter(&self, _permit: &Permit) -> &Addr<Snapshotter> {
        &self.0.addresses.snapshotter
    }

    /// As [`Cast::snapshotter`], for what the member asks for itself.
    pub(crate) fn own_snapshotter(&self) -> &Addr<Snapshotter> {
        &self.0.addresses.snapshotter
    }
}
