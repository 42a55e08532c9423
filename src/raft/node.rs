//! The core of RaftNode: decides what to persist, send, apply and answer.
//!
//! ```text
//!   propose, read_index, step, tick,                      AppendLog, Send, EntriesCommitted,
//!   log_persisted, applied            ──▶ [ Node ] ──▶    ReadsReady, Failed, StatusChanged
//! ```
//!
//! Events only change memory; [`Node::settle`] closes a batch of them and returns the effects, in the order in which they
//! have to happen. The algorithm is raft-rs's; what is here are the windows around it (how much may be under way to the log
//! and to the Applier), the requests that wait, and the order of raft-rs's asynchronous `Ready`:
//!
//! 1. messages of a leader leave at once, beside its own disk write (Raft thesis §10.2.1);
//! 2. entries enter the window before `advance_append_async`, which forgets them;
//! 3. messages of a follower wait until the log has been persisted;
//! 4. committed entries wait until the Applier has room.
//!
//! It does not touch a disk, a socket or a clock, and does not know what an entry means.

mod snapshots;

pub use self::snapshots::ReplaceLog;

use crate::ids::{LogIndex, MemberId, RequestId, Term};
use crate::membership::checks::Progress;
use crate::raft::forwarded::ForwardedProposal;
use crate::raft::terms::LogPosition;
use crate::raft::window::Window;
use bytes::Bytes;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, RawNode, StateRole};
use std::collections::VecDeque;
use std::time::Duration;

/// Length of one tick of raft's logical clock.
pub const TICK: Duration = Duration::from_millis(10);
/// Writes that may be on their way to the log at once; more only makes the fsyncs smaller.
const LOG_WRITES_MAX: usize = 4;
/// Slices that may be at the Applier at once.
const SLICES_MAX: usize = 2;
/// Entries in one slice for the Applier.
const SLICE_ENTRIES_MAX: usize = 1_000;
/// Bytes of entry data in one slice, unless one entry alone is larger.
const SLICE_BYTES_MAX: usize = 1 << 20;
/// Bytes of proposals that are in the log but not committed; what comes beyond waits in the queue.
const UNCOMMITTED_BYTES_MAX: usize = 32 << 20;
/// A read whose confirmation was lost (raft-rs drops some silently) is asked again, with a new context.
pub const READ_RETRY: Duration = Duration::from_millis(500);

const _: () = assert!(UNCOMMITTED_BYTES_MAX < 64 << 20, "raft-rs must never be the one who refuses");

/// Why raft could not carry a request out. The text belongs to `api::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaftError {
    #[error("no answer within the request time limit")]
    Timeout,
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
#[derive(Debug, Clone, PartialEq)]
pub struct AppendLog {
    pub number: u64,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    /// To the peers, now.
    Send(Vec<Message>),
    AppendLog(AppendLog),
    EntriesCommitted(Vec<CommittedEntry>),
    /// These reads may be answered from the published view: it has reached their read index.
    ReadsReady(Vec<RequestId>),
    Failed(RequestId, RaftError),
    /// Reads have waited for [`READ_RETRY`] and are asked again. Said once in that time.
    ReadsLate {
        /// Of the question without an answer; 0 if there is no leader to ask.
        asked: u64,
    },
    StatusChanged(Status),
    /// Raft accepted a snapshot from the leader: the log begins anew behind it.
    ReplaceLog(ReplaceLog),
    /// The log has been replaced; now the state is.
    InstallSnapshot {
        position: LogPosition,
    },
    /// A follower needs what the log no longer holds. Said again and again until one is offered.
    SnapshotWanted {
        to: MemberId,
        /// It has to contain this entry.
        index_min: LogIndex,
    },
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub id: MemberId,
    /// In ticks of [`TICK`].
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// How long a request may wait before it fails with [`RaftError::Timeout`].
    pub request_timeout: Duration,
    /// Seed of the election time-outs; the same seed, member and term draw the same one.
    pub seed: u64,
    /// Different after each start, so that a read context is never used twice.
    pub boot: u64,
}

