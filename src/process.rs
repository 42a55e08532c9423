//! How the process ends: by a signal, by a failure that must not be survived, or by a bug.
//!
//! A broken invariant or a disk that failed ends the whole process, whichever thread met it: actix would drop the one
//! actor and let the rest run on without it. The log on disk brings everything back.

use crate::telemetry::log::LogFlusher;
use slog::Logger;
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

/// Exit code of a start or a run that failed (etcd's).
pub const EXIT_FAILURE: i32 = 1;
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

fn flush() {
    if let Some(flusher) = FLUSHER.get() {
        // When even that takes too long, the process ends without its last words.
        let _ = flusher.flush(FLUSH_LIMIT);
    }
}
