//! Linearizable reads: which round of them waits for which confirmation of leadership (ReadIndex, Raft thesis §6.4).
//!
//! ```text
//!   read_index ─▶ new ─▶ one round, asked of the leader ─▶ confirmed at an index ─▶ applied up to there ─▶ ReadsReady
//!                  ▲──────── no answer, or another leader ────┘
//! ```
//! Raft loses such questions silently, when leadership changes for instance. So a round is given up after [`READ_RETRY`],
//! and at once with its leader; its reads join the next one, which has a new context: raft-rs 0.7.0 may answer an old one
//! from long ago. A round that was late gives the next one twice the time, up to an election time-out: nearer than that to
//! each other members have to be. Reads wait through an election, and fail at their deadline.

use super::{Effect, Node, RaftError};
use crate::ids::RequestId;
use crate::planted::{self, Bug};
use raft::eraftpb::Message;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A read whose confirmation was lost (raft-rs drops some silently) is asked again, with a new context.
pub const READ_RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct WaitingRead {
    request: RequestId,
    deadline: Duration,
}

/// Reads that wait together for one confirmation of leadership.
#[derive(Debug)]
struct Round {
    counter: u64,
    late_at: Duration,
    reads: Vec<WaitingRead>,
}

#[derive(Default)]
pub(super) struct Reads {
    new: Vec<WaitingRead>,
    round: Option<Round>,
    /// Rounds that were late since one was answered.
    late_rounds: u32,
    counter: u64,
    late_told: Duration,
    /// Wait for their index to be applied, ascending.
    confirmed: VecDeque<(u64, Vec<WaitingRead>)>,
    /// Questions of followers that came before this leader may answer; the newest of each.
    parked: BTreeMap<u64, Message>,
}

impl Reads {
    /// The context is spent: raft-rs may still answer it, and that answer must not count.
    pub(super) fn give_round_up(&mut self) {
        if let Some(round) = self.round.take() {
            if planted::is_on(Bug::ReusesReadContexts) {
                self.counter -= 1;
            }
            self.new.splice(0..0, round.reads);
        }
    }
}

impl Node {
    pub fn read_index(&mut self, now: Duration, request: RequestId) {
        let deadline = now + self.settings.request_timeout;
        self.reads.new.push(WaitingRead { request, deadline });
    }

    pub(super) fn give_late_round_up(&mut self, now: Duration) {
        if self.reads.round.as_ref().is_some_and(|round| now >= round.late_at) {
            self.reads.late_rounds += 1;
            self.reads.give_round_up();
        }
    }

    /// A follower's question. raft-rs drops it silently until this leader has committed something in its term, and would
    /// send it on in the follower's name if another one led.
    pub(super) fn step_read(&mut self, message: Message) {
        if self.may_ask_reads() && self.is_leader() {
            // The only errors are "unknown peer" and "local message": both mean "not for us".
            let _ = self.raft.step(message);
        } else if self.is_leader() && self.raft.raft.prs().get(message.from).is_some() {
            self.reads.parked.insert(message.from, message);
        }
    }

    /// raft-rs answers reads only after the first commit of the leader's term, and drops earlier ones silently.
    fn may_ask_reads(&self) -> bool {
        let raft = &self.raft.raft;
        if self.is_leader() { raft.commit_to_current_term() } else { raft.leader_id != raft::INVALID_ID }
    }

    pub(super) fn ask_reads(&mut self, now: Duration) {
        if planted::is_on(Bug::SkipsTermCheck) && self.is_leader() && !self.raft.raft.commit_to_current_term() {
            let (index, reads) = (self.raft.raft.raft_log.committed, std::mem::take(&mut self.reads.new));
            let before = self.reads.confirmed.back().map_or(0, |(before, _)| *before);
            return self.reads.confirmed.push_back((index.max(before), reads));
        }
        if !self.may_ask_reads() {
            return;
        }
        for (_, message) in std::mem::take(&mut self.reads.parked) {
            self.step_read(message);
        }
        if self.reads.new.is_empty() || self.reads.round.is_some() {
            return;
        }
        self.reads.counter += 1;
        let counter = self.reads.counter;
        self.raft.read_index(self.read_context(counter));
        let patience = READ_RETRY.saturating_mul(1 << self.reads.late_rounds.min(8));
        let late_at = now + patience.min(self.election_timeout().max(READ_RETRY));
        self.reads.round = Some(Round { counter, late_at, reads: std::mem::take(&mut self.reads.new) });
    }

    fn read_context(&self, counter: u64) -> Vec<u8> {
        [self.settings.id.0, self.settings.boot, counter].map(u64::to_be_bytes).concat()
    }

    /// Leadership is confirmed as of `index`, if this answers the question that is asked.
    pub(super) fn read_confirmed(&mut self, index: u64, context: &[u8]) {
        let asked = self.reads.round.as_ref().map(|round| self.read_context(round.counter));
        if asked.is_some_and(|asked| asked == context)
            && let Some(round) = self.reads.round.take()
        {
            self.reads.late_rounds = 0;
            let before = self.reads.confirmed.back().map_or(0, |(before, _)| *before);
            self.reads.confirmed.push_back((index.max(before), round.reads));
        }
    }

    pub(super) fn answer_reads(&mut self, effects: &mut Vec<Effect>) {
        while let Some((_, reads)) = self.reads.confirmed.pop_front_if(|(index, _)| *index <= self.applied) {
            effects.push(Effect::ReadsReady(reads.into_iter().map(|read| read.request).collect()));
        }
    }

    pub(super) fn tell_late_reads(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        // Those of a round come back here when it is given up.
        let Some(oldest) = self.reads.new.first() else { return };
        let asked_at = oldest.deadline.saturating_sub(self.settings.request_timeout);
        if now >= asked_at + READ_RETRY && now >= self.reads.late_told + READ_RETRY {
            self.reads.late_told = now;
            effects.push(Effect::ReadsLate { asked: self.reads.counter });
        }
    }

    pub(super) fn expire_reads(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let timeout = self.settings.request_timeout;
        let elected_at = self.leadership.elected_at;
        let mut expire = |reads: &mut Vec<WaitingRead>| {
            if reads.first().is_some_and(|oldest| oldest.deadline <= now) {
                for read in reads.extract_if(.., |read| read.deadline <= now) {
                    let leader_changed = elected_at.is_some_and(|at| at + timeout > read.deadline);
                    let error = if leader_changed { RaftError::LeaderChanged } else { RaftError::Timeout };
                    effects.push(Effect::Failed(read.request, error));
                }
            }
        };
        expire(&mut self.reads.new);
        if let Some(round) = &mut self.reads.round {
            expire(&mut round.reads);
        }
        for (_, reads) in &mut self.reads.confirmed {
            expire(reads);
        }
    }
}
