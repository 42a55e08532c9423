//! The keys of one stretch of the index with their newest versions.
//!
//! A key takes its bytes, 4 bytes for where they end and a slot of 36. Only keys that were changed more than once since the
//! last compaction have a [`History`] beside it.

use super::history::{History, Version};
use super::keys::{Keys, SPARE_KEYS};
use super::sweep::Doomed;

pub(super) const KEYS_MAX: usize = 96;
/// A leaf of long keys is split before it has this many bytes of them twice.
pub(super) const BYTES_MAX: usize = 16 << 10;
/// So many inserts, each right behind the one before, are taken for an ascending load.
const RUN: u16 = 12;

/// Packed: aligned to 8 bytes, each key would cost 4 for nothing.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
struct Slot {
    main: i64,
    create: i64,
    version: i64,
    sub: u32,
    bytes: u32,
    /// Position in `histories`, from 1; 0 for none.
    history: u32,
}

const _: () = assert!(size_of::<Slot>() == 36);

#[derive(Debug, Default)]
pub(super) struct Leaf {
    keys: Keys,
    slots: Vec<Slot>,
    histories: Vec<History>,
    /// How many keys are not deleted.
    pub(super) live: u32,
    /// How many keys have a history or are deleted: what compaction might have to look at.
    pub(super) stale: u32,
    last_insert: u16,
    run: u16,
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        let mut slots = Vec::with_capacity(self.slots.len() + SPARE_KEYS);
        slots.extend_from_slice(&self.slots);
        Self { keys: self.keys.clone(), slots, histories: self.histories.clone(), ..*self }
    }
}

impl Leaf {
    pub(super) fn with_capacity(keys: usize, bytes: usize) -> Self {
        Self { keys: Keys::with_capacity(keys, bytes), slots: Vec::with_capacity(keys), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.keys.bytes()
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn key(&self, position: usize) -> &[u8] {
        self.keys.get(position)
    }

    /// The newest version.
    pub(super) fn newest(&self, position: usize) -> Version {
        let Slot { main, create, version, sub, bytes, .. } = self.slots[position];
        Version { main, create, version, sub, bytes }
    }

    fn history(&self, position: usize) -> Option<&History> {
        let number = self.slots[position].history as usize;
        number.checked_sub(1).map(|index| &self.histories[index])
    }

    /// The version, deletion or not, that was the newest at revision `main`.
    pub(super) fn at(&self, position: usize, main: i64) -> Option<Version> {
        let newest = self.newest(position);
        if newest.main <= main { Some(newest) } else { self.history(position)?.at(newest, main) }
    }

    fn is_stale(&self, position: usize) -> bool {
        let slot = &self.slots[position];
        slot.history != 0 || slot.version == 0
    }

    fn count(&mut self, position: usize) {
        self.live += u32::from(self.slots[position].version != 0);
        self.stale += u32::from(self.is_stale(position));
    }

    fn uncount(&mut self, position: usize) {
        self.live -= u32::from(self.slots[position].version != 0);
        self.stale -= u32::from(self.is_stale(position));
    }

    pub(super) fn live_before(&self, position: usize) -> usize {
        if self.live as usize == self.len() {
            return position;
        }
        self.slots[..position].iter().filter(|slot| slot.version != 0).count()
    }

    pub(super) fn insert(&mut self, position: usize, key: &[u8], version: Version) {
        let Version { main, create, version, sub, bytes } = version;
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(2 * SPARE_KEYS);
        }
        self.keys.insert(position, key);
        self.slots.insert(position, Slot { main, create, version, sub, bytes, history: 0 });
        self.count(position);
        let follows = position > 0 && usize::from(self.last_insert) == position - 1;
        self.run = if follows { self.run.saturating_add(1) } else { 0 };
        self.last_insert = position as u16;
    }

    /// As the newest version of the key; what was the newest goes into its history.
    pub(super) fn replace(&mut self, position: usize, version: Version) {
        let past = self.newest(position);
        self.uncount(position);
        if self.slots[position].history == 0 {
            self.histories.push(History::default());
            self.slots[position].history = self.histories.len() as u32;
        }
        let slot = &mut self.slots[position];
        slot.main = version.main;
        slot.create = version.create;
        slot.version = version.version;
        slot.sub = version.sub;
        slot.bytes = version.bytes;
        self.histories[slot.history as usize - 1].push(past, version);
        self.count(position);
    }

    /// The same for a key at the end of a leaf under construction, whose history is complete already.
    pub(super) fn push(&mut self, key: &[u8], newest: Version, history: Option<History>) {
        self.insert(self.len(), key, newest);
        if let Some(history) = history {
            let position = self.len() - 1;
            self.uncount(position);
            self.set_history(position, Some(history));
            self.count(position);
        }
    }

    pub(super) fn is_too_big(&self) -> bool {
        self.len() > KEYS_MAX || self.keys.bytes() > BYTES_MAX && self.len() > 1
    }

    /// Cuts the leaf in two. An ascending load leaves full leaves behind: it is cut where the last key went in.
    pub(super) fn split(&mut self, rightmost: bool) -> Self {
        let inserted = usize::from(self.last_insert);
        let ascending = self.run >= RUN || rightmost && inserted + 1 == self.len();
        let at = if ascending && inserted > 0 { inserted } else { self.len() / 2 };
        let run = if ascending { self.run } else { 0 };
        let slots = self.slots.split_off(at);
        let mut right = Self { keys: self.keys.split_off(at), run, slots, ..Self::default() };
        self.slots.shrink_to_fit();
        let histories = std::mem::take(&mut self.histories);
        self.adopt(&histories);
        right.adopt(&histories);
        self.run = 0;
        right
    }

    /// Takes those of `histories` that the slots name, and counts anew.
    fn adopt(&mut self, histories: &[History]) {
        for slot in &mut self.slots {
            if let Some(index) = (slot.history as usize).checked_sub(1) {
                self.histories.push(histories[index].clone());
                slot.history = self.histories.len() as u32;
            }
        }
        self.recount();
    }

    fn recount(&mut self) {
        (self.live, self.stale) = (0, 0);
        (0..self.len()).for_each(|position| self.count(position));
    }

    pub(super) fn append(&mut self, right: &Self) {
        let base = self.histories.len() as u32;
        self.keys.append(&right.keys);
        self.slots.extend(
            right
                .slots
                .iter()
                .map(|slot| Slot { history: if slot.history == 0 { 0 } else { slot.history + base }, ..*slot }),
        );
        self.histories.extend_from_slice(&right.histories);
        self.live += right.live;
        self.stale += right.stale;
    }

    fn set_history(&mut self, position: usize, history: Option<History>) {
        let number = self.slots[position].history;
        match (number.checked_sub(1).map(|index| index as usize), history) {
            (Some(index), Some(history)) => self.histories[index] = history,
            (None, Some(history)) => {
                self.histories.push(history);
                self.slots[position].history = self.histories.len() as u32;
            }
            (Some(index), None) => {
                self.slots[position].history = 0;
                self.histories.swap_remove(index);
                let moved = self.histories.len() as u32 + 1;
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.history == moved) {
                    slot.history = number;
                }
            }
            (None, None) => {}
        }
    }

