//! When to flush, to take a snapshot, to cut the log.
//!
//! ```text
//!   applied, durable, bytes ──▶ SnapshotPolicy ──▶ Wait | Flush | TakeSnapshot | Cut
//! ```
//!
//! The log is cut only where the member can come back without it: below what the backend has flushed, and, for a backend
//! that cannot be trusted alone, below a checked snapshot in `snap/` from which it can be rebuilt. Pure: no disk, no clock.

use crate::ids::LogIndex;
use crate::raft::terms::LogPosition;
use raft::eraftpb::ConfState;
use std::collections::VecDeque;
use std::time::Duration;

/// A state of up to so many bytes is snapshotted whenever `--snapshot-count` says so;
const SMALL_STATE_BYTES: u64 = 8 << 20;
/// a larger one only when the log has grown by at least this, or by the size of the state if that is more.
const LOG_GROWTH_BYTES_MIN: u64 = 64 << 20;
/// A backend that flushes by itself is only pushed when it has not done so for this long,
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// or, when the state is small, for this long.
const FLUSH_SMALL_EVERY: Duration = Duration::from_secs(5);
/// Positions remembered as places to cut at; older ones are thinned out.
const SAMPLES_MAX: usize = 1_024;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Wait,
    /// Ask the backend to make durable what it has.
    Flush,
    TakeSnapshot,
    Cut {
        position: LogPosition,
        conf_state: ConfState,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct PolicySettings {
    /// `--snapshot-count`, in applied entries.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: kept behind the cut for slow followers.
    pub catchup_entries: u64,
    /// Whether the backend may only be trusted with a snapshot beside it.
    pub keeps_snapshot: bool,
    /// Whether the backend can flush: the memory backend cannot.
    pub is_durable: bool,
}

#[derive(Debug)]
struct Sample {
    position: LogPosition,
    conf_state: ConfState,
}

#[derive(Debug)]
pub struct SnapshotPolicy {
    settings: PolicySettings,
    samples: VecDeque<Sample>,
    /// Newest snapshot in `snap/`.
    snapshot: LogIndex,
    log_bytes: u64,
    log_bytes_at_snapshot: u64,
    cut: LogIndex,
    /// Entries above this one are needed by members that are getting a snapshot.
    held: Option<LogIndex>,
    flushed_at: Option<Duration>,
}

impl SnapshotPolicy {
    /// `cut` is where the log begins, `snapshot` the index of the newest snapshot, 0 if there is none.
    pub fn new(settings: PolicySettings, cut: LogIndex, snapshot: LogIndex) -> Self {
        SnapshotPolicy {
            settings,
            samples: VecDeque::new(),
            snapshot,
            log_bytes: 0,
            log_bytes_at_snapshot: 0,
            cut,
            held: None,
            flushed_at: None,
        }
    }

    pub fn log_grown(&mut self, live_bytes: u64) {
        self.log_bytes = live_bytes;
    }

    pub fn flushed(&mut self, now: Duration) {
        self.flushed_at = Some(now);
    }

    pub fn snapshot_taken(&mut self, index: LogIndex) {
        self.snapshot = self.snapshot.max(index);
        self.log_bytes_at_snapshot = self.log_bytes;
    }

    /// From now on the log stays whole above `held`.
    pub fn hold(&mut self, held: Option<LogIndex>) {
        self.held = held;
    }

    /// A snapshot of the leader has taken the place of state and log.
    pub fn installed(&mut self, index: LogIndex) {
        self.cut = self.cut.max(index);
        self.samples.retain(|sample| sample.position.index > index);
        self.log_bytes = 0;
        self.snapshot_taken(index);
    }

    /// Whether a snapshot stays beside the backend, to rebuild it from.
    pub fn keeps_snapshot(&self) -> bool {
        self.settings.keeps_snapshot
    }

    /// What to do now that the state is at `applied` and a crash would leave it at `durable`.
    pub fn step(
        &mut self,
        now: Duration,
        applied: LogPosition,
        conf_state: &ConfState,
        durable: LogIndex,
        state_bytes: u64,
    ) -> Action {
        self.remember(applied, conf_state);
        let safe = if self.settings.keeps_snapshot { self.snapshot } else { durable };
        let safe = if self.settings.is_durable { safe.min(durable) } else { safe };
        let safe = if crate::planted::is_on(crate::planted::Bug::CutsTooMuch) { applied.index } else { safe };
        let wanted = safe.0.min(applied.index.0.saturating_sub(self.settings.catchup_entries));
        let wanted = self.held.map_or(wanted, |held| wanted.min(held.0));
        if wanted >= self.cut.0 + self.cut_step()
            && let Some(sample) = self.sample_at_most(wanted)
        {
            self.cut = sample.position.index;
            self.samples.retain(|kept| kept.position.index > sample.position.index);
            self.log_bytes_at_snapshot = self.log_bytes_at_snapshot.min(self.log_bytes);
            return Action::Cut { position: sample.position, conf_state: sample.conf_state };
        }
        let due = |since: LogIndex| applied.index.0 >= since.0 + self.settings.snapshot_count;
        if self.settings.keeps_snapshot && due(self.snapshot) && self.has_grown(state_bytes) {
            return Action::TakeSnapshot;
        }
        let pause = if state_bytes <= SMALL_STATE_BYTES { FLUSH_SMALL_EVERY } else { FLUSH_EVERY };
        let may_flush = self.flushed_at.is_none_or(|flushed| now >= flushed + pause);
        if self.settings.is_durable && due(durable) && may_flush {
            return Action::Flush;
        }
        Action::Wait
    }

    /// Cutting is a small write; still, not for every entry.
    fn cut_step(&self) -> u64 {
        self.settings.snapshot_count.clamp(1, 1_000)
    }

    fn has_grown(&self, state_bytes: u64) -> bool {
        let growth = self.log_bytes.saturating_sub(self.log_bytes_at_snapshot);
        state_bytes <= SMALL_STATE_BYTES || growth >= state_bytes.max(LOG_GROWTH_BYTES_MIN)
    }

    fn remember(&mut self, position: LogPosition, conf_state: &ConfState) {
        if self.samples.back().is_some_and(|newest| newest.position.index >= position.index) {
            return;
        }
        self.samples.push_back(Sample { position, conf_state: conf_state.clone() });
        if self.samples.len() > SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    fn sample_at_most(&self, index: u64) -> Option<Sample> {
        let found = self.samples.iter().rev().find(|sample| sample.position.index.0 <= index)?;
        let above_cut = found.position.index > self.cut;
        above_cut.then(|| Sample { position: found.position, conf_state: found.conf_state.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;

    const SETTINGS: PolicySettings =
        PolicySettings { snapshot_count: 10, catchup_entries: 5, keeps_snapshot: true, is_durable: true };

    fn step(policy: &mut SnapshotPolicy, applied: u64, durable: u64) -> Action {
        let position = LogPosition { index: LogIndex(applied), term: Term(2) };
        policy.step(Duration::from_secs(100), position, &ConfState::default(), LogIndex(durable), 1_000)
    }

    #[test]
    fn nothing_is_cut_above_the_snapshot_the_flush_or_the_entries_kept_for_followers() {
        for (snapshot, durable, applied) in [(40, 100, 100), (100, 40, 100), (100, 100, 45)] {
            let mut policy = SnapshotPolicy::new(SETTINGS, LogIndex(0), LogIndex(snapshot));
            let mut cut = 0;
            for index in 1..=applied {
                if let Action::Cut { position, .. } = step(&mut policy, index, durable) {
                    cut = position.index.0;
                }
            }
            assert!((30..=40).contains(&cut), "cut at {cut} with snapshot {snapshot}, durable {durable}");
        }
    }

    #[test]
    fn what_is_held_for_a_member_that_gets_a_snapshot_is_not_cut() {
        let mut policy = SnapshotPolicy::new(SETTINGS, LogIndex(0), LogIndex(100));
        policy.hold(Some(LogIndex(20)));
        let cut_of = |policy: &mut SnapshotPolicy, indexes: std::ops::RangeInclusive<u64>| {
            let mut cut = 0;
            for index in indexes {
                if let Action::Cut { position, .. } = step(policy, index, 100) {
                    cut = position.index.0;
                }
            }
            cut
        };
        assert_eq!(cut_of(&mut policy, 1..=100), 20);
        policy.hold(None);
        assert!(cut_of(&mut policy, 100..=110) > 90);
    }

    #[test]
    fn after_an_install_the_log_begins_at_the_snapshot() {
        let mut policy = SnapshotPolicy::new(SETTINGS, LogIndex(0), LogIndex(0));
        (1..9).for_each(|index| assert_eq!(step(&mut policy, index, index), Action::Wait));
        policy.installed(LogIndex(50));
        assert_eq!(step(&mut policy, 51, 51), Action::Wait, "nothing below is cut again, nothing is taken");
        assert_eq!(step(&mut policy, 60, 60), Action::TakeSnapshot);
    }

    #[test]
    fn a_small_store_is_snapshotted_exactly_at_snapshot_count() {
        let mut policy = SnapshotPolicy::new(SETTINGS, LogIndex(0), LogIndex(0));
        assert_eq!(step(&mut policy, 9, 9), Action::Wait);
        assert_eq!(step(&mut policy, 10, 9), Action::TakeSnapshot);
        policy.snapshot_taken(LogIndex(10));
        assert_eq!(step(&mut policy, 11, 9), Action::Wait);
    }

    #[test]
    fn a_backend_that_has_not_flushed_is_pushed() {
        let settings = PolicySettings { keeps_snapshot: false, ..SETTINGS };
        let mut policy = SnapshotPolicy::new(settings, LogIndex(0), LogIndex(0));
        assert_eq!(step(&mut policy, 10, 0), Action::Flush);
        policy.flushed(Duration::from_secs(100));
        assert_eq!(step(&mut policy, 12, 10), Action::Wait);
    }
}
