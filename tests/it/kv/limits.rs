//! How large a request may be, and how many streams a connection may have.

use crate::harness::grpc::{put, put_op, range, text, txn_op, watch};
use crate::harness::{Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::time::Duration;
use tonic::Code;

for_each_backend!(
    a_request_may_have_a_mebibyte_and_a_half,
    the_request_limit_is_a_flag,
    the_limit_of_operations_is_a_flag,
    streams_beyond_the_limit_of_a_connection_wait,
    answers_may_be_larger_than_any_request,
);

const REQUEST_BYTES_MAX: usize = 1_572_864;

async fn a_request_may_have_a_mebibyte_and_a_half(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let put_of = |bytes: usize| put("k", &"v".repeat(bytes));
    // What is measured is the raft entry, a few dozen bytes more than the value.
    api.put_with(put_of(REQUEST_BYTES_MAX - 256)).await.expect("just below");
    refused(api.put_with(put_of(REQUEST_BYTES_MAX)).await, Code::InvalidArgument, text::TOO_LARGE);
    refused(api.put_with(put_of(REQUEST_BYTES_MAX + 400_000)).await, Code::InvalidArgument, text::TOO_LARGE);
    let half = "v".repeat(REQUEST_BYTES_MAX / 2);
    let txn = api.txn(vec![], vec![put_op("a", &half), txn_op(vec![], vec![put_op("b", &half)], vec![])], vec![]).await;
    refused(txn, Code::InvalidArgument, text::TOO_LARGE);
    let delete = api.delete(&"k".repeat(REQUEST_BYTES_MAX + 1), "").await;
    refused(delete, Code::InvalidArgument, text::TOO_LARGE);
    assert_eq!(api.revision().await, 2);
    // Reads are not proposed, so only the transport limits them.
    let long = "k".repeat(REQUEST_BYTES_MAX + 1);
    assert!(api.range(range(&long, "")).await.expect("a long key is looked for").kvs.is_empty());

    let beyond = api.put_with(put_of(2_097_152)).await.expect_err("above what the transport takes");
    assert_eq!(beyond.code(), Code::ResourceExhausted);
    let message = beyond.message();
    assert!(message.starts_with("grpc: received message larger than max (20971"), "{message}");
    assert!(message.ends_with(" vs. 2097152)"), "{message}");
    assert_eq!(api.put("k", "small").await, 3, "the connection is fine");
}

async fn the_request_limit_is_a_flag(setup: Setup) {
    let server = setup.flag("--max-request-bytes=10000").start();
    let api = server.api();
    api.put("k", &"v".repeat(9_800)).await;
    refused(api.put_with(put("k", &"v".repeat(10_000))).await, Code::InvalidArgument, text::TOO_LARGE);
    let beyond = api.put_with(put("k", &"v".repeat(10_000 + 524_288))).await.expect_err("above the transport's");
    assert_eq!(beyond.code(), Code::ResourceExhausted);
}

async fn the_limit_of_operations_is_a_flag(setup: Setup) {
    let server = setup.flag("--max-txn-ops=3").start();
    let api = server.api();
    let puts = |count: usize| (0..count).map(|index| put_op(&format!("k{index}"), "1")).collect::<Vec<_>>();
    api.txn(vec![], puts(3), vec![]).await.expect("three");
    refused(api.txn(vec![], puts(4), vec![]).await, Code::InvalidArgument, text::TOO_MANY_OPS);
}

async fn streams_beyond_the_limit_of_a_connection_wait(setup: Setup) {
    let server = setup.flag("--max-concurrent-streams=2").start();
    let api = server.api();
    api.put("k", "1").await;
    let mut first = api.watch_stream();
    first.create(watch("k", "")).await;
    let mut second = api.watch_stream();
    second.create(watch("k", "")).await;
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.put("k", "2").await }
    });
    // Another connection has its own two; while it is answered the put must not be.
    let other = server.api();
    for _ in 0..20 {
        other.get("k").await.expect("there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!waiting.is_finished(), "a third stream was let in");
    drop(first);
    assert_eq!(waiting.await.expect("it ends"), 3);
    assert_eq!(second.events(1).await.len(), 1);
}

async fn answers_may_be_larger_than_any_request(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let value = "v".repeat(1_000_000);
    for index in 0..8 {
        api.put_with(PutRequest { ..put(&format!("k{index}"), &value) }).await.expect("put");
    }
    let all = api.range(range("k", "l")).await.expect("eight megabytes");
    assert_eq!(all.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(), 8_000_000);
    let keys = api.range(RangeRequest { keys_only: true, ..range("k", "l") }).await.expect("keys");
    assert!(keys.kvs.iter().all(|kv| kv.value.is_empty()));
}
