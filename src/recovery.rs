//! From what is on disk to cores that can go on: the first start, and every later one.
//!
//! ```text
//!   LogStore           ──begin, begin_joining──▶ first log       (a member's first start)
//!   LogStore + Stores  ──open_state──▶ Machine + Window          (a backend that does not fit the log is replaced)
//!   LogStore + Backend ──recover──▶ Machine + Window
//!                      ──go_on_alone──▶ the same, of a member that is the only one left (forced.rs)
//! ```
//!
//! The log is the truth, the backend a cache that may be behind. What may not be: a backend behind the place where the log
//! begins (its past is gone), or ahead of where the log ends (it holds what was never promised). Used by the server and by
//! the simulator alike; no path, no thread, no clock.

pub mod forced;

use crate::ids::{LogIndex, MemberId};
use crate::raft::log::{Install, LogError, LogStore, LogWrite};
use crate::raft::terms::LogPosition;
use crate::raft::window::Window;
use crate::state::{Machine, StateError};
use castd_backend_api::Backend;
use castd_proto::castdpb::{ConfChange, ConfChangeType, MembershipChange, membership_change};
use castd_proto::etcdserverpb::Member;
use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};
use std::sync::Arc;

/// Term of the entries that a first start writes; the first leader is elected at the next one.
pub(crate) const FIRST_TERM: u64 = 1;

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    State(#[from] StateError),
    /// The backend is not usable with this log, but can be rebuilt from the log, or from a snapshot and the log.
    #[error("the backend is at index {applied}, the log ends at {last}: the backend holds what was never promised")]
    BackendAhead { applied: LogIndex, last: LogIndex },
    /// Entries between the backend and the log are gone.
    #[error("the backend is at index {applied}, the log begins after {truncated}: entries between them are missing")]
    BackendBehind { applied: LogIndex, truncated: LogIndex },
}

/// Cores that can go on, and where they are.
pub struct Recovered {
    pub machine: Machine,
    pub window: Window,
}

/// Writes the first log of a new member: one conf-change entry for each initial member, committed at term 1, as etcd does.
/// Durable on return.
///
/// # Errors
/// When the log cannot be written.
pub fn begin(log: &mut dyn LogStore, members: &[Member]) -> Result<(), LogError> {
    let conf_state = ConfState { voters: members.iter().map(|member| member.id).collect(), ..Default::default() };
    let entries: Vec<Entry> = (1..).zip(members).map(|(index, member)| joining(index, member)).collect();
    let commit = entries.len() as u64;
    let position = LogPosition::new(0, 0);
    log.replace(&Install { position, conf_state, hard_state: HardState::default(), pending: None })?;
    let hard_state = HardState { term: FIRST_TERM, commit, ..Default::default() };
    log.append(&LogWrite { entries, hard_state: Some(hard_state), must_sync: true })?;
    Ok(())
}

/// Begins the log of a member that joins a running cluster: all that is in it will come from there. Durable on return.
///
/// # Errors
/// When the log cannot be written.
pub fn begin_joining(log: &mut dyn LogStore) -> Result<(), LogError> {
    let position = LogPosition::new(0, 0);
    let (conf_state, hard_state) = Default::default();
    log.replace(&Install { position, conf_state, hard_state, pending: None })?;
    Ok(())
}

fn joining(index: u64, member: &Member) -> Entry {
    let change = MembershipChange {
        kind: membership_change::Kind::Add.into(),
        member: Some(member.clone()),
        ..Default::default()
    };
    let change = ConfChange {
        change_type: ConfChangeType::AddNode.into(),
        node_id: member.id,
        context: change.encode_to_vec().into(),
        id: 0,
    };
    let mut entry = Entry { index, term: FIRST_TERM, data: change.encode_to_vec().into(), ..Default::default() };
    entry.set_entry_type(EntryType::EntryConfChange);
    entry
}

/// Where a start finds the state, and makes another store in its place.
pub trait Stores {
    type Error: From<LogError> + From<RecoveryError>;

    /// The store as the last life has left it; `None` if it left none, or none that is to be believed.
    ///
    /// # Errors
    /// When the disk fails.
    fn open(&mut self) -> Result<Option<Arc<dyn Backend>>, Self::Error>;

    /// Makes the state of the snapshot that has this name the member's; durable on return. `None` if that snapshot is missing
    /// or damaged.
    ///
    /// # Errors
    /// When the disk fails.
    fn install(&mut self, name: &str) -> Result<Option<Machine>, Self::Error>;

    /// The store that was opened does not fit the log, and nobody has it any more.
    ///
    /// # Errors
    /// When the disk fails.
    fn give_up(&mut self, reason: &RecoveryError) -> Result<(), Self::Error>;

    /// An empty store, which is the member's only once it is [kept](Stores::keep).
    ///
    /// # Errors
    /// When the disk fails.
    fn begin(&mut self) -> Result<Arc<dyn Backend>, Self::Error>;

