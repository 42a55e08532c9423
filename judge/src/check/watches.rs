//! What etcd promises to watchers: events in order, each once, a revision whole, none left out; and that whoever comes back
//! can go on where it was.

use super::Violation;
use super::truth::shown;
use crate::history::{Event, History, Log, Pair, Told, Watch};
use crate::model::{FIRST_REVISION, Model};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub events: usize,
    /// Watches that went on where an earlier one of the watcher had ended.
    pub resumed: usize,
    pub progress: usize,
    pub previous: usize,
}

/// `log` is what happened; `compacted` is up to where history was given up at the end.
pub fn check(history: &History, log: &Log, compacted: i64) -> Result<Checked, Violation> {
    let mut checked = Checked::default();
    let before = previous_pairs(log);
    let mut last_of: BTreeMap<usize, &Watch> = BTreeMap::new();
    for watch in &history.watches {
        check_one(watch, history, log, &before, compacted, &mut checked)
            .map_err(|violation| format!("watcher {} from revision {}: {violation}", watch.watcher, watch.start))?;
        if let Some(last) = last_of.insert(watch.watcher, watch) {
            if watch.start != last.next_start() {
                return Err(format!("watcher {} did not go on where it was: the harness is wrong", watch.watcher));
            }
            checked.resumed += 1;
        }
    }
    Ok(checked)
}

/// The pair that each event replaced, by revision and key.
fn previous_pairs(log: &Log) -> BTreeMap<(i64, &str), Pair> {
    let mut model = Model::default();
    let mut before = BTreeMap::new();
    for (revision, events) in log {
        for event in events {
            if let Some(pair) = model.get(event.key()) {
                before.insert((*revision, event.key()), pair.clone());
            }
        }
        model.change(events);
    }
    before
}

fn check_one(
    watch: &Watch,
    history: &History,
    log: &Log,
    before: &BTreeMap<(i64, &str), Pair>,
    compacted: i64,
    checked: &mut Checked,
) -> Result<(), Violation> {
    // Everything below is known to have been told.
    let mut next = watch.start;
    for (at, told) in &watch.told {
        match told {
            Told::Events(events) => {
                let mut by_revision: Vec<(i64, Vec<&Event>)> = Vec::new();
                for (revision, event, previous) in events {
                    match by_revision.last_mut() {
                        Some((last, events)) if last == revision => events.push(event),
                        Some((last, _)) if *last > *revision => {
                            return Err(format!("revision {revision} behind {last}, in one response"));
                        }
                        _ => by_revision.push((*revision, vec![event])),
                    }
                    if watch.wants_previous {
                        let expected = before.get(&(*revision, event.key()));
                        // The pair before may be compacted: the member knows it no more.
                        let is_gone = previous.is_none() && *revision <= history.compacted_at_most(*at);
                        if previous.as_ref() != expected && !is_gone {
                            return Err(format!(
                                "{} at revision {revision} has {previous:?} before it, not {expected:?}",
                                shown(std::slice::from_ref(event))
                            ));
                        }
                        checked.previous += 1;
                    }
                }
                for (revision, told) in by_revision {
                    if revision < next {
                        return Err(format!("revision {revision} was told when everything below {next} had been"));
                    }
                    if let Some((left_out, events)) =
                        log.range(next..revision).find(|(_, events)| concerns(watch, events))
                    {
                        return Err(format!("revision {left_out} was left out: {}", shown(events)));
                    }
                    let expected: Vec<&Event> =
                        log.get(&revision).into_iter().flatten().filter(|event| is_for(watch, event)).collect();
                    if told != expected {
                        return Err(format!("revision {revision} is {expected:?}, told was {told:?}"));
                    }
                    checked.events += told.len();
                    next = revision + 1;
                }
            }
            Told::Progress(revision) => {
                if revision + 1 < next {
                    return Err(format!("at revision {revision}, it says, when everything below {next} had been told"));
                }
                if let Some((left_out, events)) =
                    log.range(next..revision + 1).find(|(_, events)| concerns(watch, events))
                {
                    return Err(format!("at revision {revision}, it says, and left out {left_out}: {}", shown(events)));
                }
                let newest = log.last_key_value().map_or(FIRST_REVISION, |(revision, _)| *revision);
                if *revision > newest {
                    return Err(format!("it says that it is at revision {revision}, and there is none after {newest}"));
                }
                checked.progress += 1;
                next = revision + 1;
            }
            Told::Compacted(revision) => {
                if *revision > compacted || next >= *revision {
                    return Err(format!("ended as compacted at {revision}, wanting {next}; compacted is {compacted}"));
                }
            }
        }
    }
    Ok(())
}

fn is_for(watch: &Watch, event: &Event) -> bool {
    event.key().starts_with(&watch.prefix)
}

fn concerns(watch: &Watch, events: &[Event]) -> bool {
    events.iter().any(|event| is_for(watch, event))
}
