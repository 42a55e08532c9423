//! The small records kept beside the entries, as key-values of raft-engine.
//!
//! ```text
//!   batch 41:  entries 97..99 │ "state" number 41, synced 39, last 99, hard state, truncated 50, base@17, terms@33
//!   batch 33:  entries 80..82 │ "state" …                                      "terms" number 33, runs
//!   batch 17:  compact to 50  │ "state" …                       "base" number 17, conf state, pending install
//! ```
//! Every batch carries the whole state and a number of its own. So the newest batch alone tells whether anything older is
//! missing (it names the batches of `base` and `terms`), and also whether a damaged batch before it had once been synced.
//! Keys are only ever overwritten: raft-engine may bring a deleted one back after a purge.

use ::raft::eraftpb::{ConfState, HardState};

/// Of what is written below; a higher one is refused.
pub(super) const FORMAT: u32 = 1;

pub(super) const STATE_KEY: &[u8] = b"state";
pub(super) const BASE_KEY: &[u8] = b"base";
pub(super) const TERMS_KEY: &[u8] = b"terms";

/// In every batch.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StateRecord {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Of this batch: one more than that of the batch before.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// All batches up to this number were synced when this one was written.
    #[prost(uint64, tag = "3")]
    pub synced: u64,
    #[prost(uint64, tag = "4")]
    pub last_index: u64,
    #[prost(uint64, tag = "5")]
    pub truncated_index: u64,
    #[prost(uint64, tag = "6")]
    pub truncated_term: u64,
    #[prost(uint64, tag = "7")]
    pub term: u64,
    #[prost(uint64, tag = "8")]
    pub vote: u64,
    #[prost(uint64, tag = "9")]
    pub commit: u64,
    /// Number of the batch that holds the valid base record.
    #[prost(uint64, tag = "10")]
    pub base_number: u64,
    /// Number of the batch that holds the valid terms record.
    #[prost(uint64, tag = "11")]
    pub terms_number: u64,
    /// Bytes of entries written since the log began, and how many of them were so when the truncated entry was.
    #[prost(uint64, tag = "12")]
    pub appended_bytes: u64,
    #[prost(uint64, tag = "13")]
    pub truncated_bytes: u64,
}

impl StateRecord {
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit, ..HardState::default() }
    }
}

/// Written when the log is cut or replaced.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct BaseRecord {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    pub voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub learners_next: Vec<u64>,
    #[prost(bool, tag = "6")]
    pub auto_leave: bool,
    #[prost(string, optional, tag = "7")]
    pub pending_install: Option<String>,
}

impl BaseRecord {
    pub fn new(number: u64, conf_state: &ConfState, pending_install: Option<String>) -> Self {
        Self {
            number,
            voters: conf_state.voters.clone(),
            learners: conf_state.learners.clone(),
            voters_outgoing: conf_state.voters_outgoing.clone(),
            learners_next: conf_state.learners_next.clone(),
            auto_leave: conf_state.auto_leave,
            pending_install,
        }
    }

    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }
}

/// Written when a term begins or ends in the log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct TermsRecord {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// First index and term of each stretch of equal terms, alternately.
    #[prost(uint64, repeated, tag = "2")]
    pub runs: Vec<u64>,
}
