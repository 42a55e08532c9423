//! Who gets a turn when: the seed's word, in the place of threads. Notes every turn.

use super::{Ending, Script};
use crate::dice::Dice;
use castd::telemetry::clock::Clock;
use castd::wiring::{Turn, Turns};
use parking_lot::Mutex;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub struct Stage {
    clock: Clock,
    later: u32,
    pauses: u32,
    pause_max: Duration,
    state: Arc<Mutex<State>>,
}

struct State {
    dice: Dice,
    is_calm: bool,
    turns: u64,
    hasher: DefaultHasher,
    ending: Option<Ending>,
    /// Its turns are counted from when the clients begin.
    has_begun: bool,
    ended: Option<usize>,
}

struct Seat {
    stage: Stage,
    place: usize,
}

impl Stage {
    pub fn new(script: &Script, clock: Clock) -> Self {
        let state = State {
            dice: Dice::new(script.seed, "turns", 0),
            is_calm: false,
            turns: 0,
            hasher: DefaultHasher::new(),
            ending: script.ending,
            has_begun: false,
            ended: None,
        };
        let Script { later, pauses, pause_max, .. } = *script;
        Stage { clock, later, pauses, pause_max, state: Arc::new(Mutex::new(state)) }
    }

    pub fn turns_of(&self, place: usize) -> Arc<dyn Turns> {
        Arc::new(Seat { stage: self.clone(), place })
    }

    pub fn begin_ending(&self) {
        self.state.lock().has_begun = true;
    }

    /// From now on every turn comes at once, and nobody ends who has not.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.is_calm = true;
        state.ending = None;
    }

    /// The member that has lost an actor.
    pub fn ended(&self) -> Option<usize> {
        self.state.lock().ended
    }

    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    pub fn trace(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.turns, state.hasher.finish())
    }
}

impl Turns for Seat {
    fn next(&self, actor: &'static str) -> Turn {
        let Seat { stage, place } = self;
        let mut state = stage.state.lock();
        state.turns += 1;
        let line = (stage.clock.now(), *place, actor);
        line.hash(&mut state.hasher);
        if state.has_begun
            && let Some(ending) = &mut state.ending
            && ending.place == *place
            && actor.ends_with(ending.actor)
        {
            let is_panic = ending.is_panic;
            if ending.turn > 0 {
                ending.turn -= 1;
            } else {
                state.ending = None;
                state.ended = Some(*place);
                drop(state);
                assert!(!is_panic, "the bug that the script wants");
                return Turn::Never;
            }
        }
        if state.is_calm {
            return Turn::Now;
        }
        if state.dice.chance(stage.pauses) {
            // Seldom one that costs the leadership.
            let max = if state.dice.chance(2) { Duration::from_millis(1_500) } else { stage.pause_max };
            return Turn::After(state.dice.time(Duration::ZERO, max));
        }
        if state.dice.chance(stage.later) { Turn::Later } else { Turn::Now }
    }
}
