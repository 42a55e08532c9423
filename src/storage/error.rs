//! Why a data directory cannot be used, in words an operator can act on.

use super::StorageKind;
use super::format::FORMAT_VERSION;
use castd_backend_api::{BackendError, OpenError};
use std::io;
use std::path::{Path, PathBuf};

/// A data directory cannot be used. Whether the process ends is the caller's decision.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "{} was written by etcd (found {}) and cannot be read by castd, which has changed nothing in it; to migrate, start \
         castd with an empty --data-dir beside etcd and copy the keys with `etcdctl make-mirror CASTD_ENDPOINT`",
        directory.display(), found.display()
    )]
    WrittenByEtcd { directory: PathBuf, found: PathBuf },
    #[error(
        "{} was written by a newer castd: it has format version {found}, this build reads up to {FORMAT_VERSION}; start the \
         newer castd again, going back is not possible",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u64 },
    #[error(
        "{} holds a store of backend {written}, not {asked}: start with `--storage {written}`, or, to change the backend, \
         take a backup with `etcdctl snapshot save backup.db`, restore it with `castutl snapshot restore backup.db \
         --storage {asked}` into an empty directory and start there with `--storage {asked}` (a castutl command that converts in place is to come); a \
         member of a larger cluster can also be removed and added again with an empty directory",
        directory.display()
    )]
    OtherBackend { directory: PathBuf, written: String, asked: StorageKind },
    #[error("{} cannot be read: {detail}; restore this file from a backup", path.display())]
    UnreadableFormat { path: PathBuf, detail: String },
    #[error(
        "{} is missing although there is data in {}: restore the file from a backup, or start with an empty data directory",
        path.display(), data.display()
    )]
    FormatMissing { path: PathBuf, data: PathBuf },
    #[error(
        "{} belongs to a member whose raft log is not in {}: give the --wal-dir it was started with",
        directory.display(), log.display()
    )]
    LogMissing { directory: PathBuf, log: PathBuf },
    #[error(
        "a restore into {} was cut short: run `castutl snapshot restore` again, which starts over, or remove the directory",
        directory.display()
    )]
    RestoreCutShort { directory: PathBuf },
    #[error("{} holds the raft log of another member than {}: check --wal-dir and --data-dir", wal_dir.display(), data_dir.display())]
    LogOfAnotherMember { data_dir: PathBuf, wal_dir: PathBuf },
    #[error(
        "{} is in use by another process{}",
        directory.display(), holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked { directory: PathBuf, holder: Option<u32> },
    #[error("the store is still being read, so it cannot be set aside")]
    BackendInUse,
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Gives an I/O error its place.
pub(super) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { operation, path, source }
}
