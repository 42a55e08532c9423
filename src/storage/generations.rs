//! The store's directory, from one life of the backend to the next.
//!
//! ```text
//!   member/state/generation   the number of the store in use, replaced atomically
//!   member/state/closed       the same number, from a clean stop to the next start: an engine that is believed only then
//!   member/state/3/           its files
//!   member/state/4/           a store being filled from a snapshot; nothing until `generation` says 4
//!   member/state.broken-1/    what was set aside; castd never looks at it again
//! ```
//!
//! A store that takes the place of another is filled beside it, so that a crash leaves the old one or the new one, and
//! readers of the old one finish in peace.

use super::error::{DataDirError, at};
use super::paths::{create_directory, exists, list, read_file, remove_file, remove_tree, sync_directory, write_file};
use super::{StorageKind, Tuning, open_backend, settle_files};
use castd_backend_api::{Backend, OpenError};
use castd_backend_memory::Memory;
use parking_lot::Mutex;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

const STATE: &str = "state";
const GENERATION: &str = "generation";
const CLOSED: &str = "closed";

/// What a start finds of the last one's store.
pub enum Found {
    Store(Arc<dyn Backend>),
    /// There was none, or it was in RAM.
    Nothing,
    /// Whoever used it did not close it, and what this engine leaves then is not believed. It stays until another one takes its
    /// place.
    Unclosed,
    Broken(SetAside),
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
    /// 0 before the first store.
    generation: u64,
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
        let lives = Mutex::new(Lives { generation: 0, current: None, retired: Vec::new() });
        Self { member, kind, tuning, lives }
    }

    /// The directories this module owns below `member`.
    pub(super) fn directory(member: &Path) -> PathBuf {
        member.join(STATE)
    }

    /// Opens the store in use.
    ///
    /// # Errors
    /// When it is sound, as far as one can tell, and cannot be opened.
    pub(super) fn open(&self) -> Result<Found, DataDirError> {
        if !self.kind.keeps_files() {
            return Ok(Found::Nothing);
        }
        let mut lives = self.lives.lock();
        match self.open_current(&mut lives) {
            Err(DataDirError::Open(OpenError::Corrupt { detail, .. })) => {
                Ok(self.move_aside(detail)?.map_or(Found::Nothing, Found::Broken))
            }
            found => found,
        }
    }

    /// Makes durable what `backend` has, and says so to the next start, unless somebody else still has it. Answers whether
    /// that start will believe it.
    pub(super) fn close(&self, backend: Arc<dyn Backend>) -> Result<bool, DataDirError> {
        backend.flush()?;
        if !self.kind.is_believed_only_when_closed() {
            return Ok(true);
        }
        drop(backend);
        let lives = self.lives.lock();
        if lives.is_read() {
            return Ok(false);
        }
        let path = self.path_of(lives.generation);
        settle_files(self.kind, &path).map_err(at("sync", &path))?;
        self.write_number(CLOSED, lives.generation)?;
        Ok(true)
    }

    /// Moves the store out of the way; it must not be in use.
    pub(super) fn set_aside(&self, reason: String) -> Result<Option<SetAside>, DataDirError> {
        let mut lives = self.lives.lock();
        if lives.is_read() {
            return Err(DataDirError::BackendInUse);
        }
        lives.current = None;
        self.move_aside(reason)
    }

    pub(super) fn begin_replacement(&self) -> Result<Replacement, DataDirError> {
        self.remove_retired();
        let generation = self.lives.lock().generation + 1;
        let path = self.path_of(generation);
        if self.kind.keeps_files() {
            create_directory(&self.state())?;
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
            self.write_number(GENERATION, generation)?;
        }
        let old = self.path_of(lives.generation);
        lives.generation = generation;
        // One that was not opened has no readers.
        let replaced = lives.current.replace(Arc::downgrade(&backend));
        lives.retired.push((replaced.unwrap_or_else(|| Weak::<Memory>::new()), old));
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

    fn open_current(&self, lives: &mut Lives) -> Result<Found, DataDirError> {
        let generation = self.number(GENERATION)?;
        let path = generation.map(|generation| self.path_of(generation));
        for found in list(&self.state())? {
            let is_mark = found.ends_with(GENERATION) || found.ends_with(CLOSED);
            if path.as_ref() != Some(&found) && !(path.is_some() && is_mark) {
                if found.is_dir() { remove_tree(&found)? } else { remove_file(&found)? }
            }
        }
        let (Some(generation), Some(path)) = (generation, path) else { return Ok(Found::Nothing) };
        lives.generation = generation;
        if !path.is_dir() {
            return Err(self.corrupt(format!("{} is missing", path.display())));
        }
        if self.kind.is_believed_only_when_closed() {
            let is_closed = self.number(CLOSED)? == Some(generation);
            // Before the engine writes anything.
            remove_file(&self.state().join(CLOSED))?;
            if !is_closed {
                return Ok(Found::Unclosed);
            }
        }
        let backend = open_backend(self.kind, &path, self.tuning)?;
        lives.current = Some(Arc::downgrade(&backend));
        Ok(Found::Store(backend))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, DataDirError> {
        let path = self.state().join(name);
        let Some(content) = read_file(&path)? else { return Ok(None) };
        let number = std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok());
        number.map(Some).ok_or_else(|| self.corrupt(format!("{} is not a number", path.display())))
    }

    fn write_number(&self, name: &str, number: u64) -> Result<(), DataDirError> {
        write_file(&self.state().join(name), format!("{number}\n").as_bytes())
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
        Ok(Some(SetAside { moved_to, reason }))
    }
}
