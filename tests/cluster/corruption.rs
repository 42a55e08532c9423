//! One value of one member is changed behind its back: somebody notices, and says who.

use crate::cluster::{Cluster, HEALTHY_WITHIN, connect};
use crate::run;
use castd::storage::{DataDir, Found, Settings, StorageKind};
use castd_backend_api::{Table, WriteBatch};
use etcd_client::{AlarmAction, AlarmType, Client, PutOptions};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const KEY: &str = "victim";
const VALUE: &str = "sound sound sound";

/// Three members with some keys.
async fn cluster(flags: &[&str]) -> Cluster {
    let cluster = Cluster::start(&["rocksdb", "sled", "memory"], flags).await;
    let mut client = client(&cluster, 0).await;
    for key in 0..20 {
        client.put(format!("key{key}"), "something", None).await.expect("it serves");
    }
    client.put(KEY, VALUE, None).await.expect("it serves");
    cluster.wait_level().await;
    cluster
}

async fn client(cluster: &Cluster, place: usize) -> Client {
    connect(&cluster.members[place].client_url()).await.expect("it serves")
}

/// Stops the member and flips one bit of the value.
async fn corrupt(cluster: &mut Cluster, place: usize) {
    let member = &mut cluster.members[place];
    member.terminate();
    let kind = if member.storage == "sled" { StorageKind::Sled } else { StorageKind::Rocksdb };
    let data_dir = DataDir::prepare(Settings::new(member.data_dir(), kind), &mut |_| ()).expect("it is stopped");
    let Found::Store(backend) = data_dir.open_backend().expect("readable") else { panic!("not sound") };
    let mut rows = Vec::new();
    let scanned = backend.scan(Table::Kv, b"", b"", &mut |key, row| {
        if row.windows(VALUE.len()).any(|window| window == VALUE.as_bytes()) {
            rows.push((key.to_vec(), row.to_vec()));
        }
        ControlFlow::Continue(())
    });
    scanned.expect("it can be read");
    let [(key, row)] = &mut rows[..] else { panic!("{} rows", rows.len()) };
    let last = row.iter().rposition(|byte| *byte == b'd').expect("the value ends so");
    row[last] ^= 1;
    let mut batch = WriteBatch::new();
    batch.put(Table::Kv, key.clone(), row.clone());
    backend.write(&batch).expect("written");
    assert!(data_dir.close_backend(backend).expect("flushed"), "nobody finds out");
}

/// The members that alarms are about, once there is one.
async fn alarmed(cluster: &Cluster, place: usize) -> Vec<(u64, i32)> {
    let started = Instant::now();
    loop {
        let answer = client(cluster, place).await.alarm(AlarmAction::Get, AlarmType::None, None).await;
        let answer = answer.expect("alarms can be listed");
        let alarms: Vec<_> = answer.alarms().iter().map(|alarm| (alarm.member_id(), alarm.alarm() as i32)).collect();
        if !alarms.is_empty() {
            return alarms;
        }
        assert!(started.elapsed() < HEALTHY_WITHIN, "nobody noticed in {HEALTHY_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn is_found(cluster: &mut Cluster, place: usize, asked: usize) {
    let corrupt = cluster.ask(place).await.expect("it serves").member;
    assert_eq!(alarmed(cluster, asked).await, [(corrupt, AlarmType::Corrupt as i32)]);
    let refused = client(cluster, asked).await.put("a", "b", None).await.expect_err("nothing is written any more");
    assert!(refused.to_string().contains("etcdserver: corrupt cluster"), "{refused}");
}

async fn lead(cluster: &Cluster, place: usize) {
    let started = Instant::now();
    while cluster.leader().await != Some(place) {
        let target = cluster.ask(place).await.expect("it serves").member;
        if let Some(leader) = cluster.leader().await {
            // Another election may come between: asked again.
            let _ = client(cluster, leader).await.move_leader(target).await;
        }
        assert!(started.elapsed() < HEALTHY_WITHIN, "it does not come to lead");
    }
}

/// `--corrupt-check-time`: whoever it is, also the one that compares.
#[test]
fn a_flipped_value_is_found_by_reading_it() {
    run(async {
        for (place, leads) in [(0, false), (1, true)] {
            let mut cluster = cluster(&["--corrupt-check-time=1s"]).await;
            corrupt(&mut cluster, place).await;
            cluster.members[place].spawn();
            cluster.wait_healthy().await;
            lead(&cluster, if leads { place } else { 2 }).await;
            is_found(&mut cluster, place, 2).await;
        }
    });
}

/// Without any flag: members that did different things.
#[test]
fn a_flipped_value_is_found_once_something_is_built_on_it() {
    run(async {
        let mut cluster = cluster(&[]).await;
        corrupt(&mut cluster, 1).await;
        cluster.members[1].spawn();
        cluster.wait_healthy().await;
        let keep = PutOptions::new().with_ignore_value();
        client(&cluster, 0).await.put(KEY, "", Some(keep)).await.expect("it serves");
        is_found(&mut cluster, 1, 0).await;
    });
}

/// The gate CompactHashCheck.
#[test]
fn a_flipped_value_is_found_by_a_compaction() {
    run(async {
        let flags = ["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"];
        let mut cluster = cluster(&flags).await;
        corrupt(&mut cluster, 0).await;
        cluster.members[0].spawn();
        cluster.wait_healthy().await;
        let revision = cluster.wait_level().await.revision;
        client(&cluster, 1).await.compact(revision, None).await.expect("it serves");
        is_found(&mut cluster, 0, 1).await;
    });
}

/// The gate InitialCorruptCheck.
#[test]
fn a_member_with_a_flipped_value_does_not_start() {
    run(async {
        let mut cluster = cluster(&["--feature-gates=InitialCorruptCheck=true"]).await;
        corrupt(&mut cluster, 1).await;
        cluster.members[1].spawn();
        let status = cluster.members[1].wait_end();
        let log = cluster.members[1].log();
        assert_eq!(status.code(), Some(1), "{}", cluster.members[1].log_tail());
        assert!(log.contains("\"checkInitialHashKV failed\"") && log.contains("found data inconsistency with peers"));
        // A sound one does.
        cluster.members[0].terminate();
        cluster.members[0].spawn();
        let started = Instant::now();
        while cluster.ask(0).await.is_none_or(|said| said.leader == 0) {
            assert!(started.elapsed() < HEALTHY_WITHIN, "{}", cluster.members[0].log_tail());
        }
        assert!(cluster.members[0].log().contains("\"initial corruption checking passed; no corruption\""));
    });
}
