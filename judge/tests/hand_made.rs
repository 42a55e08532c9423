//! The checkers on histories made by hand: sound ones pass, and each planted violation is found.
//!
//! A generator lets clients that overlap in time talk to the model: each request happens at one moment between its beginning
//! and its end, some stay without an answer, some of these happen nevertheless. Then one thing at a time is made wrong.

use castd_judge::check::{Violation, leases, refusals, registers, revisions, truth, watches};
use castd_judge::history::{
    Answer, Compaction, CompactionOutcome, Compare, Event, History, LeaseOperation, LeaseOutcome, LeaseRequest, Log,
    Micros, Op, OpAnswer, Operation, Outcome, Pair, Refusal, Request, Told, Watch,
};
use castd_judge::model::Model;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CLIENTS: usize = 6;

/// A history and what happened.
struct Made {
    history: History,
    log: Log,
}

fn random_request(rng: &mut StdRng, model: &Model, number: usize) -> Request {
    let value = format!("v{number}");
    let register = format!("reg/{}", rng.random_range(0..3));
    let key = format!("kv/{}", rng.random_range(0..6));
    let held = |key: &str| model.get(key).map_or_else(|| "nothing".to_owned(), |pair| pair.value.clone());
    let put = |key: String| Op::Put { key, value: value.clone(), lease: 0 };
    match rng.random_range(0..14) {
        0 | 1 => Request::plain(put(register)),
        2 | 3 => Request::plain(Op::Get { key: register }),
        4 => Request::plain(Op::Delete { key: register }),
        5 => Request {
            compares: vec![Compare::Value { is: held(&register), key: register.clone() }],
            success: vec![put(register.clone())],
            failure: vec![Op::Get { key: register }],
            ..Default::default()
        },
        6 => Request::plain(put(key)),
        7 => Request::plain(Op::List { prefix: "kv/".to_owned() }),
        8 => Request::plain(Op::DeleteAll { prefix: key }),
        9 => Request { is_serializable: true, ..Request::plain(Op::Get { key }) },
        10 => Request::plain(Op::Delete { key }),
        11 => {
            let revision = rng.random_range(1..=model.revision);
            Request::plain(Op::Past { prefix: "kv/".to_owned(), revision })
        }
        12 => Request {
            success: vec![
                Op::Put { key: "kv/outer".to_owned(), value: format!("{value}.outer"), lease: 0 },
                Op::Nested(Box::new(Request {
                    // As it was before the outer put.
                    compares: vec![Compare::Value { is: held(&key), key: key.clone() }],
                    success: vec![Op::List { prefix: "kv/".to_owned() }, put(key.clone())],
                    failure: vec![Op::Delete { key }],
                    ..Default::default()
                })),
            ],
            ..Default::default()
        },
        _ => Request {
            compares: vec![Compare::Modified {
                is: model.get(&key).map_or(0, |pair| pair.modified) - rng.random_range(0..2),
                key: key.clone(),
            }],
            success: vec![
                Op::Delete { key: key.clone() },
                put(format!("kv/moved{}", rng.random_range(0..2))),
                Op::List { prefix: "kv/".to_owned() },
            ],
            failure: vec![Op::Get { key }],
            ..Default::default()
        },
    }
}

