//! The same seed is the same run, to the last line of its trace.

use castd_sim::run;
use castd_sim::seed::Plan;
use std::collections::BTreeSet;

const SAMPLE: u64 = 20;

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let once = |seed| run(Plan::new(seed), false).unwrap_or_else(|failure| panic!("{failure}"));
    let mut hashes = BTreeSet::new();
    for seed in 0..SAMPLE {
        let (first, second) = (once(seed), once(seed));
        assert!(first.trace_lines > 1_000, "seed {seed} did little: {} lines", first.trace_lines);
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed} gave two traces");
        hashes.insert(first.trace_hash);
    }
    assert_eq!(hashes.len() as u64, SAMPLE, "two seeds gave one trace");
}
