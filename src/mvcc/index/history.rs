//! The versions of one key before its newest, in a few bytes each.
//!
//! ```text
//!   slot (newest) ◀─ head: [oldest … newer] ◀─ sealed: [… 2 KB] ◀─ sealed ◀─ …
//! ```
//! Entries are appended and read backwards, each as the difference to the next newer one: most versions take 3 to 5 bytes, and
//! the first few need no memory of their own. Sealed segments are shared between copies of the index; only the head is
//! copied when a new version is pushed after a view was taken.

use std::{mem, sync::Arc};

use crate::ids::Revision;

use super::super::RowKey;

/// A head with so many bytes is sealed.
const SEGMENT_BYTES: usize = 2048;
const INLINE_BYTES: usize = 14;
/// The longest entry: five numbers of up to 10 bytes.
const ENTRY_BYTES: usize = 50;

/// One version of one key. A deletion is a version too: its `version` and `create` are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub main: i64,
    pub create: i64,
    pub version: i64,
    pub sub: u32,
    /// What its row takes in the backend, key and value. Rows are deleted without being read, and what that gives back
    /// has to be known all the same.
    pub bytes: u32,
}

impl Version {
    pub fn is_live(&self) -> bool {
        self.version != 0
    }

    pub fn row(&self) -> RowKey {
        RowKey { main: Revision(self.main), sub: self.sub, tombstone: !self.is_live() }
    }
}

#[derive(Clone, Debug)]
pub(super) enum History {
    Few { len: u8, bytes: [u8; INLINE_BYTES] },
    Many(Arc<Segment>),
}

const _: () = assert!(size_of::<History>() == 16);

#[derive(Clone, Debug, Default)]
pub(super) struct Segment {
    bytes: Vec<u8>,
    older: Option<Arc<Sealed>>,
}

impl Default for History {
    fn default() -> Self {
        Self::Few { len: 0, bytes: [0; INLINE_BYTES] }
    }
}

/// A full segment. Its newest entry stands outside of the bytes, so that a search can step over the rest.
#[derive(Debug)]
pub(super) struct Sealed {
    newest: Version,
    bytes: Box<[u8]>,
    older: Option<Arc<Sealed>>,
}

/// Without this a long chain would be freed by recursion.
impl Drop for Sealed {
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(mut sealed) = next.and_then(Arc::into_inner) {
            next = sealed.older.take();
        }
    }
}

impl History {
    /// Adds `past`, which has just been replaced by `newer`.
    pub(super) fn push(&mut self, past: Version, newer: Version) {
        let entry = Entry::new(past, newer);
        match self {
            Self::Few { len, bytes } => {
                let (start, end) = (usize::from(*len), usize::from(*len) + entry.bytes().len());
                if let Some(room) = bytes.get_mut(start..end) {
                    room.copy_from_slice(entry.bytes());
                    *len = end as u8;
                } else {
                    let bytes = [&bytes[..start], entry.bytes()].concat();
                    *self = Self::Many(Arc::new(Segment { bytes, older: None }));
                }
            }
            Self::Many(head) => {
                let head = Arc::make_mut(head);
                if head.bytes.len() >= SEGMENT_BYTES {
                    let full = mem::take(head);
                    let mut bytes = full.bytes.as_slice();
                    let newest = pop_entry(&mut bytes, past);
                    head.older = Some(Arc::new(Sealed { newest, bytes: bytes.into(), older: full.older }));
                }
                head.bytes.extend_from_slice(entry.bytes());
            }
        }
    }

    /// From `kept`, newest first, all older than `slot`. `None` if there is nothing to keep.
    pub(super) fn rebuild(slot: Version, kept: &[Version]) -> Option<Self> {
        let mut history = Self::default();
        for (position, past) in kept.iter().enumerate().rev() {
            let newer = position.checked_sub(1).map_or(slot, |before| kept[before]);
            history.push(*past, newer);
        }
        (!kept.is_empty()).then_some(history)
    }

