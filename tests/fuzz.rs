//! Runs the fuzz targets without a fuzzer: on seeds, and on some ten thousand random changes to them, the same each time.
//!
//! `CASTD_SEED=n` changes them in another way; `CASTD_FUZZ_SEEDS=<dir>` writes the seeds there, for a real fuzzer to start
//! from (`fuzz/README.md`).

use castd::fuzz::{self, framed};
use castd_proto::Rpc;
use castd_proto::etcdserverpb::{
    self as pb, CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, compare::TargetUnion,
    request_op,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

const CHANGED: usize = 60_000;
/// What breaks parsers more often than other bytes.
const INTERESTING: [&[u8]; 16] = [
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"{",
    b"}",
    b"[",
    b"\"",
    b"\\",
    b"null",
    b"-1",
    b"1e999",
    b"\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"9223372036854775808",
];

fn gateway_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        (
            "/v3/kv/put",
            r#"{"key":"Zm9v","value":"YmFy","lease":"0","prev_kv":true} {"key":"Zm9w","ignore_value":true}"#,
        ),
        (
            "/v3beta/kv/range",
            r#"{"key":"AA==","range_end":"AA==","limit":10,"sort_order":"DESCEND","sort_target":"MOD"}"#,
        ),
        ("/v3/kv/deleterange", r#"{"key":"Zm9v","rangeEnd":"Zm9w","prevKv":true}"#),
        (
            "/v3/kv/txn",
            r#"{"compare":[{"target":"VALUE","key":"a-_=","value":"YQ","result":"EQUAL"},{"version":"0","key":"YQ=="}],
                "success":[{"request_put":{"key":"YQ==","value":"Yg=="}},{"request_range":{"key":"YQ=="}}],
                "failure":[{"request_txn":{"success":[{"request_delete_range":{"key":"YQ=="}}]}}]}
               {"success":[{"request_put":{"key":"YQ=="}}]} {"compare":[{"key":"YQ=="}]}"#,
        ),
        ("/v3alpha/kv/compaction", r#"{"revision":"1","physical":true}"#),
        ("/v3/lease/grant", r#"{"ID":"7","TTL":5.0e1} {"TTL":60,"ID":8} {"ID":7,"TTL":1}"#),
        ("/v3/kv/lease/revoke", r#"{"ID":7}"#),
        ("/v3/watch", r#"{"create_request":{"key":"Zg==","filters":["NOPUT",1],"watch_id":3}}{"cancel_request":{}}"#),
        ("/v3/cluster/member/add", r#"{"peerURLs":["http://a:1","\u00e9\ud83d\ude00"],"isLearner":true}"#),
        ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":18446744073709551615,"alarm":"CORRUPT"}"#),
        ("/v3/auth/role/grant", r#"{"name":"r","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}"#),
        ("/v3/election/proclaim", r#"{"leader":{"name":"YQ==","key":"Yg==","rev":"1","lease":"2"},"value":null}"#),
    ];
    seeds.iter().map(|(path, body)| [path.as_bytes(), b"\n", body.as_bytes()].concat()).collect()
}

fn request_seeds() -> Vec<Vec<u8>> {
    let put = |key: &'static str, lease| PutRequest {
        key: key.into(),
        value: "value".into(),
        lease,
        prev_kv: true,
        ..Default::default()
    };
    let all = || RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() };
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: true };
    let op = |request| RequestOp { request: Some(request) };
    let txn = |inner: Option<TxnRequest>| TxnRequest {
        compare: vec![Compare {
            key: "a".into(),
            range_end: "z".into(),
            target_union: Some(TargetUnion::Version(1)),
            ..Default::default()
        }],
        success: vec![op(request_op::Request::RequestPut(put("b", 0)))],
        failure: vec![
            op(request_op::Request::RequestDeleteRange(DeleteRangeRequest { key: "x".into(), ..Default::default() })),
            op(request_op::Request::RequestRange(RangeRequest { limit: 2, sort_order: 1, sort_target: 4, ..all() })),
            op(request_op::Request::RequestTxn(inner.unwrap_or_default())),
        ],
    };
    let watch = WatchCreateRequest { key: "a".into(), range_end: "b".into(), start_revision: 2, ..Default::default() };
    let watch = WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch)) };
    let story = [
        framed(Rpc::LeaseGrant, &LeaseGrantRequest { id: 7, ttl: 60 }),
        framed(Rpc::KvPut, &put("a", 7)),
        framed(Rpc::KvPut, &put("b", 0)),
        framed(Rpc::KvTxn, &txn(Some(txn(None)))),
        framed(Rpc::KvRange, &all()),
        framed(Rpc::KvRange, &RangeRequest { revision: 2, max_mod_revision: 3, count_only: true, ..all() }),
        framed(Rpc::KvDeleteRange, &delete),
        framed(Rpc::KvCompact, &CompactionRequest { revision: 3, physical: true }),
        framed(Rpc::MaintenanceHashKv, &HashKvRequest { revision: 3 }),
        framed(Rpc::LeaseRevoke, &LeaseRevokeRequest { id: 7 }),
        framed(Rpc::Watch, &watch),
    ];
    // And each call of the contract with an empty message.
    let empty: Vec<_> = Rpc::ALL.iter().map(|rpc| framed(*rpc, &pb::StatusRequest {})).collect();
    [story.concat(), story[..5].concat(), empty.concat()].into_iter().chain(story).collect()
}

