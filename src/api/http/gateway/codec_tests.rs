//! The JSON mapping: each rule by an example both ways, and every message of the contract against another implementation
//! of the same mapping.

use super::decode::decode;
use super::encode::{EncodeError, encode};
use super::schema::Schema;
use castd_proto::etcdserverpb::{self as pb, compare::TargetUnion, request_op, watch_create_request::FilterType};
use castd_proto::{FILE_DESCRIPTOR_SET, Rpc, mvccpb};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, SerializeOptions, Value,
};

/// What a request in JSON means.
fn read<T: Message + Default>(rpc: Rpc, json: &str) -> Result<T, String> {
    let mut message = Vec::new();
    decode(Schema::get().request(rpc), json.as_bytes(), &mut message).map_err(|error| error.to_string())?;
    Ok(T::decode(message.as_slice()).expect("what the codec writes can be read"))
}

#[track_caller]
fn refused<T: Message + Default + std::fmt::Debug>(rpc: Rpc, json: &str, complaint: &str) {
    let error = read::<T>(rpc, json).unwrap_err();
    assert!(error.contains(complaint), "{json}: {error}");
}

/// An answer in JSON.
fn write(rpc: Rpc, message: &impl Message) -> String {
    let mut json = Vec::new();
    encode(Schema::get().answer(rpc), &message.encode_to_vec(), &mut json).unwrap();
    String::from_utf8(json).unwrap()
}

fn range(json: &str) -> pb::RangeRequest {
    read(Rpc::KvRange, json).unwrap()
}

