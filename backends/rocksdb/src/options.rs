//! How RocksDB is set up: little memory, two background threads, and compaction that follows deletions.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel};

/// Tombstones in so many consecutive rows…
const TOMBSTONE_WINDOW_ROWS: usize = 16 << 10;
/// …that make a file worth compacting soon.
const TOMBSTONES_IN_WINDOW: usize = 8 << 10;
const TOMBSTONE_RATIO: f64 = 0.5;

/// What may be chosen per deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Blocks kept uncompressed in RAM. What does not fit is still in the kernel's page cache.
    pub cache_bytes: usize,
    /// Rows gathered in RAM before they are written out; up to three of these exist while the disk is slow.
    pub memtable_bytes: usize,
    /// Rows read and decompressed together. At 8 KiB a row outside the cache costs half of what it costs at 16 KiB, and the
    /// index, which stays in RAM, is still below a hundredth of the data.
    pub block_bytes: usize,
    /// Flushes and compactions at a time.
    pub background_jobs: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, memtable_bytes: 32 << 20, block_bytes: 8 << 10, background_jobs: 2 }
    }
}

impl Options {
    pub(crate) fn engine(&self) -> rocksdb::Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_size(self.block_bytes);
        blocks.set_block_cache(&Cache::new_lru_cache(self.cache_bytes));
        blocks.set_format_version(6);

        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(self.memtable_bytes);
        options.set_max_write_buffer_number(3);
        options.set_max_background_jobs(i32::from(self.background_jobs).max(2));
        // Written out steadily, or one fsync at the end of a file holds up the raft log's on the same disk.
        options.set_bytes_per_sync(1 << 20);
        options.add_compact_on_deletion_collector_factory(TOMBSTONE_WINDOW_ROWS, TOMBSTONES_IN_WINDOW, TOMBSTONE_RATIO);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }
}
