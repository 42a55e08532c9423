//! The log of a member: the one that servers have, over simulated files, beside a model of what it has to hold; or the model
//! alone, which costs less and can lose single writes.
//!
//! ```text
//!   Log ─┬─ EngineLog ─▶ raft-engine ─▶ Files
//!        └─ MemoryLog      a start: what the files give back has to be what the model is after some crash
//! ```

use super::files::Files;
use super::fuse::Fuse;
use super::platter::Tally;
use crate::dice::Dice;
use castd::ids::LogIndex;
use castd::raft::log::{
    EngineLog, EngineLogOptions, Install, LogError, LogSize, LogStore, LogWrite, MemoryLog, Purger, Recovered, Written,
};
use castd::raft::terms::LogPosition;
use raft::eraftpb::{ConfState, Entry};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use tempfile::TempDir;

/// What the log of a server has around it.
struct Real {
    /// Where raft-engine finds the names.
    _dir: TempDir,
    path: PathBuf,
    files: Files,
    file_bytes: u64,
    engine: Option<EngineLog<Files>>,
    /// As the model would be, had the change been made whose outcome nobody knows.
    perhaps: Option<MemoryLog>,
    writes_lost: u64,
    /// It was damaged, and said so at a start.
    has_refused: bool,
}

pub struct Log {
    fuse: Fuse,
    model: MemoryLog,
    real: Option<Box<Real>>,
}

impl Log {
    pub fn model(fuse: Fuse) -> Self {
        Log { fuse, model: MemoryLog::new(), real: None }
    }

    /// In files of `file_bytes`.
    pub fn real(fuse: Fuse, file_bytes: u64, dice: Dice) -> Self {
        let shared_memory = std::path::Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(shared_memory).or_else(|_| tempfile::tempdir()).expect("a directory");
        let path = dir.path().join("log");
        let files = Files::new(path.clone(), fuse.clone(), dice);
        let (engine, perhaps, writes_lost, has_refused) = Default::default();
        let real = Real { _dir: dir, path, files, file_bytes, engine, perhaps, writes_lost, has_refused };
        Log { fuse, model: MemoryLog::new(), real: Some(Box::new(real)) }
    }

    pub fn files(&self) -> Option<&Files> {
        self.real.as_ref().map(|real| &real.files)
    }

    pub fn has_refused(&self) -> bool {
        self.real.as_ref().is_some_and(|real| real.has_refused)
    }

    pub fn take_writes_lost(&mut self) -> u64 {
        self.real.as_mut().map_or(0, |real| std::mem::take(&mut real.writes_lost))
    }

    /// The power goes. Answers how many writes are lost, as far as that is known by now.
    pub fn crash(&mut self, dice: &mut Dice) -> (u64, Tally) {
        match &mut self.real {
            None => {
                let unsynced = self.model.unsynced();
                let keep = dice.index(unsynced + 1);
                self.model.crash(keep);
                ((unsynced - keep) as u64, Tally::default())
            }
            Some(real) => {
                let tally = real.files.crash();
                real.engine = None;
                (0, tally)
            }
        }
    }

    /// The process ends, and the machine goes on.
    pub fn end(&mut self) {
        match &mut self.real {
            None => self.model.crash(usize::MAX),
            Some(real) => {
                real.files = real.files.reopened();
                real.engine = None;
            }
        }
    }

    /// Gives back the space of what was cut.
    pub fn purge(&mut self) -> Result<(), LogError> {
        let Some(engine) = self.real.as_ref().and_then(|real| real.engine.as_ref()) else { return Ok(()) };
        let purger = engine.purger();
        let ran = guarded(&self.fuse, || purger.run().map(drop));
        if self.fuse.is_blown() { Err(LogError::SimulatedFailure) } else { ran }
    }

    /// The log as a process has it open.
    fn open(&mut self) -> Result<&mut dyn LogStore, LogError> {
        let Log { fuse, model, real } = self;
        let Some(real) = real else { return Ok(model) };
        if real.engine.is_none() {
            let opened = real.open(fuse, model);
            if fuse.is_blown() {
                return Err(LogError::SimulatedFailure);
            }
            real.engine = Some(opened?);
        }
        match &mut real.engine {
            Some(engine) => Ok(engine),
            None => Err(LogError::SimulatedFailure),
        }
    }