#[derive(Debug)]
struct Queued {
    proposal: Proposal,
    deadline: Duration,
}

/// A proposal that is in the log.
#[derive(Debug)]
struct Pending {
    index: u64,
    term: u64,
    request: RequestId,
    bytes: usize,
    deadline: Duration,
}

#[derive(Debug)]
struct WaitingRead {
    request: RequestId,
    deadline: Duration,
}

/// Reads that wait together for one confirmation of leadership.
#[derive(Debug)]
struct ReadRound {
    counter: u64,
    asked_at: Duration,
    reads: Vec<WaitingRead>,
}

/// A write under way to the log.
#[derive(Debug)]
struct LogWrite {
    number: u64,
    /// The newest Ready that is persisted with it: Readies that had nothing to write follow the write before them.
    persists: u64,
    messages: Vec<Message>,
    /// The log is replaced by a snapshot there.
    installs: Option<LogPosition>,
}

pub struct Node {
    raft: RawNode<Window>,
    settings: Settings,
    queue: VecDeque<Queued>,
    /// Changes of the membership wait apart. Raft takes one at a time: another one before that is applied would silently
    /// become an empty entry.
    membership_queue: VecDeque<Queued>,
    pending: VecDeque<Pending>,
    uncommitted_bytes: usize,
    log_writes: VecDeque<LogWrite>,
    committed: VecDeque<Entry>,
    slices_at_applier: usize,
    applied: u64,
    reads_new: Vec<WaitingRead>,
    read_round: Option<ReadRound>,
    read_counter: u64,
    reads_late_told: Duration,
    /// Confirmed reads that wait for their index to be applied, ascending.
    reads_confirmed: VecDeque<(u64, Vec<WaitingRead>)>,
    status: Option<Status>,
    /// Commit-only hard state that rides with the next write: losing it is harmless.
    hard_state_unsaved: Option<HardState>,
}

impl Node {
    /// `window` holds the recovered log; `applied` is the index that the backend has reached.
    ///
    /// # Errors
    /// When raft-rs refuses the settings or the recovered state.
    pub fn new(
        settings: Settings,
        window: Window,
        applied: LogIndex,
        logger: &slog::Logger,
    ) -> Result<Self, raft::Error> {
        let config = Config {
            id: settings.id.0,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            min_election_tick: settings.election_ticks,
            max_election_tick: settings.election_ticks + settings.election_ticks * 2 / 5,
            applied: applied.0,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: settings.pre_vote,
            batch_append: true,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 4 << 20,
            ..Config::default()
        };
        config.validate()?;
        let raft = RawNode::new(&config, window, logger)?;
        let mut node = Node {
            raft,
            settings,
            queue: VecDeque::new(),
            membership_queue: VecDeque::new(),
            pending: VecDeque::new(),
            uncommitted_bytes: 0,
            log_writes: VecDeque::new(),
            committed: VecDeque::new(),
            slices_at_applier: 0,
            applied: applied.0,
            reads_new: Vec::new(),
            read_round: None,
            read_counter: 0,
            reads_late_told: Duration::ZERO,
            reads_confirmed: VecDeque::new(),
            status: None,
            hard_state_unsaved: None,
        };
        if node.is_only_voter() {
            node.campaign_alone();
        }
        node.draw_election_timeout();
        Ok(node)
    }

    pub fn status(&self) -> Status {
        let raft = &self.raft.raft;
        Status {
            term: Term(raft.term),
            leader: (raft.leader_id != raft::INVALID_ID).then_some(MemberId(raft.leader_id)),
            is_leader: raft.state == StateRole::Leader,
            is_learner: !raft.promotable() && raft.prs().conf().learners().contains(&raft.id),
            committed: LogIndex(raft.raft_log.committed),
        }
    }

