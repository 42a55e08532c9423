//! Leases: keys that live as long as somebody keeps their lease alive.
//!
//! ```text
//!   log ──grant, revoke, checkpoint, attach──▶ LeaseTable   what leases there are: replicated, has no clock
//!   clock ──keep alive, tick──▶ LeaseKeeper                 how long they still live: on the leader only
//!                                    └──expired──▶ the log, as a revoke that all members apply at one index
//! ```
//! The two meet only through the log: the keeper is told what the table did, and can only propose.

mod keeper;
mod table;

pub use keeper::{Answer, Confirmation, Effect, Input, KeepAliveId, LeaseKeeper, TimeLeft};
pub use table::{Lease, LeaseTable, TTL_SECS_MAX};

use crate::ids::{LeaseId, LogIndex};
use castd_backend_api::BackendError;
use std::time::Duration;

/// A lease, as the log entry at `index` granted it. An id may be granted again after it was revoked, and what was found out
/// about the old lease must not hit the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    pub lease: LeaseId,
    pub index: LogIndex,
}

/// The request cannot be carried out; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error("lease not found")]
    NotFound,
    #[error("lease already exists")]
    Exists,
    #[error("the time to live is larger than {TTL_SECS_MAX} seconds")]
    TtlTooLarge,
}

/// The table cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseTableError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the row of a lease is damaged, its key is {0:02x?}")]
    RowDamaged(Vec<u8>),
}

/// The shortest time to live a lease can have, in seconds: a lease must outlive the election of a new leader, which may
/// have to be told that it is alive.
pub fn ttl_secs_min(election_timeout: Duration) -> i64 {
    let millis = election_timeout.as_millis().saturating_mul(3).div_ceil(2);
    i64::try_from(millis.div_ceil(1_000)).unwrap_or(TTL_SECS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_lease_outlives_an_election() {
        assert_eq!(ttl_secs_min(Duration::from_millis(1_000)), 2);
        assert_eq!(ttl_secs_min(Duration::from_millis(2_000)), 3);
        assert_eq!(ttl_secs_min(Duration::from_millis(2_001)), 4);
        assert_eq!(ttl_secs_min(Duration::from_millis(50)), 1);
    }
}
