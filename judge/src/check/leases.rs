//! No lease ends before its time: who was told that it lasts may rely on it.

use super::Violation;
use super::revisions::{LeaseEnds, happened};
use crate::history::{History, LeaseOperation, LeaseOutcome, LeaseRequest, Log, Micros, Op, Outcome, Refusal};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Leases that ran out, and how long each of them had been promised is known.
    pub expired: usize,
    pub kept_alive: usize,
}

/// How wrong the clock of a member may be that leases are counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockError {
    /// In a thousand.
    pub fast_by: u64,
    /// A lease may end so much earlier besides: it is promised by one clock, and counted by that of the next leader.
    pub micros: Micros,
}

/// `ends` are the leases whose keys went, by revision. One that was revoked, or may have been, may end at any time.
pub fn check(history: &History, log: &Log, ends: &LeaseEnds, clocks: ClockError) -> Result<Checked, Violation> {
    let happened = happened(history, log);
    let mut by_lease: BTreeMap<i64, Vec<&LeaseOperation>> = BTreeMap::new();
    for operation in &history.leases {
        by_lease.entry(operation.lease).or_default().push(operation);
    }
    // Whose put was refused for want of the lease knew that it had ended.
    let mut missed: BTreeMap<i64, Micros> = BTreeMap::new();
    for operation in history.operations.iter().filter(|it| it.outcome == Outcome::Refused(Refusal::NoLease)) {
        for op in operation.request.ops() {
            if let Op::Put { lease, .. } = op
                && *lease != 0
            {
                let first = missed.entry(*lease).or_insert(Micros::MAX);
                *first = operation.returned.min(*first);
            }
        }
    }
    let mut checked = Checked::default();
    for (lease, operations) in &by_lease {
        let was_revoked = |operation: &&LeaseOperation| {
            operation.request == LeaseRequest::Revoke && operation.outcome != LeaseOutcome::NotFound
        };
        let kept = operations.iter().filter(|operation| operation.request == LeaseRequest::KeepAlive);
        checked.kept_alive += kept.filter(|operation| matches!(operation.outcome, LeaseOutcome::Done { .. })).count();
        if operations.iter().any(was_revoked) {
            continue;
        }
        // Known to have ended: its keys went, or a keepalive did not find it.
        let keys_gone = ends.get(lease).and_then(|revision| happened.get(revision)).copied();
        let not_found = operations.iter().filter(|operation| operation.outcome == LeaseOutcome::NotFound);
        let not_found = not_found.map(|operation| operation.returned);
        let refused = missed.get(lease).copied();
        let Some(ended) = not_found.chain(keys_gone).chain(refused).min() else { continue };
        if ended == Micros::MAX {
            continue;
        }
        checked.expired += 1;
        for promise in operations {
            let LeaseOutcome::Done { ttl_secs, .. } = promise.outcome else { continue };
            let surely = (ttl_secs as u64 * (1_000_000 - 1_000 * clocks.fast_by)).saturating_sub(clocks.micros);
            let lasts = promise.invoked + surely;
            // Whoever promises after the end promises what is not there: worse.
            if ended < lasts {
                return Err(format!(
                    "lease {lease:x} had ended at {ended} µs, and was promised from {} µs for {ttl_secs} s: {operations:?}",
                    promise.invoked
                ));
            }
        }
    }
    if let Some(lease) = ends.keys().find(|lease| !by_lease.contains_key(lease)) {
        return Err(format!("lease {lease:x} ended, and nobody asked for it"));
    }
    Ok(checked)
}
