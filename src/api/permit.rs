//! Who may call what. The only place that hands out a [`Permit`], without which no handler reaches an actor.
//!
//! ```text
//!   handler ──authorize(caller, rpc)──▶ Permit ──▶ Cast
//! ```
//!
//! Users and roles come in a later release: until then everybody is [`Caller::Anonymous`] and everything is allowed. What
//! each call will need is decided here already, for every call of the wire contract.

use crate::cast::RequestError;
use castd_proto::Rpc;

/// Who calls, as far as the edge could find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
}

/// What a call needs while authentication is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Some valid user.
    User,
    /// A user with the role `root`.
    Root,
    /// Permission on the keys that the request names.
    Keys,
}

/// The right to make one call. Cannot be made outside of this module.
#[derive(Clone, Debug)]
pub struct Permit {
    rpc: Rpc,
}

impl Permit {
    pub fn rpc(&self) -> Rpc {
        self.rpc
    }
}

/// Allows or refuses one call.
///
/// # Errors
/// None yet: without users there is nobody to refuse.
pub fn authorize(caller: &Caller, rpc: Rpc) -> Result<Permit, RequestError> {
    match (caller, needs(rpc)) {
        (Caller::Anonymous, Needs::Nothing | Needs::User | Needs::Root | Needs::Keys) => Ok(Permit { rpc }),
    }
}

/// What a member that only learns answers: everything else would be stale, or needs a vote. Of ranges it answers the
/// serializable ones; that is for the handler to see in the request.
pub fn answers_as_learner(rpc: Rpc) -> bool {
    matches!(rpc, Rpc::KvRange | Rpc::MaintenanceStatus | Rpc::MaintenanceSnapshot)
}

/// What etcd 3.7 asks for. No `_`: a new call does not compile until somebody decides.
pub fn needs(rpc: Rpc) -> Needs {
    match rpc {
        Rpc::HealthCheck | Rpc::HealthWatch | Rpc::Authenticate | Rpc::AuthStatus => Needs::Nothing,
        Rpc::LeaseGrant | Rpc::ClusterMemberList | Rpc::MaintenanceStatus => Needs::User,
        Rpc::KvRange
        | Rpc::KvRangeStream
        | Rpc::KvPut
        | Rpc::KvDeleteRange
        | Rpc::KvTxn
        | Rpc::Watch
        | Rpc::LeaseRevoke
        | Rpc::LeaseKeepAlive
        | Rpc::LeaseTimeToLive
        | Rpc::LeaseLeases
        | Rpc::Lock
        | Rpc::LockUnlock
        | Rpc::ElectionCampaign
        | Rpc::ElectionProclaim
        | Rpc::ElectionLeader
        | Rpc::ElectionObserve
        | Rpc::ElectionResign => Needs::Keys,
        Rpc::KvCompact
        | Rpc::ClusterMemberAdd
        | Rpc::ClusterMemberRemove
        | Rpc::ClusterMemberUpdate
        | Rpc::ClusterMemberPromote
        // Listing alarms needs a user only; that is for the handler to see in the request.
        | Rpc::MaintenanceAlarm
        | Rpc::MaintenanceDefragment
        | Rpc::MaintenanceHash
        | Rpc::MaintenanceHashKv
        | Rpc::MaintenanceSnapshot
        | Rpc::MaintenanceMoveLeader
        | Rpc::MaintenanceDowngrade
        | Rpc::AuthEnable
        | Rpc::AuthDisable
        | Rpc::AuthUserAdd
        | Rpc::AuthUserGet
        | Rpc::AuthUserList
        | Rpc::AuthUserDelete
        | Rpc::AuthUserChangePassword
        | Rpc::AuthUserGrantRole
        | Rpc::AuthUserRevokeRole
        | Rpc::AuthRoleAdd
        | Rpc::AuthRoleGet
        | Rpc::AuthRoleList
        | Rpc::AuthRoleDelete
        | Rpc::AuthRoleGrantPermission
        | Rpc::AuthRoleRevokePermission => Needs::Root,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_answers_what_needs_neither_a_vote_nor_the_newest_state() {
        let answered: Vec<Rpc> = Rpc::ALL.iter().copied().filter(|rpc| answers_as_learner(*rpc)).collect();
        assert_eq!(answered, [Rpc::KvRange, Rpc::MaintenanceStatus, Rpc::MaintenanceSnapshot]);
    }
}
