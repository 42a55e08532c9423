//! The lives of one process after the other, as steps and as the disk that they leave.
//!
//! ```text
//!   trace of a life ──▶ Recorder ──▶ steps ──▶ Disk ══ the directory itself, or the recording is of no use
//!                                                └──power failure──▶ the directory, for the next life
//! ```

use crate::disk::{Disk, Loss};
use crate::recording::{Recorder, Step};
use crate::trace;
use crate::workload::now;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::{Path, PathBuf};

const TRIES: usize = 5;

/// A process was killed within a call, and what became of it is on the disk only: the next life builds on what was not recorded.
#[derive(Debug, thiserror::Error)]
#[error("{} is not what was recorded", .0.display())]
pub struct CutShort(PathBuf);

pub struct Tape {
    root: PathBuf,
    recorder: Recorder,
    disk: Disk,
    lines: usize,
}

impl Tape {
    /// Of what happens below the empty directory `root`.
    pub fn new(root: &Path) -> Self {
        let recorder = Recorder::new(root.to_str().expect("UTF-8"));
        Tape { root: root.to_owned(), recorder, disk: Disk::new(), lines: 0 }
    }

    pub fn steps(&self) -> &[Step] {
        &self.recorder.steps
    }

    pub fn into_steps(self) -> Vec<Step> {
        self.recorder.steps
    }

    /// The life that has ended, and what the power takes with it, if it fails, too: the next one finds below the root what is
    /// left.
    pub fn add(&mut self, life: &str, power: Option<Loss>) -> Result<(), CutShort> {
        let calls = trace::parse(life, self.lines).unwrap_or_else(|error| panic!("{error}"));
        let known = self.recorder.steps.len();
        self.recorder.record(&calls).unwrap_or_else(|error| panic!("{error}"));
        self.lines += life.lines().count();
        self.recorder.steps[known..].iter().for_each(|step| self.disk.step(step));
        match power {
            Some(loss) => {
                self.fail_power(loss);
                Ok(())
            }
            None => {
                let difference = self.disk.difference(&self.root).expect("it can be read");
                difference.map_or(Ok(()), |path| Err(CutShort(path)))
            }
        }
    }

    fn fail_power(&mut self, loss: Loss) {
        let line = self.lines;
        self.disk.step(self.recorder.power_failure(loss, line as u64, line, now()));
        self.recorder.adopt(&self.disk.tree());
        let root = &self.root;
        std::fs::remove_dir_all(root).and_then(|()| std::fs::create_dir(root)).expect("it can be emptied");
        self.disk.store(root, Loss::Kept, &mut StdRng::seed_from_u64(0)).expect("an image can be written");
    }
}

/// Records until all of it is recorded.
pub fn whole<T>(record: impl Fn() -> Result<T, CutShort>) -> T {
    for _ in 1..TRIES {
        match record() {
            Ok(recording) => return recording,
            Err(cut) => println!("recorded once more: {cut}"),
        }
    }
    record().unwrap_or_else(|cut| panic!("{cut}, {TRIES} times"))
}
