//! One member's cores on one thread under a seed, without actix: requests, slow disks, crashes at every point, and the loss
//! of all that was not synced.
//!
//! ```text
//!   seed ──▶ World: Node, MemoryLog, Machine, and the mail between them, delivered in any order that actors allow
//! ```
//!
//! A run is judged by what clients may rely on: an acknowledged write is there for ever, at the revision that was
//! acknowledged; a read sees all that was acknowledged before it; revisions never go back. The same seed gives the same
//! trace. `CASTD_SEED=n` runs one seed and prints its trace.

mod backend;
mod world;

use world::{Mistake, Summary, World};

const SEEDS: u64 = 200;
const STEPS: usize = 4_000;

fn run(seed: u64) -> (Summary, Vec<String>) {
    run_with(seed, Mistake::None)
}

fn run_with(seed: u64, mistake: Mistake) -> (Summary, Vec<String>) {
    let mut world = World::new(seed, mistake);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish()
}

#[test]
fn acknowledged_writes_survive_every_crash_under_every_seed() {
    let one: Option<u64> = std::env::var("CASTD_SEED").ok().map(|seed| seed.parse().expect("CASTD_SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut total = Summary::default();
    for seed in seeds {
        eprintln!("seed {seed}");
        let (summary, trace) = run(seed);
        if one.is_some() {
            trace.iter().for_each(|line| println!("{line}"));
        }
        total.add(&summary);
    }
    println!("{total:?}");
    if one.is_none() {
        // A harness that did nothing proves nothing.
        assert!(total.crashes >= 1_000, "{total:?}");
        assert!(total.entries_lost >= 1_000, "{total:?}");
        assert!(total.batches_lost >= 1_000, "{total:?}");
        assert!(total.acknowledged >= 20_000, "{total:?}");
        assert!(total.reads >= 5_000, "{total:?}");
        assert!(total.log_cuts >= 200, "{total:?}");
        assert!(total.compactions >= 200, "{total:?}");
        assert!(total.membership_changes >= 500, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (_, first) = run(seed);
        let (_, second) = run(seed);
        assert!(first.len() > STEPS / 20, "seed {seed} did little: {} lines", first.len());
        assert!(first == second, "seed {seed} gave two traces");
    }
    assert_ne!(run(1).1, run(2).1, "two seeds gave one trace");
}

#[test]
fn a_log_that_answers_before_its_fsync_is_caught() {
    let caught =
        (0..SEEDS).find(|seed| std::panic::catch_unwind(|| run_with(*seed, Mistake::AnswersBeforeSync)).is_err());
    assert!(caught.is_some_and(|seed| seed < 20), "found at seed {caught:?}");
}
