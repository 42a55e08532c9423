//! The store's directory, from one life of the backend to the next.
//!
//! ```text
//!   member/opening            there while an engine that may panic is opened and first read
//!   member/state/generation   the number of the store in use, replaced atomically
//!   member/state/3/           its files
//!   member/state/4/           a store being filled from a snapshot; nothing until `generation` says 4
//!   member/state.broken-1/    what was set aside; castd never looks at it again
//! ```
//!
//! A store that takes the place of another is filled beside it, so that a crash leaves the old one or the new one, and
//! readers of the old one finish in peace.

use super::error::{DataDirError, at};
use super::paths::{create_directory, exists, list, read_file, remove_file, remove_tree, sync_directory, write_file};
use super::{StorageKind, Tuning, open_backend};
use castd_backend_api::{Backend, OpenError};
use parking_lot::Mutex;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

const STATE: &str = "state";
const GENERATION: &str = "generation";
const OPENING: &str = "opening";
const FIRST_GENERATION: u64 = 1;

/// A backend, and what had to be done to get it.
pub struct OpenedBackend {
    pub backend: Arc<dyn Backend>,
    /// The store is empty although this member had one: it has to come back from snapshot and log, or from the leader.
    pub rebuilt: bool,
    /// What was set aside on the way.
    pub set_aside: Option<SetAside>,
}

/// A store that is no longer used, kept for whoever wants to know why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    pub moved_to: PathBuf,
    pub reason: String,
}

/// An empty store beside the current one. Dropped without a commit, it is as if it had never been.
pub struct Replacement {
    pub backend: Arc<dyn Backend>,
    generation: u64,
}

pub(super) struct Generations {
    member: PathBuf,
    kind: StorageKind,
    tuning: Tuning,
    lives: Mutex<Lives>,
}

struct Lives {
    generation: u64,
    /// The caller gave its store up: the next one is in its place.
    given_up: bool,
    current: Option<Weak<dyn Backend>>,
    /// Replaced stores that somebody may still be reading.
    retired: Vec<(Weak<dyn Backend>, PathBuf)>,
}

impl Lives {
    fn is_read(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.strong_count() > 0)
    }
}

impl Generations {
    pub(super) fn new(member: PathBuf, kind: StorageKind, tuning: Tuning) -> Self {
        let lives =
            Mutex::new(Lives { generation: FIRST_GENERATION, given_up: false, current: None, retired: Vec::new() });
        Self { member, kind, tuning, lives }
    }

    /// The directories this module owns below `member`.
    pub(super) fn directory(member: &Path) -> PathBuf {
        member.join(STATE)
    }

    pub(super) fn opening_mark(member: &Path) -> PathBuf {
        member.join(OPENING)
    }

    /// Opens the current store. `expected`: this member has been started before, so there was one.
    pub(super) fn open(&self, expected: bool) -> Result<OpenedBackend, DataDirError> {
        let mut lives = self.lives.lock();
        let mut set_aside = None;
        if self.kind.may_panic_on_damage() && exists(&Self::opening_mark(&self.member))? {
            set_aside = self.move_aside("the last start ended while it opened or first read the store".to_owned())?;
        }
        let (backend, generation, created) = match self.open_current() {
            Err(DataDirError::Open(OpenError::Corrupt { detail, .. })) => {
                set_aside = self.move_aside(detail)?.or(set_aside);
                self.open_current()?
            }
            opened => opened?,
        };
        lives.generation = generation;
        lives.current = Some(Arc::downgrade(&backend));
        let rebuilt = set_aside.is_some() || ((expected || lives.given_up) && created && self.kind.keeps_files());
        lives.given_up = false;
        Ok(OpenedBackend { backend, rebuilt, set_aside })
    }

    /// Called once the store has been read after opening: damage that ends the process would have shown by now.
    pub(super) fn loaded(&self) -> Result<(), DataDirError> {
        remove_file(&Self::opening_mark(&self.member))
    }

    pub(super) fn set_aside(&self, reason: String) -> Result<Option<SetAside>, DataDirError> {
        let mut lives = self.lives.lock();
        if lives.is_read() {
            return Err(DataDirError::BackendInUse);
        }
        lives.current = None;
        lives.given_up = true;
        self.move_aside(reason)
    }

