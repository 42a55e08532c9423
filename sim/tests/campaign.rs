//! Many seeds, and what they have to have done: a harness that did nothing proves nothing.

use castd_sim::campaign::{self, Seeds};

const SEEDS: u64 = 4_000;
const OPERATIONS_MIN: u64 = 4_000_000;

#[test]
fn what_clients_rely_on_holds_under_every_seed() {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let seeds = Seeds { first: campaign::kept_seeds(), then: 0..SEEDS };
    let outcome = campaign::run_all(seeds, jobs, 3, || false);
    println!("{}", outcome.summary);
    for failure in &outcome.failures {
        println!("{failure}\n");
    }
    let failed: Vec<u64> = outcome.failures.iter().map(|failure| failure.seed).collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed");
    let short = outcome.summary.shortfalls(SEEDS);
    assert!(short.is_empty(), "too little was done: {short:#?}");
    assert!(outcome.summary.operations >= OPERATIONS_MIN, "{} operations", outcome.summary.operations);
}
