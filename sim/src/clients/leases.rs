//! A client with leases: one after the other is granted, given keys, kept alive for a while, and left alone or revoked.
//!
//! Some are kept alive as soon as they are there, wherever that is; and some of their keys go before they do: they are
//! deleted, belong to nobody any more, or to a lease of another client.

use super::{Desk, wire};
use crate::dice::Dice;
use crate::member::edge::{Answer, Ask, Call};
use crate::seed::Plan;
use castd::cast::RequestError;
use castd::lease::LeaseError;
use castd::state::Outcome as Applied;
use castd_judge::history::{LeaseOperation, LeaseOutcome, LeaseRequest, Micros, Op, Operation, Outcome, Request};
use std::time::Duration;

enum What {
    Lease(LeaseRequest),
    Put(Request),
}

struct UnderWay {
    number: u64,
    what: What,
    invoked: Micros,
}

/// A lease, and what is still to be done to it.
struct Lease {
    id: i64,
    ttl_secs: i64,
    keys_left: u64,
    keepalives_left: u64,
    is_to_be_revoked: bool,
    /// Keepalives come first.
    is_in_haste: bool,
}

/// Keys that all leases share.
const SHARED_KEYS: u64 = 4;

pub struct Leases {
    client: usize,
    number: u64,
    granted: i64,
    lease: Option<Lease>,
    under_way: Option<UnderWay>,
    /// The lease that the request under way is about.
    asked_of: i64,
    place: Option<usize>,
    dice: Dice,
}

impl Leases {
    pub fn new(client: usize, plan: &Plan) -> Self {
        let dice = Dice::new(plan.seed, "leases", client as u64);
        Leases { client, number: 0, granted: 0, lease: None, under_way: None, asked_of: 0, place: None, dice }
    }

    pub fn waiting(&self) -> Option<u64> {
        self.under_way.as_ref().map(|under_way| under_way.number)
    }

    pub fn wake(&mut self, desk: &mut Desk<'_>) {
        if desk.is_stopping || self.under_way.is_some() {
            return;
        }
        self.number += 1;
        let dice = &mut self.dice;
        let Some(lease) = &mut self.lease else {
            self.granted += 1;
            let ttl = &desk.plan.clients.ttl;
            let ttl_secs = dice.between(*ttl.start(), *ttl.end()) as i64;
            let keepalives_left = dice.between(0, desk.plan.clients.keepalives);
            let lease = Lease {
                id: (self.client as i64 + 1) << 32 | self.granted,
                ttl_secs,
                keys_left: dice.between(1, 4),
                keepalives_left,
                is_to_be_revoked: dice.chance(250),
                is_in_haste: keepalives_left > 0 && dice.chance(300),
            };
            let ask = Ask::Grant { lease: lease.id, ttl_secs };
            self.lease = Some(lease);
            return self.ask(What::Lease(LeaseRequest::Grant { ttl_secs }), ask, desk);
        };
        let id = lease.id;
        if lease.keys_left > 0 && !lease.is_in_haste {
            lease.keys_left -= 1;
            let own = |number: u64| format!("lease/{id:x}/{number}");
            let shared = format!("lease/shared/{}", dice.below(SHARED_KEYS));
            let value = format!("{}.{}", self.client, self.number);
            // The first of its own keys stays with it.
            let op = match dice.below(10) {
                0 => Op::Delete { key: own(lease.keys_left + 1) },
                1 => Op::Put { key: own(lease.keys_left + 1), value, lease: 0 },
                2 => Op::Put { key: shared, value, lease: 0 },
                3 | 4 => Op::Put { key: shared, value, lease: id },
                _ => Op::Put { key: own(lease.keys_left), value, lease: id },
            };
            let request = Request::plain(op);
            let ask = wire::ask(&request);
            self.ask(What::Put(request), ask, desk);
        } else if lease.keepalives_left > 0 {
            lease.keepalives_left -= 1;
            if std::mem::take(&mut lease.is_in_haste) {
                // Somewhere else than where it was granted.
                self.place = None;
            }
            self.ask(What::Lease(LeaseRequest::KeepAlive), Ask::KeepAlive { lease: id }, desk);
        } else {
            let is_revoked = lease.is_to_be_revoked;
            self.lease = None;
            if is_revoked {
                return self.ask_of(id, What::Lease(LeaseRequest::Revoke), Ask::Revoke { lease: id }, desk);
            }
            desk.wake_after(Duration::from_millis(100));
        }
    }

