//! A member's directory: who may use it, what is where, and how a first start that was cut short is told from a loss.
//!
//! ```text
//!   <data-dir>/lock              one process
//!   <data-dir>/member/FORMAT     whose it is; written last of all
//!   <data-dir>/member/creating   there until FORMAT is: whatever is beside it was never acknowledged to anyone; says so if it
//!                                is a restore, in whose place no server begins an empty member
//!   <data-dir>/member/log/       the raft log, or <wal-dir>/log/ with lock, FORMAT and creating of its own
//!   <data-dir>/member/state/     the backend (`generations.rs`)
//!   <data-dir>/member/snap/      portable snapshots
//! ```
//!
//! It reads neither log nor snapshots, and it never ends the process: that is for the caller to decide.

use super::error::DataDirError;
use super::foreign::refuse_etcd;
use super::format::{FORMAT_FILE, Format};
use super::generations::{Found, Generations, Replacement, SetAside};
use super::lock::{DirectoryLock, LOCK_FILE};
use super::paths::{
    TEMPORARY, create_directory, exists, list, mode_if_wide, read_file, remove_file, remove_tree, sync_directory,
    write_file,
};
use super::{StorageKind, Tuning};
use castd_backend_api::Backend;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const MEMBER: &str = "member";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snap";
const CREATING: &str = "creating";
/// What [`CREATING`] says of a restore; of a first start it says nothing.
const RESTORING: &[u8] = b"castutl snapshot restore\n";
/// What may lie in a data directory; `fixtures` holds the certificates of automatic TLS.
const KNOWN_NAMES: [&str; 4] = [MEMBER, LOCK_FILE, "fixtures", "lost+found"];

/// Who makes a directory one of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Creation {
    /// A server, by starting in it.
    #[default]
    FirstStart,
    /// A tool, for a server that starts in it later.
    Restore,
}

/// What a restore finds where it is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacancy {
    Vacant,
    /// Nothing but a restore that was cut short.
    Abandoned,
    DataDirTaken,
    WalDirTaken,
}

/// Where a member lives and what with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// `--wal-dir`: the log is kept in its `log` directory.
    pub wal_dir: Option<PathBuf>,
    pub kind: StorageKind,
    pub tuning: Tuning,
    /// How long to wait for a process that uses the directory to end.
    pub lock_wait: Duration,
    /// Where no member is yet.
    pub creation: Creation,
}

impl Settings {
    pub fn new(data_dir: impl Into<PathBuf>, kind: StorageKind) -> Self {
        let lock_wait = Duration::from_secs(10);
        let (tuning, creation) = Default::default();
        Self { data_dir: data_dir.into(), wal_dir: None, kind, tuning, lock_wait, creation }
    }
}

/// What an operator should be told while a directory is prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Others than the owner may enter the directory. It is used all the same, as etcd does.
    WideMode { path: PathBuf, mode: u32 },
    /// Another process uses the directory; it is waited for.
    WaitingForLock { directory: PathBuf, at_most: Duration },
    /// Nothing of ours has this name.
    UnexpectedFile { path: PathBuf },
    /// A first start, or a restore, was cut short; what it left was removed.
    UnfinishedCreation { directory: PathBuf },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WideMode { path, mode } => {
                write!(f, "check file permission: {} has mode {mode:04o}, wider than 0700", path.display())
            }
            Self::WaitingForLock { directory, at_most } => {
                let (directory, secs) = (directory.display(), at_most.as_secs());
                write!(f, "{directory} is in use by another process, waiting up to {secs} s for it to end")
            }
            Self::UnexpectedFile { path } => {
                write!(f, "found invalid file under data directory: {}", path.display())
            }
            Self::UnfinishedCreation { directory } => {
                write!(f, "what was begun in {} was cut short, starting afresh", directory.display())
            }
        }
    }
}

