//! What data directories hold and members of mixed releases send each other.

use castd_proto::{
    castdpb::{raft_request::Op, *},
    etcdserverpb::*,
};

use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    let mut cases = operations();
    cases.extend(membership());
    cases.extend(rows_and_snapshots());
    cases.extend(peer_link());
    cases
}

fn operations() -> Vec<Case> {
    let operation = |op, expected| {
        let request = RaftRequest { id: 1, user: "u".to_owned(), auth_revision: 3, op: Some(op) };
        case("castdpb.RaftRequest", request, &format!("08 01 12 01 'u' 18 03 {expected}"))
    };
    vec![
        operation(Op::Put(PutRequest { lease: 1, ..PutRequest::default() }), "52 02 18 01"),
        operation(
            Op::DeleteRange(DeleteRangeRequest { prev_kv: true, ..DeleteRangeRequest::default() }),
            "5a 02 18 01",
        ),
        operation(Op::Txn(TxnRequest { failure: vec![RequestOp::default()], ..TxnRequest::default() }), "62 02 1a 00"),
        operation(Op::Compact(CompactionRequest { revision: 5, physical: false }), "6a 02 08 05"),
        operation(Op::LeaseGrant(LeaseGrantRequest { ttl: 60, id: 5 }), "72 04 08 3c 10 05"),
        operation(Op::LeaseRevoke(LeaseRevokeRequest { id: 5 }), "7a 02 08 05"),
        operation(Op::LeaseCheckpoint(LeaseCheckpoints::default()), "82 01 00"),
        operation(Op::LeaseExpire(LeaseExpire { leases: vec![], term: 6 }), "8a 01 02 10 06"),
        operation(Op::Alarm(AlarmRequest { action: 1, member_id: 5, alarm: 1 }), "92 01 06 08 01 10 05 18 01"),
        operation(
            Op::MemberAttributes(MemberAttributes { member_id: 5, ..MemberAttributes::default() }),
            "9a 01 02 08 05",
        ),
        operation(Op::ClusterVersion(ClusterVersion { version: "3".to_owned() }), "a2 01 03 0a 01 '3'"),
        operation(
            Op::Downgrade(DowngradeInfo { enabled: true, target_version: "3.6.0".to_owned() }),
            "aa 01 09 08 01 12 05 '3.6.0'",
        ),
        operation(Op::SpaceShortage(SpaceShortage { member_id: 5, ..SpaceShortage::default() }), "b2 01 02 08 05"),
        operation(Op::SpaceRegained(SpaceRegained { member_id: 5, raised_index: 9 }), "ba 01 04 08 05 10 09"),
        case(
            "castdpb.SpaceShortage",
            SpaceShortage { member_id: 5, db_size: 4096, needed_bytes: 4400 },
            "08 05 10 80 20 18 b0 22",
        ),
        case("castdpb.SpaceRegained", SpaceRegained { member_id: 5, raised_index: 9 }, "08 05 10 09"),
        case(
            "castdpb.GrantedLease",
            GrantedLease { id: 5, granted_index: 300, remaining_ttl_secs: 30 },
            "08 05 10 ac 02 18 1e",
        ),
        case(
            "castdpb.LeaseExpire",
            LeaseExpire {
                leases: vec![GrantedLease { id: 1, ..GrantedLease::default() }, GrantedLease::default()],
                term: 6,
            },
            "0a 02 08 01 0a 00 10 06",
        ),
        case(
            "castdpb.LeaseCheckpoints",
            LeaseCheckpoints { leases: vec![GrantedLease { id: 1, ..GrantedLease::default() }], term: 6 },
            "0a 02 08 01 10 06",
        ),
        case(
            "castdpb.MemberAttributes",
            MemberAttributes { member_id: 5, name: "n".to_owned(), client_urls: vec!["c".to_owned(), "d".to_owned()] },
            "08 05 12 01 'n' 1a 01 'c' 1a 01 'd'",
        ),
        case("castdpb.ClusterVersion", ClusterVersion { version: "3.7.0".to_owned() }, "0a 05 '3.7.0'"),
    ]
}

