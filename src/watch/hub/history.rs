//! What happens to the store, and how watchers that lag catch up with it.
//!
//! ```text
//!   store_changed ──in sync──▶ sent      ──stream is full──▶ lagging
//!   start_reads ──Cohort──▶ read ──caught_up──▶ sent ──▶ catch_up_from_memory ──▶ in sync, or the next read
//! ```

use super::{Effect, Hub, State, after, before, delivery_limits, send};
use crate::ids::Revision;
use crate::mvcc::Changes;
use crate::planted::{self, Bug};
use crate::watch::Delivery;
use crate::watch::catch_up::{CatchUpBatch, Cohort, CohortMember, Outcome, Source, WatcherRef};
use crate::watch::interests::{Interests, Member};
use crate::watch::ranges::next_random;
use std::ops::ControlFlow;
use std::sync::Arc;

impl Hub {
    pub(super) fn store_changed(&mut self, changes: Arc<[Changes]>, effects: &mut Vec<Effect>) {
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        let (first, last) = (first.revision, last.revision);
        if last <= self.revision {
            return;
        }
        if first > after(self.revision) {
            // Changes are missing here, but not in storage.
            return self.store_replaced(last, self.compacted, effects);
        }
        let from = after(self.revision);
        self.revision = last;
        let mut full: Vec<(u32, Revision)> = Vec::new();
        let Self { interests, watchers, streams, .. } = self;
        interests.deliver(std::slice::from_ref(&changes), from, delivery_limits(&self.limits), |slot, delivery| {
            let Some(watcher) = watchers[slot as usize].as_mut() else { return ControlFlow::Break(()) };
            let sent = send(watcher, delivery, delivery.last(), streams, effects);
            if sent.is_break() && !planted::is_on(Bug::DropsOnOverflow) {
                full.push((slot, delivery.first()));
            }
            sent
        });
        self.recent.push(changes);
        for (slot, next) in full {
            self.leave_sync(slot);
            self.fall_behind(slot, next, effects);
        }
        self.reach_future();
    }

    pub(super) fn store_replaced(&mut self, revision: Revision, compacted: Revision, effects: &mut Vec<Effect>) {
        let next = after(self.revision);
        self.recent.clear();
        if revision > self.revision {
            self.revision = revision;
            for slot in 0..self.watchers.len() as u32 {
                let Some(watcher) = &self.watchers[slot as usize] else { continue };
                let mut next = next.max(watcher.start);
                if planted::is_on(Bug::WatchBackInTime) {
                    next = compacted.max(watcher.start).max(Revision(2));
                }
                // Those that wait for a revision to come go on waiting for it where they are.
                let has_missed = next <= revision || planted::is_on(Bug::MisplacesFutureWatchers);
                if matches!(watcher.state, State::InSync(_)) && has_missed {
                    self.leave_sync(slot);
                    self.fall_behind(slot, next, effects);
                }
            }
        }
        self.compacted(compacted, effects);
    }

    pub(super) fn compacted(&mut self, compacted: Revision, effects: &mut Vec<Effect>) {
        if compacted <= self.compacted {
            return;
        }
        self.compacted = compacted;
        if planted::is_on(Bug::KeepsCompactedWatchers) {
            return;
        }
        let below = before(compacted);
        for slot in self.waiting.take(Revision(i64::MIN), below) {
            self.drop_compacted(slot, effects);
        }
        while let Some(&(next, slot)) = self.parked.first()
            && next <= below
        {
            self.drop_compacted(slot, effects);
        }
    }

    /// Watchers that asked for a revision to come are ordinary ones once it is there.
    pub(super) fn reach_future(&mut self) {
        while let Some(&(start, slot)) = self.future.first()
            && start <= self.revision
        {
            self.future.pop_first();
            let id = self.watchers[slot as usize].as_ref().map(|watcher| watcher.stream);
            if let Some(stream) = id.and_then(|id| self.streams.get_mut(id)) {
                stream.future -= 1;
            }
        }
    }