    pub fn id(&self) -> MemberId {
        self.settings.id
    }

    /// How long a request may wait.
    pub fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    pub fn propose(&mut self, now: Duration, proposal: Proposal) {
        let deadline = now + self.settings.request_timeout;
        let queue = match proposal.kind {
            EntryType::EntryNormal => &mut self.queue,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => &mut self.membership_queue,
        };
        queue.push_back(Queued { proposal, deadline });
    }

    pub fn progress_of(&self, member: MemberId) -> MemberProgress {
        if !self.is_leader() {
            return MemberProgress::NotLeader;
        }
        let matched = |id| self.raft.raft.prs().get(id).map(|progress| LogIndex(progress.matched));
        match (matched(member.0), matched(self.settings.id.0)) {
            (Some(matched), Some(leader_matched)) => MemberProgress::At(Progress { matched, leader_matched }),
            _ => MemberProgress::NoMember,
        }
    }

    /// The newest request that is in raft's log and not yet committed. Those before it got there first.
    pub fn last_proposed(&self) -> Option<RequestId> {
        self.pending.back().map(|pending| pending.request)
    }

    pub fn read_index(&mut self, now: Duration, request: RequestId) {
        let deadline = now + self.settings.request_timeout;
        self.reads_new.push(WaitingRead { request, deadline });
    }

    /// `target` is to lead. Nothing comes of it unless this member leads and `target` is another voter; and when `target` does
    /// not take over within an election time-out, this member leads on. Proposals wait meanwhile.
    pub fn transfer_leader(&mut self, target: MemberId) {
        if self.is_leader() {
            self.raft.transfer_leader(target.0);
        }
    }

    /// A message from a peer. What does not make sense is dropped: raft repeats what matters.
    pub fn step(&mut self, message: Message) {
        if message.to != self.settings.id.0 || self.breaks_progress(&message) || self.is_beyond_log(&message) {
            return;
        }
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.is_replacing_log() {
            return;
        }
        // The only errors are "unknown peer" and "local message": both mean "not for us".
        let _ = self.raft.step(message);
    }

    /// raft-rs #557: a late rejection would move `next` below what the follower has already matched.
    fn breaks_progress(&self, message: &Message) -> bool {
        message.get_msg_type() == MessageType::MsgAppendResponse
            && message.reject
            && self.raft.raft.prs().get(message.from).is_some_and(|progress| message.reject_hint < progress.matched)
    }

