//! The whole state in one file, and back: what a member is rebuilt from when its backend is gone.
//!
//! ```text
//!   View ──take──▶ snap/<term>-<index>.cast ──fill──▶ an empty backend
//!      ├──export──▶ a file without a name ──▶ a client, who may bring it back
//!      └──write_outgoing──▶ the same ──▶ snap/ of another member
//! ```

use crate::ids::ClusterId;
use crate::mvcc::StoreError;
use crate::raft::terms::LogPosition;
use crate::snapshot::{
    Exported, Exporting, Outgoing, SnapshotError, SnapshotFile, SnapshotReader, SnapshotStore, SnapshotWriter, Summary,
};
use crate::state::View;
use crate::state::rows;
use castd_backend_api::{Backend, BackendError, Op, Table, WriteBatch};
use castd_proto::castdpb::SnapshotHeader;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// Snapshots kept in `snap/`: the newest, and one in case it turns out to be damaged.
const KEPT: usize = 2;
/// Rows are written to a backend in batches of so many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Whether an export is still wanted is asked whenever so much has been written.
const ASK_EVERY_BYTES: u64 = 1 << 20;
const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody waits for it any more.
    #[error("the snapshot was abandoned")]
    Abandoned,
}

/// Writes the state as of `view`; durable, and older ones removed, on return.
///
/// # Errors
/// When the disk or the backend fails.
pub fn take(store: &SnapshotStore, view: &View, cluster: ClusterId) -> Result<LogPosition, PortableError> {
    take_timed(store, view, cluster, &mut || ())
}

/// As [`take`]; calls `is_written` between writing and making durable.
///
/// # Errors
/// As [`take`].
pub fn take_timed(
    store: &SnapshotStore,
    view: &View,
    cluster: ClusterId,
    is_written: &mut dyn FnMut(),
) -> Result<LogPosition, PortableError> {
    let mut taking = store.take(&header(view, cluster))?;
    write_rows(view, |table, key, value| Ok(taking.writer().row(table, key, value)?))?;
    is_written();
    taking.finish()?;
    store.keep(KEPT, view.applied)?;
    Ok(LogPosition { index: view.applied, term: view.term })
}

/// Writes the state as of `view` to `out`, and gives that back with what was written.
///
/// # Errors
/// When `out` or the backend fails.
pub fn write<W: Write>(out: W, view: &View, cluster: ClusterId) -> Result<(W, Summary), PortableError> {
    let mut writer = SnapshotWriter::create(out, &header(view, cluster))?;
    write_rows(view, |table, key, value| Ok(writer.row(table, key, value)?))?;
    Ok(writer.finish()?)
}

