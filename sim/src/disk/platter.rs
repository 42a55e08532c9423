//! One file: what the page cache has of it, what the platter has, and how the two come apart.
//!
//! ```text
//!   write ─▶ cache, sector dirty ─ sync ─▶ platter          power goes: each dirty sector is kept, lost, zeroed or torn
//! ```
//! Bytes that were synced stay as they are, unless the disk is damaged on purpose.

use crate::dice::Dice;
use std::collections::BTreeSet;
use std::ops::Range;

pub const SECTOR: usize = 512;

/// What a crash did to sectors that were not synced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub lost: u64,
    pub zeroed: u64,
    pub torn: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Inode {
    cache: Vec<u8>,
    platter: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// By sector: the number of the sync that wrote it last; 0 if none has.
    synced: Vec<u64>,
}

impl Inode {
    pub fn length(&self) -> usize {
        self.cache.len()
    }

    pub fn read(&self, at: usize, into: &mut [u8]) -> usize {
        let from = self.cache.get(at..).unwrap_or_default();
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
        length
    }

    pub fn bytes(&self) -> &[u8] {
        &self.cache
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        self.grow(end);
        self.cache[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..=(end - 1) / SECTOR);
    }

    /// With zeros, where the platter may have something else.
    pub fn grow(&mut self, length: usize) {
        let before = self.cache.len();
        if length <= before {
            return;
        }
        self.cache.resize(length, 0);
        let stale = before..length.min(self.platter.len());
        if !stale.is_empty() {
            self.dirty.extend(stale.start / SECTOR..=(stale.end - 1) / SECTOR);
        }
    }

    pub fn truncate(&mut self, length: usize) {
        self.grow(length);
        self.cache.truncate(length);
        self.dirty.split_off(&length.div_ceil(SECTOR));
    }

    fn span(&self, sector: usize) -> Range<usize> {
        sector * SECTOR..((sector + 1) * SECTOR).min(self.cache.len())
    }

    fn put(&mut self, sector: usize, number: u64) {
        let span = self.span(sector);
        if span.start < span.end {
            self.platter[span.clone()].copy_from_slice(&self.cache[span]);
            self.mark(sector, number);
        }
    }

    fn mark(&mut self, sector: usize, number: u64) {
        if self.synced.len() <= sector {
            self.synced.resize(sector + 1, 0);
        }
        self.synced[sector] = number;
    }

    /// What is in the cache is on the platter now. Of a lying disk, but for one sector: that is where another one was.
    pub fn sync(&mut self, number: u64, misdirected: Option<(usize, usize)>) {
        self.platter.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            match misdirected {
                Some((from, to)) if from == sector => {
                    let (from, to) = (self.span(from), self.span(to));
                    let length = from.len().min(to.len());
                    self.platter[to.start..to.start + length]
                        .copy_from_slice(&self.cache[from.start..from.start + length]);
                    self.mark(sector, number);
                }
                _ => self.put(sector, number),
            }
        }
    }

    /// The disk could not: some of it got there, and all of it passes for clean.
    pub fn fail_to_sync(&mut self, number: u64, dice: &mut Dice) {
        self.platter.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            if dice.chance(300) {
                self.put(sector, number);
            }
        }
    }

    /// The power goes.
    pub fn crash(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let length = if dice.chance(500) { self.cache.len() } else { self.platter.len() };
        // Often all of it, or nothing.
        let fate = dice.below(5);
        self.platter.resize(self.platter.len().max(self.cache.len()), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let span = self.span(sector);
            if span.is_empty() {
                continue;
            }
            let torn_at = span.start + dice.index(span.len());
            let chance = dice.below(10);
            match (fate, chance) {
                (0, _) | (2.., 0..4) => self.platter[span.clone()].copy_from_slice(&self.cache[span]),
                (1, _) | (2.., 4..7) => tally.lost += 1,
                (_, 7 | 8) => {
                    tally.torn += 1;
                    self.platter[span.start..torn_at].copy_from_slice(&self.cache[span.start..torn_at]);
                }
                _ => {
                    tally.zeroed += 1;
                    for at in span {
                        if self.platter[at] != self.cache[at] {
                            self.platter[at] = 0;
                        }
                    }
                }
            }
        }
        self.platter.truncate(length);
        self.cache.clone_from(&self.platter);
    }

    /// Sectors that hold something, were synced before the sync `number`, and are not being written.
    pub fn settled(&self, number: u64) -> Vec<usize> {
        let holds = |sector: &usize| {
            let span = sector * SECTOR..((sector + 1) * SECTOR).min(self.platter.len());
            self.platter.get(span).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
        };
        let synced =
            self.synced.iter().enumerate().filter(|(_, at)| (1..number).contains(*at)).map(|(sector, _)| sector);
        synced.filter(|sector| !self.dirty.contains(sector)).filter(holds).collect()
    }

    pub fn dirty(&self) -> Vec<usize> {
        self.dirty.iter().copied().filter(|sector| !self.span(*sector).is_empty()).collect()
    }

    /// Turns one bit over; and the cache, which has dropped the sector since, reads it so.
    pub fn flip(&mut self, sector: usize, dice: &mut Dice) {
        let end = ((sector + 1) * SECTOR).min(self.platter.len());
        let used = (sector * SECTOR..end).filter(|at| self.platter[*at] != 0).collect::<Vec<_>>();
        let Some(at) = used.get(dice.index(used.len())).copied() else { return };
        let bit = 1 << dice.below(8);
        self.platter[at] ^= bit;
        if dice.chance(500) && at < self.cache.len() {
            self.cache[at] ^= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_nothing_appears_that_was_not_written() {
        for seed in 0..200 {
            let dice = &mut Dice::new(seed, "platter", 0);
            let mut file = Inode::default();
            file.write(0, &[1; 700]);
            file.sync(1, None);
            file.write(700, &[2; 900]);
            file.crash(dice, &mut Tally::default());
            let bytes = file.bytes();
            assert!(bytes[..700].iter().all(|byte| *byte == 1), "seed {seed}");
            assert!(bytes[700..].iter().all(|byte| [0, 2].contains(byte)), "seed {seed}");
            assert!([700, 1_600].contains(&bytes.len()), "seed {seed}");
        }
    }

    #[test]
    fn a_failed_sync_leaves_a_clean_cache_over_a_platter_that_lacks_something() {
        let lacks = (0..50).filter(|seed| {
            let dice = &mut Dice::new(*seed, "platter", 0);
            let mut file = Inode::default();
            file.write(0, &[1; 2_000]);
            file.fail_to_sync(1, dice);
            assert!(file.dirty().is_empty());
            file.sync(2, None);
            assert_eq!(file.bytes(), [1; 2_000]);
            file.crash(dice, &mut Tally::default());
            file.bytes() != [1; 2_000]
        });
        assert!(lacks.count() > 40);
    }
}
