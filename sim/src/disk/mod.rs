//! What a member has on disk: its log, its store, its snapshots; what reaches the platter when, and what a crash leaves.
//!
//! ```text
//!   LogWriter ─▶ log: write ─ sync          Applier ─▶ store: batches ─ flush         Snapshotter ─▶ snap/
//!                     └────────────────── each is a step of the fuse ───────────────────────┘
//! ```
//! This is the interface that members have to their disks, over the log and the store that lose what was not synced. It
//! knows files by their names and bytes, and nothing of raft.
//!
//! - `fuse`: the power that goes at a step, and errors.
//! - `platter`, `files`: sectors and names, as a crash and a bad disk leave them.
//! - `log`: the log of a server upon these files, next to a model of it.
//! - `store`: a backend that forgets.

mod files;
mod fuse;
mod log;
mod platter;
mod store;

pub use files::Done;
pub use fuse::{Fuse, Gone, Trouble};

use self::log::Log;
use self::platter::Tally;
use self::store::ForgetfulStore;
use crate::dice::Dice;
use crate::planted::{self, Bug};
use bytes::Bytes;
use castd::ids::{ClusterId, LogIndex, MemberId};
use castd::raft::log::{Install, LogError, LogSize, LogStore, LogWrite, Recovered};
use castd::raft::terms::LogPosition;
use castd::recovery::{self, RecoveryError, Stores};
use castd::snapshot::{SnapshotError, SnapshotReader, file_name};
use castd::state::portable::{self, PortableError};
use castd::state::{Machine, StateError, View};
use castd_backend_api::{Backend, BackendError};
use castd_proto::castdpb::SnapshotHeader;
use raft::eraftpb::{ConfState, Entry, EntryType};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the store is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// It flushes, and is trusted without a snapshot beside it.
    Trusted,
    /// It flushes, and a snapshot is kept beside it: after a crash nobody believes what it has.
    Doubted,
    /// It has no disk: a crash leaves nothing.
    Memory,
}

impl Storage {
    pub fn is_durable(self) -> bool {
        self != Storage::Memory
    }

    pub fn keeps_snapshot(self) -> bool {
        self != Storage::Trusted
    }
}

/// Why a member cannot use its disk. All of it ends the member.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Portable(#[from] PortableError),
    #[error("nothing is left to rebuild the state from: the log begins after {truncated}")]
    NothingLeft { truncated: LogIndex },
    #[error("the snapshot {name} is missing")]
    NoSnapshot { name: String },
}

/// A snapshot that stands in `snap/`, or had its name removed since.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    pub position: LogPosition,
    pub header: SnapshotHeader,
    pub bytes: Bytes,
}

/// Where they stand on a simulated disk.
const SNAPSHOTS: &str = "/snap";

/// What a crash took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    pub writes: u64,
    pub batches: u64,
    pub sectors: Tally,
}

pub struct Disk {
    pub storage: Storage,
    pub fuse: Fuse,
    log: Log,
    store: Arc<ForgetfulStore>,
    /// A start is at filling it, in the place of the other.
    begun: Option<Arc<ForgetfulStore>>,
    snapshots: BTreeMap<String, SnapshotFile>,
    /// How often a start has filled the store from a snapshot.
    pub rebuilt: u64,
    /// The start said that it is damaged.
    has_refused: bool,
    /// Snapshots that were found damaged.
    broken_snapshots: u64,
    pub trap: Option<Trap>,
    /// Of the last vote that was written: in which term, and for whom.
    voted: (u64, u64),
}

/// A moment at which it matters what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A snapshot of a leader takes the log's place.
    Install,
    /// A vote for another member is written,
    Vote,
    /// or for itself.
    Candidacy,
    /// Entries that change the membership are.
    ConfChange,
}

/// Blows the fuse when the moment comes.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    pub moment: Moment,
    /// So many steps of the disk after it has come.
    pub steps: u64,
    pub is_last_done: bool,
}

impl Disk {
    /// Of one whose log is in files of so many bytes, with the dice for these; without, there is a model in the log's place.
    pub fn new(storage: Storage, files: Option<(u64, Dice)>) -> Self {
        let fuse = Fuse::default();
        let log = match files {
            Some((file_bytes, dice)) => Log::real(fuse.clone(), file_bytes, dice),
            None => Log::model(fuse.clone()),
        };
        let store = Arc::new(ForgetfulStore::new(storage.is_durable(), fuse.clone()));
        Disk {
            storage,
            fuse,
            log,
            store,
            begun: None,
            snapshots: BTreeMap::new(),
            rebuilt: 0,
            has_refused: false,
            broken_snapshots: 0,
            trap: None,
            voted: (0, 0),
        }
    }

