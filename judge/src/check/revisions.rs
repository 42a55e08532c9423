//! Strict serializability of the whole key space, complete and in linear time, because answers say where they belong.
//!
//! ```text
//!   revision:  … 41        42        43 …      each is one request's: carried out on the model at the one before,
//!   writes:        put a     txn       ?       it gives the answer that the client got and the events that watchers got
//!   reads:     get a     list                  give what the model has at their revision
//! ```
//! That gives the one order there can be. Then time: a request that was answered before another began comes before it. A
//! request without an answer is looked for where nobody else claims a revision; it may be found once, and not before it
//! began. Where several may have been it (deletions look alike), any way to give each revision one that made it will do. A
//! revision that nobody can have made is a violation, and so is an answer that nothing bears out.

use super::Violation;
use super::truth::shown;
use crate::history::{Event, History, LeaseOutcome, LeaseRequest, Log, Micros, Operation, Outcome};
use crate::model::{FIRST_REVISION, Model};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was looked at: a check that checks nothing finds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub answered: usize,
    /// Unanswered, and found to have been carried out.
    pub unknown_found: usize,
    pub revisions: usize,
    /// Revisions that are the end of a lease.
    pub lease_ends: usize,
}

/// A request in the order of revisions.
#[derive(Clone, Copy, Debug)]
struct Point {
    operation: usize,
    revision: i64,
    is_write: bool,
}

/// When each lease ended, if it did and its keys went with nothing else but that: its revision.
pub type LeaseEnds = BTreeMap<i64, i64>;

/// Who may have made a revision that no answer claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Maker {
    LeaseEnd(i64),
    Operation(usize),
}

/// A revision that no answer claims.
struct Orphan {
    revision: i64,
    makers: Vec<Maker>,
}

pub fn check(history: &History, log: &Log) -> Result<(Checked, LeaseEnds), Violation> {
    let mut checker = Checker::new(history, log);
    checker.replay()?;
    checker.find_makers()?;
    checker.check_time()?;
    let checked = Checked { answered: checker.answered, revisions: log.len(), ..checker.checked };
    Ok((checked, checker.lease_ends))
}