    pub(super) fn begin_replacement(&self) -> Result<Replacement, DataDirError> {
        self.remove_retired();
        let generation = self.lives.lock().generation + 1;
        let path = self.path_of(generation);
        if self.kind.keeps_files() {
            remove_tree(&path)?;
        }
        Ok(Replacement { backend: open_backend(self.kind, &path, self.tuning)?, generation })
    }

    pub(super) fn commit_replacement(&self, replacement: Replacement) -> Result<Arc<dyn Backend>, DataDirError> {
        let Replacement { backend, generation } = replacement;
        let mut lives = self.lives.lock();
        assert_eq!(generation, lives.generation + 1, "one replacement at a time");
        if self.kind.keeps_files() {
            backend.flush()?;
            self.point_to(generation)?;
        }
        let old = self.path_of(lives.generation);
        lives.generation = generation;
        if let Some(current) = lives.current.replace(Arc::downgrade(&backend)) {
            lives.retired.push((current, old));
        }
        drop(lives);
        self.remove_retired();
        Ok(backend)
    }

    /// Removes the files of replaced stores that nobody reads any more. What it cannot remove goes at the next start. Answers
    /// whether some are still read.
    pub(super) fn remove_retired(&self) -> bool {
        let mut unread = Vec::new();
        let is_more_left = {
            let retired = &mut self.lives.lock().retired;
            retired.retain(|(backend, path)| {
                let is_read = backend.strong_count() > 0;
                if !is_read {
                    unread.push(path.clone());
                }
                is_read
            });
            !retired.is_empty()
        };
        // Large files take a while.
        for path in unread {
            let _ = fs::remove_dir_all(path);
        }
        is_more_left
    }

    fn state(&self) -> PathBuf {
        Self::directory(&self.member)
    }

    fn path_of(&self, generation: u64) -> PathBuf {
        self.state().join(generation.to_string())
    }

    /// The backend, its generation, and whether it was created just now.
    fn open_current(&self) -> Result<(Arc<dyn Backend>, u64, bool), DataDirError> {
        if !self.kind.keeps_files() {
            let backend = open_backend(self.kind, &self.state(), self.tuning)?;
            return Ok((backend, FIRST_GENERATION, true));
        }
        create_directory(&self.state())?;
        let pointed_to = self.pointed_to()?;
        let generation = pointed_to.unwrap_or(FIRST_GENERATION);
        let path = self.path_of(generation);
        for found in list(&self.state())? {
            if pointed_to.is_none() || (found != path && found != self.state().join(GENERATION)) {
                if found.is_dir() { remove_tree(&found)? } else { remove_file(&found)? }
            }
        }
        if pointed_to.is_some() && !path.is_dir() {
            return Err(self.corrupt(format!("{} is missing", path.display())));
        }
        if self.kind.may_panic_on_damage() {
            write_file(&Self::opening_mark(&self.member), b"")?;
        }
        let backend = match open_backend(self.kind, &path, self.tuning) {
            Ok(backend) => backend,
            Err(error) => {
                // It came back with an answer, so it did not end the process.
                self.loaded()?;
                return Err(error.into());
            }
        };
        if pointed_to.is_none() {
            self.point_to(generation)?;
        }
        Ok((backend, generation, pointed_to.is_none()))
    }

    fn pointed_to(&self) -> Result<Option<u64>, DataDirError> {
        let path = self.state().join(GENERATION);
        let Some(content) = read_file(&path)? else { return Ok(None) };
        let generation = std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok());
        generation.map(Some).ok_or_else(|| self.corrupt(format!("{} is not a number", path.display())))
    }

    fn point_to(&self, generation: u64) -> Result<(), DataDirError> {
        write_file(&self.state().join(GENERATION), format!("{generation}\n").as_bytes())
    }

    fn corrupt(&self, detail: String) -> DataDirError {
        OpenError::Corrupt { engine: self.kind.name(), path: self.state(), detail }.into()
    }

    fn move_aside(&self, reason: String) -> Result<Option<SetAside>, DataDirError> {
        let state = self.state();
        if !exists(&state)? {
            return Ok(None);
        }
        let mut number = 1;
        let moved_to = loop {
            let candidate = self.member.join(format!("{STATE}.broken-{number}"));
            if !exists(&candidate)? {
                break candidate;
            }
            number += 1;
        };
        fs::rename(&state, &moved_to).map_err(at("set aside", &state))?;
        sync_directory(&self.member)?;
        self.loaded()?;
        Ok(Some(SetAside { moved_to, reason }))
    }
}
