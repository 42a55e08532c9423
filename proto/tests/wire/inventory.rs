//! The lists that bytes alone do not pin: services and methods, enums, and the field names the JSON gateway shows.

use std::collections::BTreeSet;

use castd_proto::{Kind, Rpc};

use crate::{DESCRIPTORS, enums, messages};

/// Path and kind of every RPC a client can call: U unary, S server stream, B bidirectional.
const RPCS: &str = "
    /etcdserverpb.KV/Range U
    /etcdserverpb.KV/RangeStream S
    /etcdserverpb.KV/Put U
    /etcdserverpb.KV/DeleteRange U
    /etcdserverpb.KV/Txn U
    /etcdserverpb.KV/Compact U
    /etcdserverpb.Watch/Watch B
    /etcdserverpb.Lease/LeaseGrant U
    /etcdserverpb.Lease/LeaseRevoke U
    /etcdserverpb.Lease/LeaseKeepAlive B
    /etcdserverpb.Lease/LeaseTimeToLive U
    /etcdserverpb.Lease/LeaseLeases U
    /etcdserverpb.Cluster/MemberAdd U
    /etcdserverpb.Cluster/MemberRemove U
    /etcdserverpb.Cluster/MemberUpdate U
    /etcdserverpb.Cluster/MemberList U
    /etcdserverpb.Cluster/MemberPromote U
    /etcdserverpb.Maintenance/Alarm U
    /etcdserverpb.Maintenance/Status U
    /etcdserverpb.Maintenance/Defragment U
    /etcdserverpb.Maintenance/Hash U
    /etcdserverpb.Maintenance/HashKV U
    /etcdserverpb.Maintenance/Snapshot S
    /etcdserverpb.Maintenance/MoveLeader U
    /etcdserverpb.Maintenance/Downgrade U
    /etcdserverpb.Auth/AuthEnable U
    /etcdserverpb.Auth/AuthDisable U
    /etcdserverpb.Auth/AuthStatus U
    /etcdserverpb.Auth/Authenticate U
    /etcdserverpb.Auth/UserAdd U
    /etcdserverpb.Auth/UserGet U
    /etcdserverpb.Auth/UserList U
    /etcdserverpb.Auth/UserDelete U
    /etcdserverpb.Auth/UserChangePassword U
    /etcdserverpb.Auth/UserGrantRole U
    /etcdserverpb.Auth/UserRevokeRole U
    /etcdserverpb.Auth/RoleAdd U
    /etcdserverpb.Auth/RoleGet U
    /etcdserverpb.Auth/RoleList U
    /etcdserverpb.Auth/RoleDelete U
    /etcdserverpb.Auth/RoleGrantPermission U
    /etcdserverpb.Auth/RoleRevokePermission U
    /v3lockpb.Lock/Lock U
    /v3lockpb.Lock/Unlock U
    /v3electionpb.Election/Campaign U
    /v3electionpb.Election/Proclaim U
    /v3electionpb.Election/Leader U
    /v3electionpb.Election/Observe S
    /v3electionpb.Election/Resign U
    /grpc.health.v1.Health/Check U
    /grpc.health.v1.Health/Watch S
";

/// Methods whose messages are not called after them.
const OTHER_MESSAGES: &str = "
    KV/RangeStream RangeRequest RangeStreamResponse
    KV/Compact CompactionRequest CompactionResponse
    Auth/AuthEnable AuthEnableRequest AuthEnableResponse
    Auth/AuthDisable AuthDisableRequest AuthDisableResponse
    Auth/AuthStatus AuthStatusRequest AuthStatusResponse
    Auth/Authenticate AuthenticateRequest AuthenticateResponse
    Election/Observe LeaderRequest LeaderResponse
    Health/Check HealthCheckRequest HealthCheckResponse
    Health/Watch HealthCheckRequest HealthCheckResponse
";