    /// The power goes and comes back.
    pub fn crash(&mut self, dice: &mut Dice) -> Lost {
        self.fuse.mend();
        let (writes, sectors) = self.log.crash(dice);
        self.read_snapshots();
        let batches = match self.storage {
            Storage::Doubted => self.store.crash_torn(dice),
            Storage::Trusted | Storage::Memory => self.store.crash(dice.index(self.store.unsynced() + 1)),
        };
        Lost { writes, batches: batches as u64, sectors }
    }

    /// What came to pass in its files.
    pub fn take_done(&mut self) -> (Done, u64) {
        let done = self.log.files().map(files::Files::take_done).unwrap_or_default();
        (done, std::mem::take(&mut self.broken_snapshots))
    }

    /// Writes that the last start found missing, as it may.
    pub fn take_writes_lost(&mut self) -> u64 {
        self.log.take_writes_lost()
    }

    /// Something that was synced is not as it was written.
    pub fn is_damaged(&self) -> bool {
        self.log.files().is_some_and(files::Files::is_damaged)
    }

    /// Or will not be.
    pub fn is_endangered(&self) -> bool {
        self.log.files().is_some_and(files::Files::is_endangered)
    }

    /// Nothing starts from it any more.
    pub fn has_refused(&self) -> bool {
        self.has_refused || self.log.has_refused()
    }

    pub fn has_files(&self) -> bool {
        self.log.files().is_some()
    }

    pub fn flip_a_bit(&self) -> bool {
        self.log.files().is_some_and(files::Files::flip_a_bit)
    }

    pub fn misdirect_a_write(&self) -> bool {
        self.log.files().is_some_and(|files| {
            files.misdirect_a_write();
            true
        })
    }

    /// A start has read all of it, and it made no difference.
    pub fn forgive(&self) {
        if let Some(files) = self.log.files() {
            files.forgive();
        }
    }

    /// Files that the log needs no more are deleted, or written anew.
    pub fn purge(&mut self) -> Result<(), LogError> {
        self.log.purge()
    }

    /// The process ends and the machine goes on: what was written is there.
    pub fn restart(&mut self) {
        self.fuse.mend();
        self.log.end();
        self.store.crash(if self.storage.is_durable() { usize::MAX } else { 0 });
    }

    /// The store writes to the disk by itself, as far as it likes.
    pub fn write_back(&mut self, dice: &mut Dice) {
        self.store.persist(dice.index(self.store.unsynced() + 1));
    }

    // ---- The log ----

    /// For a first start.
    pub fn begin(&mut self, begin: impl FnOnce(&mut dyn LogStore) -> Result<(), LogError>) -> Result<(), LogError> {
        begin(&mut self.log)
    }

    fn spring(&mut self, moment: Moment) {
        if let Some(Trap { steps, is_last_done, .. }) = self.trap.take_if(|trap| trap.moment == moment) {
            self.fuse.blow_after(steps, is_last_done);
        }
    }

    /// Written, not synced, by the member `own`.
    pub fn write_log(&mut self, writes: &[LogWrite], own: MemberId) -> Result<(), LogError> {
        let states = writes.iter().filter_map(|write| write.hard_state.as_ref());
        if let Some(state) = states.filter(|state| state.vote != 0).last()
            && (state.term, state.vote) != self.voted
        {
            self.spring(if state.vote == own.0 { Moment::Candidacy } else { Moment::Vote });
            self.voted = (state.term, state.vote);
        }
        let mut entries = writes.iter().flat_map(|write| &write.entries);
        if entries.any(|entry| entry.get_entry_type() != EntryType::EntryNormal) {
            self.spring(Moment::ConfChange);
        }
        self.log.append_many(writes).map(drop)
    }

    pub fn sync_log(&mut self) -> Result<(), LogError> {
        self.log.sync().map(drop)
    }

    pub fn fetch(&mut self, low: LogIndex, high: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        self.log.entries(low, high, bytes_max)
    }

    pub fn cut_log(&mut self, upto: LogPosition, conf_state: &ConfState) -> Result<(), LogError> {
        self.log.truncate(upto, conf_state).map(drop)
    }

