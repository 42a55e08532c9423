//! The leader's clock over leases: who has how much time left, and who ran out of it.
//!
//! ```text
//!   KeepAlive ─────────────────▶ ┌─ LeaseKeeper ─┐ ──Answer──▶ whoever asked
//!   Granted, Revoked, ─────────▶ │ alive:    due │ ──Expired──▶ the log: revoke them
//!   Checkpointed (from the log)  │ expired:  ▽   │ ──Checkpoint──▶ the log: remember what is left
//!   LeaderChanged, Tick ───────▶ └───────────────┘
//! ```
//! All members follow what the log does to leases; only the leader's keeper has deadlines. A new leader does not know who
//! was kept alive lately, so it gives every lease its full time again, or what was left at the last checkpoint, and the
//! time an election takes on top. So a lease can live longer than its holder asked for, but never shorter: a keep alive is
//! answered only by a leader that was still confirmed no longer ago than that. Whoever has been elected since began to count
//! after the confirmation, and ends behind what was promised, however long the old leader goes on without knowing.
//!
//! Keeping a lease alive touches one map entry: where a lease stands in the order of deadlines is only corrected when its
//! old place comes up. Effects may get lost on their way into the log; what is not seen to be done is asked for again.

use super::{Grant, LeaseTable};
use crate::ids::{LeaseId, LogIndex, Term};
use crate::planted::{self, Bug};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// Leases that are taken for expired in one go. The rest waits until their revokes are done.
const EXPIRED_PER_ROUND: usize = 500;
/// Revokes that may be on their way through the log at once.
const REVOKES_MAX: usize = 16;
/// A revoke or a checkpoint that has not come back is sent again.
const RETRY_AFTER: Duration = Duration::from_secs(3);
/// What is left of a lease is remembered this often while nobody keeps it alive. Shorter leases are not worth it.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);
const CHECKPOINTS_PER_ROUND: usize = 1_000;

/// Names a question until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeepAliveId(pub u64);

/// A read index that has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Of this member when it asked.
    pub term: Term,
    /// Nobody can have been elected before.
    pub asked_at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `confirmed`, if this member has shown since the client asked that it leads, and has applied all that was committed.
    KeepAlive {
        request: KeepAliveId,
        lease: LeaseId,
        confirmed: Option<Confirmation>,
    },
    /// From the log, in its order.
    Granted {
        grant: Grant,
        ttl_secs: i64,
    },
    Revoked {
        lease: LeaseId,
    },
    Checkpointed {
        lease: LeaseId,
        remaining_secs: i64,
    },
    /// `leading` is the term in which this member leads.
    LeaderChanged {
        leading: Option<Term>,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Answer {
        request: KeepAliveId,
        answer: Answer,
    },
    Expired {
        leases: Vec<Grant>,
        term: Term,
    },
    /// What is left of each lease, in seconds; 0 means all of it.
    Checkpoint {
        remaining_secs: Vec<(Grant, i64)>,
        term: Term,
    },
}

/// What became of a keep alive. Each question gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Renewed {
        ttl_secs: i64,
    },
    /// There is no such lease, or no longer.
    Gone,
    NotLeader,
    /// Ask again once leadership is confirmed: the lease is not known here (yet), or that was done too long ago, so that
    /// another member may lead by now.
    Unconfirmed,
}

/// What is known of a lease's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLeft {
    Known { ttl_secs: i64, remaining_secs: i64 },
    Unknown,
    NotLeader,
}

#[derive(Clone, Debug)]
struct Lease {
    granted: LogIndex,
    ttl_secs: i64,
    /// As of the last checkpoint; 0 if all of it.
    checkpointed_secs: i64,
    /// The rest has a meaning on the leader only.
    deadline: Duration,
    renewed: Duration,
    /// Its place in `due`, at or before its deadline. `None` once it has expired.
    due: Option<Duration>,
    /// Its place in `checkpoints_due`.
    checkpoint_due: Option<Duration>,
    /// A checkpoint is on its way: the log may say by now that less than all is left.
    checkpoint_sent: bool,
}

