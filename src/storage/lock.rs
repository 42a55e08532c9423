//! One process for each directory: an advisory lock on a file in it, which the kernel drops with the process.

use super::error::{DataDirError, at};
use super::paths::PRIVATE_FILE;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

pub(super) const LOCK_FILE: &str = "lock";
const PAUSE: Duration = Duration::from_millis(50);

/// Holds the directory until it is dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Tries for `wait`; `waiting` is called once if the lock is not free at once.
    pub(super) fn acquire(directory: &Path, wait: Duration, waiting: impl FnOnce()) -> Result<Self, DataDirError> {
        let path = directory.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
        let mut file = options.open(&path).map_err(at("open", &path))?;
        let mut waiting = Some(waiting);
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if waited < wait => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(DataDirError::Locked { directory: directory.to_owned(), holder: holder(&mut file) });
                }
                Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
            }
        }
        note_holder(&mut file).map_err(at("write", &path))?;
        Ok(Self { _file: file })
    }
}

fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Whom the file names. Only for the message: it may be out of date.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