fn membership() -> Vec<Case> {
    vec![
        case(
            "castdpb.MembershipChange",
            MembershipChange {
                request_id: 9,
                kind: membership_change::Kind::Promote.into(),
                member: Some(Member { id: 5, ..Member::default() }),
                learners_max: 1,
                checked_index: 300,
            },
            "08 09 10 03 1a 02 08 05 20 01 28 ac 02",
        ),
        case(
            "castdpb.ConfChange",
            ConfChange { id: 1, change_type: ConfChangeType::AddLearnerNode.into(), node_id: 5, context: "c".into() },
            "08 01 10 02 18 05 22 01 'c'",
        ),
        case(
            "castdpb.ConfChangeSingle",
            ConfChangeSingle { change_type: ConfChangeType::RemoveNode.into(), node_id: 5 },
            "08 01 10 05",
        ),
        case(
            "castdpb.ConfChangeV2",
            ConfChangeV2 {
                transition: ConfChangeTransition::Explicit.into(),
                changes: vec![ConfChangeSingle { change_type: 1, node_id: 5 }],
                context: "c".into(),
            },
            "08 02 12 04 08 01 10 05 1a 01 'c'",
        ),
    ]
}

fn rows_and_snapshots() -> Vec<Case> {
    vec![
        case(
            "castdpb.LeaseRow",
            LeaseRow { id: 5, ttl_secs: 60, remaining_ttl_secs: 30, granted_index: 9 },
            "08 05 10 3c 18 1e 20 09",
        ),
        case(
            "castdpb.AlarmRow",
            AlarmRow {
                member_id: 5,
                alarm: AlarmType::Corrupt.into(),
                shortage: Some(SpaceShortage::default()),
                raised_index: 9,
            },
            "08 05 10 02 1a 00 20 09",
        ),
        case(
            "castdpb.ConfStateRow",
            ConfStateRow {
                voters: vec![1, 2],
                learners: vec![3],
                voters_outgoing: vec![4],
                learners_next: vec![5],
                auto_leave: true,
            },
            "0a 02 01 02 12 01 03 1a 01 04 22 01 05 28 01",
        ),
        case(
            "castdpb.SnapshotHeader",
            SnapshotHeader {
                format: 1,
                cluster_id: 2,
                index: 3,
                term: 4,
                conf_state: Some(ConfStateRow { voters: vec![1], ..ConfStateRow::default() }),
                revision: 6,
                compact_revision: -1,
            },
            "08 01 10 02 18 03 20 04 2a 03 0a 01 01 30 06 38 ff ff ff ff ff ff ff ff ff 01",
        ),
        case(
            "castdpb.SnapshotChunk",
            SnapshotChunk { rows: vec![SnapshotRow { table: 1, ..SnapshotRow::default() }, SnapshotRow::default()] },
            "0a 02 08 01 0a 00",
        ),
        case(
            "castdpb.SnapshotRow",
            SnapshotRow { table: 1, key: "k".into(), value: "v".into() },
            "08 01 12 01 'k' 1a 01 'v'",
        ),
    ]
}

/// `0a 02 18 03` as the first field of a message.
fn identity() -> Option<PeerIdentity> {
    Some(PeerIdentity { to: 3, ..PeerIdentity::default() })
}

