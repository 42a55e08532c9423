//! Where lines go: standard streams, files, the systemd journal.
//!
//! A line that an output refuses is lost for that output: there is nobody left to tell. `default` is standard error,
//! or the journal for a process that systemd itself started.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use slog::Level;

use super::LogError;
use super::rotate::{LogRotation, RotatingFile};
use crate::telemetry::clock::Clock;

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Every place a line is written to. Empty when `/dev/null` is among them.
pub(super) struct Outputs(Mutex<Vec<Output>>);

enum Output {
    Stderr,
    Stdout,
    File(File),
    Rotating(RotatingFile),
    Journal(UnixDatagram),
}

impl Outputs {
    /// With `rotation`, the file among them is a rotating one.
    pub(super) fn open(names: &[String], rotation: Option<LogRotation>, clock: Clock) -> Result<Self, LogError> {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if names.len() > 1 && has("default") {
            return Err(LogError::DefaultAmongOthers);
        }
        if names.len() > 1 && has("systemd/journal") {
            return Err(LogError::JournalAmongOthers(names.to_vec()));
        }
        if has("/dev/null") {
            return Ok(Self(Mutex::default()));
        }
        if names.is_empty() {
            return Ok(Self(Mutex::new(vec![Output::open("default", None, clock)?])));
        }
        // Named twice is written once.
        let names: BTreeSet<&String> = names.iter().collect();
        let outputs = names.into_iter().map(|name| Output::open(name, rotation, clock)).collect::<Result<_, _>>()?;
        Ok(Self(Mutex::new(outputs)))
    }

    /// `line` ends with a line feed. Answers what is to be told about the outputs themselves.
    pub(super) fn write(&self, level: Level, line: &str) -> Option<String> {
        let mut outputs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut complaint = None;
        for output in outputs.iter_mut() {
            let _ = output.write(level, line);
            if let Output::Rotating(file) = output {
                complaint = complaint.or_else(|| file.complaint());
            }
        }
        complaint
    }
}

impl Output {
    fn open(name: &str, rotation: Option<LogRotation>, clock: Clock) -> Result<Self, LogError> {
        let failed = |source| LogError::Open { path: name.to_owned(), source };
        match name {
            "default" if std::os::unix::process::parent_id() == 1 => {
                Ok(connect_journal().map_or(Self::Stderr, Self::Journal))
            }
            "default" | "stderr" => Ok(Self::Stderr),
            "stdout" => Ok(Self::Stdout),
            "systemd/journal" => connect_journal().map(Self::Journal).map_err(LogError::NoJournal),
            path if let Some(rotation) = rotation => {
                RotatingFile::open(Path::new(path), rotation, clock).map(Self::Rotating).map_err(failed)
            }
            path => OpenOptions::new().append(true).create(true).open(path).map(Self::File).map_err(failed),
        }
    }

    fn write(&mut self, level: Level, line: &str) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line.as_bytes())?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(line.as_bytes()),
            Self::Rotating(file) => file.write(line.as_bytes()),
            // A line too long for a datagram, or a journal that went away, still reaches the service's stderr.
            Self::Journal(socket) => match socket.send(journal_entry(level, line).as_bytes()) {
                Ok(_) => Ok(()),
                Err(_) => io::stderr().lock().write_all(line.as_bytes()),
            },
        }
    }
}

fn connect_journal() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(JOURNAL_SOCKET)?;
    Ok(socket)
}

/// The journal's native protocol: one `NAME=value` a line. Lines have no line feed inside, so none needs a length.
fn journal_entry(level: Level, line: &str) -> String {
    let priority = match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=castd\nPACKAGE=castd\nMESSAGE={}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_entry_carries_the_priority_and_the_line() {
        assert_eq!(
            journal_entry(Level::Warning, "{\"msg\":\"x\"}\n"),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=castd\nPACKAGE=castd\nMESSAGE={\"msg\":\"x\"}\n"
        );
    }
}
