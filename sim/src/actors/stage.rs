//! Who gets a turn when, and when slow work is done: the seed's word, in the place of threads. Notes every turn.

use super::{End, Ending, Script};
use crate::dice::Dice;
use castd::actors::errands::{Errand, RunsErrands};
use castd::telemetry::clock::Clock;
use castd::wiring::{Turn, Turns};
use parking_lot::Mutex;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Longer than any script.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

#[derive(Clone)]
pub struct Stage {
    clock: Clock,
    later: u32,
    pauses: u32,
    pause_max: Duration,
    is_traced: bool,
    state: Arc<Mutex<State>>,
}

struct State {
    dice: Dice,
    errand_dice: Dice,
    is_calm: bool,
    turns: u64,
    errands: u64,
    hasher: DefaultHasher,
    ending: Option<Ending>,
    /// Its turns are counted from when the clients begin.
    has_begun: bool,
    ended: Option<usize>,
}

/// Of one member.
pub struct Seat {
    stage: Stage,
    place: usize,
}

impl Stage {
    pub fn new(script: &Script, clock: Clock) -> Self {
        let state = State {
            dice: Dice::new(script.seed, "turns", 0),
            errand_dice: Dice::new(script.seed, "errands", 0),
            is_calm: false,
            turns: 0,
            errands: 0,
            hasher: DefaultHasher::new(),
            ending: script.ending,
            has_begun: false,
            ended: None,
        };
        let Script { later, pauses, pause_max, is_traced, .. } = *script;
        Stage { clock, later, pauses, pause_max, is_traced, state: Arc::new(Mutex::new(state)) }
    }

    fn note(&self, state: &mut State, place: usize, what: &str) {
        let now = self.clock.now();
        (now, place, what).hash(&mut state.hasher);
        if self.is_traced {
            println!("{now:>16?} member {} {}", place + 1, what.rsplit("::").next().unwrap_or(what));
        }
    }

    pub fn seat(&self, place: usize) -> Arc<Seat> {
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

    /// Slow work that was done.
    pub fn errands(&self) -> u64 {
        self.state.lock().errands
    }

    /// How many turns there were, and a hash over who had them when.
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
        stage.note(&mut state, *place, actor);
        if state.has_begun
            && let Some(ending) = &mut state.ending
            && ending.place == *place
            && actor.ends_with(ending.actor)
        {
            let end = ending.end;
            if ending.turn > 0 {
                ending.turn -= 1;
            } else {
                state.ending = None;
                // One that is stuck is no excuse.
                state.ended = (end != End::Stuck).then_some(*place);
                drop(state);
                return match end {
                    End::Gone => Turn::Never,
                    End::Stuck => Turn::After(FOR_EVER),
                    End::Panic => panic!("the bug that the script wants"),
                };
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

impl RunsErrands for Seat {
    fn run(&self, errand: Errand) {
        let Seat { stage, place } = self;
        let mut state = stage.state.lock();
        state.errands += 1;
        stage.note(&mut state, *place, "errand");
        let max = if state.is_calm { Duration::ZERO } else { stage.pause_max };
        let pause = state.errand_dice.time(Duration::ZERO, max);
        actix::spawn(async move {
            tokio::time::sleep(pause).await;
            errand();
        });
    }
}
