//! The key space as a map, one request at a time: what Castd has to behave like.

use crate::history::{Answer, Compare, Event, Log, Op, OpAnswer, Pair, Request};
use std::collections::BTreeMap;

/// The first revision of an empty store.
pub const FIRST_REVISION: i64 = 1;

#[derive(Clone, Debug)]
pub struct Model {
    pub revision: i64,
    pub pairs: BTreeMap<String, Pair>,
}

impl Default for Model {
    fn default() -> Self {
        Model { revision: FIRST_REVISION, pairs: BTreeMap::new() }
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

    /// What the request would be answered, and what it would change; nothing is changed.
    pub fn try_request(&self, request: &Request) -> (Answer, Vec<Event>) {
        let succeeded = request.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let next = self.revision + 1;
        // What the request itself has changed so far: no key twice, as etcd demands.
        let mut changed: BTreeMap<&str, Option<Pair>> = BTreeMap::new();
        let mut events = Vec::new();
        let mut results = Vec::new();
        for op in ops {
            let now = |key: &str| changed.get(key).map_or_else(|| self.get(key).cloned(), Clone::clone);
            let listed = |prefix: &str| {
                let mut all: BTreeMap<String, Pair> =
                    self.list(prefix).into_iter().map(|pair| (pair.key.clone(), pair)).collect();
                for (key, pair) in changed.iter().filter(|(key, _)| key.starts_with(prefix)) {
                    match pair {
                        Some(pair) => all.insert((*key).to_owned(), pair.clone()),
                        None => all.remove(*key),
                    };
                }
                all.into_values().collect::<Vec<_>>()
            };
            match op {
                Op::Get { key } => results.push(OpAnswer::Got(now(key).into_iter().collect())),
                Op::List { prefix } => results.push(OpAnswer::Got(listed(prefix))),
                Op::Put { key, value, lease } => {
                    let previous = now(key);
                    let pair = Pair {
                        key: key.clone(),
                        value: value.clone(),
                        created: previous.as_ref().map_or(next, |pair| pair.created),
                        modified: next,
                        version: previous.as_ref().map_or(1, |pair| pair.version + 1),
                        lease: *lease,
                    };
                    events.push(Event::Put(pair.clone()));
                    changed.insert(key, Some(pair));
                    results.push(OpAnswer::Put { previous });
                }
                Op::Delete { key } => {
                    let deleted: Vec<_> = now(key).into_iter().collect();
                    if !deleted.is_empty() {
                        events.push(Event::Delete { key: key.clone() });
                        changed.insert(key, None);
                    }
                    results.push(OpAnswer::Deleted(deleted));
                }
                Op::DeleteAll { prefix } => {
                    let deleted = listed(prefix);
                    events.extend(deleted.iter().map(|pair| Event::Delete { key: pair.key.clone() }));
                    for key in self.pairs.range(prefix.clone()..).map(|(key, _)| key) {
                        if !key.starts_with(prefix.as_str()) {
                            break;
                        }
                        changed.insert(key, None);
                    }
                    results.push(OpAnswer::Deleted(deleted));
                }
            }
        }
        let revision = if events.is_empty() { self.revision } else { next };
        (Answer { revision, succeeded, results }, events)
    }

    /// Makes the next revision of `events`.
    pub fn change(&mut self, events: &[Event]) {
        self.revision += 1;
        for event in events {
            match event {
                Event::Put(pair) => {
                    self.pairs.insert(pair.key.clone(), pair.clone());
                }
                Event::Delete { key } => {
                    self.pairs.remove(key);
                }
            }
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
