//! KV, and what all services share: header, key-value, event.

use castd_proto::{
    etcdserverpb::{compare::TargetUnion, request_op::Request, response_op::Response, *},
    mvccpb::Event,
};

use super::{header, key_value};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    let operation = |request| RequestOp { request: Some(request) };
    let answer = |response| ResponseOp { response: Some(response) };
    let comparison = |target, union| Compare {
        result: compare::CompareResult::NotEqual.into(),
        target: i32::from(target),
        key: "k".into(),
        range_end: "l".into(),
        target_union: Some(union),
    };
    vec![
        case(
            "etcdserverpb.ResponseHeader",
            ResponseHeader { cluster_id: u64::MAX, member_id: 300, revision: -1, raft_term: 1 },
            "08 ff ff ff ff ff ff ff ff ff 01 10 ac 02 18 ff ff ff ff ff ff ff ff ff 01 20 01",
        ),
        case("mvccpb.KeyValue", key_value(), "0a 01 'k' 10 02 18 03 20 04 2a 01 'v' 30 05"),
        case(
            "mvccpb.Event",
            Event { r#type: 1, kv: Some(key_value()), prev_kv: Some(key_value()) },
            "08 01 12 0e KV 1a 0e KV",
        ),
        case(
            "etcdserverpb.RangeRequest",
            RangeRequest {
                key: "a".into(),
                range_end: "bc".into(),
                limit: 3,
                revision: 4,
                sort_order: range_request::SortOrder::Descend.into(),
                sort_target: range_request::SortTarget::Value.into(),
                serializable: true,
                keys_only: true,
                count_only: true,
                min_mod_revision: 10,
                max_mod_revision: 11,
                min_create_revision: 12,
                max_create_revision: 128,
            },
            "0a 01 'a' 12 02 'bc' 18 03 20 04 28 02 30 04 38 01 40 01 48 01 50 0a 58 0b 60 0c 68 80 01",
        ),
        case(
            "etcdserverpb.RangeResponse",
            RangeResponse { header: header(), kvs: vec![key_value(), key_value()], more: true, count: 9 },
            "H 12 0e KV 12 0e KV 18 01 20 09",
        ),
        case(
            "etcdserverpb.RangeStreamResponse",
            RangeStreamResponse { range_response: Some(RangeResponse { count: 9, ..RangeResponse::default() }) },
            "0a 02 20 09",
        ),
        case(
            "etcdserverpb.PutRequest",
            PutRequest {
                key: "k".into(),
                value: "val".into(),
                lease: -1,
                prev_kv: true,
                ignore_value: true,
                ignore_lease: true,
            },
            "0a 01 'k' 12 03 'val' 18 ff ff ff ff ff ff ff ff ff 01 20 01 28 01 30 01",
        ),
        case("etcdserverpb.PutResponse", PutResponse { header: header(), prev_kv: Some(key_value()) }, "H 12 0e KV"),
        case(
            "etcdserverpb.DeleteRangeRequest",
            DeleteRangeRequest { key: "k".into(), range_end: vec![0].into(), prev_kv: true },
            "0a 01 'k' 12 01 00 18 01",
        ),
        case(
            "etcdserverpb.DeleteRangeResponse",
            DeleteRangeResponse { header: header(), deleted: 7, prev_kvs: vec![key_value()] },
            "H 10 07 1a 0e KV",
        ),
        case(
            "etcdserverpb.RequestOp",
            operation(Request::RequestRange(RangeRequest { limit: 1, ..RangeRequest::default() })),
            "0a 02 18 01",
        ),
        case(
            "etcdserverpb.RequestOp",
            operation(Request::RequestPut(PutRequest { lease: 1, ..PutRequest::default() })),
            "12 02 18 01",
        ),
        case(
            "etcdserverpb.RequestOp",
            operation(Request::RequestDeleteRange(DeleteRangeRequest {
                prev_kv: true,
                ..DeleteRangeRequest::default()
            })),
            "1a 02 18 01",
        ),
        case("etcdserverpb.RequestOp", operation(Request::RequestTxn(TxnRequest::default())), "22 00"),
        case(
            "etcdserverpb.ResponseOp",
            answer(Response::ResponseRange(RangeResponse { count: 1, ..RangeResponse::default() })),
            "0a 02 20 01",
        ),
        case("etcdserverpb.ResponseOp", answer(Response::ResponsePut(PutResponse::default())), "12 00"),
        case(
            "etcdserverpb.ResponseOp",
            answer(Response::ResponseDeleteRange(DeleteRangeResponse { deleted: 1, ..DeleteRangeResponse::default() })),
            "1a 02 10 01",
        ),
        case(
            "etcdserverpb.ResponseOp",
            answer(Response::ResponseTxn(TxnResponse { succeeded: true, ..TxnResponse::default() })),
            "22 02 10 01",
        ),
        // A branch of a oneof is sent even if it holds the zero of its type.
        case(
            "etcdserverpb.Compare",
            Compare { target_union: Some(TargetUnion::Version(0)), ..Compare::default() },
            "20 00",
        ),
        case(
            "etcdserverpb.Compare",
            comparison(compare::CompareTarget::Create, TargetUnion::CreateRevision(5)),
            "08 03 10 01 1a 01 'k' 28 05 82 04 01 'l'",
        ),
        case(
            "etcdserverpb.Compare",
            comparison(compare::CompareTarget::Mod, TargetUnion::ModRevision(6)),
            "08 03 10 02 1a 01 'k' 30 06 82 04 01 'l'",
        ),
        case(
            "etcdserverpb.Compare",
            comparison(compare::CompareTarget::Value, TargetUnion::Value("v".into())),
            "08 03 10 03 1a 01 'k' 3a 01 'v' 82 04 01 'l'",
        ),
        case(
            "etcdserverpb.Compare",
            comparison(compare::CompareTarget::Lease, TargetUnion::Lease(8)),
            "08 03 10 04 1a 01 'k' 40 08 82 04 01 'l'",
        ),
        case(
            "etcdserverpb.TxnRequest",
            TxnRequest {
                compare: vec![Compare { key: "k".into(), ..Compare::default() }],
                success: vec![
                    operation(Request::RequestPut(PutRequest { key: "k".into(), ..PutRequest::default() })),
                    operation(Request::RequestTxn(TxnRequest {
                        success: vec![RequestOp::default()],
                        ..TxnRequest::default()
                    })),
                ],
                failure: vec![RequestOp::default()],
            },
            "0a 03 1a 01 'k' 12 05 12 03 0a 01 'k' 12 04 22 02 12 00 1a 00",
        ),
        case(
            "etcdserverpb.TxnResponse",
            TxnResponse {
                header: header(),
                succeeded: true,
                responses: vec![answer(Response::ResponsePut(PutResponse::default()))],
            },
            "H 10 01 1a 02 12 00",
        ),
        case("etcdserverpb.CompactionRequest", CompactionRequest { revision: 300, physical: true }, "08 ac 02 10 01"),
        case("etcdserverpb.CompactionResponse", CompactionResponse { header: header() }, "H"),
    ]
}
