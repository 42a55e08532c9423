//! The start of a member, up to the cores: which data directory, whose, and what is in it.
//!
//! ```text
//!   Config ──▶ DataDir (lock, FORMAT) ──▶ EngineLog, Backend ──recovery──▶ Node, Machine, …  (or a text that says what to do)
//! ```
//!
//! A backend that is lost, damaged, not closed or does not fit the log is rebuilt from a snapshot and the log. Where that is
//! not possible the start fails: a member never serves an empty store in the place of one that it had.

mod first_start;

use self::first_start::{FirstStart, FirstStartError, first_start};
pub(crate) use self::first_start::{LOOKUPS_WITHIN, resolve};
use crate::cast::Identity;
use crate::config::{BootstrapError, Config};
use crate::ids::{LogIndex, MemberId};
use crate::installation::{self, InstallError};
use crate::lease::LeaseKeeper;
use crate::raft::log::{EngineLog, EngineLogOptions, LogError, LogStore};
use crate::raft::node::{Node, Settings, TICK};
use crate::raft::terms::LogPosition;
use crate::recovery::forced::{ForceError, Forced, go_on_alone};
use crate::recovery::{self, Recovered, RecoveryError, Stores};
use crate::snapshot::policy::{PolicySettings, SnapshotPolicy};
use crate::snapshot::{SnapshotError, SnapshotStore};
use crate::state::Machine;
use crate::state::portable::{self, PortableError};
use crate::storage::{self, DataDir, DataDirError, Format, Found, Notice, Replacement, SetAside};
use crate::telemetry::clock::Clock;
use crate::watch::{Hub, Limits};
use crate::wiring::Cores;
use castd_backend_api::Backend;
use castd_proto::castdpb::membership_change::Kind;
use slog::{Logger, info, warn};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    FirstStart(#[from] FirstStartError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Portable(#[from] PortableError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Force(#[from] ForceError),
    #[error("raft refuses the recovered state: {0}")]
    Raft(#[from] raft::Error),
    /// Nothing is left to rebuild the state from.
    #[error(
        "the state of this member is lost and cannot be rebuilt: its log begins after index {truncated}, and no sound snapshot \
         in {} reaches that far; restore a backup into a new data directory (`castutl snapshot restore`), or, in a larger \
         cluster, remove this member and add it again with an empty one", snapshots.display()
    )]
    NothingLeft { truncated: LogIndex, snapshots: PathBuf },
}

/// What a start has found or made. Dropped last: the lock on the data directory goes with it.
pub struct Boot {
    pub cores: Cores,
    pub identity: Identity,
    /// Members that are known before the log tells of any, with their peer URLs.
    pub others: Vec<(MemberId, Vec<String>)>,
    pub data_dir: Arc<DataDir>,
    /// It had no data before.
    pub is_new: bool,
}

