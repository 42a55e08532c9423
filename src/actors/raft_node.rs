//! Runs raft: takes what clients and peers want, decides the order, and says what is committed.
//!
//! ```text
//!   edge ──Propose, ReadIndex──▶ RaftNode ──AppendLog──▶ LogWriter ──LogPersisted──▶ RaftNode
//!                                   └──EntriesCommitted──▶ Applier ──Applied──▶ RaftNode
//! ```
//!
//! The core is [`crate::raft::node::Node`]. This shell closes batches (when the mailbox is empty, or a batch has become
//! large or old), keeps the reply channels of waiting requests, and turns effects into mail.

use crate::actors::Tick;
use crate::actors::applier::{EntriesCommitted, InstallSnapshot, SnapshotInstalled, Waiter};
use crate::actors::log_writer::{AppendLog, FetchLog, ReplaceLog};
use crate::actors::peer_links::{Forward, LinkChanged, Send};
use crate::actors::snapshotter::{LogCut, SnapshotOffered, SnapshotSent, SnapshotWithdrawn};
use crate::cast::{Published, Reply, RequestError};
use crate::ids::{CountedMap, LeaseId, LogIndex, MemberId, RequestId, Term};
use crate::lease::Grant;
use crate::peer::quiet::Quiet;
use crate::peer::service::InboundRoom;
use crate::planted::{self, Bug};
use crate::raft::conf_change::AppliedConfChange;
use crate::raft::forwarded::ForwardedProposal;
use crate::raft::node::{Effect, MemberProgress, Node, Proposal, READ_RETRY, RaftError, Status};
use crate::raft::punctuality::Punctuality;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Span, SpanContext};
use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, Recipient};
use bytes::Bytes;
use castd_proto::castdpb;
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message as RaftMessage, MessageType};
use slog::Logger;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;

/// A batch is closed after so many messages even when more are waiting,
const BATCH_MESSAGES_MAX: usize = 1_000;
/// after so many bytes of proposals,
const BATCH_BYTES_MAX: usize = 1 << 20;
/// or after so long.
const BATCH_TIME_MAX: Duration = Duration::from_millis(1);

/// Command: replicate `data`, an encoded `castdpb.RaftRequest`, and answer with what applying it gave.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Propose {
    pub data: Bytes,
    pub kind: EntryType,
    pub reply: Reply,
    pub span: SpanContext,
}

/// Query: answers each read once the published view is at least as new as every write acknowledged before it was asked
/// (ReadIndex, Raft thesis §6.4). Reads that came together share one message.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ReadIndex {
    pub reads: Vec<Read>,
}

/// Query: how much of the log does this member have?
#[derive(Debug, Message)]
#[rtype(result = "MemberProgress")]
pub struct LookUpProgress {
    pub member: MemberId,
    pub span: SpanContext,
}

/// One client's read.
pub struct Read {
    pub reply: oneshot::Sender<Result<(), RequestError>>,
    pub span: SpanContext,
}

/// Command: another voter is to lead. Answers who, if anybody can; the published status says when it does.
#[derive(Debug, Message)]
#[rtype(result = "Option<MemberId>")]
pub struct TransferLeadership {
    /// `None` for whoever can take over soonest.
    pub target: Option<MemberId>,
    pub span: SpanContext,
}

/// Event, from a peer: raft messages addressed to this member, in order. They went through `peer::guard`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Step {
    pub messages: Vec<raft::eraftpb::Message>,
    /// Given back when they have been handled.
    pub room: InboundRoom,
}

/// Event, from a peer: its clients' requests, because it believes that this member leads. May be repetitions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Forwarded {
    pub from: MemberId,
    pub requests: Vec<ForwardedProposal>,
    pub room: InboundRoom,
}

/// Event, from PeerLink: something that was sent to `peer` did not get there. Raft goes on more carefully.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct PeerUnreachable {
    pub peer: MemberId,
}

/// Event, from the LogWriter: this write and all before it are durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogPersisted {
    pub number: u64,
}

