//! The verdict on what clients saw.

use crate::seed::Plan;
use crate::summary::Summary;
use castd_judge::check::leases::ClockError;
use castd_judge::check::{leases, refusals, registers, revisions, watches};
use castd_judge::history::{History, Log, Outcome};

/// Every so many seeds the registers are looked at once more without believing any revision: that is a search.
const REGISTERS_EVERY: u64 = 4;

/// # Errors
/// The first violation that is found.
pub fn judge(plan: &Plan, history: &History, log: &Log, summary: &mut Summary) -> Result<(), String> {
    let (operations, ends) = revisions::check(history, log)?;
    summary.add_count("answers judged", operations.answered as u64);
    summary.add_count("unanswered requests found", operations.unknown_found as u64);
    summary.add_count("revisions judged", operations.revisions as u64);
    if plan.seed.is_multiple_of(REGISTERS_EVERY) {
        let checked = registers::check(history, "reg/")?;
        summary.add_count("answers judged without revisions", checked.operations as u64);
        summary.add_count("registers undecided", checked.undecided as u64);
    }
    let compacted = history.compacted_at_most(u64::MAX);
    let watched = watches::check(history, log, compacted)?;
    summary.add_count("events judged", watched.events as u64);
    summary.add_count("watches resumed", watched.resumed as u64);
    summary.add_count("progress judged", watched.progress as u64);
    summary.add_count("previous pairs judged", watched.previous as u64);
    // A tenth is how wrong clocks are at most, and what one clock has promised another one may count.
    let election = plan.election_timeout().as_micros() as u64;
    let clocks = ClockError { fast_by: plan.clock_error.unsigned_abs().div_ceil(1_000), micros: election / 2 };
    let clocks = if plan.clock_error == 0 { ClockError::default() } else { clocks };
    let leased = leases::check(history, log, &ends, clocks)?;
    summary.add_count("leases that ran out", leased.expired as u64);
    summary.add_count("leases kept alive", leased.kept_alive as u64);
    let refused = refusals::check(history, log)?;
    summary.add_count("answers about the past", refused.past as u64);
    summary.add_count("refusals of what is compacted", refused.compacted as u64);
    summary.add_count("compactions judged", refused.compactions as u64);
    let unknown = history.operations.iter().filter(|it| matches!(it.outcome, Outcome::Unknown(_))).count();
    summary.add_count("requests without an answer", unknown as u64);
    Ok(())
}
