//! What every backend owes, as tests: one suite that each engine runs over itself.
//!
//! ```ignore
//! struct Subject;
//! impl Engine for Subject { … }
//! castd_backend_api::contract_tests!(Subject);
//! ```
//!
//! - [`rows`]: reading and writing, bounds and order, readers beside a writer
//! - [`disk`]: flush, what is durable, reopening, giving space back
//! - [`crash`]: a child process that is killed while it writes
//! - [`damage`]: every file cut, emptied, removed and flipped
//! - [`model`]: random batches against a map
//!
//! Losing power is not among them: a kill keeps what the kernel holds. The simulator covers that for the core.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod crash;
pub mod damage;
pub mod disk;
pub mod history;
pub mod model;
pub mod rows;

use crate::{Backend, OpenError, Table, WriteBatch};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// What differs from engine to engine.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// Rows are still there when the path is opened again.
    pub survives_reopening: bool,
    /// [`Backend::reclaim`] makes the size shrink.
    pub shrinks: bool,
}

/// An engine under test.
pub trait Engine {
    const PROMISES: Promises;

    fn open(path: &Path) -> Result<Arc<dyn Backend>, OpenError>;
}

/// Expands to one `#[test]` for each clause of the contract.
#[macro_export]
macro_rules! contract_tests {
    ($engine:ty) => {
        mod contract {
            use super::*;

            $crate::contract_tests!(@each $engine,
                rows: what_was_written_is_read_back,
                rows: the_last_operation_on_a_row_wins_within_a_batch,
                rows: tables_do_not_see_each_other,
                rows: an_empty_batch_changes_nothing,
                rows: a_scan_is_ordered_and_keeps_to_its_bounds,
                rows: a_scan_stops_where_the_visitor_says,
                rows: many_rows_are_answered_in_the_order_they_were_asked_for,
                rows: long_keys_and_values_are_kept,
                rows: a_published_revision_stays_readable_while_later_ones_are_written,
                rows: a_visitor_may_read_while_a_writer_waits,
                disk: rows_survive_reopening,
                disk: a_flushed_row_becomes_durable,
                disk: nothing_is_durable_before_the_first_flush,
                disk: a_flush_beside_a_writer_never_shows_a_row_from_the_future,
                disk: size_grows_and_shrinks_while_a_writer_goes_on,
                disk: a_healthy_engine_reports_no_background_errors,
                damage: a_damaged_file_is_reported_or_leaves_whole_batches,
                model: random_batches_match_a_map,
            );

            #[test]
            fn a_kill_leaves_whole_batches_and_all_that_was_flushed() {
                $crate::contract::crash::a_kill_leaves_whole_batches_and_all_that_was_flushed::<$engine>(concat!(
                    module_path!(),
                    "::the_child_that_is_killed"
                ));
            }

            /// Does nothing unless the test above started it.
            #[test]
            fn the_child_that_is_killed() {
                $crate::contract::crash::child::<$engine>();
            }
        }
    };
    (@each $engine:ty, $($group:ident: $name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                $crate::contract::$group::$name::<$engine>();
            }
        )*
    };
}

/// Everything in `backend`, by table and key.
type Contents = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn contents(backend: &dyn Backend) -> Result<Contents, crate::BackendError> {
    let mut rows = Contents::new();
    for table in Table::ALL {
        for (key, value) in scan(backend, table, b"", b"")? {
            rows.insert((table, key), value);
        }
    }
    Ok(rows)
}

type Row = (Vec<u8>, Vec<u8>);

fn scan(backend: &dyn Backend, table: Table, from: &[u8], to: &[u8]) -> Result<Vec<Row>, crate::BackendError> {
    let mut rows = Vec::new();
    backend.scan(table, from, to, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

fn fresh<E: Engine>() -> (tempfile::TempDir, Arc<dyn Backend>) {
    let dir = tempfile::tempdir().unwrap();
    let backend = E::open(&dir.path().join("state")).unwrap();
    (dir, backend)
}

fn put(backend: &dyn Backend, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
    let mut batch = WriteBatch::new();
    batch.put(table, key, value);
    backend.write(&batch).unwrap();
}

/// A row of `Kv` as the store names them: main and sub revision.
fn revision_key(main: u64, sub: u64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()[..]].concat()
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
