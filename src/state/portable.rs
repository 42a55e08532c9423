//! The whole state in one file, and back: what a member is rebuilt from when its backend is gone.
//!
//! ```text
//!   View ──take──▶ snap/<term>-<index>.cast ──fill──▶ an empty backend
//! ```

use crate::mvcc::StoreError;
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
    #[error(transparent)]
    Store(#[from] StoreError),
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
    view.mvcc.scan_rows(&mut |key, value| match taking.writer().row(Table::Kv, key, value) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;
    use crate::state::{Machine, Outcome};
    use castd_backend_memory::Memory;
    use castd_proto::castdpb::{RaftRequest, raft_request::Op as RaftOp};
    use castd_proto::etcdserverpb as pb;
    use prost::Message as _;
    use raft::eraftpb::Entry;
    use std::sync::Arc;

    fn apply(machine: &mut Machine, op: RaftOp) -> Option<Outcome> {
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        let entry = Entry { index: machine.applied().0 + 1, term: Term(2).0, data, ..Default::default() };
        machine.apply(&[entry]).expect("applied").outcomes.remove(0).ok()
    }

    fn put(key: &str, value: String) -> RaftOp {
        RaftOp::Put(pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() })
    }

    /// A deletion goes before a snapshot reaches it, the puts before it have been copied already: the key must not be back.
    #[test]
    fn a_snapshot_taken_while_compaction_deletes_is_the_state_of_its_view() {
        for deleted_first in 0..40 {
            let dir = tempfile::tempdir().expect("a directory");
            let mut store = SnapshotStore::open(dir.path()).expect("opened");
            let mut machine = Machine::open(Arc::new(Memory::new())).expect("opened");
            for turn in 0..5 {
                for key in ["a", "b", "c"] {
                    apply(&mut machine, put(key, format!("{turn}")));
                }
            }
            let delete = pb::DeleteRangeRequest { key: "b".into(), ..Default::default() };
            apply(&mut machine, RaftOp::DeleteRange(delete));
            apply(&mut machine, put("d", "last".to_owned()));
            let revision = machine.revision().0;
            apply(&mut machine, RaftOp::Compact(pb::CompactionRequest { revision, physical: false }));
            for _ in 0..deleted_first {
                machine.delete_compacted(1).expect("deleted");
            }
            let view = machine.view();
            take(&mut store, &view).expect("taken");

            let (file, _) = store.newest_sound().expect("readable").expect("there is one");
            let copy = Arc::new(Memory::new());
            fill(&file, copy.as_ref()).expect("filled");
            let copy = Machine::open(copy).expect("opened");
            assert_eq!(copy.applied(), machine.applied());
            assert_eq!(copy.revision(), machine.revision());
            let hash = |machine: &Machine| machine.view().mvcc.hash_kv(0).expect("hashed");
            assert_eq!(hash(&copy), hash(&machine), "with {deleted_first} rows deleted before");
            let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
            let read = |machine: &Machine| machine.view().mvcc.range(&all).expect("read").kvs;
            assert_eq!(read(&copy), read(&machine));
        }
    }
}
