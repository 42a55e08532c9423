//! The shell of LeaseKeeper.

use super::Around;
use super::mail::{ToLeaseKeeper, ToRaftNode};
use crate::member::edge::{News, Ticket};
use crate::planted::{self, Bug};
use castd::lease::{self, Effect, Input, KeepAliveId};
use castd::state::LeaseChange;
use std::collections::BTreeMap;
use std::time::Duration;

pub struct LeaseKeeper {
    pub core: lease::LeaseKeeper,
    effects: Vec<Effect>,
    waiting: BTreeMap<KeepAliveId, (Ticket, Duration)>,
    next_request: u64,
}

impl LeaseKeeper {
    pub fn new(core: lease::LeaseKeeper) -> Self {
        LeaseKeeper { core, effects: Vec::new(), waiting: BTreeMap::new(), next_request: 0 }
    }

    pub fn handle(&mut self, mail: ToLeaseKeeper, around: &mut Around<'_>) {
        match mail {
            ToLeaseKeeper::KeepAlive { lease, confirmed, ticket } => {
                self.next_request += 1;
                let request = KeepAliveId(self.next_request);
                self.waiting.insert(request, (ticket, around.now + around.settings.request_timeout));
                self.step(around.now, Input::KeepAlive { request, lease, confirmed }, around);
            }
            ToLeaseKeeper::LeasesChanged { changes, now } => {
                for change in changes {
                    let input = match change {
                        LeaseChange::Granted { grant, ttl_secs } => Input::Granted { grant, ttl_secs },
                        LeaseChange::Revoked { lease } => Input::Revoked { lease },
                        LeaseChange::Checkpointed { lease, remaining_secs } => {
                            Input::Checkpointed { lease, remaining_secs }
                        }
                    };
                    self.step(now, input, around);
                }
            }
            ToLeaseKeeper::LeasesReplaced { leases, now } => {
                self.core.replace(by_the_date(now, around), &leases, &mut self.effects);
                self.carry_out(around);
            }
            ToLeaseKeeper::LeaderChanged { status, now } => {
                let leading = status.is_leader.then_some(status.term);
                self.step(now, Input::LeaderChanged { leading }, around);
            }
            ToLeaseKeeper::Tick { now } => {
                self.step(now, Input::Tick, around);
                for (_, (ticket, _)) in self.waiting.extract_if(.., |_, (_, until)| *until <= now) {
                    around.edge(ticket, News::Dropped);
                }
            }
        }
    }

    fn step(&mut self, now: Duration, input: Input, around: &mut Around<'_>) {
        self.core.step(by_the_date(now, around), input, &mut self.effects);
        self.carry_out(around);
    }

    fn carry_out(&mut self, around: &mut Around<'_>) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Answer { request, answer } => {
                    if let Some((ticket, _)) = self.waiting.remove(&request) {
                        around.edge(ticket, News::Kept(answer));
                    }
                }
                Effect::Expired { leases, term } => {
                    around.checks.summary.count("leases expired");
                    around.mail(ToRaftNode::LeasesExpired { leases, term });
                }
                Effect::Checkpoint { remaining_secs, term } => {
                    around.checks.summary.count("leases were checkpointed");
                    around.mail(ToRaftNode::LeasesCheckpointed { remaining_secs, term });
                }
            }
        }
    }
}

/// `now`, but for the planted bug.
fn by_the_date(now: Duration, around: &Around<'_>) -> Duration {
    if planted::is_on(Bug::LeasesByTheDate) {
        return Duration::from_secs(around.unix_seconds.max(0).unsigned_abs());
    }
    now
}
