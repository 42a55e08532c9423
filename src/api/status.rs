//! Errors as clients see them. Code and text are part of the wire contract: clients compare the texts.
//!
//! Every error of the cast ends in [`Wire`], by a `match` without `_`: a new variant does not compile until somebody
//! decides what a client is told.

use crate::actors::snapshotter::ExportError;
use crate::cast::RequestError;
use crate::lease::LeaseError;
use crate::membership::MembershipError;
use crate::membership::downgrade::DowngradeError;
use crate::mvcc::{MvccError, RequestError as CheckError};
use crate::peer::guard::Refusal;
use crate::peer::reception::ReceptionError;
use crate::queue::QueueError;
use crate::raft::node::RaftError;
use crate::snapshot::SnapshotError;
use std::fmt::Display;
use tonic::{Code, Status};

/// A message over the limit of what is received, as etcd's gRPC library says it.
pub fn received_too_large(found: impl Display, limit: impl Display) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

/// The HTTP status that the JSON gateway answers a gRPC code with.
pub fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

/// What the JSON gateway says by itself, before there is a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayError {
    UnknownPath,
    MethodNotAllowed,
}

impl From<GatewayError> for Status {
    fn from(error: GatewayError) -> Status {
        match error {
            GatewayError::UnknownPath => Status::not_found("Not Found"),
            GatewayError::MethodNotAllowed => Status::unimplemented("Method Not Allowed"),
        }
    }
}

/// A gRPC code and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    pub code: Code,
    pub message: String,
}

macro_rules! wire_errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $message:literal;)*) => {
        /// The errors that etcd's clients know by their text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EtcdError { $($(#[$doc])* $name,)* }

        impl EtcdError {
            pub const ALL: &'static [EtcdError] = &[$(EtcdError::$name,)*];

            pub fn code(self) -> Code {
                match self { $(EtcdError::$name => Code::$code,)* }
            }

            pub fn message(self) -> &'static str {
                match self { $(EtcdError::$name => $message,)* }
            }
        }
    };
}

wire_errors! {
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    LeaseExist = FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    WatchCanceled = Cancelled, "etcdserver: watch canceled";
    MemberExist = FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExist = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// etcd hands it to gRPC as a plain error, so that it arrives as Unknown.
    MemberNotEnoughStarted = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    MemberNotFound = NotFound, "etcdserver: member not found";
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// As MemberNotEnoughStarted: Unknown on the wire.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    RootUserNotExist = FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist = FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExist = FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExist = FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    InvalidAuthManagement = InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";
    NoLeader = Unavailable, "etcdserver: no leader";
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    Stopped = Unavailable, "etcdserver: server stopped";
    Timeout = Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex = Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";
    Canceled = Cancelled, "etcdserver: request canceled";
    DeadlineExceeded = DeadlineExceeded, "etcdserver: context deadline exceeded";
    ProposalDropped = Unknown, "raft proposal dropped";
    UnknownMethod = Unknown, "etcdserver: unknown method";
    LeaderTransferTimeout = Unknown, "etcdserver: request timed out, leader transfer took too long";
    UnknownHealthService = NotFound, "unknown service";
    SessionExpired = Unknown, "mutex: session is expired";
    ElectionNotLeader = Unknown, "election: not leader";
    ElectionNoLeader = Unknown, "election: no leader";
    ElectionObserveEnded = Unknown, "election: observe closed early";
    LeaderMissing = Unknown, "\"leader\" field must be provided";
    ContextDeadlineExceeded = DeadlineExceeded, "context deadline exceeded";
}

impl From<EtcdError> for Wire {
    fn from(error: EtcdError) -> Wire {
        Wire { code: error.code(), message: error.message().to_owned() }
    }
}

