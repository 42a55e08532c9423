//! Each planted bug is found, and soon: or the checks are worth nothing.
#![expect(clippy::disallowed_methods, reason = "how long it takes to find a bug is told by the machine's clock")]

use castd_sim::planted::{Bug, plant};
use castd_sim::seed::Plan;
use castd_sim::{campaign, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const SEEDS: u64 = 200;
const BUGS_MIN: usize = 25;
/// Of the first line of what was wrong.
const SHOWN_CHARS: usize = 160;

/// What became of a bug: the seed that found it, how long that took, and the first line of what was wrong.
fn seek(bug: Bug) -> Result<(u64, String), String> {
    let began = Instant::now();
    let Some(failure) = campaign::find(bug, 0..SEEDS) else {
        return Err(format!("{bug:?} was not found within {SEEDS} seeds"));
    };
    let took = began.elapsed().as_secs_f64();
    let what: String = failure.what.lines().next().unwrap_or_default().chars().take(SHOWN_CHARS).collect();
    let seed = failure.seed;
    plant(None);
    match run(Plan::new(seed), false) {
        Ok(_) => Ok((seed, format!("seed {seed:3}, {took:5.1} s: {bug:?} ({}): {what}", bug.about().history))),
        Err(failure) => Err(format!("{bug:?}: seed {seed} fails without it, too: {}", failure.what)),
    }
}

#[test]
fn every_planted_bug_is_found_and_nothing_is_where_none_is() {
    let next = AtomicUsize::new(0);
    let (found, missed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match seek(*bug) {
                        Ok(line) => found.lock().expect("no panic").push(line),
                        Err(line) => missed.lock().expect("no panic").push(line),
                    }
                }
            });
        }
    });
    let (mut found, missed) = (found.into_inner().expect("no panic"), missed.into_inner().expect("no panic"));
    found.sort();
    for (_, line) in &found {
        println!("{line}");
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(found.len() >= BUGS_MIN, "only {} bugs are planted", found.len());
}
