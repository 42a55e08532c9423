//! Rows in RAM: the state comes back from snapshot and raft log, never from here.
//!
//! ```text
//!   write ──one lock──▶ six ordered maps ◀──shared lock, released every few hundred rows── get / scan
//! ```
//!
//! Nothing touches the disk, so nothing is ever durable.

mod small_key;

use bytes::Bytes;
use castd_backend_api::{Backend, BackendError, Op, Size, Table, Visit, WriteBatch};
use parking_lot::RwLock;
use small_key::SmallKey;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, ControlFlow};

/// What a row costs beside its bytes: two handles, the allocator's headers, and the map's nodes, which are two thirds full.
const ROW_OVERHEAD_BYTES: u64 = 112;
/// A scan looks at so many rows before it lets a waiting writer in.
const SCAN_CHUNK_ROWS: usize = 256;

/// The backend that keeps its rows in RAM.
#[derive(Default)]
pub struct Memory {
    rows: RwLock<Rows>,
}

#[derive(Default)]
struct Rows {
    tables: [BTreeMap<SmallKey, Bytes>; Table::ALL.len()],
    count: u64,
    bytes: u64,
}

/// A change with its own copies, made before the lock is taken: a row must not keep the network buffer alive that its
/// key and value were cut from.
struct Change {
    table: Table,
    key: SmallKey,
    value: Option<Bytes>,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }
}

const fn slot(table: Table) -> usize {
    match table {
        Table::Alarm => 0,
        Table::Kv => 1,
        Table::Lease => 2,
        Table::Meta => 3,
        Table::Member => 4,
        Table::Request => 5,
        Table::Auth => 6,
    }
}

impl Rows {
    fn table(&self, table: Table) -> &BTreeMap<SmallKey, Bytes> {
        &self.tables[slot(table)]
    }

    /// Returns the value it displaced, so that the caller frees it without the lock.
    fn change(&mut self, change: Change) -> Option<Bytes> {
        let table = &mut self.tables[slot(change.table)];
        let key_bytes = change.key.len() as u64;
        match (change.value, table.entry(change.key)) {
            (Some(value), Entry::Vacant(row)) => {
                self.count += 1;
                self.bytes += key_bytes + value.len() as u64;
                row.insert(value);
                None
            }
            (Some(value), Entry::Occupied(mut row)) => {
                self.bytes += value.len() as u64;
                let old = row.insert(value);
                self.bytes -= old.len() as u64;
                Some(old)
            }
            (None, Entry::Vacant(_)) => None,
            (None, Entry::Occupied(row)) => {
                let old = row.remove();
                self.count -= 1;
                self.bytes -= key_bytes + old.len() as u64;
                Some(old)
            }
        }
    }
}

impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
        let changes: Vec<Change> = batch
            .ops()
            .iter()
            .map(|op| match op {
                Op::Put { table, key, value } => {
                    Change { table: *table, key: SmallKey::new(key), value: Some(Bytes::copy_from_slice(value)) }
                }
                Op::Delete { table, key } => Change { table: *table, key: SmallKey::new(key), value: None },
            })
            .collect();
        let mut displaced = Vec::with_capacity(changes.len());
        let mut rows = self.rows.write();
        displaced.extend(changes.into_iter().map(|change| rows.change(change)));
        drop(rows);
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.rows.read().table(table).get(key).cloned())
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, BackendError> {
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(SCAN_CHUNK_ROWS) {
            let rows = self.rows.read();
            let table = rows.table(table);
            found.extend(chunk.iter().map(|key| table.get(*key).cloned()));
        }
        Ok(found)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let mut chunk: Vec<(SmallKey, Bytes)> = Vec::with_capacity(SCAN_CHUNK_ROWS);
        // Short scans are the rule: the first chunk is small.
        let mut chunk_rows = SCAN_CHUNK_ROWS / 16;
        let mut last: Option<SmallKey> = None;
        loop {
            let start = last.as_deref().map_or(Bound::Included(from), Bound::Excluded);
            {
                let rows = self.rows.read();
                let range = rows.table(table).range::<[u8], _>((start, end));
                chunk.extend(range.take(chunk_rows).map(|(key, value)| (key.clone(), value.clone())));
            }
            for (key, value) in &chunk {
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            if chunk.len() < chunk_rows {
                return Ok(());
            }
            last = chunk.pop().map(|(key, _)| key);
            chunk.clear();
            chunk_rows = SCAN_CHUNK_ROWS;
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn durable(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(None)
    }

    fn size(&self) -> Result<Size, BackendError> {
        let rows = self.rows.read();
        let allocated_bytes = rows.bytes + rows.count * ROW_OVERHEAD_BYTES;
        Ok(Size { allocated_bytes, in_use_bytes: allocated_bytes })
    }

    /// Deleted rows are given back at once.
    fn reclaim(&self, _: Table) -> Result<(), BackendError> {
        Ok(())
    }

    fn background_errors(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_backend_api::contract::{Engine, Promises};
    use std::path::Path;
    use std::sync::Arc;

    struct Subject;

    impl Engine for Subject {
        const PROMISES: Promises = Promises { survives_reopening: false, shrinks: true };

        fn open(_: &Path) -> Result<Arc<dyn Backend>, castd_backend_api::OpenError> {
            Ok(Arc::new(Memory::new()))
        }
    }

    castd_backend_api::contract_tests!(Subject);

    #[test]
    fn a_row_does_not_keep_the_buffer_alive_it_was_cut_from() {
        let memory = Memory::new();
        let buffer = Bytes::from(vec![1; 1 << 20]);
        let mut batch = WriteBatch::new();
        batch.put(Table::Kv, buffer.slice(0..30), buffer.slice(30..60));
        memory.write(&batch).unwrap();
        drop(batch);
        assert!(buffer.is_unique());
    }

    #[test]
    fn size_counts_every_row_once() {
        let memory = Memory::new();
        let mut batch = WriteBatch::new();
        batch.put(Table::Kv, "key", "value");
        batch.put(Table::Kv, "key", "other value");
        batch.put(Table::Meta, "key", "value");
        memory.write(&batch).unwrap();
        assert_eq!(memory.size().unwrap().allocated_bytes, 3 + 11 + 3 + 5 + 2 * ROW_OVERHEAD_BYTES);
        let mut batch = WriteBatch::new();
        batch.delete(Table::Kv, "key");
        batch.delete(Table::Kv, "key");
        batch.delete(Table::Meta, "key");
        memory.write(&batch).unwrap();
        assert_eq!(memory.size().unwrap(), Size::default());
    }
}
