//! The simulator's command line: one seed again, or many.
//!
//! ```text
//!   castd-sim --seed 7 --trace                one run, line by line
//!   castd-sim --seeds 0..2000 --jobs 2        these, and the kept ones first; fails below the amounts that are expected
//!   castd-sim --for 10m                       as many as there is time for
//!   castd-sim --seed 7 --shrink               a shorter run that fails in the same way
//!   castd-sim --seed 7 --actors --trace      one script of the level that runs the actors, turn by turn
//!   castd-sim --bug ForgetsTags               the first seed that finds a planted bug, with --shrink a shorter run of it
//! ```
#![expect(
    clippy::disallowed_methods,
    reason = "how long a campaign takes is told by the machine's clock; no world asks it"
)]

use castd_sim::actors::{Script, play};
use castd_sim::campaign::{self, Seeds};
use castd_sim::seed::Plan;
use castd_sim::{planted, run, shrink};
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: castd-sim [--seed N [--actors] [--trace] [--shrink]] [--seeds A..B] [--for 90s|10m|8h] [--jobs N] [--failures N] [--bug NAME]";
/// Failures after which a campaign gives up.
const FAILURES_MAX: usize = 5;
/// Seeds found in vain before a planted bug counts as not found.
const BUG_SEEDS: u64 = 200;
/// A run is made shorter for so many runs at most.
const SHRINK_RUNS: usize = 2_000;

struct Arguments {
    seed: Option<u64>,
    is_traced: bool,
    is_shrunk: bool,
    /// The level that runs the actors is meant.
    has_actors: bool,
    seeds: Range<u64>,
    lasts: Option<Duration>,
    jobs: usize,
    failures_max: usize,
    bug: Option<planted::Bug>,
}

fn arguments() -> Result<Arguments, String> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (seed, is_traced, is_shrunk, has_actors, lasts, bug) = Default::default();
    let mut parsed = Arguments {
        seed,
        is_traced,
        is_shrunk,
        has_actors,
        seeds: 0..2_000,
        lasts,
        jobs,
        failures_max: FAILURES_MAX,
        bug,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        let bad = |given: &str| format!("{word}: {given:?} makes no sense\n{USAGE}");
        match word.as_str() {
            "--trace" => parsed.is_traced = true,
            "--shrink" => parsed.is_shrunk = true,
            "--actors" => parsed.has_actors = true,
            "--seed" => parsed.seed = Some(value().and_then(|given| given.parse().map_err(|_| bad(&given)))?),
            "--seeds" => parsed.seeds = value().and_then(|given| range(&given).ok_or_else(|| bad(&given)))?,
            "--for" => {
                parsed.lasts = Some(value().and_then(|given| duration(&given).ok_or_else(|| bad(&given)))?);
                parsed.seeds.end = u64::MAX;
            }
            "--jobs" => parsed.jobs = value().and_then(|given| given.parse().map_err(|_| bad(&given)))?,
            "--failures" => parsed.failures_max = value().and_then(|given| given.parse().map_err(|_| bad(&given)))?,
            "--bug" => parsed.bug = Some(value().and_then(|given| planted::find(&given).ok_or_else(|| bad(&given)))?),
            other => return Err(format!("unknown argument {other}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn range(given: &str) -> Option<Range<u64>> {
    let (from, to) = given.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

fn duration(given: &str) -> Option<Duration> {
    let unit = given.chars().last()?;
    let number: u64 = given.strip_suffix(unit)?.parse().ok()?;
    let secs = match unit {
        's' => number,
        'm' => number * 60,
        'h' => number * 3_600,
        _ => return None,
    };
    Some(Duration::from_secs(secs))
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| execute(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), String> {
    if let (Some(bug), None) = (arguments.bug, arguments.seed) {
        let found = campaign::find(bug, arguments.seeds.start..arguments.seeds.start + BUG_SEEDS);
        let found = found.ok_or_else(|| format!("{bug:?} was not found within {BUG_SEEDS} seeds"))?;
        println!("{bug:?} was found by seed {}: {}", found.seed, found.what);
        if arguments.is_shrunk {
            planted::plant(Some(bug));
            return shorter(found.seed, arguments.is_traced);
        }
        return Ok(());
    }
    if let Some(seed) = arguments.seed {
        planted::plant(arguments.bug);
        if arguments.has_actors {
            let script = Script { is_traced: arguments.is_traced, ..Script::new(seed) };
            println!("{script:#?}");
            println!("{:#?}", play(&script)?);
            return Ok(());
        }
        if arguments.is_shrunk {
            return shorter(seed, arguments.is_traced);
        }
        let plan = Plan::new(seed);
        println!("{plan:#?}");
        let run = run(plan, arguments.is_traced).map_err(|failure| failure.to_string())?;
        println!("{}trace {:016x}, {} lines", run.summary, run.trace_hash, run.trace_lines);
        return Ok(());
    }
    let started = Instant::now();
    let is_over = || arguments.lasts.is_some_and(|lasts| started.elapsed() >= lasts);
    let seeds = Seeds { first: campaign::kept_seeds(), then: arguments.seeds.clone() };
    let outcome = campaign::run_all(seeds, arguments.jobs, arguments.failures_max, is_over);
    let (summary, took) = (&outcome.summary, started.elapsed().as_secs_f64());
    println!("{summary}");
    println!(
        "{:.1} s, {:.1} seeds/s, {:.0} operations/s",
        took,
        summary.seeds as f64 / took,
        summary.operations as f64 / took
    );
    for failure in &outcome.failures {
        eprintln!("{failure}\n");
    }
    if !outcome.failures.is_empty() {
        let seeds: Vec<u64> = outcome.failures.iter().map(|failure| failure.seed).collect();
        return Err(format!("{} seeds failed: {seeds:?}", seeds.len()));
    }
    let short = summary.shortfalls(summary.seeds);
    if short.is_empty() { Ok(()) } else { Err(format!("too little was done:\n{}", short.join("\n"))) }
}

/// What is left of a seed that fails, and how it fails then.
fn shorter(seed: u64, is_traced: bool) -> Result<(), String> {
    let shrunk = shrink::shrink(&Plan::new(seed), SHRINK_RUNS);
    let Some(shrunk) = shrunk else { return Err(format!("seed {seed} does not fail: nothing to make shorter")) };
    let (before, after) = (shrunk.before, shrunk.after);
    println!("{}\n", shrunk.failure);
    println!("after {} runs: {} of {} faults, {} of {} requests", shrunk.runs, after.0, before.0, after.1, before.1);
    for fault in &shrunk.plan.faults {
        println!("{fault:?}");
    }
    if is_traced {
        // It fails, as has been told.
        drop(run(shrunk.plan, true));
    }
    Ok(())
}
