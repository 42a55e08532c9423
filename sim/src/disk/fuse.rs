//! What ends a member's work on its disk: the power that goes at a chosen step, right before it or right after it, and a disk
//! that answers with errors.
//!
//! ```text
//!   write ─▶ step ─▶ step ─▶ … ─▶ blown ─▶ the member ends, whatever it wanted to tell ─▶ crash: what was not synced may be lost
//!                      └── in trouble ─▶ an error ─▶ the process ends, the machine goes on ─▶ it tries to start again
//! ```

use castd::raft::log::LogError;
use castd_backend_api::BackendError;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The disk has gone, or says no.
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

/// What a disk answers with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Read,
    Write,
    /// And what was to be synced passes for clean.
    Sync,
    /// There is no space left.
    Full,
}

#[derive(Debug, Default)]
struct State {
    steps: u64,
    /// After so many more steps; and whether the last of them is done.
    blows: Option<(u64, bool)>,
    is_blown: bool,
    troubles: BTreeSet<Trouble>,
    /// Somebody was answered with an error since the process began.
    has_failed: bool,
}

/// Shared by everything that a member has on its disk.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<Mutex<State>>);

impl Fuse {
    /// A step that changes what is on disk, or makes it durable.
    pub fn step<T, E: From<Gone>>(&self, step: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if !self.is_blown() && (self.fails(Trouble::Write) || self.fails(Trouble::Full)) {
            return Err(Gone.into());
        }
        if self.pass() { step() } else { Err(Gone.into()) }
    }

    /// Whether the next step is done.
    pub fn pass(&self) -> bool {
        let state = &mut *self.0.lock();
        if state.is_blown {
            return false;
        }
        state.steps += 1;
        match &mut state.blows {
            Some((0, is_done)) => {
                state.is_blown = true;
                *is_done
            }
            Some((left, _)) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Whether the disk answers with an error instead.
    pub fn fails(&self, trouble: Trouble) -> bool {
        let state = &mut *self.0.lock();
        let fails = state.troubles.contains(&trouble);
        state.has_failed |= fails;
        fails
    }

    pub fn begin_trouble(&self, trouble: Trouble) {
        self.0.lock().troubles.insert(trouble);
    }

    pub fn end_trouble(&self, trouble: Trouble) {
        self.0.lock().troubles.remove(&trouble);
    }

    pub fn has_failed(&self) -> bool {
        self.0.lock().has_failed
    }

    pub fn blow_after(&self, steps: u64, is_last_done: bool) {
        self.0.lock().blows = Some((steps, is_last_done));
    }

    pub fn is_blown(&self) -> bool {
        self.0.lock().is_blown
    }

    /// Another process begins, with power; what troubles the disk has it keeps.
    pub fn mend(&self) {
        let state = &mut *self.0.lock();
        (state.is_blown, state.blows, state.has_failed) = (false, None, false);
    }

    /// And a sound disk.
    pub fn replace(&self) {
        self.mend();
        self.0.lock().troubles.clear();
    }

    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }
}