impl From<&RequestError> for Wire {
    fn from(error: &RequestError) -> Wire {
        let known = match error {
            RequestError::Raft(error) => match error {
                RaftError::Timeout => EtcdError::Timeout,
                RaftError::TimeoutDueToLeaderFail => EtcdError::TimeoutDueToLeaderFail,
                RaftError::TimeoutDueToConnectionLost => EtcdError::TimeoutDueToConnectionLost,
                RaftError::LeaderChanged => EtcdError::LeaderChanged,
                RaftError::ProposalDropped => EtcdError::ProposalDropped,
            },
            RequestError::Check(error) => match error {
                CheckError::EmptyKey => EtcdError::EmptyKey,
                CheckError::KeyNotFound => EtcdError::KeyNotFound,
                CheckError::ValueProvided => EtcdError::ValueProvided,
                CheckError::LeaseProvided => EtcdError::LeaseProvided,
                CheckError::TooManyOps => EtcdError::TooManyOps,
                CheckError::DuplicateKey => EtcdError::DuplicateKey,
                CheckError::InvalidSortOption => EtcdError::InvalidSortOption,
            },
            RequestError::Mvcc(error) => match error {
                MvccError::Compacted { .. } => EtcdError::Compacted,
                MvccError::FutureRevision { .. } => EtcdError::FutureRevision,
                MvccError::KeyNotFound => EtcdError::KeyNotFound,
                MvccError::LeaseNotFound(_) => EtcdError::LeaseNotFound,
                MvccError::Store(error) => return Wire { code: Code::Internal, message: error.to_string() },
            },
            RequestError::Lease(error) => match error {
                LeaseError::NotFound => EtcdError::LeaseNotFound,
                LeaseError::Exists => EtcdError::LeaseExist,
                LeaseError::TtlTooLarge => EtcdError::LeaseTtlTooLarge,
            },
            RequestError::Membership(error) => match error {
                MembershipError::BadUrls => EtcdError::MemberBadUrls,
                MembershipError::NotEnoughStarted | MembershipError::LastVoter => EtcdError::MemberNotEnoughStarted,
                MembershipError::Unhealthy => EtcdError::Unhealthy,
                MembershipError::NotFound | MembershipError::Removed => EtcdError::MemberNotFound,
                MembershipError::IdExists => EtcdError::MemberExist,
                MembershipError::PeerUrlExists => EtcdError::PeerUrlExist,
                MembershipError::TooManyLearners => EtcdError::TooManyLearners,
                MembershipError::NotLearner => EtcdError::MemberNotLearner,
                MembershipError::LearnerNotReady => EtcdError::LearnerNotReady,
            },
            RequestError::NotSupportedForLearner => EtcdError::NotSupportedForLearner,
            RequestError::Downgrade(error) => match error {
                DowngradeError::BadFormat => EtcdError::WrongDowngradeVersionFormat,
                DowngradeError::NoClusterVersion => EtcdError::ClusterVersionUnavailable,
                DowngradeError::BadTarget => EtcdError::InvalidDowngradeTargetVersion,
                DowngradeError::InProcess => EtcdError::DowngradeInProcess,
            },
            RequestError::Export(error) => {
                let code = match error {
                    ExportError::NoSpace(_) => Code::ResourceExhausted,
                    ExportError::Failed(_) => Code::Internal,
                };
                return Wire { code, message: error.to_string() };
            }
            RequestError::UnknownAction => EtcdError::UnknownMethod,
            RequestError::NotLeader => EtcdError::NotLeader,
            RequestError::BadLeaderTransferee => EtcdError::BadLeaderTransferee,
            RequestError::LeaderTransferTimeout => EtcdError::LeaderTransferTimeout,
            RequestError::TooManyRequests => EtcdError::TooManyRequests,
            RequestError::TooLarge => EtcdError::RequestTooLarge,
            RequestError::NoLeader => EtcdError::NoLeader,
            RequestError::NoSpace | RequestError::BeyondQuota(_) => EtcdError::NoSpace,
            RequestError::Corrupt => EtcdError::Corrupt,
            RequestError::Repeated => EtcdError::TimeoutDueToConnectionLost,
            RequestError::Stopped => EtcdError::Stopped,
            RequestError::InvalidClientApiVersion => EtcdError::InvalidClientApiVersion,
            RequestError::UnknownHealthService => EtcdError::UnknownHealthService,
            RequestError::Queue(error) => match error {
                QueueError::SessionExpired => EtcdError::SessionExpired,
                QueueError::NotLeader => EtcdError::ElectionNotLeader,
                QueueError::NoLeader => EtcdError::ElectionNoLeader,
                QueueError::LeaderMissing => EtcdError::LeaderMissing,
                QueueError::ObserveEnded => EtcdError::ElectionObserveEnded,
            },
            RequestError::OfPeer(wire) => return wire.clone(),
            RequestError::DeadlineExceeded => EtcdError::ContextDeadlineExceeded,
            RequestError::Uncoded(error) => {
                let wire = Wire::from(&**error);
                // A client that is told to come back must be able to see it, and a deadline is no fault of the service.
                let keeps_code = matches!(**error, RequestError::Stopped | RequestError::DeadlineExceeded);
                return if keeps_code { wire } else { Wire { code: Code::Unknown, ..wire } };
            }
            RequestError::NotYet(_) | RequestError::RangeStreamUnsupported(_) => {
                return Wire { code: Code::Unimplemented, message: error.to_string() };
            }
        };
        known.into()
    }
}

