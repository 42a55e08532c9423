//! How the process ends: by a signal, by a failure that must not be survived, or by a bug.
//!
//! A broken invariant or a disk that failed ends the whole process, whichever thread met it: actix would drop the one
//! actor and let the rest run on without it. The log on disk brings everything back.

use crate::telemetry::log::LogFlusher;
use slog::Logger;
use std::sync::OnceLock;
use std::time::Duration;

/// Exit code of a start or a run that failed (etcd's).
pub const EXIT_FAILURE: i32 = 1;
/// How long the last lines of the log may take to get out.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The log's writer, so that the last words get out; the only thing that is global.
static FLUSHER: OnceLock<LogFlusher> = OnceLock::new();

/// Makes every panic, on any thread, log itself and abort the process. Called once, by `main`.
pub fn install_panic_hook(log: Logger, flusher: LogFlusher) {
    let _ = FLUSHER.set(flusher);
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
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
