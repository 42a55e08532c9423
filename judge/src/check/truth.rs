//! What happened, put together from what all watchers were told: they must not contradict each other.

use super::Violation;
use crate::history::{Event, History, Log, Told, brief};
use crate::model::FIRST_REVISION;
use std::collections::btree_map::Entry;

/// The whole log, which has to be without a gap from the first revision on. Only watchers of everything are listened to.
pub fn log_of(history: &History) -> Result<Log, Violation> {
    let mut log = Log::new();
    for watch in history.watches.iter().filter(|watch| watch.prefix.is_empty()) {
        for (_, told) in &watch.told {
            let Told::Events(events) = told else { continue };
            let mut by_revision: Log = Log::new();
            for (revision, event, _) in events {
                by_revision.entry(*revision).or_default().push(event.clone());
            }
            for (revision, events) in by_revision {
                match log.entry(revision) {
                    Entry::Vacant(entry) => {
                        entry.insert(events);
                    }
                    Entry::Occupied(entry) if *entry.get() == events => {}
                    Entry::Occupied(entry) => {
                        return Err(format!(
                            "watchers were told different things about revision {revision}: {} and {}",
                            shown(entry.get()),
                            shown(&events)
                        ));
                    }
                }
            }
        }
    }
    let first = FIRST_REVISION + 1;
    match log.keys().zip(first..).find(|(revision, expected)| *revision != expected) {
        None => Ok(log),
        Some((revision, expected)) => Err(format!("nobody was told about revision {expected}, next is {revision}")),
    }
}

pub fn shown(events: &[Event]) -> String {
    let one = |event: &Event| match event {
        Event::Put(pair) => format!("{}={}", pair.key, brief(&pair.value)),
        Event::Delete { key } => format!("-{key}"),
    };
    events.iter().map(one).collect::<Vec<_>>().join(" ")
}
