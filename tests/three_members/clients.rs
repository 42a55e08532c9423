//! What clients have asked for and been told, and whether that can be true.

use bytes::Bytes;
use std::collections::BTreeMap;

/// A request under way.
pub enum Asked {
    Put { value: Bytes, key: Bytes, newest: i64 },
    Read { key: Bytes, newest: i64 },
}

/// Every answer of the run.
#[derive(Default)]
pub struct History {
    /// By revision.
    acknowledged: BTreeMap<i64, (Bytes, Bytes)>,
    /// The newest revision that any client has been told of.
    pub newest: i64,
}

impl History {
    pub fn acknowledge(&mut self, revision: i64, key: Bytes, value: Bytes, newest_when_asked: i64) {
        assert!(revision > newest_when_asked, "a write at {revision} began after one at {newest_when_asked} had ended");
        let before = self.acknowledged.insert(revision, (key, value));
        assert_eq!(before, None, "two writes were acknowledged at revision {revision}");
        self.newest = self.newest.max(revision);
    }

    /// A read of `key` gave the state at `revision`, where it was last changed at `changed`.
    pub fn read(&mut self, revision: i64, found: Option<(i64, Bytes, Bytes)>, newest_when_asked: i64) {
        assert!(revision >= newest_when_asked, "a read at {revision} began after {newest_when_asked} was known");
        if let Some((changed, key, value)) = found
            && let Some(known) = self.acknowledged.get(&changed)
        {
            assert_eq!(known, &(key, value), "something else was acknowledged at revision {changed}");
        }
        self.newest = self.newest.max(revision);
    }

    /// `history` is what a member has in the end, one put for each revision.
    pub fn judge(&self, history: &BTreeMap<i64, (Bytes, Bytes)>) {
        for (revision, put) in &self.acknowledged {
            assert_eq!(history.get(revision), Some(put), "the acknowledged write at revision {revision} is gone");
        }
        let mut values: Vec<&Bytes> = history.values().map(|(_, value)| value).collect();
        values.sort();
        // Each write has a value of its own.
        assert!(values.windows(2).all(|pair| pair[0] != pair[1]), "a write was carried out twice");
    }
}
