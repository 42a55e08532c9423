//! The raft log in raft-engine's files.
//!
//! ```text
//!   open   verify.rs checks and repairs the files ▶ raft-engine replays their footers ▶ the newest state record says
//!          what must be there ▶ a ledger, or an error
//!   write  ledger takes it down ▶ ONE batch: entries + records ▶ one write, at most one fsync
//! ```
//! What raft-engine does that one would not expect, and what is done about it here:
//! - `sync()` writes an empty batch, which it skips together with the fsync: so a sync of ours writes a state record.
//! - It never syncs the directory its first file is created in: done after opening.
//! - It frees nothing below `purge_threshold`, and may bring deleted keys back when it does: keys are only overwritten.
//! - A failed fsync panics inside it, which ends the process: just what is wanted.
//! - It takes another engine's entries for its own where both are read on one thread: `reader.rs`.
//! - Batches over 8 KiB are compressed by default: off, it costs CPU in front of the fsync that everybody waits for.

use super::files::LogFiles;
use super::ledger::{Ledger, LiveSize, entry_bytes};
use super::reader::Reader;
use super::record::{BASE_KEY, BaseRecord, FORMAT, STATE_KEY, StateRecord, TERMS_KEY, TermsRecord};
use super::verify::{self, GROUP};
use super::{Install, LogError, LogSize, LogStore, LogWrite, Purger, Recovered, Written};
use crate::ids::LogIndex;
use crate::raft::terms::{LogPosition, TermIndex};
use ::raft::eraftpb::{ConfState, Entry};
use prost::Message;
use raft_engine::env::DefaultFileSystem;
use raft_engine::{Command, Engine, LogBatch, MessageExt, ReadableSize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries read in one go when loading, so that raft-engine's list of places stays small.
const LOAD_STEP: u64 = 4096;

struct RaftEntry;

impl MessageExt for RaftEntry {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

#[derive(Clone, Debug)]
pub struct EngineLogOptions {
    pub dir: PathBuf,
    /// False for `--unsafe-no-fsync`: an acknowledged write may be lost when the machine (not the process) goes down.
    pub fsync: bool,
    /// Files are rotated at this size.
    pub file_bytes: u64,
    /// The log's files are looked through for superfluous ones only above this size in all.
    pub purge_above_bytes: u64,
    /// Files are read by so many threads at a start.
    pub recovery_threads: usize,
}

impl EngineLogOptions {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), fsync: true, file_bytes: 64 << 20, purge_above_bytes: 256 << 20, recovery_threads: 4 }
    }
}

pub struct EngineLog<F: LogFiles = DefaultFileSystem> {
    engine: Arc<Engine<F>>,
    reader: Reader,
    dir: PathBuf,
    fsync: bool,
    ledger: Ledger,
    /// Of the last batch written.
    number: u64,
    /// Of the last batch known to be on disk, with all before it.
    synced: u64,
    base_number: u64,
    terms_number: u64,
    batch: LogBatch,
}

/// What goes into a batch beside entries and state.
#[derive(Clone, Copy)]
struct Beside {
    base: bool,
    terms: bool,
    sync: bool,
}

impl EngineLog {
    /// Opens the log, or makes an empty one. Damage other than a torn end is an error.
    pub fn open(options: EngineLogOptions) -> Result<Self, LogError> {
        Self::open_on(DefaultFileSystem, options)
    }
}

impl<F: LogFiles> EngineLog<F> {
    /// As [`EngineLog::open`], on `files`.
    pub fn open_on(files: F, options: EngineLogOptions) -> Result<Self, LogError> {
        let EngineLogOptions { dir, fsync, file_bytes, purge_above_bytes, recovery_threads } = options;
        let files = Arc::new(files);
        create_directory(files.as_ref(), &dir)?;
        verify::check_and_repair(files.as_ref(), &dir)?;
        let config = raft_engine::Config {
            dir: dir.to_str().ok_or_else(|| not_utf8(&dir))?.into(),
            // Whatever it would tolerate has been repaired or refused by now.
            recovery_mode: raft_engine::RecoveryMode::TolerateTailCorruption,
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(file_bytes),
            purge_threshold: ReadableSize(purge_above_bytes),
            // Old files are written over, which spares the file system the allocation of blocks at each fsync.
            enable_log_recycle: true,
            recovery_threads,
            ..raft_engine::Config::default()
        };
        let engine = Engine::open_with_file_system(config, Arc::clone(&files)).map_err(failed("open"))?;
        verify::sync_directory(files.as_ref(), &dir)?;
        let mut log = Self {
            engine: Arc::new(engine),
            reader: Reader::new(),
            dir,
            fsync,
            ledger: Ledger::default(),
            number: 0,
            synced: 0,
            base_number: 0,
            terms_number: 0,
            batch: LogBatch::default(),
        };
        log.recover()?;
        Ok(log)
    }

