//! Makes what sled wrote durable: fsync of its files and directories through our own descriptors.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// sled's name for the file that holds the log of pages, and for the directory of values too large for it.
const LOG: &str = "db";
const BLOBS: &str = "blobs";

/// sled closes a store on threads of its own, after the last handle to it is gone, and writes once more then.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
const CLOSED_PAUSE: Duration = Duration::from_millis(5);

/// Waits until no process uses the store in `directory` any more, and makes all of it durable.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when somebody still does after ten seconds; and when the disk fails.
pub fn settle_files(directory: &Path) -> io::Result<()> {
    let mut files = Files::of(directory)?;
    let mut waited = Duration::ZERO;
    // sled's own lock, on this very file.
    while let Err(error) = files.log.try_lock() {
        match error {
            TryLockError::Error(error) => return Err(error),
            TryLockError::WouldBlock if waited >= CLOSED_WITHIN => return Err(io::ErrorKind::TimedOut.into()),
            TryLockError::WouldBlock => {
                std::thread::sleep(CLOSED_PAUSE);
                waited += CLOSED_PAUSE;
            }
        }
    }
    files.sync()
}

pub(crate) struct Files {
    directory: PathBuf,
    /// Kept open: a descriptor reports every failed write-back since it was opened, also one that sled's own flusher
    /// was told of and only logged.
    log: File,
    /// Blobs never change once written: one fsync each is enough.
    blobs_synced: HashSet<OsString>,
}

impl Files {
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let log = File::open(directory.join(LOG))?;
        Ok(Self { directory: directory.to_owned(), log, blobs_synced: HashSet::new() })
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.log.sync_all()?;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name() != LOG && entry.file_type()?.is_file() {
                sync_if_present(&entry.path())?;
            }
        }
        self.sync_blobs()?;
        File::open(&self.directory)?.sync_all()
    }

    fn sync_blobs(&mut self) -> io::Result<()> {
        let directory = self.directory.join(BLOBS);
        let mut present = HashSet::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !self.blobs_synced.contains(&name) {
                sync_if_present(&entry.path())?;
            }
            present.insert(name);
        }
        self.blobs_synced = present;
        File::open(&directory)?.sync_all()
    }
}

/// sled removes blobs and old snapshots at any time.
fn sync_if_present(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
