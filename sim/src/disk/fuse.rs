//! Ends a member at a chosen step of its disk: right before it, or right after it; nothing works from then on.
//!
//! ```text
//!   write ─▶ step ─▶ step ─▶ … ─▶ blown ─▶ the member ends, whatever it wanted to tell ─▶ crash: what was not synced may be lost
//! ```

use castd::raft::log::LogError;
use castd_backend_api::BackendError;
use parking_lot::Mutex;
use std::sync::Arc;

/// The disk has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulated disk has gone")]
pub struct Gone;

impl From<Gone> for LogError {
    fn from(_: Gone) -> Self {
        LogError::SimulatedFailure
    }
}

impl From<Gone> for BackendError {
    fn from(gone: Gone) -> Self {
        BackendError::Engine { engine: "simulated", operation: "any", source: Box::new(gone) }
    }
}

#[derive(Debug, Default)]
struct State {
    steps: u64,
    /// After so many more steps; and whether the last of them is done.
    blows: Option<(u64, bool)>,
    is_blown: bool,
}

/// Shared by everything that a member has on its disk.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<Mutex<State>>);

impl Fuse {
    /// A step that changes what is on disk, or makes it durable.
    pub fn step<T, E: From<Gone>>(&self, step: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let is_last = {
            let state = &mut *self.0.lock();
            if state.is_blown {
                return Err(Gone.into());
            }
            state.steps += 1;
            match &mut state.blows {
                Some((0, is_done)) => Some(*is_done),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        match is_last {
            None => step(),
            Some(is_done) => {
                self.0.lock().is_blown = true;
                if is_done { step() } else { Err(Gone.into()) }
            }
        }
    }

    pub fn blow_after(&self, steps: u64, is_last_done: bool) {
        self.0.lock().blows = Some((steps, is_last_done));
    }

    pub fn is_blown(&self) -> bool {
        self.0.lock().is_blown
    }

    /// A new one is in its place.
    pub fn mend(&self) {
        let state = &mut *self.0.lock();
        (state.is_blown, state.blows) = (false, None);
    }

    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }
}
