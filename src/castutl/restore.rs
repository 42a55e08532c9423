//! `snapshot restore`: the data directory of a member of a new cluster, from a saved file.
//!
//! ```text
//!   DataDir (marked: a restore) ──▶ snap/: the state ──▶ log/: empty, begins behind it, names it as pending ──▶ FORMAT
//! ```
//! That is what a member leaves that accepted a snapshot of its leader and ended, and its start goes on as that one's would:
//! it fills the backend from the file. So no backend is opened here. Until FORMAT is written nothing but another restore
//! begins in the directory.

use super::saved::{SavedError, SavedFile};
use crate::boot;
use crate::config::{BootstrapError, verify_member};
use crate::ids::MemberId;
use crate::membership::ids::initial_ids;
use crate::membership::urls::{ClusterMap, UrlError, UrlSet};
use crate::raft::log::{EngineLog, EngineLogOptions, Install, LogError, LogStore as _};
use crate::recovery;
use crate::snapshot::{SnapshotError, SnapshotStore};
use crate::state::restored::{self, Founding, Restored, RestoredError};
use crate::storage::{Creation, DataDir, DataDirError, Format, Settings, StorageKind, Vacancy};
use crate::telemetry::clock::Clock;
use raft::eraftpb::HardState;
use slog::{Logger, info, o, warn};
use std::path::PathBuf;

/// What the flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSettings {
    pub file: PathBuf,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub name: String,
    pub initial_cluster: String,
    pub initial_cluster_token: String,
    pub peer_urls: String,
    pub skip_hash_check: bool,
    pub bump: Option<u64>,
    pub storage: StorageKind,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Urls(#[from] UrlError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error("data-dir {:?} not empty or could not be read", .0.display().to_string())]
    DataDirTaken(PathBuf),
    #[error("wal-dir {:?} exists", .0.display().to_string())]
    WalDirTaken(PathBuf),
    #[error(transparent)]
    Saved(#[from] SavedError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Restored(#[from] RestoredError),
}

/// Restores; the directory is complete and durable on return.
///
/// # Errors
/// etcd's refusals, in etcd's order; then whatever is wrong with the file or the disk. The directory holds what was written
/// up to then, and may be given again.
pub fn restore(settings: &RestoreSettings, log: &Logger) -> Result<Restored, RestoreError> {
    let RestoreSettings { file, data_dir, wal_dir, name, .. } = settings;
    let advertised = UrlSet::parse(&settings.peer_urls)?;
    let cluster = ClusterMap::parse(&settings.initial_cluster)?;
    let (clock, patience) = (Clock::start(), boot::LOOKUPS_WITHIN);
    verify_member(&cluster, name, &advertised, &mut |host| boot::resolve(host, |_| clock.now() < patience))?;
    let directory =
        Settings { wal_dir: wal_dir.clone(), creation: Creation::Restore, ..Settings::new(data_dir, settings.storage) };
    let taken = || RestoreError::DataDirTaken(data_dir.clone());
    match DataDir::vacancy(&directory) {
        Ok(Vacancy::Vacant) => {}
        Ok(Vacancy::Abandoned) => {
            warn!(log, "an earlier restore was cut short; starting over"; "data-dir" => shown(data_dir))
        }
        Ok(Vacancy::WalDirTaken) => return Err(RestoreError::WalDirTaken(wal_dir.clone().unwrap_or_default())),
        Ok(Vacancy::DataDirTaken) | Err(_) => return Err(taken()),
    }
    let log_dir = wal_dir.clone().unwrap_or_else(|| data_dir.join("member")).join("log");
    let log = log.new(o!("path" => shown(file), "wal-dir" => shown(&log_dir), "data-dir" => shown(data_dir),
        "snap-dir" => shown(&data_dir.join("member").join("snap"))));
    info!(log, "restoring snapshot");
    let mut saved = SavedFile::open(file)?;
    if !settings.skip_hash_check {
        saved.check_hash()?;
    }
    let reader = saved.reader()?;

    let ids = initial_ids(&cluster, &settings.initial_cluster_token);
    let member = ids.members.get(name).copied().ok_or_else(|| BootstrapError::NoLocalName(name.clone()))?;
    let mut members: Vec<_> = cluster
        .iter()
        .filter_map(|(name, urls)| {
            let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            Some(recovery::initial_member(*ids.members.get(name)?, &urls))
        })
        .collect();
    members.sort_by_key(|member| member.id);

    let mut data_dir = DataDir::prepare(directory, &mut |notice| warn!(log, "{}", notice))?;
    if data_dir.format().is_some() {
        return Err(taken());
    }
    let store = SnapshotStore::open(data_dir.snapshots_path())?;
    for member in &members {
        info!(log, "added member"; "cluster-id" => %ids.cluster, "local-member-id" => "0",
            "added-peer-id" => %MemberId(member.id), "added-peer-peer-urls" => member.peer_urls.join(","));
    }
    let founding = Founding { cluster: ids.cluster, members, bump: settings.bump };
    let restored = restored::write(reader, &store, &founding).map_err(|error| match error {
        RestoredError::Snapshot(source @ SnapshotError::Damaged { .. }) => saved.damaged(source).into(),
        other => RestoreError::from(other),
    })?;
    if let Some(bump) = settings.bump {
        info!(log, "bumping latest revision"; "bump-amount" => bump, "new-latest-revision" => restored.revision.0);
        info!(log, "marking revision compacted"; "revision" => restored.revision.0);
    }
    let mut log_store = EngineLog::open(EngineLogOptions::new(data_dir.log_path()))?;
    let hard_state = HardState { term: restored.position.term.0, ..HardState::default() };
    log_store.replace(&Install {
        position: restored.position,
        conf_state: restored.conf_state.clone(),
        hard_state,
        pending: Some(restored.file.name()),
    })?;
    drop(log_store);
    data_dir.commit_format(Format::new(settings.storage, ids.cluster, member))?;
    info!(log, "restored snapshot"; "storage" => %settings.storage, "cluster-id" => %ids.cluster, "member-id" => %member,
        "revision" => restored.revision.0);
    Ok(restored)
}

fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}