    /// Everything older than `slot`, newest first.
    pub(super) fn before(&self, slot: Version) -> Past<'_> {
        let (bytes, older) = match self {
            Self::Few { len, bytes } => (&bytes[..usize::from(*len)], None),
            Self::Many(head) => (head.bytes.as_slice(), head.older.as_deref()),
        };
        Past { bytes, newer: slot, older }
    }

    /// The newest version older than `slot` whose revision is at most `main`.
    pub(super) fn at(&self, slot: Version, main: i64) -> Option<Version> {
        let mut past = self.before(slot);
        loop {
            if past.bytes.is_empty() {
                // Whole segments are newer than what is looked for as long as the one behind them still is.
                while let Some(sealed) = past.older
                    && let Some(older) = sealed.older.as_deref()
                    && older.newest.main > main
                {
                    past.older = Some(older);
                }
            }
            let version = past.next()?;
            if version.main <= main {
                return Some(version);
            }
        }
    }
}

pub(super) struct Past<'a> {
    bytes: &'a [u8],
    newer: Version,
    older: Option<&'a Sealed>,
}

impl Iterator for Past<'_> {
    type Item = Version;

    fn next(&mut self) -> Option<Version> {
        if self.bytes.is_empty() {
            let sealed = self.older?;
            self.bytes = &sealed.bytes;
            self.older = sealed.older.as_deref();
            self.newer = sealed.newest;
        } else {
            self.newer = pop_entry(&mut self.bytes, self.newer);
        }
        Some(self.newer)
    }
}

/// The version before: same incarnation, one put less.
const REGULAR: u64 = 0;
const TOMBSTONE: u64 = 1;
/// The last version of an earlier incarnation: creation and version are written out.
const EXPLICIT: u64 = 2;
/// A flag beside the kind: the row is not as long as the next newer one, by how much is written out.
const OTHER_LENGTH: u64 = 4;

/// One version, encoded.
struct Entry {
    buffer: [u8; ENTRY_BYTES],
    len: usize,
}

