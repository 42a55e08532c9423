//! Files and directories so that a crash leaves either the old or the new, never half of one.

use super::error::{DataDirError, at};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What only the owner may enter. etcd's mode.
pub(super) const PRIVATE_DIRECTORY: u32 = 0o700;
pub(super) const PRIVATE_FILE: u32 = 0o600;
/// Ends the names of files that are not complete yet.
pub(super) const TEMPORARY: &str = "tmp";

/// Makes the names in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), DataDirError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(at("sync", directory))
}

/// Creates `directory` with its parents, each private and durable in the one above. Does nothing if it is there.
pub(super) fn create_directory(directory: &Path) -> Result<(), DataDirError> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(parent)?;
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(directory) {
        Ok(()) => sync_directory(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(at("create", directory)(error)),
    }
}

/// Replaces `path` by a file with `content`.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), DataDirError> {
    let temporary = path.with_added_extension(TEMPORARY);
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(at("write", &temporary))?;
    fs::rename(&temporary, path).map_err(at("write", path))?;
    sync_directory(directory_of(path))
}

/// The content of a file, or nothing where there is none.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// Removes a file for good; it may be missing.
pub(super) fn remove_file(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(directory_of(path)),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(at("remove", path)(error)),
    }
}

/// Removes a directory and what is below it; it may be missing.
pub(super) fn remove_tree(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_directory(directory_of(path)),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(at("remove", path)(error)),
    }
}

/// Paths in `directory`, in order; none where it is missing.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, DataDirError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(at("read", directory)(error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(at("read", directory))?;
    paths.sort();
    Ok(paths)
}

pub(super) fn exists(path: &Path) -> Result<bool, DataDirError> {
    match path.try_exists() {
        Ok(exists) => Ok(exists),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// The permission bits of a directory that others than its owner may use; nothing for a private or a missing one.
pub(super) fn mode_if_wide(path: &Path) -> Result<Option<u32>, DataDirError> {
    match fs::metadata(path).map(|metadata| metadata.permissions()) {
        Ok(permissions) => Ok(Some(mode_of(&permissions)).filter(|mode| mode & !PRIVATE_DIRECTORY != 0)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

fn mode_of(permissions: &Permissions) -> u32 {
    permissions.mode() & 0o777
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