/// Requests overlap: at each moment one that is under way happens, is answered, or a new one begins.
fn made(seed: u64, requests: usize) -> Made {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut model, mut log) = (Model::default(), Log::new());
    let mut history = History::default();
    let mut under_way: Vec<Option<(Operation, bool)>> = vec![None; CLIENTS];
    let mut lost: Vec<Request> = Vec::new();
    let mut now = 0;
    let mut begun = 0;
    while begun < requests || under_way.iter().any(Option::is_some) {
        now += rng.random_range(1..50);
        let client = rng.random_range(0..CLIENTS);
        match under_way[client].take() {
            None if begun < requests => {
                begun += 1;
                let request = random_request(&mut rng, &model, begun);
                let outcome = Outcome::Unknown("unanswered".to_owned());
                let operation = Operation { client, invoked: now, returned: now, request, outcome };
                under_way[client] = Some((operation, false));
            }
            None => {}
            Some((mut operation, false)) => {
                if rng.random_range(0..12) == 0 {
                    // No answer: it happens now, later, or never.
                    match rng.random_range(0..3) {
                        0 => drop(model.request(&operation.request, &mut log)),
                        1 => lost.push(operation.request.clone()),
                        _ => {}
                    }
                    operation.returned = now;
                    history.operations.push(operation);
                } else {
                    operation.outcome = Outcome::Answered(model.request(&operation.request, &mut log));
                    under_way[client] = Some((operation, true));
                }
            }
            Some((mut operation, true)) => {
                operation.returned = now;
                history.operations.push(operation);
            }
        }
        if !lost.is_empty() && rng.random_range(0..10) == 0 {
            model.request(&lost.remove(0), &mut log);
        }
    }
    watchers(&mut rng, &mut history, &log, now);
    Made { history, log }
}

/// Two of everything and one of some keys, each with interruptions.
fn watchers(rng: &mut StdRng, history: &mut History, log: &Log, end: Micros) {
    for (watcher, prefix) in ["", "", "kv/"].into_iter().enumerate() {
        let mut watch = Watch { watcher, prefix: prefix.to_owned(), start: 2, wants_previous: true, told: Vec::new() };
        let mut model = Model::default();
        let mut gathered = Vec::new();
        for (revision, events) in log {
            for event in events.iter().filter(|event| event.key().starts_with(prefix)) {
                gathered.push((*revision, event.clone(), model.get(event.key()).cloned()));
            }
            model.change(events);
            if rng.random_range(0..4) == 0 && !gathered.is_empty() {
                watch.told.push((end, Told::Events(std::mem::take(&mut gathered))));
            }
            if gathered.is_empty() && rng.random_range(0..8) == 0 {
                watch.told.push((end, Told::Progress(*revision)));
            }
            if gathered.is_empty() && rng.random_range(0..8) == 0 {
                let next = Watch { start: watch.next_start(), told: Vec::new(), ..watch.clone() };
                history.watches.push(std::mem::replace(&mut watch, next));
            }
        }
        if !gathered.is_empty() {
            watch.told.push((end, Told::Events(gathered)));
        }
        history.watches.push(watch);
    }
}

fn check_all(made: &Made) -> Result<(revisions::Checked, registers::Checked, watches::Checked), Violation> {
    let log = truth::log_of(&made.history)?;
    let (by_revision, _) = revisions::check(&made.history, &log)?;
    let by_search = registers::check(&made.history, "reg/")?;
    let watched = watches::check(&made.history, &log, 0)?;
    Ok((by_revision, by_search, watched))
}

#[test]
fn sound_histories_pass_and_are_looked_at_as_a_whole() {
    let (mut unknown, mut registers, mut resumed) = (0, 0, 0);
    for seed in 0..60 {
        let made = made(seed, 400);
        let log = truth::log_of(&made.history).expect("watchers agree");
        assert_eq!(log, made.log, "seed {seed}");
        let (by_revision, by_search, watched) =
            check_all(&made).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(by_revision.revisions, made.log.len());
        assert!(by_revision.answered > 330, "{by_revision:?}");
        assert_eq!((by_search.keys, by_search.undecided), (3, 0), "seed {seed}");
        unknown += by_revision.unknown_found;
        registers += by_search.operations;
        resumed += watched.resumed;
        assert!(watched.events > 100 && watched.progress > 0 && watched.previous == watched.events, "{watched:?}");
    }
    assert!(unknown > 300 && registers > 5_000 && resumed > 100, "{unknown} {registers} {resumed}");
}

