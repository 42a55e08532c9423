//! Lock and Election.

use castd_proto::{v3electionpb::*, v3lockpb::*};

use super::{header, key_value};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    // 0a 01 'n' 12 01 'k' 18 03 20 04: 10 bytes
    let leader = || LeaderKey { name: "n".into(), key: "k".into(), rev: 3, lease: 4 };
    vec![
        case("v3lockpb.LockRequest", LockRequest { name: "n".into(), lease: 5 }, "0a 01 'n' 10 05"),
        case("v3lockpb.LockResponse", LockResponse { header: header(), key: "k".into() }, "H 12 01 'k'"),
        case("v3lockpb.UnlockRequest", UnlockRequest { key: "k".into() }, "0a 01 'k'"),
        case("v3lockpb.UnlockResponse", UnlockResponse { header: header() }, "H"),
        case(
            "v3electionpb.CampaignRequest",
            CampaignRequest { name: "n".into(), lease: 5, value: "v".into() },
            "0a 01 'n' 10 05 1a 01 'v'",
        ),
        case(
            "v3electionpb.CampaignResponse",
            CampaignResponse { header: header(), leader: Some(leader()) },
            "H 12 0a 0a 01 'n' 12 01 'k' 18 03 20 04",
        ),
        case("v3electionpb.LeaderKey", leader(), "0a 01 'n' 12 01 'k' 18 03 20 04"),
        case("v3electionpb.LeaderRequest", LeaderRequest { name: "n".into() }, "0a 01 'n'"),
        case("v3electionpb.LeaderResponse", LeaderResponse { header: header(), kv: Some(key_value()) }, "H 12 0e KV"),
        case(
            "v3electionpb.ResignRequest",
            ResignRequest { leader: Some(leader()) },
            "0a 0a 0a 01 'n' 12 01 'k' 18 03 20 04",
        ),
        case("v3electionpb.ResignResponse", ResignResponse { header: header() }, "H"),
        case(
            "v3electionpb.ProclaimRequest",
            ProclaimRequest { leader: Some(leader()), value: "v".into() },
            "0a 0a 0a 01 'n' 12 01 'k' 18 03 20 04 12 01 'v'",
        ),
        case("v3electionpb.ProclaimResponse", ProclaimResponse { header: header() }, "H"),
    ]
}