/// Event, from the LogWriter: what [`FetchLog`] asked for, from `low` on; nothing if it has been cut.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogFetched {
    pub low: LogIndex,
    pub entries: Vec<Entry>,
}

/// Event, from the Applier: the published view is at `index`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Applied {
    pub index: LogIndex,
}

/// Event, from the Applier, before the [`Applied`] that covers it: the membership of the raft group changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ConfChangeApplied {
    pub applied: AppliedConfChange,
}

/// Event, from the LeaseKeeper: nobody kept these leases alive. Void when `term` is no longer ours.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeasesExpired {
    pub leases: Vec<Grant>,
    pub term: Term,
    pub span: SpanContext,
}

/// Event, from the LeaseKeeper: the time these leases have left, in seconds, worth remembering over a restart.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeasesCheckpointed {
    pub remaining_secs: Vec<(Grant, i64)>,
    pub term: Term,
    pub span: SpanContext,
}

/// Event, from RaftNode: term or leader changed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct LeaderChanged {
    pub status: Status,
    pub now: Duration,
}

/// Event, from RaftNode: a follower needs entries that the log no longer holds. Said again until a snapshot is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SnapshotWanted {
    pub to: MemberId,
    /// It has to contain this entry.
    pub index_min: LogIndex,
}

/// Where RaftNode's mail goes.
pub struct Links {
    pub log_writer: Recipient<AppendLog>,
    pub replace_log: Recipient<ReplaceLog>,
    pub fetch_log: Recipient<FetchLog>,
    pub applier: Recipient<EntriesCommitted>,
    pub install_snapshot: Recipient<InstallSnapshot>,
    pub snapshot_wanted: Recipient<SnapshotWanted>,
    pub peer_links: Recipient<Send>,
    pub forward: Recipient<Forward>,
    pub leader_changed: Vec<Recipient<LeaderChanged>>,
}

enum Waiting {
    Write {
        reply: Reply,
        span: Span,
    },
    /// The member's own wish that leases end.
    Expiry(Vec<LeaseId>),
    Reads(Vec<(oneshot::Sender<Result<(), RequestError>>, Span)>),
}

pub struct RaftNode {
    node: Node,
    links: Links,
    clock: Clock,
    published: Published<Status>,
    /// What the others know.
    told: Option<Status>,
    metrics: Metrics,
    log: Logger,
    waiting: CountedMap<RequestId, Waiting>,
    /// How many of them are writes.
    writes_waiting: i64,
    next_request: u64,
    effects: Vec<Effect>,
    /// Sampled requests on their way into the log, oldest first.
    sampled_to_log: VecDeque<RequestId>,
    batch_messages: usize,
    batch_bytes: usize,
    batch_since: Duration,
    settle_is_due: bool,
    punctuality: Punctuality,
    late_heartbeats: Quiet<u64>,
}

impl RaftNode {
    pub fn new(
        node: Node,
        links: Links,
        clock: Clock,
        published: Published<Status>,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        RaftNode {
            punctuality: Punctuality::new(node.heartbeat_interval()),
            late_heartbeats: Quiet::default(),
            node,
            links,
            clock,
            published,
            told: None,
            metrics,
            log,
            waiting: CountedMap::default(),
            writes_waiting: 0,
            next_request: 0,
            effects: Vec::new(),
            sampled_to_log: VecDeque::new(),
            batch_messages: 0,
            batch_bytes: 0,
            batch_since: Duration::ZERO,
            settle_is_due: false,
        }
    }

