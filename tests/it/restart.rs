//! What is still there after a stop and after a kill: everything that was acknowledged, on each backend.

use crate::harness::grpc::{delete_op, put, put_op, range, refused, text, watch};
use crate::harness::{Api, Server, Setup, for_each_backend, wait_until};
use castd_proto::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest, WatchCreateRequest};
use castd_proto::mvccpb::{Event, KeyValue};
use std::time::{Duration, Instant};
use tonic::Code;

for_each_backend!(
    everything_is_as_it_was_after_a_stop_and_after_a_kill,
    compactions_outlive_restarts,
    a_restart_gives_short_leases_their_time_in_full,
);
for_each_backend!(castd:
    a_member_that_never_served_starts_again,
    the_log_is_cut_and_what_was_in_it_is_not_missed,
    the_log_may_live_elsewhere,
);

/// All a client can ask a member for.
#[derive(Debug, PartialEq)]
struct Everything {
    revision: i64,
    /// At each revision from the compacted one on.
    pairs: Vec<Vec<KeyValue>>,
    events: Vec<Event>,
    hash: u32,
    /// (id, granted TTL, keys)
    leases: Vec<(i64, i64, Vec<String>)>,
    member: (u64, u64, String),
}

async fn everything(api: &Api, compacted: i64) -> Everything {
    let revision = api.revision().await;
    let mut pairs = Vec::new();
    for at in compacted.max(1)..=revision {
        let answer = api.range(RangeRequest { revision: at, ..range("\0", "\0") }).await.expect("readable");
        pairs.push(answer.kvs);
    }
    let mut stream = api.watch_stream();
    let from = compacted.max(1);
    stream.create(WatchCreateRequest { start_revision: from, prev_kv: true, ..watch("\0", "\0") }).await;
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision < revision)) {
        events.extend(stream.next().await.events);
    }
    let hash = api.hash_kv(revision).await.expect("hashed").hash;
    let mut leases = Vec::new();
    for id in api.leases().await {
        let lease = api.time_to_live(id).await;
        let keys = lease.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        leases.push((id, lease.granted_ttl, keys));
    }
    let list = api.cluster.clone().member_list(MemberListRequest { linearizable: true }).await.expect("listed");
    let list = list.into_inner();
    let member = (list.header.expect("a header").cluster_id, list.members[0].id, list.members[0].name.clone());
    Everything { revision, pairs, events, hash, leases, member }
}

/// Some of everything that can be written.
async fn write_some(api: &Api, round: i64) {
    api.grant(100 + round, 3_600 + round).await.expect("granted");
    for index in 0..5 {
        api.put(&format!("k{index}"), &format!("{round}")).await;
    }
    api.put_with(PutRequest { lease: 100 + round, ..put(&format!("leased{round}"), "v") }).await.expect("put");
    let ops = vec![put_op("t1", "v"), put_op("t2", &format!("{round}")), delete_op("k3", "k5"), put_op("t3", "v")];
    api.txn(vec![], ops, vec![]).await.expect("runs");
    api.put("big", &"v".repeat(100_000)).await;
    if round % 3 == 2 {
        api.revoke(100 + round - 1).await.expect("revoked");
    }
}

async fn ended_and_started(server: &mut Server, ending: impl FnOnce(&mut Server), api: &Api, compacted: i64) {
    let before = everything(api, compacted).await;
    ending(server);
    server.restart();
    let after = everything(api, compacted).await;
    assert_eq!(before, after);
}

async fn everything_is_as_it_was_after_a_stop_and_after_a_kill(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    for round in 0..4 {
        write_some(&api, round).await;
        if round % 2 == 0 {
            ended_and_started(&mut server, Server::kill, &api, 1).await;
        } else {
            ended_and_started(&mut server, Server::end, &api, 1).await;
        }
    }
    let revision = api.revision().await;
    assert_eq!(api.put("k0", "after").await, revision + 1);
    assert_eq!(api.get("k0").await.expect("there").version, 5);
}

async fn compactions_outlive_restarts(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    write_some(&api, 0).await;
    write_some(&api, 1).await;
    for (compacted, physical) in [(5, false), (9, true)] {
        api.compact(compacted, physical).await.expect("compacted");
        let below = RangeRequest { revision: compacted - 1, ..range("k0", "") };
        refused(api.range(below.clone()).await, Code::OutOfRange, text::COMPACTED);
        let before = everything(&api, compacted).await;
        server.kill();
        server.restart();
        refused(api.range(below).await, Code::OutOfRange, text::COMPACTED);
        refused(api.compact(compacted, false).await, Code::OutOfRange, text::COMPACTED);
        assert_eq!(before, everything(&api, compacted).await);
        assert_eq!(api.hash_kv(0).await.expect("hashed").compact_revision, compacted);
    }
    // Compacted to the newest revision, which is then that of a tombstone: it does not go back for lack of keys.
    api.delete("\0", "\0").await.expect("deleted");
    let revision = api.revision().await;
    api.compact(revision, true).await.expect("compacted");
    for ending in [Server::kill, Server::end] {
        ending(&mut server);
        server.restart();
        assert_eq!(api.revision().await, revision);
    }
    assert_eq!(api.put("k", "v").await, revision + 1);
}

async fn a_restart_gives_short_leases_their_time_in_full(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    for (lease, ttl) in [(1, 3), (2, 200)] {
        api.grant(lease, ttl).await.expect("granted");
        api.put_with(PutRequest { lease, ..put(&format!("k{lease}"), "v") }).await.expect("put");
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(api.time_to_live(2).await.ttl <= 198);
    let restarted = Instant::now();
    server.kill();
    server.restart();
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { start_revision: 4, ..watch("k1", "") }).await;
    let lease = api.time_to_live(2).await;
    assert!((198..=200).contains(&lease.ttl), "{} s are left", lease.ttl);
    assert_eq!((lease.granted_ttl, lease.keys), (200, vec!["k2".into()]));
    assert!(stream.events(1).await[0].kv.as_ref().is_some_and(|kv| kv.key == "k1"));
    let waited = restarted.elapsed();
    assert!(waited >= Duration::from_secs(3), "gone {waited:?} after the restart");
    assert!(api.get("k2").await.is_some());
}

async fn a_member_that_never_served_starts_again(setup: Setup) {
    let mut server = setup.prepare();
    // Whatever of its first start it has done by then.
    for wait_ms in [1, 5, 20, 60] {
        server.spawn();
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        server.kill();
    }
    server.restart();
    let api = server.api();
    assert_eq!(api.put("k", "v").await, 2);
}

async fn the_log_is_cut_and_what_was_in_it_is_not_missed(setup: Setup) {
    let mut server = setup.flags(["--snapshot-count=50", "--snapshot-catchup-entries=10"]).start();
    let api = server.api();
    for round in 0..40 {
        write_some(&api, round).await;
        if round % 10 == 5 {
            ended_and_started(&mut server, Server::kill, &api, 1).await;
        }
    }
    if server.setup.keeps_snapshots() {
        wait_until("a snapshot is written", Duration::from_secs(10), || server.snapshots() > 0);
    }
    ended_and_started(&mut server, Server::end, &api, 1).await;
}

async fn the_log_may_live_elsewhere(setup: Setup) {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let log = elsewhere.path().join("log");
    let mut server = setup.flag(format!("--wal-dir={}", log.display())).start();
    let api = server.api();
    write_some(&api, 0).await;
    assert!(std::fs::read_dir(&log).expect("it is there").next().is_some());
    ended_and_started(&mut server, Server::kill, &api, 1).await;
}
