//! How fast the rows that a compaction left are deleted: in pieces short enough that a write which comes in between waits
//! next to nothing, with time between them.
//!
//! ```text
//!   compacted ─▶ │piece│ sleep │piece│ sleep │piece│ … ─▶ finished
//!                 ≤ rows, ≤ time
//! ```
//! A piece ends after `--compaction-batch-limit` rows or [`PIECE_TIME`], whichever is first: 1,000 rows are 1.4 ms on
//! RocksDB and in memory, and 20 ms on sled. Where compactions come faster than that deletes, each one that finds another
//! unfinished doubles the time, so that what is to be deleted stays bounded.
//!
//! It deletes nothing itself, and does not know what a row is.

use crate::ids::Revision;
use crate::mvcc::{Deleted, Left};
use std::time::Duration;

/// A write waits for a piece at most so long.
pub const PIECE_TIME: Duration = Duration::from_micros(500);
/// When deletion falls behind.
const PIECE_TIME_MAX: Duration = Duration::from_millis(4);
/// Ticks come when they come: one that is a little early counts.
const EARLY: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--compaction-batch-limit`.
    pub rows_max: usize,
    /// `--compaction-sleep-interval`.
    pub sleep: Duration,
}

/// What is to be deleted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub rows_max: usize,
    pub time_max: Duration,
}

/// All that a compaction left is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub revision: Revision,
    /// Since the compaction, or since one before it was finished.
    pub took: Duration,
    pub rows: u64,
}

#[derive(Debug)]
enum State {
    Idle,
    /// The next piece is not to begin earlier.
    Sleeping(Duration),
    /// A piece is being deleted.
    UnderWay,
}

#[derive(Debug)]
pub struct Pace {
    settings: Settings,
    state: State,
    time_max: Duration,
    /// Of the compaction that is being worked off.
    since: Duration,
    rows: u64,
    piece_began: Duration,
}

impl Pace {
    pub fn new(settings: Settings) -> Self {
        let zero = Duration::ZERO;
        Pace { settings, state: State::Idle, time_max: PIECE_TIME, since: zero, rows: 0, piece_began: zero }
    }

    /// A compaction left rows to delete.
    pub fn compacted(&mut self, now: Duration) {
        if matches!(self.state, State::Idle) {
            (self.state, self.since, self.rows) = (State::Sleeping(now), now, 0);
        } else {
            self.time_max = (2 * self.time_max).min(PIECE_TIME_MAX);
        }
    }

    /// What is to be deleted now. [`Pace::piece_done`] says what came of it.
    pub fn tick(&mut self, now: Duration) -> Option<Piece> {
        let State::Sleeping(until) = self.state else { return None };
        if now + EARLY.min(self.settings.sleep / 2) < until {
            return None;
        }
        (self.state, self.piece_began) = (State::UnderWay, now);
        Some(Piece { rows_max: self.settings.rows_max, time_max: self.time_max })
    }

    pub fn piece_done(&mut self, now: Duration, deleted: Deleted) -> Option<Finished> {
        self.rows += deleted.rows as u64;
        self.state = match deleted.left {
            Left::Nothing => State::Idle,
            // From piece to piece, as ticks go; one that took long is followed by as much rest.
            Left::Rows | Left::HeldByViews => {
                let took = now.saturating_sub(self.piece_began);
                State::Sleeping(self.piece_began + self.settings.sleep.max(2 * took))
            }
        };
        if deleted.left == Left::Nothing {
            self.time_max = PIECE_TIME;
        }
        let revision = deleted.finished?;
        let since = std::mem::replace(&mut self.since, now);
        Some(Finished { revision, took: now.saturating_sub(since), rows: std::mem::take(&mut self.rows) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { rows_max: 1_000, sleep: Duration::from_millis(10) };
    const PIECE: Piece = Piece { rows_max: 1_000, time_max: PIECE_TIME };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn rows(rows: usize) -> Deleted {
        Deleted { rows, finished: None, left: Left::Rows }
    }

    fn last_rows(rows: usize, revision: i64) -> Deleted {
        Deleted { rows, finished: Some(Revision(revision)), left: Left::Nothing }
    }

    #[test]
    fn pieces_follow_each_other_with_time_between_until_nothing_is_left() {
        let mut pace = Pace::new(SETTINGS);
        assert_eq!(pace.tick(ms(1)), None, "nothing to do");
        pace.compacted(ms(5));
        assert_eq!(pace.tick(ms(10)), Some(PIECE), "at once");
        assert_eq!(pace.tick(ms(20)), None, "one at a time");
        assert_eq!(pace.piece_done(ms(20), rows(1_000)), None);
        assert_eq!(pace.tick(ms(25)), None, "that one took long, and the rest is as long");
        assert_eq!(pace.tick(ms(30)), Some(PIECE));
        assert_eq!(pace.piece_done(ms(31), rows(500)), None);
        assert_eq!(pace.tick(ms(37)), None);
        assert_eq!(pace.tick(ms(39)), Some(PIECE), "a tick may be early");
        let finished = pace.piece_done(ms(40), last_rows(7, 300));
        assert_eq!(finished, Some(Finished { revision: Revision(300), took: ms(35), rows: 1_507 }));
        assert_eq!(pace.tick(ms(60)), None);
        pace.compacted(ms(70));
        assert_eq!(pace.tick(ms(70)), Some(PIECE));
        let finished = pace.piece_done(ms(71), last_rows(1, 301));
        assert_eq!(finished, Some(Finished { revision: Revision(301), took: ms(1), rows: 1 }));
    }

    #[test]
    fn a_compaction_behind_another_one_goes_on_where_that_ends() {
        let mut pace = Pace::new(SETTINGS);
        pace.compacted(ms(0));
        pace.tick(ms(0)).expect("due");
        pace.compacted(ms(1));
        let first = Deleted { left: Left::Rows, ..last_rows(5, 10) };
        assert_eq!(pace.piece_done(ms(2), first), Some(Finished { revision: Revision(10), took: ms(2), rows: 5 }));
        pace.tick(ms(10)).expect("there is more");
        let second = pace.piece_done(ms(11), last_rows(6, 20));
        assert_eq!(second, Some(Finished { revision: Revision(20), took: ms(9), rows: 6 }));
    }

    #[test]
    fn rows_that_a_view_holds_are_waited_for() {
        let mut pace = Pace::new(SETTINGS);
        pace.compacted(ms(0));
        for turn in 0..100 {
            assert_eq!(pace.tick(ms(10 * turn)), Some(PIECE), "turn {turn}");
            let held = Deleted { left: Left::HeldByViews, ..rows(0) };
            assert_eq!(pace.piece_done(ms(10 * turn), held), None);
        }
    }

    #[test]
    fn pieces_grow_while_compactions_come_faster_than_they_are_worked_off() {
        let mut pace = Pace::new(SETTINGS);
        let mut times = Vec::new();
        for turn in 0..6 {
            pace.compacted(ms(10 * turn));
            times.push(pace.tick(ms(10 * turn)).expect("due").time_max);
            pace.piece_done(ms(10 * turn), rows(1_000));
        }
        assert_eq!(times, [500, 1_000, 2_000, 4_000, 4_000, 4_000].map(Duration::from_micros));
        pace.tick(ms(60)).expect("due");
        pace.piece_done(ms(60), last_rows(1, 2)).expect("finished");
        pace.compacted(ms(70));
        assert_eq!(pace.tick(ms(70)), Some(PIECE), "caught up");
    }
}
