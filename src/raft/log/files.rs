//! The files that the log is made of: raft-engine's `FileSystem`, and what raft-engine asks of the machine beside it.
//!
//! ```text
//!   EngineLog, verify ── LogFiles ─┬─ DefaultFileSystem: the machine's files
//!                                  └─ the simulator's disk, which forgets, fails and lies
//! ```
//! raft-engine itself lists, locks and syncs its directory on the machine, whatever file system it is given.

use raft_engine::env::{DefaultFileSystem, FileSystem};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What the log needs of a file system.
pub trait LogFiles: FileSystem + 'static {
    /// False as well if nothing is known of it.
    fn is_directory(&self, dir: &Path) -> bool;

    /// For the owner only; its parent is there.
    ///
    /// # Errors
    /// When the disk fails.
    fn create_directory(&self, dir: &Path) -> io::Result<()>;

    /// Makes durable which files are in it, under which names.
    ///
    /// # Errors
    /// When the disk fails.
    fn sync_directory(&self, dir: &Path) -> io::Result<()>;

    /// The regular files in it, in any order.
    ///
    /// # Errors
    /// When the disk fails.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Keeps other processes away as long as what it answers lives. `None` where there are no others.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] if another process has it.
    fn lock(&self, path: &Path) -> Result<Option<File>, TryLockError>;
}

impl LogFiles for DefaultFileSystem {
    fn is_directory(&self, dir: &Path) -> bool {
        dir.is_dir()
    }

    fn create_directory(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(dir)
    }

    fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for item in fs::read_dir(dir)? {
            let path = item?.path();
            if path.is_file() {
                files.push(path);
            }
        }
        Ok(files)
    }

    fn lock(&self, path: &Path) -> Result<Option<File>, TryLockError> {
        let file = File::create(path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Some(file))
    }
}
