//! Power failures at every point of a member's disk writes: what it writes is recorded once, and then it starts from what may
//! have been left of it, thousands of times.
//!
//! ```text
//!   castd under strace ──▶ trace ──▶ recording (steps on files) ──▶ disk, up to a cut ──loss by a seed──▶ image
//!   its clients ──▶ promises, each with its time ───────────────────────────────────────────▶ check ◀── boot, in process
//! ```
//! `CASTD_IMAGES=n` asks for more images. The recording is new in every run, so no seed brings an image back: the first that
//! fail are kept.
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
use std::fmt::Write as _;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use trace::Micros;
use workload::{Recording, record, strace_works};

/// What a file is for. A power failure at each kind of step on each of them is worth as much as at any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log,
    Snapshots,
    Backend,
    /// The data directory itself: its lock, what says whose it is, and the names of the others.
    DataDir,
}

fn place(step: &Step) -> Place {
    let names: Vec<&str> = step.path.split('/').skip(3).collect();
    match names.first() {
        Some(&"log") => Place::Log,
        Some(&"snap") => Place::Snapshots,
        Some(&"state") => Place::Backend,
        _ => Place::DataDir,
    }
}

/// One image: the disk after that many steps, the last or the next of which is of that kind, and what becomes of the rest.
struct Cut {
    seed: u64,
    place: Place,
    kind: Kind,
    steps: usize,
    loss: Loss,
    dice: StdRng,
}

#[derive(Default)]
struct Summary {
    images: usize,
    /// Those that are not as if only the process had ended.
    lossy: usize,
    cuts: BTreeMap<(Place, Kind), BTreeMap<Loss, usize>>,
    revisions: BTreeSet<i64>,
    failures: Vec<String>,
}

/// One half at any step, as they come: most are writes to the log and their syncs. The other half at every kind of step as
/// often as at every other, however many there are. And each loss as often as every other.
fn cuts(steps: &[Step], images: u64) -> Vec<Cut> {
    let mut by_kind: BTreeMap<(Place, Kind), Vec<usize>> = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        by_kind.entry((place(step), step.action.kind())).or_default().push(number);
    }
    let kinds: Vec<Vec<usize>> = by_kind.into_values().collect();
    let mut cuts: Vec<Cut> = (0..images)
        .map(|seed| {
            let mut dice = StdRng::seed_from_u64(seed);
            let half = seed as usize / 2;
            let step = match seed % 2 {
                0 => dice.random_range(0..steps.len()),
                _ => kinds[half % kinds.len()][dice.random_range(0..kinds[half % kinds.len()].len())],
            };
            let loss = LOSSES[half / kinds.len() % LOSSES.len()];
            let (place, kind) = (place(&steps[step]), steps[step].action.kind());
            // Just before it, or just after.
            let steps = step + usize::from(dice.random_bool(0.5));
            Cut { seed, place, kind, steps, loss, dice }
        })
        .collect();
    cuts.sort_by_key(|cut| (cut.steps, cut.seed));
    cuts
}

/// How many of the images that fail are kept for people.
const KEPT_MAX: usize = 3;

/// In RAM where there is such a place.
fn image_directory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("castd-image-").tempdir_in(place).expect("a temporary directory")
}

/// The image as it was before the start that failed.
fn keep(storage: &str, cut: &Cut, disk: &Disk, mut dice: StdRng) -> String {
    let place = std::env::temp_dir().join(format!("castd-failed-{storage}-{}", std::process::id()));
    let place = place.join(cut.seed.to_string());
    let kept = std::fs::create_dir_all(&place).and_then(|()| disk.store(&place, cut.loss, &mut dice));
    kept.map_or_else(|error| format!("not kept: {error}"), |_| format!("kept in {}", place.display()))
}

