//! The offline tool, with the commands, flags, texts and exit codes of `etcdutl`.
//!
//! ```text
//!   arguments ──command_line──▶ Command ─┬─ snapshot restore   restore.rs   saved file ──▶ data directory of a new member
//!                                        └─ snapshot status    status.rs    saved file ──▶ what is in it
//!                                  both read files that clients saved: saved.rs
//! ```
//! It does nothing over a network, and nothing to a directory that a member uses.

mod command_line;
mod restore;
mod saved;
mod status;

pub use restore::{RestoreError, RestoreSettings, restore};
pub use saved::{SavedError, SavedFile};

use crate::config::{CASTD_VERSION, ETCD_VERSION};
use crate::telemetry::log::{self, LogSettings};
use command_line::{Command, EXIT_BAD_ARGUMENTS, EXIT_ERROR, Parsed};
use std::ffi::OsString;
use std::fmt::Display;

/// What the process ends with. Log lines have been written by then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    pub code: u8,
    pub stdout: String,
    pub stderr: String,
}

impl Ending {
    fn printed(stdout: impl Into<String>) -> Self {
        Ending { stdout: stdout.into(), ..Ending::default() }
    }

    fn failed(code: u8, error: impl Display) -> Self {
        Ending { code, stderr: format!("Error: {error}\n"), ..Ending::default() }
    }
}

/// Does what the command line says, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Ending {
    match command_line::parse(arguments) {
        Parsed::Command(command) => carry_out(*command),
        Parsed::Help(text) => Ending::printed(text),
        Parsed::Failed { code, text } => Ending::failed(code, text),
    }
}

fn carry_out(command: Command) -> Ending {
    match command {
        Command::Restore(settings) => {
            let log = LogSettings { outputs: vec!["stderr".to_owned()], ..LogSettings::default() };
            let (log, guard) = match log::start(&log) {
                Ok(started) => started,
                Err(error) => return Ending::failed(EXIT_ERROR, error),
            };
            let restored = restore(&settings, &log);
            drop(log);
            // Waits for the last lines.
            drop(guard);
            restored.map_or_else(|error| Ending::failed(EXIT_ERROR, error), |_| Ending::default())
        }
        Command::Status { file, format } => {
            status::status(&file, format).map_or_else(|error| Ending::failed(EXIT_ERROR, error), Ending::printed)
        }
        Command::Save => {
            Ending::failed(EXIT_BAD_ARGUMENTS, "In order to download snapshot use: `etcdctl snapshot save ...`")
        }
        Command::Version => {
            let api = ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(api, _)| api);
            Ending::printed(format!("castutl version: {CASTD_VERSION}\nAPI version: {api}\n"))
        }
    }
}
