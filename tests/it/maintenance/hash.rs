//! Hash: one number for everything a member holds.

use super::{fill, metric};
use crate::harness::{Api, Setup, for_each_backend};
use castd_proto::etcdserverpb as pb;

for_each_backend!(the_hash_is_of_the_data);
for_each_backend!(castd: the_hash_outlives_a_restart);

async fn hash(api: &Api) -> (u32, i64) {
    let answer = api.maintenance.clone().hash(pb::HashRequest {}).await.expect("hashed").into_inner();
    let header = answer.header.expect("a header");
    assert!(header.member_id != 0 && header.cluster_id != 0 && header.raft_term > 0);
    (answer.hash, header.revision)
}

async fn the_hash_is_of_the_data(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let (empty, revision) = hash(&api).await;
    assert_eq!(revision, 1);
    api.put("k", "1").await;
    let (one, revision) = hash(&api).await;
    assert_eq!(revision, 2);
    assert_ne!(one, empty);
    assert_eq!(hash(&api).await.0, one);
    api.put("k", "1").await;
    let (two, _) = hash(&api).await;
    assert_ne!(two, one);
    api.grant(5, 100).await.expect("granted");
    assert_ne!(hash(&api).await.0, two, "leases count, too");
    api.hash_kv(0).await.expect("hashed");
    assert_eq!(metric(&server, "etcd_mvcc_hash_duration_seconds_count"), 5.0);
    assert_eq!(metric(&server, "etcd_mvcc_hash_rev_duration_seconds_count"), 1.0);
}

async fn the_hash_outlives_a_restart(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    fill(&api, 200).await;
    api.compact(100, true).await.expect("compacted");
    let before = hash(&api).await;
    server.kill();
    server.restart();
    assert_eq!(hash(&server.api()).await, before);
}