    fn ask(&mut self, what: What, ask: Ask, desk: &mut Desk<'_>) {
        let id = self.lease.as_ref().map_or(0, |lease| lease.id);
        self.ask_of(id, what, ask, desk);
    }

    fn ask_of(&mut self, id: i64, what: What, ask: Ask, desk: &mut Desk<'_>) {
        let place = match self.place {
            Some(place) if !self.dice.chance(50) => place,
            _ => desk.some_place(&mut self.dice),
        };
        self.place = Some(place);
        let invoked = desk.micros();
        desk.ask(place, Call { client: self.client, number: self.number }, ask);
        self.under_way = Some(UnderWay { number: self.number, what, invoked });
        self.asked_of = id;
    }

    pub fn answered(&mut self, number: u64, answer: Option<Answer>, desk: &mut Desk<'_>) {
        let Some(UnderWay { what, invoked, .. }) = self.under_way.take_if(|it| it.number == number) else { return };
        let returned = desk.micros();
        match what {
            What::Put(request) => {
                let outcome = match &answer {
                    Some(answer) => wire::outcome(answer),
                    None => Outcome::Unknown("no answer in time".to_owned()),
                };
                if let Outcome::Answered(answer) = &outcome {
                    *desk.newest = answer.revision.max(*desk.newest);
                    *desk.answered += 1;
                } else {
                    self.place = None;
                }
                if let Outcome::Refused(_) = outcome {
                    self.lease = None;
                }
                let operation = Operation { client: self.client, invoked, returned, request, outcome };
                desk.history.operations.push(operation);
                desk.wake_after(desk.plan.clients.pause);
            }
            What::Lease(request) => {
                let outcome = lease_outcome(answer);
                match outcome {
                    LeaseOutcome::Done { .. } => *desk.answered += 1,
                    LeaseOutcome::NotFound => self.lease = None,
                    LeaseOutcome::Unknown => {
                        self.place = None;
                        // Whether there is such a lease, nobody knows.
                        if matches!(request, LeaseRequest::Grant { .. }) {
                            self.lease = None;
                        }
                    }
                }
                let lease = self.asked_of;
                desk.history.leases.push(LeaseOperation { lease, invoked, returned, request, outcome });
                // Mostly in time for the next keepalive, sometimes too late.
                let ttl = self.lease.as_ref().map_or(1, |lease| lease.ttl_secs) as u64;
                let nap = match request {
                    LeaseRequest::KeepAlive => Duration::from_millis(self.dice.between(10, ttl * 1_100)),
                    LeaseRequest::Grant { .. } if self.lease.as_ref().is_some_and(|lease| lease.is_in_haste) => {
                        Duration::ZERO
                    }
                    LeaseRequest::Grant { .. } | LeaseRequest::Revoke => desk.plan.clients.pause,
                };
                desk.wake_after(nap);
            }
        }
    }
}

fn lease_outcome(answer: Option<Answer>) -> LeaseOutcome {
    match answer {
        Some(Answer::Written(Applied::LeaseGrant(granted))) => {
            LeaseOutcome::Done { ttl_secs: granted.ttl, revision: 0 }
        }
        Some(Answer::Written(Applied::LeaseRevoke(revoked))) => {
            LeaseOutcome::Done { ttl_secs: 0, revision: wire::revision(revoked.header.as_ref()) }
        }
        Some(Answer::Kept { ttl_secs: 0 }) => LeaseOutcome::NotFound,
        Some(Answer::Kept { ttl_secs }) => LeaseOutcome::Done { ttl_secs, revision: 0 },
        Some(Answer::Failed(RequestError::Lease(LeaseError::NotFound))) => LeaseOutcome::NotFound,
        _ => LeaseOutcome::Unknown,
    }
}
