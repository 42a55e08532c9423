//! Makes a run that fails shorter: faults and requests are left out as long as it still fails in the same way.
//!
//! ```text
//!   plan ─▶ without half of the faults ─▶ fails alike? ─▶ without a quarter … without one ─▶ the same with requests
//! ```
//! What remains is not the shortest run there is, but one from which nothing more can be left out alone. A fault or a request
//! that is left out changes no other one: each has dice of its own. "In the same way" is the beginning of what was said,
//! without its numbers.

use crate::failure::{Failure, run};
use crate::faults::Fault;
use crate::seed::Plan;
use std::collections::BTreeSet;

/// Words of a failure that have to be the same.
const WORDS: usize = 4;
/// Requests of a client that changes the membership or compacts: it makes no more than that.
const SELDOM: u64 = 300;

pub struct Shrunk {
    pub plan: Plan,
    pub failure: Failure,
    /// How often the world was run.
    pub runs: usize,
    /// Faults and requests of the plan as it was.
    pub before: (usize, usize),
    pub after: (usize, usize),
}

/// `None` if the plan does not fail. Ends after `runs_max` runs with what there is by then.
pub fn shrink(plan: &Plan, runs_max: usize) -> Option<Shrunk> {
    let first = run(plan.clone(), false).err()?;
    let way = way_of(&first.what);
    let operations = operations(plan);
    let before = (plan.faults.len(), operations.len());
    let mut trial = Trial { way, runs: 1, runs_max, failure: *first };
    let mut plan = plan.clone();
    // Requests go once more after the faults have, and faults once the requests have.
    let mut kept = operations.clone();
    loop {
        let had = (plan.faults.len(), kept.len());
        let faults = std::mem::take(&mut plan.faults);
        plan.faults = reduce(faults, |faults: &[Fault]| {
            let faults = faults.to_vec();
            trial.fails(&Plan { faults, ..plan.clone() })
        });
        kept = reduce(kept, |kept| {
            let without_operations = without(&operations, kept);
            trial.fails(&Plan { without_operations, ..plan.clone() })
        });
        plan.without_operations = without(&operations, &kept);
        if had == (plan.faults.len(), kept.len()) || trial.is_over() {
            break;
        }
    }
    let after = (plan.faults.len(), kept.len());
    Some(Shrunk { plan, failure: trial.failure, runs: trial.runs, before, after })
}

struct Trial {
    way: String,
    runs: usize,
    runs_max: usize,
    /// The newest.
    failure: Failure,
}

impl Trial {
    fn is_over(&self) -> bool {
        self.runs >= self.runs_max
    }

    fn fails(&mut self, plan: &Plan) -> bool {
        if self.is_over() {
            return false;
        }
        self.runs += 1;
        let Err(failure) = run(plan.clone(), false) else { return false };
        let is_alike = way_of(&failure.what) == self.way;
        if is_alike {
            self.failure = *failure;
        }
        is_alike
    }
}

/// Its first words, without those that have numbers.
fn way_of(what: &str) -> String {
    let words = what.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(WORDS).collect::<Vec<_>>().join(" ")
}

/// All that may be left out, by client and number.
fn operations(plan: &Plan) -> Vec<(usize, u64)> {
    let counts = &plan.clients;
    let others = counts.keys + counts.leases + counts.watchers;
    let at_keys = (0..counts.keys).flat_map(|client| (1..=counts.operations).map(move |number| (client, number)));
    let seldom = usize::from(counts.changes_members) + usize::from(counts.compacts);
    let by_others = (others..others + seldom).flat_map(|client| (1..=SELDOM).map(move |number| (client, number)));
    at_keys.chain(by_others).filter(|operation| !plan.without_operations.contains(operation)).collect()
}

fn without(all: &[(usize, u64)], kept: &[(usize, u64)]) -> BTreeSet<(usize, u64)> {
    let kept: BTreeSet<_> = kept.iter().collect();
    all.iter().filter(|operation| !kept.contains(operation)).copied().collect()
}

/// Leaves out halves, then quarters, and so on, whatever `is_enough` without.
fn reduce<T: Clone>(items: Vec<T>, mut is_enough: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = items;
    let mut size = kept.len();
    while size > 0 {
        let mut at = 0;
        while at < kept.len() {
            let rest: Vec<T> = kept[..at].iter().chain(kept[at..].iter().skip(size)).cloned().collect();
            if is_enough(&rest) {
                kept = rest;
            } else {
                at += size;
            }
        }
        size = if size > kept.len() { kept.len() } else { size / 2 };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign;
    use crate::planted::{self, Bug};

    #[test]
    fn what_is_needed_is_all_that_remains() {
        let needed = [3, 4, 77];
        let kept = reduce((0..100).collect(), |items| needed.iter().all(|it| items.contains(it)));
        assert_eq!(kept, needed);
        assert_eq!(reduce(vec![1, 2, 3], |_| true), Vec::<i32>::new());
        assert_eq!(reduce(vec![1, 2, 3], |_| false), [1, 2, 3]);
        assert_eq!(way_of("lease 100000001 had ended at 5 µs, and was promised"), "lease had ended at");
    }

    #[test]
    fn a_planted_bug_fails_in_the_same_way_with_far_fewer_faults_and_requests() {
        let bug = Bug::SkipsAnEntry;
        let found = campaign::find(bug, 0..50).expect("it is found");
        planted::plant(Some(bug));
        let shrunk = shrink(&Plan::new(found.seed), 150);
        planted::plant(None);
        let shrunk = shrunk.expect("it fails again");
        let (before, after) = (shrunk.before, shrunk.after);
        assert_eq!(way_of(&shrunk.failure.what), way_of(&found.what));
        assert!(after.0 * 2 <= before.0 && after.1 * 2 <= before.1, "from {before:?} to {after:?}");
        assert!(run(shrunk.plan, false).is_ok(), "without the bug there is nothing to find");
    }

    #[test]
    fn a_run_that_does_not_fail_is_not_shrunk() {
        assert!(shrink(&Plan::new(1), 10).is_none());
    }
}
