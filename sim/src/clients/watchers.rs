//! A watcher that writes down what it is told, and goes on elsewhere where it was when its member goes, or just so.

use super::wire::{pair, prefix_end, range_start};
use super::{Desk, Move};
use crate::dice::Dice;
use crate::member::watch_hub::Shown;
use crate::seed::Plan;
use castd_judge::history::{Event, History, Told, Watch};
use castd_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use castd_proto::mvccpb::event::EventType;
use std::time::Duration;

/// How often it looks whether there was any news; without, it asks for progress, and the next time it goes elsewhere.
const LOOKS: Duration = Duration::from_millis(400);

/// Watchers are numbered anew after a compaction has ended one: what comes then is not the rest of what was before.
const LIVES: usize = 1_000;

/// How far ahead some watchers begin.
const AHEAD_MAX: u64 = 30;

struct Life {
    place: usize,
    session: u64,
    watch: Watch,
    /// Responses that it takes before it goes elsewhere.
    patience: u64,
    has_news: bool,
    /// Events of fragments whose last is still to come.
    gathered: Vec<castd_proto::mvccpb::Event>,
}

pub struct Watcher {
    prefix: String,
    wants_previous: bool,
    is_fragmented: bool,
    /// It begins anew, now and then, with revisions that are still to come.
    looks_ahead: bool,
    number: usize,
    next: i64,
    sessions: u64,
    life: Option<Life>,
    told: Vec<Watch>,
    dice: Dice,
}

impl Watcher {
    pub fn new(client: usize, which: usize, plan: &Plan) -> Self {
        let mut dice = Dice::new(plan.seed, "watcher", client as u64);
        // The first sees everything, so that all of it is seen by somebody.
        let prefix = if which == 0 { "" } else { *dice.pick(&["", "kv/", "reg/", "lease/"]) };
        Watcher {
            prefix: prefix.to_owned(),
            wants_previous: dice.chance(600),
            is_fragmented: dice.chance(400),
            looks_ahead: which > 0,
            number: client * LIVES,
            next: 2,
            sessions: 0,
            life: None,
            told: Vec::new(),
            dice,
        }
    }

    pub fn has_reached(&self, revision: i64) -> bool {
        self.next > revision
    }

    pub fn describe(&self) -> String {
        let at = self.life.as_ref().map(|life| (life.place, life.session));
        format!("watches {:?} from {}, at {at:?}", self.prefix, self.next)
    }

    /// Looks whether all is well.
    pub fn wake(&mut self, desk: &mut Desk<'_>) {
        desk.wake_after(LOOKS);
        match &mut self.life {
            Some(life) if life.has_news => life.has_news = false,
            Some(life) if !self.dice.chance(300) => {
                desk.moves.push(Move::AskProgress { place: life.place, session: life.session });
            }
            Some(_) => {
                self.leave(desk);
                if self.looks_ahead && self.dice.chance(400) {
                    // As another one, which wants nothing of what is or was.
                    self.next = self.next.max(*desk.newest + 1 + self.dice.below(AHEAD_MAX) as i64);
                    self.number += 1;
                }
                self.open(desk);
            }
            None => self.open(desk),
        }
    }

    fn open(&mut self, desk: &mut Desk<'_>) {
        self.sessions += 1;
        let (place, session) = (desk.some_place(&mut self.dice), self.sessions);
        let create = WatchCreateRequest {
            key: range_start(&self.prefix).into(),
            range_end: prefix_end(&self.prefix).into(),
            start_revision: self.next,
            prev_kv: self.wants_previous,
            fragment: self.is_fragmented,
            progress_notify: self.dice.chance(500),
            ..Default::default()
        };
        let fragment_bytes = if self.is_fragmented { 300 } else { usize::MAX };
        desk.moves.push(Move::Watch { place, session, create: Box::new(create), fragment_bytes });
        let (watcher, prefix, start) = (self.number, self.prefix.clone(), self.next);
        let watch = Watch { watcher, prefix, start, wants_previous: self.wants_previous, told: Vec::new() };
        // Some lives are short.
        let patience = if self.dice.chance(300) { self.dice.between(1, 30) } else { u64::MAX };
        self.life = Some(Life { place, session, watch, patience, has_news: true, gathered: Vec::new() });
    }

    fn leave(&mut self, desk: &mut Desk<'_>) {
        if let Some(Life { place, session, watch, .. }) = self.life.take() {
            desk.moves.push(Move::Unwatch { place, session });
            self.told.push(watch);
        }
    }

    pub fn shown(&mut self, session: u64, shown: Shown, desk: &mut Desk<'_>) {
        let Some(life) = self.life.as_mut().filter(|life| life.session == session) else { return };
        let Shown::Response(response) = shown else { return self.leave(desk) };
        life.has_news = true;
        life.patience = life.patience.saturating_sub(1);
        let is_over = response.canceled || life.patience == 0;
        let Some(told) = told(*response, &mut life.gathered) else {
            if is_over && life.gathered.is_empty() {
                self.leave(desk);
            }
            return;
        };
        let at = desk.micros();
        if let Told::Compacted(compacted) = told {
            // What is missing is nobody's any more: it begins as another one.
            life.watch.told.push((at, told));
            self.next = compacted.max(self.next);
            self.number += 1;
        } else {
            life.watch.told.push((at, told));
            self.next = life.watch.next_start();
        }
        *desk.newest = (self.next - 1).max(*desk.newest);
        if is_over {
            self.leave(desk);
        }
    }

    pub fn finish(&mut self, history: &mut History) {
        history.watches.append(&mut self.told);
        history.watches.extend(self.life.take().map(|life| life.watch));
    }
}

fn told(response: WatchResponse, gathered: &mut Vec<castd_proto::mvccpb::Event>) -> Option<Told> {
    if response.canceled {
        assert!(gathered.is_empty(), "a watch was cancelled in the middle of a response");
        assert!(response.compact_revision > 0, "nobody has cancelled the watch: {response:?}");
        return Some(Told::Compacted(response.compact_revision));
    }
    if response.created {
        return None;
    }
    if response.events.is_empty() {
        assert!(gathered.is_empty(), "progress in the middle of a response");
        return Some(Told::Progress(super::wire::revision(response.header.as_ref())));
    }
    gathered.extend(response.events);
    if response.fragment {
        return None;
    }
    let events = std::mem::take(gathered).into_iter().map(|event| {
        let is_delete = event.r#type() == EventType::Delete;
        let kv = event.kv.as_ref().map(pair).expect("an event has a pair");
        let previous = event.prev_kv.as_ref().map(pair);
        let revision = kv.modified;
        let event = if is_delete { Event::Delete { key: kv.key } } else { Event::Put(kv) };
        (revision, event, previous)
    });
    Some(Told::Events(events.collect()))
}
