//! How long requests take, by kind and outcome: from the edge and in the Applier.
//!
//! A row is made when it is first needed, because etcd does not show kinds that never happened; from then on finding it
//! is one atomic read.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, Registry};

use super::families::{doubling, histograms};

macro_rules! kinds {
    ($($kind:ident),+ $(,)?) => {
        /// What a request asks for, named as etcd's metrics name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RequestKind {
            $($kind),+
        }

        impl RequestKind {
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind)),+
                }
            }
        }
    };
}

kinds!(
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserGet,
    AuthUserList,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGet,
    AuthRoleList,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
);

pub struct RequestMetrics {
    served: Table,
    applied: Table,
    ranged: Table,
}

impl RequestMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let served = doubling("etcd_server_request_duration_seconds", "How long requests took, end to end", 0.001, 14);
        let applied = doubling("etcd_server_apply_duration_seconds", "How long applying an entry took", 0.0001, 20);
        let ranged = doubling("etcd_server_range_duration_seconds", "How long reading a range took", 0.0001, 20);
        Self {
            served: Table::new(histograms(registry, served, &["type", "success"]), RequestKind::ALL.len()),
            applied: Table::new(histograms(registry, applied, &["version", "op", "success"]), RequestKind::ALL.len()),
            ranged: Table::new(histograms(registry, ranged, &["success"]), 1),
        }
    }

    /// A request was answered.
    pub fn served(&self, kind: RequestKind, success: bool, took: Duration) {
        self.served
            .observe(kind as usize, success, took, |family, success| family.with_label_values(&[kind.name(), success]));
    }

    /// An entry was applied.
    pub fn applied(&self, kind: RequestKind, success: bool, took: Duration) {
        self.applied.observe(kind as usize, success, took, |family, success| {
            family.with_label_values(&["v3", kind.name(), success])
        });
    }

    /// A range was read from the store.
    pub fn ranged(&self, success: bool, took: Duration) {
        self.ranged.observe(0, success, took, |family, success| family.with_label_values(&[success]));
    }
}

/// The rows of one family: a failure and a success for each kind.
struct Table {
    family: HistogramVec,
    rows: Box<[[OnceLock<Histogram>; 2]]>,
}

impl Table {
    fn new(family: HistogramVec, kinds: usize) -> Self {
        Self { family, rows: (0..kinds).map(|_| Default::default()).collect() }
    }

    fn observe(
        &self,
        kind: usize,
        success: bool,
        took: Duration,
        make: impl FnOnce(&HistogramVec, &'static str) -> Histogram,
    ) {
        let row = &self.rows[kind][usize::from(success)];
        row.get_or_init(|| make(&self.family, if success { "true" } else { "false" })).observe(took.as_secs_f64());
    }
}
