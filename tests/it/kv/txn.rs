//! Transactions: what runs, in which order, what each answer says, and what is refused.

use crate::harness::grpc::{compare, delete_op, put, put_op, range, range_op, text, txn_op};
use crate::harness::{Api, Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use castd_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnResponse, request_op, response_op,
};
use etcd_client::{Compare as ClientCompare, CompareOp, Txn, TxnOp, TxnOpResponse};
use tonic::Code;

for_each_backend!(
    a_txn_runs_one_branch_in_order_in_one_revision,
    the_client_crate_reads_every_kind_of_answer,
    headers_inside_a_txn_say_only_the_revision,
    nested_txns_compare_with_what_was_before_the_whole,
    a_txn_that_fails_changes_nothing,
    a_key_is_put_at_most_once_on_each_way_through_a_txn,
    operations_are_counted_by_branch_and_depth,
    an_operation_that_could_not_be_alone_is_refused_in_a_txn,
    read_only_txns_make_no_revision,
);

fn exists(key: &str) -> Compare {
    compare(key, "", CompareResult::Greater, TargetUnion::Version(0))
}

fn missing(key: &str) -> Compare {
    compare(key, "", CompareResult::Equal, TargetUnion::Version(0))
}

/// The answers of a txn, nested ones in brackets: `put`, `deleted 2`, `a=1 b=2`.
fn told(responses: &[ResponseOp]) -> Vec<String> {
    responses
        .iter()
        .map(|op| match op.response.as_ref().expect("each has an answer") {
            response_op::Response::ResponsePut(_) => "put".to_owned(),
            response_op::Response::ResponseDeleteRange(answer) => format!("deleted {}", answer.deleted),
            response_op::Response::ResponseRange(answer) => {
                let pair = |kv: &castd_proto::mvccpb::KeyValue| {
                    format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value))
                };
                answer.kvs.iter().map(pair).collect::<Vec<_>>().join(" ")
            }
            response_op::Response::ResponseTxn(answer) => {
                format!("{}[{}]", if answer.succeeded { "then" } else { "else" }, told(&answer.responses).join(", "))
            }
        })
        .collect()
}

async fn a_txn_runs_one_branch_in_order_in_one_revision(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for key in ["a", "b", "c"] {
        api.put(key, "0").await;
    }
    let success = vec![
        range_op("a", "z"),
        put_op("d", "1"),
        range_op("a", "z"),
        delete_op("a", "c"),
        put_op("e", "1"),
        range_op("a", "z"),
    ];
    let answer = api.txn(vec![exists("a"), missing("d")], success, vec![put_op("failure", "1")]).await.expect("runs");
    assert!(answer.succeeded);
    assert_eq!(answer.header.expect("a header").revision, 5);
    let expected = ["a=0 b=0 c=0", "put", "a=0 b=0 c=0 d=1", "deleted 2", "put", "c=0 d=1 e=1"];
    assert_eq!(told(&answer.responses), expected);
    for key in ["d", "e"] {
        assert_eq!(api.get(key).await.expect("there").mod_revision, 5);
    }

    let answer =
        api.txn(vec![exists("a")], vec![put_op("success", "1")], vec![put_op("failure", "1"), range_op("c", "")]);
    let answer = answer.await.expect("runs");
    assert!(!answer.succeeded);
    assert_eq!(told(&answer.responses), ["put", "c=0"]);
    assert!(api.get("success").await.is_none() && api.get("failure").await.is_some());

    // Deleted and put in one revision: a life of its own, in the order given.
    let answer = api.txn(vec![], vec![delete_op("c", ""), range_op("c", "")], vec![]).await.expect("runs");
    assert_eq!(told(&answer.responses), ["deleted 1", ""]);
}