    pub(super) fn caught_up(&mut self, batch: CatchUpBatch, effects: &mut Vec<Effect>) {
        let Some(cohort) = self.reading.remove(&batch.cohort) else { return };
        match batch.outcome {
            Outcome::Compacted { compacted } => {
                self.compacted(compacted, effects);
                for member in &cohort.members {
                    if self.is_reading(member.watcher) {
                        self.fall_behind(member.watcher.slot, member.next, effects);
                    }
                }
            }
            Outcome::Read { through, deliveries } => {
                assert_eq!(deliveries.len(), cohort.members.len());
                assert!(through <= cohort.to);
                let mut rest = Vec::new();
                for (member, deliveries) in cohort.members.iter().zip(deliveries) {
                    if !self.is_reading(member.watcher) {
                        continue;
                    }
                    let slot = member.watcher.slot;
                    let mut next = member.next.max(after(through));
                    if planted::is_on(Bug::RepeatsEvents) {
                        next = member.next.max(through);
                    }
                    match self.send_all(slot, &deliveries, effects) {
                        Some(unsent) => self.fall_behind(slot, unsent, effects),
                        None if next > self.revision => self.bring_in_sync(slot, next),
                        None => rest.push((slot, next)),
                    }
                }
                self.catch_up_from_memory(rest, effects);
            }
        }
    }

    /// The last step into sync: what happened while history was read. Done here and now, or the next read would find that
    /// still more has happened.
    pub(super) fn catch_up_from_memory(&mut self, watchers: Vec<(u32, Revision)>, effects: &mut Vec<Effect>) {
        let Some(from) = watchers.iter().map(|(_, next)| *next).min() else { return };
        let Some(slices) = self.recent.since(from) else {
            for (slot, next) in watchers {
                self.fall_behind(slot, next, effects);
            }
            return;
        };
        let mut interests = Interests::new(next_random(&mut self.random));
        for (number, &(slot, from)) in watchers.iter().enumerate() {
            let Some(watcher) = &self.watchers[slot as usize] else { continue };
            interests.join(&watcher.selector, Member { watcher: number as u32, from, filters: watcher.filters });
        }
        let mut unsent: Vec<Option<Revision>> = vec![None; watchers.len()];
        let revision = self.revision;
        let Self { watchers: slots, streams, .. } = self;
        interests.deliver(&slices, from, delivery_limits(&self.limits), |number, delivery| {
            let number = number as usize;
            let Some(watcher) = slots[watchers[number].0 as usize].as_mut() else { return ControlFlow::Break(()) };
            let sent = send(watcher, delivery, revision, streams, effects);
            if sent.is_break() {
                unsent[number] = Some(delivery.first());
            }
            sent
        });
        for ((slot, next), unsent) in watchers.into_iter().zip(unsent) {
            match unsent {
                Some(unsent) => self.fall_behind(slot, unsent, effects),
                None => self.bring_in_sync(slot, next.max(after(self.revision))),
            }
        }
    }

    pub(super) fn start_reads(&mut self, effects: &mut Vec<Effect>) {
        while self.reading.len() < self.limits.reads_max
            && let Some(from) = self.waiting.first()
        {
            let (to, source) = match self.recent.since(from) {
                Some(slices) => (self.revision, Source::Memory(slices)),
                None => {
                    let chunk_end = Revision(from.0.saturating_add(self.limits.chunk_revisions - 1));
                    (self.revision.min(chunk_end), Source::Storage)
                }
            };
            let mut members = Vec::new();
            for slot in self.waiting.take(from, to) {
                let Some(watcher) = self.watchers[slot as usize].as_mut() else { continue };
                let State::Waiting { next } = watcher.state else { continue };
                watcher.state = State::Reading;
                members.push(CohortMember {
                    watcher: WatcherRef { slot, serial: watcher.serial },
                    selector: watcher.selector.clone(),
                    filters: watcher.filters,
                    next,
                });
            }
            self.next_cohort += 1;
            let number = self.next_cohort;
            let seed = next_random(&mut self.random);
            let limits = delivery_limits(&self.limits);
            let cohort = Arc::new(Cohort { number, members, limits, seed, from, to, source });
            self.reading.insert(number, cohort.clone());
            effects.push(Effect::CatchUp(cohort));
        }
    }

    pub(super) fn is_reading(&self, watcher: WatcherRef) -> bool {
        self.watchers[watcher.slot as usize]
            .as_ref()
            .is_some_and(|it| it.serial == watcher.serial && matches!(it.state, State::Reading))
    }

    /// Answers the revision of the first delivery that found no room.
    pub(super) fn send_all(
        &mut self,
        slot: u32,
        deliveries: &[Arc<Delivery>],
        effects: &mut Vec<Effect>,
    ) -> Option<Revision> {
        let watcher = self.watchers[slot as usize].as_mut()?;
        let Self { revision, streams, .. } = self;
        let mut sent =
            deliveries.iter().map(|delivery| (delivery, send(watcher, delivery, *revision, streams, effects)));
        sent.find(|(_, sent)| sent.is_break()).map(|(delivery, _)| delivery.first())
    }
}
