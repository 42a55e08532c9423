//! Many seeds, on all cores: each in a world of its own.

use crate::failure::{Failure, run};
use crate::planted::{self, Bug};
use crate::seed::Plan;
use crate::summary::Summary;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Seeds that once failed, kept in `sim/seeds/kept`: each line a number, then what it found.
const KEPT: &str = include_str!("../seeds/kept");

pub fn kept_seeds() -> Vec<u64> {
    let numbers = KEPT.lines().filter_map(|line| line.split_whitespace().next());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// What came of a campaign.
#[derive(Default)]
pub struct Outcome {
    pub summary: Summary,
    pub failures: Vec<Failure>,
}

/// Runs all of `seeds`, or until `is_over` says so or `failures_max` have failed.
pub fn run_all(seeds: Seeds, jobs: usize, failures_max: usize, is_over: impl Fn() -> bool + Sync) -> Outcome {
    let next = AtomicU64::new(0);
    let is_stopped = AtomicBool::new(false);
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !is_stopped.load(Ordering::Relaxed) && !is_over() {
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let ran = run(Plan::new(seed), false);
                    let outcome = &mut *outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match ran {
                        Ok(run) => outcome.summary.add(&run.summary),
                        Err(failure) => {
                            outcome.failures.push(*failure);
                            if outcome.failures.len() >= failures_max {
                                is_stopped.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.failures.sort_by_key(|failure| failure.seed);
    outcome
}

/// Which seeds, and in which order.
#[derive(Clone, Debug)]
pub struct Seeds {
    /// These first.
    pub first: Vec<u64>,
    pub then: Range<u64>,
}

impl Seeds {
    fn get(&self, place: u64) -> Option<u64> {
        let first = self.first.len() as u64;
        if place < first {
            return self.first.get(place as usize).copied();
        }
        let seed = self.then.start.checked_add(place - first)?;
        (seed < self.then.end).then_some(seed)
    }
}

/// The first of `seeds` that finds `bug`, and how.
pub fn find(bug: Bug, seeds: Range<u64>) -> Option<Failure> {
    planted::plant(Some(bug));
    let found = seeds.into_iter().find_map(|seed| run(Plan::new(seed), false).err());
    planted::plant(None);
    found.map(|failure| *failure)
}