impl Lease {
    fn new(granted: LogIndex, ttl_secs: i64, checkpointed_secs: i64) -> Self {
        Self {
            granted,
            ttl_secs,
            checkpointed_secs,
            deadline: Duration::ZERO,
            renewed: Duration::ZERO,
            due: None,
            checkpoint_due: None,
            checkpoint_sent: false,
        }
    }

    fn ttl(&self) -> Duration {
        secs(self.ttl_secs)
    }
}

pub struct LeaseKeeper {
    election_timeout: Duration,
    leases: HashMap<LeaseId, Lease>,
    leading: Option<Term>,
    /// When the newest question of this term was asked that has confirmed leadership.
    confirmed_at: Option<Duration>,
    due: BTreeSet<(Duration, LeaseId)>,
    checkpoints_due: BTreeSet<(Duration, LeaseId)>,
    /// Expired, and not yet on their way to be revoked.
    expired: VecDeque<LeaseId>,
    /// On their way to be revoked, since when.
    revoking: BTreeMap<LeaseId, Duration>,
    /// Kept alive, while the log still says that less than all is left; since when it is being told.
    resetting: BTreeMap<LeaseId, Duration>,
    waiting_for_revoke: BTreeMap<LeaseId, Vec<KeepAliveId>>,
    waiting_for_reset: BTreeMap<LeaseId, Vec<KeepAliveId>>,
}

impl LeaseKeeper {
    /// A follower's keeper over what the log has made of `table`.
    pub fn new(table: &LeaseTable, election_timeout: Duration) -> Self {
        let leases =
            table.iter().map(|(id, row)| (id, Lease::new(row.granted, row.ttl_secs, row.remaining_ttl_secs))).collect();
        Self {
            election_timeout,
            leases,
            leading: None,
            confirmed_at: None,
            due: BTreeSet::new(),
            checkpoints_due: BTreeSet::new(),
            expired: VecDeque::new(),
            revoking: BTreeMap::new(),
            resetting: BTreeMap::new(),
            waiting_for_revoke: BTreeMap::new(),
            waiting_for_reset: BTreeMap::new(),
        }
    }

    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// What a lease has left, in whole seconds, rounded down.
    pub fn time_left(&self, now: Duration, lease: LeaseId) -> TimeLeft {
        if self.leading.is_none() {
            return TimeLeft::NotLeader;
        }
        match self.leases.get(&lease) {
            None => TimeLeft::Unknown,
            Some(known) => TimeLeft::Known {
                ttl_secs: known.ttl_secs,
                remaining_secs: known.deadline.saturating_sub(now).as_secs() as i64,
            },
        }
    }