    pub fn replace_log(&mut self, install: &Install) -> Result<(), LogError> {
        self.spring(Moment::Install);
        self.log.replace(install).map(drop)
    }

    pub fn clear_pending_install(&mut self) -> Result<(), LogError> {
        self.log.clear_pending_install().map(drop)
    }

    pub fn log_size(&self) -> LogSize {
        self.log.size()
    }

    /// What a start would find in the log.
    pub fn load(&mut self) -> Result<Recovered, LogError> {
        self.log.load(LogIndex(u64::MAX))
    }

    // ---- Snapshots ----

    /// Writes the state as of `view` into `snap/`, and removes what it makes superfluous.
    pub fn take_snapshot(&mut self, view: &View, cluster: ClusterId) -> Result<SnapshotFile, DiskError> {
        let file = self.write_snapshot(view, cluster)?;
        self.publish(file.clone())?;
        self.keep_snapshots(2, view.applied)?;
        Ok(file)
    }

    /// Writes the state as of `view` into a file without a name.
    pub fn write_snapshot(&mut self, view: &View, cluster: ClusterId) -> Result<SnapshotFile, DiskError> {
        let (bytes, _) = portable::write(Vec::new(), view, cluster)?;
        self.fuse.step(|| Ok::<_, Gone>(()))?;
        sound(bytes.into())
    }

    /// What another member sent, checked; durable on return.
    pub fn receive_snapshot(&mut self, bytes: Bytes) -> Result<SnapshotFile, DiskError> {
        let file = sound(bytes)?;
        self.publish(file.clone())?;
        Ok(file)
    }

    /// Gives a file that is on disk its name.
    fn publish(&mut self, file: SnapshotFile) -> Result<(), Gone> {
        if let Some(files) = self.log.files() {
            let name = file_name(file.position);
            let published = files.publish(&Path::new(SNAPSHOTS).join(&name), &file.bytes);
            if published.is_err() || self.fuse.is_blown() {
                return Err(Gone);
            }
            self.snapshots.insert(name, file);
            return Ok(());
        }
        let snapshots = &mut self.snapshots;
        self.fuse.step(|| {
            snapshots.insert(file_name(file.position), file);
            Ok(())
        })
    }

    pub fn find_snapshot(&self, name: &str) -> Option<&SnapshotFile> {
        self.snapshots.get(name)
    }

