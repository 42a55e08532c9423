//! The key-value store's random walk against its model, over every engine, closed and opened again in between; at the end
//! all engines hold the same history.

use super::{StorageKind, Tuning, open_backend};
use crate::mvcc::model;
use castd_backend_api::Backend;
use std::sync::Arc;

const WALKS: u64 = 24;
const STEPS: u64 = 120;

/// Memory keeps what it has: it is its files.
fn walk_on(kind: StorageKind, seed: u64) -> crate::mvcc::HashKv {
    let dir = tempfile::tempdir().expect("a directory");
    let entropy: Vec<u64> = (0..STEPS).map(|step| (seed * STEPS + step).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let mut reopen = |before: Option<Arc<dyn Backend>>| {
        if let Some(backend) = before {
            if kind == StorageKind::Memory {
                return backend;
            }
            backend.flush().expect("flushed");
            assert_eq!(Arc::strong_count(&backend), 1, "somebody else still holds the store");
        }
        open_backend(kind, &dir.path().join("state"), Tuning::default()).expect("opened")
    };
    model::walk(&mut reopen, &entropy)
}

#[test]
fn every_engine_follows_the_model_and_ends_with_the_same_hash() {
    let kinds: Vec<StorageKind> = StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in()).collect();
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..WALKS {
        let on_memory = walk_on(StorageKind::Memory, seed);
        hashes.insert(on_memory.hash);
        for kind in &kinds {
            assert_eq!(walk_on(*kind, seed), on_memory, "{kind}, seed {seed}");
        }
    }
    assert!(hashes.len() as u64 > WALKS / 2, "the walks hardly differ");
}