/// A directory that is locked, checked and ready to be used.
pub struct DataDir {
    settings: Settings,
    member: PathBuf,
    format: Option<Format>,
    generations: Generations,
    _locks: Vec<DirectoryLock>,
}

impl DataDir {
    /// Looks without touching anything: the member that lives here, or nothing where a first start would begin.
    ///
    /// # Errors
    /// Every refusal that can be known without the lock.
    pub fn inspect(settings: &Settings) -> Result<Option<Format>, DataDirError> {
        let (own, log) = check(settings)?;
        Ok(own.or(log))
    }

    /// Looks without touching anything: whether a restore may write here. etcd's rules: the data directory is empty, the
    /// log's does not exist. What locks and file systems put there does not count.
    ///
    /// # Errors
    /// When the directories cannot be read.
    pub fn vacancy(settings: &Settings) -> Result<Vacancy, DataDirError> {
        let Settings { data_dir, wal_dir, .. } = settings;
        let member = data_dir.join(MEMBER);
        let is_abandoned = mark(&member)? == Some(Creation::Restore) && !exists(&member.join(FORMAT_FILE))?;
        let is_ours = |path: &PathBuf| {
            path.ends_with(LOCK_FILE) || path.ends_with("lost+found") || wal_dir.as_ref() == Some(path)
        };
        for path in list(data_dir)?.into_iter().filter(|path| !is_ours(path)) {
            if path != member || !(is_abandoned || list(&member)?.is_empty()) {
                return Ok(Vacancy::DataDirTaken);
            }
        }
        if let Some(wal_dir) = wal_dir.as_ref().filter(|wal_dir| wal_dir.exists()) {
            let is_marked = mark(wal_dir)? == Some(Creation::Restore) && !exists(&wal_dir.join(FORMAT_FILE))?;
            let has_lock_only = list(wal_dir)? == [wal_dir.join(LOCK_FILE)];
            if !is_marked && !has_lock_only {
                return Ok(Vacancy::WalDirTaken);
            }
        }
        Ok(if is_abandoned { Vacancy::Abandoned } else { Vacancy::Vacant })
    }

    /// Locks the directory and brings it into a state to start from. Where it is refused before the lock is taken, nothing
    /// has been written.
    pub fn prepare(settings: Settings, notice: &mut dyn FnMut(Notice)) -> Result<Self, DataDirError> {
        check(&settings)?;
        let member = settings.data_dir.join(MEMBER);
        for path in [Some(&settings.data_dir), Some(&member), settings.wal_dir.as_ref()].into_iter().flatten() {
            if let Some(mode) = mode_if_wide(path)? {
                notice(Notice::WideMode { path: path.clone(), mode });
            }
        }
        let locks = lock(&settings, notice)?;
        // Looked at again, because whoever held the lock may have written.
        let formats = check(&settings)?;
        for path in list(&settings.data_dir)? {
            if !KNOWN_NAMES.iter().any(|name| path.ends_with(name)) {
                notice(Notice::UnexpectedFile { path });
            }
        }
        create_directory(&member)?;
        let generations = Generations::new(member.clone(), settings.kind, settings.tuning);
        let mut this = Self { settings, member, format: None, generations, _locks: locks };
        this.format = this.recover(formats, notice)?;
        create_directory(&this.log_path())?;
        create_directory(&this.snapshots_path())?;
        Ok(this)
    }

    /// The member that lives here; nothing before the first start was committed.
    pub fn format(&self) -> Option<&Format> {
        self.format.as_ref()
    }

    /// Ends the first start: from now on this is the directory of that member. Call it when log and state hold all that a
    /// restart needs.
    ///
    /// # Panics
    /// If it belongs to somebody already, or the format names another backend.
    pub fn commit_format(&mut self, format: Format) -> Result<(), DataDirError> {
        assert!(self.format.is_none(), "a directory is given to a member once");
        assert_eq!(format.backend, self.settings.kind.name());
        sync_directory(&self.log_path())?;
        // The log's first: a FORMAT in `member` then promises that the log's is there.
        if let Some(wal_dir) = &self.settings.wal_dir {
            format.write(wal_dir)?;
        }
        format.write(&self.member)?;
        self.remove_creating_marks()?;
        self.format = Some(format);
        Ok(())
    }

