//! A client at the key space: one request after the other, made up from what it has seen.

use super::Desk;
use super::wire;
use crate::dice::Dice;
use crate::member::edge::{Answer, Call};
use crate::seed::{Mix, Plan};
use castd_judge::history::{Compare, Micros, Op, OpAnswer, Operation, Outcome, Pair, Request};
use std::time::Duration;

/// What it remembers having seen.
const SEEN_MAX: usize = 60;

struct UnderWay {
    number: u64,
    request: Request,
    invoked: Micros,
    pause: Duration,
}

pub struct Keys {
    client: usize,
    number: u64,
    under_way: Option<UnderWay>,
    place: Option<usize>,
    /// Something to compare with.
    seen: Vec<Pair>,
    value_bytes: u64,
}

impl Keys {
    pub fn new(client: usize, plan: &Plan) -> Self {
        let value_bytes = plan.clients.value_bytes;
        Keys { client, number: 0, under_way: None, place: None, seen: Vec::new(), value_bytes }
    }

    pub fn waiting(&self) -> Option<u64> {
        self.under_way.as_ref().map(|under_way| under_way.number)
    }

    pub fn wake(&mut self, desk: &mut Desk<'_>) {
        if desk.is_stopping || self.under_way.is_some() || self.number >= desk.plan.clients.operations {
            return;
        }
        self.number += 1;
        let number = self.number;
        // Dice of its own for each request: one that is left out changes no other.
        let dice = &mut Dice::new(desk.plan.seed, "keys", (self.client as u64) << 32 | number);
        let pause = dice.time(Duration::ZERO, desk.plan.clients.pause * 2);
        let is_restless = dice.chance(20);
        if desk.plan.without_operations.contains(&(self.client, number)) {
            return desk.wake_after(pause);
        }
        let request = self.request(dice, desk);
        if is_restless {
            self.place = None;
        }
        let place = *self.place.get_or_insert_with(|| desk.some_place(dice));
        let (call, invoked) = (Call { client: self.client, number }, desk.micros());
        desk.ask(place, call, wire::ask(&request));
        self.under_way = Some(UnderWay { number, request, invoked, pause });
    }

    pub fn answered(&mut self, number: u64, answer: Option<Answer>, desk: &mut Desk<'_>) {
        let Some(UnderWay { request, invoked, pause, .. }) = self.under_way.take_if(|it| it.number == number) else {
            return;
        };
        let outcome = match &answer {
            Some(answer) => wire::outcome(answer),
            None => Outcome::Unknown("no answer in time".to_owned()),
        };
        if let Outcome::Answered(answer) = &outcome {
            *desk.newest = answer.revision.max(*desk.newest);
            *desk.answered += 1;
        }
        // Elsewhere it may be better.
        if !matches!(outcome, Outcome::Answered(_)) {
            self.place = None;
        }
        let returned = desk.micros();
        let operation = Operation { client: self.client, invoked, returned, request, outcome };
        self.remember(&operation);
        desk.history.operations.push(operation);
        desk.wake_after(pause);
    }

