//! How much a member may hold (`--quota-backend-bytes`), and what happens at that limit.
//!
//! ```text
//!   write ──cost──▶ Quota: dbSize + cost < quota? ──no──▶ alarm NOSPACE, through the log ──▶ no member takes writes
//!                                                                                              │
//!   log ◀──the alarm goes── AutoDisarm ◀──dbSize, between slices────── deletion, compaction ◀──┘
//! ```
//! - [`Quota`]: whether there is room. Each member asks about its own store, and its answer changes the replicated state
//!   only by the alarm in the log.
//! - [`cost`]: what a write is taken to need.
//! - [`AutoDisarm`]: when room has come back.
//!
//! The size is that of the rows, in pages as etcd counts them. What an engine allocates for them goes up and down with its
//! own housekeeping; a limit on that would be met at random.

pub mod cost;
mod disarm;

pub use disarm::AutoDisarm;

/// Sizes are told in steps of so many bytes.
pub const PAGE_BYTES: u64 = 4_096;

/// The size of a store whose rows take `row_bytes`. Never 0: even an empty store has something.
pub fn db_size(row_bytes: u64) -> u64 {
    row_bytes.div_ceil(PAGE_BYTES).max(1) * PAGE_BYTES
}

/// Too little room for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The size of the store then.
    pub db_size: u64,
    /// With what the write costs.
    pub needed_bytes: u64,
}

/// The limit of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// `None` for no limit.
    bytes: Option<u64>,
}

impl Quota {
    /// `None` for no limit.
    pub fn new(bytes: Option<u64>) -> Self {
        Quota { bytes }
    }

    /// As Status and the metrics have it: negative if there is none.
    pub fn reported(self) -> i64 {
        self.bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// What is missing for a write of `cost` bytes. A write that costs nothing always has room.
    pub fn shortage(self, db_size: u64, cost: u64) -> Option<Shortage> {
        let needed_bytes = db_size.saturating_add(cost);
        (cost > 0 && self.bytes.is_some_and(|quota| needed_bytes >= quota))
            .then_some(Shortage { db_size, needed_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_whole_pages_and_never_nothing() {
        assert_eq!([0, 1, 4_096, 4_097].map(db_size), [4_096, 4_096, 4_096, 8_192]);
    }

    #[test]
    fn a_write_has_room_if_it_stays_below_the_quota() {
        let quota = Quota::new(Some(13 * PAGE_BYTES));
        assert_eq!(quota.shortage(12 * PAGE_BYTES, 4_095), None);
        let missing = Shortage { db_size: 12 * PAGE_BYTES, needed_bytes: 13 * PAGE_BYTES };
        assert_eq!(quota.shortage(12 * PAGE_BYTES, 4_096), Some(missing));
        assert_eq!(quota.shortage(20 * PAGE_BYTES, 0), None, "what costs nothing passes");
        assert!(quota.shortage(0, u64::MAX).is_some());
        assert_eq!(Quota::default().shortage(u64::MAX, u64::MAX), None);
        assert_eq!((quota.reported(), Quota::default().reported()), (53_248, -1));
    }
}
