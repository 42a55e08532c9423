//! One run of one plan, and what becomes of a panic in it.

use crate::seed::Plan;
use crate::world::{Run, World};
use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// A run in which something was wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    /// The newest lines of its trace.
    pub tail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, what, tail } = self;
        write!(
            f,
            "{tail}\nseed {seed} failed: {what}\nagain: cargo run --release -p castd-sim -- --seed {seed} --trace"
        )
    }
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_IN_WORLD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Panics in worlds are failures, not text on a screen.
fn listen_to_panics() {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_IN_WORLD.get() {
                return before(info);
            }
            let text = info.payload().downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| info.payload().downcast_ref::<&str>().copied()).unwrap_or("a panic");
            let at = info.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
            SAID.set(Some(format!("{text}{at}")));
        }));
    });
}

/// Runs the plan to its end.
///
/// # Errors
/// What was wrong, whoever found it: a check here, a judge, or an assertion in a core.
pub fn run(plan: Plan, is_printed: bool) -> Result<Run, Box<Failure>> {
    listen_to_panics();
    let seed = plan.seed;
    let mut world = Some(World::new(plan, is_printed));
    IS_IN_WORLD.set(true);
    let ran = panic::catch_unwind(AssertUnwindSafe(|| world.as_mut().map(World::run)));
    IS_IN_WORLD.set(false);
    match ran {
        Ok(Some(run)) => Ok(run),
        Ok(None) | Err(_) => {
            let what = SAID.take().unwrap_or_else(|| "a panic".to_owned());
            let tail = world.map(|world| world.tail()).unwrap_or_default();
            Err(Box::new(Failure { seed, what, tail }))
        }
    }
}
