//! What the compares of a transaction say, over all targets, results, and kinds of key.

use crate::harness::grpc::{compare, put, text};
use crate::harness::{Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::PutRequest;
use castd_proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use castd_proto::mvccpb::KeyValue;
use std::cmp::Ordering;
use tonic::Code;

for_each_backend!(
    compares_of_every_kind_hold_when_they_should,
    all_compares_must_hold_and_none_is_enough,
    a_given_value_of_another_target_counts_as_nothing,
);

const RESULTS: [CompareResult; 4] =
    [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];

/// How `kv` stands to what is given. A missing key is like one whose numbers are all 0.
fn standing(kv: &KeyValue, given: &TargetUnion) -> Ordering {
    match given {
        TargetUnion::Version(given) => kv.version.cmp(given),
        TargetUnion::CreateRevision(given) => kv.create_revision.cmp(given),
        TargetUnion::ModRevision(given) => kv.mod_revision.cmp(given),
        TargetUnion::Value(given) => kv.value.cmp(given),
        TargetUnion::Lease(given) => kv.lease.cmp(given),
    }
}

fn holds(kvs: &[KeyValue], result: CompareResult, given: &TargetUnion) -> bool {
    let missing = [KeyValue::default()];
    let kvs = match (kvs, given) {
        // Not even "not equal" holds for a value that is not there.
        ([], TargetUnion::Value(_)) => return false,
        ([], _) => missing.as_slice(),
        (found, _) => found,
    };
    kvs.iter().all(|kv| match result {
        CompareResult::Equal => standing(kv, given).is_eq(),
        CompareResult::NotEqual => standing(kv, given).is_ne(),
        CompareResult::Greater => standing(kv, given).is_gt(),
        CompareResult::Less => standing(kv, given).is_lt(),
    })
}

async fn compares_of_every_kind_hold_when_they_should(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.grant(5, 3_600).await.expect("granted");
    api.put("other", "x").await;
    api.put_with(PutRequest { lease: 5, ..put("k1", "m") }).await.expect("put");
    api.put("k2", "m").await;
    api.put("k1", "p").await;
    api.put_with(PutRequest { lease: 5, ..put("k1", "m") }).await.expect("put");

    let number = |make: fn(i64) -> TargetUnion| [-1, 0, 1, 2, 3, 4, 5, 6, 9].map(make).to_vec();
    let mut given = ["", "a", "m", "z"].map(|value| TargetUnion::Value(value.into())).to_vec();
    given.extend(number(TargetUnion::Version));
    given.extend(number(TargetUnion::CreateRevision));
    given.extend(number(TargetUnion::ModRevision));
    given.extend(number(TargetUnion::Lease));

    let spans = [("k1", ""), ("k2", ""), ("none", ""), ("k1", "k3"), ("k", "\0"), ("x", "\0"), ("z", "a")];
    for (key, end) in spans {
        let kvs = api.range(crate::harness::grpc::range(key, end)).await.expect("a range succeeds").kvs;
        for given in &given {
            for result in RESULTS {
                let answer = api.txn(vec![compare(key, end, result, given.clone())], vec![], vec![]).await;
                let expected = holds(&kvs, result, given);
                let succeeded = answer.expect("a txn succeeds").succeeded;
                assert_eq!(succeeded, expected, "{key:?} {end:?} {result:?} {given:?}, found {kvs:?}");
            }
        }
    }
}

async fn all_compares_must_hold_and_none_is_enough(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("k", "v").await;
    let yes = || compare("k", "", CompareResult::Equal, TargetUnion::Version(1));
    let no = || compare("k", "", CompareResult::Greater, TargetUnion::Version(1));
    for (compares, expected) in [
        (vec![], true),
        (vec![yes()], true),
        (vec![yes(), yes()], true),
        (vec![yes(), no()], false),
        (vec![no(), yes()], false),
        (vec![no(), no()], false),
    ] {
        assert_eq!(api.txn(compares, vec![], vec![]).await.expect("a txn succeeds").succeeded, expected);
    }
    let empty = compare("", "", CompareResult::Equal, TargetUnion::Version(0));
    refused(api.txn(vec![yes(), empty], vec![], vec![]).await, Code::InvalidArgument, text::EMPTY_KEY);
}

async fn a_given_value_of_another_target_counts_as_nothing(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("k", "v").await;
    // The target says version, the given value is a create revision: version 1 is compared with 0.
    for (result, expected) in [(CompareResult::Equal, false), (CompareResult::Greater, true)] {
        let mut odd = compare("k", "", result, TargetUnion::CreateRevision(1));
        odd.target = castd_proto::etcdserverpb::compare::CompareTarget::Version.into();
        assert_eq!(api.txn(vec![odd], vec![], vec![]).await.expect("a txn succeeds").succeeded, expected);
        let mut without = compare("k", "", result, TargetUnion::Version(1));
        without.target_union = None;
        assert_eq!(api.txn(vec![without], vec![], vec![]).await.expect("a txn succeeds").succeeded, expected);
    }
}