/// Plants something in histories of many seeds; where there was something to plant it in, it must be found.
fn is_found(what: &str, plant: impl Fn(&mut Made, &mut StdRng) -> Option<()>) {
    let mut planted = 0;
    for seed in 0..40 {
        let mut made = made(seed, 300);
        let mut rng = StdRng::seed_from_u64(seed + 1_000);
        if plant(&mut made, &mut rng).is_none() {
            continue;
        }
        planted += 1;
        assert!(check_all(&made).is_err(), "seed {seed}: {what} was not found");
    }
    assert!(planted > 20, "{what} could be planted {planted} times only");
}

/// The place of some operation for which `wanted` holds.
fn some(made: &Made, rng: &mut StdRng, wanted: impl Fn(&Operation) -> bool) -> Option<usize> {
    let places: Vec<_> = made.history.operations.iter().enumerate().filter(|(_, it)| wanted(it)).collect();
    (!places.is_empty()).then(|| places[rng.random_range(0..places.len())].0)
}

fn is_put(operation: &Operation) -> bool {
    matches!(operation.request.success[..], [Op::Put { .. }]) && operation.request.compares.is_empty()
}

fn wrote(operation: &Operation) -> bool {
    is_put(operation) && operation.answer().is_some()
}

/// Writes the history anew as if these events had happened, from the first revision on.
fn retell(made: &mut Made, log: Log) {
    made.log = (2..).zip(log.into_values()).collect();
    made.history.watches.clear();
    watchers(&mut StdRng::seed_from_u64(1), &mut made.history, &made.log, Micros::MAX - 1);
}

#[test]
fn a_lost_write_is_found() {
    is_found("a lost write", |made, rng| {
        let place = some(made, rng, wrote)?;
        let revision = made.history.operations[place].answer()?.revision;
        let mut log = made.log.clone();
        log.remove(&revision)?;
        retell(made, log);
        Some(())
    });
    is_found("the last write lost", |made, rng| {
        let mut log = made.log.clone();
        let (last, _) = log.pop_last()?;
        some(made, rng, |operation| operation.answer().is_some_and(|answer| answer.revision == last))?;
        retell(made, log);
        Some(())
    });
}

#[test]
fn a_write_that_is_done_twice_is_found() {
    is_found("an answered write done twice", |made, rng| {
        let place = some(made, rng, wrote)?;
        let revision = made.history.operations[place].answer()?.revision;
        let again = made.log.get(&revision)?.clone();
        let last = *made.log.last_key_value()?.0;
        let mut model = Model::default();
        made.log.values().for_each(|events| model.change(events));
        let Some(Event::Put(pair)) = again.into_iter().next() else { return None };
        let before = model.get(&pair.key).cloned();
        let pair = Pair {
            modified: last + 1,
            version: before.as_ref().map_or(1, |before| before.version + 1),
            created: before.map_or(last + 1, |before| before.created),
            ..pair
        };
        let mut log = made.log.clone();
        log.insert(last + 1, vec![Event::Put(pair)]);
        retell(made, log);
        Some(())
    });
    is_found("one without an answer done twice", |made, rng| {
        let place = some(made, rng, |operation| is_put(operation) && operation.answer().is_none())?;
        let request = made.history.operations[place].request.clone();
        let mut model = Model::default();
        made.log.values().for_each(|events| model.change(events));
        let mut log = made.log.clone();
        model.request(&request, &mut log);
        model.request(&request, &mut log);
        retell(made, log);
        Some(())
    });
}

#[test]
fn a_stale_read_is_found() {
    is_found("a stale read, by its revision", |made, rng| {
        // Read when it had been overwritten already, and that had been told.
        let put = some(made, rng, wrote)?;
        let put = made.history.operations[put].clone();
        let (Op::Put { key, .. }, answer) = (&put.request.success[0], put.answer()?) else { return None };
        let mut before = Model::default();
        made.log.range(..answer.revision).for_each(|(_, events)| before.change(events));
        let request = Request::plain(Op::Get { key: key.clone() });
        let outcome = Outcome::Answered(before.try_request(&request).0);
        let (invoked, returned) = (put.returned + 1, put.returned + 2);
        made.history.operations.push(Operation { client: 90, invoked, returned, request, outcome });
        Some(())
    });
}