    /// Newest first.
    pub fn snapshots(&self) -> Vec<&SnapshotFile> {
        let mut files: Vec<&SnapshotFile> = self.snapshots.values().collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.position));
        files
    }

    /// Removes all of those up to `upto` but the newest `keep`.
    pub fn keep_snapshots(&mut self, keep: usize, upto: LogIndex) -> Result<(), Gone> {
        let files = self.snapshots();
        let old = files.into_iter().filter(|file| file.position.index <= upto).skip(keep);
        let names: Vec<String> = old.map(|file| file_name(file.position)).collect();
        for name in names {
            if let Some(files) = self.log.files() {
                files.remove(&Path::new(SNAPSHOTS).join(&name));
                if self.fuse.is_blown() {
                    return Err(Gone);
                }
                self.snapshots.remove(&name);
                continue;
            }
            let snapshots = &mut self.snapshots;
            self.fuse.step(|| {
                snapshots.remove(&name);
                Ok::<_, Gone>(())
            })?;
        }
        Ok(())
    }

    /// After a crash: those that are sound. One with its name was synced before it got that.
    fn read_snapshots(&mut self) {
        let Some(files) = self.log.files() else { return };
        self.snapshots.clear();
        for (path, bytes) in files.read_all(Path::new(SNAPSHOTS)) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with("cast"))
            else {
                continue;
            };
            match sound(bytes.into()) {
                Ok(file) if file_name(file.position) == name => drop(self.snapshots.insert(name.to_owned(), file)),
                _ if files.is_damaged() => self.broken_snapshots += 1,
                Ok(file) => panic!("the snapshot {name} is that of {:?}", file.position),
                Err(error) => panic!("the snapshot {name} is damaged after a crash: {error}"),
            }
        }
    }

    // ---- The store ----

    pub fn store(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.store) as Arc<dyn Backend>
    }

    fn empty_store(&self) -> Arc<ForgetfulStore> {
        Arc::new(ForgetfulStore::new(self.storage.is_durable(), self.fuse.clone()))
    }

    /// The state becomes that of the snapshot at `position`; durable on return.
    pub fn replace_store(&mut self, position: LogPosition) -> Result<Machine, DiskError> {
        let name = file_name(position);
        let Some(file) = self.snapshots.get(&name) else { return Err(DiskError::NoSnapshot { name }) };
        let store = if planted::is_on(Bug::InstallsInPlace) { Arc::clone(&self.store) } else { self.empty_store() };
        portable::fill_from(SnapshotReader::open(&file.bytes[..])?, store.as_ref())?;
        let machine = Machine::open(Arc::clone(&store) as Arc<dyn Backend>)?;
        assert_eq!(machine.position(), position, "a snapshot is of the position that it is named by");
        let current = &mut self.store;
        self.fuse.step(|| {
            *current = store;
            Ok::<_, Gone>(())
        })?;
        Ok(machine)
    }

    /// State and log as a start makes them fit each other.
    pub fn open_state(&mut self) -> Result<recovery::Recovered, DiskError> {
        // The log is not among what the stores are looked for in.
        let mut log = std::mem::replace(&mut self.log, Log::model(self.fuse.clone()));
        let opened = recovery::open_state(&mut log, self);
        self.log = log;
        self.has_refused |= self.is_damaged() && matches!(opened, Err(DiskError::NothingLeft { .. }));
        opened
    }

    /// Whether a start could bring the state to where the log begins: from the store, or from a snapshot.
    pub fn is_recoverable(&mut self) -> Result<(), String> {
        let recovered = self.load().map_err(|error| error.to_string())?;
        let truncated = recovered.terms.truncated();
        let row =
            castd::state::AppliedPosition::read_durable(self.store.as_ref()).map_err(|error| error.to_string())?;
        let durable = if self.storage == Storage::Trusted { row.index } else { LogIndex(0) };
        let is_pending = recovered.pending_install.as_ref().is_some_and(|name| self.snapshots.contains_key(name));
        let continues = |file: &&SnapshotFile| {
            recovered.terms.term(file.position.index.0) == Some(file.position.term.0)
                && file.position.index >= truncated.index
        };
        if durable >= truncated.index || is_pending || self.snapshots.values().any(|file| continues(&file)) {
            return Ok(());
        }
        let files: Vec<_> = self.snapshots.values().map(|file| file.position).collect();
        Err(format!("the log begins after {truncated:?}, the store would be at {durable}, snapshots are {files:?}"))
    }
}

fn sound(bytes: Bytes) -> Result<SnapshotFile, DiskError> {
    let (header, _) = SnapshotReader::open(&bytes[..])?.verify()?;
    let position = LogPosition::new(header.index, header.term);
    Ok(SnapshotFile { position, header, bytes })
}

impl Stores for Disk {
    type Error = DiskError;

    fn open(&mut self) -> Result<Option<Arc<dyn Backend>>, DiskError> {
        let is_believed = match self.storage {
            Storage::Trusted => true,
            Storage::Doubted => planted::is_on(Bug::BelievesATornStore),
            Storage::Memory => false,
        };
        Ok(is_believed.then(|| self.store()))
    }

    fn install(&mut self, name: &str) -> Result<Option<Machine>, DiskError> {
        let Some(position) = self.snapshots.get(name).map(|file| file.position) else { return Ok(None) };
        self.replace_store(position).map(Some)
    }

    fn give_up(&mut self, _: &RecoveryError) -> Result<(), DiskError> {
        Ok(())
    }

    fn begin(&mut self) -> Result<Arc<dyn Backend>, DiskError> {
        let store = self.empty_store();
        self.begun = Some(Arc::clone(&store));
        Ok(store)
    }

    fn fill(&mut self, backend: &dyn Backend, continues: &dyn Fn(LogPosition) -> bool) -> Result<(), DiskError> {
        let newest = self.snapshots().into_iter().find(|file| continues(file.position));
        let Some(bytes) = newest.map(|file| file.bytes.clone()) else { return Ok(()) };
        self.rebuilt += 1;
        portable::fill_from(SnapshotReader::open(&bytes[..])?, backend)?;
        Ok(())
    }

    fn keep(&mut self) -> Result<(), DiskError> {
        if let Some(begun) = self.begun.take() {
            begun.flush()?;
            self.store = begun;
        }
        Ok(())
    }

    fn nothing_left(&self, truncated: LogIndex) -> DiskError {
        DiskError::NothingLeft { truncated }
    }
}
