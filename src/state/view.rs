//! What readers see: the state as of one applied index, never in between two.

use crate::ids::{LogIndex, Term};
use crate::lease::LeaseTable;
use crate::membership::members::Members;
use crate::mvcc;
use castd_backend_api::{Backend, Size};
use raft::eraftpb::ConfState;
use std::sync::Arc;

/// Cheap to make: roots of persistent structures. While a view is held, the revisions that it can read stay.
#[derive(Clone)]
pub struct View {
    pub applied: LogIndex,
    /// Of the entry at `applied`.
    pub term: Term,
    pub mvcc: mvcc::View,
    pub leases: LeaseTable,
    pub members: Arc<Members>,
    pub conf_state: ConfState,
    /// `None` until the first leader has set one.
    pub cluster_version: Option<String>,
    /// The release that the cluster is on its way back to.
    pub downgrade: Option<String>,
    pub(super) backend: Arc<dyn Backend>,
}

impl View {
    /// Bytes of the backend; zero if it cannot tell at the moment.
    pub fn size(&self) -> Size {
        self.backend.size().unwrap_or_default()
    }

    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}