    /// Opens the store as the last process has left it. Damaged files are set aside.
    ///
    /// # Errors
    /// When it cannot be used, and is not to blame.
    pub fn open_backend(&self) -> Result<Found, DataDirError> {
        self.generations.open()
    }

    /// Makes durable what the store has. Answers whether the next start will open it: not if its engine is believed only when
    /// closed, and somebody still has it.
    ///
    /// # Errors
    /// When the disk fails; what was not made durable comes back from the log.
    pub fn close_backend(&self, backend: Arc<dyn Backend>) -> Result<bool, DataDirError> {
        self.generations.close(backend)
    }

    /// Sets the store aside because it does not fit the log. Drop every handle to it first.
    ///
    /// # Errors
    /// [`DataDirError::BackendInUse`] while a handle exists.
    pub fn set_backend_aside(&self, reason: impl Into<String>) -> Result<Option<SetAside>, DataDirError> {
        self.generations.set_aside(reason.into())
    }

    /// An empty store to be filled beside the current one, one at a time.
    pub fn begin_replacement(&self) -> Result<Replacement, DataDirError> {
        self.generations.begin_replacement()
    }

    /// Flushes the replacement and makes it the store that the next start opens. The old one's files go when its last
    /// reader does: at the next replacement, at [`DataDir::remove_retired_backends`] or at the next start.
    pub fn commit_replacement(&self, replacement: Replacement) -> Result<Arc<dyn Backend>, DataDirError> {
        self.generations.commit_replacement(replacement)
    }

    /// Answers whether some are left, because somebody still reads them.
    pub fn remove_retired_backends(&self) -> bool {
        self.generations.remove_retired()
    }

    pub fn kind(&self) -> StorageKind {
        self.settings.kind
    }

    pub fn data_path(&self) -> &Path {
        &self.settings.data_dir
    }

    pub fn member_path(&self) -> &Path {
        &self.member
    }

    pub fn log_path(&self) -> PathBuf {
        self.settings.wal_dir.as_ref().unwrap_or(&self.member).join(LOG)
    }

    pub fn snapshots_path(&self) -> PathBuf {
        self.member.join(SNAPSHOTS)
    }

    /// Tells an existing member from a first start, and finishes or undoes what was cut short.
    fn recover(
        &self,
        (own, log): (Option<Format>, Option<Format>),
        notice: &mut dyn FnMut(Notice),
    ) -> Result<Option<Format>, DataDirError> {
        for root in self.roots() {
            for path in list(root)? {
                if path.extension().is_some_and(|extension| extension == TEMPORARY) && path.is_file() {
                    remove_file(&path)?;
                }
            }
        }
        let format = match (own, log, &self.settings.wal_dir) {
            (None, None, _) => return self.begin_creation(notice).map(|()| None),
            // Either the end of the first start is missing, or the data directory was lost and the log was not. In both
            // cases the log says who this is, and the state comes back from it.
            (None, Some(log), _) => {
                log.write(&self.member)?;
                log
            }
            (Some(own), None, None) => own,
            (Some(own), Some(log), _) if own == log => own,
            (Some(_), Some(_), wal_dir) => {
                let wal_dir = wal_dir.clone().unwrap_or_default();
                return Err(DataDirError::LogOfAnotherMember { data_dir: self.settings.data_dir.clone(), wal_dir });
            }
            (Some(_), None, Some(_)) => return Err(self.log_missing()),
        };
        if list(&self.log_path())?.is_empty() {
            return Err(self.log_missing());
        }
        self.remove_creating_marks()?;
        Ok(Some(format))
    }

