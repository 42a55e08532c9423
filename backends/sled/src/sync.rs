//! Makes what sled wrote durable: fsync of its files and directories through our own descriptors.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// sled's name for the file that holds the log of pages, and for the directory of values too large for it.
const LOG: &str = "db";
const BLOBS: &str = "blobs";

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
