//! Faults at random under load, on each backend and on all of them mixed.

use crate::cluster::Cluster;
use crate::faults::{Fault, Faults};
use crate::load::Load;
use crate::member::Storage;
use crate::run;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Of each of the four set-ups: a quarter of what is asked for in all.
const ROUNDS_MIN: usize = 15;
const ANSWERED_MIN: usize = 75_000;
/// What a load counts as answered, with what its leases ask, which is not judged as an operation.
const ANSWERED_IN_ALL: usize = ANSWERED_MIN + ANSWERED_MIN / 20;
/// Should never be needed; what has not been reached by then is a failure.
const TIME_MAX: Duration = Duration::from_secs(420);
const CLIENTS: usize = 12;
const LEASES: usize = 4;
/// Whoever was away for a moment is sent a snapshot; and all that members compare is compared, all the time: an alarm would
/// be a false one.
const FLAGS: [&str; 5] = [
    "--snapshot-count=1000",
    "--snapshot-catchup-entries=500",
    "--corrupt-check-time=2s",
    "--compact-hash-check-time=2s",
    "--feature-gates=CompactHashCheck=true,InitialCorruptCheck=true",
];

/// What a member says that has installed a snapshot of the leader.
const INSTALLED: &str = "\"applied snapshot\"";

fn seed() -> u64 {
    let given = std::env::var("CASTD_CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()))
}

fn campaign(storages: [Storage; 3]) {
    run(async move {
        let seed = seed();
        println!("seed {seed}: {storages:?}");
        let mut cluster = Cluster::start(&storages, &FLAGS).await;
        let load = Load::start(&cluster, CLIENTS, LEASES, seed);
        let mut faults = Faults::new(StdRng::seed_from_u64(seed));
        let started = Instant::now();
        let mut rounds: BTreeMap<Fault, usize> = BTreeMap::new();
        let mut count = 0;
        while count < ROUNDS_MIN || load.answered() < ANSWERED_IN_ALL {
            assert!(
                started.elapsed() < TIME_MAX,
                "{count} rounds and {} requests in {TIME_MAX:?}, asked for were {ROUNDS_MIN} and {ANSWERED_IN_ALL}",
                load.answered()
            );
            let before = load.answered();
            let fault = faults.round(&mut cluster).await;
            let mended = Instant::now();
            cluster.wait_healthy().await;
            println!(
                "{:6.1} s: {fault:?}, well after {:?}, {} requests",
                started.elapsed().as_secs_f64(),
                mended.elapsed(),
                load.answered() - before
            );
            *rounds.entry(fault).or_default() += 1;
            count += 1;
        }
        let verdict = load.end(&mut cluster).await;
        let snapshots: usize = cluster.members.iter().map(|member| member.log().matches(INSTALLED).count()).sum();
        println!("{count} rounds in {:?}: {rounds:?}, {snapshots} snapshots sent\n{verdict:#?}", started.elapsed());
        assert_eq!(rounds.len(), Fault::ALL.len(), "every fault has come");
        assert!(verdict.operations.answered >= ANSWERED_MIN, "leases are not counted: {}", verdict.operations.answered);
        assert!(
            verdict.unknown > 0 && verdict.operations.unknown_found > 0,
            "faults without unanswered requests are none"
        );
        assert!(verdict.registers.operations > ANSWERED_MIN / 20, "too few: {:?}", verdict.registers);
        assert!(verdict.watches.resumed > 20 && verdict.watches.progress > 20, "too few: {:?}", verdict.watches);
        assert!(verdict.leases.expired > 10 && verdict.leases.kept_alive > 10, "too few: {:?}", verdict.leases);
        assert!(snapshots > 0, "nobody was ever left behind");
        assert!(verdict.compacted > 0, "nothing was ever compacted");
    });
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_stands_faults_at_random() {
    campaign(["rocksdb"; 3]);
}

#[cfg(feature = "sled")]
#[test]
fn sled_stands_faults_at_random() {
    campaign(["sled"; 3]);
}

#[test]
fn memory_stands_faults_at_random() {
    campaign(["memory"; 3]);
}

#[cfg(all(feature = "rocksdb", feature = "sled"))]
#[test]
fn members_on_three_backends_stand_faults_at_random() {
    campaign(["rocksdb", "sled", "memory"]);
}
