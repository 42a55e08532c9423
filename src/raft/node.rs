//! The core of RaftNode: decides what to persist, send, apply and answer.
//!
//! ```text
//!   propose, forwarded, read_index, step,                 AppendLog, Send, Forward, EntriesCommitted,
//!   tick, log_persisted, applied, …   ──▶ [ Node ] ──▶    ReadsReady, Failed, StatusChanged, …
//! ```
//!
//! Events only change memory; [`Node::settle`] closes a batch of them and returns the effects, in the order in which they
//! have to happen. The algorithm is raft-rs's; what is here are the windows around it (how much may be under way to the log
//! and to the Applier), the requests that wait, and the order of raft-rs's asynchronous `Ready`:
//!
//! 1. messages of a leader leave at once, beside its own disk write (Raft thesis §10.2.1), once the disk has its term;
//! 2. entries enter the window before `advance_append_async`, which forgets them;
//! 3. what a follower promises waits until the log has been persisted;
//! 4. committed entries wait until the Applier has room.
//!
//! - `acceptance`: which appends need no answer.
//! - `effect`: what it is told, and what it wants done.
//! - `writes`: the way of a request into the log, also through another member that leads.
//! - `reads`: confirmations of leadership.
//! - `leadership`: who leads, and who should.
//! - `supply`: what followers that are behind get.
//!
//! It does not touch a disk, a socket or a clock, and does not know what an entry means.

mod acceptance;
mod effect;
mod leadership;
mod reads;
mod supply;
mod writes;

pub use self::effect::{
    AppendLog, CommittedEntry, Effect, MemberProgress, Proposal, RaftError, ReplaceLog, Settings, Status,
};
pub use self::reads::READ_RETRY;

use self::acceptance::Acceptance;
use self::leadership::Leadership;
use self::reads::Reads;
use self::writes::Writes;
use crate::ids::{LogIndex, MemberId, Term};
use crate::membership::checks::Progress;
use crate::planted::{self, Bug};
use crate::raft::conf_change::{AppliedConfChange, ConfChangeError, sorted};
use crate::raft::terms::LogPosition;
use crate::raft::window::Window;
use raft::eraftpb::{Entry, HardState, Message, MessageType};
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

/// A write under way to the log.
#[derive(Debug)]
struct LogWrite {
    number: u64,
    since: Duration,
    /// The newest Ready that is persisted with it: Readies that had nothing to write follow the write before them.
    persists: u64,
    messages: Vec<Message>,
    /// The snapshot that takes the place of the log by it.
    installs: Option<LogPosition>,
    /// The disk has this term, and this member's vote in it, from then on.
    term: Option<u64>,
}

