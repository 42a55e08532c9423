//! What a backend may answer instead of data.

use std::path::PathBuf;

/// A read or write failed. The state on disk is unknown from here on: the owner ends the process, the log brings it back.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{engine}: {operation} failed: {source}")]
    Engine { engine: &'static str, operation: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{engine}: corrupted data: {detail}")]
    Corrupt { engine: &'static str, detail: String },
}

/// A backend could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The files are damaged: the caller sets them aside and rebuilds from snapshot and log.
    #[error("{engine}: files in {} are damaged: {detail}", path.display())]
    Corrupt { engine: &'static str, path: PathBuf, detail: String },
    /// The directory cannot be used for another reason (permission, space, lock): rebuilding would not help.
    #[error("{engine}: cannot open {}: {detail}", path.display())]
    Unusable { engine: &'static str, path: PathBuf, detail: String },
}
