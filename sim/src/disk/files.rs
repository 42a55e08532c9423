//! A simulated file system, which the real log works on: names and files, of which a crash leaves what it likes.
//!
//! ```text
//!   EngineLog ─▶ raft-engine ─▶ Files ─▶ names: journal, in order        a crash keeps some first part of it
//!                                   └──▶ inodes: cache and platter       (platter.rs)
//! ```
//! raft-engine lists its directory by itself, so that each name of the log stands as an empty file in a directory of the
//! machine, too. What a process that has ended still does has no effect: its files are of an older epoch.

use super::fuse::{Fuse, Trouble};
use super::platter::{Inode, Tally};
use crate::dice::Dice;
use crate::planted::{self, Bug};
use castd::raft::log::LogFiles;
use parking_lot::Mutex;
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What came to pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub log_files_deleted: u64,
    pub log_files_reused: u64,
    pub misdirected: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, u64),
    Delete(PathBuf),
    Rename(PathBuf, PathBuf),
}

fn carry_out(names: &mut BTreeMap<PathBuf, u64>, change: &Change) {
    match change {
        Change::Create(path, inode) => drop(names.insert(path.clone(), *inode)),
        Change::Delete(path) => drop(names.remove(path)),
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    journal: Vec<Change>,
    next: u64,
    epoch: u64,
    /// Syncs that wrote something into the log.
    syncs: u64,
    /// The next sync writes a sector where another one is.
    misdirects: bool,
    is_damaged: bool,
    dice: Dice,
    done: Done,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Files {
    state: Arc<Mutex<State>>,
    fuse: Fuse,
    epoch: u64,
    /// Under which every name is that of an empty file of the machine, too.
    mirrored: Arc<PathBuf>,
}

fn error(text: &'static str) -> io::Error {
    io::Error::other(text)
}

/// By this text raft-engine knows.
fn no_space() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "nospace")
}

fn is_of_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "raftlog")
}

impl Files {
    pub fn new(mirrored: PathBuf, fuse: Fuse, dice: Dice) -> Self {
        let (inodes, names, durable, journal) = Default::default();
        let (next, epoch, syncs, misdirects, is_damaged, done) = Default::default();
        let state = State { inodes, names, durable, journal, next, epoch, syncs, misdirects, is_damaged, dice, done };
        Files { state: Arc::new(Mutex::new(state)), fuse, epoch, mirrored: Arc::new(mirrored) }
    }

    /// For a new process; the one before has ended.
    pub fn reopened(&self) -> Files {
        let epoch = {
            let state = &mut *self.state.lock();
            state.epoch += 1;
            state.epoch
        };
        Files { epoch, ..self.clone() }
    }