    /// Fills the ledger from the records, and checks that nothing the newest of them names is missing.
    fn recover(&mut self) -> Result<(), LogError> {
        let (first, last) = (self.engine.first_index(GROUP), self.engine.last_index(GROUP));
        let Some(state) = self.record::<StateRecord>(STATE_KEY)? else {
            if first.is_some() || self.engine.get(GROUP, BASE_KEY).is_some() {
                return Err(self.damaged("there are entries, but no record of the state".into()));
            }
            return Ok(());
        };
        if state.format > FORMAT {
            return Err(LogError::NewerFormat { path: self.dir.clone(), found: state.format, known: FORMAT });
        }
        let base = self.record::<BaseRecord>(BASE_KEY)?.filter(|base| base.number == state.base_number);
        let terms = self.record::<TermsRecord>(TERMS_KEY)?.filter(|terms| terms.number == state.terms_number);
        let (Some(base), Some(terms)) = (base, terms) else {
            return Err(self.damaged(format!("batch {} or {} is missing", state.base_number, state.terms_number)));
        };
        let runs = terms.runs.chunks_exact(2).filter_map(|run| Some((*run.first()?, *run.get(1)?)));
        let truncated = LogPosition::new(state.truncated_index, state.truncated_term);
        let terms = TermIndex::from_runs(runs, state.last_index).filter(|terms| terms.truncated() == truncated);
        let Some(terms) = terms else { return Err(self.damaged("the list of terms contradicts the state".into())) };
        if state.commit < truncated.index.0 || state.commit > state.last_index {
            return Err(self.damaged(format!("commit {} is outside the log", state.commit)));
        }
        // A cut below which files were purged may have to be repeated: the command for it can be among what was purged.
        let wanted = (state.last_index > truncated.index.0).then_some(state.last_index);
        if wanted.is_some() && (last != wanted || first.is_none_or(|first| first > terms.first_index())) {
            let found = format!("entries {first:?} to {last:?}, not {} to {wanted:?}", terms.first_index());
            return Err(self.damaged(found));
        }
        self.ledger = Ledger {
            hard_state: state.hard_state(),
            conf_state: base.conf_state(),
            terms,
            pending_install: base.pending_install,
            size: LiveSize::recovered(truncated.index.0, state.truncated_bytes, state.last_index, state.appended_bytes),
            begun: true,
        };
        (self.number, self.base_number, self.terms_number) = (state.number, state.base_number, state.terms_number);
        // The check before opening has synced all there was.
        self.synced = state.number;
        if wanted.is_none() && last.is_some() || first.is_some_and(|first| first < self.ledger.terms.first_index()) {
            self.batch.add_command(GROUP, Command::Compact { index: self.ledger.terms.first_index() });
            self.write(Beside { base: false, terms: false, sync: true })?;
        }
        Ok(())
    }

    fn record<R: Message + Default>(&self, key: &[u8]) -> Result<Option<R>, LogError> {
        let Some(bytes) = self.engine.get(GROUP, key) else { return Ok(None) };
        let record = R::decode(bytes.as_slice());
        record.map(Some).map_err(|error| self.damaged(format!("record {}: {error}", key.escape_ascii())))
    }

    fn damaged(&self, detail: String) -> LogError {
        LogError::Corrupt { path: self.dir.clone(), offset: None, detail }
    }

    /// Completes the batch with the records and writes it.
    fn write(&mut self, beside: Beside) -> Result<Written, LogError> {
        self.number += 1;
        let put = |batch: &mut LogBatch, key: &[u8], value: Vec<u8>| batch.put(GROUP, key.to_vec(), value);
        let ledger = &self.ledger;
        if beside.base {
            self.base_number = self.number;
            let base = BaseRecord::new(self.number, &ledger.conf_state, ledger.pending_install.clone());
            put(&mut self.batch, BASE_KEY, base.encode_to_vec()).map_err(failed("write"))?;
        }
        if beside.terms {
            self.terms_number = self.number;
            let runs = ledger.terms.runs().flat_map(|(first, term)| [first, term]).collect();
            let terms = TermsRecord { number: self.number, runs };
            put(&mut self.batch, TERMS_KEY, terms.encode_to_vec()).map_err(failed("write"))?;
        }
        let truncated = ledger.terms.truncated();
        let state = StateRecord {
            format: FORMAT,
            number: self.number,
            synced: self.synced,
            last_index: ledger.terms.last_index(),
            truncated_index: truncated.index.0,
            truncated_term: truncated.term.0,
            term: ledger.hard_state.term,
            vote: ledger.hard_state.vote,
            commit: ledger.hard_state.commit,
            base_number: self.base_number,
            terms_number: self.terms_number,
            appended_bytes: ledger.size.appended_bytes,
            truncated_bytes: ledger.size.truncated_bytes(),
        };
        put(&mut self.batch, STATE_KEY, state.encode_to_vec()).map_err(failed("write"))?;
        let synced = beside.sync && self.fsync;
        let outer = raft_engine::take_perf_context();
        let bytes = self.engine.write(&mut self.batch, synced).map_err(failed("write"))?;
        let spent = raft_engine::take_perf_context();
        raft_engine::set_perf_context(outer);
        if synced {
            self.synced = self.number;
        }
        Ok(Written {
            bytes: bytes as u64,
            entries: 0,
            write: spent.log_populating_duration + spent.log_write_duration,
            sync: spent.log_sync_duration,
            synced,
        })
    }

