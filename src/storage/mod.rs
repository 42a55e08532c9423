//! Where a member keeps its state: which engine, and which files of the data directory are whose.
//!
//! ```text
//!   StorageKind ──open_backend──▶ Arc<dyn Backend>     the one `match` over the engines
//!   DataDir ──locks, checks, recovers──▶ member/{FORMAT,log,state,snap}
//! ```
//!
//! It knows nothing of what the log, the state or a snapshot contain.

mod data_dir;
mod error;
mod foreign;
mod format;
mod generations;
mod lock;
mod paths;
#[cfg(test)]
mod walk;

pub use data_dir::{Creation, DataDir, Notice, Settings, Vacancy};
pub use error::DataDirError;
pub use format::Format;
pub use generations::{Found, Replacement, SetAside};

use castd_backend_api::{Backend, OpenError};
use castd_backend_memory::Memory;
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// The engines `--storage` chooses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StorageKind {
    #[default]
    Rocksdb,
    Sled,
    Memory,
}

impl StorageKind {
    pub const ALL: [StorageKind; 3] = [StorageKind::Rocksdb, StorageKind::Sled, StorageKind::Memory];

    /// The name in `--storage`, in FORMAT and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rocksdb => "rocksdb",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }

    pub const fn is_compiled_in(self) -> bool {
        match self {
            Self::Rocksdb => cfg!(feature = "rocksdb"),
            Self::Sled => cfg!(feature = "sled"),
            Self::Memory => true,
        }
    }

    /// Whether the state may have to be rebuilt from outside the engine at any start, so that the log is cut only while a
    /// checked portable snapshot remains. RocksDB's checksums are trusted.
    pub const fn needs_snapshot(self) -> bool {
        match self {
            Self::Rocksdb => false,
            Self::Sled | Self::Memory => true,
        }
    }

    pub(crate) const fn keeps_files(self) -> bool {
        match self {
            Self::Rocksdb | Self::Sled => true,
            Self::Memory => false,
        }
    }

    /// Whether the files count only if they were closed. sled's recovery takes pages of different moments together where the
    /// power failed before all of them were written, and may panic; RocksDB comes back with a moment of the past.
    pub(crate) const fn is_believed_only_when_closed(self) -> bool {
        match self {
            Self::Sled => true,
            Self::Rocksdb | Self::Memory => false,
        }
    }
}

impl fmt::Display for StorageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name of no engine, or of one that this build lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageKindError {
    #[error("unknown storage {given:?}: choose one of {}", StorageKind::ALL.map(StorageKind::name).join(", "))]
    Unknown { given: String },
    #[error("storage {kind} is not part of this build: rebuild with `cargo build --release --features {kind}`")]
    NotCompiledIn { kind: StorageKind },
}

impl FromStr for StorageKind {
    type Err = StorageKindError;

    fn from_str(given: &str) -> Result<Self, StorageKindError> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == given);
        let kind = kind.ok_or_else(|| StorageKindError::Unknown { given: given.to_owned() })?;
        if kind.is_compiled_in() { Ok(kind) } else { Err(StorageKindError::NotCompiledIn { kind }) }
    }
}

/// RAM an engine may use; each takes what it knows how to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Blocks or pages kept for reading; the engine's own default if absent.
    pub cache_bytes: Option<usize>,
    /// Rows gathered before they are written out.
    pub write_buffer_bytes: Option<usize>,
}

/// Opens the engine's store in `path`, which is created if need be. `memory` ignores the path.
///
/// # Errors
/// [`OpenError::Corrupt`] if files are damaged and the store has to be rebuilt; [`OpenError::Unusable`] for all else.
pub fn open_backend(kind: StorageKind, path: &Path, tuning: Tuning) -> Result<Arc<dyn Backend>, OpenError> {
    match kind {
        #[cfg(feature = "rocksdb")]
        StorageKind::Rocksdb => {
            let mut options = castd_backend_rocksdb::Options::default();
            options.cache_bytes = tuning.cache_bytes.unwrap_or(options.cache_bytes);
            options.memtable_bytes = tuning.write_buffer_bytes.unwrap_or(options.memtable_bytes);
            Ok(Arc::new(castd_backend_rocksdb::RocksDb::open(path, &options)?))
        }
        #[cfg(feature = "sled")]
        StorageKind::Sled => {
            let mut options = castd_backend_sled::Options::default();
            options.cache_bytes = tuning.cache_bytes.map_or(options.cache_bytes, |bytes| bytes as u64);
            Ok(Arc::new(castd_backend_sled::Sled::open(path, &options)?))
        }
        StorageKind::Memory => Ok(Arc::new(Memory::new())),
        #[cfg(not(all(feature = "rocksdb", feature = "sled")))]
        kind => {
            let _ = tuning;
            let detail = StorageKindError::NotCompiledIn { kind }.to_string();
            Err(OpenError::Unusable { engine: kind.name(), path: path.to_owned(), detail })
        }
    }
}

/// Waits until the engine has let go of the store in `path`, and makes durable what it has written there.
fn settle_files(kind: StorageKind, path: &Path) -> io::Result<()> {
    match kind {
        #[cfg(feature = "sled")]
        StorageKind::Sled => castd_backend_sled::settle_files(path),
        _ => {
            let _ = path;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_answered_with_the_choices() {
        let error = "bbolt".parse::<StorageKind>().unwrap_err();
        assert_eq!(error.to_string(), "unknown storage \"bbolt\": choose one of rocksdb, sled, memory");
        assert_eq!("memory".parse(), Ok(StorageKind::Memory));
    }

    #[test]
    fn a_kind_that_is_not_compiled_in_says_how_to_get_it() {
        for kind in StorageKind::ALL {
            match kind.name().parse::<StorageKind>() {
                Ok(parsed) => assert!(parsed == kind && kind.is_compiled_in()),
                Err(error) => {
                    assert!(!kind.is_compiled_in());
                    assert!(error.to_string().ends_with(&format!("--features {kind}`")), "{error}");
                }
            }
        }
    }

    #[test]
    fn every_kind_compiled_in_opens_and_carries_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for kind in StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in()) {
            let backend = open_backend(kind, &dir.path().join(kind.name()), Tuning::default()).unwrap();
            assert_eq!(backend.name(), kind.name());
        }
    }
}