/// Some bytes are changed, lost, doubled, or come from another seed.
fn change(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut data = seeds.choose(random).expect("there are seeds").clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=data.len());
        let to = (at + random.random_range(0..16)).min(data.len());
        match random.random_range(0..6) {
            0 => {
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
            1 => drop(data.drain(at..to)),
            2 => {
                let piece = data[at..to].repeat(random.random_range(1..4));
                data.splice(at..at, piece);
            }
            3 => drop(data.splice(at..to, INTERESTING.choose(random).expect("some").iter().copied())),
            4 => {
                let other = seeds.choose(random).expect("there are seeds");
                let from = random.random_range(0..=other.len());
                data.splice(at..to, other[from..].iter().copied().take(64).collect::<Vec<_>>());
            }
            _ => data.truncate(to),
        }
    }
    data
}

/// Answers how many requests were answered.
fn run(name: &str, target: fn(&[u8]) -> usize, seeds: &[Vec<u8>]) -> usize {
    if let Some(folder) = std::env::var_os("CASTD_FUZZ_SEEDS") {
        let folder = std::path::Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("{number:03}")), seed).expect("a file");
        }
    }
    let number = std::env::var("CASTD_SEED").map_or(1, |seed| seed.parse().expect("CASTD_SEED is a number"));
    let mut random = StdRng::seed_from_u64(number);
    let changed = (0..CHANGED).map(|_| change(seeds, &mut random));
    let mut answered = 0;
    for data in seeds.iter().cloned().chain(changed) {
        match catch_unwind(AssertUnwindSafe(|| target(&data))) {
            Ok(count) => answered += count,
            Err(panic) => {
                eprintln!("{name} fails on \"{}\"", data.escape_ascii());
                resume_unwind(panic);
            }
        }
    }
    answered
}

#[test]
fn no_body_sent_to_the_gateway_breaks_anything() {
    let answered = run("gateway", fuzz::gateway, &gateway_seeds());
    // What is always refused at the door shows nothing.
    assert!(answered >= CHANGED / 20, "only {answered} answers");
}

#[test]
fn no_request_breaks_anything() {
    let answered = run("requests", fuzz::requests, &request_seeds());
    assert!(answered >= CHANGED / 5, "only {answered} answers");
}

#[test]
fn the_seeds_are_answered() {
    // Put, put, txn, range twice, delete, compact, grant and revoke.
    assert_eq!(fuzz::requests(&request_seeds()[0]), 9);
    let answers: Vec<_> = gateway_seeds().iter().map(|seed| fuzz::gateway(seed)).collect();
    assert_eq!(answers[..7], [1, 1, 1, 3, 1, 2, 0]);
}