/// Opens or begins the member that `config` describes.
///
/// # Errors
/// Every way in which a start can fail, with a text that says what to do.
pub fn boot(config: &Config, clock: Clock, log: &Logger) -> Result<Boot, BootError> {
    let settings = storage::Settings {
        wal_dir: config.wal_dir.clone(),
        ..storage::Settings::new(&config.data_dir, config.storage)
    };
    let mut data_dir = DataDir::prepare(settings, &mut |notice| announce(log, &notice))?;
    let mut log_store = EngineLog::open(EngineLogOptions {
        fsync: !config.unsafe_no_fsync,
        ..EngineLogOptions::new(data_dir.log_path())
    })?;
    let snapshots = SnapshotStore::open(data_dir.snapshots_path())?;

    info!(log, "bootstrapping cluster");
    let is_new = data_dir.format().is_none();
    let FirstStart { identity, others } = match data_dir.format() {
        Some(format) => {
            let identity = Identity { cluster: format.cluster_id, member: format.member_id };
            FirstStart { identity, others: Vec::new() }
        }
        None => {
            let started = first_start(config, &mut log_store, clock, log)?;
            let Identity { cluster, member } = started.identity;
            data_dir.commit_format(Format::new(config.storage, cluster, member))?;
            started
        }
    };
    if is_new && config.force_new_cluster {
        warn!(log, "--force-new-cluster has no effect: there is no member in the data directory yet";
            "data-dir" => %config.data_dir.display());
    }
    info!(log, "bootstrapping storage");
    let started = clock.now();
    let recovered = open_state(&data_dir, &mut log_store, &snapshots, log)?;
    let is_forced = config.force_new_cluster && !is_new;
    let Recovered { machine, window } =
        if is_forced { force(config, identity, recovered, &mut log_store, log)? } else { recovered };
    info!(log, "opened backend db"; "storage" => %config.storage, "applied-index" => machine.applied().0,
        "revision" => machine.revision().0, "took" => ?clock.now().saturating_sub(started));

    info!(log, "bootstrapping raft");
    let text = match is_forced {
        true => "forcing restart member",
        false if is_new => "starting local member",
        false => "restarting local member",
    };
    info!(log, "{text}"; "local-member-id" => %identity.member, "cluster-id" => %identity.cluster,
        "commit-index" => window.hard_state().commit);
    let newest = snapshots.list()?.first().map_or(LogIndex(0), |file| file.position.index);
    let policy = PolicySettings {
        snapshot_count: config.snapshot_count,
        catchup_entries: config.snapshot_catchup_entries,
        keeps_snapshot: config.storage.needs_snapshot() || config.storage_keep_snapshot,
        is_durable: config.storage != storage::StorageKind::Memory,
    };
    let snapshot_policy = SnapshotPolicy::new(policy, window.terms().truncated().index, newest);
    let leases = LeaseKeeper::new(&machine.view().leases, config.election_timeout);
    let hub = Hub::new(
        Limits::default(),
        config.watch_progress_notify_interval,
        identity.member.0,
        machine.revision(),
        machine.view().mvcc.compact_revision(),
    );
    let node = Node::new(raft_settings(config, identity.member, clock), window, machine.applied(), log)?;
    let log_store = Box::new(log_store);
    let data_dir = Arc::new(data_dir);
    let cores =
        Cores { node, log_store, machine, hub, leases, snapshots, snapshot_policy, data_dir: Arc::clone(&data_dir) };
    info!(log, "bootstrap successfully");
    Ok(Boot { cores, identity, others, data_dir, is_new })
}

fn raft_settings(config: &Config, id: MemberId, clock: Clock) -> Settings {
    let ticks = |time: std::time::Duration| (time.as_millis() / TICK.as_millis()).max(1) as usize;
    // Wall time is not unique by contract, but two boots of one member in the same nanosecond are not possible.
    let boot = clock.wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    Settings {
        id,
        election_ticks: ticks(config.election_timeout),
        heartbeat_ticks: ticks(config.heartbeat_interval),
        pre_vote: config.pre_vote,
        request_timeout: config.request_timeout(),
        catchup_entries: config.snapshot_catchup_entries,
        seed: boot,
        boot,
    }
}

fn open_state(
    data_dir: &DataDir,
    log_store: &mut dyn LogStore,
    snapshots: &SnapshotStore,
    log: &Logger,
) -> Result<Recovered, BootError> {
    recovery::open_state(log_store, &mut OnDisk { data_dir, snapshots, log, begun: None })
}

/// Makes this member the only one of its cluster.
fn force(
    config: &Config,
    identity: Identity,
    recovered: Recovered,
    log_store: &mut dyn LogStore,
    log: &Logger,
) -> Result<Recovered, BootError> {
    let urls: Vec<String> = config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    let own = recovery::initial_member(identity.member, &urls);
    let Forced { recovered, changes, kept, dropped } = go_on_alone(log_store, recovered.machine, &own)?;
    if kept > 0 {
        info!(log, "keeping entries that were not known to be committed"; "number-of-entries" => kept);
    }
    if dropped > 0 {
        warn!(log, "discarding uncommitted WAL entries"; "number-of-discarded-entries" => dropped);
    }
    for changed in &changes {
        let text = match changed.kind {
            Kind::Remove => "removed member",
            Kind::Add | Kind::Promote | Kind::Update => "added member",
        };
        info!(log, "{text}"; "cluster-id" => %identity.cluster, "local-member-id" => %identity.member,
            "remote-peer-id" => %MemberId(changed.member.id), "remote-peer-urls" => changed.member.peer_urls.join(","));
    }
    if changes.is_empty() {
        info!(log, "this member is the only one already; --force-new-cluster can be removed");
    }
    Ok(recovered)
}

