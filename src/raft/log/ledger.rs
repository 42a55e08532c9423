//! What a log holds by now, and whether a write may follow it.
//!
//! Both log stores ask their ledger before they write, so both refuse the same mistakes of the caller: a hole, a term
//! that goes back, a second vote, a commit index ahead of the log. The ledger touches no disk.

use super::{Install, LogError, LogWrite};
use crate::raft::terms::{LogPosition, TermIndex};
use ::raft::eraftpb::{ConfState, Entry, HardState};
use std::collections::VecDeque;

/// What raft-engine adds to an entry of a typical size: its share of index, header and checksum.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

/// A mark for each stretch of this many bytes is enough to say how large a part of the log is.
const MARK_EVERY_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub terms: TermIndex,
    pub pending_install: Option<String>,
    pub size: LiveSize,
    /// Anything was ever written here.
    pub begun: bool,
}

impl Ledger {
    /// Takes `write` down. Answers whether the runs of terms changed other than by growing the last one.
    pub fn append(&mut self, write: &LogWrite) -> Result<bool, LogError> {
        let refuse = |reason| LogError::Refused { operation: "append", reason };
        if !self.begun {
            return Err(refuse("the log was never begun".into()));
        }
        let mut terms_changed = false;
        let first = write.entries.first().map_or(0, |entry| entry.index);
        if !write.entries.is_empty() && first <= self.hard_state.commit {
            return Err(refuse(format!("entry {first} is committed, as all up to {}", self.hard_state.commit)));
        }
        for (entry, expected) in write.entries.iter().zip(first..) {
            if entry.index != expected {
                return Err(refuse(format!("entry {} stands where {expected} should", entry.index)));
            }
            terms_changed |= self.terms.push(entry.index, entry.term).map_err(refuse)?;
            self.size.grow(entry_bytes(entry));
        }
        self.size.mark(self.terms.last_index());
        if let Some(next) = &write.hard_state {
            let now = &self.hard_state;
            if contradicts(next, now) {
                return Err(refuse(format!("term and vote go from {now:?} to {next:?}")));
            }
            if next.commit > self.terms.last_index() {
                return Err(refuse(format!(
                    "commit {} of a log that ends at {}",
                    next.commit,
                    self.terms.last_index()
                )));
            }
            // A cut raises the commit index on disk past the one raft last reported.
            let commit = next.commit.max(now.commit);
            self.hard_state = HardState { commit, ..next.clone() };
        }
        Ok(terms_changed)
    }

    /// Cuts at `upto`. False if the log is already cut there or above.
    pub fn truncate(&mut self, upto: LogPosition, conf_state: &ConfState) -> Result<bool, LogError> {
        if upto.index <= self.terms.truncated().index {
            return Ok(false);
        }
        self.terms.cut(upto).map_err(|reason| LogError::Refused { operation: "truncate", reason })?;
        self.size.cut(upto.index.0);
        self.conf_state = conf_state.clone();
        self.hard_state.commit = self.hard_state.commit.max(upto.index.0);
        Ok(true)
    }

    pub fn replace(&mut self, install: &Install) -> Result<(), LogError> {
        let refuse = |reason| Err(LogError::Refused { operation: "replace", reason });
        let LogPosition { index, term } = install.position;
        if index < self.terms.truncated().index {
            return refuse(format!("the log is already cut at {}, above {index}", self.terms.truncated().index));
        }
        if install.hard_state.term < term.0 || contradicts(&install.hard_state, &self.hard_state) {
            return refuse(format!("term and vote go from {:?} to {:?}", self.hard_state, install.hard_state));
        }
        *self = Self {
            hard_state: HardState { commit: index.0, ..install.hard_state.clone() },
            conf_state: install.conf_state.clone(),
            terms: TermIndex::new(install.position),
            pending_install: install.pending.clone(),
            size: LiveSize::recovered(index.0, self.size.appended_bytes, index.0, self.size.appended_bytes),
            begun: true,
        };
        Ok(())
    }

    /// Checks a request for entries `low .. high`.
    pub fn covers(&self, low: u64, high: u64) -> Result<(), LogError> {
        if self.terms.first_index() <= low && low < high && high <= self.terms.last_index() + 1 {
            return Ok(());
        }
        let (first, last) = (self.terms.first_index(), self.terms.last_index());
        Err(LogError::Refused { operation: "read", reason: format!("{low}..{high} of a log from {first} to {last}") })
    }
}

/// A term never goes back, and there is one vote in a term.
fn contradicts(next: &HardState, now: &HardState) -> bool {
    next.term < now.term || (next.term == now.term && now.vote != 0 && next.vote != now.vote)
}

pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// Bytes of the entries that are not cut, without remembering the size of each.
#[derive(Clone, Debug, Default)]
pub(super) struct LiveSize {
    /// Since the log began.
    pub appended_bytes: u64,
    /// `(index, appended_bytes once it was written)`, from the truncated index upwards, about one a megabyte.
    marks: VecDeque<(u64, u64)>,
    last_index: u64,
}

impl LiveSize {
    pub fn recovered(truncated_index: u64, truncated_bytes: u64, last_index: u64, appended_bytes: u64) -> Self {
        let mut marks = VecDeque::from([(truncated_index, truncated_bytes.min(appended_bytes))]);
        if last_index > truncated_index {
            marks.push_back((last_index, appended_bytes));
        }
        Self { appended_bytes, marks, last_index }
    }

    pub fn live_bytes(&self) -> u64 {
        self.appended_bytes - self.truncated_bytes()
    }

    pub fn truncated_bytes(&self) -> u64 {
        self.marks.front().map_or(0, |mark| mark.1)
    }

    fn grow(&mut self, bytes: u64) {
        self.appended_bytes += bytes;
    }

    fn mark(&mut self, last_index: u64) {
        self.last_index = last_index;
        let (index, bytes) = self.marks.back().copied().unwrap_or_default();
        if last_index > index && (self.appended_bytes - bytes >= MARK_EVERY_BYTES || self.marks.is_empty()) {
            self.marks.push_back((last_index, self.appended_bytes));
        }
    }

    /// Between two marks entries count as equally long.
    fn cut(&mut self, upto: u64) {
        let mut below = (0, 0);
        while let Some(&mark) = self.marks.front().filter(|mark| mark.0 <= upto) {
            below = mark;
            self.marks.pop_front();
        }
        let above = self.marks.front().copied().unwrap_or((self.last_index, self.appended_bytes));
        let share = if above.0 > below.0 { (upto - below.0) as f64 / (above.0 - below.0) as f64 } else { 1.0 };
        let bytes = below.1 + ((above.1 - below.1) as f64 * share.min(1.0)) as u64;
        self.marks.push_front((upto, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Ledger {
        let mut ledger = Ledger::default();
        let hard_state = HardState { term: 1, vote: 7, ..HardState::default() };
        let conf_state = ConfState { voters: vec![7], ..ConfState::default() };
        let install = Install { position: LogPosition::new(1, 1), conf_state, hard_state, pending: None };
        ledger.replace(&install).unwrap();
        ledger
    }

    fn write(indexes: std::ops::Range<u64>, term: u64) -> LogWrite {
        let entries = indexes.map(|index| Entry { index, term, data: vec![0; 1000].into(), ..Entry::default() });
        LogWrite { entries: entries.collect(), hard_state: None, must_sync: true }
    }

    fn state(term: u64, vote: u64, commit: u64) -> LogWrite {
        let hard_state = Some(HardState { term, vote, commit, ..HardState::default() });
        LogWrite { entries: vec![], hard_state, must_sync: true }
    }

    #[test]
    fn a_write_that_would_break_the_log_is_refused() {
        let mut ledger = begun();
        ledger.append(&write(2..5, 2)).unwrap();
        ledger.append(&state(3, 9, 3)).unwrap();
        for (what, bad) in [
            ("hole", write(6..7, 3)),
            ("overwritten commit", write(3..4, 3)),
            ("term back", write(5..6, 1)),
            ("compacted", write(1..2, 3)),
            ("second vote", state(3, 8, 3)),
            ("hard state's term back", state(2, 9, 3)),
            ("commit ahead", state(3, 9, 5)),
        ] {
            assert!(matches!(ledger.clone().append(&bad), Err(LogError::Refused { .. })), "{what}");
        }
        let mut torn = write(5..8, 3);
        torn.entries.remove(1);
        assert!(ledger.append(&torn).is_err());
    }

    #[test]
    fn nothing_is_appended_to_a_log_that_was_never_begun() {
        assert!(Ledger::default().append(&write(1..2, 1)).is_err());
    }

    #[test]
    fn the_live_size_follows_appends_and_cuts() {
        let mut ledger = begun();
        for index in 2..10_002 {
            ledger.append(&write(index..index + 1, 2)).unwrap();
        }
        let all = ledger.size.live_bytes();
        assert_eq!(all, 10_000 * (1000 + ENTRY_OVERHEAD_BYTES));
        assert!(ledger.size.marks.len() < 20);
        for part in [1, 3, 7, 10] {
            ledger.truncate(LogPosition::new(1 + 1000 * part, 2), &ConfState::default()).unwrap();
            let live = ledger.size.live_bytes() as f64 / all as f64;
            assert!((live - (10 - part) as f64 / 10.0).abs() < 0.02, "{live} after {part}");
        }
    }
}
