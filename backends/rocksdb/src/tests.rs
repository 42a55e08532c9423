//! What is particular to this engine; the rest is in the contract.

use super::*;
use castd_backend_api::contract::{Engine, Promises};
use std::sync::Arc;

struct Subject;

impl Engine for Subject {
    const PROMISES: Promises = Promises { survives_reopening: true, shrinks: true };

    fn open(path: &Path) -> Result<Arc<dyn Backend>, OpenError> {
        let options = Options { cache_bytes: 1 << 20, memtable_bytes: 1 << 20, ..Options::default() };
        Ok(Arc::new(RocksDb::open(path, &options)?))
    }
}

castd_backend_api::contract_tests!(Subject);

fn numbered(range: std::ops::Range<u64>, value: &[u8]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for n in range {
        batch.put(Table::Kv, n.to_be_bytes().to_vec(), value.to_vec());
    }
    batch
}

#[test]
fn one_flush_is_enough_to_be_durable_and_a_full_memtable_needs_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = Subject::open(dir.path()).unwrap();
    store.write(&numbered(0..1, b"value")).unwrap();
    assert_eq!(store.durable(Table::Kv, &0u64.to_be_bytes()).unwrap(), None);
    store.flush().unwrap();
    assert_eq!(store.durable(Table::Kv, &0u64.to_be_bytes()).unwrap().as_deref(), Some(&b"value"[..]));
    let mut next = 1;
    while store.durable(Table::Kv, &1u64.to_be_bytes()).unwrap().is_none() {
        store.write(&numbered(next..next + 100, &[7; 1000])).unwrap();
        next += 100;
        assert!(next < 100_000, "a memtable of 1 MiB never reached the disk");
    }
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

#[test]
fn a_store_whose_entry_point_is_gone_is_corrupt_and_keeps_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = Subject::open(dir.path()).unwrap();
    store.write(&numbered(0..10, b"value")).unwrap();
    drop(store);
    let tables = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".sst")).count()
    };
    assert_eq!(tables(), 1);
    std::fs::remove_file(dir.path().join("CURRENT")).unwrap();
    assert!(matches!(Subject::open(dir.path()), Err(OpenError::Corrupt { .. })));
    assert_eq!(tables(), 1);
}

/// Not a test of speed on busy machines: the bound is a tenth of what an idle core does.
#[test]
fn a_full_scan_passes_many_rows_a_second() {
    const ROWS: u64 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let store = RocksDb::open(dir.path(), &Options::default()).unwrap();
    for chunk in 0..ROWS / 1000 {
        store.write(&numbered(chunk * 1000..(chunk + 1) * 1000, &[chunk as u8; 256])).unwrap();
    }
    store.flush().unwrap();
    let mut rows = 0;
    #[expect(clippy::disallowed_methods, reason = "measures a duration")]
    let started = std::time::Instant::now();
    store
        .scan(Table::Kv, b"", b"", &mut |_, value| {
            rows += u64::from(value.len() == 256);
            ControlFlow::Continue(())
        })
        .unwrap();
    let elapsed = started.elapsed();
    assert_eq!(rows, ROWS);
    assert!(elapsed.as_secs_f64() < ROWS as f64 / 150_000.0, "{ROWS} rows took {elapsed:?}");
}

#[test]
fn deleted_rows_leave_the_size_in_use_before_they_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Subject::open(dir.path()).unwrap();
    store.write(&numbered(0..1000, &[7; 100])).unwrap();
    store.flush().unwrap();
    let full = store.size().unwrap();
    assert_eq!(full.in_use_bytes, full.allocated_bytes);
    let mut batch = WriteBatch::new();
    for n in 0..500u64 {
        batch.delete(Table::Kv, n.to_be_bytes().to_vec());
    }
    store.write(&batch).unwrap();
    store.flush().unwrap();
    let half = store.size().unwrap();
    assert!(half.allocated_bytes >= full.allocated_bytes, "{full:?} then {half:?}");
    assert!(half.in_use_bytes < half.allocated_bytes * 6 / 10, "{half:?}");
}
