//! What this member has told its leader that it has, and which answers a leader can do without.
//!
//! ```text
//!   leader ── entries up to 7 ─────▶ member ── has them up to 7 ──▶ leader commits 7
//!   leader ── 7 is committed ──────▶ member    (has them up to 7: left out, it has said so)
//! ```
//! raft-rs answers each append, also those that only tell of a commit. To the leader such an answer is news only if the one
//! before was lost: a quarter of all messages of a lone client's put, and as many wake-ups. What was lost is still found: the
//! leader goes on asking a member that has not told it of the newest entry, with each answer to a heartbeat, and an append
//! that brings nothing new, not even a commit, is a question and is answered. Saying less promises less, so safety is not
//! concerned. Time is not either: no answer waits for another one.

use super::Node;
use raft::eraftpb::{Message, MessageType};

/// The newest entry that this member has said it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acceptance {
    leader: u64,
    term: u64,
    index: u64,
}

impl Node {
    /// Hands an append to raft, and takes the answer back if the leader has it already.
    pub(super) fn step_append(&mut self, append: Message) {
        let raft = &mut self.raft;
        let accepts = Acceptance {
            leader: append.from,
            term: append.term,
            index: append.index.saturating_add(append.entries.len() as u64),
        };
        let is_without_entries = append.entries.is_empty();
        let (committed, messages) = (raft.raft.raft_log.committed, raft.raft.msgs.len());
        // The only errors are "unknown peer" and "local message": both mean "not for us".
        let _ = raft.step(append);
        let answers = raft.raft.msgs.get(messages..).unwrap_or_default();
        let [answer] = answers else { return };
        if !is_acceptance(answer, accepts) {
            return;
        }
        let tells_commit_only = is_without_entries && raft.raft.raft_log.committed > committed;
        if tells_commit_only && self.accepted == accepts {
            raft.raft.msgs.truncate(messages);
        }
        self.accepted = accepts;
    }
}

fn is_acceptance(answer: &Message, accepts: Acceptance) -> bool {
    answer.get_msg_type() == MessageType::MsgAppendResponse
        && !answer.reject
        && (answer.to, answer.term, answer.index) == (accepts.leader, accepts.term, accepts.index)
}
