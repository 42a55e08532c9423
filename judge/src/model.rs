//! The key space as a map, one request at a time: what Castd has to behave like.

use crate::history::{Answer, Compare, Event, Log, Op, OpAnswer, Pair, Request};
use std::collections::BTreeMap;

/// The first revision of an empty store.
pub const FIRST_REVISION: i64 = 1;

#[derive(Clone, Debug)]
pub struct Model {
    pub revision: i64,
    pub pairs: BTreeMap<String, Pair>,
    /// By key: what it was from which revision on.
    past: BTreeMap<String, Vec<(i64, Option<Pair>)>>,
}

impl Default for Model {
    fn default() -> Self {
        Model { revision: FIRST_REVISION, pairs: BTreeMap::new(), past: BTreeMap::new() }
    }
}

/// A request in the middle of being tried.
struct Attempt<'a> {
    model: &'a Model,
    /// What it has changed so far: no key twice, as etcd demands.
    changed: BTreeMap<String, Option<Pair>>,
    events: Vec<Event>,
}

impl Attempt<'_> {
    fn get(&self, key: &str) -> Option<Pair> {
        self.changed.get(key).map_or_else(|| self.model.get(key).cloned(), Clone::clone)
    }

    fn list(&self, prefix: &str) -> Vec<Pair> {
        let mut all: BTreeMap<String, Pair> =
            self.model.list(prefix).into_iter().map(|pair| (pair.key.clone(), pair)).collect();
        for (key, pair) in self.changed.iter().filter(|(key, _)| key.starts_with(prefix)) {
            match pair {
                Some(pair) => drop(all.insert(key.clone(), pair.clone())),
                None => drop(all.remove(key)),
            }
        }
        all.into_values().collect()
    }

    fn delete(&mut self, pairs: Vec<Pair>) -> OpAnswer {
        for Pair { key, .. } in &pairs {
            self.events.push(Event::Delete { key: key.clone() });
            self.changed.insert(key.clone(), None);
        }
        OpAnswer::Deleted(pairs)
    }

    fn carry_out(&mut self, op: &Op, paths: &mut impl Iterator<Item = bool>) -> OpAnswer {
        match op {
            Op::Get { key } => OpAnswer::Got(self.get(key).into_iter().collect()),
            Op::List { prefix } => OpAnswer::Got(self.list(prefix)),
            Op::Past { prefix, revision } => OpAnswer::Got(self.model.list_at(prefix, *revision)),
            Op::Put { key, value, lease } => {
                let previous = self.get(key);
                let next = self.model.revision + 1;
                let pair = Pair {
                    key: key.clone(),
                    value: value.clone(),
                    created: previous.as_ref().map_or(next, |pair| pair.created),
                    modified: next,
                    version: previous.as_ref().map_or(1, |pair| pair.version + 1),
                    lease: *lease,
                };
                self.events.push(Event::Put(pair.clone()));
                self.changed.insert(key.clone(), Some(pair));
                OpAnswer::Put { previous }
            }
            Op::Delete { key } => self.delete(self.get(key).into_iter().collect()),
            Op::DeleteAll { prefix } => self.delete(self.list(prefix)),
            Op::Nested(request) => {
                let (succeeded, results) = self.run(request, paths);
                OpAnswer::Nested { succeeded, results }
            }
        }
    }

    fn run(&mut self, request: &Request, paths: &mut impl Iterator<Item = bool>) -> (bool, Vec<OpAnswer>) {
        let succeeded = paths.next().unwrap_or(true);
        let ops = if succeeded { &request.success } else { &request.failure };
        (succeeded, ops.iter().map(|op| self.carry_out(op, paths)).collect())
    }
}

impl Model {
    pub fn get(&self, key: &str) -> Option<&Pair> {
        self.pairs.get(key)
    }

    pub fn list(&self, prefix: &str) -> Vec<Pair> {
        let from = self.pairs.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, pair)| pair.clone()).collect()
    }

    /// The keys attached to `lease`, in order.
    pub fn attached(&self, lease: i64) -> Vec<String> {
        self.pairs.values().filter(|pair| pair.lease == lease).map(|pair| pair.key.clone()).collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Modified { key, is } => self.get(key).map_or(0, |pair| pair.modified) == *is,
            Compare::Value { key, is } => self.get(key).is_some_and(|pair| pair.value == *is),
        }
    }

    /// What was there at `revision`, which is not one to come.
    pub fn list_at(&self, prefix: &str, revision: i64) -> Vec<Pair> {
        let from = self.past.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let then = |versions: &Vec<(i64, Option<Pair>)>| {
            let behind = versions.partition_point(|(since, _)| *since <= revision);
            versions[..behind].last().and_then(|(_, pair)| pair.clone())
        };
        from.filter_map(|(_, versions)| then(versions)).collect()
    }

    /// Whether each request succeeds, the nested ones that are reached included, in the order in which they are come upon.
    /// etcd compares before it changes anything: nested requests see the store as it was.
    fn paths(&self, request: &Request, paths: &mut Vec<bool>) {
        let succeeded = request.compares.iter().all(|compare| self.holds(compare));
        paths.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Op::Nested(nested) = op {
                self.paths(nested, paths);
            }
        }
    }

    /// What the request would be answered, and what it would change; nothing is changed.
    pub fn try_request(&self, request: &Request) -> (Answer, Vec<Event>) {
        let mut paths = Vec::new();
        self.paths(request, &mut paths);
        let mut attempt = Attempt { model: self, changed: BTreeMap::new(), events: Vec::new() };
        let (succeeded, results) = attempt.run(request, &mut paths.into_iter());
        let revision = if attempt.events.is_empty() { self.revision } else { self.revision + 1 };
        (Answer { revision, succeeded, results }, attempt.events)
    }

    /// Makes the next revision of `events`.
    pub fn change(&mut self, events: &[Event]) {
        self.revision += 1;
        for event in events {
            let pair = match event {
                Event::Put(pair) => {
                    self.pairs.insert(pair.key.clone(), pair.clone());
                    Some(pair.clone())
                }
                Event::Delete { key } => {
                    self.pairs.remove(key);
                    None
                }
            };
            self.past.entry(event.key().to_owned()).or_default().push((self.revision, pair));
        }
    }

    /// Carries the request out, and writes its revision, if it makes one, to `log`.
    pub fn request(&mut self, request: &Request, log: &mut Log) -> Answer {
        let (answer, events) = self.try_request(request);
        if !events.is_empty() {
            self.change(&events);
            log.insert(self.revision, events);
        }
        answer
    }
}
