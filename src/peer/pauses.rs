//! How long to wait before a peer is dialled again: not at all the first time, then twice as long each time, up to a
//! limit, and never in step with others.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub struct Pauses {
    max: Duration,
    failures: u32,
    /// State of the generator behind the jitter.
    chance: u64,
}

impl Pauses {
    pub fn new(max: Duration, seed: u64) -> Self {
        Pauses { max, failures: 0, chance: seed }
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// It did not work: wait so long.
    pub fn after_failure(&mut self) -> Duration {
        let doublings = self.failures.checked_sub(1);
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = doublings else { return Duration::ZERO };
        let pause = FIRST.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(self.max);
        // Between half of it and all of it.
        pause / 2 + (pause / 2).mul_f64(self.draw())
    }

    /// SplitMix64, as a number in [0, 1).
    fn draw(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_at_once_and_no_pause_is_longer_than_the_limit() {
        let max = Duration::from_millis(500);
        let mut pauses = Pauses::new(max, 7);
        assert_eq!(pauses.after_failure(), Duration::ZERO);
        let second = pauses.after_failure();
        assert!(FIRST / 2 <= second && second <= FIRST, "{second:?}");
        let later: Vec<_> = (0..100).map(|_| pauses.after_failure()).collect();
        assert!(later.iter().all(|pause| *pause <= max));
        assert!(later[90..].iter().all(|pause| *pause >= max / 2), "it backs off");
        pauses.reset();
        assert_eq!(pauses.after_failure(), Duration::ZERO);
    }

    #[test]
    fn two_members_do_not_stay_in_step() {
        let of = |seed| {
            let mut pauses = Pauses::new(Duration::from_secs(1), seed);
            (0..20).map(|_| pauses.after_failure()).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