impl From<Refusal> for Wire {
    /// The texts are etcd's, of its HTTP answers on the peer port.
    fn from(refusal: Refusal) -> Wire {
        let (code, text) = match refusal {
            Refusal::OtherCluster => (Code::FailedPrecondition, "cluster ID mismatch"),
            Refusal::OtherVersion => (Code::FailedPrecondition, "incompatible version"),
            Refusal::OtherReceiver => (Code::FailedPrecondition, "to field mismatch"),
            Refusal::UnknownSender => (Code::NotFound, "error sender not found"),
            Refusal::RemovedSender => {
                (Code::PermissionDenied, "the member has been permanently removed from the cluster")
            }
            Refusal::Malformed(fault) => {
                return Wire { code: Code::InvalidArgument, message: format!("malformed peer message: {fault}") };
            }
        };
        Wire { code, message: text.to_owned() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let wire = Wire::from(refusal);
        Status::new(wire.code, wire.message)
    }
}

impl From<ReceptionError> for Status {
    fn from(error: ReceptionError) -> Status {
        let code = match &error {
            ReceptionError::OldTerm { .. } | ReceptionError::Another(_) => Code::FailedPrecondition,
            ReceptionError::Snapshot(SnapshotError::Unexpected { .. }) => Code::FailedPrecondition,
            ReceptionError::NoPiece => Code::InvalidArgument,
            ReceptionError::DamagedPiece(_) => Code::DataLoss,
            ReceptionError::Snapshot(SnapshotError::NoSpace { .. }) => Code::ResourceExhausted,
            ReceptionError::Snapshot(SnapshotError::Io { .. }) => Code::Internal,
            ReceptionError::Snapshot(_) => Code::DataLoss,
            // The sender asks again where to go on.
            ReceptionError::OtherOffset { .. } | ReceptionError::Replaced => Code::Aborted,
            ReceptionError::Stopping => Code::Unavailable,
        };
        Status::new(code, format!("snapshot not taken: {error}"))
    }
}

/// What a peer's answer refuses us for; `None` for all that is not about who we are.
pub fn refusal_by_peer(status: &Status) -> Option<Refusal> {
    let known = [
        Refusal::OtherCluster,
        Refusal::OtherVersion,
        Refusal::OtherReceiver,
        Refusal::UnknownSender,
        Refusal::RemovedSender,
    ];
    known.into_iter().find(|refusal| {
        let wire = Wire::from(*refusal);
        (wire.code, wire.message.as_str()) == (status.code(), status.message())
    })
}

/// A call between members that this release does not answer yet.
pub fn peer_call_not_served(call: &str) -> Status {
    Status::unavailable(format!("this member does not answer {call} yet"))
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Status {
        let wire = Wire::from(&error);
        Status::new(wire.code, wire.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_etcd_text_is_unique_and_has_the_prefix_clients_look_for() {
        let mut texts: Vec<_> = EtcdError::ALL.iter().map(|error| error.message()).collect();
        let bare = ["raft proposal dropped", "unknown service", "\"leader\" field must be provided"];
        let prefixes = ["etcdserver: ", "mutex: ", "election: ", "context "];
        let known = |text: &str| bare.contains(&text) || prefixes.iter().any(|prefix| text.starts_with(prefix));
        assert!(texts.iter().all(|text| known(text)));
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), EtcdError::ALL.len());
    }

    #[test]
    fn a_peer_understands_why_it_was_refused() {
        for refusal in [Refusal::OtherCluster, Refusal::OtherVersion, Refusal::OtherReceiver, Refusal::RemovedSender] {
            assert_eq!(refusal_by_peer(&refusal.into()), Some(refusal));
        }
        assert_eq!(refusal_by_peer(&Status::unavailable("cluster ID mismatch")), None);
    }
}
