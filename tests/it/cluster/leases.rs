//! Leases while leadership moves: kept by whom their client asks, ended by nobody who no longer leads.

use crate::harness::grpc::{put, shown, watch};
use crate::harness::{Api, Cluster, KeepAlive, Setup, for_each_backend, wait_for};
use castd_proto::etcdserverpb::PutRequest;
use rustix::process::Signal;
use std::time::{Duration, Instant};

for_each_backend!(castd:
    a_leader_that_stood_still_takes_no_lease_away_and_promises_nothing,
    a_lease_whose_leader_dies_ends_neither_early_nor_a_life_late,
    a_stream_on_a_follower_keeps_its_lease_alive_whoever_leads,
    a_lease_can_be_kept_alive_through_any_member_as_soon_as_it_is_granted,
);

const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(100);

async fn lease_a_key(api: &Api, lease: i64, ttl: i64, key: &str) {
    assert_eq!(api.grant(lease, ttl).await.expect("granted").ttl, ttl);
    api.put_with(PutRequest { lease, ..put(key, "v") }).await.expect("put");
}

async fn a_leader_that_stood_still_takes_no_lease_away_and_promises_nothing(setup: Setup) {
    const TTL: i64 = 2;
    let mut cluster = Cluster::start(&setup, 3);
    let old = cluster.leader().await;
    let (asked, other) = (cluster.servers[old].api(), cluster.servers[(old + 1) % 3].api());
    for (lease, key) in [(1, "leased/kept"), (2, "leased/left")] {
        lease_a_key(&asked, lease, TTL, key).await;
    }
    let mut watcher = other.watch_stream();
    watcher
        .create(castd_proto::etcdserverpb::WatchCreateRequest { start_revision: 1, ..watch("leased/", "leased0") })
        .await;
    watcher.events(2).await;
    cluster.servers[old].signal(Signal::STOP);

    // Its clients ask it all the same.
    let late = asked.clone();
    let late = tokio::spawn(async move { (late.keep_alive(2).await, late.keep_alive(1).await) });
    let mut stream = KeepAlive::open(&other, 1).await;
    let left_ends =
        tokio::spawn(async move { (watcher.events(1).await.iter().map(shown).collect::<Vec<_>>(), watcher) });
    while !left_ends.is_finished() {
        assert_eq!(stream.answer().await, (1, TTL));
        tokio::time::sleep(BETWEEN).await;
        stream.send(1).await;
    }
    let (ended, mut watcher) = left_ends.await.expect("no panic");
    assert_eq!(ended, ["DELETE leased/left @4"]);

    // By its own clock both ran out meanwhile.
    cluster.servers[old].signal(Signal::CONT);
    let kept = Instant::now();
    assert_eq!(stream.answer().await, (1, TTL));
    let (left, still_kept) = late.await.expect("no panic");
    assert_eq!(left.expect("answered"), 0, "it promised a lease that had ended");
    assert_eq!(still_kept.expect("answered"), TTL);
    asked.put("leased/marker", "v").await;
    let next: Vec<_> = watcher.events(1).await.iter().map(shown).collect();
    assert_eq!(next, ["PUT leased/marker=v @5"], "and nothing was taken away");
    assert_eq!(shown(&watcher.events(1).await[0]), "DELETE leased/kept @6", "once nobody keeps it alive");
    assert!(kept.elapsed() >= Duration::from_secs(TTL as u64), "after {:?}", kept.elapsed());
    cluster.assert_equal().await;
}

