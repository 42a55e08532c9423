//! Linearizability of single keys, by search: which order of the requests explains all answers? No revision is believed.
//!
//! Wing and Gong's search with Lowe's memory of what was tried (the requests done so far, and the value). Linearizability
//! is local, so keys may be looked at one by one, as long as no request touches two of them.
//!
//! Answers say what was there before, also those of writes. So a write without an answer whose value nobody ever saw
//! explains nothing, and is left out: it may have happened at the end.

use super::Violation;
use crate::history::{Answer, Compare, History, Micros, Op, OpAnswer, Operation, Outcome, Pair, Request};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Steps of the search for one key, before it counts as not decided.
const STEPS_MAX: usize = 2_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub keys: usize,
    pub operations: usize,
    /// Keys for which the search took too long.
    pub undecided: usize,
}

/// 0 for no value.
type Value = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    Write(Value),
    Delete,
    Swap { expected: Value, new: Value },
}

/// A request to one key.
#[derive(Clone, Copy, Debug)]
struct Action {
    invoked: Micros,
    /// The end of time for one without an answer.
    returned: Micros,
    call: Call,
    /// What was there before, and whether it did what it wanted; `None` if nobody knows.
    saw: Option<(Value, bool)>,
    place: usize,
}

/// Looks at the keys that begin with `prefix`. Requests that touch several keys must keep away from those.
pub fn check(history: &History, prefix: &str) -> Result<Checked, Violation> {
    let mut by_key: BTreeMap<&str, Vec<(usize, &Operation)>> = BTreeMap::new();
    for (place, operation) in history.operations.iter().enumerate() {
        let serves = !operation.request.is_serializable && !matches!(operation.outcome, Outcome::Refused(_));
        if let Some(key) = only_key(&operation.request).filter(|key| serves && key.starts_with(prefix)) {
            by_key.entry(key).or_default().push((place, operation));
        }
    }
    let mut checked = Checked::default();
    for (key, operations) in by_key {
        let actions = actions(&operations);
        match search(&actions) {
            Found::Order => {
                checked.keys += 1;
                checked.operations += actions.len();
            }
            Found::TooLong => checked.undecided += 1,
            Found::None { longest } => {
                let stuck: Vec<_> = longest.iter().map(|place| &history.operations[*place]).collect();
                return Err(format!("no order of the requests to {key} explains their answers; stuck at {stuck:#?}"));
            }
        }
    }
    Ok(checked)
}

/// The key, if the request touches one only.
fn only_key(request: &Request) -> Option<&str> {
    let of_op = |op: &Op| match op {
        Op::Get { key } | Op::Put { key, .. } | Op::Delete { key } => Some(key.clone()),
        Op::List { .. } | Op::DeleteAll { .. } | Op::Past { .. } | Op::Nested(_) => None,
    };
    let ops: Option<BTreeSet<String>> = request.success.iter().chain(&request.failure).map(of_op).collect();
    let key = match request.success.first()? {
        Op::Get { key } | Op::Put { key, .. } | Op::Delete { key } => key,
        Op::List { .. } | Op::DeleteAll { .. } | Op::Past { .. } | Op::Nested(_) => return None,
    };
    let is_only = ops?.len() == 1 && request.compares.iter().all(|compare| compare.key() == key);
    is_only.then_some(key)
}

fn actions(operations: &[(usize, &Operation)]) -> Vec<Action> {
    let mut numbers: HashMap<String, Value> = HashMap::new();
    let mut number = |value: &str| {
        let next = numbers.len() as Value + 1;
        *numbers.entry(value.to_owned()).or_insert(next)
    };
    let mut actions: Vec<Action> = operations
        .iter()
        .map(|(place, operation)| {
            let call = match (&operation.request.compares[..], &operation.request.success[..]) {
                ([], [Op::Get { .. }]) => Call::Read,
                ([], [Op::Put { value, .. }]) => Call::Write(number(value)),
                ([], [Op::Delete { .. }]) => Call::Delete,
                ([Compare::Value { is, .. }], [Op::Put { value, .. }]) => {
                    Call::Swap { expected: number(is), new: number(value) }
                }
                other => panic!("a request to a register is one of four kinds, not {other:?}"),
            };
            let mut of = |pair: Option<&Pair>| pair.map_or(0, |pair| number(&pair.value));
            let saw = operation.answer().map(|Answer { succeeded, results, .. }| match &results[..] {
                [OpAnswer::Got(pairs)] => (of(pairs.first()), *succeeded),
                [OpAnswer::Put { previous }] => (of(previous.as_ref()), *succeeded),
                [OpAnswer::Deleted(pairs)] => (of(pairs.first()), *succeeded),
                other => panic!("a request to a register has one answer, not {other:?}"),
            });
            let returned = if saw.is_some() { operation.returned } else { Micros::MAX };
            Action { invoked: operation.invoked, returned, call, saw, place: *place }
        })
        .collect();
    let mut seen: BTreeSet<Value> = actions.iter().filter_map(|action| Some(action.saw?.0)).collect();
    // A swap whose value was seen found what it expected, and so saw that.
    loop {
        let found = actions.iter().filter_map(|action| match (action.saw, action.call) {
            (None, Call::Swap { expected, new }) => {
                (seen.contains(&new) && !seen.contains(&expected)).then_some(expected)
            }
            _ => None,
        });
        let Some(found) = { found }.next() else { break };
        seen.insert(found);
    }
    actions.retain(|action| match (action.saw, action.call) {
        (None, Call::Read) => false,
        (None, Call::Write(value) | Call::Swap { new: value, .. }) => seen.contains(&value),
        // A deletion is seen as nothing.
        (None, Call::Delete) => seen.contains(&0),
        (Some(_), _) => true,
    });
    actions
}

