//! Rows in RocksDB, the default backend.
//!
//! ```text
//!   write ──▶ memtable ──flush──▶ level 0 ──compaction──▶ lower levels
//!             └── lost in a crash: the raft log has it    └── what `durable` answers from
//! ```
//!
//! Its own log is off: a batch reaches the disk with the memtable it is in, and memtables are flushed in the order they
//! were filled, so what a crash leaves is always a prefix of the batches. One column family holds all tables, told apart
//! by the first byte of the key, so a flush cannot tear a batch either.

mod manifest;
mod open;
mod options;
mod row_counts;

pub use options::Options;

use bytes::Bytes;
use castd_backend_api::{Backend, BackendError, Op, OpenError, RowKey, Size, Table, Visit, WriteBatch};
use rocksdb::{CompactOptions, DB, ErrorKind, FlushOptions, ReadOptions, ReadTier, WriteOptions, properties};
use row_counts::RowCounts;
use std::ops::ControlFlow;
use std::path::Path;

const ENGINE: &str = "rocksdb";
/// Keys looked up in one call: each value pins its block until the call's results are dropped.
const LOOKUP_KEYS_MAX: usize = 256;
/// What a batch's representation adds to a row: kind, two lengths, the table's prefix.
const BATCH_ROW_OVERHEAD_BYTES: usize = 12;

/// The backend on RocksDB.
pub struct RocksDb {
    db: DB,
    write: WriteOptions,
    read: ReadOptions,
    /// Sees files on disk, never a memtable.
    read_persisted: ReadOptions,
}

impl RocksDb {
    /// Opens the store in `path`, which is created if need be.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] if files are damaged or missing.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let db = open::open(path, options)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        let mut read_persisted = ReadOptions::default();
        read_persisted.set_read_tier(ReadTier::Persisted);
        Ok(Self { db, write, read: ReadOptions::default(), read_persisted })
    }

    fn lookup(&self, table: Table, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, BackendError> {
        let found = self.db.get_pinned_opt(RowKey::new(table, key), options).map_err(failed("get"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn property(&self, name: &properties::PropName) -> Result<u64, BackendError> {
        Ok(self.db.property_int_value(name).map_err(failed("property"))?.unwrap_or(0))
    }
}

fn failed(operation: &'static str) -> impl Fn(rocksdb::Error) -> BackendError {
    move |error| match error.kind() {
        ErrorKind::Corruption => BackendError::Corrupt { engine: ENGINE, detail: error.into_string() },
        _ => BackendError::Engine { engine: ENGINE, operation, source: Box::new(error) },
    }
}

impl Backend for RocksDb {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
        let bytes = batch.bytes() + batch.ops().len() * BATCH_ROW_OVERHEAD_BYTES;
        let mut rows = rocksdb::WriteBatch::with_capacity_bytes(bytes);
        for op in batch.ops() {
            match op {
                Op::Put { table, key, value } => rows.put(RowKey::new(*table, key), value),
                Op::Delete { table, key } => rows.delete(RowKey::new(*table, key)),
            }
        }
        self.db.write_opt(rows, &self.write).map_err(failed("write"))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.lookup(table, key, &self.read)
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, BackendError> {
        if let [key] = keys {
            return Ok(vec![self.get(table, key)?]);
        }
        let Some(column_family) = self.db.cf_handle(rocksdb::DEFAULT_COLUMN_FAMILY_NAME) else {
            return keys.iter().map(|key| self.get(table, key)).collect();
        };
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(LOOKUP_KEYS_MAX) {
            let sorted = keys.is_sorted();
            let keys: Vec<RowKey> = keys.iter().map(|key| RowKey::new(table, key)).collect();
            for value in self.db.batched_multi_get_cf_opt(column_family, &keys, sorted, &self.read) {
                found.push(value.map_err(failed("get"))?.map(|value| Bytes::copy_from_slice(&value)));
            }
        }
        Ok(found)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        // Scans pass over rows once: they read ahead by themselves, and must not push out what point reads come back to.
        options.fill_cache(false);
        options.set_iterate_upper_bound(RowKey::scan_end(table, to).to_vec());
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(RowKey::new(table, from));
        while let Some((key, value)) = rows.item() {
            if visit(&key[1..], value) == ControlFlow::Break(()) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(failed("scan"))
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.db.flush_opt(&FlushOptions::default()).map_err(failed("flush"))
    }

    fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.lookup(table, key, &self.read_persisted)
    }

    fn size(&self) -> Result<Size, BackendError> {
        let memtables = self.property(properties::CUR_SIZE_ALL_MEM_TABLES)?;
        let allocated_bytes = self.property(properties::TOTAL_SST_FILES_SIZE)? + memtables;
        let mut rows = RowCounts {
            entries: self.property(properties::NUM_ENTRIES_ACTIVE_MEM_TABLE)?
                + self.property(properties::NUM_ENTRIES_IMM_MEM_TABLES)?,
            deletions: self.property(properties::NUM_DELETES_ACTIVE_MEM_TABLE)?
                + self.property(properties::NUM_DELETES_IMM_MEM_TABLES)?,
        };
        let tables = self.db.property_value(properties::AGGREGATED_TABLE_PROPERTIES).map_err(failed("property"))?;
        rows.add_tables(tables.as_deref().unwrap_or_default());
        Ok(Size { allocated_bytes, in_use_bytes: rows.live_part_of(allocated_bytes) })
    }

    /// Compacts the table level by level. Automatic compactions go on beside it, so level 0 does not fill up behind it;
    /// files in the lowest level that no tombstone reaches are left alone.
    fn reclaim(&self, table: Table) -> Result<(), BackendError> {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_opt(Some(RowKey::new(table, b"")), Some(RowKey::scan_end(table, b"")), &options);
        self.background_errors()
    }

    fn background_errors(&self) -> Result<(), BackendError> {
        match self.property(properties::BACKGROUND_ERRORS)? {
            0 => Ok(()),
            count => Err(BackendError::Engine {
                engine: ENGINE,
                operation: "flush or compaction in the background",
                source: format!("{count} errors, see the LOG file in its directory").into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
