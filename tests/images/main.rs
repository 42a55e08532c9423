//! Power failures at every point of a member's disk writes: what it writes is recorded once, and then it starts from what may
//! have been left of it, thousands of times.
//!
//! ```text
//!   castd under strace ──▶ trace ──▶ recording (steps on files) ──▶ disk, up to a cut ──loss by a seed──▶ image
//!   its clients ──▶ promises, each with its time ───────────────────────────────────────────▶ check ◀── boot, in process
//! ```
//! `CASTD_IMAGES=n` asks for more images, `CASTD_IMAGE=seed` for one of them. The recording is new in every run, so a seed is
//! the same image only as far as the machine did the same.
#![expect(clippy::disallowed_methods, reason = "processes live in real time, so their tests do")]

mod check;
mod content;
mod disk;
mod recording;
mod trace;
mod workload;

use check::Truth;
use disk::{Disk, LOSSES, Loss};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recording::{Kind, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, OnceLock, PoisonError};
use workload::{Recording, record, strace_works};

/// One image: the disk after that many steps, the last or the next of which is of that kind, and what becomes of the rest.
struct Cut {
    seed: u64,
    kind: Kind,
    steps: usize,
    loss: Loss,
    dice: StdRng,
}

#[derive(Default)]
struct Summary {
    images: usize,
    cuts: BTreeMap<(Kind, Loss), usize>,
    revisions: BTreeSet<i64>,
    failures: Vec<String>,
}

/// Every kind of step with every loss as often as every other, however many there are.
fn cuts(steps: &[Step], seeds: impl Iterator<Item = u64>) -> Vec<Cut> {
    let mut by_kind: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        by_kind.entry(step.action.kind()).or_default().push(number);
    }
    let kinds: Vec<(Kind, Vec<usize>)> = by_kind.into_iter().collect();
    let mut cuts: Vec<Cut> = seeds
        .map(|seed| {
            let mut dice = StdRng::seed_from_u64(seed);
            let number = seed as usize;
            let (kind, of_kind) = &kinds[number % kinds.len()];
            let step = of_kind[dice.random_range(0..of_kind.len())];
            // Just before it, or just after.
            let steps = step + usize::from(dice.random_bool(0.5));
            Cut { seed, kind: *kind, steps, loss: LOSSES[number / kinds.len() % LOSSES.len()], dice }
        })
        .collect();
    cuts.sort_by_key(|cut| (cut.steps, cut.seed));
    cuts
}

/// In RAM where there is such a place.
fn image_directory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("castd-image-").tempdir_in(place).expect("a temporary directory")
}

fn run(storage: &str, recording: &Recording, seeds: impl Iterator<Item = u64>) -> Summary {
    let truth = Truth::of(recording);
    let steps = &recording.steps;
    let summary = Mutex::new(Summary::default());
    let (sender, receiver) = sync_channel::<(Cut, Disk)>(4);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((mut cut, disk)) = next else { return };
                    let directory = image_directory();
                    disk.store(directory.path(), cut.loss, &mut cut.dice).expect("an image can be written");
                    let last = cut.steps.checked_sub(1).and_then(|last| steps.get(last));
                    let found = truth.check(storage, directory.path(), last.map_or(0, |step| step.at));
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.images += 1;
                    *summary.cuts.entry((cut.kind, cut.loss)).or_default() += 1;
                    match found {
                        Ok(found) => drop(summary.revisions.insert(found.revision)),
                        Err(wrong) => summary.failures.push(format!(
                            "{storage}, image {}, {:?} after step {} of {} ({:?} of {}): {wrong}",
                            cut.seed,
                            cut.loss,
                            cut.steps,
                            steps.len(),
                            last.map(|step| step.action.kind()),
                            last.map_or("nothing", |step| &step.path),
                        )),
                    }
                }
            });
        }
        let mut disk = Disk::new();
        let mut done = 0;
        for cut in cuts(steps, seeds) {
            steps[done..cut.steps].iter().for_each(|step| disk.step(step));
            done = cut.steps;
            sender.send((cut, disk.clone())).expect("workers wait for more");
        }
        drop(sender);
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn memory() -> &'static Recording {
    static RECORDING: OnceLock<Recording> = OnceLock::new();
    RECORDING.get_or_init(|| record("memory"))
}

/// `share` of what is asked for in all, and at least `images_min`.
fn campaign(storage: &str, images_min: u64, share: f64) {
    if !strace_works() {
        println!("skipped: strace may not trace here");
        return;
    }
    // The one of memory serves two tests.
    let fresh;
    let recording = match storage {
        "memory" => memory(),
        _ => {
            fresh = record(storage);
            &fresh
        }
    };
    let images = asked("CASTD_IMAGES").map_or(images_min, |all| images_min.max((all as f64 * share) as u64));
    let one = asked("CASTD_IMAGE");
    let summary = run(storage, recording, one.map_or(0..images, |seed| seed..seed + 1));
    println!(
        "{storage}: {} promises, {} steps, {} images, {} revisions; {:?}",
        recording.promises.len(),
        recording.steps.len(),
        summary.images,
        summary.revisions.len(),
        summary.cuts
    );
    for failure in summary.failures.iter().take(20) {
        println!("{failure}");
    }
    assert!(summary.failures.is_empty(), "{} of {} images failed", summary.failures.len(), summary.images);
    if one.is_some() {
        return;
    }
    // A harness that did nothing proves nothing.
    assert_eq!(summary.images as u64, images);
    assert!(recording.promises.len() >= workload::OPERATIONS * 8 / 10, "{} promises", recording.promises.len());
    assert!(summary.revisions.len() as u64 >= images / 20, "{} revisions", summary.revisions.len());
    for kind in [Kind::Create, Kind::Write, Kind::Truncate, Kind::Sync, Kind::Rename, Kind::Remove] {
        for loss in LOSSES {
            assert!(summary.cuts.contains_key(&(kind, loss)), "never {loss:?} at {kind:?}");
        }
    }
}

#[test]
fn no_power_failure_costs_what_was_acknowledged_of_log_and_snapshots() {
    campaign("memory", 1_000, 0.7);
}

#[cfg(feature = "rocksdb")]
#[test]
fn no_power_failure_costs_what_was_acknowledged_on_rocksdb() {
    campaign("rocksdb", 250, 0.15);
}

#[cfg(feature = "sled")]
#[test]
fn no_power_failure_costs_what_was_acknowledged_on_sled() {
    campaign("sled", 250, 0.15);
}

/// The planted bug: a disk that says it has synced the log, and has not. Each is a member that answers before its fsync.
#[test]
fn a_log_whose_syncs_do_nothing_is_reported_as_a_loss() {
    if !strace_works() {
        println!("skipped: strace may not trace here");
        return;
    }
    let mut recording = memory().clone();
    let is_sync_of_log = |step: &Step| step.action.kind() == Kind::Sync && step.path.contains("/member/log/");
    let syncs: Vec<usize> =
        (0..recording.steps.len()).filter(|number| is_sync_of_log(&recording.steps[*number])).collect();
    assert!(syncs.len() > 100, "{} syncs of the log", syncs.len());
    // From the second half of the recording on.
    let planted: BTreeSet<usize> = syncs[syncs.len() / 2..].iter().copied().collect();
    let mut number = 0;
    recording.steps.retain(|_| {
        number += 1;
        !planted.contains(&(number - 1))
    });
    let summary = run("memory", &recording, 0..100);
    let losses =
        summary.failures.iter().filter(|failure| failure.contains("was acknowledged, the image ends at")).count();
    assert!(losses > 0, "nothing was found: {:#?}", summary.failures);
}
