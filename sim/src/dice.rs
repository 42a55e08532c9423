//! Chance, from a seed. Each purpose has dice of its own, so that one throw more in one place changes nothing elsewhere.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

pub struct Dice(SmallRng);

impl Dice {
    /// `purpose` and `number` tell these dice from all others of the seed.
    pub fn new(seed: u64, purpose: &str, number: u64) -> Self {
        let mut mixed = mix(seed);
        for byte in purpose.bytes() {
            mixed = mix(mixed ^ u64::from(byte));
        }
        Dice(SmallRng::seed_from_u64(mix(mixed ^ number)))
    }

    /// From 0 to one less than `sides`.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0.random_range(0..sides.max(1))
    }

    pub fn index(&mut self, length: usize) -> usize {
        self.0.random_range(0..length.max(1))
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// True `thousandths` times of a thousand.
    pub fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.0.random_range(0..1_000) < thousandths
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    pub fn time(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.between(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    /// Mostly near `usual`, now and then ten times that, seldom a hundred times: as latencies are.
    pub fn latency(&mut self, usual: Duration) -> Duration {
        let nanos = usual.as_nanos() as u64;
        let factor = match self.below(1_000) {
            0..20 => 100,
            20..120 => 30,
            _ => 10,
        };
        Duration::from_nanos(nanos / 4 + self.below(nanos * factor / 10 + 1))
    }

    pub fn number(&mut self) -> u64 {
        self.0.random()
    }
}

/// SplitMix64's finaliser: close numbers become far ones.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
