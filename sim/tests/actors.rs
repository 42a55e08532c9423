//! The real actors of whole members on one thread, by seeds: whatever the order of their turns, every request comes to an end,
//! what was acknowledged is there, and watchers are told all of it in order.

use castd::planted::{Bug, plant};
use castd::telemetry::log::{self, LogSettings};
use castd_sim::actors::{End, Ending, Played, Script, play};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SEEDS: u64 = 500;
/// Of them, those that are played twice.
const SAMPLE: u64 = 40;
/// A planted bug is found within so many.
const BUG_SEEDS: u64 = 200;
/// What can only go wrong between actors, and what cores may do wrong that their shells are asked for.
const PLANTED: [Bug; 5] =
    [Bug::PublishesLate, Bug::JoinsReadUnderWay, Bug::DropsOnOverflow, Bug::RepeatsEvents, Bug::KeepAliveRacesGrant];
/// Names the script of a process that is to end by it.
const ROLE: &str = "CASTD_SIM_ROLE";
/// Actors that somebody misses soon: when one panics, the process has to end.
const WORKING: [&str; 5] = ["RaftNode", "LogWriter", "Applier", "WatchHub", "LeaseKeeper"];
/// A process that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `work` makes of the numbers below `many`, on all cores.
fn each<T: Send>(many: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let run = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        numbers.take_while(|number| *number < many).map(&work).collect::<Vec<T>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("it holds")).collect()
    })
}

#[test]
fn whatever_the_order_of_turns_clients_get_what_was_promised() {
    let played = each(SEEDS, |seed| play(&Script::new(seed)).unwrap_or_else(|wrong| panic!("{wrong}")));
    let sum = |of: fn(&Played) -> usize| played.iter().map(of).sum::<usize>();
    let (answered, unknown) = (sum(|it| it.answered), sum(|it| it.unknown));
    let (events, kept, ended) = (sum(|it| it.events), sum(|it| it.kept), sum(|it| usize::from(it.has_ended)));
    let turns: u64 = played.iter().map(|it| it.turns).sum();
    let errands: u64 = played.iter().map(|it| it.errands).sum();
    println!(
        "{} seeds: {turns} turns, {errands} errands, {answered} answered, {unknown} open, {events} events, {kept} kept \
         alive, {ended} ended",
        played.len()
    );
    assert_eq!(played.len() as u64, SEEDS);
    assert!(turns >= 2_000_000, "that was little: {turns} turns");
    assert!(answered >= 250_000, "that was no flood: {answered} answers");
    assert!(events >= 700_000, "watchers were told little: {events} events");
    assert!(kept >= 200_000, "few leases were kept alive: {kept}");
    assert!(errands >= 6_000, "little was done beside the actors: {errands} errands");
    assert!(ended >= 60, "few actors ended: {ended}");
}

#[test]
fn the_same_seed_gives_the_same_turns() {
    let turns = each(SAMPLE, |seed| {
        let once = || play(&Script::new(seed)).unwrap_or_else(|wrong| panic!("{wrong}"));
        let (first, second) = (once(), once());
        assert_eq!((first.turns, first.trace_hash), (second.turns, second.trace_hash), "seed {seed} gave two traces");
        first.turns
    });
    assert!(turns.iter().sum::<u64>() >= SAMPLE * 3_000, "that is little: {turns:?}");
}

/// The first seed that finds the bug, what is wrong then, and whether nothing is without it.
fn seek(bug: Bug) -> Result<String, String> {
    let failed = |seed| {
        plant(Some(bug));
        let played = play(&Script::new(seed));
        plant(None);
        played.err()
    };
    let Some((seed, wrong)) = (0..BUG_SEEDS).find_map(|seed| Some((seed, failed(seed)?))) else {
        return Err(format!("{bug:?} was not found within {BUG_SEEDS} seeds"));
    };
    match play(&Script::new(seed)) {
        Ok(_) => Ok(format!("{bug:?}: {}", wrong.lines().next().unwrap_or_default())),
        Err(wrong) => Err(format!("without {bug:?}: {wrong}")),
    }
}

#[test]
fn planted_bugs_are_found_at_this_level() {
    let lines = each(PLANTED.len() as u64, |number| seek(PLANTED[number as usize]));
    let (found, missed): (Vec<_>, Vec<_>) = lines.into_iter().partition(Result::is_ok);
    for line in found.iter().flatten() {
        println!("{line}");
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn an_actor_that_gets_no_turn_any_more_is_noticed() {
    for actor in WORKING {
        let ending = Ending { place: 0, actor, turn: 0, end: End::Stuck };
        let script = Script { members: 1, loss: 0, ending: Some(ending), ..Script::new(1) };
        let wrong = play(&script).expect_err("somebody waits for it in vain");
        println!("{actor}: {}", wrong.lines().next().unwrap_or_default());
    }
}

/// Does nothing, unless another test has started it as a process of its own.
#[test]
fn a_process_that_is_to_end() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let script = Script { members: 1, loss: 0, pauses: 0, ..Script::new(1) };
    let script = match role.as_str() {
        "disk" => Script { is_disk_broken: true, ..script },
        actor => {
            let actor = WORKING.into_iter().find(|it| *it == actor).expect("an actor's name");
            Script { ending: Some(Ending { place: 0, actor, turn: 0, end: End::Panic }), ..script }
        }
    };
    // As `main` does it; `play` listens before it.
    let (log, guard) = log::start(&LogSettings::default()).expect("a log");
    castd::process::install_panic_hook(log, guard.flusher());
    let played = play(&script);
    println!("it went on: {played:?}");
}

fn end_of(role: &str) -> ExitStatus {
    let own = std::env::current_exe().expect("a program");
    let mut child = Command::new(own)
        .args(["a_process_that_is_to_end", "--exact", "--nocapture"])
        .env(ROLE, role)
        .spawn()
        .expect("it starts");
    #[allow(clippy::disallowed_methods, reason = "a process has no other time")]
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
            panic!("the process with a broken {role} hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_broken_disk_ends_the_process() {
    assert_eq!(end_of("disk").code(), Some(castd::process::EXIT_FAILURE));
}

#[test]
fn a_panic_in_any_actor_ends_the_process() {
    const SIGABRT: i32 = 6;
    for actor in WORKING {
        assert_eq!(end_of(actor).signal(), Some(SIGABRT), "after a panic in {actor}");
    }
}