/// `kept_max` of the images that fail stay.
fn run(storage: &str, recording: &Recording, images: u64, kept_max: usize) -> Summary {
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
                    let dice = cut.dice.clone();
                    let stored = disk.store(directory.path(), cut.loss, &mut cut.dice);
                    let has_lost = stored.expect("an image can be written");
                    let last = cut.steps.checked_sub(1).and_then(|last| steps.get(last));
                    // What was promised before the next step ended, was promised on what there is.
                    let until = steps.get(cut.steps).map_or(Micros::MAX, |next| next.at);
                    let found = truth.check(storage, directory.path(), until);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.images += 1;
                    summary.lossy += usize::from(has_lost);
                    *summary.cuts.entry((cut.place, cut.kind)).or_default().entry(cut.loss).or_default() += 1;
                    match found {
                        Ok(found) => drop(summary.revisions.insert(found.revision)),
                        Err(wrong) => {
                            let kept = match summary.failures.len() < kept_max {
                                true => keep(storage, &cut, &disk, dice),
                                false => "not kept".to_owned(),
                            };
                            summary.failures.push(format!(
                                "{storage}, image {} ({kept}), {:?} after step {} of {} ({:?} of {}): {wrong}",
                                cut.seed,
                                cut.loss,
                                cut.steps,
                                steps.len(),
                                last.map(|step| step.action.kind()),
                                last.map_or("nothing", |step| &step.path),
                            ));
                        }
                    }
                }
            });
        }
        let mut disk = Disk::new();
        let mut done = 0;
        for cut in cuts(steps, images) {
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

/// Several tests look at one, and none is made twice.
fn recording(storage: &'static str) -> &'static Recording {
    static RECORDINGS: Mutex<BTreeMap<&str, &'static OnceLock<Recording>>> = Mutex::new(BTreeMap::new());
    let mut recordings = RECORDINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = *recordings.entry(storage).or_insert_with(|| Box::leak(Box::default()));
    drop(recordings);
    lock.get_or_init(|| record(storage))
}

/// Who asks for an amount is not told that all is well because nothing could be done.
fn is_possible() -> bool {
    let works = strace_works();
    if !works {
        assert!(asked("CASTD_IMAGES").is_none(), "images were asked for, and strace may not trace here");
        println!("skipped: strace may not trace here");
    }
    works
}

/// What every recording has, or the member no longer writes as it did.
const ALWAYS: [(Place, Kind); 9] = [
    (Place::DataDir, Kind::Create),
    (Place::DataDir, Kind::Write),
    (Place::DataDir, Kind::Sync),
    (Place::DataDir, Kind::Rename),
    (Place::DataDir, Kind::Remove),
    (Place::Log, Kind::Create),
    (Place::Log, Kind::Write),
    (Place::Log, Kind::Sync),
    (Place::Log, Kind::Truncate),
];
const SNAPSHOTS: [(Place, Kind); 5] = [
    (Place::Snapshots, Kind::Create),
    (Place::Snapshots, Kind::Write),
    (Place::Snapshots, Kind::Sync),
    (Place::Snapshots, Kind::Rename),
    (Place::Snapshots, Kind::Remove),
];
const BACKEND: [(Place, Kind); 4] = [
    (Place::Backend, Kind::Create),
    (Place::Backend, Kind::Write),
    (Place::Backend, Kind::Sync),
    (Place::Backend, Kind::Rename),
];

/// `share` of what is asked for in all, and at least `images_min`.
fn campaign(storage: &'static str, images_min: u64, share: f64, expected: &[&[(Place, Kind)]]) {
    if !is_possible() {
        return;
    }
    let recording = recording(storage);
    let images = asked("CASTD_IMAGES").map_or(images_min, |all| images_min.max((all as f64 * share).ceil() as u64));
    let began = Instant::now();
    let summary = run(storage, recording, images, KEPT_MAX);
    println!("{}", summary.shown(storage, recording, began.elapsed()));
    for failure in summary.failures.iter().take(20) {
        println!("{failure}");
    }
    assert!(summary.failures.is_empty(), "{} of {} images failed", summary.failures.len(), summary.images);
    // A harness that did nothing proves nothing.
    assert_eq!(summary.images as u64, images);
    assert!(recording.promises.len() >= workload::OPERATIONS * 8 / 10, "{} promises", recording.promises.len());
    assert!(summary.revisions.len() >= (summary.images / 5).min(500), "{} revisions", summary.revisions.len());
    assert!(summary.lossy >= summary.images / 3, "only {} images have lost anything", summary.lossy);
    for (place, kind) in expected.iter().copied().flatten() {
        let of_kind = summary.cuts.get(&(*place, *kind));
        for loss in LOSSES {
            assert!(of_kind.is_some_and(|it| it.contains_key(&loss)), "never {loss:?} at {kind:?} of {place:?}");
        }
    }
}

impl Summary {
    fn shown(&self, storage: &str, recording: &Recording, took: Duration) -> String {
        let (images, lossy, revisions) = (self.images, self.lossy, self.revisions.len());
        let (promises, steps) = (recording.promises.len(), recording.steps.len());
        let mut text = format!(
            "\n{storage}: {promises} promises and {steps} steps recorded; {images} images in {:.1} s, {lossy} with a loss, \
             {revisions} revisions",
            took.as_secs_f64()
        );
        let heads: String = LOSSES.iter().map(|loss| format!("{:>11}", format!("{loss:?}"))).collect();
        let _ = write!(text, "\n{:24}{heads}", "");
        for ((place, kind), losses) in &self.cuts {
            let row: String =
                LOSSES.iter().map(|loss| format!("{:>11}", losses.get(loss).copied().unwrap_or_default())).collect();
            let _ = write!(text, "\n{:24}{row}", format!("{kind:?} of {place:?}"));
        }
        text
    }
}

#[test]
fn no_power_failure_costs_what_was_acknowledged_of_log_and_snapshots() {
    campaign("memory", 1_000, 0.7, &[&ALWAYS, &SNAPSHOTS]);
}

#[cfg(feature = "rocksdb")]
#[test]
fn no_power_failure_costs_what_was_acknowledged_on_rocksdb() {
    campaign("rocksdb", 250, 0.15, &[&ALWAYS, &BACKEND]);
}

#[cfg(feature = "sled")]
#[test]
fn no_power_failure_costs_what_was_acknowledged_on_sled() {
    campaign("sled", 250, 0.15, &[&ALWAYS, &SNAPSHOTS, &BACKEND]);
}

/// A disk that says that it has done something, and has not: the images are those of a member that forgets to. Answers what
/// was found.
fn found_without(storage: &'static str, is_lie: impl Fn(usize, &Step) -> bool) -> Vec<String> {
    let honest = recording(storage);
    let kept = honest.steps.iter().enumerate().filter(|(number, step)| !is_lie(*number, step));
    let lying = Recording { steps: kept.map(|(_, step)| step.clone()).collect(), ..honest.clone() };
    assert!(lying.steps.len() < honest.steps.len(), "there was no such step");
    run(storage, &lying, 100, 0).failures
}

fn assert_found(failures: &[String], text: &str) {
    assert!(failures.iter().any(|failure| failure.contains(text)), "nothing like '{text}' in {failures:#?}");
}

#[test]
fn a_log_whose_syncs_do_nothing_is_reported_as_a_loss() {
    if is_possible() {
        let failures = found_without("memory", |_, step| place(step) == Place::Log && step.action.kind() == Kind::Sync);
        assert_found(&failures, "was acknowledged, the image ends at");
    }
}

#[test]
fn one_write_to_the_log_that_was_lost_although_it_was_synced_is_reported() {
    if is_possible() {
        let steps = &recording("memory").steps;
        let is_write = |step: &Step| place(step) == Place::Log && step.action.kind() == Kind::Write;
        let lost = (steps.len() / 2..steps.len()).find(|number| is_write(&steps[*number])).expect("there are many");
        assert_found(&found_without("memory", |number, _| number == lost), "is damaged");
    }
}

#[test]
fn a_snapshot_that_was_not_synced_is_reported_as_nothing_left() {
    if is_possible() {
        let is_sync = |_, step: &Step| place(step) == Place::Snapshots && step.action.kind() == Kind::Sync;
        assert_found(&found_without("memory", is_sync), "cannot be rebuilt");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_backend_that_was_not_synced_is_reported_as_nothing_left() {
    if is_possible() {
        let is_sync = |_, step: &Step| place(step) == Place::Backend && step.action.kind() == Kind::Sync;
        assert_found(&found_without("rocksdb", is_sync), "cannot be rebuilt");
    }
}
