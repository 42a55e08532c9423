//! What is noted of a call while it runs, for the log lines that a slow one leaves: who asked, for what, and how far it had
//! come when.
//!
//! The notes belong to the task that answers the call, so that no function on the way has to carry them. Writing one down
//! costs a reference count; only a slow call has them read. Outside of a call notes go nowhere.

use crate::api::listen::Remote;
use bytes::Bytes;
use castd_proto::etcdserverpb as pb;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Duration;

tokio::task_local! {
    static NOTES: CallNotes;
}

#[derive(Debug)]
pub struct CallNotes {
    /// Where the client's connection comes from.
    pub remote: Remote,
    asked: RefCell<Asked>,
    agreed: Cell<Option<Duration>>,
}

/// What the client asked for.
#[derive(Debug, Default)]
pub enum Asked {
    /// Nothing whose text would help.
    #[default]
    Other,
    Range(pb::RangeRequest),
    ReadOnlyTxn(pb::TxnRequest),
    /// An encoded `castdpb.RaftRequest`.
    Proposed(Bytes),
}

impl CallNotes {
    /// Hands out what was noted.
    pub fn asked(&self) -> Asked {
        self.asked.take()
    }

    /// A txn that only reads is known to be one once it has run.
    pub fn is_read_only(&self) -> bool {
        matches!(*self.asked.borrow(), Asked::ReadOnlyTxn(_))
    }

    /// When the cast agreed that the client may read.
    pub fn agreed(&self) -> Option<Duration> {
        self.agreed.get()
    }
}

/// Runs `call` with notes of its own.
pub fn with_notes<F: Future>(remote: Remote, call: F) -> impl Future<Output = F::Output> {
    NOTES.scope(CallNotes { remote, asked: RefCell::default(), agreed: Cell::default() }, call)
}

pub fn note_asked(asked: impl FnOnce() -> Asked) {
    let _ = NOTES.try_with(|notes| notes.asked.replace(asked()));
}

pub fn note_agreement(now: Duration) {
    let _ = NOTES.try_with(|notes| notes.agreed.set(Some(now)));
}

/// The notes of the call that is running, if any.
pub fn read<R>(read: impl FnOnce(&CallNotes) -> R) -> Option<R> {
    NOTES.try_with(read).ok()
}
