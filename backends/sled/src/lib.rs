//! Rows in sled 0.34, for those who want a backend without C++.
//!
//! ```text
//!   write ──▶ sled's buffers ──its flusher, every 500 ms──▶ file, perhaps not on the platter
//!   flush ──▶ sled's flush, then fsync of every file by us ──▶ remembers what Meta held when it began
//! ```
//!
//! One tree holds all tables, told apart by the first byte of the key, because a batch is crash-atomic within a tree
//! only. sled's own flusher stays on, its garbage collection lives there. sled's `flush` is no fsync on Linux
//! (`sync_file_range`, and nothing for blobs and directories), so we sync its files ourselves, and even then the log is
//! kept back to the flush before: `durable` answers with the last but one.
//!
//! All this is for a store that is closed. After a power failure sled may open with batches torn, and say nothing: whoever
//! opens it has to know that it was closed ([`settle_files`]).

mod open;
mod sync;

use bytes::Bytes;
use castd_backend_api::{Backend, BackendError, Op, OpenError, RowKey, Size, Table, Visit, WriteBatch};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use sync::Files;
pub use sync::settle_files;

const ENGINE: &str = "sled";

/// What may be chosen per deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pages kept in RAM.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// The backend on sled.
pub struct Sled {
    tree: sled::Db,
    flushes: Mutex<Flushes>,
    /// `Meta` as of the last but one flush.
    durable: RwLock<MetaRows>,
}

type MetaRows = BTreeMap<Vec<u8>, Bytes>;

struct Flushes {
    files: Files,
    /// `Meta` when the last flush began.
    last: MetaRows,
}

impl Sled {
    /// Opens the store in `path`, which is created if need be.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] if files are damaged. Some damage makes sled panic; that is reported in the same way where
    /// the process's panic hook returns, and otherwise it is for the caller to notice that opening never ended.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let tree = open::open(path, options)?;
        let files = Files::of(path).map_err(|error| OpenError::Unusable {
            engine: ENGINE,
            path: path.to_owned(),
            detail: error.to_string(),
        })?;
        let flushes = Mutex::new(Flushes { files, last: MetaRows::new() });
        Ok(Self { tree, flushes, durable: RwLock::default() })
    }
}

fn failed(operation: &'static str) -> impl Fn(sled::Error) -> BackendError {
    move |error| {
        if open::is_damage(&error) {
            BackendError::Corrupt { engine: ENGINE, detail: error.to_string() }
        } else {
            BackendError::Engine { engine: ENGINE, operation, source: Box::new(error) }
        }
    }
}

impl Backend for Sled {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
        let mut rows = sled::Batch::default();
        for op in batch.ops() {
            match op {
                Op::Put { table, key, value } => rows.insert(&*RowKey::new(*table, key), &value[..]),
                Op::Delete { table, key } => rows.remove(&*RowKey::new(*table, key)),
            }
        }
        self.tree.apply_batch(rows).map_err(failed("write"))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        let found = self.tree.get(RowKey::new(table, key)).map_err(failed("get"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        for row in self.tree.range(RowKey::new(table, from).as_ref()..RowKey::scan_end(table, to).as_ref()) {
            let (key, value) = row.map_err(failed("scan"))?;
            if visit(&key[1..], &value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        // One at a time: each remembers what the one before made durable.
        let mut flushes = self.flushes.lock();
        let mut meta = MetaRows::new();
        self.scan(Table::Meta, b"", b"", &mut |key, value| {
            meta.insert(key.to_vec(), Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        self.tree.flush().map_err(failed("flush"))?;
        flushes.files.sync().map_err(|error| BackendError::Engine {
            engine: ENGINE,
            operation: "fsync",
            source: Box::new(error),
        })?;
        *self.durable.write() = std::mem::replace(&mut flushes.last, meta);
        Ok(())
    }

    /// Answers for [`Table::Meta`] only, the table that says how far the store has come.
    fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(if table == Table::Meta { self.durable.read().get(key).cloned() } else { None })
    }

    /// sled does not say how much of its file is live.
    fn size(&self) -> Result<Size, BackendError> {
        let allocated_bytes = self.tree.size_on_disk().map_err(failed("size"))?;
        Ok(Size { allocated_bytes, in_use_bytes: allocated_bytes })
    }

    /// sled's flusher moves rows out of sparse segments by itself, and writes into the freed ones.
    fn reclaim(&self, _: Table) -> Result<(), BackendError> {
        Ok(())
    }

    /// What its flusher meets, sled returns from the next write or flush.
    fn background_errors(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_backend_api::contract::{Engine, Promises};
    use std::sync::Arc;

    struct Subject;

    impl Engine for Subject {
        const PROMISES: Promises = Promises { survives_reopening: true, shrinks: false };

        fn open(path: &Path) -> Result<Arc<dyn Backend>, OpenError> {
            Ok(Arc::new(Sled::open(path, &Options::default())?))
        }
    }

    castd_backend_api::contract_tests!(Subject);

    fn set(store: &dyn Backend, value: &'static str) {
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, "applied", value);
        batch.put(Table::Kv, "applied", value);
        store.write(&batch).unwrap();
    }

    #[test]
    fn durable_is_what_the_last_but_one_flush_began_with() {
        let dir = tempfile::tempdir().unwrap();
        let durable = |store: &dyn Backend| store.durable(Table::Meta, b"applied").unwrap().map(|value| value.to_vec());
        let store = Subject::open(dir.path()).unwrap();
        set(&*store, "one");
        store.flush().unwrap();
        assert_eq!(durable(&*store), None);
        set(&*store, "two");
        store.flush().unwrap();
        assert_eq!(durable(&*store).as_deref(), Some(&b"one"[..]));
        set(&*store, "three");
        assert_eq!(durable(&*store).as_deref(), Some(&b"one"[..]));
        store.flush().unwrap();
        assert_eq!(durable(&*store).as_deref(), Some(&b"two"[..]));
        assert_eq!(store.durable(Table::Kv, b"applied").unwrap(), None, "only Meta is answered for");
        // A new process has seen no flush: it does not take the files' word for it.
        drop(store);
        assert_eq!(durable(&*Subject::open(dir.path()).unwrap()), None);
    }

    #[test]
    fn a_store_in_use_and_a_path_that_is_a_file_are_not_called_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Subject::open(dir.path()).unwrap();
        assert!(matches!(Subject::open(dir.path()), Err(OpenError::Unusable { .. })));
        let file = dir.path().join("file");
        std::fs::write(&file, "not a directory").unwrap();
        assert!(matches!(Subject::open(&file), Err(OpenError::Unusable { .. })));
    }
}
