//! Clients that do all kinds of things at once, wherever there is somebody to answer, and write down what came of it.
//!
//! ```text
//!   keys       reg/N: one key a request, for the judge that believes no revision;  kv/N: everything else
//!   leases     lease/…: keys that go with their lease
//!   watchers   resumed where they were when their member goes, or just so
//!   admin      changes of the membership, compactions
//! ```
//! A client has one request under way. It knows nothing of the cluster but which members there may be, and gives a request up
//! when it has waited long enough: then nobody knows what became of it.

mod admin;
mod keys;
mod leases;
mod watchers;
pub mod wire;

use self::admin::{Compactor, Reconfigurer};
use self::keys::Keys;
use self::leases::Leases;
use self::watchers::Watcher;
use crate::dice::Dice;
use crate::member::edge::{Answer, Ask, Call};
use crate::member::watch_hub::Shown;
use crate::seed::Plan;
use castd::ids::MemberId;
use castd_judge::history::{History, Micros};
use castd_proto::etcdserverpb::WatchCreateRequest;
use std::time::Duration;

/// What a client does to the world.
#[derive(Debug)]
pub enum Move {
    Ask {
        place: usize,
        call: Call,
        ask: Ask,
    },
    /// It looks again then.
    Wake {
        at: Duration,
    },
    /// It waits for this call no longer than that.
    GiveUp {
        at: Duration,
        call: Call,
    },
    Watch {
        place: usize,
        session: u64,
        create: Box<WatchCreateRequest>,
        fragment_bytes: usize,
    },
    AskProgress {
        place: usize,
        session: u64,
    },
    Unwatch {
        place: usize,
        session: u64,
    },
    /// Somebody has to start the process of a member that was added.
    Start {
        id: MemberId,
        url: String,
    },
}

/// What clients share.
pub struct Desk<'a> {
    pub now: Duration,
    pub plan: &'a Plan,
    pub history: &'a mut History,
    pub moves: &'a mut Vec<Move>,
    /// Where there may be a member.
    pub places: &'a [usize],
    /// Where the next new member may be: nobody has been there, or whoever was has departed.
    pub next_place: usize,
    pub left_places: &'a [usize],
    /// No more requests are begun.
    pub is_stopping: bool,
    /// The revision that watchers have to reach, once it is known.
    pub watch_until: i64,
    /// The highest revision that any client was told.
    pub newest: &'a mut i64,
    /// Answered requests.
    pub answered: &'a mut u64,
}

impl Desk<'_> {
    pub fn micros(&self) -> Micros {
        self.now.as_micros() as Micros
    }

    fn some_place(&self, dice: &mut Dice) -> usize {
        *dice.pick(self.places)
    }

    fn ask(&mut self, place: usize, call: Call, ask: Ask) {
        self.moves.push(Move::Ask { place, call, ask });
        self.moves.push(Move::GiveUp { at: self.now + self.plan.clients.patience, call });
    }

    fn wake_after(&mut self, pause: Duration) {
        self.moves.push(Move::Wake { at: self.now + pause });
    }
}

pub enum Client {
    Keys(Keys),
    Leases(Leases),
    Watcher(Watcher),
    Reconfigurer(Reconfigurer),
    Compactor(Compactor),
}

impl Client {
    /// All that the plan has.
    pub fn all(plan: &Plan) -> Vec<Client> {
        let mut clients = Vec::new();
        let counts = &plan.clients;
        for _ in 0..counts.keys {
            let number = clients.len();
            clients.push(Client::Keys(Keys::new(number, plan)));
        }
        for _ in 0..counts.leases {
            let number = clients.len();
            clients.push(Client::Leases(Leases::new(number, plan)));
        }
        for which in 0..counts.watchers {
            let number = clients.len();
            clients.push(Client::Watcher(Watcher::new(number, which, plan)));
        }
        if counts.changes_members {
            let number = clients.len();
            clients.push(Client::Reconfigurer(Reconfigurer::new(number, plan)));
        }
        if counts.compacts {
            let number = clients.len();
            clients.push(Client::Compactor(Compactor::new(number, plan)));
        }
        clients
    }

    pub fn wake(&mut self, desk: &mut Desk<'_>) {
        match self {
            Client::Keys(client) => client.wake(desk),
            Client::Leases(client) => client.wake(desk),
            Client::Watcher(client) => client.wake(desk),
            Client::Reconfigurer(client) => client.wake(desk),
            Client::Compactor(client) => client.wake(desk),
        }
    }

    /// An answer to the call that it waits for, or none: then it is given up.
    pub fn answered(&mut self, call: Call, answer: Option<Answer>, desk: &mut Desk<'_>) {
        match self {
            Client::Keys(client) => client.answered(call.number, answer, desk),
            Client::Leases(client) => client.answered(call.number, answer, desk),
            Client::Watcher(_) => {}
            Client::Reconfigurer(client) => client.answered(call.number, answer, desk),
            Client::Compactor(client) => client.answered(call.number, answer, desk),
        }
    }

    pub fn waits_for(&self, call: Call) -> bool {
        self.waiting() == Some(call.number)
    }

    fn waiting(&self) -> Option<u64> {
        match self {
            Client::Keys(client) => client.waiting(),
            Client::Leases(client) => client.waiting(),
            Client::Watcher(_) => None,
            Client::Reconfigurer(client) => client.waiting(),
            Client::Compactor(client) => client.waiting(),
        }
    }

    pub fn shown(&mut self, session: u64, shown: Shown, desk: &mut Desk<'_>) {
        if let Client::Watcher(client) = self {
            client.shown(session, shown, desk);
        }
    }

    /// Whether nothing of it is under way any more; a watcher has been told everything.
    pub fn is_idle(&self, watch_until: i64) -> bool {
        match self {
            Client::Watcher(client) => client.has_reached(watch_until),
            other => other.waiting().is_none(),
        }
    }

    /// What it has written down and not yet given away.
    pub fn finish(&mut self, history: &mut History) {
        if let Client::Watcher(client) = self {
            client.finish(history);
        }
    }

    pub fn describe(&self) -> String {
        match self {
            Client::Watcher(client) => client.describe(),
            other => format!("waits for {:?}", other.waiting()),
        }
    }
}