    /// Whether [`Leaf::compact`] could have something to do. Cheap, may say yes for nothing.
    pub(super) fn may_compact(&self, main: i64) -> bool {
        self.stale > 0 && self.slots.iter().any(|slot| slot.history != 0 || slot.version == 0 && slot.main < main)
    }

    /// Forgets what nobody can read once `main` is compacted, and names the rows. Of each key the newest version not above
    /// `main` stays; if it is a deletion it stays only at `main` itself, for the watchers that start there.
    ///
    /// The rows of a key are named oldest first, and have to be deleted in this order: a put that outlives the row of its
    /// deletion, because of a crash in between, would bring the key back.
    pub(super) fn compact(&mut self, main: i64, doomed: &mut Vec<Doomed>) {
        for position in (0..self.len()).rev() {
            let newest = self.newest(position);
            let loses = i64::from(crate::planted::is_on(crate::planted::Bug::LosesTombstones));
            let outlived = |version: &Version| !version.is_live() && version.main < main + loses;
            if newest.main > main {
                let Some(history) = self.history(position) else { continue };
                let mut past: Vec<Version> = history.before(newest).collect();
                let Some(visible) = past.iter().position(|version| version.main <= main) else { continue };
                let kept = if outlived(&past[visible]) { visible } else { visible + 1 };
                if kept == past.len() {
                    continue;
                }
                doomed.extend(past.drain(kept..).rev().map(Doomed::of));
                self.set_history(position, History::rebuild(newest, &past));
            } else {
                if let Some(history) = self.history(position) {
                    let first = doomed.len();
                    doomed.extend(history.before(newest).map(Doomed::of));
                    doomed[first..].reverse();
                    self.set_history(position, None);
                }
                if outlived(&newest) {
                    doomed.push(Doomed::of(newest));
                    self.keys.remove(position);
                    self.slots.remove(position);
                }
            }
        }
        self.run = 0;
        self.recount();
    }

    pub(super) fn shrink(&mut self) {
        self.keys.shrink();
        self.slots.shrink_to_fit();
        self.histories.shrink_to_fit();
    }

    /// What must hold after every change.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.keys.len(), self.slots.len());
        assert!((1..self.len()).all(|position| self.key(position - 1) < self.key(position)));
        let mut named: Vec<u32> = self.slots.iter().map(|slot| slot.history).filter(|number| *number != 0).collect();
        named.sort_unstable();
        assert!(named.iter().copied().eq(1..=self.histories.len() as u32), "every history has one slot: {named:?}");
        let live = self.slots.iter().filter(|slot| slot.version != 0).count();
        let stale = (0..self.len()).filter(|position| self.is_stale(*position)).count();
        assert_eq!((live, stale), (self.live as usize, self.stale as usize));
        for position in 0..self.len() {
            let newest = self.newest(position);
            let mut newer = newest;
            for past in self.history(position).into_iter().flat_map(|history| history.before(newest)) {
                assert!((past.main, past.sub) < (newer.main, newer.sub), "versions ascend");
                assert!(past.is_live() || newer.is_live(), "only what is there is deleted");
                newer = past;
            }
        }
    }
}