/// The value afterwards, if the action may happen at `value`.
fn step(action: &Action, value: Value) -> Option<Value> {
    let (after, succeeds) = match action.call {
        Call::Read => (value, true),
        Call::Write(new) => (new, true),
        Call::Delete => (0, true),
        Call::Swap { expected, new } if value == expected => (new, true),
        Call::Swap { .. } => (value, false),
    };
    action.saw.is_none_or(|saw| saw == (value, succeeds)).then_some(after)
}

enum Found {
    Order,
    /// The places of those that could not be put behind the longest order that was found.
    None {
        longest: Vec<usize>,
    },
    TooLong,
}

/// Beginnings and ends in the order of time, as a list from which actions are taken out and put back.
struct Line {
    next: Vec<usize>,
    before: Vec<usize>,
    /// Which action begins or ends here.
    what: Vec<Option<(usize, bool)>>,
    ends: Vec<usize>,
}

const HEAD: usize = 0;

impl Line {
    fn new(actions: &[Action]) -> Self {
        // At one moment, beginnings come first: who ended at the moment another began is not before it.
        let mut moments: Vec<(Micros, bool, usize)> = Vec::new();
        for (action, Action { invoked, returned, .. }) in actions.iter().enumerate() {
            moments.push((*invoked, false, action));
            moments.push((*returned, true, action));
        }
        moments.sort_unstable();
        let length = moments.len() + 1;
        let mut ends = vec![0; actions.len()];
        let mut what = vec![None];
        for (place, (_, is_end, action)) in moments.into_iter().enumerate() {
            if is_end {
                ends[action] = place + 1;
            }
            what.push(Some((action, is_end)));
        }
        let next = (1..=length).map(|place| place % length).collect();
        let before = (0..length).map(|place| (place + length - 1) % length).collect();
        Line { next, before, what, ends }
    }

    fn cut(&mut self, place: usize) {
        let (before, next) = (self.before[place], self.next[place]);
        self.next[before] = next;
        self.before[next] = before;
    }

    fn mend(&mut self, place: usize) {
        let (before, next) = (self.before[place], self.next[place]);
        self.next[before] = place;
        self.before[next] = place;
    }
}

fn search(actions: &[Action]) -> Found {
    let mut line = Line::new(actions);
    let mut done = vec![0_u64; actions.len().div_ceil(64)];
    let mut tried: HashSet<(Vec<u64>, Value)> = HashSet::new();
    let mut taken: Vec<(usize, Value)> = Vec::new();
    let mut value = 0;
    let mut at = line.next[HEAD];
    let mut longest = Vec::new();
    let mut most_taken = 0;
    for _ in 0..STEPS_MAX {
        if line.next[HEAD] == HEAD {
            return Found::Order;
        }
        let begins = line.what[at].filter(|(action, is_end)| !is_end && at != HEAD && *action < actions.len());
        if let Some((action, _)) = begins {
            if let Some(after) = step(&actions[action], value) {
                done[action / 64] |= 1 << (action % 64);
                if tried.insert((done.clone(), after)) {
                    taken.push((at, value));
                    value = after;
                    line.cut(at);
                    line.cut(line.ends[action]);
                    at = line.next[HEAD];
                    continue;
                }
                done[action / 64] &= !(1 << (action % 64));
            }
            at = line.next[at];
            continue;
        }
        // The end of one that has not been put into the order: something before was wrong.
        if taken.len() >= most_taken {
            most_taken = taken.len();
            longest = candidates(&line, actions);
        }
        let Some((place, before)) = taken.pop() else { return Found::None { longest } };
        let Some((action, _)) = line.what[place] else { return Found::None { longest } };
        value = before;
        done[action / 64] &= !(1 << (action % 64));
        line.mend(line.ends[action]);
        line.mend(place);
        at = line.next[place];
    }
    Found::TooLong
}

/// Those that could come next.
fn candidates(line: &Line, actions: &[Action]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut at = line.next[HEAD];
    while let Some((action, false)) = line.what[at] {
        places.push(actions[action].place);
        at = line.next[at];
    }
    places
}
