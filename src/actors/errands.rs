//! Work that takes longer than an actor's turn may: done elsewhere, where it may wait for a disk.
//!
//! ```text
//!   actor ──work──▶ Errands ──▶ a thread ──what came of it──▶ the actor's mailbox
//! ```
//! Where a whole cast is on its caller's thread (`wiring::start_here`), the caller does the errands, and says when.

use std::io;
use std::sync::Arc;

pub type Errand = Box<dyn FnOnce() + Send>;

/// Does errands in the place of threads.
pub trait RunsErrands: Send + Sync {
    fn run(&self, errand: Errand);
}

#[derive(Clone)]
pub enum Errands {
    OnThreads,
    By(Arc<dyn RunsErrands>),
}

impl Errands {
    /// On a thread of its own.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn long(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match self {
            Errands::OnThreads => std::thread::Builder::new().name(name.into()).spawn(work).map(drop),
            Errands::By(other) => {
                other.run(Box::new(work));
                Ok(())
            }
        }
    }

    /// On one of the threads that the caller's runtime keeps for it.
    pub fn short(&self, work: impl FnOnce() + Send + 'static) {
        match self {
            Errands::OnThreads => drop(tokio::task::spawn_blocking(work)),
            Errands::By(other) => other.run(Box::new(work)),
        }
    }
}