    /// Fills an empty store from the newest sound snapshot of those that the log `continues`, if there is one.
    ///
    /// # Errors
    /// When the disk fails.
    fn fill(&mut self, backend: &dyn Backend, continues: &dyn Fn(LogPosition) -> bool) -> Result<(), Self::Error>;

    /// The store that was begun is the member's from now on; durable on return.
    ///
    /// # Errors
    /// When the disk fails.
    fn keep(&mut self) -> Result<(), Self::Error>;

    /// There is nothing to rebuild the state from.
    fn nothing_left(&self, truncated: LogIndex) -> Self::Error;
}

/// The state as it is if it fits the log; else that of the snapshot whose install was cut short, or one rebuilt from the
/// newest snapshot that fits.
///
/// # Errors
/// When the disk fails, and when nothing is left to rebuild the state from.
pub fn open_state<S: Stores>(log: &mut dyn LogStore, stores: &mut S) -> Result<Recovered, S::Error> {
    let recovered = match open_fitting(log, stores)? {
        Some(recovered) => recovered,
        None => match finish_install(log, stores)? {
            Some(recovered) => recovered,
            None => rebuild(log, stores)?,
        },
    };
    // The state has what was to be installed, or more.
    log.clear_pending_install()?;
    Ok(recovered)
}

/// The state as the last life has left it, if it is to be believed and fits the log.
fn open_fitting<S: Stores>(log: &mut dyn LogStore, stores: &mut S) -> Result<Option<Recovered>, S::Error> {
    let Some(opened) = stores.open()? else { return Ok(None) };
    match recover(log, opened) {
        Ok(recovered) => Ok(Some(recovered)),
        Err(RecoveryError::Log(error)) => Err(error.into()),
        Err(reason) => stores.give_up(&reason).map(|()| None),
    }
}

/// The last life had accepted a snapshot of the leader, and ended before the state was replaced by it.
fn finish_install<S: Stores>(log: &mut dyn LogStore, stores: &mut S) -> Result<Option<Recovered>, S::Error> {
    let Some(name) = log.load(LogIndex(u64::MAX))?.pending_install else { return Ok(None) };
    let Some(machine) = stores.install(&name)? else { return Ok(None) };
    Ok(Some(fit(log, machine)?))
}

/// Begins with an empty store, and fills it from the newest snapshot that the log continues.
fn rebuild<S: Stores>(log: &mut dyn LogStore, stores: &mut S) -> Result<Recovered, S::Error> {
    let backend = stores.begin()?;
    let terms = log.load(LogIndex(u64::MAX))?.terms;
    // Those that another member sent, and that were not installed, may be of a log that is not ours.
    let continues = |position: LogPosition| terms.term(position.index.0) == Some(position.term.0);
    stores.fill(backend.as_ref(), &continues)?;
    let recovered = match recover(log, backend) {
        Ok(recovered) => recovered,
        Err(RecoveryError::BackendBehind { truncated, .. }) => return Err(stores.nothing_left(truncated)),
        Err(error) => return Err(error.into()),
    };
    stores.keep()?;
    Ok(recovered)
}

/// Opens the state machine on `backend` and the window on `log`, and checks that they fit.
///
/// # Errors
/// [`RecoveryError::BackendAhead`] and [`RecoveryError::BackendBehind`] ask for another backend: an empty one, or one
/// filled from a snapshot. All others are final.
pub fn recover(log: &mut dyn LogStore, backend: Arc<dyn Backend>) -> Result<Recovered, RecoveryError> {
    fit(log, Machine::open(backend)?)
}

/// As [`recover`], with a state machine that is open already.
///
/// # Errors
/// As [`recover`].
pub fn fit(log: &mut dyn LogStore, machine: Machine) -> Result<Recovered, RecoveryError> {
    let applied = machine.applied();
    let recovered = log.load(applied)?;
    let (truncated, last) = (recovered.terms.truncated().index, LogIndex(recovered.terms.last_index()));
    if applied > last {
        return Err(RecoveryError::BackendAhead { applied, last });
    }
    if applied < truncated {
        return Err(RecoveryError::BackendBehind { applied, truncated });
    }
    let conf_state = if applied.0 == 0 { recovered.conf_state.clone() } else { machine.view().conf_state.clone() };
    let mut window = Window::new(recovered, conf_state);
    // Commit-only hard states are not synced, so the backend may know of more commits than the log does.
    window.raise_commit(applied.0);
    Ok(Recovered { machine, window })
}

/// A member as the first log describes it: its name and client URLs follow when it has started.
pub fn initial_member(id: MemberId, peer_urls: &[String]) -> Member {
    Member { id: id.0, peer_urls: peer_urls.to_vec(), ..Default::default() }
}
