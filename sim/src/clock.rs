//! The clocks of one machine, as far as they are wrong.
//!
//! ```text
//!   true time ──rate ±10 %──▶ monotonic ──minus the start of the process──▶ what cores are told
//!                                └──plus an offset that jumps──▶ the date
//! ```
//! A monotonic clock goes on while a process stands still, so a pause looks like a jump to whoever wakes.

use std::time::Duration;

/// In parts of a million.
const MILLION: i128 = 1_000_000;
/// The date when the simulation begins, in seconds since 1970.
const BEGAN_SECS: i64 = 1_700_000_000;

#[derive(Clone, Debug)]
pub struct Clock {
    /// How much faster than true time it goes, in parts of a million.
    fast_by: i64,
    /// Shown `shown` at true time `since`, and has gone at the present rate since then.
    since: Duration,
    shown: Duration,
    date_offset_secs: i64,
}

impl Clock {
    pub fn new(fast_by: i64) -> Self {
        Clock { fast_by, since: Duration::ZERO, shown: Duration::from_secs(1_000), date_offset_secs: 0 }
    }

    pub fn at(&self, now: Duration) -> Duration {
        self.shown + scaled(now.saturating_sub(self.since), MILLION + i128::from(self.fast_by), MILLION)
    }

    /// How long it takes until the clock has gone on by `shown`.
    pub fn true_span(&self, shown: Duration) -> Duration {
        scaled(shown, MILLION, MILLION + i128::from(self.fast_by)) + Duration::from_nanos(1)
    }

    pub fn set_rate(&mut self, now: Duration, fast_by: i64) {
        (self.shown, self.since, self.fast_by) = (self.at(now), now, fast_by);
    }

    pub fn jump_date(&mut self, secs: i64) {
        self.date_offset_secs += secs;
    }

    pub fn unix_seconds(&self, now: Duration) -> i64 {
        BEGAN_SECS + self.date_offset_secs + self.at(now).as_secs() as i64
    }
}

fn scaled(span: Duration, by: i128, of: i128) -> Duration {
    Duration::from_nanos((span.as_nanos() as i128 * by / of) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_goes_back_and_a_span_of_it_is_over_when_it_says_so() {
        let mut clock = Clock::new(-90_000);
        let mut before = clock.at(Duration::ZERO);
        for second in 1..100 {
            let now = Duration::from_secs(second);
            if second % 7 == 0 {
                clock.set_rate(now, (second as i64 % 3 - 1) * 100_000);
                clock.jump_date(-50);
            }
            let shown = clock.at(now);
            assert!(shown > before);
            let span = Duration::from_millis(10);
            assert!(clock.at(now + clock.true_span(span)) >= shown + span);
            before = shown;
        }
    }
}