/// The revisions are right and the values are not: only who believes no revision finds it, or who compares with the log.
#[test]
fn answers_that_no_order_explains_are_found_without_revisions() {
    let mut found = 0;
    for seed in 0..40 {
        let mut made = made(seed, 300);
        let mut rng = StdRng::seed_from_u64(seed);
        let is_read = |operation: &Operation| {
            matches!(&operation.request.success[..], [Op::Get { key }] if key.starts_with("reg/"))
                && operation.answer().is_some()
        };
        // A read of a value that was gone long before.
        let Some(place) = some(&made, &mut rng, is_read) else { continue };
        let operation = made.history.operations[place].clone();
        let Op::Get { key } = operation.request.success[0].clone() else { continue };
        let long_gone = made.history.operations.iter().filter(|other| other.answer().is_some()).find_map(|other| {
            let writes = matches!(&other.request.success[..], [Op::Put { key: of, .. }] if *of == key);
            let replaced = |by: &&Operation| {
                matches!(&by.request.success[..], [Op::Put { key: of, .. }] if *of == key)
                    && by.answer().is_some()
                    && by.invoked > other.returned
                    && by.returned < operation.invoked
            };
            let value = other.request.values().next()?.to_owned();
            (writes && wrote(other) && made.history.operations.iter().any(|by| replaced(&by))).then_some(value)
        });
        let Some(value) = long_gone else { continue };
        let Outcome::Answered(answer) = &mut made.history.operations[place].outcome else { continue };
        let pair = Pair { key, value, created: 1, modified: 1, version: 1, lease: 0 };
        answer.results = vec![OpAnswer::Got(vec![pair])];
        assert!(registers::check(&made.history, "reg/").is_err(), "seed {seed}");
        found += 1;
    }
    assert!(found > 20, "{found}");
    // A write that takes a lost update.
    let operation = |client, invoked, returned, op, result| {
        let answer = Answer { revision: 2, succeeded: true, results: vec![result] };
        Operation { client, invoked, returned, request: Request::plain(op), outcome: Outcome::Answered(answer) }
    };
    let put = |value: &str| Op::Put { key: "reg/0".to_owned(), value: value.to_owned(), lease: 0 };
    let pair = |value: &str| Pair {
        key: "reg/0".to_owned(),
        value: value.to_owned(),
        created: 2,
        modified: 2,
        version: 1,
        lease: 0,
    };
    let operations = vec![
        operation(0, 0, 10, put("a"), OpAnswer::Put { previous: None }),
        operation(1, 20, 50, put("b"), OpAnswer::Put { previous: Some(pair("a")) }),
        operation(2, 30, 60, put("c"), OpAnswer::Put { previous: Some(pair("a")) }),
    ];
    let mut history = History { operations, ..History::default() };
    assert!(registers::check(&history, "reg/").is_err(), "two writes replaced the same value");
    history.operations[2] = operation(2, 30, 60, put("c"), OpAnswer::Put { previous: Some(pair("b")) });
    assert_eq!(registers::check(&history, "reg/").map(|checked| checked.operations), Ok(3));
    // Time: the third began when the second was done.
    history.operations[1] = operation(1, 20, 25, put("b"), OpAnswer::Put { previous: Some(pair("c")) });
    history.operations[2] = operation(2, 30, 60, put("c"), OpAnswer::Put { previous: Some(pair("a")) });
    assert!(registers::check(&history, "reg/").is_err(), "the order contradicts time");
}

