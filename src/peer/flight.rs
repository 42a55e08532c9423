//! What is on its way on one lane: which envelopes are stamped, how long round trips take, and whether the peer is still
//! there.
//!
//! ```text
//!   sent(now, bytes) ─▶ stamp, or 0       acknowledged(stamp, now) ─▶ round trip       look(now)?
//! ```
//! A stamp is the sender's clock, which the peer echoes. Not every envelope has one: an echo each would double the work of
//! heartbeats and appends.

use std::collections::VecDeque;
use std::time::Duration;

/// Time between two stamps,
const STAMP_EVERY: Duration = Duration::from_millis(100);
/// unless so much was sent meanwhile.
const STAMP_BYTES: usize = 256 << 10;
/// A peer that takes less in a second is lost.
const BYTES_PER_SEC_MIN: usize = 256 << 10;

/// What is to be thought of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Present,
    /// It is late; but it may be us who have not read yet what has come. Look again once that has been done.
    Suspected,
    Lost,
}

#[derive(Debug)]
pub struct Flight {
    /// How long a lane may be silent while an answer is due.
    silence_max: Duration,
    /// Not echoed yet, oldest first, each with the bytes sent up to it since the one before.
    stamps: VecDeque<(u64, usize)>,
    bytes_unstamped: usize,
    stamped_at: Duration,
    /// When the peer was last heard, or, if it owed nothing then, when it began to.
    heard_at: Duration,
    /// Since when the next envelope is to be stamped, whatever else.
    probe_due_since: Option<Duration>,
    /// The last look found it late.
    is_suspected: bool,
}

impl Flight {
    pub fn new(silence_max: Duration, now: Duration) -> Self {
        Flight {
            silence_max,
            stamps: VecDeque::new(),
            bytes_unstamped: 0,
            stamped_at: Duration::ZERO,
            heard_at: now,
            probe_due_since: Some(now),
            is_suspected: false,
        }
    }

    /// The next envelope is to be stamped. Answers whether somebody has to send an empty one for that.
    pub fn probe(&mut self, now: Duration) -> bool {
        if !self.stamps.is_empty() {
            return false;
        }
        self.probe_due_since.get_or_insert(now);
        true
    }

    /// An envelope leaves. Answers its stamp, 0 for none.
    pub fn sent(&mut self, now: Duration, bytes: usize) -> u64 {
        self.bytes_unstamped += bytes;
        let is_due = self.probe_due_since.is_some()
            || now >= self.stamped_at + STAMP_EVERY
            || self.bytes_unstamped >= STAMP_BYTES;
        if !is_due {
            return 0;
        }
        if self.stamps.is_empty() {
            self.heard_at = now;
        }
        // Unique, even when the clock stands still.
        let newest = self.stamps.back().map_or(0, |(stamp, _)| *stamp);
        let stamp = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(newest + 1);
        self.stamps.push_back((stamp, std::mem::take(&mut self.bytes_unstamped)));
        self.stamped_at = now;
        self.probe_due_since = None;
        stamp
    }

    /// The peer has echoed `stamp`. Answers the round trip, unless it is not one of ours.
    pub fn acknowledged(&mut self, stamp: u64, now: Duration) -> Option<Duration> {
        let place = self.stamps.iter().position(|(ours, _)| *ours == stamp)?;
        self.stamps.drain(..=place);
        self.heard_at = now;
        Some(now.saturating_sub(Duration::from_nanos(stamp)))
    }

    /// Whoever shares a thread with this may have held it up for longer than a peer may be silent. So nobody is lost at the
    /// first look that finds it late.
    pub fn look(&mut self, now: Duration) -> Look {
        let is_late = self.is_late(now);
        match (is_late, std::mem::replace(&mut self.is_suspected, is_late)) {
            (false, _) => Look::Present,
            (true, false) => Look::Suspected,
            (true, true) => Look::Lost,
        }
    }