fn peer_link() -> Vec<Case> {
    vec![
        case(
            "castdpb.PeerIdentity",
            PeerIdentity { cluster_id: 1, from: 2, to: 3, server_version: "3.7.1".to_owned() },
            "08 01 10 02 18 03 22 05 '3.7.1'",
        ),
        case(
            "castdpb.PeerEnvelope",
            PeerEnvelope {
                identity: identity(),
                lane: PeerLane::Bulk.into(),
                peer_urls: vec!["u".to_owned()],
                messages: vec![PeerMessage { to: 3, ..PeerMessage::default() }, PeerMessage::default()],
                forwarded: vec![ForwardedRequest { boot: 1, ..ForwardedRequest::default() }],
                sent_at_nanos: 300,
            },
            "0a 02 18 03 10 01 1a 01 'u' 22 02 10 03 22 00 2a 02 08 01 30 ac 02",
        ),
        case("castdpb.PeerAck", PeerAck { sent_at_nanos: 300 }, "08 ac 02"),
        case(
            "castdpb.ForwardedRequest",
            ForwardedRequest {
                boot: 1,
                sequence: 2,
                entry_type: PeerEntryType::EntryConfChangeV2.into(),
                data: "d".into(),
            },
            "08 01 10 02 18 02 22 01 'd'",
        ),
        case(
            "castdpb.SnapshotPart",
            SnapshotPart { part: Some(snapshot_part::Part::Offer(SnapshotOffer::default())) },
            "0a 00",
        ),
        case(
            "castdpb.SnapshotPart",
            SnapshotPart { part: Some(snapshot_part::Part::Piece(SnapshotPiece::default())) },
            "12 00",
        ),
        case(
            "castdpb.SnapshotOffer",
            SnapshotOffer {
                identity: identity(),
                message: Some(PeerMessage { to: 3, ..PeerMessage::default() }),
                bytes: 300,
                sha256: "s".into(),
            },
            "0a 02 18 03 12 02 10 03 18 ac 02 22 01 's'",
        ),
        case(
            "castdpb.SnapshotPiece",
            SnapshotPiece { offset: 300, data: "d".into(), crc32c: 6 },
            "08 ac 02 12 01 'd' 1d 06 00 00 00",
        ),
        case("castdpb.SnapshotReceipt", SnapshotReceipt { received_bytes: 300, complete: true }, "08 ac 02 10 01"),
        case(
            "castdpb.PeerKeepAliveRequest",
            PeerKeepAliveRequest { identity: identity(), lease_id: 5 },
            "0a 02 18 03 10 05",
        ),
        case("castdpb.PeerKeepAliveResponse", PeerKeepAliveResponse { ttl_secs: 60 }, "08 3c"),
        case(
            "castdpb.PeerTimeLeftRequest",
            PeerTimeLeftRequest { identity: identity(), lease_id: 5, keys: true },
            "0a 02 18 03 10 05 18 01",
        ),
        case(
            "castdpb.PeerTimeLeftResponse",
            PeerTimeLeftResponse { answer: Some(LeaseTimeToLiveResponse { id: 5, ..Default::default() }) },
            "0a 02 10 05",
        ),
        case(
            "castdpb.PeerPromoteRequest",
            PeerPromoteRequest { identity: identity(), member_id: 5 },
            "0a 02 18 03 10 05",
        ),
        case(
            "castdpb.PeerPromoteResponse",
            PeerPromoteResponse { members: vec![Member { id: 5, ..Member::default() }] },
            "0a 02 08 05",
        ),
        case(
            "castdpb.PeerStateHashRequest",
            PeerStateHashRequest { identity: identity(), indexes: vec![1, 300] },
            "0a 02 18 03 12 03 01 ac 02",
        ),
        case(
            "castdpb.PeerStateHashResponse",
            PeerStateHashResponse { points: vec![StateHashPoint { applied_index: 5, hash: 6 }], scheme: 7 },
            "0a 04 08 05 10 06 10 07",
        ),
        case("castdpb.StateHashPoint", StateHashPoint { applied_index: 5, hash: 6 }, "08 05 10 06"),
        case("castdpb.PeerHashKvRequest", PeerHashKvRequest { identity: identity(), revision: 5 }, "0a 02 18 03 10 05"),
        case(
            "castdpb.PeerHashKvResponse",
            PeerHashKvResponse { answer: Some(HashKvResponse { hash: 5, ..Default::default() }) },
            "0a 02 10 05",
        ),
        case(
            "castdpb.PeerEntry",
            PeerEntry {
                entry_type: PeerEntryType::EntryConfChangeV2.into(),
                term: 2,
                index: 3,
                data: "d".into(),
                context: "c".into(),
            },
            "08 02 10 02 18 03 22 01 'd' 32 01 'c'",
        ),
        case(
            "castdpb.PeerSnapshotMeta",
            PeerSnapshotMeta {
                conf_state: Some(ConfStateRow { voters: vec![1], ..ConfStateRow::default() }),
                index: 2,
                term: 3,
            },
            "0a 03 0a 01 01 10 02 18 03",
        ),
        case(
            "castdpb.PeerMessage",
            PeerMessage {
                msg_type: PeerMessageType::MsgRequestPreVoteResponse.into(),
                to: 2,
                from: 3,
                term: 4,
                log_term: 5,
                index: 6,
                entries: vec![PeerEntry { term: 2, ..PeerEntry::default() }, PeerEntry::default()],
                commit: 8,
                snapshot: Some(PeerSnapshotMeta { index: 9, ..PeerSnapshotMeta::default() }),
                reject: true,
                reject_hint: 11,
                context: "c".into(),
                request_snapshot: 13,
                commit_term: 15,
                priority: 16,
            },
            "08 12 10 02 18 03 20 04 28 05 30 06 3a 02 10 02 3a 00 40 08 4a 02 10 09 50 01 58 0b 62 01 'c' 68 0d
             78 0f 80 01 10",
        ),
    ]
}
