//! Decides when a member takes its own alarm NOSPACE back (`--quota-auto-disarm`).
//!
//! Three things keep the alarm from coming and going. It goes only when the store has become smaller than it was when the
//! alarm was raised: a single write that was too large for the room there was does not end it. The size then has to be
//! below the quota by a margin, so that the next few writes do not raise it again. And an alarm that somebody raised by
//! hand has no [`Shortage`] to it, and stays until somebody takes it back by hand.
//!
//! It only asks: the alarm is gone when the log says so, and what got lost on its way there is asked for again.

use super::{Quota, Shortage};
use crate::ids::LogIndex;
use std::time::Duration;

/// A small store has to fall a tenth below its quota;
const MARGIN_PART: u64 = 10;
/// of a large one it is enough that more has been freed than clients may have under way.
const MARGIN_BYTES_MAX: u64 = 64 << 20;
/// For an answer to come through the log.
const RETRY_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct AutoDisarm {
    quota: Quota,
    is_on: bool,
    /// About the alarm that this entry raised, and when.
    asked: Option<(LogIndex, Duration)>,
}

impl AutoDisarm {
    pub fn new(quota: Quota, is_on: bool) -> Self {
        AutoDisarm { quota, is_on, asked: None }
    }

    /// Whether to propose now that the alarm goes. `raised` is the entry that raised this member's alarm and the shortage it
    /// did so for, if there is one; `db_size` is what the store takes now.
    pub fn step(&mut self, now: Duration, raised: Option<(LogIndex, Shortage)>, db_size: u64) -> bool {
        let Some((index, shortage)) = raised.filter(|_| self.is_on) else { return false };
        let is_under_way = self.asked.is_some_and(|(about, at)| about == index && now < at + RETRY_AFTER);
        if is_under_way || !self.has_room(shortage, db_size) {
            return false;
        }
        self.asked = Some((index, now));
        true
    }

    fn has_room(&self, raised_for: Shortage, db_size: u64) -> bool {
        let Some(quota) = self.quota.bytes else { return true };
        let comfortable = quota - (quota / MARGIN_PART).min(MARGIN_BYTES_MAX);
        // The latter once the member was started anew with a larger quota.
        let has_changed = db_size < raised_for.db_size || raised_for.needed_bytes <= comfortable;
        has_changed && db_size <= comfortable
    }
}

#[cfg(test)]
mod tests {
    use super::super::PAGE_BYTES;
    use super::*;

    const RAISED: LogIndex = LogIndex(7);
    const QUOTA: u64 = 13 * PAGE_BYTES;
    const FULL: Shortage = Shortage { db_size: 12 * PAGE_BYTES, needed_bytes: 13 * PAGE_BYTES };

    fn of(quota: Option<u64>) -> AutoDisarm {
        AutoDisarm::new(Quota::new(quota), true)
    }

    /// Asked anew, without the memory of earlier questions.
    fn asks(quota: Option<u64>, raised_for: Option<Shortage>, pages: u64) -> bool {
        of(quota).step(Duration::ZERO, raised_for.map(|shortage| (RAISED, shortage)), pages * PAGE_BYTES)
    }

    #[test]
    fn an_alarm_goes_when_a_tenth_of_the_quota_has_come_back() {
        assert!(!asks(Some(QUOTA), Some(FULL), 13));
        assert!(!asks(Some(QUOTA), Some(FULL), 12));
        assert!(asks(Some(QUOTA), Some(FULL), 11));
        assert!(asks(Some(QUOTA), Some(FULL), 1));
        assert!(!asks(Some(QUOTA), None, 1), "raised by hand, or not at all");
        assert!(!AutoDisarm::new(Quota::new(Some(QUOTA)), false).step(
            Duration::ZERO,
            Some((RAISED, FULL)),
            PAGE_BYTES
        ));
    }

    #[test]
    fn of_a_large_quota_64_mib_are_enough() {
        let quota = 8 << 30;
        let full = Shortage { db_size: quota - 100, needed_bytes: quota + 200 };
        assert!(!of(Some(quota)).step(Duration::ZERO, Some((RAISED, full)), quota - (64 << 20) + 1));
        assert!(of(Some(quota)).step(Duration::ZERO, Some((RAISED, full)), quota - (64 << 20)));
    }

    #[test]
    fn a_single_write_that_is_too_large_is_no_reason_to_come_and_go() {
        let too_large = Shortage { db_size: 2 * PAGE_BYTES, needed_bytes: 40 * PAGE_BYTES };
        assert!(!asks(Some(QUOTA), Some(too_large), 2), "nothing has come back");
        assert!(asks(Some(QUOTA), Some(too_large), 1));
    }

    #[test]
    fn a_larger_quota_or_none_is_room_too() {
        assert!(!asks(Some(QUOTA + PAGE_BYTES), Some(FULL), 12));
        assert!(asks(Some(2 * QUOTA), Some(FULL), 12));
        assert!(asks(None, Some(FULL), 12));
        assert!(!asks(Some(0), Some(FULL), 1));
    }

    #[test]
    fn it_asks_once_and_again_when_nothing_came_of_it() {
        let mut disarm = of(Some(QUOTA));
        let mut at = |millis, raised: u64| {
            disarm.step(Duration::from_millis(millis), Some((LogIndex(raised), FULL)), PAGE_BYTES)
        };
        assert!(at(10, 7));
        assert!(!at(20, 7));
        assert!(!at(3_009, 7));
        assert!(at(3_010, 7));
        assert!(at(3_020, 8), "another alarm");
        assert!(!at(3_030, 8));
    }
}
