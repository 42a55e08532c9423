//! Maintenance, and the health service.

use castd_proto::{
    etcdserverpb::*,
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
};

use super::header;
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "etcdserverpb.AlarmRequest",
            AlarmRequest {
                action: alarm_request::AlarmAction::Deactivate.into(),
                member_id: 5,
                alarm: AlarmType::Corrupt.into(),
            },
            "08 02 10 05 18 02",
        ),
        case("etcdserverpb.AlarmMember", AlarmMember { member_id: 5, alarm: AlarmType::Nospace.into() }, "08 05 10 01"),
        case(
            "etcdserverpb.AlarmResponse",
            AlarmResponse { header: header(), alarms: vec![AlarmMember { member_id: 5, alarm: 1 }] },
            "H 12 04 08 05 10 01",
        ),
        case("etcdserverpb.StatusRequest", StatusRequest {}, ""),
        case(
            "etcdserverpb.StatusResponse",
            StatusResponse {
                header: header(),
                version: "3".to_owned(),
                db_size: 3,
                leader: 4,
                raft_index: 5,
                raft_term: 6,
                raft_applied_index: 7,
                errors: vec!["a".to_owned(), "b".to_owned()],
                db_size_in_use: 9,
                is_learner: true,
                storage_version: "s".to_owned(),
                db_size_quota: -1,
                downgrade_info: Some(DowngradeInfo { enabled: true, target_version: "t".to_owned() }),
            },
            "H 12 01 '3' 18 03 20 04 28 05 30 06 38 07 42 01 'a' 42 01 'b' 48 09 50 01 5a 01 's'
             60 ff ff ff ff ff ff ff ff ff 01 6a 05 08 01 12 01 't'",
        ),
        case(
            "etcdserverpb.DowngradeInfo",
            DowngradeInfo { enabled: true, target_version: "3.6.0".to_owned() },
            "08 01 12 05 '3.6.0'",
        ),
        case("etcdserverpb.DefragmentRequest", DefragmentRequest {}, ""),
        case("etcdserverpb.DefragmentResponse", DefragmentResponse { header: header() }, "H"),
        case("etcdserverpb.HashRequest", HashRequest {}, ""),
        case("etcdserverpb.HashResponse", HashResponse { header: header(), hash: u32::MAX }, "H 10 ff ff ff ff 0f"),
        case("etcdserverpb.HashKVRequest", HashKvRequest { revision: 5 }, "08 05"),
        case(
            "etcdserverpb.HashKVResponse",
            HashKvResponse { header: header(), hash: 128, compact_revision: -1, hash_revision: 5 },
            "H 10 80 01 18 ff ff ff ff ff ff ff ff ff 01 20 05",
        ),
        case("etcdserverpb.SnapshotRequest", SnapshotRequest {}, ""),
        case(
            "etcdserverpb.SnapshotResponse",
            SnapshotResponse {
                header: header(),
                remaining_bytes: 5,
                blob: vec![0, 255].into(),
                version: "3.7".to_owned(),
            },
            "H 10 05 1a 02 00 ff 22 03 '3.7'",
        ),
        case("etcdserverpb.MoveLeaderRequest", MoveLeaderRequest { target_id: 5 }, "08 05"),
        case("etcdserverpb.MoveLeaderResponse", MoveLeaderResponse { header: header() }, "H"),
        case(
            "etcdserverpb.DowngradeRequest",
            DowngradeRequest { action: downgrade_request::DowngradeAction::Cancel.into(), version: "3.6".to_owned() },
            "08 02 12 03 '3.6'",
        ),
        case(
            "etcdserverpb.DowngradeResponse",
            DowngradeResponse { header: header(), version: "3.7".to_owned() },
            "H 12 03 '3.7'",
        ),
        case(
            "etcdserverpb.DowngradeVersionTestRequest",
            DowngradeVersionTestRequest { ver: "3.6".to_owned() },
            "0a 03 '3.6'",
        ),
        case("grpc.health.v1.HealthCheckRequest", HealthCheckRequest { service: "s".to_owned() }, "0a 01 's'"),
        case(
            "grpc.health.v1.HealthCheckResponse",
            HealthCheckResponse { status: ServingStatus::Serving.into() },
            "08 01",
        ),
    ]
}
