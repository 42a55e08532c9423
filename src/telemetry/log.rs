//! Log lines as etcd writes them, without making the caller wait for the disk.
//!
//! ```text
//!   any thread: level ▸ sampling ▸ encode one line ▸ queue (slog-async) ─▶ thread "log" ─▶ every output
//! ```
//! - `encode`: the line: JSON or tab separated, with etcd's keys.
//! - `sampling`: the first 100 equal messages of a second, then every 100th.
//! - `queue`: nobody waits for it; what finds no room is dropped and counted, info first. The guard drains it.
//! - `output`: where lines go.
//! - `bridge`: lines of libraries that speak `log` or `tracing`.
//!
//! - `rotate`: a file that is set aside when it is full. Without it, logrotate's `copytruncate` works, because files are
//!   opened for appending.

mod bridge;
mod encode;
mod output;
mod queue;
mod rotate;
mod sampling;

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record};

use self::output::Outputs;
use self::queue::{Queue, QueueGuard, Shared};
pub use self::rotate::LogRotation;
use self::sampling::Sampler;
use super::clock::Clock;

/// What `--log-level`, `--log-format` and `--log-outputs` ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub format: LogFormat,
    /// `default`, `stderr`, `stdout`, `systemd/journal` or paths; `/dev/null` among them silences all.
    pub outputs: Vec<String>,
    /// Of the one file among the outputs.
    pub rotation: Option<LogRotation>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            format: LogFormat::Json,
            outputs: vec!["default".to_owned()],
            rotation: None,
        }
    }
}

/// The least severe level that is written, named as etcd names levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub Level);

impl Default for LogLevel {
    fn default() -> Self {
        Self(Level::Info)
    }
}

impl FromStr for LogLevel {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        match name {
            "debug" => Ok(Self(Level::Debug)),
            "info" => Ok(Self(Level::Info)),
            "warn" => Ok(Self(Level::Warning)),
            "error" => Ok(Self(Level::Error)),
            // slog knows one level above error; etcd's three differ only in how its own process ends.
            "dpanic" | "panic" | "fatal" => Ok(Self(Level::Critical)),
            _ => Err(LogError::UnknownLevel(name.to_owned())),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Time, level, caller, message and the fields as JSON, separated by tabs.
    Console,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        match name {
            "json" => Ok(Self::Json),
            "console" => Ok(Self::Console),
            _ => Err(LogError::UnknownFormat(name.to_owned())),
        }
    }
}

/// Why logging could not start. The texts are etcd's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("unrecognized level: {0:?}")]
    UnknownLevel(String),
    #[error("unknown log format: {0}, supported values json, console")]
    UnknownFormat(String),
    #[error("multi logoutput for \"default\" is not supported yet")]
    DefaultAmongOthers,
    #[error(
        "running with systemd/journal but other '--log-outputs' values ({0:?}) are configured with 'default'; \
         override 'default' value with something else"
    )]
    JournalAmongOthers(Vec<String>),
    #[error("can't find journal ({0})")]
    NoJournal(#[source] io::Error),
    #[error("open log output {path:?}: {source}")]
    Open { path: String, source: io::Error },
}

/// Starts logging: the root logger for the wiring to hand out, and the guard `main` keeps until the very end.
///
/// Libraries that log through `log` or `tracing` write to the logger started last; a process starts one.
///
/// # Errors
/// [`LogError`] when an output cannot be opened or the outputs contradict each other.
pub fn start(settings: &LogSettings) -> Result<(Logger, LogGuard), LogError> {
    let clock = Clock::start();
    let shared =
        Arc::new(Shared::new(Outputs::open(&settings.outputs, settings.rotation, clock)?, settings.format, clock));
    let (queue, guard) = Queue::start(Arc::clone(&shared));
    let front = Front { level: settings.level.0, format: settings.format, clock, sampler: Sampler::new(), queue };
    let logger = Logger::root(front, slog::o!());
    bridge::install(&logger, settings.level.0);
    Ok((logger, LogGuard { queue: Some(guard), flusher: LogFlusher(shared) }))
}

/// Writes out everything that is queued when dropped. Lines logged after that are written by their callers.
#[must_use = "dropping the guard ends the log thread"]
pub struct LogGuard {
    queue: Option<QueueGuard>,
    flusher: LogFlusher,
}

/// How long the end of the process may wait for an output that takes nothing.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

impl Drop for LogGuard {
    fn drop(&mut self) {
        if !self.flusher.flush(DRAIN_LIMIT) {
            // Its thread may be stuck for ever; it ends with the process.
            std::mem::forget(self.queue.take());
        }
    }
}

impl LogGuard {
    /// For the panic hook, which must see its lines written before it aborts.
    #[must_use]
    pub fn flusher(&self) -> LogFlusher {
        self.flusher.clone()
    }
}

/// Waits for queued lines without ending the logging.
#[derive(Clone)]
pub struct LogFlusher(Arc<Shared>);

impl LogFlusher {
    /// Waits until every line queued so far is written; `false` if that took longer than `limit`.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.wait_until_written(limit)
    }
}

/// A point in time as lines show it.
#[must_use]
pub fn timestamp(time: std::time::SystemTime) -> String {
    encode::timestamp(time)
}

/// What runs on the caller's thread.
struct Front {
    level: Level,
    format: LogFormat,
    clock: Clock,
    sampler: Sampler,
    queue: Queue,
}