    fn remember(&mut self, operation: &Operation) {
        let Some(answer) = operation.answer() else { return };
        for result in &answer.results {
            if let OpAnswer::Got(pairs) = result {
                self.seen.extend(pairs.first().cloned());
            }
        }
        if let ([Op::Put { key, value, .. }], true) = (&operation.request.success[..], answer.succeeded) {
            let (created, version, modified) = (0, 0, answer.revision);
            self.seen.push(Pair { key: key.clone(), value: value.clone(), created, modified, version, lease: 0 });
        }
        let superfluous = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..superfluous);
    }

    fn seen(&self, key: &str) -> Option<&Pair> {
        self.seen.iter().rev().find(|pair| pair.key == key)
    }

    /// Each is written by one request only.
    fn value(&self, dice: &mut Dice, part: &str) -> String {
        let usual = self.value_bytes as usize;
        let filler = if dice.chance(10) { usual * 4 } else { dice.index(usual).min(dice.index(usual * 2)) };
        format!("{}.{}{part}{}", self.client, self.number, "~".repeat(filler))
    }

    fn put(&self, dice: &mut Dice, key: &str, part: &str) -> Op {
        Op::Put { key: key.to_owned(), value: self.value(dice, part), lease: 0 }
    }

    fn request(&self, dice: &mut Dice, desk: &Desk<'_>) -> Request {
        let (mix, distinct) = (&desk.plan.mix, desk.plan.clients.distinct_keys);
        let Mix { put, get, past, delete, txn, nested, serializable } = mix;
        let weights = [*put, *get, *past, *delete, *txn, *nested, *serializable];
        let mut thrown = dice.below(weights.iter().sum());
        let mut what = 0;
        while thrown >= weights[what] {
            thrown -= weights[what];
            what += 1;
        }
        let register = format!("reg/{}", dice.below(distinct.min(6)));
        let key = format!("kv/{}", dice.below(distinct));
        let is_register = dice.chance(500);
        match what {
            0 if is_register => Request::plain(self.put(dice, &register, "")),
            0 => Request::plain(self.put(dice, &key, "")),
            1 if is_register => Request::plain(Op::Get { key: register }),
            1 if dice.chance(700) => Request::plain(Op::Get { key }),
            1 => Request::plain(Op::List { prefix: "kv/".to_owned() }),
            2 => Request::plain(some_past(dice, *desk.newest)),
            3 if is_register => Request::plain(Op::Delete { key: register }),
            3 if dice.chance(700) => Request::plain(Op::Delete { key }),
            3 => Request::plain(Op::DeleteAll { prefix: format!("kv/{}", dice.below(3)) }),
            4 if is_register => self.swap(dice, register),
            4 => self.txn(dice, key, desk),
            5 => self.nested(dice, key),
            _ if dice.chance(600) => Request { is_serializable: true, ..Request::plain(Op::Get { key }) },
            _ => Request { is_serializable: true, ..Request::plain(Op::List { prefix: "kv/".to_owned() }) },
        }
    }

    fn swap(&self, dice: &mut Dice, register: String) -> Request {
        let is = self.seen(&register).map_or_else(|| "nothing".to_owned(), |pair| pair.value.clone());
        Request {
            compares: vec![Compare::Value { key: register.clone(), is }],
            success: vec![self.put(dice, &register, "")],
            failure: vec![Op::Get { key: register }],
            ..Default::default()
        }
    }

    fn txn(&self, dice: &mut Dice, key: String, desk: &Desk<'_>) -> Request {
        let unchanged = Compare::Modified { is: self.seen(&key).map_or(0, |pair| pair.modified), key: key.clone() };
        match dice.below(5) {
            0 => Request {
                compares: vec![unchanged],
                success: vec![self.put(dice, &key, "")],
                failure: vec![Op::Get { key }],
                ..Default::default()
            },
            // Two counters that move together, and a look at all of it in the middle.
            1 => Request {
                success: vec![
                    self.put(dice, "kv/left", "l"),
                    Op::List { prefix: "kv/".to_owned() },
                    self.put(dice, "kv/right", "r"),
                ],
                ..Default::default()
            },
            // A write together with a look at the past, which may be compacted: all or nothing.
            2 => {
                Request { success: vec![self.put(dice, &key, ""), some_past(dice, *desk.newest)], ..Default::default() }
            }
            3 => Request {
                success: vec![Op::Get { key: "kv/left".to_owned() }, Op::Get { key: "kv/right".to_owned() }],
                ..Default::default()
            },
            _ => {
                let to = format!("kv/moved{}", dice.below(3));
                Request {
                    compares: vec![unchanged],
                    success: vec![Op::Delete { key: key.clone() }, self.put(dice, &to, "")],
                    failure: vec![Op::Get { key }, Op::Get { key: to }],
                    ..Default::default()
                }
            }
        }
    }

    fn nested(&self, dice: &mut Dice, key: String) -> Request {
        let is = self.seen(&key).map_or_else(|| "nothing".to_owned(), |pair| pair.value.clone());
        let inner = Request {
            compares: vec![Compare::Value { key: key.clone(), is }],
            success: vec![self.put(dice, &key, "i")],
            failure: vec![Op::Delete { key: key.clone() }, Op::List { prefix: "kv/".to_owned() }],
            ..Default::default()
        };
        let middle = Request {
            compares: vec![Compare::Modified { key: "kv/outer".to_owned(), is: 0 }],
            success: vec![Op::Get { key: "kv/outer".to_owned() }],
            failure: vec![Op::Nested(Box::new(inner)), Op::Get { key }],
            ..Default::default()
        };
        Request { success: vec![self.put(dice, "kv/outer", "o"), Op::Nested(Box::new(middle))], ..Default::default() }
    }
}

/// Somewhere around what is known: long ago, lately, or a little ahead.
fn some_past(dice: &mut Dice, newest: i64) -> Op {
    let prefix = (*dice.pick(&["kv/", "reg/", ""])).to_owned();
    let back = match dice.below(10) {
        0 => -(dice.below(3) as i64),
        1..6 => dice.below(10) as i64,
        _ => dice.below(300) as i64,
    };
    Op::Past { prefix, revision: (newest - back).max(1) }
}
