//! When to compact history by itself, and up to where: `--auto-compaction-mode` and `--auto-compaction-retention`.
//!
//! ```text
//!   periodic, keeping p:   look every min(p, 1 h)/10 ─▶ first after a whole p, then every min(p, 1 h):
//!                                                       compact to the revision of p ago
//!   revision, keeping n:   look every 5 min ─▶ compact to the current revision − n
//! ```
//! Only the leader's clock counts, and it starts with its leadership: a new leader has not seen what was there p ago. What
//! failed is tried again at the next look. It does not propose anything itself.

use crate::config::AutoCompaction;
use crate::ids::Revision;
use std::collections::VecDeque;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// So many looks in each period.
const LOOKS: u32 = 10;
/// Retentions of nanoseconds are legal, and no reason to look all the time.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);
/// In mode revision.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);
/// A tenth of a period is rounded down.
const SLACK: Duration = Duration::from_nanos(LOOKS as u64);

/// The store as it is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    pub revision: Revision,
    /// -1 if it was never compacted.
    pub compacted: Revision,
}

pub struct AutoCompactor {
    keep: AutoCompaction,
    /// `None` while another member leads.
    watch: Option<Watch>,
}

/// What a leader remembers. Times are those that looks are meant for, so that a late tick shifts nothing.
struct Watch {
    look_at: Duration,
    /// No compaction before this.
    due_at: Duration,
    /// Revisions seen, and when: from the one that is as old as what is to be kept.
    seen: VecDeque<(Duration, Revision)>,
    /// Since the look that asked for it.
    under_way: Option<Duration>,
}

impl AutoCompactor {
    pub fn new(keep: AutoCompaction) -> Self {
        AutoCompactor { keep, watch: None }
    }

    pub fn leader_changed(&mut self, now: Duration, is_leader: bool, revision: Revision) {
        self.watch = (is_leader && self.keep != AutoCompaction::Off).then(|| Watch {
            look_at: now + self.look_every(),
            due_at: match self.keep {
                AutoCompaction::Periodic(period) => now + period,
                AutoCompaction::Revision(_) | AutoCompaction::Off => now,
            },
            seen: VecDeque::from([(now, revision)]),
            under_way: None,
        });
    }

    fn look_every(&self) -> Duration {
        match self.keep {
            AutoCompaction::Periodic(period) => (period.min(HOUR) / LOOKS).max(LOOK_EVERY_MIN),
            AutoCompaction::Revision(_) | AutoCompaction::Off => LOOK_EVERY,
        }
    }

    /// How soon what failed is tried again.
    pub fn retry_every(&self) -> Duration {
        self.look_every()
    }

    /// Whether [`AutoCompactor::tick`] would look at the store.
    pub fn is_time(&self, now: Duration) -> bool {
        self.watch.as_ref().is_some_and(|watch| now >= watch.look_at)
    }

    /// The revision to compact to now, if it is time and there is something to forget. [`AutoCompactor::completed`] or
    /// [`AutoCompactor::failed`] says what became of it.
    pub fn tick(&mut self, now: Duration, store: Store) -> Option<Revision> {
        let look_every = self.look_every();
        let watch = self.watch.as_mut().filter(|watch| now >= watch.look_at)?;
        // A process that was paused does not look at once for each time that it missed.
        let look = if now < watch.look_at + look_every { watch.look_at } else { now };
        watch.look_at = look + look_every;
        let revision = match self.keep {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision(kept) => store.revision.0.saturating_sub_unsigned(kept),
            AutoCompaction::Periodic(period) => {
                while watch.seen.get(1).is_some_and(|(at, _)| *at + period <= look + SLACK) {
                    watch.seen.pop_front();
                }
                let oldest = watch.seen.front().map_or(0, |(_, revision)| revision.0);
                watch.seen.push_back((look, store.revision));
                oldest
            }
        };
        let is_due = look + SLACK >= watch.due_at && watch.under_way.is_none();
        if !is_due || revision <= store.compacted.0.max(0) {
            return None;
        }
        watch.under_way = Some(look);
        Some(Revision(revision))
    }

    /// The compaction went through, or somebody else had been faster. Answers when the next one may be; `None` if
    /// leadership was lost meanwhile.
    pub fn completed(&mut self) -> Option<Duration> {
        let look_every = self.look_every();
        let watch = self.watch.as_mut()?;
        let look = watch.under_way.take()?;
        watch.due_at = match self.keep {
            AutoCompaction::Periodic(period) => look + period.min(HOUR),
            AutoCompaction::Revision(_) | AutoCompaction::Off => look + look_every,
        };
        Some(watch.due_at)
    }

    /// It is tried again at the next look.
    pub fn failed(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.under_way = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A leader whose every put is one revision, one each `second`; it leads from 0 s and the store is at revision 1 then.
    struct Run {
        core: AutoCompactor,
        now: Duration,
        compacted: i64,
        /// Second and revision of each compaction.
        compactions: Vec<(u64, i64)>,
        puts_until: Duration,
    }

    fn run(keep: AutoCompaction) -> Run {
        let mut core = AutoCompactor::new(keep);
        core.leader_changed(Duration::ZERO, true, Revision(1));
        Run { core, now: Duration::ZERO, compacted: -1, compactions: Vec::new(), puts_until: Duration::MAX }
    }

    impl Run {
        fn revision(&self) -> i64 {
            1 + self.now.min(self.puts_until).as_secs() as i64
        }

        fn store(&self) -> Store {
            Store { revision: Revision(self.revision()), compacted: Revision(self.compacted) }
        }

        /// A tick each 10 ms, up to `until`; what `outcome` makes of each compaction.
        fn up_to(&mut self, until: Duration, mut outcome: impl FnMut(usize) -> bool) {
            while self.now < until {
                self.now += Duration::from_millis(10);
                let Some(Revision(revision)) = self.core.tick(self.now, self.store()) else { continue };
                self.compactions.push((self.now.as_secs(), revision));
                if outcome(self.compactions.len()) {
                    self.compacted = revision;
                    assert!(self.core.completed().is_some());
                } else {
                    self.core.failed();
                }
            }
        }
    }

    #[test]
    fn short_periods_compact_every_period_to_what_was_there_a_period_ago() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        run.up_to(35 * MINUTE, |_| true);
        assert_eq!(run.compactions, [(600, 1), (1_200, 601), (1_800, 1_201)]);
    }

