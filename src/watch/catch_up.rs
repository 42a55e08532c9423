//! Reading history for watchers that lag, together for all that lag at about the same place.
//!
//! ```text
//!   Waiting ──Cohort──▶ a thread that may wait for the disk: read changes, then Cohort::sift ──CatchUpBatch──▶ Hub
//! ```
//! Cohorts are formed in the order in which watchers began to wait, so one that starts a million revisions back advances
//! a chunk at a time, in turn with the others.

use super::interests::{DeliveryLimits, Interests, Member};
use super::{Changes, Delivery, Filters, Selector};
use crate::ids::Revision;
use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Names a watcher for as long as it lives; slots are used again, serial numbers are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatcherRef {
    pub slot: u32,
    pub serial: u64,
}

#[derive(Clone, Debug)]
pub(super) struct CohortMember {
    pub watcher: WatcherRef,
    pub selector: Selector,
    pub filters: Filters,
    pub next: Revision,
}

/// Where the history of a cohort comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Read it: `from` to `to` of the cohort.
    Storage,
    /// It is all here. The first slice may begin before the cohort does.
    Memory(Vec<Arc<[Changes]>>),
}

/// Watchers that one read of history serves.
#[derive(Debug)]
pub struct Cohort {
    pub(super) number: u64,
    pub(super) members: Vec<CohortMember>,
    pub(super) limits: DeliveryLimits,
    pub(super) seed: u64,
    /// The first revision to read.
    pub from: Revision,
    /// The last one. A read may stop earlier, after one revision at least, if it gets too large.
    pub to: Revision,
    pub source: Source,
}

/// What became of a [`Cohort`].
#[derive(Debug)]
pub struct CatchUpBatch {
    pub(super) cohort: u64,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// All of `from..=through` was read; `deliveries` are those of each member.
    Read { through: Revision, deliveries: Vec<Vec<Arc<Delivery>>> },
    /// The beginning is gone.
    Compacted { compacted: Revision },
}

impl Cohort {
    /// Picks out what each watcher wants. Takes a while: not for the actor's thread. `slices` are all changes of
    /// `from..=through`.
    pub fn sift(&self, slices: &[Arc<[Changes]>], through: Revision) -> CatchUpBatch {
        let mut interests = Interests::new(self.seed);
        for (number, member) in self.members.iter().enumerate() {
            let watcher = number as u32;
            interests.join(&member.selector, Member { watcher, from: member.next, filters: member.filters });
        }
        let mut deliveries = vec![Vec::new(); self.members.len()];
        interests.deliver(slices, self.from, self.limits, |number, delivery| {
            deliveries[number as usize].push(delivery.clone());
            ControlFlow::Continue(())
        });
        CatchUpBatch { cohort: self.number, outcome: Outcome::Read { through, deliveries } }
    }

    pub(super) fn watchers(&self) -> impl Iterator<Item = WatcherRef> {
        self.members.iter().map(|member| member.watcher)
    }

    /// A read of more revisions would not fit into one response.
    pub fn revisions_max(&self) -> usize {
        self.limits.revisions_max
    }

    /// The answer when `from` is below what is compacted.
    pub fn compacted(&self, compacted: Revision) -> CatchUpBatch {
        CatchUpBatch { cohort: self.number, outcome: Outcome::Compacted { compacted } }
    }
}

/// The watchers whose turn to be read for has not come yet.
#[derive(Default)]
pub(super) struct Waiting {
    by_revision: BTreeSet<(Revision, u32)>,
    /// In order of arrival. Those no longer in `by_revision` have left.
    arrivals: VecDeque<(Revision, u32)>,
}

impl Waiting {
    pub fn add(&mut self, next: Revision, watcher: u32) {
        self.by_revision.insert((next, watcher));
        self.arrivals.push_back((next, watcher));
    }

    pub fn contains(&self, next: Revision, watcher: u32) -> bool {
        self.by_revision.contains(&(next, watcher))
    }

    pub fn len(&self) -> usize {
        self.by_revision.len()
    }

    pub fn remove(&mut self, next: Revision, watcher: u32) {
        self.by_revision.remove(&(next, watcher));
    }

    /// The next revision of the watcher whose turn it is.
    pub fn first(&mut self) -> Option<Revision> {
        while let Some(first) = self.arrivals.front() {
            if self.by_revision.contains(first) {
                return Some(first.0);
            }
            self.arrivals.pop_front();
        }
        None
    }

    /// Takes all out whose next revision is in `from..=to`.
    pub fn take(&mut self, from: Revision, to: Revision) -> Vec<u32> {
        let taken: Vec<(Revision, u32)> = self.by_revision.range((from, 0)..=(to, u32::MAX)).copied().collect();
        for entry in &taken {
            self.by_revision.remove(entry);
        }
        taken.into_iter().map(|(_, watcher)| watcher).collect()
    }
}
