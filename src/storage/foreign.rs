//! Recognizes what etcd wrote, so that castd keeps its hands off it. Reads only.

use super::error::DataDirError;
use super::paths::{exists, list};
use std::path::{Path, PathBuf};

/// Refuses a data or log directory of etcd. `ours`: there is a FORMAT of castd's beside it.
pub(super) fn refuse_etcd(data_dir: &Path, wal_dir: Option<&Path>, ours: bool) -> Result<(), DataDirError> {
    // etcd 2.0 and later keep a member in `member`, releases before that in the directory itself.
    for root in [&data_dir.join("member"), data_dir] {
        let database = root.join("snap").join("db");
        let found = if exists(&database)? { Some(database) } else { first_with_extension(&root.join("wal"), "wal")? };
        // Files of ours never end in `snap`, but a directory of ours is not given up for one that somebody put there.
        let found = if found.is_none() && !ours { first_with_extension(&root.join("snap"), "snap")? } else { found };
        refuse(data_dir, found)?;
    }
    let proxy = data_dir.join("proxy").join("cluster");
    refuse(data_dir, exists(&proxy)?.then_some(proxy))?;
    match wal_dir {
        Some(wal_dir) => refuse(wal_dir, first_with_extension(wal_dir, "wal")?),
        None => Ok(()),
    }
}

fn refuse(directory: &Path, found: Option<PathBuf>) -> Result<(), DataDirError> {
    match found {
        Some(found) => Err(DataDirError::WrittenByEtcd { directory: directory.to_owned(), found }),
        None => Ok(()),
    }
}

fn first_with_extension(directory: &Path, extension: &str) -> Result<Option<PathBuf>, DataDirError> {
    Ok(list(directory)?.into_iter().find(|path| path.extension().is_some_and(|found| found == extension)))
}