#[test]
fn field_names_are_etcds_or_their_lower_camel_case_form() {
    let expected = pb::RangeRequest { key: "a".into(), range_end: "b".into(), keys_only: true, ..Default::default() };
    assert_eq!(range(r#"{"key":"YQ==","range_end":"Yg==","keys_only":true}"#), expected);
    assert_eq!(range(r#"{"key":"YQ==","rangeEnd":"Yg==","keysOnly":true}"#), expected);
    let grant: pb::LeaseGrantRequest = read(Rpc::LeaseGrant, r#"{"ID":7,"TTL":"60"}"#).unwrap();
    assert_eq!((grant.id, grant.ttl), (7, 60));
    let add: pb::MemberAddRequest = read(Rpc::ClusterMemberAdd, r#"{"peerURLs":["http://a:1"]}"#).unwrap();
    assert_eq!(add.peer_urls, ["http://a:1"]);
    let status = pb::StatusResponse { db_size: 5, raft_applied_index: 6, is_learner: true, ..Default::default() };
    let json = write(Rpc::MaintenanceStatus, &status);
    assert_eq!(json, r#"{"dbSize":"5","raftAppliedIndex":"6","isLearner":true}"#);
}

#[test]
fn integers_of_64_bits_are_strings_and_taken_either_way() {
    for (json, value) in [
        ("5", 5),
        (r#""5""#, 5),
        (r#""-9223372036854775808""#, i64::MIN),
        ("9223372036854775807", i64::MAX),
        ("2e3", 2_000),
        (r#""2e3""#, 2_000),
        ("7.0", 7),
        ("-0", 0),
    ] {
        assert_eq!(range(&format!(r#"{{"key":"YQ==","revision":{json}}}"#)).revision, value, "{json}");
    }
    for wrong in [
        "1.5",
        "9223372036854775808",
        "-9223372036854775809",
        "1e19",
        "1e400",
        r#""""#,
        r#"" 5""#,
        r#""5 ""#,
        r#""+5""#,
        r#""0x5""#,
        r#""5a""#,
        r#""NaN""#,
        "true",
        "[5]",
        "{}",
    ] {
        assert!(read::<pb::RangeRequest>(Rpc::KvRange, &format!(r#"{{"revision":{wrong}}}"#)).is_err(), "{wrong}");
    }
    let member: pb::MemberRemoveRequest = read(Rpc::ClusterMemberRemove, r#"{"ID":"18446744073709551615"}"#).unwrap();
    assert_eq!(member.id, u64::MAX);
    refused::<pb::MemberRemoveRequest>(Rpc::ClusterMemberRemove, r#"{"ID":18446744073709551616}"#, "not an integer");
    refused::<pb::MemberRemoveRequest>(Rpc::ClusterMemberRemove, r#"{"ID":-1}"#, "out of range");
    let header = pb::ResponseHeader { cluster_id: u64::MAX, revision: -1, ..Default::default() };
    let put = pb::PutResponse { header: Some(header), prev_kv: None };
    assert_eq!(write(Rpc::KvPut, &put), r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1"}}"#);
}

#[test]
fn integers_of_32_bits_and_booleans_are_what_they_are() {
    let hash = pb::HashResponse { header: None, hash: u32::MAX };
    assert_eq!(write(Rpc::MaintenanceHash, &hash), r#"{"hash":4294967295}"#);
    assert!(range(r#"{"key":"YQ==","count_only":true}"#).count_only);
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"count_only":"true"}"#, "true or false");
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"count_only":1}"#, "true or false");
}

#[test]
fn bytes_are_base64_of_either_alphabet_padded_or_not() {
    for json in ["+/8=", "+/8", "-_8=", "-_8", "+/9=", r"+\n/8=\r\n", r"\u002b/8="] {
        assert_eq!(range(&format!(r#"{{"key":"{json}"}}"#)).key.as_ref(), [0xfb, 0xff], "{json}");
    }
    for wrong in ["+_8=", "a", "a===", "aa=a", "%%%%", "aa aa"] {
        refused::<pb::RangeRequest>(Rpc::KvRange, &format!(r#"{{"key":"{wrong}"}}"#), "\"key\" is not base64");
    }
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"key":5}"#, "base64");
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"key":[1,2]}"#, "base64");
    let kv = mvccpb::KeyValue { key: vec![0xfb, 0xff].into(), ..Default::default() };
    assert_eq!(write(Rpc::ElectionLeader, &leader(kv)), r#"{"kv":{"key":"+/8="}}"#);
}

fn leader(kv: mvccpb::KeyValue) -> castd_proto::v3electionpb::LeaderResponse {
    castd_proto::v3electionpb::LeaderResponse { header: None, kv: Some(kv) }
}

#[test]
fn enums_are_names_and_taken_as_numbers_too() {
    assert_eq!(range(r#"{"sort_order":"DESCEND","sort_target":4}"#).sort_order, 2);
    assert_eq!(range(r#"{"sort_order":"DESCEND","sort_target":4}"#).sort_target, 4);
    assert_eq!(range(r#"{"sort_order":99}"#).sort_order, 99);
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"sort_order":"DOWN"}"#, "unknown value \"DOWN\"");
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"sort_order":"2"}"#, "unknown value \"2\"");
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"sort_order":4294967296}"#, "out of range");
    let watch: pb::WatchRequest = read(Rpc::Watch, r#"{"create_request":{"filters":["NODELETE",0,"NOPUT"]}}"#).unwrap();
    let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = watch.request_union else { panic!() };
    let filters: Vec<_> = create.filters().collect();
    assert_eq!(filters, [FilterType::Nodelete, FilterType::Noput, FilterType::Noput]);
    let alarm = |alarm| pb::AlarmMember { member_id: 1, alarm };
    let alarms = pb::AlarmResponse { header: None, alarms: vec![alarm(1), alarm(0), alarm(9)] };
    assert_eq!(
        write(Rpc::MaintenanceAlarm, &alarms),
        r#"{"alarms":[{"memberID":"1","alarm":"NOSPACE"},{"memberID":"1"},{"memberID":"1","alarm":9}]}"#
    );
}

#[test]
fn defaults_are_left_out_and_null_is_one() {
    assert_eq!(write(Rpc::KvRange, &pb::RangeResponse::default()), "{}");
    let header = Some(pb::ResponseHeader::default());
    assert_eq!(write(Rpc::KvRange, &pb::RangeResponse { header, ..Default::default() }), r#"{"header":{}}"#);
    let event = mvccpb::Event { kv: Some(mvccpb::KeyValue::default()), ..Default::default() };
    let events = pb::WatchResponse { events: vec![event], ..Default::default() };
    assert_eq!(write(Rpc::Watch, &events), r#"{"events":[{"kv":{}}]}"#);
    assert_eq!(range(r#"{"key":null,"limit":null,"keys_only":null,"sort_order":null}"#), pb::RangeRequest::default());
    let txn: pb::TxnRequest = read(Rpc::KvTxn, r#"{"compare":null,"success":[],"failure":null}"#).unwrap();
    assert_eq!(txn, pb::TxnRequest::default());
    refused::<pb::TxnRequest>(Rpc::KvTxn, r#"{"compare":[null]}"#, "an object: etcdserverpb.Compare");
}

#[test]
fn members_of_a_oneof_stand_in_the_object_itself() {
    let json = r#"{"compare":[{"target":"VERSION","key":"YQ==","version":"0"}],"success":[{"request_put":{}}]}"#;
    let txn: pb::TxnRequest = read(Rpc::KvTxn, json).unwrap();
    // It has presence, though it is the default.
    assert_eq!(txn.compare[0].target_union, Some(TargetUnion::Version(0)));
    assert_eq!(txn.success[0].request, Some(request_op::Request::RequestPut(pb::PutRequest::default())));
    // Go's own names are not those of the mapping.
    let txn: pb::TxnRequest = read(Rpc::KvTxn, r#"{"success":[{"Request":{"RequestPut":{}}}]}"#).unwrap();
    assert_eq!(txn.success[0].request, None);
    let two = r#"{"success":[{"request_put":{},"request_range":{}}]}"#;
    refused::<pb::TxnRequest>(Rpc::KvTxn, two, "another field of the same oneof");
    let one_is_null = r#"{"success":[{"request_put":null,"request_range":{}}]}"#;
    assert!(read::<pb::TxnRequest>(Rpc::KvTxn, one_is_null).is_ok());
    let response = pb::response_op::Response::ResponsePut(pb::PutResponse::default());
    let responses = vec![pb::ResponseOp { response: Some(response) }];
    let txn = pb::TxnResponse { succeeded: true, responses, ..Default::default() };
    assert_eq!(write(Rpc::KvTxn, &txn), r#"{"succeeded":true,"responses":[{"response_put":{}}]}"#);
}

#[test]
fn unknown_fields_are_skipped_whatever_is_in_them() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let json = format!(r#"{{"no":{{"key":["x"]}},"key":"YQ==","deep":{deep},"Key":3}}"#);
    assert_eq!(range(&json).key, "a");
}

#[test]
fn a_field_is_given_once() {
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"key":"YQ==","key":"Yg=="}"#, "\"key\" is given twice");
    refused::<pb::RangeRequest>(Rpc::KvRange, r#"{"range_end":"","rangeEnd":""}"#, "\"range_end\" is given twice");
}

#[test]
fn what_is_not_json_is_refused_with_the_place() {
    for (json, complaint) in [
        ("{bad", "line 1 column 2"),
        (r#"{"key""#, "EOF while parsing"),
        (r#"{"key":"YQ==",}"#, "trailing comma"),
        (r#"{"key":'YQ=='}"#, "expected value"),
        (r#"{"key":"YQ=="]"#, "line 1"),
        (r#"{"lease":01}"#, "invalid number"),
        ("{\"key\":\"\u{0}\"}", "control character"),
        ("[]", "an object: etcdserverpb.PutRequest"),
        (r#"{"key":"\ud800"}"#, "hex escape"),
    ] {
        refused::<pb::PutRequest>(Rpc::KvPut, json, complaint);
    }
    let mut message = Vec::new();
    assert!(decode(Schema::get().request(Rpc::AuthUserAdd), b"{\"name\":\"\xff\"}", &mut message).is_err());
}

/// A txn in a txn in …
fn nested(depth: usize) -> String {
    r#"{"success":[{"request_txn":"#.repeat(depth) + "{}" + &"}]}".repeat(depth)
}

#[test]
fn nesting_is_bounded_before_any_stack_is() {
    assert!(read::<pb::TxnRequest>(Rpc::KvTxn, &nested(40)).is_ok());
    for depth in [43, 100, 100_000] {
        refused::<pb::TxnRequest>(Rpc::KvTxn, &nested(depth), "recursion limit exceeded");
    }
}

#[test]
fn messages_that_are_none_are_refused() {
    let shape = Schema::get().answer(Rpc::KvRange);
    let fails = |message: &[u8]| encode(shape, message, &mut Vec::new()).unwrap_err();
    let damaged = EncodeError::Damaged("etcdserverpb.RangeResponse".to_owned());
    for message in
        [&b"\x0a"[..], b"\x0a\x05", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x18", b"\x0b", b"\x08\x01"]
    {
        assert_eq!(fails(message), damaged, "{message:x?}");
    }
    // Fields that nobody knows are nobody's business.
    let mut json = Vec::new();
    encode(shape, b"\xf8\x01\x05\x18\x01\xf1\x01--------\xf5\x01----\xfa\x01\x01x", &mut json).unwrap();
    assert_eq!(json, br#"{"more":true}"#);
    let nested = (0..60).fold(Vec::new(), |inner: Vec<u8>, _| {
        let op = [&[0x22][..], &varint(inner.len()), &inner].concat();
        [&[0x1a][..], &varint(op.len()), &op].concat()
    });
    let deep = encode(Schema::get().answer(Rpc::KvTxn), &nested, &mut Vec::new());
    assert!(matches!(deep, Err(EncodeError::TooDeep(_))), "{deep:?}");
    let text = encode(Schema::get().answer(Rpc::Authenticate), b"\x12\x01\xff", &mut Vec::new());
    assert!(matches!(text, Err(EncodeError::NotText { .. })), "{text:?}");
}

fn varint(value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(value as u64, &mut bytes);
    bytes
}

#[test]
fn the_order_on_the_wire_does_not_matter() {
    // `more`, a key, `count`, another key.
    let message = b"\x18\x01\x12\x03\x0a\x01a\x20\x02\x12\x03\x0a\x01b";
    let mut json = Vec::new();
    encode(Schema::get().answer(Rpc::KvRange), message, &mut json).unwrap();
    assert_eq!(json, br#"{"kvs":[{"key":"YQ=="},{"key":"Yg=="}],"more":true,"count":"2"}"#);
}

/// Any value of that kind, as deep as it may be.
fn value(kind: &Kind, depth: u32) -> BoxedStrategy<Value> {
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Int32 => any::<i32>().prop_map(Value::I32).boxed(),
        Kind::Int64 => prop_oneof![Just(0), Just(i64::MIN), any::<i64>()].prop_map(Value::I64).boxed(),
        Kind::Uint32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Uint64 => prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(Value::U64).boxed(),
        Kind::String => any::<String>().prop_map(Value::String).boxed(),
        Kind::Bytes => prop::collection::vec(any::<u8>(), 0..200).prop_map(|it| Value::Bytes(it.into())).boxed(),
        Kind::Enum(_) => prop_oneof![0..4, any::<i32>()].prop_map(Value::EnumNumber).boxed(),
        Kind::Message(of) => message(of.clone(), depth.saturating_sub(1)).prop_map(Value::Message).boxed(),
        other => panic!("{other:?} is not in the contract"),
    }
}

/// Any message of that type, each field set or not.
fn message(of: MessageDescriptor, depth: u32) -> BoxedStrategy<DynamicMessage> {
    let fields = of.fields().filter(|field| depth > 0 || !matches!(field.kind(), Kind::Message(_)));
    let fields: Vec<_> = fields
        .map(|field| {
            let one = value(&field.kind(), depth);
            let some =
                if field.is_list() { prop::collection::vec(one, 0..4).prop_map(Value::List).boxed() } else { one };
            prop::option::of(some).prop_map(move |value| (field.clone(), value)).boxed()
        })
        .collect();
    fields
        .prop_map(move |fields| {
            let mut message = DynamicMessage::new(of.clone());
            for (field, value) in fields {
                // Of a oneof the last one stays.
                if let Some(value) = value {
                    message.set_field(&field, value);
                }
            }
            message
        })
        .boxed()
}

/// Every message of the contract → JSON → the same message; and the JSON is what another implementation writes.
#[test]
fn every_message_comes_back_from_json_as_it_was() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut checked = 0;
    for shape in Schema::get().messages() {
        let descriptor = pool.get_message_by_name(&shape.name).unwrap();
        let config = Config { cases: 16, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(
            config,
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let outcome = runner.run(&message(descriptor, 3), |message| {
            let bytes = message.encode_to_vec();
            // Fields that were set to their default are as if they were not.
            let message = DynamicMessage::decode(message.descriptor(), bytes.as_slice()).unwrap();
            let mut json = Vec::new();
            encode(shape, &bytes, &mut json).unwrap();
            let mut expected = serde_json::Serializer::new(Vec::new());
            message.serialize_with_options(&mut expected, &options).unwrap();
            let parsed: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(&parsed, &serde_json::from_slice::<serde_json::Value>(&expected.into_inner()).unwrap());
            let mut back = Vec::new();
            decode(shape, &json, &mut back).unwrap();
            let back = DynamicMessage::decode(message.descriptor(), back.as_slice()).unwrap();
            prop_assert_eq!(&back, &message);
            // The names that JavaScript prefers mean the same.
            let camel = serde_json::to_vec(&message).unwrap();
            let mut back = Vec::new();
            decode(shape, &camel, &mut back).unwrap();
            let back = DynamicMessage::decode(message.descriptor(), back.as_slice()).unwrap();
            prop_assert_eq!(&back, &message);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", shape.name));
        checked += 1;
    }
    assert!(checked >= 90, "only {checked} messages");
}