#[test]
fn answers_that_are_wrong_are_found() {
    is_found("a value that nobody wrote", |made, rng| {
        let is_read = |operation: &Operation| {
            operation
                .answer()
                .is_some_and(|answer| matches!(&answer.results[..], [OpAnswer::Got(pairs)] if !pairs.is_empty()))
        };
        let place = some(made, rng, is_read)?;
        let Outcome::Answered(answer) = &mut made.history.operations[place].outcome else { return None };
        let OpAnswer::Got(pairs) = &mut answer.results[0] else { return None };
        pairs[0].value = "from nowhere".to_owned();
        Some(())
    });
    is_found("a wrong pair before", |made, rng| {
        let place = some(made, rng, wrote)?;
        let Outcome::Answered(answer) = &mut made.history.operations[place].outcome else { return None };
        let OpAnswer::Put { previous } = &mut answer.results[0] else { return None };
        match previous {
            Some(pair) => pair.version += 1,
            None => {
                let (key, value) = ("kv/0".to_owned(), "x".to_owned());
                *previous = Some(Pair { key, value, created: 1, modified: 1, version: 1, lease: 0 });
            }
        }
        Some(())
    });
    is_found("a comparison that came out wrong", |made, rng| {
        let compares = |operation: &Operation| !operation.request.compares.is_empty() && operation.answer().is_some();
        let place = some(made, rng, compares)?;
        let Outcome::Answered(answer) = &mut made.history.operations[place].outcome else { return None };
        answer.succeeded = !answer.succeeded;
        Some(())
    });
    is_found("two answers with one write's revision", |made, rng| {
        let place = some(made, rng, wrote)?;
        let mut other = made.history.operations[place].clone();
        let Op::Put { value, .. } = &mut other.request.success[0] else { return None };
        "twin".clone_into(value);
        made.history.operations.push(other);
        Some(())
    });
}

#[test]
fn half_a_transaction_is_found() {
    is_found("half a transaction", |made, _| {
        let mut log = made.log.clone();
        let events = log.values_mut().find(|events| events.len() > 1)?;
        events.pop();
        retell(made, log);
        Some(())
    });
}

#[test]
fn revisions_out_of_nowhere_are_found() {
    for event in [Event::Delete { key: "kv/0".to_owned() }, Event::Delete { key: "nothing".to_owned() }] {
        is_found("a revision that nobody made", |made, _| {
            let mut model = Model::default();
            let (at, _) = made.log.iter().find(|(_, events)| {
                model.change(events);
                model.get("kv/0").is_some()
            })?;
            let at = *at;
            // Nobody without an answer may have deleted it.
            made.history.operations.retain(|operation| {
                operation.answer().is_some()
                    || !matches!(operation.request.success[0], Op::Delete { .. } | Op::DeleteAll { .. })
            });
            let mut log: Log = made.log.range(..=at).map(|(revision, events)| (*revision, events.clone())).collect();
            log.insert(at + 1, vec![event.clone()]);
            retell(made, log);
            // What came later is left out.
            made.history.operations.retain(|it| it.answer().is_none_or(|answer| answer.revision <= at));
            Some(())
        });
    }
}

