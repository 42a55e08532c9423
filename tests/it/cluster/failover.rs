//! Members that stop, are killed, and come back.

use crate::harness::grpc::range;
use crate::harness::{Api, Cluster, Setup, for_each_backend, refused, wait_for};
use castd_proto::etcdserverpb::RangeRequest;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tonic::{Code, Request};

for_each_backend!(castd:
    a_leader_that_is_killed_loses_nothing_and_comes_back,
    all_members_come_back_from_a_kill,
    a_leader_that_stops_hands_over_first,
    a_leader_that_stops_costs_writers_less_than_an_election,
    writes_under_way_when_the_leader_dies_are_done_once,
    a_leader_that_stood_still_reads_nothing_old,
    leadership_goes_where_it_is_told,
    without_a_majority_there_is_no_leader_and_afterwards_there_is,
);

const PATIENCE: Duration = Duration::from_secs(30);

/// Until it works: somebody may have to be elected first.
async fn put_at_last(api: &Api, key: &str, value: &str) {
    let put = async || api.put_with(crate::harness::grpc::put(key, value)).await.ok();
    wait_for("a put", PATIENCE, put).await;
}

async fn a_leader_that_is_killed_loses_nothing_and_comes_back(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let mut written = 0;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let other = cluster.servers[(leader + 1) % 3].api();
        for _ in 0..20 {
            other.put(&format!("k{written}"), "v").await;
            written += 1;
        }
        cluster.servers[leader].kill();
        put_at_last(&other, &format!("after{round}"), "v").await;
        assert_eq!(other.count("k").await, written, "what was acknowledged is there");
        cluster.servers[leader].restart();
        let back = cluster.servers[leader].api();
        assert_eq!(back.count("k").await, written);
        assert!(back.get(&format!("after{round}")).await.is_some());
    }
    cluster.assert_equal().await;
}

async fn all_members_come_back_from_a_kill(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    for round in 0..2 {
        for (place, api) in cluster.apis().into_iter().enumerate() {
            for write in 0..10 {
                api.put(&format!("{round}/{place}/{write}"), "v").await;
            }
        }
        cluster.servers.iter_mut().for_each(crate::harness::Server::kill);
        cluster.servers.iter_mut().for_each(crate::harness::Server::spawn);
        cluster.servers.iter_mut().for_each(crate::harness::Server::wait_ready);
        for api in cluster.apis() {
            assert_eq!(api.count(&format!("{round}/")).await, 30);
        }
    }
    cluster.assert_equal().await;
}

async fn a_leader_that_stops_hands_over_first(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let leader = cluster.leader().await;
    let others: Vec<Api> = [1, 2].map(|ahead| cluster.servers[(leader + ahead) % 3].api()).into();
    others[0].put("before", "v").await;
    cluster.servers[leader].stop();
    let log = cluster.servers[leader].log();
    assert!(log.contains("leadership transfer finished"), "{log}");
    assert!(!log.contains("leadership transfer failed"));
    for api in &others {
        assert!(api.get("before").await.is_some());
        api.put("after", "v").await;
    }
    cluster.servers[leader].restart();
    cluster.assert_equal().await;
}

async fn a_leader_that_stops_costs_writers_less_than_an_election(setup: Setup) {
    const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);
    let slow = ["--heartbeat-interval=100", "--election-timeout=3000"];
    let mut cluster = Cluster::start_with(&setup, 3, |_, setup| setup.flags(slow));
    let (_, api) = cluster.follower().await;
    let leader = cluster.leader().await;
    let stopping = Arc::new(AtomicBool::new(true));
    let (writer, goes_on) = (api.clone(), Arc::clone(&stopping));
    let writing = tokio::spawn(async move {
        let mut slowest = Duration::ZERO;
        for number in 0.. {
            let started = Instant::now();
            writer.put(&format!("k{number}"), "v").await;
            slowest = slowest.max(started.elapsed());
            if !goes_on.load(Ordering::Relaxed) {
                break;
            }
        }
        slowest
    });
    wait_for("writes", PATIENCE, async || (api.count("k").await > 20).then_some(())).await;
    cluster.servers[leader].stop();
    let before = api.count("k").await;
    wait_for("more writes", PATIENCE, async || (api.count("k").await > before + 20).then_some(())).await;
    stopping.store(false, Ordering::Relaxed);
    let slowest = writing.await.expect("no put failed");
    assert!(slowest < ELECTION_TIMEOUT / 2, "a put took {slowest:?}");
}