/// Writes the state as of `view` into a file without a name in `dir`. `is_wanted` is asked now and then.
///
/// # Errors
/// When the disk or the backend fails, the disk is nearly full, or nobody wants it any more.
pub fn export(
    dir: &Path,
    view: &View,
    cluster: ClusterId,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Exported, PortableError> {
    let mut exporting = Exporting::begin(dir, &header(view, cluster))?;
    write_looking(&mut exporting, view, is_wanted)?;
    Ok(exporting.finish_padded()?)
}

/// As [`export`], for another member.
///
/// # Errors
/// When the disk or the backend fails, or the disk is nearly full.
pub fn write_outgoing(dir: &Path, view: &View, cluster: ClusterId) -> Result<Outgoing, PortableError> {
    let header = header(view, cluster);
    let mut exporting = Exporting::begin(dir, &header)?;
    write_looking(&mut exporting, view, &|| true)?;
    Ok(exporting.finish(header)?)
}

fn write_looking(exporting: &mut Exporting, view: &View, is_wanted: &dyn Fn() -> bool) -> Result<(), PortableError> {
    let mut asked_at = 0;
    write_rows(view, |table, key, value| {
        exporting.writer().row(table, key, value)?;
        let written = exporting.writer().bytes();
        if written >= asked_at + ASK_EVERY_BYTES {
            asked_at = written;
            exporting.look_at_disk()?;
            if !is_wanted() {
                return Err(PortableError::Abandoned);
            }
        }
        Ok(())
    })
}

fn header(view: &View, cluster: ClusterId) -> SnapshotHeader {
    SnapshotHeader {
        format: FORMAT,
        cluster_id: cluster.0,
        index: view.applied.0,
        term: view.term.0,
        conf_state: Some(rows::conf_state_row(&view.conf_state)),
        revision: view.mvcc.revision().0,
        compact_revision: view.mvcc.compact_revision().0,
    }
}

/// Every row that `view` stands for.
fn write_rows(
    view: &View,
    mut write: impl FnMut(Table, &[u8], &[u8]) -> Result<(), PortableError>,
) -> Result<(), PortableError> {
    for op in rows::snapshot_rows(view) {
        if let Op::Put { table, key, value } = op {
            write(table, &key, &value)?;
        }
    }
    let mut failed = None;
    view.mvcc.scan_rows(&mut |key, value| match write(Table::Kv, key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// Fills an empty backend from a snapshot. The applied index is written last: a crash before that leaves a backend that
/// counts as empty.
///
/// # Errors
/// When the file is damaged, or the disk fails.
pub fn fill(file: &SnapshotFile, backend: &dyn Backend) -> Result<(), PortableError> {
    fill_from(file.open()?, backend)
}

/// As [`fill`], from wherever the bytes are.
///
/// # Errors
/// As [`fill`].
pub fn fill_from<R: Read>(mut reader: SnapshotReader<R>, backend: &dyn Backend) -> Result<(), PortableError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;
    use crate::state::{Machine, Outcome};
    use bytes::Bytes;
    use castd_backend_api::{Size, Visit};
    use castd_backend_memory::Memory;
    use castd_proto::castdpb::{RaftRequest, raft_request::Op as RaftOp};
    use castd_proto::etcdserverpb as pb;
    use prost::Message as _;
    use raft::eraftpb::Entry;
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    fn apply(machine: &mut Machine, op: RaftOp) -> Option<Outcome> {
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        let entry = Entry { index: machine.applied().0 + 1, term: Term(2).0, data, ..Default::default() };
        machine.apply(&[entry]).expect("applied").outcomes.remove(0).ok()
    }

    fn put(key: &str, value: String) -> RaftOp {
        RaftOp::Put(pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() })
    }

    /// Keeps batches back on request, and lets one through behind each row that a scan visits.
    #[derive(Default)]
    struct Interleaved {
        rows: Memory,
        keeps_back: AtomicBool,
        kept_back: Mutex<VecDeque<WriteBatch>>,
    }

    impl Backend for Interleaved {
        fn name(&self) -> &'static str {
            "interleaved"
        }

        fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
            if self.keeps_back.load(Ordering::Relaxed) {
                self.kept_back.lock().expect("no panic").push_back(batch.clone());
                return Ok(());
            }
            self.rows.write(batch)
        }

        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
            self.rows.get(table, key)
        }

        fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
            let mut next = Some(from.to_vec());
            while let Some(from) = next.take() {
                let mut flow = ControlFlow::Continue(());
                self.rows.scan(table, &from, to, &mut |key, value| {
                    flow = visit(key, value);
                    next = Some([key, b"\0"].concat());
                    ControlFlow::Break(())
                })?;
                if flow.is_break() {
                    break;
                }
                if let Some(batch) = self.kept_back.lock().expect("no panic").pop_front() {
                    self.rows.write(&batch)?;
                }
            }
            Ok(())
        }

        fn flush(&self) -> Result<(), BackendError> {
            self.rows.flush()
        }

        fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
            self.rows.durable(table, key)
        }

        fn size(&self) -> Result<Size, BackendError> {
            self.rows.size()
        }

        fn reclaim(&self, table: Table) -> Result<(), BackendError> {
            self.rows.reclaim(table)
        }

        fn background_errors(&self) -> Result<(), BackendError> {
            self.rows.background_errors()
        }
    }

    #[test]
    fn an_export_is_the_state_of_its_view_and_is_given_up_when_nobody_wants_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut machine = Machine::open(Arc::new(Memory::new())).expect("opened");
        for key in 0..300 {
            apply(&mut machine, put(&format!("key{key}"), "v".repeat(10_000)));
        }
        let downgrade = pb::DowngradeInfo { enabled: true, target_version: "3.6.0".to_owned() };
        let version = castd_proto::castdpb::ClusterVersion { version: "3.7.0".to_owned() };
        apply(&mut machine, RaftOp::ClusterVersion(version));
        apply(&mut machine, RaftOp::Downgrade(downgrade)).expect("begun");
        let view = machine.view();
        let abandoned = export(dir.path(), &view, ClusterId(7), &|| false);
        assert!(matches!(abandoned, Err(PortableError::Abandoned)), "{abandoned:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);

        let exported = export(dir.path(), &view, ClusterId(7), &|| true).expect("written");
        let data = exported.read(0, usize::MAX).expect("readable");
        let store = SnapshotStore::open(dir.path()).expect("opened");
        let position = LogPosition { index: view.applied, term: view.term };
        let mut incoming = store.receive(position, exported.bytes()).expect("begun");
        incoming.write(&data).expect("written");
        let file = incoming.verify().expect("sound").publish().expect("written");
        let copy = Arc::new(Memory::new());
        fill(&file, copy.as_ref()).expect("filled");
        let copy = Machine::open(copy).expect("opened").view();
        assert_eq!(copy.downgrade.as_deref(), Some("3.6.0"));
        assert_eq!(crate::state::hash(&copy).expect("hashed"), crate::state::hash(&view).expect("hashed"));
    }

    /// A deletion goes before a snapshot reaches it, the puts before it have been copied already: the key must not be back.
    #[test]
    fn a_snapshot_taken_while_compaction_deletes_is_the_state_of_its_view() {
        for rows_at_once in 1..8 {
            let dir = tempfile::tempdir().expect("a directory");
            let store = SnapshotStore::open(dir.path()).expect("opened");
            let backend = Arc::new(Interleaved::default());
            let mut machine = Machine::open(backend.clone()).expect("opened");
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
            let view = machine.view();
            backend.keeps_back.store(true, Ordering::Relaxed);
            while machine.has_compacted_rows() {
                machine.delete_compacted(rows_at_once).expect("deleted");
            }
            assert!(!backend.kept_back.lock().expect("no panic").is_empty(), "nothing was deleted");
            take(&store, &view, ClusterId(7)).expect("taken");

            let (file, _) = store.newest_sound(|_| true).expect("readable").expect("there is one");
            let copy = Arc::new(Memory::new());
            fill(&file, copy.as_ref()).expect("filled");
            let copy = Machine::open(copy).expect("opened");
            assert_eq!(copy.applied(), machine.applied());
            assert_eq!(copy.revision(), machine.revision());
            let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
            let read = |view: &View| view.mvcc.range(&all).expect("read").kvs;
            assert_eq!(read(&copy.view()), read(&view), "with {rows_at_once} rows deleted at once");
            let hash = |view: &View| view.mvcc.hash_kv(0).expect("hashed");
            assert_eq!(hash(&copy.view()), hash(&view));
        }
    }
}