#[test]
fn time_that_goes_back_is_found() {
    is_found("a write that was told before it began", |made, rng| {
        let place = some(made, rng, wrote)?;
        let end = made.history.operations.iter().map(|operation| operation.returned).max()?;
        let revision = made.history.operations[place].answer()?.revision;
        if made.log.last_key_value()?.0 == &revision {
            return None;
        }
        let answered_later = made.history.operations.iter().any(|operation| {
            operation.returned < end + 5 && operation.answer().is_some_and(|answer| answer.revision > revision)
        });
        (made.history.operations[place].invoked, made.history.operations[place].returned) = (end + 10, end + 20);
        answered_later.then_some(())
    });
    is_found("one without an answer that was told before it began", |made, _| {
        let values: Vec<&Event> = made.log.values().flatten().collect();
        let of_log = |value: &str| values.iter().any(|event| matches!(event, Event::Put(pair) if pair.value == value));
        let place = made.history.operations.iter().position(|operation| {
            is_put(operation) && operation.answer().is_none() && operation.request.values().any(of_log)
        })?;
        let value = made.history.operations[place].request.values().next()?;
        let happened = made
            .log
            .iter()
            .find(|(_, events)| events.iter().any(|event| matches!(event, Event::Put(pair) if pair.value == value)))?;
        let told = made
            .history
            .operations
            .iter()
            .filter(|operation| operation.answer().is_some_and(|answer| answer.revision >= *happened.0));
        let told = told.map(|operation| operation.returned).min()?;
        made.history.operations[place].invoked = told + 1;
        Some(())
    });
}

/// A place among the things told to some watcher, with events.
fn some_events<'a>(made: &'a mut Made, rng: &mut StdRng) -> Option<&'a mut Vec<(i64, Event, Option<Pair>)>> {
    // Not those of everything: what they say is the truth. A wrong one of them contradicts the other.
    let told = made.history.watches.iter_mut().flat_map(|watch| watch.told.iter_mut());
    let events = told.filter_map(|(_, told)| match told {
        Told::Events(events) if events.len() > 1 => Some(events),
        _ => None,
    });
    let mut events: Vec<_> = events.collect();
    (!events.is_empty()).then(|| events.swap_remove(rng.random_range(0..events.len())))
}

#[test]
fn watchers_that_were_told_wrong_things_are_found() {
    is_found("an event left out", |made, rng| {
        let events = some_events(made, rng)?;
        events.remove(rng.random_range(0..events.len()));
        Some(())
    });
    is_found("an event told twice", |made, rng| {
        let events = some_events(made, rng)?;
        let place = rng.random_range(0..events.len());
        events.insert(place, events[place].clone());
        Some(())
    });
    is_found("events out of order", |made, rng| {
        let events = some_events(made, rng)?;
        events.reverse();
        Some(())
    });
    is_found("another pair before", |made, rng| {
        let events = some_events(made, rng)?;
        let place = rng.random_range(0..events.len());
        let (key, value) = ("other".to_owned(), "x".to_owned());
        events[place].2 = Some(Pair { key, value, created: 1, modified: 1, version: 1, lease: 0 });
        Some(())
    });
    is_found("a response told again after a break", |made, rng| {
        let place = rng.random_range(0..made.history.watches.len());
        let watch = &mut made.history.watches[place];
        let told = watch.told.iter().find(|(_, told)| matches!(told, Told::Events(_)))?.clone();
        watch.told.push(told);
        Some(())
    });
    is_found("a revision in two responses", |made, _| {
        let told = made.history.watches.iter_mut().flat_map(|watch| {
            let told = &mut watch.told;
            let place = told.iter().position(|(_, told)| match told {
                Told::Events(events) => events.len() > 1 && events[0].0 == events[1].0,
                _ => false,
            })?;
            Some((told, place))
        });
        let (told, place) = { told }.next()?;
        let (at, Told::Events(events)) = told[place].clone() else { return None };
        let (first, rest) = events.split_at(1);
        told[place] = (at, Told::Events(first.to_vec()));
        told.insert(place + 1, (at, Told::Events(rest.to_vec())));
        Some(())
    });
    is_found("progress before everything was told", |made, rng| {
        let place = rng.random_range(0..made.history.watches.len());
        let watch = &mut made.history.watches[place];
        let Told::Events(events) = &watch.told.iter().find(|(_, told)| matches!(told, Told::Events(_)))?.1 else {
            return None;
        };
        let early = Told::Progress(events[0].0);
        watch.told.insert(0, (0, early));
        Some(())
    });
    is_found("progress beyond the store", |made, rng| {
        let place = rng.random_range(0..made.history.watches.len());
        let newest = *made.log.last_key_value()?.0;
        made.history.watches[place].told.push((0, Told::Progress(newest + 1)));
        Some(())
    });
    is_found("a watch ended as compacted where nothing was", |made, rng| {
        let place = rng.random_range(0..made.history.watches.len());
        made.history.watches[place].told.push((0, Told::Compacted(1_000)));
        Some(())
    });
}

