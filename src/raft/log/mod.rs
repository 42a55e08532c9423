//! The raft log on disk, seen by its only owner, the LogWriter.
//!
//! ```text
//!   LogWriter ── dyn LogStore ─┬─ EngineLog   engine.rs   raft-engine files (files.rs), checked by verify.rs before they are opened
//!                              └─ MemoryLog   memory.rs   for the simulator: loses what was not synced, on request
//!                 both keep a Ledger (ledger.rs): what the log holds by now, and whether a write may follow it
//! ```
//! The log is the durable truth of a member. So every write is checked before it is made, is atomic, and is never tried
//! twice: after the first error the state of the disk is unknown, the owner ends the process and the next start reads
//! what is there. Nothing in here decides *when* to write, sync, cut or purge.

mod engine;
mod files;
mod ledger;
mod memory;
mod reader;
mod record;
mod verify;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod damage;

pub use engine::{EngineLog, EngineLogOptions};
pub use files::LogFiles;
pub use memory::MemoryLog;

use crate::ids::LogIndex;
use crate::raft::terms::{LogPosition, TermIndex};
use ::raft::eraftpb::{ConfState, Entry, HardState};
use reader::Reader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A failed read or write of the log. Fatal for the caller, and never retried: a second fsync may report success for
/// data that the first one lost.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("raft log: cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Data that had reached the disk is damaged or gone. Starting without it could lose acknowledged writes or vote twice.
    #[error(
        "raft log: {}{} is damaged: {detail}; start this member with an empty data directory after removing and adding \
         it (`castctl member remove`, `castctl member add`), or restore it from a snapshot (`castutl snapshot restore`)",
        path.display(),
        offset.map(|at| format!(" at byte {at}")).unwrap_or_default()
    )]
    Corrupt { path: PathBuf, offset: Option<u64>, detail: String },
    #[error("raft log: {} was written by a newer release (log format {found}, this one reads up to {known})", path.display())]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("raft log: {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("raft log: {operation} failed: {source}")]
    Engine { operation: &'static str, source: raft_engine::Error },
    /// The caller asked for something that would break the log; nothing was written. A bug of ours.
    #[error("raft log: refused to {operation}: {reason}")]
    Refused { operation: &'static str, reason: String },
    /// A disk that a test has broken on purpose.
    #[error("raft log: the simulated disk failed")]
    SimulatedFailure,
}

/// What one Ready of raft wants on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogWrite {
    /// Ascending without holes. May overwrite the end of the log from the first one on.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// False for a mere advance of the commit index, which a crash may lose.
    pub must_sync: bool,
}

/// A snapshot takes the place of the whole log, or a new member's log begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Install {
    /// Index and term of the snapshot; the log goes on behind it.
    pub position: LogPosition,
    pub conf_state: ConfState,
    /// Its commit index is set to the position: nothing else is known to be committed in a log without entries.
    pub hard_state: HardState,
    /// Name of the snapshot file the state machine has yet to take over. `None` when there is nothing to take over:
    /// the first start of a member.
    pub pending: Option<String>,
}

/// What a write cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub entries: usize,
    /// Until the kernel had the bytes, a change of files included.
    pub write: Duration,
    /// After that, in fsync; zero if there was none.
    pub sync: Duration,
    /// Everything written so far is durable. Never so under `--unsafe-no-fsync`.
    pub synced: bool,
}

/// What a start finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// No log was ever begun here: call [`LogStore::replace`] to begin one.
    pub fresh: bool,
    pub hard_state: HardState,
    /// As of the truncated position, not of the last entry.
    pub conf_state: ConfState,
    /// Truncated position, last index and all terms between.
    pub terms: TermIndex,
    /// From one above the index asked for (or above the truncated position) to the last.
    pub entries: Vec<Entry>,
    /// See [`Install::pending`]: the process ended before the state machine had taken the snapshot over.
    pub pending_install: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Of the entries above the truncated position, to a few percent: what a snapshot would make superfluous.
    pub live_bytes: u64,
    /// Of the files, free space for reuse included.
    pub disk_bytes: u64,
}

/// The log of one member. Synchronous: the LogWriter has a thread of its own.
pub trait LogStore: Send {
    /// Everything the start needs; entries only above `above`, the index the state machine has already applied.
    fn load(&mut self, above: LogIndex) -> Result<Recovered, LogError>;

    /// Writes all of `writes`, in order, as one atomic record, followed by one fsync if any of them must be synced.
    fn append_many(&mut self, writes: &[LogWrite]) -> Result<Written, LogError>;

    fn append(&mut self, write: &LogWrite) -> Result<Written, LogError> {
        self.append_many(std::slice::from_ref(write))
    }

    /// Entries `low .. high`, at least one and then as many as fit `bytes_max`: for a follower that is far behind.
    ///
    /// # Errors
    /// [`LogError::Refused`] unless `truncated < low < high <= last + 1`.
    fn entries(&mut self, low: LogIndex, high: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, LogError>;

    /// Cuts the log: entries up to `upto` are no longer needed. `conf_state` is the membership as of `upto`. Durable on
    /// return. A position at or below the truncated one changes nothing. Space is given back by [`LogStore::purger`].
    fn truncate(&mut self, upto: LogPosition, conf_state: &ConfState) -> Result<Written, LogError>;

    /// Drops every entry and starts over at `install.position`, atomically and durably.
    fn replace(&mut self, install: &Install) -> Result<Written, LogError>;

    /// The state machine has taken the pending snapshot over. Durable on return.
    fn clear_pending_install(&mut self) -> Result<Written, LogError>;

    /// Makes everything written so far durable.
    fn sync(&mut self) -> Result<Written, LogError>;

    /// Gives back the space of what was cut, from any thread while the log is being written.
    fn purger(&self) -> Purger;

    fn size(&self) -> LogSize;
}

/// Gives back space that the log no longer needs. To be run on a timer, away from the LogWriter's thread: it may copy
/// live entries out of old files. It keeps the files open: drop every purger before the log is opened again.
#[derive(Clone, Default)]
pub struct Purger(Option<(Reader, Arc<dyn Purge + Send + Sync>)>);

/// Answers which groups hold old files with what is still live.
trait Purge {
    fn purge(&self) -> raft_engine::Result<Vec<u64>>;
}

impl<F: LogFiles> Purge for raft_engine::Engine<F> {
    fn purge(&self) -> raft_engine::Result<Vec<u64>> {
        self.purge_expired_files()
    }
}

impl Purger {
    fn new<F: LogFiles>(reader: Reader, engine: Arc<raft_engine::Engine<F>>) -> Self {
        Self(Some((reader, engine)))
    }

    /// Answers whether old files are held by entries that are still live: cutting the log would free more.
    pub fn run(&self) -> Result<bool, LogError> {
        let Some((reader, engine)) = &self.0 else { return Ok(false) };
        let held = reader.alone(|| engine.purge());
        held.map(|groups| !groups.is_empty()).map_err(|source| LogError::Engine { operation: "purge", source })
    }
}