async fn the_client_crate_reads_every_kind_of_answer(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    client.put("from", "100", None).await.expect("put");
    let inner = Txn::new()
        .when([ClientCompare::create_revision("nobody", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("nobody", "somebody", None)])
        .or_else([TxnOp::get("nobody", None)]);
    let txn = Txn::new()
        .when([
            ClientCompare::value("from", CompareOp::Equal, "100"),
            ClientCompare::version("from", CompareOp::Less, 2),
            ClientCompare::mod_revision("from", CompareOp::NotEqual, 9),
            ClientCompare::lease("from", CompareOp::Equal, 0),
        ])
        .and_then([
            TxnOp::put("to", "30", None),
            TxnOp::get("to", None),
            TxnOp::delete("from", None),
            TxnOp::txn(inner),
        ])
        .or_else([TxnOp::get("from", None)]);
    let answer = client.txn(txn.clone()).await.expect("runs");
    assert!(answer.succeeded());
    let answers = answer.op_responses();
    assert!(matches!(&answers[0], TxnOpResponse::Put(put) if put.prev_key().is_none()));
    assert!(matches!(&answers[1], TxnOpResponse::Get(get) if get.kvs()[0].value() == b"30"));
    assert!(matches!(&answers[2], TxnOpResponse::Delete(delete) if delete.deleted() == 1));
    assert!(matches!(&answers[3], TxnOpResponse::Txn(txn) if txn.succeeded() && txn.op_responses().len() == 1));

    let again = client.txn(txn).await.expect("runs");
    assert!(!again.succeeded());
    assert!(matches!(&again.op_responses()[0], TxnOpResponse::Get(get) if get.kvs().is_empty()));
}

async fn headers_inside_a_txn_say_only_the_revision(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("a", "1").await;
    let success = vec![
        range_op("a", ""),
        put_op("b", "1"),
        range_op("b", ""),
        delete_op("a", ""),
        txn_op(vec![], vec![], vec![]),
    ];
    let answer = api.txn(vec![], success, vec![]).await.expect("runs");
    let outer = answer.header.expect("a header");
    assert!(outer.cluster_id != 0 && outer.member_id != 0 && outer.raft_term != 0);
    assert_eq!(outer.revision, 3);
    let headers: Vec<_> = answer
        .responses
        .into_iter()
        .map(|op| match op.response.expect("each has an answer") {
            response_op::Response::ResponseRange(answer) => answer.header,
            response_op::Response::ResponsePut(answer) => answer.header,
            response_op::Response::ResponseDeleteRange(answer) => answer.header,
            response_op::Response::ResponseTxn(answer) => answer.header,
        })
        .map(|header| header.expect("present, if empty"))
        .collect();
    assert!(headers.iter().all(|header| header.cluster_id == 0 && header.member_id == 0 && header.raft_term == 0));
    assert_eq!(headers.iter().map(|header| header.revision).collect::<Vec<_>>(), [2, 3, 3, 3, 0]);
}

async fn nested_txns_compare_with_what_was_before_the_whole(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("there", "1").await;
    let success = vec![
        put_op("new", "1"),
        txn_op(vec![missing("new")], vec![range_op("new", "")], vec![put_op("wrong", "1")]),
        delete_op("there", ""),
        txn_op(
            vec![exists("there")],
            vec![
                range_op("there", ""),
                txn_op(vec![exists("new")], vec![put_op("wrong too", "1")], vec![put_op("deep", "1")]),
            ],
            vec![],
        ),
    ];
    let answer = api.txn(vec![exists("there")], success, vec![]).await.expect("runs");
    assert_eq!(told(&answer.responses), ["put", "then[new=1]", "deleted 1", "then[, else[put]]"]);
    assert_eq!(answer.header.expect("a header").revision, 3);
    assert!(api.get("wrong").await.is_none() && api.get("wrong too").await.is_none());
    assert_eq!(api.get("deep").await.expect("there").mod_revision, 3);
}

/// The outcome of a txn of one branch.
async fn one_branch(api: &Api, ops: Vec<RequestOp>) -> Result<TxnResponse, tonic::Status> {
    api.txn(vec![], ops, vec![]).await
}

fn put_request(request: PutRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(request)) }
}

fn range_request(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestRange(request)) }
}

async fn a_txn_that_fails_changes_nothing(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for value in ["1", "2", "3"] {
        api.put("there", value).await;
    }
    api.compact(3, false).await.expect("compacted");
    let bad: [(RequestOp, Code, &str); 6] = [
        (put_request(PutRequest { lease: 404, ..put("x", "1") }), Code::NotFound, text::LEASE_NOT_FOUND),
        (put_request(PutRequest { ignore_value: true, ..put("x", "") }), Code::InvalidArgument, text::KEY_NOT_FOUND),
        (put_request(PutRequest { ignore_lease: true, ..put("x", "1") }), Code::InvalidArgument, text::KEY_NOT_FOUND),
        (range_request(RangeRequest { revision: 99, ..range("x", "") }), Code::OutOfRange, text::FUTURE),
        (range_request(RangeRequest { revision: 2, ..range("x", "") }), Code::OutOfRange, text::COMPACTED),
        (
            txn_op(vec![], vec![put_request(PutRequest { lease: 404, ..put("y", "1") })], vec![]),
            Code::NotFound,
            text::LEASE_NOT_FOUND,
        ),
    ];
    for (op, code, text) in bad {
        let ops = vec![put_op("first", "1"), delete_op("there", ""), op.clone()];
        refused(one_branch(&api, ops).await, code, text);
        assert_eq!(api.revision().await, 4, "{op:?}");
        assert!(api.get("first").await.is_none() && api.get("there").await.is_some());
        // On the way not taken it does no harm.
        let taken = api.txn(vec![missing("there")], vec![op], vec![range_op("there", "")]).await.expect("runs");
        assert!(!taken.succeeded);
    }
    let ops = vec![range_request(RangeRequest { revision: 3, ..range("there", "") })];
    assert_eq!(told(&one_branch(&api, ops).await.expect("at the compacted revision").responses), ["there=2"]);
}