    /// Makes the same change in both.
    fn change(&mut self, change: impl Fn(&mut dyn LogStore) -> Result<Written, LogError>) -> Result<Written, LogError> {
        if self.real.is_none() {
            let model = &mut self.model;
            return self.fuse.step(|| change(model));
        }
        let fuse = self.fuse.clone();
        let log = self.open()?;
        let mut changed = guarded(&fuse, || change(log));
        if fuse.is_blown() {
            changed = Err(LogError::SimulatedFailure);
        }
        match changed {
            // It would refuse it likewise, and nothing has happened.
            Err(refused @ LogError::Refused { .. }) => Err(refused),
            Err(error) => {
                let mut perhaps = self.model.clone();
                if change(&mut perhaps).is_ok()
                    && let Some(real) = &mut self.real
                {
                    real.perhaps = Some(perhaps);
                }
                Err(error)
            }
            Ok(written) => {
                change(&mut self.model)?;
                Ok(written)
            }
        }
    }
}

impl Real {
    fn open(&mut self, fuse: &Fuse, model: &mut MemoryLog) -> Result<EngineLog<Files>, LogError> {
        self.files = self.files.reopened();
        let options = EngineLogOptions {
            file_bytes: self.file_bytes,
            purge_above_bytes: self.file_bytes * 3,
            recovery_threads: 1,
            ..EngineLogOptions::new(&self.path)
        };
        let files = self.files.clone();
        let opened = guarded(fuse, || EngineLog::open_on(files, options));
        if fuse.is_blown() {
            return Err(LogError::SimulatedFailure);
        }
        let opened = opened.and_then(|mut log| Ok((log.load(LogIndex(0))?, log)));
        let (found, log) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.has_refused |= self.files.is_damaged() && matches!(error, LogError::Corrupt { .. });
                return Err(error);
            }
        };
        if fuse.is_blown() {
            return Err(LogError::SimulatedFailure);
        }
        let unsynced = model.unsynced();
        for keep in (0..=unsynced).rev() {
            let mut candidate = model.clone();
            candidate.crash(keep);
            if candidate.load(LogIndex(0))? == found {
                self.writes_lost += (unsynced - keep) as u64;
                *model = candidate;
                return Ok(self.settled(log));
            }
        }
        if let Some(mut perhaps) = self.perhaps.take() {
            perhaps.crash(usize::MAX);
            if perhaps.load(LogIndex(0))? == found {
                *model = perhaps;
                return Ok(self.settled(log));
            }
        }
        let mut durable = model.clone();
        durable.crash(0);
        let durable = durable.load(LogIndex(0))?;
        panic!(
            "the log came back as nothing that it was, {}:\n{}\nand what was synced is\n{}",
            if self.files.is_damaged() { "damaged" } else { "undamaged" },
            describe(&found),
            describe(&durable)
        );
    }

    fn settled(&mut self, log: EngineLog<Files>) -> EngineLog<Files> {
        self.perhaps = None;
        log
    }
}

fn describe(log: &Recovered) -> String {
    let Recovered { fresh, hard_state, conf_state, terms, entries, pending_install } = log;
    let (first, last) = (entries.first().map(|entry| entry.index), entries.last().map(|entry| entry.index));
    format!(
        "fresh {fresh}, {hard_state:?}, {conf_state:?}, {terms:?}, entries {first:?} to {last:?}, pending {pending_install:?}"
    )
}

/// raft-engine panics when a sync fails; a server ends with that.
fn guarded<T>(fuse: &Fuse, act: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    match panic::catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done,
        Err(_) if fuse.has_failed() => Err(LogError::SimulatedFailure),
        Err(panic) => panic::resume_unwind(panic),
    }
}

impl LogStore for Log {
    fn load(&mut self, above: LogIndex) -> Result<Recovered, LogError> {
        self.open()?.load(above)
    }

    fn append_many(&mut self, writes: &[LogWrite]) -> Result<Written, LogError> {
        self.change(|log| log.append_many(writes))
    }

    fn entries(&mut self, low: LogIndex, high: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        self.open()?.entries(low, high, bytes_max)
    }

    fn truncate(&mut self, upto: LogPosition, conf_state: &ConfState) -> Result<Written, LogError> {
        self.change(|log| log.truncate(upto, conf_state))
    }

    fn replace(&mut self, install: &Install) -> Result<Written, LogError> {
        self.change(|log| log.replace(install))
    }

    fn clear_pending_install(&mut self) -> Result<Written, LogError> {
        self.change(|log| log.clear_pending_install())
    }

    fn sync(&mut self) -> Result<Written, LogError> {
        self.change(|log| log.sync())
    }

    fn purger(&self) -> Purger {
        Purger::default()
    }

    fn size(&self) -> LogSize {
        let engine = self.real.as_ref().and_then(|real| real.engine.as_ref());
        engine.map_or_else(|| self.model.size(), LogStore::size)
    }
}
