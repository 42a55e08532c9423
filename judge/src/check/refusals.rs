//! What members refuse because history is not there, and what they should have refused: compaction, and revisions to come.
//!
//! An answer does not say how far the store was compacted when it was given. So this looks at time only: what nobody had
//! asked to compact is there, and what was known to be compacted is not.

use super::Violation;
use super::revisions::happened;
use crate::history::{Compaction, CompactionOutcome, History, Log, Op, Operation, Outcome, Refusal};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Answers about the past.
    pub past: usize,
    pub compacted: usize,
    pub future: usize,
    pub compactions: usize,
}

/// # Errors
/// The first refusal, or answer, that cannot be right.
pub fn check(history: &History, log: &Log) -> Result<Checked, Violation> {
    let happened = happened(history, log);
    let mut checked = Checked::default();
    for operation in &history.operations {
        let revisions = operation.request.ops().filter_map(|op| match op {
            Op::Past { revision, .. } => Some(*revision),
            _ => None,
        });
        let revisions: Vec<i64> = revisions.collect();
        let (Some(oldest), Some(newest)) = (revisions.iter().min(), revisions.iter().max()) else { continue };
        match &operation.outcome {
            Outcome::Answered(_) => {
                // Of a request with two ways to go, only one was looked at.
                let is_read = operation.request.failure.is_empty();
                let compacted = history.compacted_at_least(operation.invoked);
                if is_read && !operation.request.is_serializable && *oldest < compacted {
                    return Err(told(operation, &format!("it was answered, and compacted was {compacted} before")));
                }
                checked.past += 1;
            }
            Outcome::Refused(Refusal::Compacted) => {
                let compacted = history.compacted_at_most(operation.returned);
                if *oldest >= compacted {
                    return Err(told(operation, &format!("nobody had asked to compact further than {compacted}")));
                }
                checked.compacted += 1;
            }
            Outcome::Refused(Refusal::Future) => {
                let is_known = happened.get(newest).is_some_and(|latest| *latest < operation.invoked);
                if is_known && !operation.request.is_serializable {
                    return Err(told(operation, "that revision had been told before"));
                }
                checked.future += 1;
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => {}
        }
    }
    for compaction in history.compactions.iter().filter(|it| it.outcome == CompactionOutcome::Done) {
        let Compaction { revision, invoked, .. } = compaction;
        let before = history.compacted_at_least(*invoked);
        if *revision <= before {
            return Err(format!("compacted to {revision} at {invoked} µs, when {before} was known to be compacted"));
        }
        checked.compactions += 1;
    }
    Ok(checked)
}

fn told(operation: &Operation, what: &str) -> Violation {
    format!("{operation:?}: {what}")
}
