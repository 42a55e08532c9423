//! A hash that rolls along with the log: what every entry did to the state, from the first one on.
//!
//! ```text
//!   hash(i) = mix(hash(i - 1), index, term, whether it succeeded, its changes of rows in order)
//! ```
//! Two members whose hashes at one index are equal have done the same. It does not depend on how the log was cut into
//! slices, on when compacted rows are deleted, or on the backend; it is kept with the applied index, so restarts and
//! snapshots carry it on. Members compare it at [`Checkpoints`] that they remember, because each is at another index.
//!
//! It follows what is written. A row that changes by itself on a disk is found once an entry builds on it; HashKV, which
//! reads all rows, finds it sooner (`consistency`).
//!
//! The definition is part of what members say to each other: another one needs another [`SCHEME`], and an entry of the log
//! from which on it holds.

use crate::raft::terms::LogPosition;
use castd_backend_api::{Op, Table};
use std::collections::VecDeque;
use std::sync::Arc;

/// Which definition of the hash this is: hashes of different ones are not compared.
pub const SCHEME: u32 = 1;
/// Entries between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 1_000;
/// Checkpoints that are remembered: members may be so far apart and still find one in common.
pub const CHECKPOINTS: usize = 128;

/// The hash as of one applied index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateHash(pub u64);

impl StateHash {
    /// After the entry at `position`, which did `changes`.
    pub fn next(self, position: LogPosition, succeeded: bool, changes: &[Op]) -> StateHash {
        let mut sum = 0;
        for change in changes {
            sum = match change {
                Op::Put { table, key, value } => add(add_head(sum, b'p', *table, key, value.len()), key, value),
                Op::Delete { table, key } => add(add_head(sum, b'd', *table, key, 0), key, &[]),
            };
        }
        let what = u64::from(sum) << 1 | u64::from(succeeded);
        StateHash([position.index.0, position.term.0, what].into_iter().fold(self.0, mix))
    }
}

/// So that the end of a key is never taken for the beginning of a value.
fn add_head(sum: u32, kind: u8, table: Table, key: &[u8], value_bytes: usize) -> u32 {
    let mut head = [0; 18];
    head[0] = kind;
    head[1] = table as u8;
    head[2..10].copy_from_slice(&(key.len() as u64).to_be_bytes());
    head[10..].copy_from_slice(&(value_bytes as u64).to_be_bytes());
    crc32c::crc32c_append(sum, &head)
}

fn add(sum: u32, key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(sum, key), value)
}

/// One to one for each `number`, so that states that differ stay different; the steps are those of SplitMix64.
fn mix(hash: u64, number: u64) -> u64 {
    let mut mixed = hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The hash at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashPoint {
    pub index: u64,
    pub hash: StateHash,
}

/// The hashes at the last indexes that are multiples of `CHECKPOINT_EVERY`, ascending. As of this process: a restart begins
/// anew. Cheap to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints(Arc<VecDeque<HashPoint>>);

impl Checkpoints {
    /// The entry at `index` has been applied.
    pub fn applied(&mut self, index: u64, hash: StateHash) {
        if !index.is_multiple_of(CHECKPOINT_EVERY) {
            return;
        }
        let points = Arc::make_mut(&mut self.0);
        if points.len() == CHECKPOINTS {
            points.pop_front();
        }
        points.push_back(HashPoint { index, hash });
    }

    pub fn iter(&self) -> impl Iterator<Item = HashPoint> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn put(table: Table, key: &'static str, value: &'static str) -> Op {
        Op::Put { table, key: key.into(), value: value.into() }
    }

    #[test]
    fn the_hash_tells_apart_whatever_an_entry_may_do() {
        let at = |index, term| LogPosition::new(index, term);
        let delete = |key: &'static str| Op::Delete { table: Table::Kv, key: key.into() };
        let ab = || put(Table::Kv, "a", "b");
        let variants: Vec<(LogPosition, bool, Vec<Op>)> = vec![
            (at(1, 1), true, vec![]),
            (at(2, 1), true, vec![]),
            (at(1, 2), true, vec![]),
            (at(1, 1), false, vec![]),
            (at(1, 1), true, vec![ab()]),
            (at(1, 1), true, vec![put(Table::Lease, "a", "b")]),
            (at(1, 1), true, vec![put(Table::Kv, "ab", "")]),
            (at(1, 1), true, vec![put(Table::Kv, "", "ab")]),
            (at(1, 1), true, vec![delete("a")]),
            (at(1, 1), true, vec![delete("ab")]),
            (at(1, 1), true, vec![ab(), delete("a")]),
            (at(1, 1), true, vec![delete("a"), ab()]),
        ];
        let mut hashes = BTreeSet::new();
        for before in [StateHash(0), StateHash(1), StateHash(u64::MAX)] {
            for (position, succeeded, changes) in &variants {
                let hash = before.next(*position, *succeeded, changes);
                assert!(hashes.insert(hash), "{before:?} {position:?} {changes:?}");
                assert_eq!(hash, before.next(*position, *succeeded, changes));
            }
        }
    }

    /// Members of different releases compare it.
    #[test]
    fn the_definition_does_not_change_unnoticed() {
        let hash = StateHash(0).next(LogPosition::new(1, 1), true, &[put(Table::Kv, "key", "value")]);
        let hash = hash.next(LogPosition::new(2, 1), false, &[Op::Delete { table: Table::Kv, key: "key".into() }]);
        assert_eq!((SCHEME, format!("{:016x}", hash.0)), (1, "67d148f99a9de59f".to_owned()));
    }

    #[test]
    fn the_last_checkpoints_are_remembered() {
        let mut checkpoints = Checkpoints::default();
        let last = (CHECKPOINTS as u64 + 2) * CHECKPOINT_EVERY;
        for index in 1..=last + 5 {
            checkpoints.applied(index, StateHash(index));
        }
        let kept: Vec<_> = checkpoints.iter().map(|point| point.index).collect();
        assert_eq!((kept.len(), kept[0], kept[kept.len() - 1]), (CHECKPOINTS, 3 * CHECKPOINT_EVERY, last));
        assert!(checkpoints.iter().all(|point| point.hash == StateHash(point.index)));
    }
}