impl Drain for Front {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let level = record.level();
        if !level.is_at_least(self.level) {
            return Ok(());
        }
        if level != Level::Critical && !self.sampler.admits(self.clock.now(), level, record.msg()) {
            return Ok(());
        }
        encode::with_line(self.format, self.clock.wall(), record, values, |line| self.queue.push(level, line));
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.is_at_least(self.level)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;
    use slog::{debug, error, info, o, warn};

    use super::*;

    fn settings(path: &Path, level: &str, format: LogFormat) -> LogSettings {
        LogSettings {
            level: level.parse().expect("a level"),
            format,
            outputs: vec![path.to_str().expect("a path").to_owned()],
            rotation: None,
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).expect("the log file");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[test]
    fn a_json_line_has_etcds_keys_in_etcds_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("castd.log");
        let (logger, guard) = start(&settings(&path, "info", LogFormat::Json)).expect("logging");
        let logger = logger.new(o!("local-member-id" => "8e9e05c52164694d"));
        warn!(logger, "slow \"fdatasync\"\n"; "took" => ?Duration::from_millis(1500), "bytes" => 7,
            "urls" => slog::Serde(vec!["http://a", "http://b"]), "error" => "no");
        debug!(logger, "below the level");
        drop(guard);

        let text = std::fs::read_to_string(&path).expect("the log file");
        let (head, tail) = text.split_once(",\"caller\":").expect("a caller");
        assert!(head.starts_with(r#"{"level":"warn","ts":"2"#), "{text}");
        assert!(head.ends_with("Z\""), "{text}");
        assert_eq!(head.len(), r#"{"level":"warn","ts":"2006-01-02T15:04:05.000000Z""#.len());
        assert!(tail.starts_with("\"telemetry/log.rs:"), "{text}");
        let (_, fields) = tail.split_once(",\"msg\"").expect("a message");
        assert_eq!(
            fields,
            concat!(
                r#":"slow \"fdatasync\"\n","local-member-id":"8e9e05c52164694d","took":"1.5s","bytes":7,"#,
                r#""urls":["http://a","http://b"],"error":"no"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_console_line_is_tab_separated() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("castd.log");
        let (logger, guard) = start(&settings(&path, "debug", LogFormat::Console)).expect("logging");
        error!(logger, "two\nlines"; "a" => 1, "b" => "x");
        debug!(logger, "plain");
        drop(guard);
        let text = std::fs::read_to_string(&path).expect("the log file");
        let mut rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let first = rows.next().expect("a line");
        assert_eq!(first[1], "error");
        assert_eq!(first[3..], ["two\\nlines", r#"{"a": 1, "b": "x"}"#]);
        let second = rows.next().expect("a second line");
        assert_eq!((second[1], second[3], second.len()), ("debug", "plain", 4));
    }

    #[test]
    fn equal_messages_are_sampled_on_each_level() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("castd.log");
        let (logger, guard) = start(&settings(&path, "info", LogFormat::Json)).expect("logging");
        for _ in 0..1000 {
            info!(logger, "again");
            warn!(logger, "again");
        }
        drop(guard);
        let of = |level: &str| lines(&path).iter().filter(|line| line["level"] == level).count();
        // 100 + 9 within one second; a second that ends during the test begins a new count.
        for level in ["info", "warn"] {
            assert!((109..1000).contains(&of(level)), "{level}: {}", of(level));
        }
    }

    #[test]
    fn a_flush_shows_what_was_logged_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("castd.log");
        let (logger, guard) = start(&settings(&path, "info", LogFormat::Json)).expect("logging");
        warn!(logger, "before");
        assert!(guard.flusher().flush(Duration::from_secs(10)));
        assert_eq!(lines(&path).len(), 1);
        drop(guard);
        warn!(logger, "after the log thread ended");
        assert_eq!(lines(&path).len(), 2);
    }

    #[test]
    fn every_output_gets_every_line_and_dev_null_silences_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths: Vec<String> =
            ["a.log", "b.log"].iter().map(|name| dir.path().join(name).to_str().expect("a path").to_owned()).collect();
        let twice = [paths.clone(), paths.clone()].concat();
        let mut settings = LogSettings { outputs: twice, ..LogSettings::default() };
        let (logger, guard) = start(&settings).expect("logging");
        warn!(logger, "both");
        drop(guard);
        settings.outputs.push("/dev/null".to_owned());
        let (logger, guard) = start(&settings).expect("logging");
        warn!(logger, "none");
        drop(guard);
        for path in &paths {
            assert_eq!(lines(Path::new(path)).len(), 1, "{path}");
        }
    }

    #[test]
    fn settings_are_refused_in_etcds_words() {
        let refused = |outputs: &[&str]| {
            let outputs = outputs.iter().map(|&output| output.to_owned()).collect();
            start(&LogSettings { outputs, ..LogSettings::default() }).err().expect("refused").to_string()
        };
        assert_eq!(refused(&["default", "stdout"]), "multi logoutput for \"default\" is not supported yet");
        assert!(refused(&["/nonexistent/dir/castd.log"]).starts_with("open log output"));
        assert_eq!("loud".parse::<LogLevel>().unwrap_err().to_string(), "unrecognized level: \"loud\"");
        assert_eq!(
            "xml".parse::<LogFormat>().unwrap_err().to_string(),
            "unknown log format: xml, supported values json, console"
        );
    }
}
