//! Builds the index from rows in revision order, as a backend keeps them.
//!
//! ```text
//!   rows ──add──▶ batch of a million ──sort by key──▶ full leaves, bottom up (first batch) or inserted in order (later)
//! ```
//! A batch bounds the memory a start takes beyond the index itself. Sorting compares eight bytes behind what all keys of the
//! batch have in common, and whole keys only where those are equal.

use super::history::{History, Version};
use super::keys::{Keys, separator};
use super::leaf::{self, Leaf};
use super::tree::{CHILDREN_MAX, Change, Child, Inner, Tree};

const BATCH_ROWS: usize = 1 << 20;
const BATCH_BYTES: usize = 64 << 20;

struct Row {
    start: u32,
    end: u32,
    version: Version,
}

#[derive(Default)]
pub(crate) struct Loader {
    tree: Option<Tree>,
    rows: Vec<Row>,
    keys: Vec<u8>,
    /// Length of what all keys of the batch begin with.
    common: usize,
}

impl Loader {
    /// Of rows with the same key, the older one first.
    pub(crate) fn add(&mut self, key: &[u8], version: Version) {
        if self.rows.len() >= BATCH_ROWS || self.keys.len() >= BATCH_BYTES {
            self.flush();
        }
        self.common = match self.rows.first() {
            None => key.len(),
            Some(first) => {
                let first = &self.keys[first.start as usize..][..self.common];
                first.iter().zip(key).take_while(|(left, right)| left == right).count()
            }
        };
        let start = self.keys.len() as u32;
        self.keys.extend_from_slice(key);
        self.rows.push(Row { start, end: self.keys.len() as u32, version });
    }

    pub(crate) fn finish(mut self) -> Tree {
        self.flush();
        self.tree.unwrap_or_default()
    }

    fn flush(&mut self) {
        let key = |row: &Row| &self.keys[row.start as usize..row.end as usize];
        let mut order: Vec<(u64, u32)> =
            self.rows.iter().enumerate().map(|(number, row)| (head(&key(row)[self.common..]), number as u32)).collect();
        // Stable: versions of one key stay in the order of their revisions.
        order.sort_by(|left, right| {
            left.0.cmp(&right.0).then_with(|| key(&self.rows[left.1 as usize]).cmp(key(&self.rows[right.1 as usize])))
        });
        let rows = order.iter().map(|(_, number)| &self.rows[*number as usize]);
        match &mut self.tree {
            Some(tree) => rows.for_each(|row| {
                let _ = tree.apply(key(row), Change::Known(row.version));
            }),
            None => {
                let mut builder = Builder::default();
                rows.for_each(|row| builder.add(key(row), row.version));
                self.tree = Some(builder.finish());
            }
        }
        self.rows.clear();
        self.keys.clear();
    }
}

/// The first eight bytes as a number that sorts like them.
fn head(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

/// Builds a tree from rows sorted by key, then by revision.
#[derive(Default)]
struct Builder {
    level: Vec<Child>,
    /// Between each child of `level` and the one before it; the first has none.
    bounds: Vec<Vec<u8>>,
    leaf: Leaf,
    key: Vec<u8>,
    newest: Option<Version>,
    history: Option<History>,
}

impl Builder {
    fn add(&mut self, key: &[u8], version: Version) {
        if let Some(newest) = self.newest
            && key == self.key
        {
            self.history.get_or_insert_default().push(newest, version);
        } else {
            self.close_key();
            self.key.clear();
            self.key.extend_from_slice(key);
        }
        self.newest = Some(version);
    }

    fn close_key(&mut self) {
        let Some(newest) = self.newest.take() else { return };
        if self.leaf.len() == leaf::KEYS_MAX || self.leaf.key_bytes() >= leaf::BYTES_MAX {
            let between = separator(self.leaf.key(self.leaf.len() - 1), &self.key).to_vec();
            self.close_leaf();
            self.bounds.push(between);
        }
        self.leaf.push(&self.key, newest, self.history.take());
    }

    fn close_leaf(&mut self) {
        let (keys, bytes) = (self.leaf.len(), self.leaf.key_bytes());
        let mut leaf = std::mem::replace(&mut self.leaf, Leaf::with_capacity(keys, bytes));
        leaf.shrink();
        self.level.push(Child::leaf(leaf));
    }

    fn finish(mut self) -> Tree {
        self.close_key();
        self.close_leaf();
        while self.level.len() > 1 {
            let (mut level, mut level_bounds) = (Vec::new(), Vec::new());
            let mut bounds = self.bounds.into_iter();
            let mut children = self.level.into_iter().peekable();
            while children.peek().is_some() {
                let mut inner =
                    Inner { bounds: Keys::default(), children: children.by_ref().take(CHILDREN_MAX).collect() };
                bounds.by_ref().take(inner.children.len() - 1).for_each(|bound| inner.bounds.push(&bound));
                level_bounds.extend(bounds.next());
                level.push(Child::inner(inner));
            }
            (self.level, self.bounds) = (level, level_bounds);
        }
        self.level.pop().map_or_else(Tree::default, |root| Tree { root })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Walk;
    use super::*;
    use std::ops::ControlFlow;

    /// Rows of a store in which some keys are put again and deleted.
    fn rows(count: u64) -> Vec<(Vec<u8>, Change)> {
        (0..count)
            .map(|number| {
                let main = 2 + number as i64;
                let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (count / 2 + 1);
                let key = format!("/registry/pods/{spread:06}").into_bytes();
                let change = if number % 7 == 3 {
                    Change::Delete { main, sub: 0, bytes: 40 }
                } else {
                    Change::Put { main, sub: 0, bytes: 30 + number as u32 % 5 }
                };
                (key, change)
            })
            .collect()
    }

    #[test]
    fn a_loaded_index_is_the_one_that_was_written() {
        for count in [0, 1, 2, 96, 97, 5_000] {
            let mut written = Tree::default();
            let mut loader = Loader::default();
            for (position, (key, change)) in rows(count).into_iter().enumerate() {
                let gone = written.live_at(&key, i64::MAX).is_none();
                if matches!(change, Change::Delete { .. }) && gone {
                    continue;
                }
                let (_, now) = written.apply(&key, change);
                loader.add(&key, now);
                if position as u64 == count / 2 {
                    loader.flush();
                }
            }
            let loaded = loader.finish();
            loaded.check();
            assert_eq!(loaded.live(), written.live());
            let dump = |tree: &Tree| {
                let mut found = Vec::new();
                tree.walk(Walk { from: b"", to: None, descending: false, live_only: false }, &mut |entry| {
                    found.push((
                        entry.key().to_vec(),
                        (0..count as i64 + 2).map(|main| entry.at(main)).collect::<Vec<_>>(),
                    ));
                    ControlFlow::Continue(())
                });
                found
            };
            if count < 1000 {
                assert_eq!(dump(&loaded), dump(&written));
            }
            written.walk(Walk { from: b"", to: None, descending: true, live_only: false }, &mut |entry| {
                assert_eq!(loaded.get(entry.key()).and_then(|it| it.at(i64::MAX)), entry.at(i64::MAX));
                ControlFlow::Continue(())
            });
        }
    }
}
