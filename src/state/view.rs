//! What readers see: the state as of one applied index, never in between two.

use crate::ids::{LogIndex, Term};
use crate::lease::LeaseTable;
use crate::membership::members::Members;
use crate::mvcc;
use crate::quota;
use crate::state::{Alarms, Checkpoints, HashPoint, Requests, StateHash};
use castd_backend_api::Backend;
use raft::eraftpb::ConfState;
use std::sync::Arc;

/// Cheap to make: roots of persistent structures. While a view is held, the revisions that it can read stay.
#[derive(Clone)]
pub struct View {
    pub applied: LogIndex,
    /// Of the entry at `applied`.
    pub term: Term,
    /// Of what all entries up to `applied` did.
    pub state_hash: StateHash,
    pub checkpoints: Checkpoints,
    pub mvcc: mvcc::View,
    pub leases: LeaseTable,
    pub alarms: Alarms,
    pub requests: Requests,
    pub members: Arc<Members>,
    pub conf_state: ConfState,
    /// `None` until the first leader has set one.
    pub cluster_version: Option<String>,
    /// The release that the cluster is on its way back to.
    pub downgrade: Option<String>,
    pub(super) backend: Arc<dyn Backend>,
}

/// Of the rows, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// What counts against the quota.
    pub db_size: u64,
    /// Without the rows that compaction has found to be of no use and has still to delete.
    pub in_use: u64,
}

impl View {
    /// Where other members may have a hash to compare: the checkpoints, and this very index.
    pub fn hash_points(&self) -> impl Iterator<Item = HashPoint> {
        let newest = HashPoint { index: self.applied.0, hash: self.state_hash };
        self.checkpoints.iter().filter(move |point| point.index != newest.index).chain([newest])
    }

    /// The same before and after a restart, whatever the engine makes of it.
    pub fn size(&self) -> Size {
        let bytes = self.mvcc.bytes() + self.leases.bytes();
        Size { db_size: quota::db_size(bytes), in_use: quota::db_size(bytes - self.mvcc.doomed_bytes()) }
    }

    /// What the engine takes for them; zero if it cannot tell at the moment.
    pub fn engine_size(&self) -> castd_backend_api::Size {
        self.backend.size().unwrap_or_default()
    }

    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}
