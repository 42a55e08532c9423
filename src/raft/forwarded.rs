//! A client's write that another member has sent on, because this one leads.

use bytes::Bytes;
use raft::eraftpb::EntryType;

/// As it came from its member, which repeats it until it has applied the entry: `boot` and `sequence` tell repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedProposal {
    /// Of the member's process.
    pub boot: u64,
    pub sequence: u64,
    pub kind: EntryType,
    pub data: Bytes,
}