    fn wait(&mut self, waiting: Waiting) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.waiting.insert(request, waiting);
        request
    }

    /// Counts one message of `bytes` into the batch and closes the batch when it is full. Otherwise it is closed when the
    /// mailbox is empty: that is when actix looks at `notify`.
    fn batch(&mut self, bytes: usize, now: Duration, context: &mut Context<Self>) {
        if self.batch_messages == 0 {
            self.batch_since = now;
        }
        self.batch_messages += 1;
        self.batch_bytes += bytes;
        let full = self.batch_messages >= BATCH_MESSAGES_MAX
            || self.batch_bytes >= BATCH_BYTES_MAX
            || now >= self.batch_since + BATCH_TIME_MAX;
        if full {
            self.settle(now);
        } else if !self.settle_is_due {
            self.settle_is_due = true;
            context.notify(CloseBatch);
        }
    }

    fn settle(&mut self, now: Duration) {
        self.batch_messages = 0;
        self.batch_bytes = 0;
        let mut effects = std::mem::take(&mut self.effects);
        self.node.settle(now, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(effect, now);
        }
        self.effects = effects;
        self.metrics.server.proposals_pending.set(self.writes_waiting);
    }

    fn carry_out(&mut self, effect: Effect, now: Duration) {
        match effect {
            Effect::Send(messages) => {
                self.watch_heartbeats(&messages, now);
                self.links.peer_links.do_send(Send { messages });
            }
            Effect::Forward { to, requests } => self.links.forward.do_send(Forward { to, requests }),
            Effect::AppendLog(write) => {
                let spans = self.spans_of_write();
                self.links.log_writer.do_send(AppendLog { write, spans });
            }
            Effect::FetchLog { low, high, bytes_max } => {
                self.links.fetch_log.do_send(FetchLog { low, high, bytes_max });
            }
            Effect::EntriesCommitted(entries) => {
                let mut waiters = Vec::with_capacity(entries.len());
                let mut plain = Vec::with_capacity(entries.len());
                for committed in entries {
                    let waiting = committed.request.and_then(|request| self.waiting.remove(&request));
                    waiters.push(match waiting {
                        Some(Waiting::Write { reply, span }) => {
                            self.writes_waiting -= 1;
                            self.forget_sampled(&span, committed.request);
                            Some(Waiter { reply, span: span.context() })
                        }
                        Some(Waiting::Expiry(leases)) => {
                            self.metrics.lease.expired.inc_by(leases.len() as u64);
                            None
                        }
                        Some(Waiting::Reads(_)) | None => None,
                    });
                    plain.push(committed.entry);
                }
                self.links.applier.do_send(EntriesCommitted { entries: plain, waiters });
            }
            Effect::ReadsReady(requests) => {
                for request in requests {
                    if let Some(Waiting::Reads(reads)) = self.waiting.remove(&request) {
                        for (reply, span) in reads {
                            drop(span);
                            // The client may have gone; then nobody needs the answer.
                            let _ = reply.send(Ok(()));
                        }
                    }
                }
            }
            Effect::Failed(request, error) => match self.waiting.remove(&request) {
                Some(Waiting::Write { reply, span }) => {
                    self.writes_waiting -= 1;
                    self.forget_sampled(&span, Some(request));
                    end_failed(span, &error);
                    self.metrics.server.proposals_failed.inc();
                    reply.fail(error.into());
                }
                Some(Waiting::Reads(reads)) => {
                    self.tell_failed_read(&error);
                    for (reply, span) in reads {
                        end_failed(span, &error);
                        let _ = reply.send(Err(error.into()));
                    }
                }
                Some(Waiting::Expiry(leases)) => {
                    for lease in leases {
                        slog::warn!(self.log, "failed to revoke lease";
                            "lease-id" => format!("{:016x}", lease.0), "error" => %error);
                    }
                }
                None => {}
            },
            Effect::ReadsLate { asked } => {
                slog::warn!(self.log, "waiting for ReadIndex response took too long, retrying";
                    "sent-request-id" => asked, "retry-timeout" => ?READ_RETRY);
            }
            Effect::StatusChanged(status) => self.status_changed(status),
            Effect::DiskStuck { is_leader } => {
                slog::error!(self.log, "the disk of the raft log does not answer; this member must not lead";
                    "local-member-id" => %self.node.id(), "is-leader" => is_leader);
            }
            Effect::ReplaceLog(replace) => self.links.replace_log.do_send(ReplaceLog { replace }),
            Effect::InstallSnapshot { position } => self.links.install_snapshot.do_send(InstallSnapshot { position }),
            Effect::SnapshotWanted { to, index_min } => {
                self.links.snapshot_wanted.do_send(SnapshotWanted { to, index_min });
            }
        }
    }

    /// In etcd's words.
    fn watch_heartbeats(&mut self, messages: &[RaftMessage], now: Duration) {
        let heartbeats = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgHeartbeat);
        for heartbeat in heartbeats {
            let Some(late) = self.punctuality.sent(heartbeat.to, now) else { continue };
            self.metrics.server.heartbeat_send_failures.inc();
            if self.late_heartbeats.may_say(heartbeat.to, now) {
                slog::warn!(self.log, "leader failed to send out heartbeat on time; took too long, leader is overloaded \
                    likely from slow disk"; "to" => %MemberId(heartbeat.to),
                    "heartbeat-interval" => ?self.node.heartbeat_interval(),
                    "expected-duration" => ?self.punctuality.at_most(), "exceeded-duration" => ?late);
            }
        }
    }

    /// It is applied, or will not be: nobody waits any more for it to go into the log.
    fn forget_sampled(&mut self, span: &Span, request: Option<RequestId>) {
        if span.is_recording() {
            self.sampled_to_log.retain(|sampled| Some(*sampled) != request);
        }
    }

    /// One question for many reads fails once.
    fn tell_failed_read(&self, error: &RaftError) {
        if *error == RaftError::Timeout {
            self.metrics.server.slow_read_indexes.inc();
            slog::warn!(self.log, "timed out waiting for read index response (local node might have slow network)";
                "timeout" => ?self.node.request_timeout());
        } else {
            self.metrics.server.read_indexes_failed.inc();
        }
    }

    /// The sampled requests whose entries the next write takes along: proposals enter the log in the order they came in.
    fn spans_of_write(&mut self) -> Vec<SpanContext> {
        let mut spans = Vec::new();
        let last = self.node.last_proposed();
        while let Some(request) = self.sampled_to_log.pop_front_if(|request| Some(*request) <= last) {
            if let Some(Waiting::Write { span, .. }) = self.waiting.get(&request) {
                spans.push(span.context());
            }
        }
        spans
    }

    fn status_changed(&mut self, status: Status) {
        let before = self.told.replace(status);
        self.published.store(status);
        self.metrics.server.proposals_committed.set(status.committed.0 as i64);
        if before.is_some_and(|before| before.is_learner) != status.is_learner {
            self.metrics.server.is_learner.set(i64::from(status.is_learner));
        }
        if before.is_some_and(|before| before.term == status.term && before.leader == status.leader) {
            return;
        }
        self.punctuality.forget();
        let leader_before = before.and_then(|before| before.leader);
        if leader_before != status.leader {
            // In the words of etcd's raft, which people grep for.
            let (id, term) = (self.node.id(), status.term.0);
            match (leader_before, status.leader) {
                (None, Some(leader)) => slog::info!(self.log, "raft.node: {id} elected leader {leader} at term {term}"),
                (Some(before), Some(leader)) => {
                    slog::info!(self.log, "raft.node: {id} changed leader from {before} to {leader} at term {term}");
                }
                (Some(before), None) => slog::info!(self.log, "raft.node: {id} lost leader {before} at term {term}"),
                (None, None) => {}
            }
            self.metrics.server.leader_changes_seen.inc_by(u64::from(status.leader.is_some()));
        }
        self.metrics.server.has_leader.set(i64::from(status.leader.is_some()));
        self.metrics.server.is_leader.set(i64::from(status.is_leader));
        // Not the time of the batch: that of a tick which waited in the mailbox would let leases begin before the election.
        let now = self.clock.now();
        for recipient in &self.links.leader_changed {
            recipient.do_send(LeaderChanged { status, now });
        }
    }

    /// Proposes on this member's own behalf; no client waits for the outcome.
    fn propose_own(
        &mut self,
        op: castdpb::raft_request::Op,
        term: Term,
        waiting: Option<Waiting>,
        context: &mut Context<Self>,
    ) {
        if self.node.status().term != term || !self.node.status().is_leader {
            return;
        }
        let data = castdpb::RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec();
        let now = self.clock.now();
        let bytes = data.len();
        self.next_request += 1;
        let request = RequestId(self.next_request);
        if let Some(waiting) = waiting {
            self.waiting.insert(request, waiting);
        }
        self.node.propose(now, Proposal { request, kind: EntryType::EntryNormal, data: data.into() });
        self.batch(bytes, now, context);
    }
}