    fn log_missing(&self) -> DataDirError {
        DataDirError::LogMissing { directory: self.settings.data_dir.clone(), log: self.log_path() }
    }

    /// Directories that carry a FORMAT.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        [Some(self.member.as_path()), self.settings.wal_dir.as_deref()].into_iter().flatten()
    }

    /// Everything a first start creates below `root`, bar its marks.
    fn contents(&self, root: &Path) -> Vec<PathBuf> {
        let mut contents = vec![root.join(LOG)];
        if root == self.member {
            contents.extend([Generations::directory(root), self.snapshots_path()]);
        }
        contents
    }

    fn begin_creation(&self, notice: &mut dyn FnMut(Notice)) -> Result<(), DataDirError> {
        if self.settings.creation == Creation::FirstStart {
            for root in self.roots() {
                if mark(root)? == Some(Creation::Restore) {
                    return Err(DataDirError::RestoreCutShort { directory: self.settings.data_dir.clone() });
                }
            }
        }
        let says = match self.settings.creation {
            Creation::FirstStart => &[],
            Creation::Restore => RESTORING,
        };
        for root in self.roots() {
            let unfinished = mark(root)?.is_some();
            let mut removed = false;
            for data in self.contents(root) {
                if list(&data)?.is_empty() {
                    continue;
                }
                if !unfinished {
                    return Err(DataDirError::FormatMissing { path: root.join(FORMAT_FILE), data });
                }
                remove_tree(&data)?;
                removed = true;
            }
            if removed {
                notice(Notice::UnfinishedCreation { directory: root.to_owned() });
            }
        }
        for root in self.roots() {
            write_file(&root.join(CREATING), says)?;
        }
        Ok(())
    }

    fn remove_creating_marks(&self) -> Result<(), DataDirError> {
        for root in self.roots() {
            remove_file(&root.join(CREATING))?;
        }
        Ok(())
    }
}

/// Whose creation has begun in `root` and not ended.
fn mark(root: &Path) -> Result<Option<Creation>, DataDirError> {
    let said = read_file(&root.join(CREATING))?;
    Ok(said.map(|said| if said == RESTORING { Creation::Restore } else { Creation::FirstStart }))
}

/// Refuses what is not ours, newer than us, or another backend's. Returns FORMAT of the member and of the log directory.
fn check(settings: &Settings) -> Result<(Option<Format>, Option<Format>), DataDirError> {
    let own = Format::read(&settings.data_dir.join(MEMBER))?;
    let log = settings.wal_dir.as_deref().map(Format::read).transpose()?.flatten();
    refuse_etcd(&settings.data_dir, settings.wal_dir.as_deref(), own.is_some())?;
    for format in own.iter().chain(&log) {
        if format.backend != settings.kind.name() {
            return Err(DataDirError::OtherBackend {
                directory: settings.data_dir.clone(),
                written: format.backend.clone(),
                asked: settings.kind,
            });
        }
    }
    Ok((own, log))
}

/// Creates the directories and takes their locks.
fn lock(settings: &Settings, notice: &mut dyn FnMut(Notice)) -> Result<Vec<DirectoryLock>, DataDirError> {
    let mut locks = Vec::new();
    let mut locked: Option<PathBuf> = None;
    for directory in [Some(&settings.data_dir), settings.wal_dir.as_ref()].into_iter().flatten() {
        create_directory(directory)?;
        let real = directory.canonicalize().map_err(super::error::at("read", directory))?;
        // `--wal-dir` may be the data directory itself, and a lock also keeps out its own holder.
        if locked.as_ref() == Some(&real) {
            continue;
        }
        locks.push(DirectoryLock::acquire(directory, settings.lock_wait, || {
            notice(Notice::WaitingForLock { directory: directory.clone(), at_most: settings.lock_wait });
        })?);
        locked = Some(real);
    }
    Ok(locks)
}

#[cfg(test)]
mod tests;
