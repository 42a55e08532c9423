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

mod campaign;
mod check;
mod content;
mod disk;
mod follower;
mod recording;
mod rotation;
mod tape;
mod trace;
mod workload;

use campaign::{Place, Summary, place, run};
use check::Truth;
use disk::LOSSES;
use recording::{Action, Kind, Step};
use rotation::Rotation;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use workload::{Recording, record, strace_works};

/// How many of the images that fail are kept for people.
const KEPT_MAX: usize = 3;

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

type Recordings = Mutex<BTreeMap<&'static str, &'static OnceLock<Recording>>>;

/// Several tests look at one, and none is made twice.
fn once(made: &Recordings, storage: &'static str, make: fn(&str) -> Recording) -> &'static Recording {
    let mut recordings = made.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = *recordings.entry(storage).or_insert_with(|| Box::leak(Box::default()));
    drop(recordings);
    lock.get_or_init(|| make(storage))
}

fn recording(storage: &'static str) -> &'static Recording {
    static MADE: Recordings = Mutex::new(BTreeMap::new());
    once(&MADE, storage, record)
}

fn recording_of_follower(storage: &'static str) -> &'static Recording {
    static MADE: Recordings = Mutex::new(BTreeMap::new());
    once(&MADE, storage, follower::record)
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
const ARRIVING: [(Place, Kind); 4] = [
    (Place::Snapshots, Kind::Create),
    (Place::Snapshots, Kind::Write),
    (Place::Snapshots, Kind::Sync),
    (Place::Snapshots, Kind::Rename),
];
const BACKEND: [(Place, Kind); 4] = [
    (Place::Backend, Kind::Create),
    (Place::Backend, Kind::Write),
    (Place::Backend, Kind::Sync),
    (Place::Backend, Kind::Rename),
];

const ROTATION: [(Place, Kind); 6] = [
    (Place::Log, Kind::Create),
    (Place::Log, Kind::Write),
    (Place::Log, Kind::Sync),
    (Place::Log, Kind::Truncate),
    (Place::Log, Kind::Rename),
    (Place::Log, Kind::Remove),
];

/// `share` of what is asked for in all, and at least `images_min`.
fn amount(images_min: u64, share: f64) -> u64 {
    asked("CASTD_IMAGES").map_or(images_min, |all| images_min.max((all as f64 * share).ceil() as u64))
}

/// Nothing is lost; and a harness that did nothing proves nothing.
fn assert_sound(name: &str, summary: &Summary, images: u64, states_min: usize, expected: &[&[(Place, Kind)]]) {
    println!("{}", summary.shown(name));
    let first: Vec<_> = summary.failures.iter().take(20).collect();
    assert!(first.is_empty(), "{} of {} images failed: {first:#?}", summary.failures.len(), summary.images);
    assert_eq!(summary.images as u64, images);
    assert!(summary.states.len() >= states_min, "{} states", summary.states.len());
    assert!(summary.lossy >= summary.images / 4, "only {} images have lost anything", summary.lossy);
    for (place, kind) in expected.iter().copied().flatten() {
        let of_kind = summary.cuts.get(&(*place, *kind));
        let of_kind = of_kind.unwrap_or_else(|| panic!("never at {kind:?} of {place:?}"));
        // One half of the images goes from kind to kind, and needs so many to come to each with each loss.
        let is_enough = summary.images >= 2 * LOSSES.len() * summary.cuts.len();
        if let Some(loss) = LOSSES.iter().find(|loss| is_enough && !of_kind.contains_key(loss)) {
            panic!("never {loss:?} at {kind:?} of {place:?}");
        }
    }
}

fn images_of(storage: &'static str, recording: &Recording, images: u64, kept_max: usize) -> Summary {
    let truth = Truth::of(recording);
    run(storage, (&recording.steps, recording.from), images, kept_max, &|root, until| {
        truth.check(storage, root, until).map(|found| found.revision.unsigned_abs())
    })
}

fn campaign(storage: &'static str, images: u64, expected: &[&[(Place, Kind)]]) {
    if is_possible() {
        let recording = recording(storage);
        let promises = recording.promises.len();
        assert!(promises >= workload::OPERATIONS * 8 / 10, "{promises} promises");
        assert_sound(storage, &images_of(storage, recording, images, KEPT_MAX), images, 80, expected);
    }
}

#[test]
fn no_power_failure_costs_what_was_acknowledged_of_log_and_snapshots() {
    campaign("memory", amount(1_000, 0.4), &[&ALWAYS, &SNAPSHOTS]);
}

fn rotation() -> &'static Rotation {
    static ROTATION: OnceLock<Rotation> = OnceLock::new();
    ROTATION.get_or_init(Rotation::record)
}

fn images_of_rotation(steps: &[Step], images: u64, kept_max: usize) -> Summary {
    let check = |root: &Path, until| rotation().check(root, until).map(|round| round as u64);
    run("rotation", (steps, 0), images, kept_max, &check)
}

#[test]
fn no_power_failure_costs_a_log_that_changes_purges_and_reuses_its_files() {
    if is_possible() {
        let images = amount(1_000, 0.2);
        let summary = images_of_rotation(&rotation().steps, images, KEPT_MAX);
        assert_sound("rotation", &summary, images, 300, &[&ROTATION]);
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn no_power_failure_costs_what_was_acknowledged_on_rocksdb() {
    campaign("rocksdb", amount(250, 0.15), &[&ALWAYS, &BACKEND]);
}

#[cfg(feature = "sled")]
#[test]
fn no_power_failure_costs_what_was_acknowledged_on_sled() {
    campaign("sled", amount(250, 0.15), &[&ALWAYS, &SNAPSHOTS, &BACKEND]);
}

/// The state is replaced as a whole, whenever the power fails: the old one, or the new one, and the log that belongs to it.
fn campaign_of_follower(storage: &'static str, images: u64, expected: &[&[(Place, Kind)]]) {
    if is_possible() {
        let summary = images_of(storage, recording_of_follower(storage), images, KEPT_MAX);
        assert_sound(&format!("{storage}, installing"), &summary, images, 2, expected);
    }
}

#[test]
fn no_power_failure_breaks_an_install_into_log_and_snapshots() {
    campaign_of_follower("memory", amount(200, 0.05), &[&ARRIVING]);
}

#[cfg(feature = "rocksdb")]
#[test]
fn no_power_failure_breaks_an_install_into_rocksdb() {
    campaign_of_follower("rocksdb", amount(100, 0.025), &[&ARRIVING, &BACKEND]);
}

#[cfg(feature = "sled")]
#[test]
fn no_power_failure_breaks_an_install_into_sled() {
    campaign_of_follower("sled", amount(100, 0.025), &[&ARRIVING, &BACKEND]);
}

/// A disk that says that it has done something, and has not: the images are those of a member that forgets to. Answers what
/// was found.
fn found_without(storage: &'static str, is_lie: impl Fn(usize, &Step) -> bool) -> Vec<String> {
    found_of(storage, recording(storage), is_lie)
}

fn found_of(storage: &'static str, honest: &Recording, is_lie: impl Fn(usize, &Step) -> bool) -> Vec<String> {
    let kept = honest.steps.iter().enumerate().filter(|(number, step)| !is_lie(*number, step));
    let lying = Recording { steps: kept.map(|(_, step)| step.clone()).collect(), ..honest.clone() };
    assert!(lying.steps.len() < honest.steps.len(), "there was no such step");
    images_of(storage, &lying, 100, 0).failures
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
        let end = |step: &Step| match &step.action {
            Action::Write { offset, data, .. } if place(step) == Place::Log => offset + data.len() as u64,
            _ => 0,
        };
        // A start writes the end of the log once more.
        let is_first_there = |number: &usize| {
            let before = steps[..*number].iter().filter(|step| step.path == steps[*number].path).map(end).max();
            before.unwrap_or_default() < end(&steps[*number])
        };
        // What the power takes anyway is no damage: there is more behind it, and that was synced, too.
        let is_built_upon = |number: &usize| {
            let with_power = steps[number + 1..].iter().take_while(|step| step.action.kind() != Kind::PowerFailure);
            let mut later = with_power.filter(|step| place(step) == Place::Log).map(|step| step.action.kind());
            [Kind::Sync, Kind::Write, Kind::Sync].into_iter().all(|kind| later.any(|found| found == kind))
        };
        let lost = (steps.len() / 2..steps.len()).filter(is_first_there).find(is_built_upon).expect("there are many");
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

#[test]
fn an_install_of_a_snapshot_that_was_not_synced_is_reported() {
    if is_possible() {
        let is_sync = |_, step: &Step| place(step) == Place::Snapshots && step.action.kind() == Kind::Sync;
        assert_found(&found_of("memory", recording_of_follower("memory"), is_sync), "cannot be rebuilt");
    }
}

#[test]
fn names_of_a_log_that_were_not_synced_are_reported() {
    if is_possible() {
        let is_of_name = |step: &&Step| step.action.kind() == Kind::Sync && step.path == "/log";
        let steps: Vec<Step> = rotation().steps.iter().filter(|step| !is_of_name(step)).cloned().collect();
        assert!(steps.len() < rotation().steps.len(), "there was no such step");
        assert_found(&images_of_rotation(&steps, 100, 0).failures, "was promised, the image is that of");
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
