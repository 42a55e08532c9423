//! A snapshot in `snap/` takes the place of a member's state.
//!
//! ```text
//!   snap/<term>-<index>.cast ──fill──▶ an empty store beside the present one ──▶ Machine ──commit──▶ the member's store
//! ```
//! Whoever reads the old store goes on reading it. A crash leaves the old store or the new one; which of them a start finds
//! does not matter while the log says that the install is pending.

use crate::raft::terms::LogPosition;
use crate::snapshot::{SnapshotError, SnapshotFile};
use crate::state::portable::{self, PortableError};
use crate::state::{Machine, StateError};
use crate::storage::{DataDir, DataDirError};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Portable(#[from] PortableError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The rows of the file are those of another index than its header says.
    #[error("the snapshot at {named:?} contains the state at {found:?}")]
    OtherPosition { named: LogPosition, found: LogPosition },
}

/// Fills a store from `file` and makes it the one that the next start opens. Takes as long as writing all of it.
///
/// # Errors
/// When the file is damaged or the disk fails; the old store is still in its place then.
pub fn replace_state(data_dir: &DataDir, file: &SnapshotFile) -> Result<Machine, InstallError> {
    let replacement = data_dir.begin_replacement()?;
    portable::fill(file, replacement.backend.as_ref())?;
    let machine = Machine::open(Arc::clone(&replacement.backend))?;
    let found = machine.position();
    if found != file.position {
        return Err(InstallError::OtherPosition { named: file.position, found });
    }
    data_dir.commit_replacement(replacement)?;
    Ok(machine)
}
