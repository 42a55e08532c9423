//! How the process ends: by a signal, by a failure that must not be survived, or by a bug.
//!
//! A broken invariant or a disk that failed ends the whole process, whichever thread met it: actix would drop the one
//! actor and let the rest run on without it. The log on disk brings everything back.

use crate::telemetry::log::LogFlusher;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use slog::{Logger, info, warn};
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Exit code of a start or a run that failed (etcd's).
pub const EXIT_FAILURE: i32 = 1;
/// Descriptors kept for all that is not a connection: the storage, the log, threads (etcd's number).
pub const DESCRIPTORS_RESERVED: u64 = 150;
/// How long the last lines of the log may take to get out.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The log's writer, so that the last words get out; the only thing that is global.
static FLUSHER: OnceLock<LogFlusher> = OnceLock::new();

thread_local! {
    static DISK_WORK: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs `work` on a disk. A library that answers a failing disk with a panic then ends the process with `failure` and the
/// reason, as an error would, and not with the report of a bug.
pub fn disk_work<T>(failure: &'static str, work: impl FnOnce() -> T) -> T {
    DISK_WORK.set(Some(failure));
    let done = work();
    DISK_WORK.set(None);
    done
}

/// How many descriptors this process may have open.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Takes as many descriptors as this process is allowed to, as Go does at its start: the lower limit is there for
/// programs that use `select`. Called once, by `main`.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused, the lower one stays, and is what connections are counted against.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Makes every panic, on any thread, log itself and abort the process. Called once, by `main`.
pub fn install_panic_hook(log: Logger, flusher: LogFlusher) {
    let _ = FLUSHER.set(flusher);
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(failure) = DISK_WORK.get() {
            fatal(&log, &format!("{failure}: {}", info.payload_as_str().unwrap_or("unknown reason")));
        }
        slog::crit!(log, "panic: a bug in castd; the process ends, a restart brings the data back"; "panic" => %info);
        flush();
        default(info);
        std::process::abort();
    }));
}

/// Ends the process because going on would lose or invent data. Whatever was not answered yet stays unanswered.
pub fn fatal(log: &Logger, message: &str) -> ! {
    slog::crit!(log, "{}", message);
    flush();
    std::process::exit(EXIT_FAILURE)
}

/// Why a member is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Signal(i32),
    /// Its cluster has removed it.
    Removed,
}

/// SIGTERM and SIGINT. The first asks a member that serves to stop; a second one, and one that finds nothing to stop yet,
/// ends the process at once: the log on disk brings everything back.
pub struct StopSignals {
    sender: SyncSender<Stop>,
    first: Receiver<Stop>,
    serving: Arc<AtomicBool>,
}

impl StopSignals {
    /// Called once, by `main`, before anything is started.
    ///
    /// # Errors
    /// When the handlers cannot be installed or there is no thread to wait for them.
    pub fn listen(log: Logger) -> io::Result<StopSignals> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        // A signal and a removal at once: neither waits for the other.
        let (sender, first) = sync_channel(2);
        let signalled = sender.clone();
        let serving = Arc::new(AtomicBool::new(false));
        let is_serving = Arc::clone(&serving);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut told = false;
            for signal in signals.forever() {
                let name = if signal == SIGINT { "interrupt" } else { "terminated" };
                if !told && is_serving.load(Ordering::Acquire) {
                    told = true;
                    info!(log, "received signal; shutting down"; "signal" => name);
                    let _ = signalled.send(Stop::Signal(signal));
                    continue;
                }
                let when = if told { "while shutting down" } else { "while starting" };
                warn!(log, "received signal; ending at once"; "signal" => name, "when" => when);
                flush();
                die_of(signal);
            }
        })?;
        Ok(StopSignals { sender, first, serving })
    }

    /// For whoever finds out that the member was removed; it does so once.
    pub fn on_removal(&self) -> impl FnOnce() + Send + use<> {
        let sender = self.sender.clone();
        move || {
            let _ = sender.send(Stop::Removed);
        }
    }

    /// From now on there is something to stop. Returns what asks for it.
    pub fn wait(&self) -> Stop {
        self.serving.store(true, Ordering::Release);
        self.first.recv().unwrap_or(Stop::Signal(SIGTERM))
    }
}

/// Ends the process as etcd does: whoever waits for it sees that the signal ended it. Process 1 cannot die of a signal.
pub fn die_of(signal: i32) -> ! {
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    std::process::exit(0)
}

fn flush() {
    if let Some(flusher) = FLUSHER.get() {
        // When even that takes too long, the process ends without its last words.
        let _ = flusher.flush(FLUSH_LIMIT);
    }
}