impl Entry {
    fn new(past: Version, newer: Version) -> Self {
        let mut entry = Self { buffer: [0; ENTRY_BYTES], len: 0 };
        let kind = if !past.is_live() {
            TOMBSTONE
        } else if newer.is_live() && past.create == newer.create && past.version == newer.version.wrapping_sub(1) {
            REGULAR
        } else {
            entry.push(past.version as u64);
            entry.push(past.main.wrapping_sub(past.create) as u64);
            EXPLICIT
        };
        let longer = i64::from(past.bytes) - i64::from(newer.bytes);
        let length = if longer == 0 { 0 } else { OTHER_LENGTH };
        if longer != 0 {
            entry.push((longer << 1 ^ longer >> 63) as u64);
        }
        entry.push(newer.main.wrapping_sub(past.main) as u64);
        entry.push(u64::from(past.sub) << 3 | length | kind);
        entry
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Groups of 7 bits, highest first, so that reading from the end meets the lowest first. The top bit says "more".
    fn push(&mut self, value: u64) {
        let groups = (64 - (value | 1).leading_zeros()).div_ceil(7);
        for group in (0..groups).rev() {
            let more = if group + 1 < groups { 0x80 } else { 0 };
            self.buffer[self.len] = (value >> (7 * group)) as u8 & 0x7f | more;
            self.len += 1;
        }
    }
}

fn pop_entry(bytes: &mut &[u8], newer: Version) -> Version {
    let head = pop_varint(bytes);
    let sub = (head >> 3) as u32;
    let main = newer.main.wrapping_sub(pop_varint(bytes) as i64);
    let longer = if head & OTHER_LENGTH == 0 { 0 } else { pop_varint(bytes) };
    let row_bytes = newer.bytes.wrapping_add(((longer >> 1) as u32) ^ 0_u32.wrapping_sub((longer & 1) as u32));
    let (create, version) = match head & 3 {
        REGULAR => (newer.create, newer.version.wrapping_sub(1)),
        TOMBSTONE => (0, 0),
        _ => {
            let create = main.wrapping_sub(pop_varint(bytes) as i64);
            (create, pop_varint(bytes) as i64)
        }
    };
    Version { main, create, version, sub, bytes: row_bytes }
}

fn pop_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    while let Some((last, rest)) = bytes.split_last() {
        *bytes = rest;
        value |= u64::from(last & 0x7f) << shift;
        shift += 7;
        if *last < 0x80 || shift > 63 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Versions oldest first, the way a key lives: puts, now and then a deletion, now and then twice in one revision.
    fn life(steps: &[(u32, u32, u32, bool)]) -> Vec<Version> {
        let mut versions: Vec<Version> = Vec::new();
        for &(gap, sub, bytes, delete) in steps {
            let main = versions.last().map_or(2, |last| last.main) + i64::from(gap);
            let live = versions.last().filter(|last| last.is_live());
            versions.push(match live {
                Some(_) if delete => Version { main, create: 0, version: 0, sub, bytes },
                Some(last) => Version { main, create: last.create, version: last.version + 1, sub, bytes },
                None => Version { main, create: main, version: 1, sub, bytes },
            });
        }
        versions
    }

    fn history_of(versions: &[Version]) -> History {
        let mut history = History::default();
        for pair in versions.windows(2) {
            history.push(pair[0], pair[1]);
        }
        history
    }

    /// Often the same.
    fn row_bytes() -> impl Strategy<Value = u32> {
        prop_oneof![2 => Just(100_u32), 1 => 20_u32..400, 1 => prop::sample::select(vec![0, 1, u32::MAX])]
    }

    proptest! {
        #[test]
        fn a_history_gives_back_what_was_pushed(
            steps in proptest::collection::vec(
                (1u32..1_000_000, 0u32..9, row_bytes(), prop::bool::weighted(0.2)),
                1..1500,
            ),
        ) {
            let versions = life(&steps);
            let newest = versions[versions.len() - 1];
            let history = history_of(&versions);
            let mut expected = versions[..versions.len() - 1].to_vec();
            expected.reverse();
            prop_assert_eq!(history.before(newest).collect::<Vec<_>>(), expected.clone());
            for probe in versions.iter().step_by(versions.len() / 40 + 1) {
                for main in [probe.main - 1, probe.main, probe.main + 1] {
                    prop_assert_eq!(
                        history.at(newest, main),
                        expected.iter().find(|version| version.main <= main).copied()
                    );
                }
            }
            let kept = &expected[..expected.len() / 2];
            let rebuilt = History::rebuild(newest, kept).unwrap_or_default();
            prop_assert_eq!(rebuilt.before(newest).collect::<Vec<_>>(), kept);
        }

        #[test]
        fn a_number_read_backwards_is_what_was_written(values in any::<[u64; 4]>(), shift in 0..64) {
            let mut entry = Entry { buffer: [0; ENTRY_BYTES], len: 0 };
            values.iter().for_each(|value| entry.push(*value >> shift));
            let mut rest = entry.bytes();
            for value in values.iter().rev() {
                prop_assert_eq!(pop_varint(&mut rest), *value >> shift);
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_copy_does_not_see_later_versions() {
        let versions = life(&vec![(1, 0, 40, false); 1200]);
        let copy = history_of(&versions[..600]);
        let mut grown = copy.clone();
        for pair in versions[599..].windows(2) {
            grown.push(pair[0], pair[1]);
        }
        assert_eq!(copy.before(versions[599]).count(), 599);
        assert_eq!(grown.before(versions[1199]).count(), 1199);
    }

    #[test]
    fn a_million_versions_are_freed_without_recursion() {
        let mut history = History::default();
        let version = |number: i64| Version { main: 1 + number, create: 2, version: number, sub: 0, bytes: 40 };
        for number in 1..1_000_000 {
            history.push(version(number), version(number + 1));
        }
        assert_eq!(history.at(version(1_000_000), 500).map(|found| found.version), Some(499));
        drop(history);
    }
}