async fn writes_under_way_when_the_leader_dies_are_done_once(setup: Setup) {
    const WRITERS: usize = 40;
    let mut cluster = Cluster::start(&setup, 3);
    for round in 0..2 {
        let leader = cluster.leader().await;
        let apis: Vec<Api> = [1, 2].map(|ahead| cluster.servers[(leader + ahead) % 3].api()).into();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let api = apis[writer % 2].clone();
            writers.spawn(async move {
                for write in 0..25 {
                    api.put(&format!("{round}/{writer}"), &write.to_string()).await;
                }
            });
        }
        let prefix = format!("{round}/");
        wait_for("all write", PATIENCE, async || (apis[0].count(&prefix).await == WRITERS as i64).then_some(())).await;
        cluster.servers[leader].kill();
        // A follower's client does not even notice: what was on its way is asked of the next one.
        while let Some(writer) = writers.join_next().await {
            writer.expect("every put was answered");
        }
        for writer in 0..WRITERS {
            let found = apis[writer % 2].get(&format!("{round}/{writer}")).await.expect("written");
            assert_eq!((found.version, found.value.as_ref()), (25, &b"24"[..]), "each was carried out once");
        }
        cluster.servers[leader].restart();
    }
    cluster.assert_equal().await;
}

async fn a_leader_that_stood_still_reads_nothing_old(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    for round in 0..3 {
        let old = cluster.leader().await;
        let (asked, other) = (cluster.servers[old].api(), cluster.servers[(old + 1) % 3].api());
        asked.put("k", "old").await;
        cluster.servers[old].signal(Signal::STOP);
        let reads = (0..10).map(|_| {
            let asked = asked.clone();
            tokio::spawn(async move { asked.range(range("k", "")).await })
        });
        let reads: Vec<_> = reads.collect();
        // Some of those that wait were asked before, some will be after this.
        put_at_last(&other, "k", &format!("new{round}")).await;
        let after = asked.clone();
        let after = tokio::spawn(async move { after.range(range("k", "")).await });
        cluster.servers[old].signal(Signal::CONT);
        let answer = after.await.expect("no panic").expect("read at last");
        assert_eq!(answer.kvs[0].value, format!("new{round}").as_bytes());
        for read in reads {
            let answer = read.await.expect("no panic").expect("read at last");
            assert_eq!(answer.kvs[0].value, format!("new{round}").as_bytes(), "it could not know that it still leads");
        }
    }
    cluster.assert_equal().await;
}

async fn leadership_goes_where_it_is_told(setup: Setup) {
    let cluster = Cluster::start(&setup, 3);
    let apis = cluster.apis();
    let mut ids = Vec::new();
    for api in &apis {
        ids.push(api.status().await.expect("answered").header.expect("a header").member_id);
    }
    for _ in 0..4 {
        let leader = cluster.leader().await;
        let next = (leader + 1) % 3;
        refused(apis[next].move_leader(ids[next]).await, Code::FailedPrecondition, "etcdserver: not leader");
        apis[leader].move_leader(ids[next]).await.expect("moved");
        assert_eq!(cluster.leader().await, next);
        apis[leader].put("k", "v").await;
    }
    refused(
        apis[cluster.leader().await].move_leader(1).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
}

async fn without_a_majority_there_is_no_leader_and_afterwards_there_is(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let leader = cluster.leader().await;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    let left = cluster.servers[first].api();
    left.put("k", "v").await;
    cluster.servers[leader].kill();
    cluster.servers[second].kill();
    let has_none = async || left.status().await.ok().filter(|status| status.leader == 0);
    let status = wait_for("no leader is known", PATIENCE, has_none).await;
    assert_eq!(status.errors, ["etcdserver: no leader"]);

    let mut asks_for_leader = Request::new(range("k", ""));
    asks_for_leader.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
    refused(left.kv.clone().range(asks_for_leader).await, Code::Unavailable, "etcdserver: no leader");
    let stale = RangeRequest { serializable: true, ..range("k", "") };
    assert_eq!(left.range(stale).await.expect("answered without anybody").kvs.len(), 1);

    let (asked, started) = (left.clone(), Instant::now());
    let reading = tokio::spawn(async move { asked.range(range("k", "")).await });
    let write = left.put_with(crate::harness::grpc::put("lost", "v")).await;
    let texts = [
        "etcdserver: request timed out",
        "etcdserver: request timed out, possibly due to previous leader failure",
        "etcdserver: request timed out, possibly due to connection lost",
    ];
    let error = write.expect_err("there is no majority");
    assert!(error.code() == Code::Unavailable && texts.contains(&error.message()), "{error:?}");
    // Five seconds and two elections.
    assert!((5..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let error = reading.await.expect("no panic").expect_err("there is no majority");
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "etcdserver: request timed out"));

    // What waits is done when there is a majority again.
    let (waits, key) = (left.clone(), "waited");
    let writing = tokio::spawn(async move { waits.put_with(crate::harness::grpc::put(key, "v")).await });
    cluster.servers[second].restart();
    writing.await.expect("no panic").expect("done at last");
    assert!(cluster.servers[second].api().get(key).await.is_some());
    cluster.servers[leader].restart();
    cluster.assert_equal().await;
}