    /// All leases: on the leader those that expire soonest first, else by id.
    pub fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<(Duration, LeaseId)> = self
            .leases
            .iter()
            .map(|(id, lease)| (if self.leading.is_some() { lease.deadline } else { Duration::ZERO }, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Follows the log from a table it was not told about change by change: after a snapshot was installed.
    pub fn replace(&mut self, now: Duration, table: &LeaseTable, effects: &mut Vec<Effect>) {
        let leading = self.leading;
        self.follow(effects);
        *self = Self::new(table, self.election_timeout);
        if let Some(term) = leading {
            self.lead(now, term);
        }
    }

    /// What holds between two steps: only a leader has clocks, each lease has a place in them or is on its way out, and whoever
    /// waits waits for something that is under way.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check_invariants(&self) {
        if self.leading.is_none() {
            assert!(self.due.is_empty() && self.checkpoints_due.is_empty() && self.expired.is_empty());
            assert!(self.revoking.is_empty() && self.resetting.is_empty() && self.confirmed_at.is_none());
            assert!(self.waiting_for_revoke.is_empty() && self.waiting_for_reset.is_empty());
        }
        let (mut due, mut checkpoints_due) = (0, 0);
        for (id, lease) in &self.leases {
            if let Some(at) = lease.due {
                assert!(self.due.contains(&(at, *id)) && at <= lease.deadline, "lease {id} has no place among the due");
                due += 1;
            } else if self.leading.is_some() {
                let goes = self.revoking.contains_key(id) || self.expired.contains(id);
                assert!(goes, "lease {id} has expired, and nobody revokes it");
            }
            if let Some(at) = lease.checkpoint_due {
                assert!(self.checkpoints_due.contains(&(at, *id)), "lease {id} has no place among the checkpoints");
                checkpoints_due += 1;
            }
        }
        assert_eq!((due, checkpoints_due), (self.due.len(), self.checkpoints_due.len()));
        let is_expired = |id| self.leases.get(id).is_some_and(|lease| lease.due.is_none());
        assert!(self.revoking.keys().all(is_expired) && self.waiting_for_revoke.keys().all(is_expired));
        assert!(self.waiting_for_reset.keys().all(|id| self.resetting.contains_key(id)));
    }

    /// `now` is monotonic, since an arbitrary start.
    pub fn step(&mut self, now: Duration, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::KeepAlive { request, lease, confirmed } => self.keep_alive(now, request, lease, confirmed, effects),
            Input::Granted { grant, ttl_secs } => self.granted(now, grant, ttl_secs),
            Input::Revoked { lease } => self.revoked(now, lease, effects),
            Input::Checkpointed { lease, remaining_secs } => self.checkpointed(now, lease, remaining_secs, effects),
            Input::LeaderChanged { leading } if leading == self.leading => {}
            Input::LeaderChanged { leading } => {
                self.follow(effects);
                if let Some(term) = leading {
                    self.lead(now, term);
                }
            }
            Input::Tick => self.tick(now, effects),
        }
    }

    fn keep_alive(
        &mut self,
        now: Duration,
        request: KeepAliveId,
        id: LeaseId,
        confirmed: Option<Confirmation>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(term) = self.leading else {
            return effects.push(Effect::Answer { request, answer: Answer::NotLeader });
        };
        let confirmed = confirmed.filter(|confirmed| confirmed.term == term);
        self.confirmed_at = self.confirmed_at.max(confirmed.map(|confirmed| confirmed.asked_at));
        let is_recent = self.confirmed_at.is_some_and(|at| now <= at + self.election_timeout);
        let is_recent = is_recent || planted::is_on(Bug::StaleLeaderKeepsAlive);
        let answer = match self.leases.get_mut(&id) {
            None if planted::is_on(Bug::KeepAliveRacesGrant) => Answer::Gone,
            _ if confirmed.is_none() && !is_recent => Answer::Unconfirmed,
            None if confirmed.is_some() => Answer::Gone,
            None => Answer::Unconfirmed,
            Some(lease) if (lease.due.is_none() || lease.deadline <= now) && !planted::is_on(Bug::RenewsExpired) => {
                // It will be revoked, and may be already: nothing but the end of that is a true answer.
                self.waiting_for_revoke.entry(id).or_default().push(request);
                self.expire(id);
                return self.send_revokes(now, term, effects);
            }
            Some(lease) => {
                renew(lease, now, id, &mut self.due);
                if lease.checkpointed_secs != 0 || lease.checkpoint_sent {
                    // A leader elected now would count from the checkpoint: what is promised has to be in the log first.
                    self.waiting_for_reset.entry(id).or_default().push(request);
                    if self.resetting.insert(id, now).is_none() {
                        let grant = Grant { lease: id, index: lease.granted };
                        effects.push(Effect::Checkpoint { remaining_secs: vec![(grant, 0)], term });
                    }
                    return;
                }
                Answer::Renewed { ttl_secs: lease.ttl_secs }
            }
        };
        effects.push(Effect::Answer { request, answer });
    }

