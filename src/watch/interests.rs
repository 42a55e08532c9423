//! Finds who wants to hear about a change: one entry for each distinct key or range, whoever shares it.
//!
//! ```text
//!   event ──key──▶ HashMap ────┐
//!         └──key──▶ RangeIndex ┴▶ Interest ──hits──▶ Delivery ──Arc──▶ each member
//! ```
//! A thousand watchers of one prefix are one entry with a thousand members: an event is matched once, copied once and
//! then only counted out.

use super::delivery::event_bytes;
use super::ranges::RangeIndex;
use super::{Changes, Delivery, Event, Filters, Selector};
use crate::ids::Revision;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A watcher as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub watcher: u32,
    /// Events before it are none of the watcher's business.
    pub from: Revision,
    pub filters: Filters,
}

/// Where a member is. Changes when another one leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    interest: u32,
    position: u32,
}

/// How much goes into one response.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliveryLimits {
    pub bytes_max: usize,
    pub revisions_max: usize,
}

/// An event that matched, by its position.
#[derive(Clone, Copy, Debug)]
struct Hit {
    slice: u32,
    change: u32,
    event: u32,
}

struct Interest {
    selector: Selector,
    members: Vec<Member>,
    /// In order; empty between calls.
    hits: Vec<Hit>,
}

pub(super) struct Interests {
    keys: HashMap<Bytes, u32>,
    ranges: RangeIndex,
    interests: Vec<Interest>,
    free: Vec<u32>,
    /// Those with hits; empty between calls.
    touched: Vec<u32>,
}

/// Members with the same filters and the same first hit get the same deliveries.
type Variant = (usize, bool, bool);

impl Interests {
    pub fn new(seed: u64) -> Self {
        Self {
            keys: HashMap::new(),
            ranges: RangeIndex::new(seed),
            interests: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// Who is there.
    pub fn watcher_at(&self, place: Place) -> Option<u32> {
        let interest = self.interests.get(place.interest as usize)?;
        interest.members.get(place.position as usize).map(|member| member.watcher)
    }

    pub fn join(&mut self, selector: &Selector, member: Member) -> Place {
        let known = match selector {
            Selector::Key(key) => self.keys.get(key).copied(),
            Selector::Range(range) => self.ranges.get(range),
        };
        let number = known.unwrap_or_else(|| self.add(selector));
        let members = &mut self.interests[number as usize].members;
        members.push(member);
        Place { interest: number, position: (members.len() - 1) as u32 }
    }

    /// Takes a member out. Answers the watcher that is now in its place, if one had to move there.
    pub fn leave(&mut self, place: Place) -> Option<u32> {
        let interest = &mut self.interests[place.interest as usize];
        interest.members.swap_remove(place.position as usize);
        let moved = interest.members.get(place.position as usize).map(|member| member.watcher);
        if interest.members.is_empty() {
            match &interest.selector {
                Selector::Key(key) => {
                    self.keys.remove(key);
                }
                Selector::Range(range) => self.ranges.remove(range),
            }
            interest.selector = Selector::Key(Bytes::new());
            interest.members = Vec::new();
            interest.hits = Vec::new();
            self.free.push(place.interest);
        }
        moved
    }

    /// Calls `take` with each watcher and each delivery for it, in order, of all changes from `from` on in `slices`, which
    /// follow one another. When `take` breaks, that watcher gets no more of them.
    pub fn deliver(
        &mut self,
        slices: &[Arc<[Changes]>],
        from: Revision,
        limits: DeliveryLimits,
        mut take: impl FnMut(u32, &Arc<Delivery>) -> ControlFlow<()>,
    ) {
        if self.keys.is_empty() && self.interests.len() == self.free.len() {
            return;
        }
        for (slice, changes) in slices.iter().enumerate() {
            for (change, changed) in changes.iter().enumerate().filter(|(_, changed)| changed.revision >= from) {
                for (event, happened) in changed.events.iter().enumerate() {
                    let hit = Hit { slice: slice as u32, change: change as u32, event: event as u32 };
                    self.hit(&happened.kv.key, hit);
                }
            }
        }
        let mut variants: Vec<(Variant, Vec<Arc<Delivery>>)> = Vec::new();
        for number in self.touched.drain(..) {
            let interest = &mut self.interests[number as usize];
            let hits = &interest.hits;
            variants.clear();
            for member in &interest.members {
                let first = hits.partition_point(|hit| revision_of(slices, hit) < member.from);
                let variant = (first, member.filters.no_put, member.filters.no_delete);
                let at = variants.binary_search_by_key(&variant, |(variant, _)| *variant).unwrap_or_else(|at| {
                    let deliveries = deliveries(slices, &hits[first..], member.filters, limits);
                    variants.insert(at, (variant, deliveries));
                    at
                });
                for delivery in &variants[at].1 {
                    if take(member.watcher, delivery).is_break() {
                        break;
                    }
                }
            }
            interest.hits.clear();
        }
    }

    fn add(&mut self, selector: &Selector) -> u32 {
        let interest = Interest { selector: selector.clone(), members: Vec::with_capacity(1), hits: Vec::new() };
        let number = match self.free.pop() {
            Some(free) => {
                self.interests[free as usize] = interest;
                free
            }
            None => {
                self.interests.push(interest);
                (self.interests.len() - 1) as u32
            }
        };
        match selector {
            Selector::Key(key) => {
                self.keys.insert(key.clone(), number);
            }
            Selector::Range(range) => self.ranges.insert(range.clone(), number),
        }
        number
    }

    fn hit(&mut self, key: &[u8], hit: Hit) {
        let Self { keys, ranges, interests, touched, .. } = self;
        let mut count = |number: u32| {
            let hits = &mut interests[number as usize].hits;
            if hits.is_empty() {
                touched.push(number);
            }
            hits.push(hit);
        };
        if let Some(&number) = keys.get(key) {
            count(number);
        }
        ranges.containing(key, &mut count);
    }
}

fn revision_of(slices: &[Arc<[Changes]>], hit: &Hit) -> Revision {
    slices[hit.slice as usize][hit.change as usize].revision
}

/// Cuts hits into responses, between revisions only.
fn deliveries(slices: &[Arc<[Changes]>], hits: &[Hit], filters: Filters, limits: DeliveryLimits) -> Vec<Arc<Delivery>> {
    let mut deliveries = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    let (mut first, mut last) = (Revision(0), Revision(0));
    let (mut bytes, mut revisions) = (0, 0);
    for group in hits.chunk_by(|a, b| (a.slice, a.change) == (b.slice, b.change)) {
        let Some(changed) = group.first().map(|hit| &slices[hit.slice as usize][hit.change as usize]) else { continue };
        let wanted = || {
            group.iter().map(|hit| &changed.events[hit.event as usize]).filter(|event| !filters.drop_event(event.kind))
        };
        let group_bytes: usize = wanted().map(event_bytes).sum();
        if group_bytes == 0 {
            continue;
        }
        if !events.is_empty() && (bytes + group_bytes > limits.bytes_max || revisions == limits.revisions_max) {
            deliveries.push(Arc::new(Delivery::new(std::mem::take(&mut events), first, last)));
            (bytes, revisions) = (0, 0);
        }
        if events.is_empty() {
            first = changed.revision;
        }
        last = changed.revision;
        bytes += group_bytes;
        revisions += 1;
        events.extend(wanted().cloned());
    }
    if !events.is_empty() {
        deliveries.push(Arc::new(Delivery::new(events, first, last)));
    }
    deliveries
}
