//! What a change of the membership means to raft, once the table of members has taken it.
//!
//! The table is the one source of truth: raft is told what to change and what it must have come to by it. A member whose
//! raft counts other votes than its table would elect leaders that others do not; it must not go on.

use crate::ids::LogIndex;
use raft::eraftpb::{ConfChangeV2, ConfState};

#[derive(Clone, Debug)]
pub struct AppliedConfChange {
    /// Of the entry.
    pub index: LogIndex,
    pub change: ConfChangeV2,
    /// The members after it; None for founders, all of whom raft knows before their entries are applied.
    pub conf_state: Option<ConfState>,
}

/// Why raft does not follow.
#[derive(Debug, thiserror::Error)]
pub enum ConfChangeError {
    #[error("raft refuses it: {0}")]
    Refused(#[from] raft::Error),
    #[error("raft has the members {found:?} after it, and the table of members has {expected:?}")]
    OtherMembers { found: Box<ConfState>, expected: Box<ConfState> },
}

/// In the order of ids, which raft-rs does not keep.
pub(super) fn sorted(mut conf_state: ConfState) -> ConfState {
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = &mut conf_state;
    for ids in [voters, learners, voters_outgoing, learners_next] {
        ids.sort_unstable();
    }
    conf_state
}