    fn read(&self, low: u64, high: u64, bytes_max: Option<u64>, into: &mut Vec<Entry>) -> Result<(), LogError> {
        let bytes_max = bytes_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        let before = into.len();
        let entries = &mut *into;
        let read = || self.engine.fetch_entries_to::<RaftEntry>(GROUP, low, high, bytes_max, entries);
        self.reader.alone(read).map_err(failed("read"))?;
        for (index, entry) in (low..).zip(into.iter().skip(before)) {
            if entry.index != index || self.ledger.terms.term(index) != Some(entry.term) {
                return Err(self.damaged(format!("entry {index} is entry {} of term {}", entry.index, entry.term)));
            }
        }
        Ok(())
    }
}

impl<F: LogFiles> LogStore for EngineLog<F> {
    fn load(&mut self, above: LogIndex) -> Result<Recovered, LogError> {
        let terms = &self.ledger.terms;
        let mut low = terms.first_index().max(above.0.saturating_add(1));
        let end = terms.last_index() + 1;
        let mut entries = Vec::with_capacity(end.saturating_sub(low) as usize);
        while low < end {
            let high = end.min(low + LOAD_STEP);
            self.read(low, high, None, &mut entries)?;
            low = high;
        }
        Ok(Recovered {
            fresh: !self.ledger.begun,
            hard_state: self.ledger.hard_state.clone(),
            conf_state: self.ledger.conf_state.clone(),
            terms: self.ledger.terms.clone(),
            entries,
            pending_install: self.ledger.pending_install.clone(),
        })
    }

    fn append_many(&mut self, writes: &[LogWrite]) -> Result<Written, LogError> {
        let mut beside = Beside { base: false, terms: false, sync: false };
        let mut entries = 0;
        for write in writes {
            beside.terms |= self.ledger.append(write)?;
            beside.sync |= write.must_sync;
            entries += write.entries.len();
            self.batch.add_entries::<RaftEntry>(GROUP, &write.entries).map_err(failed("write"))?;
        }
        let written = self.write(beside)?;
        Ok(Written { entries, ..written })
    }

    fn entries(&mut self, low: LogIndex, high: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        self.ledger.covers(low.0, high.0)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut low = low.0;
        while low < high.0 && (entries.is_empty() || bytes < bytes_max) {
            let step = high.0.min(low + LOAD_STEP);
            let before = entries.len();
            self.read(low, step, Some(bytes_max.saturating_sub(bytes)), &mut entries)?;
            let read = entries.len() - before;
            bytes += entries.iter().skip(before).map(entry_bytes).sum::<u64>();
            low += read as u64;
            if low < step {
                break;
            }
        }
        Ok(entries)
    }

    fn truncate(&mut self, upto: LogPosition, conf_state: &ConfState) -> Result<Written, LogError> {
        if !self.ledger.truncate(upto, conf_state)? {
            return Ok(Written::default());
        }
        self.batch.add_command(GROUP, Command::Compact { index: upto.index.0 + 1 });
        // Synced, because the files that hold the entries may be deleted before the next sync.
        self.write(Beside { base: true, terms: true, sync: true })
    }

    fn replace(&mut self, install: &Install) -> Result<Written, LogError> {
        self.ledger.replace(install)?;
        self.batch.add_command(GROUP, Command::Clean);
        self.write(Beside { base: true, terms: true, sync: true })
    }

    fn clear_pending_install(&mut self) -> Result<Written, LogError> {
        if self.ledger.pending_install.take().is_none() {
            return Ok(Written::default());
        }
        self.write(Beside { base: true, terms: false, sync: true })
    }

    fn sync(&mut self) -> Result<Written, LogError> {
        if self.synced == self.number || !self.fsync {
            return Ok(Written { synced: self.fsync, ..Written::default() });
        }
        self.write(Beside { base: false, terms: false, sync: true })
    }

    fn purger(&self) -> Purger {
        Purger::new(self.reader, Arc::clone(&self.engine))
    }

    fn size(&self) -> LogSize {
        LogSize { live_bytes: self.ledger.size.live_bytes(), disk_bytes: self.engine.get_used_size() as u64 }
    }
}

fn failed(operation: &'static str) -> impl FnOnce(raft_engine::Error) -> LogError {
    move |source| LogError::Engine { operation, source }
}

fn not_utf8(dir: &Path) -> LogError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8");
    LogError::Io { operation: "open", path: dir.into(), source }
}

/// With its parents, each entry synced, for the owner only.
fn create_directory<F: LogFiles>(files: &F, dir: &Path) -> Result<(), LogError> {
    if files.is_directory(dir) {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(files, parent)?;
    let created = files.create_directory(dir);
    created.map_err(|source| LogError::Io { operation: "create", path: dir.into(), source })?;
    verify::sync_directory(files, parent)
}
