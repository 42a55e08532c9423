//! /metrics: against its table in the docs, and against what Debian's etcd counts for the same work.

mod counters;
mod names;

use crate::harness::grpc::{compare, put, put_op, range, range_op, watch};
use crate::harness::{Server, http_get};
use castd_proto::etcdserverpb::{
    LeaseKeepAliveRequest, PutRequest, RangeRequest,
    compare::{CompareResult, TargetUnion},
    lease_client::LeaseClient,
};
use std::collections::BTreeMap;

/// One page, its series by name and labels.
pub struct Page {
    pub kinds: BTreeMap<String, String>,
    pub series: BTreeMap<String, f64>,
}

impl Page {
    pub fn of(server: &Server) -> Page {
        let text = http_get(server.setup.ports.client, "/metrics").expect("answered").body;
        let mut page = Page { kinds: BTreeMap::new(), series: BTreeMap::new() };
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                let (name, kind) = described.split_once(' ').expect("a kind");
                page.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                page.series.insert(name.to_owned(), value.parse().expect("a number"));
            }
        }
        page
    }

    /// A series that is not there counts from 0.
    pub fn value(&self, series: &str) -> f64 {
        self.series.get(series).copied().unwrap_or_default()
    }
}

/// Some of everything, each request once it was answered.
pub async fn work(server: &Server) {
    let api = server.api();
    for number in 0..3 {
        api.put(&format!("key{number}"), "value").await;
    }
    api.put_with(PutRequest { prev_kv: true, ..put("key1", "again") }).await.expect("a put");
    api.get("key1").await.expect("it is there");
    let serializable = RangeRequest { serializable: true, ..range("key", "kez") };
    assert_eq!(api.range(serializable).await.expect("a range").kvs.len(), 3);
    api.range(RangeRequest { revision: 1_000_000, ..range("key", "") }).await.expect_err("in the future");
    assert_eq!(api.delete("key0", "key2").await.expect("a delete").deleted, 2);

    let version = |key, version| compare(key, "", CompareResult::Equal, TargetUnion::Version(version));
    let both = vec![put_op("txn", "1"), range_op("txn", "")];
    assert!(api.txn(vec![version("txn", 0)], both, Vec::new()).await.expect("a txn").succeeded);
    let reads = vec![range_op("txn", ""), range_op("key", "kez")];
    assert!(!api.txn(vec![version("txn", 7), version("txn", 1)], Vec::new(), reads).await.expect("a txn").succeeded);

    let mut stream = api.watch_stream();
    stream.create(watch("w", "x")).await;
    for number in 0..3 {
        api.put(&format!("w{number}"), "").await;
        stream.events(1).await;
    }
    stream.cancel(0).await;
    assert!(stream.next().await.canceled);

    api.grant(0x77, 60).await.expect("granted");
    for number in 0..2 {
        api.put_with(PutRequest { lease: 0x77, ..put(&format!("leased{number}"), "") }).await.expect("a put");
    }
    let mut leases = LeaseClient::connect(server.setup.client_url()).await.expect("connected");
    let asked = tokio_stream::iter([LeaseKeepAliveRequest { id: 0x77 }]);
    let mut answers = leases.lease_keep_alive(asked).await.expect("opened").into_inner();
    assert_eq!(answers.message().await.expect("answered").expect("an answer").ttl, 60);
    while answers.message().await.is_ok_and(|answer| answer.is_some()) {}
    api.revoke(0x77).await.expect("revoked");
    api.revoke(0x77).await.expect_err("gone");

    api.compact(5, true).await.expect("compacted");
}