struct Checker<'a> {
    history: &'a History,
    log: &'a Log,
    model: Model,
    /// Answered ones, by the revision that they were answered with.
    by_revision: BTreeMap<i64, Vec<usize>>,
    /// Unanswered ones, by the values that they would write.
    by_value: HashMap<&'a str, usize>,
    /// Unanswered ones that would write no value, only delete.
    deletions: Vec<usize>,
    orphans: Vec<Orphan>,
    /// By revision: when it had happened at the latest.
    happened: BTreeMap<i64, Micros>,
    /// By time: the highest revision of any answer until then.
    told: BTreeMap<Micros, i64>,
    points: Vec<Point>,
    lease_ends: LeaseEnds,
    answered: usize,
    checked: Checked,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History, log: &'a Log) -> Self {
        let mut by_revision: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        let (mut by_value, mut deletions) = (HashMap::new(), Vec::new());
        let mut told: BTreeMap<Micros, i64> = BTreeMap::new();
        let mut answered = 0;
        for (place, operation) in history.operations.iter().enumerate() {
            match &operation.outcome {
                Outcome::Answered(answer) => {
                    by_revision.entry(answer.revision).or_default().push(place);
                    if !operation.request.is_serializable {
                        let highest = told.entry(operation.returned).or_default();
                        *highest = answer.revision.max(*highest);
                    }
                    answered += 1;
                }
                Outcome::Unknown(_) if operation.request.may_write() => {
                    let values = by_value.len();
                    by_value.extend(operation.request.values().map(|value| (value, place)));
                    if by_value.len() == values {
                        deletions.push(place);
                    }
                }
                Outcome::Unknown(_) | Outcome::Refused(_) => {}
            }
        }
        let mut highest = 0;
        for revision in told.values_mut() {
            highest = highest.max(*revision);
            *revision = highest;
        }
        Checker {
            history,
            log,
            model: Model::default(),
            by_revision,
            by_value,
            deletions,
            orphans: Vec::new(),
            happened: happened(history, log),
            told,
            points: Vec::new(),
            lease_ends: LeaseEnds::new(),
            answered,
            checked: Checked::default(),
        }
    }

    fn replay(&mut self) -> Result<(), Violation> {
        let first = FIRST_REVISION;
        if let Some((revision, places)) = self.by_revision.iter().find(|(revision, _)| **revision < first) {
            return Err(format!("an answer from revision {revision}: {}", self.told(places[0])));
        }
        self.reads_at(first, None)?;
        let log = self.log;
        for (revision, events) in log {
            assert_eq!(*revision, self.model.revision + 1, "the log has no gap");
            let writer = self.writer_of(*revision, events)?;
            self.model.change(events);
            self.reads_at(*revision, writer)?;
        }
        match self.by_revision.iter().find(|(revision, _)| **revision > self.model.revision) {
            None => Ok(()),
            Some((revision, places)) => Err(format!(
                "revision {revision} is not in the store, which is at {}: lost is {}",
                self.model.revision,
                self.told(places[0])
            )),
        }
    }

    /// The answered request that made this revision, if one did; else one without an answer must have, or a lease ended.
    fn writer_of(&mut self, revision: i64, events: &[Event]) -> Result<Option<usize>, Violation> {
        let mut writer = None;
        for place in self.by_revision.get(&revision).into_iter().flatten() {
            let operation = &self.history.operations[*place];
            let (answer, made) = self.model.try_request(&operation.request);
            if made.is_empty() || made != events || Some(&answer) != operation.answer() {
                continue;
            }
            if let Some(other) = writer.replace(*place) {
                return Err(format!(
                    "revision {revision} was given to two: {}, and {}",
                    self.told(other),
                    self.told(*place)
                ));
            }
        }
        if let Some(place) = writer {
            self.points.push(Point { operation: place, revision, is_write: true });
            return Ok(Some(place));
        }
        let mut makers: Vec<Maker> = self.ended_lease(events).into_iter().collect();
        let candidates: &[usize] = match events.iter().find_map(put_value) {
            Some(value) => self.by_value.get(value).map_or(&[], std::slice::from_ref),
            None => &self.deletions,
        };
        let may_have = |place: &&usize| {
            let operation = &self.history.operations[**place];
            let began_in_time = self.happened.get(&revision).is_none_or(|latest| operation.invoked <= *latest);
            let known = self.told.range(..operation.invoked).next_back().map_or(0, |(_, known)| *known);
            began_in_time && known < revision && self.model.try_request(&operation.request).1 == events
        };
        makers.extend(candidates.iter().filter(may_have).map(|place| Maker::Operation(*place)));
        if makers.is_empty() {
            let answered = self.by_revision.get(&revision);
            return Err(format!(
                "nobody can have made revision {revision}: {}; answers with that revision: {:?}",
                shown(events),
                answered.map(|places| places.iter().map(|place| self.told(*place)).collect::<Vec<_>>())
            ));
        }
        self.orphans.push(Orphan { revision, makers });
        Ok(None)
    }

    /// All keys of a lease go, and nothing else happens.
    fn ended_lease(&self, events: &[Event]) -> Option<Maker> {
        let Some(Event::Delete { key }) = events.first() else { return None };
        let lease = self.model.get(key).map(|pair| pair.lease).filter(|lease| *lease != 0)?;
        let attached: BTreeSet<_> = self.model.attached(lease).into_iter().collect();
        let all_go = events.len() == attached.len()
            && events.iter().all(|event| matches!(event, Event::Delete { key } if attached.contains(key)));
        all_go.then_some(Maker::LeaseEnd(lease))
    }

    /// Gives each revision that no answer claims a maker of its own.
    fn find_makers(&mut self) -> Result<(), Violation> {
        let mut made: BTreeMap<Maker, usize> = BTreeMap::new();
        for orphan in 0..self.orphans.len() {
            if !self.give_maker(orphan, &mut made, &mut BTreeSet::new()) {
                let Orphan { revision, makers } = &self.orphans[orphan];
                return Err(format!("nobody is left who can have made revision {revision}: {makers:?} made others"));
            }
        }
        for (maker, orphan) in made {
            let Orphan { revision, makers } = &self.orphans[orphan];
            match maker {
                Maker::LeaseEnd(lease) => {
                    self.checked.lease_ends += 1;
                    if makers.len() == 1 {
                        self.lease_ends.insert(lease, *revision);
                    }
                }
                Maker::Operation(operation) => {
                    self.checked.unknown_found += 1;
                    // One of several that may have been it has no place of its own in time, but for what was looked at.
                    if makers.len() == 1 {
                        self.points.push(Point { operation, revision: *revision, is_write: true });
                    }
                }
            }
        }
        Ok(())
    }

    /// Augments the matching of revisions and makers by one revision.
    fn give_maker(&self, orphan: usize, made: &mut BTreeMap<Maker, usize>, tried: &mut BTreeSet<Maker>) -> bool {
        for maker in &self.orphans[orphan].makers {
            if !tried.insert(*maker) {
                continue;
            }
            let other = made.get(maker).copied();
            if other.is_none_or(|other| self.give_maker(other, made, tried)) {
                made.insert(*maker, orphan);
                return true;
            }
        }
        false
    }

    /// Every answer with this revision but that of the writer is of a request that changed nothing.
    fn reads_at(&mut self, revision: i64, writer: Option<usize>) -> Result<(), Violation> {
        for place in self.by_revision.get(&revision).into_iter().flatten().filter(|place| Some(**place) != writer) {
            let operation = &self.history.operations[*place];
            let (expected, made) = self.model.try_request(&operation.request);
            if !made.is_empty() || Some(&expected) != operation.answer() {
                let log = self.log.get(&revision).map_or_else(String::new, |events| shown(events));
                return Err(format!(
                    "the answer does not fit: {}; the model at that revision says {expected:?}, and what happened there is {log}",
                    self.told(*place)
                ));
            }
            if !operation.request.is_serializable {
                self.points.push(Point { operation: *place, revision, is_write: false });
            }
        }
        Ok(())
    }

    /// Whoever began after another was answered does not come before it.
    fn check_time(&self) -> Result<(), Violation> {
        let operation = |point: &Point| &self.history.operations[point.operation];
        let mut began: Vec<&Point> = self.points.iter().collect();
        began.sort_unstable_by_key(|point| operation(point).invoked);
        // One without an answer has no end.
        let mut ended: Vec<&Point> = self.points.iter().filter(|point| operation(point).answer().is_some()).collect();
        ended.sort_unstable_by_key(|point| operation(point).returned);
        let mut ended = ended.into_iter().peekable();
        let mut latest: Option<&Point> = None;
        for point in began {
            while let Some(before) = ended.next_if(|before| operation(before).returned < operation(point).invoked) {
                if latest.is_none_or(|latest| before.revision > latest.revision) {
                    latest = Some(before);
                }
            }
            let Some(latest) = latest else { continue };
            let comes_before = point.revision < latest.revision;
            if comes_before || (point.is_write && point.revision == latest.revision) {
                return Err(format!(
                    "time went back: {} came after {}",
                    self.told(point.operation),
                    self.told(latest.operation)
                ));
            }
        }
        Ok(())
    }

    fn told(&self, place: usize) -> String {
        let Operation { client, invoked, returned, request, outcome } = &self.history.operations[place];
        format!("[client {client}, {invoked}–{returned} µs, {request:?} → {outcome:?}]")
    }
}

