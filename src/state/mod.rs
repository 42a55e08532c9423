//! The replicated state machine: what a member's data is, whichever backend holds it.
//!
//! ```text
//!   committed entries ──▶ Machine ──┬─▶ one WriteBatch a slice ──▶ backend
//!                                   ├─▶ View      what readers see
//!                                   └─▶ Applied   outcomes, changes, lease and membership events
//! ```
//!
//! Deterministic: the same entries give the same state and the same outcomes on every member.

pub mod alarms;
mod hash;
mod machine;
mod membership;
pub mod portable;
mod requests;
pub mod restored;
mod rolling;
mod rows;
pub mod survey;
#[cfg(test)]
mod tests;
mod view;

pub use alarms::{Alarm, Alarms, Raised};
pub use hash::hash;
pub use machine::{AlarmChange, Applied, LeaseChange, Machine, Observer, StateError};
pub use membership::{MembershipChanged, membership_entry, replay_membership};
pub use requests::Requests;
pub use rolling::{Checkpoints, HashPoint, SCHEME as HASH_SCHEME, StateHash};
pub use rows::AppliedPosition;
pub use rows::{conf_state_from_row, conf_state_row};
pub use view::{Size, View};

use castd_proto::etcdserverpb as pb;

/// What applying one request gave. Headers hold a revision and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    Alarm(pb::AlarmResponse),
    /// The members after a change of them.
    Members(Vec<pb::Member>),
    /// Another change of the membership came between the checks of this one and its place in the log: nothing was done, and
    /// it is to be checked again.
    MembershipOvertaken,
    /// A request that answers nothing: attributes of a member, the cluster version, a checkpoint, a shortage, a raft entry of
    /// its own.
    Done,
}
