//! A raft log in memory, for the simulator and for tests: it can crash and forget what was not synced.
//!
//! ```text
//!   write ──▶ now ──(sync)──▶ durable          crash(keep): now = durable + the first `keep` unsynced writes
//! ```
//! A write is atomic here, as it is on disk: a torn one is the same as one that is lost. Behaves as `EngineLog` in all
//! else; one contract test runs over both.

use super::ledger::{Ledger, entry_bytes};
use super::{Install, LogError, LogSize, LogStore, LogWrite, Purger, Recovered, Written};
use crate::ids::LogIndex;
use crate::planted::{self, Bug};
use crate::raft::terms::LogPosition;
use ::raft::eraftpb::{ConfState, Entry};
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Default)]
struct Image {
    ledger: Ledger,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Clone)]
enum Change {
    Append(Vec<LogWrite>),
    Truncate(LogPosition, ConfState),
    Replace(Install),
    ClearPendingInstall,
}

impl Image {
    fn apply(&mut self, change: &Change) -> Result<(), LogError> {
        match change {
            Change::Append(writes) => {
                for write in writes {
                    self.ledger.append(write)?;
                    if let Some(first) = write.entries.first() {
                        self.entries.split_off(&first.index);
                    }
                    self.entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
                }
            }
            Change::Truncate(upto, conf_state) => {
                if self.ledger.truncate(*upto, conf_state)? {
                    self.entries = self.entries.split_off(&(upto.index.0 + 1));
                }
            }
            Change::Replace(install) => {
                self.ledger.replace(install)?;
                let stale = self.entries.split_off(&(install.position.index.0 + 1));
                self.entries = if planted::is_on(Bug::KeepsStaleSuffix) { stale } else { BTreeMap::new() };
            }
            Change::ClearPendingInstall => self.ledger.pending_install = None,
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
pub struct MemoryLog {
    now: Image,
    durable: Image,
    /// In `now`, not yet in `durable`.
    unsynced: VecDeque<Change>,
    broken: bool,
}

impl MemoryLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many writes a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The machine goes down and comes back: of the unsynced writes only the first `keep` survive. Mends a broken disk.
    pub fn crash(&mut self, keep: usize) {
        self.unsynced.truncate(keep);
        self.settle();
        self.now = self.durable.clone();
        self.broken = false;
    }

    /// From now on every call fails, as on a disk that returns I/O errors.
    pub fn break_disk(&mut self) {
        self.broken = true;
    }

    fn settle(&mut self) {
        for change in self.unsynced.drain(..) {
            let applied = self.durable.apply(&change);
            assert!(applied.is_ok(), "a change was accepted once and refused the second time: {applied:?}");
        }
    }

    fn write(&mut self, change: Change, sync: bool) -> Result<Written, LogError> {
        self.check_disk()?;
        let appended = self.now.ledger.size.appended_bytes;
        self.now.apply(&change)?;
        let entries = match &change {
            Change::Append(writes) => writes.iter().map(|write| write.entries.len()).sum(),
            _ => 0,
        };
        self.unsynced.push_back(change);
        if sync {
            self.settle();
        }
        let bytes = self.now.ledger.size.appended_bytes - appended;
        Ok(Written { bytes, entries, synced: sync, ..Written::default() })
    }

    fn check_disk(&self) -> Result<(), LogError> {
        if self.broken { Err(LogError::SimulatedFailure) } else { Ok(()) }
    }
}

impl LogStore for MemoryLog {
    fn load(&mut self, above: LogIndex) -> Result<Recovered, LogError> {
        self.check_disk()?;
        let Image { ledger, entries } = &self.now;
        Ok(Recovered {
            fresh: !ledger.begun,
            hard_state: ledger.hard_state.clone(),
            conf_state: ledger.conf_state.clone(),
            terms: ledger.terms.clone(),
            entries: entries.range(above.0.saturating_add(1)..).map(|(_, entry)| entry.clone()).collect(),
            pending_install: ledger.pending_install.clone(),
        })
    }

    fn append_many(&mut self, writes: &[LogWrite]) -> Result<Written, LogError> {
        let sync = writes.iter().any(|write| write.must_sync);
        self.write(Change::Append(writes.to_vec()), sync)
    }

    fn entries(&mut self, low: LogIndex, high: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        self.check_disk()?;
        self.now.ledger.covers(low.0, high.0)?;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry_bytes(entry);
            entry.index == low.0 || bytes <= bytes_max
        };
        Ok(self.now.entries.range(low.0..high.0).map(|(_, entry)| entry).take_while(fits).cloned().collect())
    }

    fn truncate(&mut self, upto: LogPosition, conf_state: &ConfState) -> Result<Written, LogError> {
        if upto.index <= self.now.ledger.terms.truncated().index {
            return Ok(Written::default());
        }
        self.write(Change::Truncate(upto, conf_state.clone()), true)
    }

    fn replace(&mut self, install: &Install) -> Result<Written, LogError> {
        self.write(Change::Replace(install.clone()), true)
    }

    fn clear_pending_install(&mut self) -> Result<Written, LogError> {
        if self.now.ledger.pending_install.is_none() {
            return Ok(Written::default());
        }
        self.write(Change::ClearPendingInstall, true)
    }

    fn sync(&mut self) -> Result<Written, LogError> {
        self.check_disk()?;
        self.settle();
        Ok(Written { synced: true, ..Written::default() })
    }

    fn purger(&self) -> Purger {
        Purger::default()
    }

    fn size(&self) -> LogSize {
        let live_bytes = self.now.ledger.size.live_bytes();
        LogSize { live_bytes, disk_bytes: live_bytes }
    }
}