async fn a_key_is_put_at_most_once_on_each_way_through_a_txn(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let nested = |success, failure| txn_op(vec![exists("nobody")], success, failure);
    let put = |key| put_op(key, "1");
    let refusals: Vec<Vec<RequestOp>> = vec![
        vec![put("a"), put("a")],
        vec![put("a"), delete_op("a", "")],
        vec![delete_op("a", ""), put("a")],
        vec![delete_op("a", "c"), put("b")],
        vec![put("a"), nested(vec![put("a")], vec![])],
        vec![nested(vec![], vec![put("a")]), put("a")],
        vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])],
        vec![nested(vec![put("a")], vec![]), delete_op("a", "b")],
        vec![nested(vec![delete_op("a", "b")], vec![]), put("a")],
        vec![nested(vec![delete_op("a", "b")], vec![]), nested(vec![put("a")], vec![])],
        vec![nested(vec![put("a"), put("a")], vec![])],
        vec![nested(vec![nested(vec![put("a")], vec![])], vec![]), put("a")],
    ];
    for ops in refusals {
        refused(one_branch(&api, ops.clone()).await, Code::InvalidArgument, text::DUPLICATE_KEY);
        // Also in the branch that will not run.
        let refusal = api.txn(vec![missing("nobody")], vec![], ops).await;
        refused(refusal, Code::InvalidArgument, text::DUPLICATE_KEY);
    }
    assert_eq!(api.revision().await, 1);

    let allowed: Vec<Vec<RequestOp>> = vec![
        vec![put("a"), range_op("a", ""), put("b")],
        vec![delete_op("a", "c"), delete_op("b", "d")],
        vec![put("a"), delete_op("b", "c")],
        vec![nested(vec![put("a")], vec![put("a")])],
        vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("b")])],
        vec![put("a"), delete_op("b", "a")],
    ];
    for ops in allowed {
        one_branch(&api, ops.clone()).await.unwrap_or_else(|error| panic!("{ops:?}: {error}"));
    }
    // The same key in success and failure is not twice on one way.
    api.txn(vec![], vec![put("a")], vec![put("a")]).await.expect("runs");
}

async fn operations_are_counted_by_branch_and_depth(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let puts = |count: usize| (0..count).map(|index| put_op(&format!("k{index}"), "1")).collect::<Vec<_>>();
    let reads = |count: usize| (0..count).map(|_| range_op("k", "")).collect::<Vec<_>>();
    let too_many = |outcome| refused(outcome, Code::InvalidArgument, text::TOO_MANY_OPS);

    assert_eq!(one_branch(&api, puts(128)).await.expect("128 are allowed").responses.len(), 128);
    too_many(one_branch(&api, puts(129)).await);
    too_many(api.txn(vec![], vec![], reads(129)).await);
    too_many(api.txn((0..129).map(|_| exists("k0")).collect(), vec![], vec![]).await);
    api.txn((0..128).map(|_| exists("k0")).collect(), reads(128), reads(128)).await.expect("each of the three may");

    // One nested txn takes one place of its parent's 128 and may use the other 127.
    one_branch(&api, vec![txn_op(vec![], reads(127), vec![])]).await.expect("127 are left");
    too_many(one_branch(&api, vec![txn_op(vec![], reads(128), vec![])]).await);
    let siblings = vec![txn_op(vec![], reads(126), vec![]), txn_op(vec![], reads(126), vec![])];
    one_branch(&api, siblings).await.expect("siblings do not share");
    too_many(one_branch(&api, vec![txn_op(vec![], vec![txn_op(vec![], reads(127), vec![])], vec![])]).await);
}

async fn an_operation_that_could_not_be_alone_is_refused_in_a_txn(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let delete = |request| RequestOp { request: Some(request_op::Request::RequestDeleteRange(request)) };
    let bad = [
        (put_op("", "1"), text::EMPTY_KEY),
        (range_op("", ""), text::EMPTY_KEY),
        (delete(DeleteRangeRequest::default()), text::EMPTY_KEY),
        (RequestOp { request: None }, text::KEY_NOT_FOUND),
        (put_request(PutRequest { ignore_value: true, ..put("a", "1") }), "etcdserver: value is provided"),
        (put_request(PutRequest { ignore_lease: true, lease: 1, ..put("a", "1") }), "etcdserver: lease is provided"),
        (txn_op(vec![], vec![put_op("", "1")], vec![]), text::EMPTY_KEY),
        (txn_op(vec![exists("")], vec![], vec![]), text::EMPTY_KEY),
    ];
    for (op, text) in bad {
        refused(one_branch(&api, vec![op.clone()]).await, Code::InvalidArgument, text);
        refused(api.txn(vec![], vec![], vec![op]).await, Code::InvalidArgument, text);
    }
    assert_eq!(api.revision().await, 1);
}

async fn read_only_txns_make_no_revision(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let revision = api.put("a", "1").await;
    let serializable = range_request(RangeRequest { serializable: true, ..range("a", "") });
    for ops in [vec![range_op("a", "")], vec![serializable], vec![], vec![delete_op("nobody", "")]] {
        let answer = one_branch(&api, ops).await.expect("runs");
        assert_eq!(answer.header.expect("a header").revision, revision);
    }
    let limited = range_request(RangeRequest { count_only: true, ..range("a", "\0") });
    let answer = one_branch(&api, vec![limited]).await.expect("runs");
    let Some(response_op::Response::ResponseRange(found)) = &answer.responses[0].response else { panic!("{answer:?}") };
    assert_eq!((found.count, found.kvs.len()), (1, 0));
}