    fn granted(&mut self, now: Duration, grant: Grant, ttl_secs: i64) {
        let id = grant.lease;
        let before = self.leases.insert(id, Lease::new(grant.index, ttl_secs, 0));
        debug_assert!(before.is_none());
        if self.leading.is_some() {
            self.start_clock(now, id, secs(ttl_secs));
        }
    }

    fn revoked(&mut self, now: Duration, id: LeaseId, effects: &mut Vec<Effect>) {
        let Some(lease) = self.leases.remove(&id) else { return };
        if let Some(due) = lease.due {
            self.due.remove(&(due, id));
        }
        if let Some(due) = lease.checkpoint_due {
            self.checkpoints_due.remove(&(due, id));
        }
        self.revoking.remove(&id);
        self.resetting.remove(&id);
        let waiting = [self.waiting_for_revoke.remove(&id), self.waiting_for_reset.remove(&id)];
        for request in waiting.into_iter().flatten().flatten() {
            effects.push(Effect::Answer { request, answer: Answer::Gone });
        }
        if let Some(term) = self.leading {
            if self.expired.is_empty() {
                self.find_expired(now);
            }
            self.send_revokes(now, term, effects);
        }
    }

    fn checkpointed(&mut self, now: Duration, id: LeaseId, remaining_secs: i64, effects: &mut Vec<Effect>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.checkpointed_secs = remaining_secs;
        if remaining_secs != 0 {
            return;
        }
        lease.checkpoint_sent = false;
        self.resetting.remove(&id);
        let Some(waiting) = self.waiting_for_reset.remove(&id) else { return };
        if lease.due.is_none() {
            // It took so long that the lease expired meanwhile.
            self.waiting_for_revoke.entry(id).or_default().extend(waiting);
            return;
        }
        renew(lease, now, id, &mut self.due);
        let answer = Answer::Renewed { ttl_secs: lease.ttl_secs };
        effects.extend(waiting.into_iter().map(|request| Effect::Answer { request, answer }));
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(term) = self.leading else { return };
        if self.expired.is_empty() {
            self.find_expired(now);
        }
        let mut again = Vec::new();
        for (id, since) in self.revoking.iter_mut().filter(|(_, since)| now >= **since + RETRY_AFTER) {
            *since = now;
            again.extend(self.leases.get(id).map(|lease| Grant { lease: *id, index: lease.granted }));
        }
        if !again.is_empty() {
            effects.push(Effect::Expired { leases: again, term });
        }
        self.send_revokes(now, term, effects);
        self.checkpoint(now, term, effects);
    }

    // ---- Expiry ----

