//! Three members' cores on one thread under a seed, without actix: an in-memory network that loses, repeats, overtakes and
//! cuts in one direction, slow disks, and crashes that lose what was not synced.
//!
//! ```text
//!   seed ──▶ World: 3 × (Node, MemoryLog, Machine, its mail), Network, Clients ──▶ judged by what clients may rely on
//! ```
//!
//! A run is judged by the contract alone: an acknowledged write is there for ever, at the revision that was acknowledged; no
//! write is carried out twice; what ended before something else began is before it; members that have applied the same have
//! the same state; and when everything works again, everything is answered. The same seed gives the same trace.
//! `CASTD_SEED=n` runs one seed and prints its trace. What one member alone has to get right is in `tests/one_member`.

#[allow(dead_code, reason = "a lone member loses its disk, too")]
#[path = "../one_member/backend.rs"]
mod backend;
mod clients;
mod member;
mod network;
mod world;

use world::{Mistake, Summary, World};

const SEEDS: u64 = 200;
const STEPS: usize = 1_500;

fn run(seed: u64, mistake: Mistake) -> (Summary, Vec<String>) {
    let mut world = World::new(seed, mistake);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish()
}

#[test]
fn what_clients_rely_on_holds_under_every_seed() {
    let one: Option<u64> = std::env::var("CASTD_SEED").ok().map(|seed| seed.parse().expect("CASTD_SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut total = Summary::default();
    for seed in seeds {
        eprintln!("seed {seed}");
        let (summary, trace) = run(seed, Mistake::None);
        if one.is_some() {
            trace.iter().for_each(|line| println!("{line}"));
        }
        total.add(&summary);
    }
    println!("{total:?}");
    if one.is_none() {
        // A harness that did nothing proves nothing.
        assert!(total.acknowledged >= 100_000, "{total:?}");
        assert!(total.acknowledged_by_followers >= 60_000, "{total:?}");
        assert!(total.reads_by_followers >= 30_000, "{total:?}");
        assert!(total.repeated >= 20_000, "{total:?}");
        assert!(total.leaders >= 300, "{total:?}");
        assert!(total.crashes >= 400, "{total:?}");
        assert!(total.writes_lost >= 100, "{total:?}");
        assert!(total.packets_lost >= 40_000 && total.packets_repeated >= 20_000, "{total:?}");
        assert!(total.fetches >= 500, "{total:?}");
        assert!(total.snapshots >= 200, "{total:?}");
        assert!(total.hashes_compared >= 50_000, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        let (_, first) = run(seed, Mistake::None);
        let (_, second) = run(seed, Mistake::None);
        assert!(first.len() > STEPS / 10, "seed {seed} did little: {} lines", first.len());
        assert!(first == second, "seed {seed} gave two traces");
    }
    assert_ne!(run(1, Mistake::None).1, run(2, Mistake::None).1, "two seeds gave one trace");
}

/// Each is found within a few seeds, or the judgement is worth nothing.
#[test]
fn planted_mistakes_are_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    for mistake in
        [Mistake::AnswersBeforeSync, Mistake::ForgetsTags, Mistake::ReadsWithoutAsking, Mistake::SkipsAnEntry]
    {
        let caught = (0..SEEDS).find(|seed| std::panic::catch_unwind(|| run(*seed, mistake)).is_err());
        assert!(caught.is_some_and(|seed| seed < 40), "{mistake:?} was found at seed {caught:?}");
    }
}