async fn a_lease_whose_leader_dies_ends_neither_early_nor_a_life_late(setup: Setup) {
    const TTL: Duration = Duration::from_secs(4);
    let mut cluster = Cluster::start(&setup, 3);
    let leader = cluster.leader().await;
    let (asked, other) = (cluster.servers[leader].api(), cluster.servers[(leader + 1) % 3].api());
    lease_a_key(&asked, 1, TTL.as_secs() as i64, "leased").await;
    let mut watcher = other.watch_stream();
    watcher.create(castd_proto::etcdserverpb::WatchCreateRequest { start_revision: 3, ..watch("leased", "") }).await;
    let asked_at = Instant::now();
    assert_eq!(other.keep_alive(1).await.expect("kept"), TTL.as_secs() as i64);
    let answered_at = Instant::now();
    // A part of its time goes by.
    tokio::time::sleep(TTL / 4).await;
    cluster.servers[leader].kill();
    let left = other.time_to_live(1).await;
    assert_eq!((left.granted_ttl, left.keys.len()), (TTL.as_secs() as i64, 1), "whoever leads next answers");
    assert_eq!(shown(&watcher.events(1).await[0]), "DELETE leased @3");
    let (least, most) = (asked_at.elapsed(), answered_at.elapsed());
    assert!(least >= TTL, "it ended after {least:?}");
    assert!(most <= 2 * TTL, "it ended only after {most:?}");
    assert_eq!(other.time_to_live(1).await.ttl, -1);
    cluster.servers[leader].restart();
    cluster.assert_equal().await;
}

async fn a_stream_on_a_follower_keeps_its_lease_alive_whoever_leads(setup: Setup) {
    const TTL: i64 = 3;
    let mut cluster = Cluster::start(&setup, 3);
    let (follower, api) = cluster.follower().await;
    lease_a_key(&api, 1, TTL, "leased").await;
    let granted = api.get("leased").await.expect("there").mod_revision;
    let mut stream = KeepAlive::open(&api, 1).await;
    assert_eq!(stream.answer().await, (1, TTL));
    for round in 0..3 {
        let leader = cluster.leader().await;
        match round {
            0 => cluster.servers[leader].kill(),
            1 => cluster.servers[leader].signal(Signal::STOP),
            _ => drop(cluster.servers[leader].stop()),
        }
        // The first is answered by the next leader.
        for _ in 0..5 {
            stream.send(1).await;
            assert_eq!(stream.answer().await, (1, TTL), "round {round}");
        }
        match round {
            1 => cluster.servers[leader].signal(Signal::CONT),
            _ => cluster.servers[leader].restart(),
        }
        // The stream is to be on one that follows, again.
        if cluster.leader().await == follower {
            let next = cluster.servers[(follower + 1) % 3].api().status().await.expect("answered");
            api.move_leader(next.header.expect("a header").member_id).await.expect("moved");
        }
        stream.send(1).await;
        assert_eq!(stream.answer().await, (1, TTL));
        assert_eq!(api.get("leased").await.expect("alive").mod_revision, granted);
    }
    let gone = async || api.get("leased").await.is_none().then_some(());
    wait_for("it ends when nobody keeps it alive", PATIENCE, gone).await;
    stream.send(1).await;
    assert_eq!(stream.answer().await, (1, 0), "and the stream stays open");
    cluster.assert_equal().await;
}

async fn a_lease_can_be_kept_alive_through_any_member_as_soon_as_it_is_granted(setup: Setup) {
    let cluster = Cluster::start(&setup, 3);
    let apis = cluster.apis();
    let mut streams = Vec::new();
    for api in &apis {
        let mut stream = KeepAlive::open(api, 404).await;
        assert_eq!(stream.answer().await, (404, 0));
        streams.push(stream);
    }
    for round in 0..30 {
        let lease = 1_000 + round;
        // A few members have it, the one that is asked may not yet.
        apis[round as usize % 3].grant(lease, 60).await.expect("granted");
        let other = (round as usize + 1) % 3;
        streams[other].send(lease).await;
        assert_eq!(streams[other].answer().await, (lease, 60));
        assert_eq!(apis[(round as usize + 2) % 3].time_to_live(lease).await.granted_ttl, 60);
        apis[other].revoke(lease).await.expect("revoked");
    }
}
