//! Where the JSON gateway serves each RPC: etcd's paths, which cannot be derived from the names of services and methods.
//!
//! etcd has no path for `RangeStream` and for the health service; those here are Castd's own.

use crate::Rpc;

impl Rpc {
    /// All paths of this RPC, the usual one first. No `_`: a new RPC does not compile until somebody decides.
    pub const fn http_paths(self) -> &'static [&'static str] {
        match self {
            Rpc::KvRange => &["/v3/kv/range"],
            Rpc::KvRangeStream => &["/v3/kv/rangestream"],
            Rpc::KvPut => &["/v3/kv/put"],
            Rpc::KvDeleteRange => &["/v3/kv/deleterange"],
            Rpc::KvTxn => &["/v3/kv/txn"],
            Rpc::KvCompact => &["/v3/kv/compaction"],
            Rpc::Watch => &["/v3/watch"],
            Rpc::LeaseGrant => &["/v3/lease/grant"],
            Rpc::LeaseRevoke => &["/v3/lease/revoke", "/v3/kv/lease/revoke"],
            Rpc::LeaseKeepAlive => &["/v3/lease/keepalive"],
            Rpc::LeaseTimeToLive => &["/v3/lease/timetolive", "/v3/kv/lease/timetolive"],
            Rpc::LeaseLeases => &["/v3/lease/leases", "/v3/kv/lease/leases"],
            Rpc::ClusterMemberAdd => &["/v3/cluster/member/add"],
            Rpc::ClusterMemberRemove => &["/v3/cluster/member/remove"],
            Rpc::ClusterMemberUpdate => &["/v3/cluster/member/update"],
            Rpc::ClusterMemberList => &["/v3/cluster/member/list"],
            Rpc::ClusterMemberPromote => &["/v3/cluster/member/promote"],
            Rpc::MaintenanceAlarm => &["/v3/maintenance/alarm"],
            Rpc::MaintenanceStatus => &["/v3/maintenance/status"],
            Rpc::MaintenanceDefragment => &["/v3/maintenance/defragment"],
            Rpc::MaintenanceHash => &["/v3/maintenance/hash"],
            Rpc::MaintenanceHashKv => &["/v3/maintenance/hashkv"],
            Rpc::MaintenanceSnapshot => &["/v3/maintenance/snapshot"],
            Rpc::MaintenanceMoveLeader => &["/v3/maintenance/transfer-leadership"],
            Rpc::MaintenanceDowngrade => &["/v3/maintenance/downgrade"],
            Rpc::AuthEnable => &["/v3/auth/enable"],
            Rpc::AuthDisable => &["/v3/auth/disable"],
            Rpc::AuthStatus => &["/v3/auth/status"],
            Rpc::Authenticate => &["/v3/auth/authenticate"],
            Rpc::AuthUserAdd => &["/v3/auth/user/add"],
            Rpc::AuthUserGet => &["/v3/auth/user/get"],
            Rpc::AuthUserList => &["/v3/auth/user/list"],
            Rpc::AuthUserDelete => &["/v3/auth/user/delete"],
            Rpc::AuthUserChangePassword => &["/v3/auth/user/changepw"],
            Rpc::AuthUserGrantRole => &["/v3/auth/user/grant"],
            Rpc::AuthUserRevokeRole => &["/v3/auth/user/revoke"],
            Rpc::AuthRoleAdd => &["/v3/auth/role/add"],
            Rpc::AuthRoleGet => &["/v3/auth/role/get"],
            Rpc::AuthRoleList => &["/v3/auth/role/list"],
            Rpc::AuthRoleDelete => &["/v3/auth/role/delete"],
            Rpc::AuthRoleGrantPermission => &["/v3/auth/role/grant"],
            Rpc::AuthRoleRevokePermission => &["/v3/auth/role/revoke"],
            Rpc::Lock => &["/v3/lock/lock"],
            Rpc::LockUnlock => &["/v3/lock/unlock"],
            Rpc::ElectionCampaign => &["/v3/election/campaign"],
            Rpc::ElectionProclaim => &["/v3/election/proclaim"],
            Rpc::ElectionLeader => &["/v3/election/leader"],
            Rpc::ElectionObserve => &["/v3/election/observe"],
            Rpc::ElectionResign => &["/v3/election/resign"],
            Rpc::HealthCheck => &["/v3/health/check"],
            Rpc::HealthWatch => &["/v3/health/watch"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_rpcs_share_a_path() {
        let paths: Vec<_> = Rpc::ALL.iter().flat_map(|rpc| rpc.http_paths()).collect();
        assert!(paths.iter().all(|path| path.starts_with("/v3/")), "{paths:?}");
        assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len());
        assert!(Rpc::ALL.iter().all(|rpc| !rpc.http_paths().is_empty()));
    }
}