#[test]
fn what_was_wrongly_refused_and_what_should_have_been_is_found() {
    let compaction =
        |revision, invoked: Micros, outcome| Compaction { revision, invoked, returned: invoked + 5, outcome };
    let past = |invoked: Micros, revision, outcome| Operation {
        client: 0,
        invoked,
        returned: invoked + 5,
        request: Request::plain(Op::Past { prefix: String::new(), revision }),
        outcome,
    };
    let put = Request::plain(Op::Put { key: "a".to_owned(), value: "x".to_owned(), lease: 0 });
    let (mut model, mut log) = (Model::default(), Log::new());
    let written = Outcome::Answered(model.request(&put, &mut log));
    let got = Outcome::Answered(Answer { revision: 2, succeeded: true, results: vec![OpAnswer::Got(Vec::new())] });
    let story = |operation: Operation, compactions: &[Compaction]| {
        let write = Operation { client: 1, invoked: 1, returned: 2, request: put.clone(), outcome: written.clone() };
        let compactions = compactions.to_vec();
        let history = History { operations: vec![write, operation], compactions, ..History::default() };
        refusals::check(&history, &log)
    };
    let refused = |refusal| Outcome::Refused(refusal);
    let (done, unknown) = (CompactionOutcome::Done, CompactionOutcome::Unknown);
    assert!(story(past(10, 1, got.clone()), &[]).is_ok());
    assert!(story(past(20, 1, got.clone()), &[compaction(2, 10, done)]).is_err(), "it is compacted");
    assert!(story(past(20, 2, got.clone()), &[compaction(2, 10, done)]).is_ok());
    assert!(story(past(12, 1, got), &[compaction(2, 10, done)]).is_ok(), "at the same time");
    assert!(story(past(12, 1, refused(Refusal::Compacted)), &[compaction(2, 10, unknown)]).is_ok());
    assert!(story(past(12, 2, refused(Refusal::Compacted)), &[compaction(2, 10, done)]).is_err(), "it is there");
    assert!(story(past(2, 1, refused(Refusal::Compacted)), &[compaction(2, 10, done)]).is_err(), "nobody had asked");
    assert!(story(past(10, 3, refused(Refusal::Future)), &[]).is_ok());
    assert!(story(past(10, 2, refused(Refusal::Future)), &[]).is_err(), "it was there");
    let twice = [compaction(2, 10, done), compaction(2, 20, done)];
    assert!(story(past(10, 3, refused(Refusal::Future)), &twice).is_err(), "compacted twice");
}

