//! Who is in the cluster: ids, URL sets, the table of members and the rules for changing it. Pure: no network, no disk,
//! no clock.
//!
//! ```text
//!   request ──checks (what one member sees)──▶ log ──Members::check (the same everywhere)──▶ Members::change
//! ```

pub mod checks;
pub mod downgrade;
mod go_url;
pub mod ids;
pub mod members;
pub mod remote;
pub mod urls;

/// Why a change of the membership was refused. The text belongs to `api::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("the peer URLs are not valid")]
    BadUrls,
    #[error("too few voters have started for the change")]
    NotEnoughStarted,
    #[error("too few voters are connected for the change")]
    Unhealthy,
    #[error("there is no such member")]
    NotFound,
    /// Such an id never comes back.
    #[error("the member was removed for good")]
    Removed,
    #[error("there is a member with this id")]
    IdExists,
    #[error("a peer URL belongs to another member")]
    PeerUrlExists,
    #[error("there are as many learners as --max-learners allows")]
    TooManyLearners,
    #[error("the member is no learner")]
    NotLearner,
    #[error("the learner has too little of the leader's log")]
    LearnerNotReady,
    /// A cluster without voters could never again agree on anything, not even on another member.
    #[error("the last voter cannot be removed")]
    LastVoter,
}
