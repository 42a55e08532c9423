//! Whether all members hold the same data: what is compared, and what follows from a difference.
//!
//! ```text
//!   check         what members say of themselves                     when
//!   states        rolling hashes of what entries did, at one index   always, every five seconds
//!   history       HashKV: all rows up to one revision                --corrupt-check-time, and before a start goes on
//!   compactions   HashKV as of the moment before a compaction        CompactHashCheck
//!
//!   Auditor ──asks peers──▶ answers ──▶ check ──▶ verdict ──▶ an entry that raises CORRUPT
//! ```
//! The first finds members that did different things, at once and for nothing. The others read all rows, and so find what a
//! disk has changed by itself.
//!
//! The checks are pure: answers in, findings out. [`ask`] and [`answers`] are the two ends of a question; when it is
//! asked is the Auditor's business (`actors::auditor`). A member that does not answer is not compared: no finding rests on
//! silence.

pub mod answers;
pub mod ask;
pub mod compactions;
pub mod history;
pub mod initial;
pub mod states;
mod verdict;

pub use verdict::Verdict;

use crate::mvcc::HashKv;

/// What a member says of its key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHash {
    pub hash: HashKv,
    /// Where the member is by now.
    pub revision: i64,
}