impl Actor for RaftNode {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.settle_is_due = true;
        context.notify(CloseBatch);
    }
}

/// Told to itself, and therefore handled when the mailbox is empty.
#[derive(Message)]
#[rtype(result = "()")]
struct CloseBatch;

impl Handler<CloseBatch> for RaftNode {
    type Result = ();

    fn handle(&mut self, _: CloseBatch, _: &mut Self::Context) {
        self.settle_is_due = false;
        self.settle(self.clock.now());
    }
}

impl Handler<Propose> for RaftNode {
    type Result = ();

    fn handle(&mut self, propose: Propose, context: &mut Self::Context) {
        let now = self.clock.now();
        let bytes = propose.data.len();
        let span = propose.span.child("RaftNode");
        let is_sampled = span.is_recording();
        self.writes_waiting += 1;
        let request = self.wait(Waiting::Write { reply: propose.reply, span });
        if is_sampled {
            self.sampled_to_log.push_back(request);
        }
        self.node.propose(now, Proposal { request, kind: propose.kind, data: propose.data });
        self.batch(bytes, now, context);
    }
}

impl Handler<ReadIndex> for RaftNode {
    type Result = ();

    fn handle(&mut self, index: ReadIndex, context: &mut Self::Context) {
        let now = self.clock.now();
        let reads: Vec<_> = index.reads.into_iter().map(|read| (read.reply, read.span.child("RaftNode"))).collect();
        if planted::is_on(Bug::JoinsReadUnderWay) {
            let under_way = self.waiting.values_mut().find_map(|waiting| match waiting {
                Waiting::Reads(reads) => Some(reads),
                _ => None,
            });
            if let Some(under_way) = under_way {
                return under_way.extend(reads);
            }
        }
        let request = self.wait(Waiting::Reads(reads));
        self.node.read_index(now, request);
        self.batch(0, now, context);
    }
}