/// Every value of every enum. Names count: they are what the JSON gateway and the logs show.
const ENUMS: &str = "
    authpb.Permission.Type READ=0 WRITE=1 READWRITE=2
    castdpb.ConfChangeTransition CONF_CHANGE_TRANSITION_AUTO=0 CONF_CHANGE_TRANSITION_IMPLICIT=1 \
        CONF_CHANGE_TRANSITION_EXPLICIT=2
    castdpb.ConfChangeType CONF_CHANGE_TYPE_ADD_NODE=0 CONF_CHANGE_TYPE_REMOVE_NODE=1 \
        CONF_CHANGE_TYPE_ADD_LEARNER_NODE=2
    castdpb.MembershipChange.Kind ADD=0 REMOVE=1 UPDATE=2 PROMOTE=3
    castdpb.PeerEntryType ENTRY_NORMAL=0 ENTRY_CONF_CHANGE=1 ENTRY_CONF_CHANGE_V2=2
    castdpb.PeerLane URGENT=0 BULK=1
    castdpb.PeerMessageType MSG_HUP=0 MSG_BEAT=1 MSG_PROPOSE=2 MSG_APPEND=3 MSG_APPEND_RESPONSE=4 MSG_REQUEST_VOTE=5 \
        MSG_REQUEST_VOTE_RESPONSE=6 MSG_SNAPSHOT=7 MSG_HEARTBEAT=8 MSG_HEARTBEAT_RESPONSE=9 MSG_UNREACHABLE=10 \
        MSG_SNAP_STATUS=11 MSG_CHECK_QUORUM=12 MSG_TRANSFER_LEADER=13 MSG_TIMEOUT_NOW=14 MSG_READ_INDEX=15 \
        MSG_READ_INDEX_RESP=16 MSG_REQUEST_PRE_VOTE=17 MSG_REQUEST_PRE_VOTE_RESPONSE=18
    etcdserverpb.AlarmRequest.AlarmAction GET=0 ACTIVATE=1 DEACTIVATE=2
    etcdserverpb.AlarmType NONE=0 NOSPACE=1 CORRUPT=2
    etcdserverpb.Compare.CompareResult EQUAL=0 GREATER=1 LESS=2 NOT_EQUAL=3
    etcdserverpb.Compare.CompareTarget VERSION=0 CREATE=1 MOD=2 VALUE=3 LEASE=4
    etcdserverpb.DowngradeRequest.DowngradeAction VALIDATE=0 ENABLE=1 CANCEL=2
    etcdserverpb.RangeRequest.SortOrder NONE=0 ASCEND=1 DESCEND=2
    etcdserverpb.RangeRequest.SortTarget KEY=0 VERSION=1 CREATE=2 MOD=3 VALUE=4
    etcdserverpb.WatchCreateRequest.FilterType NOPUT=0 NODELETE=1
    grpc.health.v1.HealthCheckResponse.ServingStatus UNKNOWN=0 SERVING=1 NOT_SERVING=2 SERVICE_UNKNOWN=3
    mvccpb.Event.EventType PUT=0 DELETE=1
";

/// Field names that are not snake case. (Those that are become the names of Rust fields, so the cases pin them.)
const CAPITALISED_FIELDS: &str = "
    authpb.Permission permType
    authpb.Role keyPermission
    etcdserverpb.AlarmMember memberID
    etcdserverpb.AlarmRequest memberID
    etcdserverpb.AuthStatusResponse authRevision
    etcdserverpb.AuthUserAddRequest hashedPassword
    etcdserverpb.AuthUserChangePasswordRequest hashedPassword
    etcdserverpb.DowngradeInfo targetVersion
    etcdserverpb.LeaseCheckpoint ID remaining_TTL
    etcdserverpb.LeaseGrantRequest ID TTL
    etcdserverpb.LeaseGrantResponse ID TTL
    etcdserverpb.LeaseKeepAliveRequest ID
    etcdserverpb.LeaseKeepAliveResponse ID TTL
    etcdserverpb.LeaseRevokeRequest ID
    etcdserverpb.LeaseStatus ID
    etcdserverpb.LeaseTimeToLiveRequest ID
    etcdserverpb.LeaseTimeToLiveResponse ID TTL grantedTTL
    etcdserverpb.Member ID clientURLs isLearner peerURLs
    etcdserverpb.MemberAddRequest isLearner peerURLs
    etcdserverpb.MemberPromoteRequest ID
    etcdserverpb.MemberRemoveRequest ID
    etcdserverpb.MemberUpdateRequest ID peerURLs
    etcdserverpb.MoveLeaderRequest targetID
    etcdserverpb.StatusResponse dbSize dbSizeInUse dbSizeQuota downgradeInfo isLearner raftAppliedIndex raftIndex \
        raftTerm storageVersion