    /// Whether an answer is due that does not come, or the connection takes not even a probe. The more is on its way, the
    /// longer it may take.
    fn is_late(&self, now: Duration) -> bool {
        let bytes = self.stamps.iter().map(|(_, bytes)| bytes).sum::<usize>() + self.bytes_unstamped;
        let on_the_way = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SEC_MIN as f64);
        let silent_since = if self.stamps.is_empty() { self.probe_due_since } else { Some(self.heard_at) };
        silent_since.is_some_and(|since| now > since + self.silence_max + on_the_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(1_000 + millis)
    }

    #[test]
    fn the_round_trip_is_from_the_stamp_to_its_echo() {
        let mut flight = Flight::new(SECOND, at(0));
        let stamp = flight.sent(at(0), 10);
        assert_ne!(stamp, 0, "the first is stamped");
        assert_eq!(flight.sent(at(50), 10), 0, "too soon");
        assert_eq!(flight.acknowledged(stamp, at(7)), Some(Duration::from_millis(7)));
        assert_eq!(flight.acknowledged(stamp, at(8)), None, "an echo counts once");
        assert_ne!(flight.sent(at(100), 10), 0);
        assert_ne!(flight.sent(at(101), STAMP_BYTES), 0, "much was sent");
        assert_eq!(flight.acknowledged(12, at(102)), None, "not ours");
    }

    #[test]
    fn a_peer_that_owes_nothing_is_never_lost() {
        let mut flight = Flight::new(SECOND, at(0));
        let stamp = flight.sent(at(0), 0);
        flight.acknowledged(stamp, at(0));
        assert!(!flight.is_late(at(60_000)));
        let stamp = flight.sent(at(60_000), 0);
        assert!(!flight.is_late(at(61_000)));
        assert!(flight.is_late(at(61_001)));
        flight.acknowledged(stamp, at(61_002));
        assert!(!flight.is_late(at(90_000)));
    }

    #[test]
    fn whoever_is_sent_much_may_take_longer() {
        let mut flight = Flight::new(SECOND, at(0));
        flight.sent(at(0), 2 * BYTES_PER_SEC_MIN);
        assert!(!flight.is_late(at(3_000)));
        assert!(flight.is_late(at(3_001)));
    }

    #[test]
    fn a_connection_that_takes_nothing_is_lost_too() {
        let mut flight = Flight::new(SECOND, at(0));
        let stamp = flight.sent(at(0), 0);
        flight.acknowledged(stamp, at(1));
        assert!(flight.probe(at(500)));
        assert!(flight.probe(at(1_000)), "still due");
        assert!(!flight.is_late(at(1_500)));
        assert!(flight.is_late(at(1_501)));
    }

    #[test]
    fn an_idle_lane_is_asked_whether_it_is_there() {
        let mut flight = Flight::new(SECOND, at(0));
        assert!(flight.probe(at(0)));
        let stamp = flight.sent(at(0), 0);
        assert!(!flight.probe(at(0)), "an answer is due already");
        flight.acknowledged(stamp, at(1));
        assert!(flight.probe(at(2)));
        assert_ne!(flight.sent(at(2), 0), 0);
    }

    #[test]
    fn a_peer_is_lost_when_it_is_still_late_after_what_has_come_was_read() {
        let mut flight = Flight::new(SECOND, at(0));
        let stamp = flight.sent(at(0), 0);
        assert_eq!(flight.look(at(1_000)), Look::Present);
        assert_eq!(flight.look(at(3_000)), Look::Suspected, "held up for two seconds");
        flight.acknowledged(stamp, at(3_001));
        assert_eq!(flight.look(at(3_010)), Look::Present);
        flight.sent(at(4_000), 0);
        assert_eq!([5_001, 5_011].map(|millis| flight.look(at(millis))), [Look::Suspected, Look::Lost]);
    }

    #[test]
    fn stamps_are_unique_when_the_clock_stands_still() {
        let mut flight = Flight::new(SECOND, at(0));
        let (first, second) = (flight.sent(at(0), STAMP_BYTES), flight.sent(at(0), STAMP_BYTES));
        assert!(first < second);
    }
}