fn put_value(event: &Event) -> Option<&str> {
    match event {
        Event::Put(pair) => Some(&pair.value),
        Event::Delete { .. } => None,
    }
}

/// When each revision had happened at the latest: it, or a later one, had been told to somebody.
pub fn happened(history: &History, log: &Log) -> BTreeMap<i64, Micros> {
    let mut told: BTreeMap<i64, Micros> = BTreeMap::new();
    let mut tell = |revision: i64, at: Micros| {
        let earliest = told.entry(revision).or_insert(at);
        *earliest = at.min(*earliest);
    };
    for operation in &history.operations {
        if let Some(answer) = operation.answer() {
            tell(answer.revision, operation.returned);
        }
    }
    for lease in &history.leases {
        if let (LeaseRequest::Revoke, LeaseOutcome::Done { revision, .. }) = (lease.request, lease.outcome) {
            tell(revision, lease.returned);
        }
    }
    for watch in &history.watches {
        for (at, what) in &watch.told {
            match what {
                crate::history::Told::Events(events) => {
                    events.last().into_iter().for_each(|(revision, ..)| tell(*revision, *at));
                }
                crate::history::Told::Progress(revision) => tell(*revision, *at),
                crate::history::Told::Compacted(_) => {}
            }
        }
    }
    let mut latest = Micros::MAX;
    let mut told = told.into_iter().rev().peekable();
    let mut happened = BTreeMap::new();
    for revision in log.keys().rev() {
        while let Some((_, at)) = told.next_if(|(of, _)| of >= revision) {
            latest = latest.min(at);
        }
        happened.insert(*revision, latest);
    }
    happened
}
