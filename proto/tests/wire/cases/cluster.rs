//! Cluster.

use castd_proto::etcdserverpb::*;

use super::header;
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    // 08 05 12 01 'n' 1a 01 'p' 1a 01 'q' 22 01 'c' 28 01: 16 bytes
    let member = || Member {
        id: 5,
        name: "n".to_owned(),
        peer_urls: vec!["p".to_owned(), "q".to_owned()],
        client_urls: vec!["c".to_owned()],
        is_learner: true,
    };
    let five = || Member { id: 5, ..Member::default() };
    vec![
        case("etcdserverpb.Member", member(), "08 05 12 01 'n' 1a 01 'p' 1a 01 'q' 22 01 'c' 28 01"),
        case(
            "etcdserverpb.MemberAddRequest",
            MemberAddRequest { peer_urls: vec!["p".to_owned(), "q".to_owned()], is_learner: true },
            "0a 01 'p' 0a 01 'q' 10 01",
        ),
        case(
            "etcdserverpb.MemberAddResponse",
            MemberAddResponse { header: header(), member: Some(five()), members: vec![member(), five()] },
            "H 12 02 08 05 1a 10 08 05 12 01 'n' 1a 01 'p' 1a 01 'q' 22 01 'c' 28 01 1a 02 08 05",
        ),
        case("etcdserverpb.MemberRemoveRequest", MemberRemoveRequest { id: 5 }, "08 05"),
        case(
            "etcdserverpb.MemberRemoveResponse",
            MemberRemoveResponse { header: header(), members: vec![five()] },
            "H 12 02 08 05",
        ),
        case(
            "etcdserverpb.MemberUpdateRequest",
            MemberUpdateRequest { id: 5, peer_urls: vec!["p".to_owned()] },
            "08 05 12 01 'p'",
        ),
        case(
            "etcdserverpb.MemberUpdateResponse",
            MemberUpdateResponse { header: header(), members: vec![five()] },
            "H 12 02 08 05",
        ),
        case("etcdserverpb.MemberListRequest", MemberListRequest { linearizable: true }, "08 01"),
        case(
            "etcdserverpb.MemberListResponse",
            MemberListResponse { header: header(), members: vec![five()] },
            "H 12 02 08 05",
        ),
        case("etcdserverpb.MemberPromoteRequest", MemberPromoteRequest { id: 5 }, "08 05"),
        case(
            "etcdserverpb.MemberPromoteResponse",
            MemberPromoteResponse { header: header(), members: vec![five()] },
            "H 12 02 08 05",
        ),
    ]
}