    /// The power goes. Answers what it did to sectors.
    pub fn crash(&self) -> Tally {
        let state = &mut *self.state.lock();
        state.epoch += 1;
        let kept = state.dice.index(state.journal.len() + 1);
        for change in state.journal.drain(..).take(kept) {
            carry_out(&mut state.durable, &change);
        }
        state.names.clone_from(&state.durable);
        let names = &state.names;
        state.inodes.retain(|inode, _| names.values().any(|named| named == inode));
        let mut tally = Tally::default();
        for inode in state.inodes.values_mut() {
            inode.crash(&mut state.dice, &mut tally);
        }
        let wanted: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(&*self.mirrored)).cloned().collect();
        self.mirror(&wanted);
        tally
    }

    fn mirror(&self, wanted: &[PathBuf]) {
        let there = fs::read_dir(&*self.mirrored).into_iter().flatten().filter_map(|item| Some(item.ok()?.path()));
        for path in there.filter(|path| path.file_name().is_some_and(|name| name != "LOCK")) {
            if !wanted.contains(&path) {
                fs::remove_file(path).expect("an empty file");
            }
        }
        for path in wanted.iter().filter(|path| !path.exists()) {
            File::create(path).expect("an empty file");
        }
    }

    fn is_mirrored(&self, path: &Path) -> bool {
        path.starts_with(&*self.mirrored)
    }

    /// Since the last time that somebody asked.
    pub fn take_done(&self) -> Done {
        std::mem::take(&mut self.state.lock().done)
    }

    pub fn is_damaged(&self) -> bool {
        self.state.lock().is_damaged
    }

    /// Damaged, or about to be.
    pub fn is_endangered(&self) -> bool {
        let state = self.state.lock();
        state.is_damaged || state.misdirects
    }

    /// All that was damaged was found to make no difference.
    pub fn forgive(&self) {
        let state = &mut *self.state.lock();
        (state.is_damaged, state.misdirects) = (false, false);
    }

    /// Turns a bit over in what was synced, and where something later that was synced, too, tells that it was. Nobody can tell
    /// the end of a log that rotted from one that a crash tore.
    pub fn flip_a_bit(&self) -> bool {
        let state = &mut *self.state.lock();
        let mut places = Vec::new();
        for (path, inode) in &state.names {
            let before = match path.extension().and_then(|extension| extension.to_str()) {
                Some("raftlog") => state.syncs,
                Some("rewrite" | "cast") => u64::MAX,
                _ => continue,
            };
            let sectors = state.inodes.get(inode).map(|file| file.settled(before)).unwrap_or_default();
            places.extend(sectors.into_iter().map(|sector| (*inode, sector)));
        }
        let Some((inode, sector)) = places.get(state.dice.index(places.len())).copied() else { return false };
        let Some(file) = state.inodes.get_mut(&inode) else { return false };
        file.flip(sector, &mut state.dice);
        state.is_damaged = true;
        true
    }

    /// As soon as there is something in the file that it can destroy.
    pub fn misdirect_a_write(&self) {
        self.state.lock().misdirects = true;
    }

    /// One change of a directory; nothing if there is no power for it.
    fn change(&self, state: &mut State, change: Change) {
        if state.epoch != self.epoch || !self.fuse.pass() {
            return;
        }
        match &change {
            Change::Delete(path) if is_of_log(path) => state.done.log_files_deleted += 1,
            Change::Rename(_, to) if is_of_log(to) => state.done.log_files_reused += 1,
            _ => {}
        }
        match &change {
            Change::Create(path, _) if self.is_mirrored(path) => drop(File::create(path)),
            Change::Delete(path) if self.is_mirrored(path) => drop(fs::remove_file(path)),
            Change::Rename(from, to) if self.is_mirrored(to) => drop(fs::rename(from, to)),
            _ => {}
        }
        carry_out(&mut state.names, &change);
        state.journal.push(change);
    }

    fn sync(&self, inode: u64) -> io::Result<()> {
        let state = &mut *self.state.lock();
        if state.epoch != self.epoch || !self.fuse.pass() {
            return Ok(());
        }
        let is_log = state.names.iter().any(|(path, named)| *named == inode && is_of_log(path));
        let Some(file) = state.inodes.get_mut(&inode) else { return Ok(()) };
        if is_log && !file.dirty().is_empty() {
            state.syncs += 1;
        }
        let number = state.syncs.max(1);
        if self.fuse.fails(Trouble::Sync) {
            file.fail_to_sync(number, &mut state.dice);
            // What once was wrong with many: the next one would say that all is well.
            return if planted::is_on(Bug::IgnoresFailedSync) { Ok(()) } else { Err(error("the sync failed")) };
        }
        let mut misdirected = None;
        if state.misdirects && is_log {
            let (from, to) = (file.dirty(), file.settled(number.saturating_sub(1)));
            let victim = to.get(state.dice.index(to.len())).copied();
            let written = from.get(state.dice.index(from.len())).copied();
            misdirected = written.zip(victim).filter(|(written, victim)| victim < written);
        }
        if misdirected.is_some() {
            (state.misdirects, state.is_damaged) = (false, true);
            state.done.misdirected += 1;
        }
        file.sync(number, misdirected);
        state.journal_reaches_disk();
        Ok(())
    }

    fn lookup(&self, path: &Path) -> io::Result<u64> {
        self.state.lock().names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    // ---- For the snapshots ----

    /// Writes a whole file under a temporary name, syncs it, and gives it its own.
    pub fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let file = Arc::new(self.create(&temporary)?);
        // Of one that was not finished.
        file.truncate(0)?;
        let mut writer = self.new_writer(Arc::clone(&file))?;
        for chunk in bytes.chunks(64 << 10) {
            writer.write_all(chunk)?;
        }
        file.sync()?;
        self.rename(temporary.as_path(), path)?;
        self.sync_directory(path.parent().unwrap_or(path))
    }

    /// And makes that durable.
    pub fn remove(&self, path: &Path) {
        let state = &mut *self.state.lock();
        self.change(state, Change::Delete(path.into()));
        if state.epoch == self.epoch && self.fuse.pass() {
            state.journal_reaches_disk();
        }
    }

    /// What stands in `dir`, read to its end.
    pub fn read_all(&self, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state.lock();
        let names = state.names.iter().filter(|(path, _)| path.starts_with(dir));
        names.filter_map(|(path, inode)| Some((path.clone(), state.inodes.get(inode)?.bytes().to_vec()))).collect()
    }
}

impl State {
    /// In order: who syncs a file takes what was done to names before along.
    fn journal_reaches_disk(&mut self) {
        for change in self.journal.drain(..) {
            carry_out(&mut self.durable, &change);
        }
        let named = |inode: &u64| self.names.values().chain(self.durable.values()).any(|other| other == inode);
        let gone: Vec<u64> = self.inodes.keys().copied().filter(|inode| !named(inode)).collect();
        for inode in gone {
            self.inodes.remove(&inode);
        }
    }
}