impl Handler<LookUpProgress> for RaftNode {
    type Result = MessageResult<LookUpProgress>;

    fn handle(&mut self, query: LookUpProgress, _: &mut Self::Context) -> Self::Result {
        let _span = query.span.child("RaftNode");
        MessageResult(self.node.progress_of(query.member))
    }
}

impl Handler<TransferLeadership> for RaftNode {
    type Result = MessageResult<TransferLeadership>;

    fn handle(&mut self, command: TransferLeadership, context: &mut Self::Context) -> Self::Result {
        let _span = command.span.child("RaftNode");
        let successor = self.node.transfer_leader(command.target);
        self.batch(0, self.clock.now(), context);
        MessageResult(successor)
    }
}

impl Handler<Step> for RaftNode {
    type Result = ();

    fn handle(&mut self, step: Step, context: &mut Self::Context) {
        for message in step.messages {
            self.node.step(message);
        }
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<Forwarded> for RaftNode {
    type Result = ();

    fn handle(&mut self, forwarded: Forwarded, context: &mut Self::Context) {
        let now = self.clock.now();
        let bytes = forwarded.requests.iter().map(|request| request.data.len()).sum();
        self.node.forwarded(now, forwarded.from, forwarded.requests);
        self.batch(bytes, now, context);
    }
}

impl Handler<PeerUnreachable> for RaftNode {
    type Result = ();

    fn handle(&mut self, event: PeerUnreachable, context: &mut Self::Context) {
        self.node.unreachable(event.peer);
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<LinkChanged> for RaftNode {
    type Result = ();

    fn handle(&mut self, changed: LinkChanged, context: &mut Self::Context) {
        self.node.link_changed(changed.peer, changed.connected_since);
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<Tick> for RaftNode {
    type Result = ();

    fn handle(&mut self, tick: Tick, context: &mut Self::Context) {
        self.node.tick(tick.now);
        self.batch(0, tick.now, context);
    }
}

impl Handler<LogPersisted> for RaftNode {
    type Result = ();

    fn handle(&mut self, persisted: LogPersisted, context: &mut Self::Context) {
        self.node.log_persisted(persisted.number, &mut self.effects);
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<LogFetched> for RaftNode {
    type Result = ();

    fn handle(&mut self, fetched: LogFetched, context: &mut Self::Context) {
        self.node.log_fetched(fetched.low, fetched.entries);
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<Applied> for RaftNode {
    type Result = ();

    fn handle(&mut self, applied: Applied, context: &mut Self::Context) {
        self.node.applied(applied.index);
        self.metrics.server.proposals_applied.set(applied.index.0 as i64);
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<ConfChangeApplied> for RaftNode {
    type Result = ();

    fn handle(&mut self, event: ConfChangeApplied, context: &mut Self::Context) {
        if let Err(error) = self.node.conf_change_applied(&event.applied) {
            crate::process::fatal(&self.log, &format!("raft did not follow an applied membership change: {error}"));
        }
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<LogCut> for RaftNode {
    type Result = ();

    fn handle(&mut self, cut: LogCut, _: &mut Self::Context) {
        self.node.log_cut(cut.position);
    }
}

impl Handler<SnapshotOffered> for RaftNode {
    type Result = ();

    /// Raft asks again with the next answer to a heartbeat.
    fn handle(&mut self, offered: SnapshotOffered, _: &mut Self::Context) {
        self.node.snapshot_offered(offered.position, offered.conf_state);
    }
}

impl Handler<SnapshotWithdrawn> for RaftNode {
    type Result = ();

    fn handle(&mut self, _: SnapshotWithdrawn, _: &mut Self::Context) {
        self.node.snapshot_withdrawn();
    }
}

impl Handler<SnapshotSent> for RaftNode {
    type Result = ();

    fn handle(&mut self, sent: SnapshotSent, context: &mut Self::Context) {
        self.node.snapshot_sent(sent.to, sent.ok);
        self.batch(0, self.clock.now(), context);
    }
}

impl Handler<SnapshotInstalled> for RaftNode {
    type Result = ();

    fn handle(&mut self, installed: SnapshotInstalled, context: &mut Self::Context) {
        self.node.install_finished(installed.position);
        self.metrics.server.proposals_applied.set(installed.position.index.0 as i64);
        self.batch(0, self.clock.now(), context);
    }
}

fn end_failed(mut span: Span, error: &RaftError) {
    if span.is_recording() {
        span.error(error.to_string());
    }
}

fn granted_lease(grant: Grant, remaining_ttl_secs: i64) -> castdpb::GrantedLease {
    castdpb::GrantedLease { id: grant.lease.0, granted_index: grant.index.0, remaining_ttl_secs }
}

impl Handler<LeasesExpired> for RaftNode {
    type Result = ();

    fn handle(&mut self, expired: LeasesExpired, context: &mut Self::Context) {
        let _span = expired.span.child("RaftNode");
        let waiting = Waiting::Expiry(expired.leases.iter().map(|grant| grant.lease).collect());
        let leases = expired.leases.iter().map(|grant| granted_lease(*grant, 0)).collect();
        let op = castdpb::LeaseExpire { leases, term: expired.term.0 };
        self.propose_own(castdpb::raft_request::Op::LeaseExpire(op), expired.term, Some(waiting), context);
    }
}

impl Handler<LeasesCheckpointed> for RaftNode {
    type Result = ();

    fn handle(&mut self, checkpointed: LeasesCheckpointed, context: &mut Self::Context) {
        let _span = checkpointed.span.child("RaftNode");
        let leases = checkpointed.remaining_secs.iter().map(|(grant, secs)| granted_lease(*grant, *secs)).collect();
        let op =
            castdpb::raft_request::Op::LeaseCheckpoint(castdpb::LeaseCheckpoints { leases, term: checkpointed.term.0 });
        self.propose_own(op, checkpointed.term, None, context);
    }
}
