//! Keeps a message that repeats itself from filling the disk: of equal messages of one level, the first 100 of a
//! second are written, then every 100th.
//!
//! Messages share 4,096 counters by hash, so two of them may, rarely, be counted as one.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slog::Level;

const COUNTERS: usize = 4096;
const FIRST: u64 = 100;
const THEN_EVERY: u64 = 100;

/// Each counter holds the second it counts for in its upper half, the number of messages in its lower half.
pub(super) struct Sampler {
    counters: Box<[AtomicU64]>,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self { counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether this message, at the monotonic time `now`, is one of those to write.
    pub(super) fn admits(&self, now: Duration, level: Level, message: &fmt::Arguments<'_>) -> bool {
        let mut hash = HashText(DefaultHasher::new());
        level.as_usize().hash(&mut hash.0);
        let _ = hash.write_fmt(*message);
        let position = hash.0.finish() as usize % COUNTERS;
        let Some(counter) = self.counters.get(position) else { return true };

        // Plus one, so that a fresh counter belongs to no second.
        let second = (now.as_secs() + 1) << 32;
        let count_in = |value: u64| if value >> 32 == second >> 32 { value + 1 } else { second | 1 };
        // The closure never declines, so there is always a previous value.
        let previous = counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(count_in(value)))
            .unwrap_or_default();
        let count = count_in(previous) & u64::from(u32::MAX);
        count <= FIRST || (count - FIRST).is_multiple_of(THEN_EVERY)
    }
}

struct HashText(DefaultHasher);

impl fmt::Write for HashText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(sampler: &Sampler, second: u64, level: Level, times: usize) -> usize {
        let now = Duration::from_secs(second);
        (0..times).filter(|_| sampler.admits(now, level, &format_args!("equal"))).count()
    }

    #[test]
    fn the_first_hundred_of_a_second_then_every_hundredth() {
        let sampler = Sampler::new();
        assert_eq!(admitted(&sampler, 0, Level::Info, 100), 100);
        assert_eq!(admitted(&sampler, 0, Level::Info, 99), 0);
        assert_eq!(admitted(&sampler, 0, Level::Info, 1), 1);
        assert_eq!(admitted(&sampler, 0, Level::Debug, 100), 100, "another level counts for itself");
        assert_eq!(admitted(&sampler, 1, Level::Info, 1000), 109, "another second starts anew");
    }
}
