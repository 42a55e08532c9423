//! Many images of one recording: where to cut, what is lost, and what was found, on all processors.

use crate::disk::{Disk, LOSSES, Loss};
use crate::recording::{Kind, Step};
use crate::trace::Micros;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a file is for. A power failure at each kind of step on each of them is worth as much as at any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Log,
    Snapshots,
    Backend,
    /// The data directory itself: its lock, what says whose it is, and the names of the others.
    DataDir,
}

pub fn place(step: &Step) -> Place {
    let known = step.path.split('/').find_map(|name| match name {
        "log" => Some(Place::Log),
        "snap" => Some(Place::Snapshots),
        "state" => Some(Place::Backend),
        _ => None,
    });
    known.unwrap_or(Place::DataDir)
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
pub struct Summary {
    pub images: usize,
    /// Those that are not as if only the process had ended.
    pub lossy: usize,
    pub cuts: BTreeMap<(Place, Kind), BTreeMap<Loss, usize>>,
    /// Revisions, or what the check counts instead.
    pub states: BTreeSet<u64>,
    pub failures: Vec<String>,
    took: Duration,
}

/// One half at any step, as they come: most are writes to the log and their syncs. The other half at every kind of step as
/// often as at every other, however many there are. And each loss as often as every other.
fn cuts(steps: &[Step], from: usize, images: u64) -> Vec<Cut> {
    let mut by_kind: BTreeMap<(Place, Kind), Vec<usize>> = BTreeMap::new();
    for (number, step) in steps.iter().enumerate().skip(from) {
        by_kind.entry((place(step), step.action.kind())).or_default().push(number);
    }
    let kinds: Vec<Vec<usize>> = by_kind.into_values().collect();
    let mut cuts: Vec<Cut> = (0..images)
        .map(|seed| {
            let mut dice = StdRng::seed_from_u64(seed);
            let half = seed as usize / 2;
            let step = match seed % 2 {
                0 => dice.random_range(from..steps.len()),
                _ => kinds[half % kinds.len()][dice.random_range(0..kinds[half % kinds.len()].len())],
            };
            // Another one each time that a kind comes up again, and not the same for all kinds.
            let loss = LOSSES[(half / kinds.len() + half % kinds.len()) % LOSSES.len()];
            let (place, kind) = (place(&steps[step]), steps[step].action.kind());
            // Just before it, or just after.
            let steps = step + usize::from(dice.random_bool(0.5));
            Cut { seed, place, kind, steps, loss, dice }
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

/// The image as it was before the start that failed.
fn keep(name: &str, cut: &Cut, disk: &Disk, mut dice: StdRng) -> String {
    let place = format!("castd-failed-{name}-{}-{}-{}", std::process::id(), cut.steps, cut.seed);
    let place = std::env::temp_dir().join(place);
    let kept = std::fs::create_dir_all(&place).and_then(|()| disk.store(&place, cut.loss, &mut dice));
    kept.map_or_else(|error| format!("not kept: {error}"), |_| format!("kept in {}", place.display()))
}

/// What is in the image in this directory, and that it is what had been promised by then; or what is wrong, in words.
pub type Check<'a> = dyn Fn(&Path, Micros) -> Result<u64, String> + Sync + 'a;

/// Cuts from that step on. `kept_max` of the images that fail stay.
pub fn run(name: &str, (steps, from): (&[Step], usize), images: u64, kept_max: usize, check: &Check<'_>) -> Summary {
    let began = Instant::now();
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
                    let found = check(directory.path(), until);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.images += 1;
                    summary.lossy += usize::from(has_lost);
                    *summary.cuts.entry((cut.place, cut.kind)).or_default().entry(cut.loss).or_default() += 1;
                    match found {
                        Ok(state) => drop(summary.states.insert(state)),
                        Err(wrong) => {
                            let kept = match summary.failures.len() < kept_max {
                                true => keep(name, &cut, &disk, dice),
                                false => "not kept".to_owned(),
                            };
                            summary.failures.push(format!(
                                "{name}, image {} ({kept}), {:?} after step {} of {} ({:?} of {}): {wrong}",
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
        for cut in cuts(steps, from, images) {
            steps[done..cut.steps].iter().for_each(|step| disk.step(step));
            done = cut.steps;
            sender.send((cut, disk.clone())).expect("workers wait for more");
        }
        drop(sender);
    });
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    Summary { took: began.elapsed(), ..summary }
}

impl Summary {
    /// Where it was cut, with which loss.
    pub fn shown(&self, name: &str) -> String {
        let (images, lossy, states, took) = (self.images, self.lossy, self.states.len(), self.took.as_secs_f64());
        let mut text =
            format!("\n{name}: {images} images in {took:.1} s, {lossy} with a loss, {states} different states");
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