    #[test]
    fn long_periods_compact_every_hour_after_a_whole_period() {
        let mut run = run(AutoCompaction::Periodic(5 * HOUR));
        run.up_to(5 * HOUR - MINUTE, |_| true);
        assert_eq!(run.compactions, []);
        run.up_to(7 * HOUR + MINUTE, |_| true);
        assert_eq!(run.compactions, [(5 * 3_600, 1), (6 * 3_600, 3_601), (7 * 3_600, 7_201)]);
    }

    #[test]
    fn a_period_that_is_no_multiple_of_looks_is_never_cut_short() {
        for period in [Duration::from_secs(64 * 60), Duration::from_nanos(1_234_567_891), Duration::from_millis(333)] {
            let mut run = run(AutoCompaction::Periodic(period));
            let every = run.core.look_every();
            run.up_to(3 * period + 2 * every, |_| true);
            let first = run.compactions.first().expect("there was one").0;
            assert!(first >= period.as_secs() && first <= (period + every).as_secs() + 1, "{period:?}: at {first} s");
            for (at, revision) in &run.compactions {
                let kept_secs = *at as i64 - (revision - 1);
                assert!(kept_secs >= period.as_secs() as i64 - 1, "{period:?}: {:?}", run.compactions);
            }
        }
    }

    #[test]
    fn nothing_is_done_when_nothing_changed() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        run.puts_until = 15 * MINUTE;
        run.up_to(120 * MINUTE, |_| true);
        // The last revision, that of 15 min, is old enough at 25 min, and the next compaction due at 30.
        assert_eq!(run.compactions, [(600, 1), (1_200, 601), (1_800, 901)]);
    }

    #[test]
    fn what_somebody_else_compacted_is_not_compacted_again() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        run.compacted = 300;
        run.up_to(15 * MINUTE, |_| true);
        // Found out at each look from 10 min on: that of 5 min is revision 301.
        assert_eq!(run.compactions, [(900, 301)]);
    }

    #[test]
    fn what_failed_is_tried_again_at_the_next_look() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        run.up_to(25 * MINUTE, |attempt| attempt > 2);
        assert_eq!(run.compactions, [(600, 1), (660, 61), (720, 121), (1_320, 721)]);
    }

    #[test]
    fn only_a_leader_compacts_and_a_new_one_waits_again() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        run.up_to(9 * MINUTE, |_| true);
        run.core.leader_changed(run.now, false, Revision(run.revision()));
        run.up_to(30 * MINUTE, |_| true);
        assert_eq!(run.compactions, []);
        run.core.leader_changed(run.now, true, Revision(run.revision()));
        run.up_to(45 * MINUTE, |_| true);
        assert_eq!(run.compactions, [(2_400, 1_801)]);
    }

    #[test]
    fn one_compaction_is_under_way_at_a_time_and_one_of_a_lost_leadership_is_forgotten() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        let at = |minutes: u32, run: &Run| (minutes * MINUTE, run.store());
        let mut asked = 0;
        for minutes in 1..=30 {
            run.now = minutes * MINUTE;
            let (now, store) = at(minutes, &run);
            asked += u32::from(run.core.tick(now, store).is_some());
        }
        assert_eq!(asked, 1, "the first was never answered");
        run.core.leader_changed(run.now, true, Revision(run.revision()));
        assert_eq!(run.core.completed(), None);
        run.up_to(45 * MINUTE, |_| true);
        assert_eq!(run.compactions, [(2_400, 1_801)]);
    }

    #[test]
    fn by_revision_so_many_are_kept_every_five_minutes() {
        let mut run = run(AutoCompaction::Revision(400));
        run.puts_until = 16 * MINUTE;
        run.up_to(60 * MINUTE, |attempt| attempt != 2);
        // At 5 min there are fewer. The second attempt fails and is made again with what there is then.
        assert_eq!(run.compactions, [(600, 201), (900, 501), (1_200, 561)]);
        let mut run = super::tests::run(AutoCompaction::Revision(u64::MAX));
        run.up_to(60 * MINUTE, |_| true);
        assert_eq!(run.compactions, []);
    }

    #[test]
    fn a_paused_process_does_not_catch_up() {
        let mut run = run(AutoCompaction::Periodic(10 * MINUTE));
        run.up_to(10 * MINUTE, |_| true);
        run.now += 5 * HOUR;
        run.up_to(run.now + 9 * MINUTE, |_| true);
        assert_eq!(run.compactions.len(), 2, "{:?}", run.compactions);
    }

    #[test]
    fn off_is_off_and_tiny_periods_do_not_look_all_the_time() {
        let mut off = run(AutoCompaction::Off);
        off.up_to(30 * MINUTE, |_| true);
        assert_eq!(off.compactions, []);
        let tiny = AutoCompactor::new(AutoCompaction::Periodic(Duration::from_nanos(1)));
        assert_eq!(tiny.retry_every(), LOOK_EVERY_MIN);
    }
}
