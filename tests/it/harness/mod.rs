//! Starts servers and asks them things.
//!
//! ```text
//!   for_each_backend! ──▶ run ──▶ case(Setup) ──start──▶ Server ──▶ etcdctl | etcd-client | castd-proto | HTTP
//! ```
//! Each case has its own servers, on its own ports, in its own directory. A case that fails leaves its directory and
//! shows the end of the server's log.

pub mod cluster;
pub mod ctl;
pub mod curl;
pub mod grpc;
pub mod http;
pub mod keep_alive;
// That of the campaigns, which also slow it down.
#[allow(dead_code)]
#[path = "../../cluster/network.rs"]
mod network;
pub mod places;
pub mod server;

pub use cluster::Cluster;
pub use ctl::Answer;
pub use grpc::{Api, refused};
pub use http::http_get;
pub use keep_alive::KeepAlive;
pub use places::Place;
pub use server::{Server, Setup};

use std::ffi::OsString;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Longer than any case takes on a machine that has other things to do.
const CASE_TIME_MAX: Duration = Duration::from_secs(150);

/// What Castd can keep its data in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    #[cfg(feature = "sled")]
    Sled,
    Memory,
}

impl Backend {
    /// Those that are compiled in.
    pub const ALL: &'static [Backend] = &[
        #[cfg(feature = "rocksdb")]
        Backend::Rocksdb,
        #[cfg(feature = "sled")]
        Backend::Sled,
        Backend::Memory,
    ];

    /// As `--storage` takes it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "rocksdb")]
            Backend::Rocksdb => "rocksdb",
            #[cfg(feature = "sled")]
            Backend::Sled => "sled",
            Backend::Memory => "memory",
        }
    }
}

/// The etcd to run the cases on instead of Castd.
fn oracle() -> Option<OsString> {
    std::env::var_os("CASTD_TEST_SERVER").filter(|path| !path.is_empty())
}

/// One thread is enough for a case, but a case may block it with a child process while streams go on.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    let output = runtime.block_on(async { tokio::time::timeout(CASE_TIME_MAX, future).await });
    runtime.shutdown_background();
    output.expect("the case ends in time")
}

/// What a test for `backend` runs on: Castd, or, once only, the oracle.
pub fn subject(backend: Backend) -> Option<Setup> {
    match oracle() {
        None => Some(Setup::castd(backend)),
        Some(program) => (backend == Backend::Memory).then(|| Setup::etcd(program)),
    }
}

/// Runs `case` on `backend`, or, where there is an oracle, once on that.
pub fn run<F: Future<Output = ()> + 'static>(backend: Backend, case: impl FnOnce(Setup) -> F) {
    if let Some(setup) = subject(backend) {
        let _place = Place::take();
        // Boxed, so that the runtime is not compiled anew for each case.
        let case: Pin<Box<dyn Future<Output = ()>>> = Box::pin(case(setup));
        block_on(case);
    }
}

/// As [`run`], for what only Castd has.
pub fn run_castd<F: Future<Output = ()> + 'static>(backend: Backend, case: impl FnOnce(Setup) -> F) {
    if oracle().is_none() {
        run(backend, case);
    }
}

/// Makes of each `async fn case(setup: Setup)` one test for each backend that is compiled in. With `castd:` in front,
/// of what etcd 3.4 does not do.
macro_rules! for_each_backend {
    (castd: $($case:ident),+ $(,)?) => { $crate::harness::for_each_backend!(@ run_castd $($case)+); };
    (@ $run:ident $($case:ident)+) => {$(
        mod $case {
            use $crate::harness::{$run, Backend};

            #[cfg(feature = "rocksdb")]
            #[test]
            fn rocksdb() {
                $run(Backend::Rocksdb, super::$case);
            }

            #[cfg(feature = "sled")]
            #[test]
            fn sled() {
                $run(Backend::Sled, super::$case);
            }

            #[test]
            fn memory() {
                $run(Backend::Memory, super::$case);
            }
        }
    )+};
    ($($case:ident),+ $(,)?) => { $crate::harness::for_each_backend!(@ run $($case)+); };
}
pub(crate) use for_each_backend;

/// Asks until `condition` holds, for at most `patience`.
pub fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As [`wait_until`], where asking takes the network.
pub async fn wait_for<T>(what: &str, patience: Duration, ask: impl AsyncFn() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