";

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|it| !it.is_empty()).collect()
}

#[test]
fn the_services_and_their_methods_are_etcds() {
    let mut declared = Vec::new();
    for file in DESCRIPTORS.file.iter().filter(|file| file.package() != "castdpb") {
        for service in &file.service {
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "U",
                    (false, true) => "S",
                    (true, true) => "B",
                    (true, false) => "C",
                };
                declared.push(format!("/{}.{}/{} {kind}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert_eq!(declared, lines(RPCS));
}

#[test]
fn methods_take_and_give_the_messages_called_after_them() {
    let mut others = Vec::new();
    for file in DESCRIPTORS.file.iter().filter(|file| file.package() != "castdpb") {
        for service in &file.service {
            let prefix = if service.name() == "Auth" { "Auth" } else { "" };
            for method in &service.method {
                let (service, method_name) = (service.name(), method.name());
                let own_package = format!(".{}.", file.package());
                let taken = method.input_type().strip_prefix(&own_package).expect("a request of the same package");
                let given = method.output_type().strip_prefix(&own_package).expect("a response of the same package");
                let called_after = (format!("{prefix}{method_name}Request"), format!("{prefix}{method_name}Response"));
                if (taken, given) != (called_after.0.as_str(), called_after.1.as_str()) {
                    others.push(format!("{service}/{method_name} {taken} {given}"));
                }
            }
        }
    }
    assert_eq!(others, lines(OTHER_MESSAGES));
}

#[test]
fn the_enum_of_rpcs_lists_the_same_methods() {
    let generated: Vec<String> = Rpc::ALL
        .iter()
        .map(|rpc| {
            let kind = match rpc.streaming() {
                Kind::Unary => "U",
                Kind::ServerStream => "S",
                Kind::BidiStream => "B",
            };
            format!("{} {kind}", rpc.path())
        })
        .collect();
    assert_eq!(generated, lines(RPCS));
}

#[test]
fn an_rpc_is_found_by_its_path_and_by_nothing_else() {
    for (place, rpc) in Rpc::ALL.iter().copied().enumerate() {
        assert_eq!(rpc as usize, place);
        assert_eq!(Rpc::from_path(rpc.path()), Some(rpc));
        assert_eq!(rpc.path(), format!("/{}/{}", rpc.service(), rpc.method()));
    }
    for path in [
        "",
        "/",
        "etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Range/",
        "/etcdserverpb.KV/range",
        "/castdpb.PeerLink/Stream",
    ] {
        assert_eq!(Rpc::from_path(path), None, "{path}");
    }
}

#[test]
fn the_enums_have_etcds_names_and_numbers() {
    let declared: Vec<String> = enums()
        .into_iter()
        .map(|(name, item)| {
            let values = item.value.iter().map(|value| format!(" {}={}", value.name(), value.number()));
            name + &values.collect::<String>()
        })
        .collect();
    assert_eq!(declared, lines(ENUMS));
}

#[test]
fn the_gateway_finds_etcds_capitals() {
    let declared: Vec<String> = messages()
        .into_iter()
        .filter_map(|(name, message)| {
            let is_capitalised = |name: &&str| name.contains(|letter: char| letter.is_ascii_uppercase());
            let names: BTreeSet<&str> = message.field.iter().map(|field| field.name()).filter(is_capitalised).collect();
            let names: Vec<&str> = names.into_iter().collect();
            (!names.is_empty()).then(|| format!("{name} {}", names.join(" ")))
        })
        .collect();
    assert_eq!(declared, lines(CAPITALISED_FIELDS));
}