impl FileSystem for Files {
    type Handle = Open;
    type Reader = Cursor;
    type Writer = Cursor;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<Open> {
        if self.fuse.fails(Trouble::Full) {
            return Err(no_space());
        }
        let state = &mut *self.state.lock();
        // As the one in use, which does not make an old file empty.
        if let Some(inode) = state.names.get(path.as_ref()) {
            return Ok(Open { files: self.clone(), inode: *inode });
        }
        state.next += 1;
        let inode = state.next;
        state.inodes.insert(inode, Inode::default());
        self.change(state, Change::Create(path.as_ref().into(), inode));
        Ok(Open { files: self.clone(), inode })
    }

    fn open<P: AsRef<Path>>(&self, path: P, _: Permission) -> io::Result<Open> {
        if self.fuse.is_blown() {
            return Err(error("no power"));
        }
        Ok(Open { files: self.clone(), inode: self.lookup(path.as_ref())? })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.change(&mut self.state.lock(), Change::Delete(path.as_ref().into()));
        Ok(())
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.lookup(from.as_ref())?;
        self.change(&mut self.state.lock(), Change::Rename(from.as_ref().into(), to.as_ref().into()));
        Ok(())
    }

    fn new_reader(&self, handle: Arc<Open>) -> io::Result<Cursor> {
        Ok(Cursor { file: handle, at: 0 })
    }

    fn new_writer(&self, handle: Arc<Open>) -> io::Result<Cursor> {
        Ok(Cursor { file: handle, at: 0 })
    }
}

impl LogFiles for Files {
    fn is_directory(&self, dir: &Path) -> bool {
        dir.is_dir()
    }

    fn create_directory(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let state = &mut *self.state.lock();
        if state.epoch == self.epoch && self.fuse.pass() {
            state.journal_reaches_disk();
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.state.lock().names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn lock(&self, _: &Path) -> Result<Option<File>, TryLockError> {
        Ok(None)
    }
}

/// An open file.
pub struct Open {
    files: Files,
    inode: u64,
}

impl Open {
    /// Does something to the file, if there is power for it.
    fn step(&self, act: impl FnOnce(&mut Inode)) {
        let state = &mut *self.files.state.lock();
        if state.epoch == self.files.epoch
            && self.files.fuse.pass()
            && let Some(file) = state.inodes.get_mut(&self.inode)
        {
            act(file);
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let Files { state, fuse, epoch, .. } = &self.files;
        {
            let state = &mut *state.lock();
            let length = state.inodes.get(&self.inode).map_or(0, Inode::length);
            let is_ours = state.epoch == *epoch && !fuse.is_blown();
            let is_full = is_ours && at + bytes.len() > length && fuse.fails(Trouble::Full);
            if is_full || (is_ours && fuse.fails(Trouble::Write)) {
                // Some of it may have got there.
                let there = state.dice.index(bytes.len() + 1);
                if let Some(file) = state.inodes.get_mut(&self.inode) {
                    file.write(at, &bytes[..there]);
                }
                return Err(if is_full { no_space() } else { error("the write failed") });
            }
        }
        self.step(|file| file.write(at, bytes));
        Ok(())
    }
}

impl Handle for Open {
    fn truncate(&self, length: usize) -> io::Result<()> {
        self.step(|file| file.truncate(length));
        Ok(())
    }

    fn file_size(&self) -> io::Result<usize> {
        Ok(self.files.state.lock().inodes.get(&self.inode).map_or(0, Inode::length))
    }

    fn sync(&self) -> io::Result<()> {
        self.files.sync(self.inode)
    }
}

/// Reads or writes an open file from some place on.
pub struct Cursor {
    file: Arc<Open>,
    at: usize,
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => (self.at as u64).checked_add_signed(by),
            SeekFrom::End(by) => (self.file.file_size()? as u64).checked_add_signed(by),
        };
        let to = to.ok_or(ErrorKind::InvalidInput)?;
        self.at = to as usize;
        Ok(to)
    }
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let files = &self.file.files;
        if files.fuse.fails(Trouble::Read) {
            return Err(error("the read failed"));
        }
        let read = files.state.lock().inodes.get(&self.file.inode).map_or(0, |file| file.read(self.at, into));
        self.at += read;
        Ok(read)
    }
}

impl Write for Cursor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(self.at, bytes)?;
        self.at += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteExt for Cursor {
    fn truncate(&mut self, length: usize) -> io::Result<()> {
        self.file.truncate(length)?;
        self.at = length;
        Ok(())
    }

    fn allocate(&mut self, at: usize, length: usize) -> io::Result<()> {
        let files = &self.file.files;
        if files.fuse.fails(Trouble::Full) {
            return Err(no_space());
        }
        self.file.step(|file| file.grow(at + length));
        Ok(())
    }
}
