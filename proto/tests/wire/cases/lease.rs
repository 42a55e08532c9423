//! Lease, and the checkpoints that only the log sees.

use castd_proto::etcdserverpb::*;

use super::header;
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("etcdserverpb.LeaseGrantRequest", LeaseGrantRequest { ttl: 60, id: 2 }, "08 3c 10 02"),
        case(
            "etcdserverpb.LeaseGrantResponse",
            LeaseGrantResponse { header: header(), id: 2, ttl: 60, error: "e".to_owned() },
            "H 10 02 18 3c 22 01 'e'",
        ),
        case("etcdserverpb.LeaseRevokeRequest", LeaseRevokeRequest { id: 5 }, "08 05"),
        case("etcdserverpb.LeaseRevokeResponse", LeaseRevokeResponse { header: header() }, "H"),
        case("etcdserverpb.LeaseKeepAliveRequest", LeaseKeepAliveRequest { id: 5 }, "08 05"),
        case(
            "etcdserverpb.LeaseKeepAliveResponse",
            LeaseKeepAliveResponse { header: header(), id: 5, ttl: 60 },
            "H 10 05 18 3c",
        ),
        case("etcdserverpb.LeaseTimeToLiveRequest", LeaseTimeToLiveRequest { id: 5, keys: true }, "08 05 10 01"),
        case(
            "etcdserverpb.LeaseTimeToLiveResponse",
            LeaseTimeToLiveResponse {
                header: header(),
                id: 5,
                ttl: -1,
                granted_ttl: 60,
                keys: vec!["a".into(), "bc".into()],
            },
            "H 10 05 18 ff ff ff ff ff ff ff ff ff 01 20 3c 2a 01 'a' 2a 02 'bc'",
        ),
        case("etcdserverpb.LeaseLeasesRequest", LeaseLeasesRequest {}, ""),
        case("etcdserverpb.LeaseStatus", LeaseStatus { id: 5 }, "08 05"),
        case(
            "etcdserverpb.LeaseLeasesResponse",
            LeaseLeasesResponse { header: header(), leases: vec![LeaseStatus { id: 5 }, LeaseStatus { id: 6 }] },
            "H 12 02 08 05 12 02 08 06",
        ),
        case("etcdserverpb.LeaseCheckpoint", LeaseCheckpoint { id: 5, remaining_ttl: 30 }, "08 05 10 1e"),
        case(
            "etcdserverpb.LeaseCheckpointRequest",
            LeaseCheckpointRequest { checkpoints: vec![LeaseCheckpoint { id: 5, remaining_ttl: 30 }] },
            "0a 04 08 05 10 1e",
        ),
        case("etcdserverpb.LeaseCheckpointResponse", LeaseCheckpointResponse { header: header() }, "H"),
    ]
}