#[test]
fn a_lease_that_ends_early_is_found() {
    const SECOND: Micros = 1_000_000;
    let lease = |invoked: Micros, request, outcome| {
        let (invoked, returned) = (invoked * SECOND, invoked * SECOND + 5);
        LeaseOperation { lease: 9, invoked, returned, request, outcome }
    };
    let done = LeaseOutcome::Done { ttl_secs: 4, revision: 0 };
    let put = Request::plain(Op::Put { key: "lease/9".to_owned(), value: "x".to_owned(), lease: 9 });
    // The keys are gone at `ended`, as a watcher of everything saw.
    let story = |leases: &[LeaseOperation], ended: Micros| {
        let (mut model, mut log) = (Model::default(), Log::new());
        let answer = model.request(&put, &mut log);
        let put =
            Operation { client: 0, invoked: 1, returned: 2, request: put.clone(), outcome: Outcome::Answered(answer) };
        let Some([Event::Put(pair)]) = log.get(&2).map(Vec::as_slice) else { panic!("one event") };
        let deleted = Event::Delete { key: "lease/9".to_owned() };
        let told = vec![
            (SECOND, Told::Events(vec![(2, Event::Put(pair.clone()), None)])),
            (ended, Told::Events(vec![(3, deleted, None)])),
        ];
        let watch = Watch { watcher: 0, prefix: String::new(), start: 2, wants_previous: false, told };
        let leases = leases.to_vec();
        let history = History { operations: vec![put], leases, watches: vec![watch], ..History::default() };
        let log = truth::log_of(&history).expect("one watcher");
        let (checked, ends) = revisions::check(&history, &log).expect("a lease may end");
        assert_eq!(checked.lease_ends, 1);
        leases::check(&history, &log, &ends, leases::ClockError::default())
    };
    let granted = lease(0, LeaseRequest::Grant { ttl_secs: 4 }, done);
    let kept = lease(3, LeaseRequest::KeepAlive, done);
    let expired = |kept_alive| Ok(leases::Checked { expired: 1, kept_alive });
    assert_eq!(story(std::slice::from_ref(&granted), 4 * SECOND), expired(0));
    assert!(story(std::slice::from_ref(&granted), 4 * SECOND - 1).is_err());
    assert_eq!(story(&[granted.clone(), kept.clone()], 7 * SECOND), expired(1));
    assert!(story(&[granted.clone(), kept.clone()], 7 * SECOND - 1).is_err());
    let gone = lease(5, LeaseRequest::KeepAlive, LeaseOutcome::NotFound);
    assert!(story(&[granted.clone(), kept.clone(), gone], 9 * SECOND).is_err(), "a keepalive did not find it");
    let revoke = lease(1, LeaseRequest::Revoke, LeaseOutcome::Unknown);
    assert_eq!(story(&[granted.clone(), revoke], 2 * SECOND), Ok(leases::Checked::default()), "somebody may have");
    let lost = lease(3, LeaseRequest::KeepAlive, LeaseOutcome::Unknown);
    assert_eq!(story(&[granted, lost], 4 * SECOND), expired(0), "nobody was promised more");
    assert!(story(&[], SECOND).is_err(), "nobody asked for it");
}

/// Two deletions without an answer, of which only one can have made the first of two revisions.
#[test]
fn unanswered_deletions_are_told_apart_by_what_is_left_for_the_other() {
    let (mut model, mut log) = (Model::default(), Log::new());
    let put =
        |key: &str, value: &str| Request::plain(Op::Put { key: key.to_owned(), value: value.to_owned(), lease: 0 });
    let mut operations = Vec::new();
    let mut answered = |model: &mut Model, log: &mut Log, request: Request, at: Micros| {
        let outcome = Outcome::Answered(model.request(&request, log));
        operations.push(Operation { client: 0, invoked: at, returned: at + 1, request, outcome });
    };
    let delete_all = Request::plain(Op::DeleteAll { prefix: "a".to_owned() });
    let delete = Request::plain(Op::Delete { key: "a".to_owned() });
    answered(&mut model, &mut log, put("a", "1"), 10);
    model.request(&delete, &mut log);
    answered(&mut model, &mut log, put("a", "2"), 20);
    answered(&mut model, &mut log, put("ab", "3"), 30);
    model.request(&delete_all, &mut log);
    for request in [delete_all, delete] {
        let outcome = Outcome::Unknown("unanswered".to_owned());
        operations.push(Operation { client: 1, invoked: 1, returned: 0, request, outcome });
    }
    let history = History { operations, ..History::default() };
    let (checked, _) = revisions::check(&history, &log).expect("there is a way");
    assert_eq!(checked.unknown_found, 2);
    let only_one = History { operations: history.operations[..4].to_vec(), ..History::default() };
    assert!(revisions::check(&only_one, &log).is_err());
}
