//! Whole clusters of real processes, real clients and real faults, and judges that trust nobody.
//!
//! ```text
//!   campaign       faults at random under load
//!   changes        members come and go               clients, watchers ──▶ history ──▶ castd-judge ──▶ verdict
//!   rolling        restarts in turn                       │ load
//!   corruption     a value flipped: who notices?          ▼
//!                                       faults ──▶ member ◀── network (proxies) ──▶ member
//! ```
//! `CASTD_CLUSTER_SEED` repeats the choice of faults and requests; what becomes of them is the machine's.
#![expect(clippy::disallowed_methods, reason = "processes live in real time, so their tests do")]

mod campaign;
mod changes;
mod clients;
mod cluster;
#[cfg(all(feature = "rocksdb", feature = "sled"))]
mod corruption;
mod faults;
mod load;
mod member;
mod network;
#[cfg(all(feature = "rocksdb", feature = "sled"))]
mod rolling;
mod watchers;

use std::future::Future;
use std::sync::{Mutex, PoisonError};

/// Clusters take the whole machine: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a test that has clusters, when it is its turn.
fn run(test: impl Future<Output = ()>) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    runtime.block_on(test);
    runtime.shutdown_background();
}
