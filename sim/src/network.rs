//! What is between members: links that open and break, packets that get lost, come twice or late, and cuts.
//!
//! ```text
//!   PeerLinks ──Dial──▶ connection ──envelopes──▶ lost? doubled? late? ──▶ the peer port over there
//!                 └── a cut, or an end that is gone: broken, after a while ──▶ Closed
//! ```
//! A real connection loses nothing and keeps its order; here it may do otherwise, because raft has to stand it.

use crate::dice::Dice;
use castd_proto::castdpb::{PeerEnvelope, PeerLane};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// From whom to whom.
pub type Way = (usize, usize);

/// Where the member at `place` is reached, under one of its names.
pub fn url(place: usize, name: u64) -> String {
    format!("http://10.0.0.{place}:{}", 2_380 + name)
}

/// Nobody is there.
pub fn url_of_nobody(number: u64) -> String {
    format!("http://10.9.9.9:{number}")
}

/// Who is reached there.
pub fn place_of(urls: &[String]) -> Option<usize> {
    let url = urls.first()?;
    url.strip_prefix("http://10.0.0.")?.split(':').next()?.parse().ok()
}

/// An open connection, from the one that dialled.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub attempt: u64,
    pub from_boot: u64,
    pub to_boot: u64,
    /// Nothing of a lane arrives before what went before it, unless packets overtake each other.
    last_arrivals: [Duration; 2],
}

#[derive(Debug)]
pub struct Packet {
    pub way: Way,
    pub attempt: u64,
    /// The life of the receiver that it was sent to.
    pub to_boot: u64,
    pub lane: PeerLane,
    pub envelope: Box<PeerEnvelope>,
}

/// How bad it is at the moment.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Thousandths.
    pub loss: u32,
    pub duplication: u32,
    pub transit: Duration,
    pub reorders: bool,
}

pub struct Network {
    pub weather: Weather,
    /// Nothing gets this way; how many faults say so.
    cuts: BTreeMap<Way, u32>,
    /// What goes this way takes so much longer.
    slow: BTreeMap<Way, Duration>,
    connections: BTreeMap<Way, Connection>,
    /// A cut that has not been noticed is on its way to be.
    pub noticing: BTreeSet<Way>,
    pub lost: u64,
    pub doubled: u64,
}

impl Network {
    pub fn new(weather: Weather) -> Self {
        let (cuts, slow, connections, noticing) = Default::default();
        Network { weather, cuts, slow, connections, noticing, lost: 0, doubled: 0 }
    }

    pub fn cut(&mut self, ways: &[Way]) {
        for way in ways {
            *self.cuts.entry(*way).or_default() += 1;
        }
    }

    pub fn mend(&mut self, ways: &[Way]) {
        for way in ways {
            if let Some(count) = self.cuts.get_mut(way) {
                *count -= 1;
                if *count == 0 {
                    self.cuts.remove(way);
                }
            }
        }
    }

    pub fn slow_down(&mut self, way: Way, by: Duration) {
        self.slow.insert(way, by);
    }

    pub fn speed_up(&mut self, way: Way) {
        self.slow.remove(&way);
    }

    /// What is on its way arrives when it does; what comes behind does not wait for it.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
        self.slow.clear();
        self.connections.values_mut().for_each(|connection| connection.last_arrivals = [Duration::ZERO; 2]);
    }

    pub fn is_cut(&self, way: Way) -> bool {
        self.cuts.contains_key(&way)
    }

    /// In one direction or the other: no connection lasts.
    pub fn is_broken(&self, (from, to): Way) -> bool {
        self.is_cut((from, to)) || self.is_cut((to, from))
    }

    pub fn open(&mut self, way: Way, attempt: u64, from_boot: u64, to_boot: u64) {
        let last_arrivals = [Duration::ZERO; 2];
        self.connections.insert(way, Connection { attempt, from_boot, to_boot, last_arrivals });
    }

    pub fn close(&mut self, way: Way, attempt: u64) -> bool {
        let is_it = self.connections.get(&way).is_some_and(|connection| connection.attempt == attempt);
        is_it && self.connections.remove(&way).is_some()
    }

    pub fn connection(&self, way: Way) -> Option<Connection> {
        self.connections.get(&way).copied()
    }

    pub fn connections(&self) -> impl Iterator<Item = (Way, Connection)> {
        self.connections.iter().map(|(way, connection)| (*way, *connection))
    }

    /// When it arrives, perhaps more than once; or never.
    pub fn send(&mut self, now: Duration, packet: &Packet, dice: &mut Dice) -> Vec<Duration> {
        let Weather { loss, duplication, transit, reorders } = self.weather;
        let Some(connection) = self.connections.get_mut(&packet.way).filter(|it| it.attempt == packet.attempt) else {
            return Vec::new();
        };
        if self.cuts.contains_key(&packet.way) || dice.chance(loss) {
            self.lost += 1;
            return Vec::new();
        }
        let slow = self.slow.get(&packet.way).copied().unwrap_or_default();
        let mut arrives = now + dice.latency(transit) + slow;
        if !reorders {
            let last = &mut connection.last_arrivals[usize::from(packet.lane == PeerLane::Bulk)];
            arrives = arrives.max(*last);
            *last = arrives;
        }
        let mut arrivals = vec![arrives];
        if dice.chance(duplication) {
            self.doubled += 1;
            arrivals.push(now + dice.latency(transit * 10) + slow);
        }
        arrivals
    }
}
