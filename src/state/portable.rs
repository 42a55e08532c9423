//! The whole state in one file, and back: what a member is rebuilt from when its backend is gone.
//!
//! ```text
//!   View ──take──▶ snap/<term>-<index>.cast ──fill──▶ an empty backend
//! ```

use crate::raft::terms::LogPosition;
use crate::snapshot::{SnapshotError, SnapshotFile, SnapshotStore};
use crate::state::View;
use crate::state::rows::{self, AppliedPosition};
use castd_backend_api::{Backend, BackendError, Op, Table, WriteBatch};
use castd_proto::castdpb::SnapshotHeader;
use std::ops::ControlFlow;

/// Snapshots kept in `snap/`: the newest, and one in case it turns out to be damaged.
const KEPT: usize = 2;
/// Rows are written to a backend in batches of so many bytes.
const BATCH_BYTES: usize = 4 << 20;
const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Writes the state as of `view`; durable, and older ones removed, on return.
///
/// # Errors
/// When the disk or the backend fails.
pub fn take(store: &mut SnapshotStore, view: &View) -> Result<LogPosition, PortableError> {
    let position = LogPosition { index: view.applied, term: view.term };
    let header = SnapshotHeader {
        format: FORMAT,
        index: position.index.0,
        term: position.term.0,
        conf_state: Some(rows::conf_state_row(&view.conf_state)),
        revision: view.mvcc.revision().0,
        compact_revision: view.mvcc.compact_revision().0,
        ..Default::default()
    };
    let mut taking = store.take(&header)?;
    for op in rows::snapshot_rows(view) {
        if let Op::Put { table, key, value } = op {
            taking.writer().row(table, &key, &value)?;
        }
    }
    let mut failed = None;
    // Rows above the view's revision belong to later entries; those of compacted revisions are gone or harmless.
    let end = view.mvcc.end_of_rows();
    view.backend().scan(Table::Kv, b"", &end, &mut |key, value| match taking.writer().row(Table::Kv, key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    taking.finish()?;
    store.keep(KEPT)?;
    Ok(position)
}

/// Fills an empty backend from a snapshot. The applied index is written last: a crash before that leaves a backend that
/// counts as empty.
///
/// # Errors
/// When the file is damaged, or the disk fails.
pub fn fill(file: &SnapshotFile, backend: &dyn Backend) -> Result<(), PortableError> {
    let mut reader = file.open()?;
    let mut batch = WriteBatch::new();
    let mut meta = WriteBatch::new();
    while let Some(rows) = reader.next_rows()? {
        for row in rows {
            match row.table {
                Table::Meta => meta.put(Table::Meta, row.key, row.value),
                table => batch.put(table, row.key, row.value),
            }
            if batch.bytes() >= BATCH_BYTES {
                backend.write(&batch)?;
                batch.clear();
            }
        }
    }
    backend.write(&batch)?;
    backend.flush()?;
    backend.write(&meta)?;
    backend.flush()?;
    Ok(())
}

/// Whether anything was ever applied to `backend`.
///
/// # Errors
/// When the backend fails.
pub fn is_empty(backend: &dyn Backend) -> Result<bool, crate::state::StateError> {
    Ok(AppliedPosition::read(backend)? == AppliedPosition::default())
}