/// The stores of a data directory.
struct OnDisk<'a> {
    data_dir: &'a DataDir,
    snapshots: &'a SnapshotStore,
    log: &'a Logger,
    begun: Option<Replacement>,
}

impl Stores for OnDisk<'_> {
    type Error = BootError;

    fn open(&mut self) -> Result<Option<Arc<dyn Backend>>, BootError> {
        match self.data_dir.open_backend()? {
            Found::Store(backend) => return Ok(Some(backend)),
            Found::Nothing => {}
            Found::Unclosed => {
                info!(self.log, "the backend was not closed by the last process; it is rebuilt from snapshot and log");
            }
            Found::Broken(aside) => warn_of(&aside, self.log),
        }
        Ok(None)
    }

    fn install(&mut self, name: &str) -> Result<Option<Machine>, BootError> {
        let Self { data_dir, snapshots, log, .. } = self;
        let Some(file) = snapshots.find(name)? else {
            warn!(log, "the snapshot that was to be installed is missing"; "file" => name);
            return Ok(None);
        };
        if let Err(error) = file.verify() {
            let aside = snapshots.set_aside(&file)?;
            warn!(log, "the snapshot that was to be installed is damaged"; "path" => %aside.display(), "error" => %error);
            return Ok(None);
        }
        info!(log, "finishing the install of a received snapshot"; "snapshot-index" => file.position.index.0, "bytes" => file.bytes);
        Ok(Some(installation::replace_state(data_dir, &file)?))
    }

    fn give_up(&mut self, reason: &RecoveryError) -> Result<(), BootError> {
        if let RecoveryError::BackendBehind { .. } = reason {
            // A snapshot has all that it has; it stays until one is found.
            info!(self.log, "the backend is rebuilt"; "reason" => %reason);
        } else if let Some(aside) = self.data_dir.set_backend_aside(reason.to_string())? {
            warn_of(&aside, self.log);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<Arc<dyn Backend>, BootError> {
        let begun = self.begun.insert(self.data_dir.begin_replacement()?);
        Ok(Arc::clone(&begun.backend))
    }

    fn fill(&mut self, backend: &dyn Backend, continues: &dyn Fn(LogPosition) -> bool) -> Result<(), BootError> {
        if let Some((file, _)) = self.snapshots.newest_sound(continues)? {
            info!(self.log, "filling the backend from a snapshot"; "snapshot-index" => file.position.index.0, "bytes" => file.bytes);
            portable::fill(&file, backend)?;
        }
        Ok(())
    }

    fn keep(&mut self) -> Result<(), BootError> {
        if let Some(begun) = self.begun.take() {
            self.data_dir.commit_replacement(begun)?;
        }
        Ok(())
    }

    fn nothing_left(&self, truncated: LogIndex) -> BootError {
        BootError::NothingLeft { truncated, snapshots: self.snapshots.dir().to_owned() }
    }
}

fn warn_of(aside: &SetAside, log: &Logger) {
    warn!(log, "set a backend aside that cannot be used"; "path" => %aside.moved_to.display(), "error" => &aside.reason);
}

fn announce(log: &Logger, notice: &Notice) {
    let shown = |path: &Path| path.display().to_string();
    match notice {
        Notice::WideMode { path, mode } => {
            warn!(log, "check file permission"; "path" => shown(path), "error" => format!("directory {:?} exist, but the permission is {:o}; the recommended permission is 0700", shown(path), mode));
        }
        Notice::WaitingForLock { directory, at_most } => {
            warn!(log, "db file is flocked by another process, or taking too long"; "path" => shown(directory), "took" => ?at_most);
        }
        Notice::UnfinishedCreation { .. } => {
            info!(log, "an earlier first start was cut short; starting over"; "notice" => %notice);
        }
        Notice::UnexpectedFile { path } => {
            warn!(log, "found invalid file under data directory"; "filename" => shown(path));
        }
    }
}

#[cfg(test)]
mod tests;
