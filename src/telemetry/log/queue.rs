//! Hands finished lines to a thread of its own, so that a slow disk or terminal does not slow the server.
//!
//! slog-async carries them. It knows one answer to a full queue for all levels; here the less severe lines leave room for
//! the more severe ones, and what finds none is dropped and counted in a line of its own. Nobody ever waits: neither
//! RaftNode for a disk that hangs, nor the last words of a process for a terminal that nobody reads.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slog::{Drain, Level, Never, OwnedKVList, Record, RecordLocation, RecordStatic, b, o};
use slog_async::{AsyncCore, AsyncGuard};

use super::output::Outputs;
use super::{LogFormat, encode};
use crate::telemetry::clock::Clock;

const LINES_MAX: usize = 8192;
/// Kept for warnings and errors,
const RESERVE: usize = 1024;
/// and of that for the last words of the process.
const LAST_WORDS: usize = 64;
const _: () = assert!(LAST_WORDS < RESERVE && RESERVE < LINES_MAX);

/// How many lines may wait when one more of this level comes.
fn lines_max(level: Level) -> usize {
    match level {
        Level::Critical => LINES_MAX,
        Level::Error | Level::Warning => LINES_MAX - LAST_WORDS,
        Level::Info | Level::Debug | Level::Trace => LINES_MAX - RESERVE,
    }
}

/// What the log thread, its callers and the flushers have in common.
pub(super) struct Shared {
    outputs: Outputs,
    format: LogFormat,
    clock: Clock,
    backlog: Mutex<Backlog>,
    written: Condvar,
}

#[derive(Default)]
struct Backlog {
    /// Lines queued and not yet written.
    lines: usize,
    /// Lines dropped since the last report.
    dropped: u64,
}

impl Shared {
    pub(super) fn new(outputs: Outputs, format: LogFormat, clock: Clock) -> Self {
        Self { outputs, format, clock, backlog: Mutex::default(), written: Condvar::new() }
    }

    pub(super) fn wait_until_written(&self, limit: Duration) -> bool {
        let (backlog, _) = self
            .written
            .wait_timeout_while(self.backlog(), limit, |backlog| backlog.lines > 0)
            .unwrap_or_else(PoisonError::into_inner);
        backlog.lines == 0
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the queue; `false` if this line has to be dropped.
    fn admit(&self, level: Level) -> bool {
        let mut backlog = self.backlog();
        if backlog.lines >= lines_max(level) {
            backlog.dropped += 1;
            return false;
        }
        backlog.lines += 1;
        true
    }

    /// Writes a line that was admitted, and after it how many were not.
    fn write(&self, level: Level, line: &str) {
        let complaint = self.outputs.write(level, line);
        let dropped = {
            let mut backlog = self.backlog();
            backlog.lines -= 1;
            if backlog.lines == 0 {
                self.written.notify_all();
            }
            std::mem::take(&mut backlog.dropped)
        };
        if let Some(complaint) = complaint {
            self.report("cannot keep log files in order", b!("error" => complaint));
        }
        if dropped > 0 {
            self.report("dropped log lines because the log outputs are too slow", b!("count" => dropped));
        }
    }

    /// A line about the log itself, past the queue.
    fn report(&self, message: &str, fields: slog::BorrowedKV<'_>) {
        let message = format_args!("{message}");
        let record = slog::record!(Level::Warning, "", &message, fields);
        let write = |line: &str| drop(self.outputs.write(Level::Warning, line));
        encode::with_line(self.format, self.clock.wall(), &record, &o!().into(), write);
    }
}

/// The place is inside the line already.
const NOWHERE: RecordLocation = RecordLocation { file: "", line: 0, column: 0, function: "", module: "" };

pub(super) struct Queue {
    shared: Arc<Shared>,
    core: AsyncCore,
    no_values: OwnedKVList,
}

/// Ends the log thread when dropped, after it has written what was queued.
pub(super) struct QueueGuard {
    _thread: AsyncGuard,
}

impl Queue {
    pub(super) fn start(shared: Arc<Shared>) -> (Self, QueueGuard) {
        let (core, thread) = AsyncCore::custom(Writer(Arc::clone(&shared)))
            .chan_size(LINES_MAX)
            .blocking(true)
            .thread_name("log".to_owned())
            .build_with_guard();
        (Self { shared, core, no_values: o!().into() }, QueueGuard { _thread: thread })
    }

    pub(super) fn push(&self, level: Level, line: &str) {
        if !self.shared.admit(level) {
            return;
        }
        let fixed = RecordStatic { location: &NOWHERE, level, tag: "" };
        if self.core.log(&Record::new(&fixed, &format_args!("{line}"), b!()), &self.no_values).is_err() {
            // The log thread has ended: the process is on its way out, and its last words matter.
            self.shared.write(level, line);
        }
    }
}

/// The log thread's end: records arrive with the finished line as their message.
struct Writer(Arc<Shared>);

impl Drain for Writer {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        self.0.write(record.level(), &record.msg().to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_info_first_and_reports_what_it_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("castd.log").to_str().expect("a path").to_owned();
        let clock = Clock::start();
        let outputs = Outputs::open(std::slice::from_ref(&path), None, clock).expect("outputs");
        let shared = Shared::new(outputs, LogFormat::Json, clock);
        for _ in 0..LINES_MAX - RESERVE {
            assert!(shared.admit(Level::Info));
        }
        assert!(!shared.admit(Level::Info));
        assert!(!shared.admit(Level::Debug));
        for _ in LINES_MAX - RESERVE..LINES_MAX - LAST_WORDS {
            assert!(shared.admit(Level::Warning));
        }
        assert!(!shared.admit(Level::Error));
        assert!(shared.admit(Level::Critical));
        assert!(!shared.wait_until_written(Duration::ZERO));
        shared.write(Level::Warning, "{}\n");
        let text = std::fs::read_to_string(&path).expect("the log file");
        let report = text.lines().nth(1).expect("a report");
        assert!(report.ends_with("\"count\":3}"), "{report}");
    }
}