    /// A leader commits no further than a follower's log reaches, and a follower answers for no entry that the leader
    /// does not have. raft-rs ends the process when one of them does, as a log that was lost makes them do.
    fn is_beyond_log(&self, message: &Message) -> bool {
        let last = self.raft.raft.raft_log.last_index();
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => message.commit > last,
            MessageType::MsgAppendResponse => self.is_leader() && !message.reject && message.index > last,
            _ => false,
        }
    }

    /// Requests of `from`'s clients, for this member to propose. Dropped: no member forwards any yet, and one that does
    /// repeats what is not answered.
    pub fn forwarded(&mut self, _now: Duration, _from: MemberId, _requests: Vec<ForwardedProposal>) {}

    /// What was sent to `peer` may not have got there.
    pub fn unreachable(&mut self, peer: MemberId) {
        self.raft.report_unreachable(peer.0);
    }

    /// One [`TICK`] of time has passed.
    pub fn tick(&mut self, now: Duration) {
        if !self.is_replacing_log() {
            self.raft.tick();
        }
        if let Some(round) = self.read_round.take_if(|round| now >= round.asked_at + READ_RETRY) {
            // The context is spent: raft-rs may still answer it, and that answer must not count.
            self.reads_new.splice(0..0, round.reads);
        }
    }

    /// The write `number`, and all before it, are durable.
    pub fn log_persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        while self.log_writes.front().is_some_and(|write| write.number <= number) {
            if let Some(write) = self.log_writes.pop_front() {
                self.raft.on_persist_ready(write.persists);
                if let Some(position) = write.installs {
                    self.log_replaced(position, effects);
                }
                if !write.messages.is_empty() {
                    effects.push(Effect::Send(write.messages));
                }
            }
        }
    }

    /// The Applier has published a view at `index`, the end of the slice it was given.
    pub fn applied(&mut self, index: LogIndex) {
        assert!(index.0 >= self.applied, "applied index went back from {} to {index}", self.applied);
        self.slices_at_applier = self.slices_at_applier.saturating_sub(1);
        self.applied = index.0;
        self.advance_apply(index.0);
        if self.is_only_voter() {
            // Nobody will ask for them. With followers, entries stay until the log is cut.
            self.raft.mut_store().shrink_to(index.0);
            self.campaign_alone();
        }
    }

    /// Nobody else can be leader: waiting for an election time-out would only delay the start. raft refuses while a
    /// committed conf change is not applied, as at each start that replays the first entry; so this is asked again.
    fn campaign_alone(&mut self) {
        if self.raft.raft.state == StateRole::Follower && !self.is_replacing_log() {
            // A refusal costs the time-out, nothing else.
            let _ = self.raft.campaign();
        }
    }

    /// A conf change was applied to the state machine: raft follows.
    ///
    /// # Errors
    /// When raft-rs rejects the change, which the state machine should have refused before.
    pub fn conf_change_applied(&mut self, change: &ConfChangeV2) -> Result<ConfState, raft::Error> {
        let conf_state = self.raft.apply_conf_change(change)?;
        self.raft.mut_store().set_conf_state(conf_state.clone());
        Ok(conf_state)
    }

    /// The log on disk no longer holds entries up to `position`, or will not soon: forget them here first, so that raft
    /// never asks for one that is gone.
    pub fn log_cut(&mut self, position: LogPosition) {
        assert!(position.index.0 <= self.applied, "cut at {} above the applied {}", position.index, self.applied);
        self.raft.mut_store().cut(position);
    }

    /// Closes a batch of events: proposes what is queued, takes what raft has ready, answers who can be answered.
    pub fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.expire(now, effects);
        self.tell_late_reads(now, effects);
        self.propose_queued(effects);
        self.ask_reads(now);
        while self.log_writes.len() < LOG_WRITES_MAX && self.raft.has_ready() {
            self.take_ready(effects);
        }
        self.tell_snapshot_wanted(effects);
        self.tell_status(effects);
        self.hand_to_applier(effects);
        self.answer_reads(effects);
        self.draw_election_timeout();
    }

    /// Before entries go to the Applier: nobody may see an applied index above the commit index.
    fn tell_status(&mut self, effects: &mut Vec<Effect>) {
        let status = self.status();
        if self.status == Some(status) {
            return;
        }
        let leadership_lost = self.status.is_some_and(|before| before.is_leader) && !status.is_leader;
        self.status = Some(status);
        effects.push(Effect::StatusChanged(status));
        if leadership_lost {
            self.fail_reads(effects);
        }
    }

    fn is_only_voter(&self) -> bool {
        let voters = self.raft.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.settings.id.0)
    }

    fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn propose_queued(&mut self, effects: &mut Vec<Effect>) {
        // While leadership moves away raft would refuse them.
        let is_leading = self.is_leader() && self.raft.raft.lead_transferee.is_none();
        if (self.queue.is_empty() && self.membership_queue.is_empty()) || !is_leading {
            return;
        }
        let mut may_change_membership = !self.raft.raft.has_pending_conf();
        let mut entries = Vec::with_capacity(self.queue.len());
        let first_pending = self.pending.len();
        let term = self.raft.raft.term;
        let mut index = self.raft.raft.raft_log.last_index();
        while self.uncommitted_bytes < UNCOMMITTED_BYTES_MAX {
            let change = if may_change_membership { self.membership_queue.pop_front() } else { None };
            may_change_membership = false;
            let Some(Queued { proposal, deadline }) = change.or_else(|| self.queue.pop_front()) else { break };
            index += 1;
            let bytes = proposal.data.len();
            self.uncommitted_bytes += bytes;
            self.pending.push_back(Pending { index, term, request: proposal.request, bytes, deadline });
            let mut entry = Entry::default();
            entry.set_entry_type(proposal.kind);
            entry.data = proposal.data;
            entries.push(entry);
        }
        if entries.is_empty() {
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id.0;
        message.set_entries(entries.into());
        if self.raft.raft.step(message).is_err() {
            for refused in self.pending.drain(first_pending..) {
                self.uncommitted_bytes -= refused.bytes;
                effects.push(Effect::Failed(refused.request, RaftError::ProposalDropped));
            }
        }
    }

    /// raft-rs answers reads only after the first commit of the leader's term, and drops earlier ones silently.
    fn may_ask_reads(&self) -> bool {
        let raft = &self.raft.raft;
        raft.state == StateRole::Leader && raft.commit_to_current_term()
    }

    fn ask_reads(&mut self, now: Duration) {
        if self.reads_new.is_empty() || self.read_round.is_some() || !self.may_ask_reads() {
            return;
        }
        self.read_counter += 1;
        let counter = self.read_counter;
        self.raft.read_index(self.read_context(counter));
        self.read_round = Some(ReadRound { counter, asked_at: now, reads: std::mem::take(&mut self.reads_new) });
    }

    fn read_context(&self, counter: u64) -> Vec<u8> {
        [self.settings.id.0, self.settings.boot, counter].map(u64::to_be_bytes).concat()
    }

    fn take_ready(&mut self, effects: &mut Vec<Effect>) {
        let mut ready = self.raft.ready();
        let number = ready.number();
        let messages = ready.take_messages();
        if !messages.is_empty() {
            effects.push(Effect::Send(messages));
        }
        for state in ready.take_read_states() {
            let current = self.read_round.as_ref().map(|round| self.read_context(round.counter));
            if current == Some(state.request_ctx)
                && let Some(round) = self.read_round.take()
            {
                self.reads_confirmed.push_back((state.index, round.reads));
            }
        }
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().clone());
        if snapshot.is_some() {
            self.forget_replaced(effects);
        }
        self.committed.extend(ready.take_committed_entries());
        let waiting = ready.take_persisted_messages();
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let must_write = ready.must_sync() || !entries.is_empty();

        let store = self.raft.mut_store();
        if let Some(hard_state) = &hard_state {
            store.set_hard_state(hard_state.clone());
            self.hard_state_unsaved = Some(hard_state.clone());
        }
        let replaced = snapshot.map(|metadata| {
            let position = LogPosition::new(metadata.index, metadata.term);
            store.restore(position, metadata.get_conf_state().clone());
            let mut hard_state = store.hard_state().clone();
            hard_state.commit = metadata.index;
            (position, metadata.get_conf_state().clone(), hard_state)
        });
        store.append(&entries);
        self.raft.advance_append_async(ready);

        if must_write {
            let installs = replaced.as_ref().map(|(position, ..)| *position);
            self.log_writes.push_back(LogWrite { number, persists: number, messages: waiting, installs });
            let append = AppendLog { number, entries, hard_state: self.hard_state_unsaved.take() };
            effects.push(match replaced {
                Some((position, conf_state, hard_state)) => {
                    Effect::ReplaceLog(ReplaceLog { position, conf_state, hard_state, then: append })
                }
                None => Effect::AppendLog(append),
            });
        } else if let Some(last) = self.log_writes.back_mut() {
            last.persists = number;
            last.messages.extend(waiting);
        } else {
            self.raft.on_persist_ready(number);
            if !waiting.is_empty() {
                effects.push(Effect::Send(waiting));
            }
        }
    }

    fn hand_to_applier(&mut self, effects: &mut Vec<Effect>) {
        while self.slices_at_applier < SLICES_MAX && !self.committed.is_empty() {
            let mut slice = Vec::with_capacity(self.committed.len().min(SLICE_ENTRIES_MAX));
            let mut bytes = 0;
            while slice.len() < SLICE_ENTRIES_MAX
                && let Some(entry) =
                    self.committed.pop_front_if(|entry| bytes == 0 || bytes + entry.data.len() <= SLICE_BYTES_MAX)
            {
                bytes += entry.data.len();
                let request = self.request_of(&entry, effects);
                slice.push(CommittedEntry { entry, request });
            }
            self.slices_at_applier += 1;
            effects.push(Effect::EntriesCommitted(slice));
        }
    }

    /// The local request behind a committed entry. Requests whose place in the log was taken by another entry fail.
    fn request_of(&mut self, entry: &Entry, effects: &mut Vec<Effect>) -> Option<RequestId> {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.index <= entry.index) {
            self.uncommitted_bytes -= pending.bytes;
            if pending.index == entry.index && pending.term == entry.term {
                return Some(pending.request);
            }
            effects.push(Effect::Failed(pending.request, RaftError::LeaderChanged));
        }
        None
    }

    fn answer_reads(&mut self, effects: &mut Vec<Effect>) {
        while let Some((_, reads)) = self.reads_confirmed.pop_front_if(|(index, _)| *index <= self.applied) {
            effects.push(Effect::ReadsReady(reads.into_iter().map(|read| read.request).collect()));
        }
    }

    fn fail_reads(&mut self, effects: &mut Vec<Effect>) {
        let round = self.read_round.take().map(|round| round.reads).unwrap_or_default();
        for read in round {
            effects.push(Effect::Failed(read.request, RaftError::LeaderChanged));
        }
    }

    fn tell_late_reads(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        // Those of a round come back here when it is given up.
        let Some(oldest) = self.reads_new.first() else { return };
        let asked_at = oldest.deadline.saturating_sub(self.settings.request_timeout);
        if now >= asked_at + READ_RETRY && now >= self.reads_late_told + READ_RETRY {
            self.reads_late_told = now;
            effects.push(Effect::ReadsLate { asked: self.read_counter });
        }
    }

    fn expire(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut failed = |request| effects.push(Effect::Failed(request, RaftError::Timeout));
        for queue in [&mut self.queue, &mut self.membership_queue] {
            while let Some(queued) = queue.pop_front_if(|queued| queued.deadline <= now) {
                failed(queued.proposal.request);
            }
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.deadline <= now) {
            self.uncommitted_bytes -= pending.bytes;
            failed(pending.request);
        }
        let mut expire_reads = |reads: &mut Vec<WaitingRead>| {
            if reads.first().is_some_and(|oldest| oldest.deadline <= now) {
                reads.extract_if(.., |read| read.deadline <= now).for_each(|read| failed(read.request));
            }
        };
        expire_reads(&mut self.reads_new);
        if let Some(round) = &mut self.read_round {
            expire_reads(&mut round.reads);
        }
        for (_, reads) in &mut self.reads_confirmed {
            expire_reads(reads);
        }
    }

    /// raft-rs draws from the thread's generator; a seed must give the same run, so it is drawn again here.
    fn draw_election_timeout(&mut self) {
        let raft = &mut self.raft.raft;
        let spread = (self.settings.election_ticks * 2 / 5).max(1) as u64;
        let mixed = mix(self.settings.seed ^ mix(self.settings.id.0 ^ mix(raft.term)));
        let ticks = self.settings.election_ticks + (mixed % spread) as usize;
        if raft.randomized_election_timeout() != ticks {
            raft.set_randomized_election_timeout(ticks);
        }
    }
}

/// SplitMix64's finaliser: spreads close numbers over all 64 bits.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
