//! Whether a leader's heartbeats leave in time: it watches the clock for each peer, as etcd's contention detector does.
//!
//! A leader whose disk or processor is overloaded sends them late, and followers begin to elect another one. Operators find
//! the reason by this.

use std::collections::BTreeMap;
use std::time::Duration;

/// How often the interval may go by between two heartbeats.
const INTERVALS_MAX: u32 = 2;

pub struct Punctuality {
    at_most: Duration,
    last: BTreeMap<u64, Duration>,
}

impl Punctuality {
    pub fn new(heartbeat_interval: Duration) -> Self {
        Punctuality { at_most: heartbeat_interval * INTERVALS_MAX, last: BTreeMap::new() }
    }

    /// Between two heartbeats to one peer.
    pub fn at_most(&self) -> Duration {
        self.at_most
    }

    /// A heartbeat to `peer` leaves. Answers by how much it is late.
    pub fn sent(&mut self, peer: u64, now: Duration) -> Option<Duration> {
        let last = self.last.insert(peer, now)?;
        now.checked_sub(last + self.at_most).filter(|late| !late.is_zero())
    }

    /// This member leads no more, or anew: until it sends the next heartbeat nobody waits for one.
    pub fn forget(&mut self) {
        self.last.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_late_after_two_intervals_and_only_to_the_peer_that_waited() {
        let at = Duration::from_millis;
        let mut punctuality = Punctuality::new(at(100));
        assert_eq!(punctuality.sent(2, at(1_000)), None, "the first");
        assert_eq!(punctuality.sent(2, at(1_200)), None);
        assert_eq!(punctuality.sent(3, at(1_401)), None, "the first to another");
        assert_eq!(punctuality.sent(2, at(1_401)), Some(at(1)));
        assert_eq!(punctuality.sent(2, at(1_402)), None);
        punctuality.forget();
        assert_eq!(punctuality.sent(2, at(9_000)), None);
    }
}
