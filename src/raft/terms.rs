//! The term of every entry of a log, in a few bytes a term instead of a few a entry.
//!
//! ```text
//!   index   7 │ 8  9 10 │ 11 12 13 14 │ 15        first = 7 (the position the log was cut at), last = 15
//!   term    2 │ 3  3  3 │  5  5  5  5 │  6        runs  = (7,2) (8,3) (11,5) (15,6)
//! ```
//! Both the log on disk and the window over it keep one; it answers raft's `term()` for entries long out of memory.

use crate::ids::{LogIndex, Term};
use std::collections::VecDeque;

/// One entry of the log named by index and term: two logs that share it share everything before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    pub index: LogIndex,
    pub term: Term,
}

impl LogPosition {
    pub fn new(index: u64, term: u64) -> Self {
        Self { index: LogIndex(index), term: Term(term) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    term: u64,
}

/// Terms of the entries `truncated().index ..= last()`, the lower end included because raft matches on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermIndex {
    /// Ascending in both fields. The first run starts at the truncated index, so there is always one.
    runs: VecDeque<Run>,
    last: u64,
}

impl Default for TermIndex {
    fn default() -> Self {
        Self::new(LogPosition::default())
    }
}

impl TermIndex {
    /// Of an empty log that was cut at `truncated`.
    pub fn new(truncated: LogPosition) -> Self {
        let run = Run { first: truncated.index.0, term: truncated.term.0 };
        Self { runs: VecDeque::from([run]), last: run.first }
    }

    /// Rebuilds what [`TermIndex::runs`] wrote down. `None` if that is no ascending list ending at or before `last`.
    pub fn from_runs(runs: impl IntoIterator<Item = (u64, u64)>, last: u64) -> Option<Self> {
        let runs: VecDeque<Run> = runs.into_iter().map(|(first, term)| Run { first, term }).collect();
        let ascending = runs.iter().zip(runs.iter().skip(1)).all(|(a, b)| a.first < b.first && a.term < b.term);
        let end = runs.back()?.first;
        (ascending && end <= last).then_some(Self { runs, last })
    }

    /// `(first index, term)` of each stretch of equal terms.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|run| (run.first, run.term))
    }

    /// The position the log was cut at: nothing at or below it is there any more.
    pub fn truncated(&self) -> LogPosition {
        self.runs.front().map_or_else(LogPosition::default, |run| LogPosition::new(run.first, run.term))
    }

    pub fn first_index(&self) -> u64 {
        self.truncated().index.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.last
    }

    pub fn last_position(&self) -> LogPosition {
        LogPosition::new(self.last, self.last_term())
    }

    pub fn last_term(&self) -> u64 {
        self.runs.back().map_or(0, |run| run.term)
    }

    /// `None` outside `truncated().index ..= last_index()`.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        self.runs.get(after.checked_sub(1)?).map(|run| run.term)
    }

    /// Adds an entry behind the last one, or over it and everything after. Answers whether the runs changed.
    ///
    /// # Errors
    /// The reason why this is no continuation of the log: a hole, a compacted index, or a term that goes back.
    pub fn push(&mut self, index: u64, term: u64) -> Result<bool, String> {
        if index == self.last + 1 && term == self.last_term() {
            self.last = index;
            return Ok(false);
        }
        if index > self.last + 1 {
            return Err(format!("entry {index} leaves a hole after {}", self.last));
        }
        let before = index.checked_sub(1).and_then(|before| self.term(before));
        match before {
            None => return Err(format!("entry {index} was compacted, the log starts at {}", self.first_index())),
            Some(before) if term < before => {
                return Err(format!("entry {index} has term {term} after an entry of term {before}"));
            }
            Some(before) => {
                while self.runs.back().is_some_and(|run| run.first >= index) {
                    self.runs.pop_back();
                }
                if term > before {
                    self.runs.push_back(Run { first: index, term });
                }
                self.last = index;
            }
        }
        Ok(true)
    }

    /// Forgets everything below `upto`, which becomes the truncated position.
    ///
    /// # Errors
    /// `upto` is not in this log.
    pub fn cut(&mut self, upto: LogPosition) -> Result<(), String> {
        let LogPosition { index: LogIndex(index), term: Term(term) } = upto;
        if self.term(index) != Some(term) {
            return Err(format!("cannot cut at {index} of term {term}: the log has {:?} there", self.term(index)));
        }
        while self.runs.get(1).is_some_and(|next| next.first <= index) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = index;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Push { back: u64, term_step: u64 },
        Cut { share: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0u64..4, 0u64..2).prop_map(|(back, term_step)| Step::Push { back, term_step }),
            1 => (0u64..100).prop_map(|share| Step::Cut { share }),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn answers_as_a_map_from_index_to_term_would(steps in steps()) {
            let mut index = TermIndex::new(LogPosition::new(5, 2));
            let mut model = BTreeMap::from([(5u64, 2u64)]);
            for step in steps {
                let (first, last) = (*model.keys().next().unwrap(), *model.keys().last().unwrap());
                match step {
                    Step::Push { back, term_step } => {
                        let at = (last + 1).saturating_sub(back).max(first + 1);
                        let term = model[&(at - 1)] + term_step;
                        index.push(at, term).unwrap();
                        model.split_off(&at);
                        model.insert(at, term);
                    }
                    Step::Cut { share } => {
                        let at = first + (last - first) * share / 100;
                        index.cut(LogPosition::new(at, model[&at])).unwrap();
                        model = model.split_off(&at);
                    }
                }
                let (first, last) = (*model.keys().next().unwrap(), *model.keys().last().unwrap());
                prop_assert_eq!((index.truncated().index.0, index.last_index()), (first, last));
                for at in first.saturating_sub(2)..last + 3 {
                    prop_assert_eq!(index.term(at), model.get(&at).copied(), "index {}", at);
                }
                prop_assert_eq!(TermIndex::from_runs(index.runs(), last), Some(index.clone()));
            }
        }
    }

    #[test]
    fn what_is_no_continuation_is_refused_and_changes_nothing() {
        let mut index = TermIndex::new(LogPosition::new(5, 2));
        index.push(6, 3).unwrap();
        let before = index.clone();
        for (at, term) in [(8, 3), (5, 3), (0, 9), (7, 2), (6, 1)] {
            assert!(index.push(at, term).is_err(), "entry {at} of term {term}");
        }
        assert!(index.cut(LogPosition::new(6, 2)).is_err());
        assert!(index.cut(LogPosition::new(7, 3)).is_err());
        assert!(index.cut(LogPosition::new(4, 2)).is_err());
        assert_eq!(index, before);
    }

    #[test]
    fn runs_that_do_not_ascend_are_refused() {
        assert!(TermIndex::from_runs([], 3).is_none());
        assert!(TermIndex::from_runs([(1, 1), (1, 2)], 3).is_none());
        assert!(TermIndex::from_runs([(1, 2), (2, 2)], 3).is_none());
        assert!(TermIndex::from_runs([(1, 2), (5, 3)], 3).is_none());
    }
}
