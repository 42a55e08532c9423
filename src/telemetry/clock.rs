//! The only place that reads the machine's clocks.
//!
//! Cores are told the time; shells (actors, the edge, the ticker) hold a [`Clock`] and ask it. Deadlines and durations
//! are monotonic; the wall clock is for people: log lines, spans, start times. Monotonic time is tokio's, which is the machine's
//! unless a test has paused it.

use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Both clocks of this machine. Copies share the same start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that shows zero now. A process has one, made first thing in `main`.
    #[allow(clippy::disallowed_methods, reason = "the one place where the monotonic clock enters the process")]
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since [`Clock::start`]; never goes back.
    #[allow(clippy::disallowed_methods, reason = "the one place where the monotonic clock enters the process")]
    #[must_use]
    pub fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }

    /// The date, as the machine believes it to be. May jump in both directions.
    #[allow(clippy::disallowed_methods, reason = "the one place where the wall clock enters the process")]
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_copy_shows_the_same_time_line() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.now();
        let second = copy.now();
        assert!(first <= second);
        assert!(second <= clock.now());
    }
}
