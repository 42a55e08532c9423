//! Each planted bug is found, and soon: or the checks are worth nothing.

use castd_sim::campaign;
use castd_sim::planted::Bug;

const SEEDS: u64 = 200;

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match campaign::find(*bug, 0..SEEDS) {
            Some(failure) => println!("{bug:?}: seed {}: {}", failure.seed, failure.what.lines().next().unwrap_or("")),
            None => missed.push(*bug),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
