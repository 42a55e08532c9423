//! The signal that a port is about to close: once given, never taken back.

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Clone, Debug, Default)]
pub(super) struct Drain(CancellationToken);

impl Drain {
    pub(super) fn begin(&self) {
        self.0.cancel();
    }

    /// A token of the listener's own for each waiter: every poll takes a lock, and this way nobody shares it.
    pub(super) fn begun(&self) -> WaitForCancellationFutureOwned {
        self.0.child_token().cancelled_owned()
    }
}
