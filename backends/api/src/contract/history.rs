//! A history of batches that can be told from any of its prefixes: what crash and damage tests write and judge by.
//!
//! Batch `n` sets `applied` to `n`, so a store names the prefix it claims to be, and every other row checks the claim.

use super::{Contents, contents, noise, revision_key};
use crate::{Backend, BackendError, Op, Table, WriteBatch};

const APPLIED: &[u8] = b"applied";
/// Every so often a value that sled keeps in a file of its own.
const LARGE_EVERY: u64 = 60;
const LARGE_BYTES: usize = 300 << 10;

/// The `n`th batch, counted from 1.
pub fn batch(n: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, APPLIED, n.to_be_bytes().to_vec());
    let length = if n.is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { (n * 37 % 700) as usize };
    for sub in 0..3 {
        batch.put(Table::Kv, revision_key(n, sub), noise(n * 3 + sub, length));
    }
    if n > 8 && n.is_multiple_of(2) {
        batch.delete(Table::Kv, revision_key(n - 8, 1));
        batch.delete(Table::Kv, revision_key(n - 7, 0));
    }
    batch.put(Table::Lease, vec![(n % 7) as u8], n.to_be_bytes().to_vec());
    if n.is_multiple_of(5) {
        batch.delete(Table::Lease, vec![((n + 3) % 7) as u8]);
    }
    batch
}

/// What a store holds after the first `count` batches.
pub fn state_after(count: u64) -> Contents {
    let mut rows = Contents::new();
    for n in 1..=count {
        for op in batch(n).ops() {
            match op {
                Op::Put { table, key, value } => rows.insert((*table, key.to_vec()), value.to_vec()),
                Op::Delete { table, key } => rows.remove(&(*table, key.to_vec())),
            };
        }
    }
    rows
}

/// The number of batches `backend` says it holds.
pub fn applied(backend: &dyn Backend) -> Result<u64, BackendError> {
    Ok(decode(backend.get(Table::Meta, APPLIED)?.as_deref()))
}

/// The number of batches that `backend` says a crash would leave.
pub fn durable(backend: &dyn Backend) -> Result<u64, BackendError> {
    Ok(decode(backend.durable(Table::Meta, APPLIED)?.as_deref()))
}

fn decode(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().expect("applied has eight bytes")))
}

/// Reads all of `backend` and returns how many batches it holds.
///
/// # Panics
/// If it holds part of a batch, or is not a prefix of the history.
pub fn check(backend: &dyn Backend) -> Result<u64, BackendError> {
    let count = applied(backend)?;
    let (found, expected) = (contents(backend)?, state_after(count));
    for (row, value) in &expected {
        assert_eq!(found.get(row), Some(value), "row {row:?} after {count} batches");
    }
    for row in found.keys() {
        assert!(expected.contains_key(row), "row {row:?} does not belong to the first {count} batches");
    }
    Ok(count)
}
