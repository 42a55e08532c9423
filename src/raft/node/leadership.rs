//! Who leads, since when, and who should next; and why a request had to wait too long.

use super::{Effect, Node, RaftError};
use crate::ids::MemberId;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
pub(super) struct Leadership {
    /// Term and leader as the last batch of events left them.
    seen: (u64, u64),
    was_leader: bool,
    /// When the leader that there is, or was last, became known.
    pub(super) elected_at: Option<Duration>,
    /// Since when each other member has been reached without a break.
    links: BTreeMap<MemberId, Duration>,
}

impl Node {
    pub(super) fn is_leader(&self) -> bool {
        self.raft.raft.state == raft::StateRole::Leader
    }

    pub(super) fn leader(&self) -> Option<MemberId> {
        let id = self.raft.raft.leader_id;
        (id != raft::INVALID_ID).then_some(MemberId(id))
    }

    /// A link was opened or lost. What was on the way over the one before may be lost too.
    pub fn link_changed(&mut self, peer: MemberId, connected_since: Option<Duration>) {
        match connected_since {
            Some(since) => {
                self.leadership.links.insert(peer, since);
                if self.leader() == Some(peer) {
                    self.writes.repeat_all();
                    self.reads.give_round_up();
                }
            }
            None => drop(self.leadership.links.remove(&peer)),
        }
    }

    /// `target` is to lead, or whoever can take over soonest; answers who. Nothing comes of it unless this member leads and
    /// there is another voter; and when that one does not take over within an election time-out, this member leads on.
    /// Proposals wait meanwhile.
    pub fn transfer_leader(&mut self, target: Option<MemberId>) -> Option<MemberId> {
        let target = target.or_else(|| self.successor())?;
        if !self.is_leader() {
            return None;
        }
        self.raft.transfer_leader(target.0);
        self.raft.raft.lead_transferee.map(MemberId)
    }

    /// The voter that has most of the log, among those that answer; of equals the one that has been reached for longest.
    fn successor(&self) -> Option<MemberId> {
        let progress = self.raft.raft.prs();
        let voters = progress.conf().voters().ids();
        let links = &self.leadership.links;
        let others = progress.iter().filter(|(id, _)| **id != self.settings.id.0 && voters.contains(**id));
        let candidates = others.filter(|(_, progress)| progress.recent_active);
        let rank = |id: u64, matched: u64| {
            let since = links.get(&MemberId(id));
            (since.is_some(), matched, std::cmp::Reverse(since.copied()), std::cmp::Reverse(id))
        };
        candidates.max_by_key(|(id, progress)| rank(**id, progress.matched)).map(|(id, _)| MemberId(*id))
    }

    /// Follows raft before anything is sent: what was sent to the leader before is sent to the next one.
    pub(super) fn follow_leader(&mut self, now: Duration) {
        let seen = (self.raft.raft.term, self.raft.raft.leader_id);
        if seen == self.leadership.seen {
            return;
        }
        let is_leader = self.is_leader();
        let was_leader = std::mem::replace(&mut self.leadership.was_leader, is_leader);
        self.leadership.seen = seen;
        if self.leader().is_some() {
            self.leadership.elected_at = Some(now);
        }
        self.writes.leader_changed();
        self.reads.give_round_up();
        if was_leader && !is_leader {
            self.writes.forget_tagged();
        }
    }

    /// This member was removed while it led. The best of the others is told to take over at once; and it leads no longer, since
    /// raft-rs looks for a leader's own progress whenever a follower or the disk answers, and there is none any more.
    pub(super) fn leave_leadership(&mut self) {
        if self.is_leader() && !self.raft.raft.prs().conf().voters().contains(self.settings.id.0) {
            self.transfer_leader(None);
            let term = self.raft.raft.term;
            self.raft.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// As etcd tells apart why a write was not answered by its deadline.
    pub(super) fn timed_out(&self, deadline: Duration) -> RaftError {
        let started = deadline.saturating_sub(self.settings.request_timeout);
        let Leadership { elected_at, links, .. } = &self.leadership;
        if elected_at.is_some_and(|at| started < at && at < started + 2 * self.election_timeout()) {
            return RaftError::TimeoutDueToLeaderFail;
        }
        let reached = |id: u64| links.get(&MemberId(id)).is_some_and(|since| *since < started);
        let own = self.settings.id.0;
        let is_reached = match self.leader() {
            None => true,
            Some(leader) if leader.0 == own => {
                let members = self.raft.raft.prs();
                let count = members.iter().filter(|(id, _)| **id == own || reached(**id)).count();
                count > members.iter().count() / 2
            }
            Some(leader) => reached(leader.0),
        };
        if is_reached { RaftError::Timeout } else { RaftError::TimeoutDueToConnectionLost }
    }

    /// A leader whose disk does not answer hands over, and steps down if that does not come to pass: its heartbeats would keep
    /// the others from electing one that can work.
    pub(super) fn watch_disk(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waits = self.log_writes.front().map_or(Duration::ZERO, |write| now.saturating_sub(write.since));
        let patience = self.election_timeout();
        let is_stuck = waits > patience;
        if is_stuck && !self.disk_is_stuck {
            effects.push(Effect::DiskStuck { is_leader: self.is_leader() });
        }
        self.disk_is_stuck = is_stuck;
        if !is_stuck || !self.is_leader() || self.is_only_voter() {
            return;
        }
        if waits > 2 * patience {
            let term = self.raft.raft.term;
            self.raft.raft.become_follower(term, raft::INVALID_ID);
        } else if self.raft.raft.lead_transferee.is_none() {
            self.transfer_leader(None);
        }
    }

    /// Whoever cannot write a vote down does not ask for one, and a log whose state is still being installed is no log to
    /// lead with; raft-rs would look for entries that are not there. A lone voter leads as soon as it asks, and raft-rs ends a
    /// leader that has entries which are not on disk: others ask with what they write after them.
    pub(super) fn may_campaign(&self) -> bool {
        let log = &self.raft.raft.raft_log;
        let has_all = || log.persisted == log.last_index();
        !self.disk_is_stuck && self.installing.is_none() && (!self.is_only_voter() || has_all())
    }

    /// Keeps the election time-out from coming. Whoever leads and is not heard of for so long does not lead for this member
    /// either: its clients must know, and it may vote for another.
    pub(super) fn hold_election_back(&mut self) {
        let raft = &mut self.raft.raft;
        let last = raft.randomized_election_timeout().saturating_sub(2);
        if raft.state != raft::StateRole::Leader && raft.election_elapsed > last {
            raft.election_elapsed = last;
            raft.leader_id = raft::INVALID_ID;
        }
    }
}