    fn find_expired(&mut self, now: Duration) {
        let mut found = 0;
        while found < EXPIRED_PER_ROUND
            && let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            let Some(lease) = self.leases.get_mut(&id) else {
                self.due.pop_first();
                continue;
            };
            if lease.deadline <= now {
                self.expire(id);
                found += 1;
            } else {
                // Kept alive since it took this place.
                self.due.pop_first();
                lease.due = Some(lease.deadline);
                self.due.insert((lease.deadline, id));
            }
        }
    }

    fn expire(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(due) = lease.due.take() {
            self.due.remove(&(due, id));
            self.expired.push_back(id);
        }
    }

    fn send_revokes(&mut self, now: Duration, term: Term, effects: &mut Vec<Effect>) {
        let mut leases = Vec::new();
        while self.revoking.len() < REVOKES_MAX
            && let Some(id) = self.expired.pop_front()
        {
            // A client may have revoked it in the meantime, and even granted it anew.
            if let Some(lease) = self.leases.get(&id).filter(|lease| lease.due.is_none()) {
                self.revoking.insert(id, now);
                leases.push(Grant { lease: id, index: lease.granted });
            }
        }
        if !leases.is_empty() {
            effects.push(Effect::Expired { leases, term });
        }
    }

    // ---- Checkpoints ----

    fn checkpoint(&mut self, now: Duration, term: Term, effects: &mut Vec<Effect>) {
        let mut remaining_secs = Vec::new();
        for (id, since) in self.resetting.iter_mut().filter(|(_, since)| now >= **since + RETRY_AFTER) {
            *since = now;
            remaining_secs.extend(self.leases.get(id).map(|lease| (Grant { lease: *id, index: lease.granted }, 0)));
        }
        while remaining_secs.len() < CHECKPOINTS_PER_ROUND
            && let Some(&(due, id)) = self.checkpoints_due.first()
            && due <= now
        {
            self.checkpoints_due.pop_first();
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            let next = if lease.renewed + CHECKPOINT_EVERY > now {
                // Nothing to remember: it was kept alive lately.
                lease.renewed + CHECKPOINT_EVERY
            } else {
                let left = lease.deadline.saturating_sub(now);
                if left > Duration::ZERO && !self.resetting.contains_key(&id) {
                    let grant = Grant { lease: id, index: lease.granted };
                    remaining_secs.push((grant, left.as_secs() as i64 + i64::from(left.subsec_nanos() > 0)));
                    lease.checkpoint_sent = true;
                }
                now + CHECKPOINT_EVERY
            };
            lease.checkpoint_due = Some(next);
            self.checkpoints_due.insert((next, id));
        }
        if !remaining_secs.is_empty() {
            effects.push(Effect::Checkpoint { remaining_secs, term });
        }
    }

    // ---- Leadership ----

    fn lead(&mut self, now: Duration, term: Term) {
        self.leading = Some(term);
        let leases: Vec<(LeaseId, Duration)> = self
            .leases
            .iter()
            .map(|(id, lease)| {
                let left = if lease.checkpointed_secs != 0 { lease.checkpointed_secs } else { lease.ttl_secs };
                (*id, secs(left) + self.election_timeout)
            })
            .collect();
        for (id, left) in leases {
            self.start_clock(now, id, left);
        }
    }

    fn start_clock(&mut self, now: Duration, id: LeaseId, left: Duration) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.renewed = now;
        lease.deadline = now + left;
        lease.due = Some(lease.deadline);
        self.due.insert((lease.deadline, id));
        if lease.ttl() > CHECKPOINT_EVERY {
            let due = now + CHECKPOINT_EVERY;
            lease.checkpoint_due = Some(due);
            self.checkpoints_due.insert((due, id));
        }
    }

    /// Stops all clocks: whoever waits has to ask the next leader.
    fn follow(&mut self, effects: &mut Vec<Effect>) {
        self.leading = None;
        self.confirmed_at = None;
        self.due.clear();
        self.checkpoints_due.clear();
        self.expired.clear();
        self.revoking.clear();
        self.resetting.clear();
        for lease in self.leases.values_mut() {
            (lease.due, lease.checkpoint_due, lease.checkpoint_sent) = (None, None, false);
        }
        let waiting = [std::mem::take(&mut self.waiting_for_revoke), std::mem::take(&mut self.waiting_for_reset)];
        for request in waiting.into_iter().flat_map(BTreeMap::into_values).flatten() {
            effects.push(Effect::Answer { request, answer: Answer::NotLeader });
        }
    }
}

/// The lease has its full time again. Its place among the due is corrected when that comes up; at once only if it would come
/// up too late, as that of a lease does to which a new leader has given the time of an election on top.
fn renew(lease: &mut Lease, now: Duration, id: LeaseId, due: &mut BTreeSet<(Duration, LeaseId)>) {
    lease.renewed = now;
    lease.deadline = now + lease.ttl();
    if let Some(late) = lease.due.filter(|due| *due > lease.deadline) {
        due.remove(&(late, id));
        due.insert((lease.deadline, id));
        lease.due = Some(lease.deadline);
    }
}

fn secs(secs: i64) -> Duration {
    Duration::from_secs(secs.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests;