pub struct Node {
    raft: RawNode<Window>,
    settings: Settings,
    writes: Writes,
    reads: Reads,
    leadership: Leadership,
    accepted: Acceptance,
    log_writes: VecDeque<LogWrite>,
    last_log_write: u64,
    /// The term on disk.
    durable_term: u64,
    disk_is_stuck: bool,
    committed: VecDeque<Entry>,
    slices_at_applier: usize,
    applied: u64,
    /// The snapshot that the state is being replaced by, until that is done.
    installing: Option<LogPosition>,
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
            // raft-rs 0.7.0 puts entries behind an empty append of another index when a rejection comes between, and the
            // follower acknowledges what it does not have. `merge_appends` does what is worth it.
            batch_append: false,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 4 << 20,
            ..Config::default()
        };
        config.validate()?;
        let durable_term = window.hard_state().term;
        let raft = RawNode::new(&config, window, logger)?;
        let mut node = Node {
            raft,
            settings,
            writes: Writes::default(),
            reads: Reads::default(),
            leadership: Leadership::default(),
            accepted: Acceptance::default(),
            log_writes: VecDeque::new(),
            last_log_write: 0,
            durable_term,
            disk_is_stuck: false,
            committed: VecDeque::new(),
            slices_at_applier: 0,
            applied: applied.0,
            installing: None,
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
            leader: self.leader(),
            is_leader: self.is_leader(),
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

    pub fn heartbeat_interval(&self) -> Duration {
        TICK * self.settings.heartbeat_ticks as u32
    }

    fn election_timeout(&self) -> Duration {
        TICK * self.settings.election_ticks as u32
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

    /// A message from a peer. What does not make sense is dropped: raft repeats what matters.
    pub fn step(&mut self, message: Message) {
        if message.to != self.settings.id.0 || self.breaks_progress(&message) || self.is_beyond_log(&message) {
            return;
        }
        match message.get_msg_type() {
            MessageType::MsgAppend if has_gap(&message) => return,
            MessageType::MsgAppend => return self.step_append(message),
            MessageType::MsgReadIndex => return self.step_read(message),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote if self.disk_is_stuck => return,
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            _ => {}
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

    /// What was sent to `peer` may not have got there.
    pub fn unreachable(&mut self, peer: MemberId) {
        self.raft.report_unreachable(peer.0);
    }

    /// One [`TICK`] of time has passed.
    pub fn tick(&mut self, now: Duration) {
        if !self.may_campaign() {
            self.hold_election_back();
        }
        self.raft.tick();
        self.give_late_round_up(now);
        self.look_for_lost_requests();
    }

    /// The write `number`, and all before it, are durable.
    pub fn log_persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        while self.log_writes.front().is_some_and(|write| write.number <= number) {
            if let Some(write) = self.log_writes.pop_front() {
                self.raft.on_persist_ready(write.persists);
                self.durable_term = write.term.unwrap_or(self.durable_term);
                if !write.messages.is_empty() {
                    effects.push(Effect::Send(write.messages));
                }
                effects.extend(write.installs.map(|position| Effect::InstallSnapshot { position }));
            }
        }
        if self.is_only_voter() {
            self.campaign_alone();
        }
    }

    /// The Applier has published a view at `index`, the end of the slice it was given.
    pub fn applied(&mut self, index: LogIndex) {
        self.slices_at_applier = self.slices_at_applier.saturating_sub(1);
        self.advance_applied(index);
    }

    fn advance_applied(&mut self, index: LogIndex) {
        assert!(index.0 >= self.applied, "applied index went back from {} to {index}", self.applied);
        self.applied = index.0;
        self.raft.advance_apply_to(index.0);
        self.shrink_window();
        if self.is_only_voter() {
            self.campaign_alone();
        }
    }

    /// Nobody else can be leader: waiting for an election time-out would only delay the start. raft refuses while a
    /// committed conf change is not applied, as at each start that replays the first entry, and a log that is being written
    /// must be written first; so this is asked again.
    fn campaign_alone(&mut self) {
        if self.raft.raft.state == StateRole::Follower && self.may_campaign() {
            // A refusal costs the time-out, nothing else.
            let _ = self.raft.campaign();
        }
    }

    /// A change of the membership was applied to the state machine: raft follows. One that was under way there while raft
    /// took a snapshot over is in the snapshot, with whatever undid it since.
    ///
    /// # Errors
    /// When raft-rs rejects the change, which the state machine should have refused before, or has other members after it.
    pub fn conf_change_applied(&mut self, applied: &AppliedConfChange) -> Result<(), ConfChangeError> {
        if self.has_taken_over(applied.index) {
            return Ok(());
        }
        let found = sorted(self.raft.apply_conf_change(&applied.change)?);
        if let Some(expected) = applied.conf_state.clone().map(sorted)
            && expected != found
        {
            let (expected, found) = (Box::new(expected), Box::new(found));
            return Err(ConfChangeError::OtherMembers { expected, found });
        }
        self.raft.mut_store().set_conf_state(found);
        self.leave_leadership();
        Ok(())
    }

    /// Whether the entry at `index` is in a snapshot that raft has accepted and the state machine has not.
    fn has_taken_over(&self, index: LogIndex) -> bool {
        let accepted = self.raft.raft.raft_log.unstable.snapshot.as_ref().map(|it| LogIndex(it.get_metadata().index));
        let installing = self.installing.map(|position| position.index);
        accepted.max(installing).is_some_and(|taken_over| index <= taken_over)
    }

    /// The log on disk no longer holds entries up to `position`, or will not soon: forget them here first, so that raft
    /// never asks for one that is gone.
    pub fn log_cut(&mut self, position: LogPosition) {
        assert!(position.index.0 <= self.applied, "cut at {} above the applied {}", position.index, self.applied);
        self.raft.mut_store().cut(position);
    }

    /// Closes a batch of events: proposes what is queued, takes what raft has ready, answers who can be answered.
    pub fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.watch_disk(now, effects);
        self.follow_leader(now);
        self.expire_writes(now, effects);
        self.expire_reads(now, effects);
        self.tell_late_reads(now, effects);
        self.send_queued(now, effects);
        self.ask_reads(now);
        while self.log_writes.len() < LOG_WRITES_MAX && self.raft.has_ready() {
            self.take_ready(now, effects);
        }
        self.tell_status(effects);
        self.hand_to_applier(effects);
        self.answer_reads(effects);
        self.ask_for_supplies(effects);
        self.draw_election_timeout();
    }

    /// Before entries go to the Applier: nobody may see an applied index above the commit index.
    fn tell_status(&mut self, effects: &mut Vec<Effect>) {
        let status = self.status();
        if self.status != Some(status) {
            self.status = Some(status);
            effects.push(Effect::StatusChanged(status));
        }
    }

    fn is_only_voter(&self) -> bool {
        let voters = self.raft.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.settings.id.0)
    }

    fn take_ready(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut ready = self.raft.ready();
        let number = ready.number();
        let mut waiting = Vec::new();
        let messages = merge_appends(ready.take_messages());
        if self.durable_term < self.raft.raft.term {
            // Only of a lone voter, which elects itself: others lead because somebody has heard of a vote that is on disk. If
            // it forgot that it has led in this term it would do so again, with other entries.
            waiting = messages;
        } else if !messages.is_empty() {
            effects.push(Effect::Send(messages));
        }
        for state in ready.take_read_states() {
            self.read_confirmed(state.index, &state.request_ctx);
        }
        self.committed.extend(ready.take_committed_entries());
        let (promises, early): (Vec<_>, Vec<_>) = ready.take_persisted_messages().into_iter().partition(promises);
        waiting.extend(promises);
        if !early.is_empty() {
            effects.push(Effect::Send(early));
        }
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().clone());
        let must_write = ready.must_sync() || !entries.is_empty();

        let store = self.raft.mut_store();
        if let Some(hard_state) = hard_state {
            store.set_hard_state(hard_state.clone());
            self.hard_state_unsaved = Some(hard_state);
        }
        let installs = snapshot.map(|metadata| {
            let position = LogPosition::new(metadata.index, metadata.term);
            store.restore(position, metadata.get_conf_state().clone());
            (position, metadata.get_conf_state().clone(), store.hard_state().clone())
        });
        store.append(&entries);
        self.raft.advance_append_async(ready);

        if let Some((position, conf_state, hard_state)) = installs {
            // What was committed before it is in it.
            self.committed.clear();
            self.skip_pending(position.index.0, effects);
            self.installing = Some(position);
            self.hard_state_unsaved = None;
            // It is persisted with what follows it, or by itself; before raft knows, the state must not be there.
            let (persists, installs) = if entries.is_empty() { (number, Some(position)) } else { (number - 1, None) };
            let replace = self.write_log(now, persists, installs, Some(hard_state.term));
            effects.push(Effect::ReplaceLog(ReplaceLog { number: replace, position, conf_state, hard_state }));
            if !entries.is_empty() {
                let append = self.write_log(now, number, Some(position), None);
                effects.push(Effect::AppendLog(AppendLog { number: append, entries, hard_state: None }));
            }
        } else if must_write {
            let hard_state = self.hard_state_unsaved.take();
            let term = hard_state.as_ref().map(|hard_state| hard_state.term);
            let append = self.write_log(now, number, None, term);
            effects.push(Effect::AppendLog(AppendLog { number: append, entries, hard_state }));
        }
        if let Some(last) = self.log_writes.back_mut() {
            last.persists = number;
            last.messages.extend(waiting);
        } else {
            self.raft.on_persist_ready(number);
            if !waiting.is_empty() {
                effects.push(Effect::Send(waiting));
            }
        }
    }

    /// One more write is under way to the log. Answers its number.
    fn write_log(&mut self, since: Duration, persists: u64, installs: Option<LogPosition>, term: Option<u64>) -> u64 {
        self.last_log_write += 1;
        let number = self.last_log_write;
        self.log_writes.push_back(LogWrite { number, since, persists, messages: Vec::new(), installs, term });
        number
    }

    fn hand_to_applier(&mut self, effects: &mut Vec<Effect>) {
        while self.slices_at_applier < SLICES_MAX && self.installing.is_none() && !self.committed.is_empty() {
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

    /// raft-rs draws from the thread's generator; a seed must give the same run, so it is drawn again here.
    fn draw_election_timeout(&mut self) {
        let raft = &mut self.raft.raft;
        let (least, spread) = (self.settings.election_ticks, (self.settings.election_ticks * 2 / 5).max(1));
        let mixed = mix(self.settings.seed ^ mix(self.settings.id.0 ^ mix(raft.term)));
        let ticks = least + (mixed % spread as u64) as usize;
        if raft.randomized_election_timeout() != ticks {
            raft.set_randomized_election_timeout(ticks);
        }
    }
}

/// Whether the sender must have on disk what it says. The others leave at once, as etcd's do: a slow disk of a follower must not
/// slow reads down, or make it look dead.
fn promises(message: &Message) -> bool {
    if is_planted_early(message.get_msg_type()) {
        return false;
    }
    !matches!(message.get_msg_type(), MessageType::MsgReadIndex | MessageType::MsgHeartbeatResponse)
}

fn is_planted_early(kind: MessageType) -> bool {
    match kind {
        MessageType::MsgRequestVote | MessageType::MsgRequestVoteResponse => planted::is_on(Bug::VotesBeforeSync),
        MessageType::MsgAppendResponse => planted::is_on(Bug::AcceptsBeforeSync),
        _ => false,
    }
}

/// A follower that took such an append would acknowledge what it does not have.
fn has_gap(append: &Message) -> bool {
    append.entries.first().is_some_and(|first| first.index != append.index + 1)
}

/// Leaves out appends without entries that only tell how far the leader has committed, where another one can say so.
fn merge_appends(messages: Vec<Message>) -> Vec<Message> {
    let is_append = |message: &Message| message.get_msg_type() == MessageType::MsgAppend;
    let mut merged: Vec<Message> = Vec::with_capacity(messages.len());
    for mut message in messages {
        let before = merged.iter_mut().rev().find(|before| before.to == message.to && is_append(before));
        match before.filter(|before| is_append(&message) && before.term == message.term) {
            Some(before)
                if message.entries.is_empty() && message.index == before.index + before.entries.len() as u64 =>
            {
                before.commit = before.commit.max(message.commit);
            }
            Some(before) if before.entries.is_empty() && message.index == before.index => {
                message.commit = message.commit.max(before.commit);
                *before = message;
            }
            _ => merged.push(message),
        }
    }
    merged
}

/// SplitMix64's finaliser: spreads close numbers over all 64 bits.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
