//! Members that lag so far that they get a snapshot, while the others go on.

use crate::harness::grpc::{put, watch};
use crate::harness::{Api, Backend, Cluster, Setup, for_each_backend, http_get, run_castd, wait_for, wait_until};
use castd_proto::mvccpb::Event;
use rustix::process::Signal;
use std::time::{Duration, Instant};

for_each_backend!(castd:
    a_member_that_was_down_comes_back_by_snapshot,
    a_member_that_is_killed_while_it_installs_comes_back,
    watchers_of_a_member_that_stood_still_miss_nothing,
    a_new_member_gets_the_state_by_snapshot,
);

const PATIENCE: Duration = Duration::from_secs(60);
/// As little as there can be: the log is cut all the time.
const TINY: [&str; 2] = ["--snapshot-count=50", "--snapshot-catchup-entries=10"];
/// A client's put may not wait much longer for a snapshot than for an election.
const LATENCY_MAX: Duration = Duration::from_secs(3);

/// `count` puts of `bytes` each under `prefix`, many at once. Answers how long the slowest took.
async fn fill(api: &Api, prefix: &str, count: usize, bytes: usize) -> Duration {
    const TASKS: usize = 100;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (api, prefix) = (api.clone(), prefix.to_owned());
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for number in (task..count).step_by(TASKS) {
                    let started = Instant::now();
                    let request = put(&format!("{prefix}{number:06}"), &"v".repeat(bytes));
                    api.put_with(request).await.expect("the others are a majority");
                    slowest = slowest.max(started.elapsed());
                }
                slowest
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.expect("no panic"));
    }
    slowest
}

fn installs(cluster: &Cluster, place: usize) -> usize {
    cluster.servers[place].log().matches("\"applied snapshot\"").count()
}

/// The leader's log begins behind `index`: whoever comes back and needs that gets a snapshot. Callers name the middle of what
/// was written meanwhile: the first of it may still be on its way, from before the link was given up.
pub(super) fn is_cut(cluster: &Cluster, leader: usize, index: u64) {
    wait_until("the leader cuts its log", PATIENCE, || {
        let log = cluster.servers[leader].log();
        let cuts = log.lines().filter(|line| line.contains("\"cut the raft log\""));
        let upto = cuts.filter_map(|line| {
            let digits = line.split("\"up-to-index\":").nth(1)?;
            digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
        });
        upto.max().is_some_and(|upto| upto >= index)
    });
}

async fn applied_index(api: &Api) -> u64 {
    api.status().await.expect("answered").raft_applied_index
}

async fn down_and_back(cluster: &mut Cluster, away: usize, round: usize, puts: usize) {
    let alive = cluster.servers[(away + 1) % 3].api();
    let before = installs(cluster, away);
    cluster.servers[away].kill();
    let leader = cluster.leader().await;
    let gone = applied_index(&alive).await;
    fill(&alive, &format!("round{round}/"), puts, 100).await;
    let revision = alive.revision().await;
    alive.compact(revision - 100, false).await.expect("compacted");
    fill(&alive, &format!("round{round}/"), puts / 10, 50).await;
    is_cut(cluster, leader, gone + puts as u64 / 2);
    cluster.servers[away].spawn();
    // While it is brought up to date, the others serve.
    let slowest = fill(&alive, "meanwhile/", 1_000, 100).await;
    assert!(slowest < LATENCY_MAX, "a put took {slowest:?}");
    cluster.servers[away].wait_ready();
    assert!(installs(cluster, away) > before, "it came back without a snapshot");
    let back = cluster.servers[away].api();
    back.wait_for_count(&format!("round{round}/"), puts as i64).await;
    back.put(&format!("back{round}"), "v").await;
    cluster.assert_equal().await;
}

async fn a_member_that_was_down_comes_back_by_snapshot(setup: Setup) {
    let mut cluster = Cluster::start(&setup.flags(TINY), 3);
    // Once a follower, once whoever leads.
    let follower = (cluster.leader().await + 1) % 3;
    down_and_back(&mut cluster, follower, 0, 20_000).await;
    let leader = cluster.leader().await;
    down_and_back(&mut cluster, leader, 1, 2_000).await;
    for server in &cluster.servers {
        // It may just be writing one of its own.
        wait_until("nothing unfinished is left", PATIENCE, || {
            let mut files = std::fs::read_dir(server.data_dir().join("member/snap")).expect("a directory").flatten();
            !files.any(|file| file.path().extension().is_some_and(|extension| extension == "tmp"))
        });
    }
}

async fn a_member_that_is_killed_while_it_installs_comes_back(setup: Setup) {
    let mut cluster = Cluster::start(&setup.flags(TINY), 3);
    let away = (cluster.leader().await + 1) % 3;
    let alive = cluster.servers[(away + 1) % 3].api();
    cluster.servers[away].kill();
    let gone = applied_index(&alive).await;
    // Large enough for the kills to hit every part of it.
    fill(&alive, "k", 2_000, 10_000).await;
    let leader = cluster.leader().await;
    is_cut(&cluster, leader, gone + 500);
    let mut kills = 0;
    for round in 0..12 {
        if installs(&cluster, away) > 0 {
            break;
        }
        let log = cluster.servers[away].log().len();
        cluster.servers[away].spawn();
        let said = [
            "receiving database snapshot",
            "received and saved database",
            "the raft log begins anew",
            "applying snapshot",
        ];
        let said = said[round % said.len()];
        let started = Instant::now();
        // A start that finds the file goes on without some of them.
        while !cluster.servers[away].log()[log..].contains(said) && started.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(2 * round as u64)).await;
        cluster.servers[away].kill();
        kills += 1;
    }
    assert!(kills > 1, "it was through at once");
    cluster.servers[away].restart();
    cluster.servers[away].api().wait_for_count("k", 2_000).await;
    assert!(installs(&cluster, away) + cluster.servers[away].log().matches("finishing the install").count() > 0);
    cluster.assert_equal().await;
}

fn revisions(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.kv.as_ref().expect("a pair").mod_revision).collect()
}

/// Peers that a member reaches.
fn reached_by(cluster: &Cluster, place: usize) -> usize {
    let page = http_get(cluster.servers[place].setup.ports.client, "/metrics").expect("answered").body;
    page.lines().filter(|line| line.starts_with("etcd_network_active_peers{") && line.ends_with(" 1")).count()
}

async fn watchers_of_a_member_that_stood_still_miss_nothing(setup: Setup) {
    const MISSED: usize = 2_000;
    let mut cluster = Cluster::start(&setup.flags(TINY), 3);
    for round in 0..2 {
        let still = (cluster.leader().await + 1) % 3;
        let (watched, alive) = (cluster.servers[still].api(), cluster.servers[(still + 1) % 3].api());
        let before = installs(&cluster, still);
        let mut in_sync = watched.watch_stream();
        in_sync.create(watch("k", "l")).await;
        let mut seen = vec![alive.put("k", "first").await];
        let first = in_sync.events(1).await;
        assert_eq!(revisions(&first), seen);
        let mut later = watched.watch_stream();
        later
            .create(castd_proto::etcdserverpb::WatchCreateRequest {
                start_revision: seen[0] + 3_000,
                ..watch("k", "l")
            })
            .await;

        cluster.servers[still].signal(Signal::STOP);
        let leader = cluster.leader_among(&alive).await;
        // Until then what is sent to it waits in the kernel, and is there when it wakes up.
        wait_until("its connections are given up", PATIENCE, || reached_by(&cluster, leader) == 1);
        let gone = applied_index(&alive).await;
        fill(&alive, "k", MISSED, 100).await;
        is_cut(&cluster, leader, gone + MISSED as u64 / 2);
        if round == 1 {
            let revision = alive.revision().await;
            alive.compact(revision - 5, true).await.expect("compacted");
        }
        cluster.servers[still].signal(Signal::CONT);
        wait_until("it installs a snapshot", PATIENCE, || installs(&cluster, still) > before);

        if round == 1 {
            // The snapshot may be older than the compaction; then some of it can still be read.
            while seen.len() <= MISSED {
                let answer = in_sync.next().await;
                if answer.canceled {
                    assert!(answer.compact_revision > seen[seen.len() - 1], "{answer:?}");
                    break;
                }
                seen.extend(revisions(&answer.events));
            }
        } else {
            seen.extend(revisions(&in_sync.events(MISSED).await));
        }
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, each once: {seen:?}");
        // What comes after it is seen, too, by those who waited for it as well.
        let last = fill_until(&alive, seen[0] + 3_000).await;
        let events = later.events((last - seen[0] - 3_000 + 1) as usize).await;
        let expected: Vec<i64> = (seen[0] + 3_000..=last).collect();
        assert_eq!(revisions(&events), expected);
        cluster.assert_equal().await;
    }
}

/// Puts until the store is at least there. Answers the last revision.
async fn fill_until(api: &Api, revision: i64) -> i64 {
    let mut at = api.revision().await;
    while at < revision + 10 {
        fill(api, "k", (revision + 10 - at) as usize, 10).await;
        at = api.revision().await;
    }
    at
}

async fn a_new_member_gets_the_state_by_snapshot(setup: Setup) {
    let mut cluster = Cluster::start(&setup.flags(TINY), 1);
    let first = cluster.servers[0].api();
    first.grant(77, 3_600).await.expect("granted");
    first.put_with(castd_proto::etcdserverpb::PutRequest { lease: 77, ..put("leased", "v") }).await.expect("put");
    fill(&first, "k", 3_000, 100).await;
    is_cut(&cluster, 0, 1_000);
    for _ in 0..2 {
        cluster.grow(&first, false).await;
    }
    for place in [1, 2] {
        assert!(installs(&cluster, place) > 0, "there is nothing else that it could come from");
        let api = cluster.servers[place].api();
        api.wait_for_count("k", 3_000).await;
        assert_eq!(api.leases().await, [77]);
        assert_eq!(api.list_members().await.len(), 3);
    }
    cluster.assert_equal().await;
    // The first may go: the others have all.
    cluster.servers[0].kill();
    let other = cluster.servers[1].api();
    wait_for("a put", PATIENCE, async || other.put_with(put("after", "v")).await.ok()).await;
    assert_eq!(other.time_to_live(77).await.keys, [&b"leased"[..]]);
}

/// Whoever sends, whoever receives: the format is the same.
#[cfg(all(feature = "rocksdb", feature = "sled"))]
#[test]
fn members_with_different_backends_give_snapshots_to_each_other() {
    run_castd(Backend::Rocksdb, async |setup: Setup| {
        let mut cluster = Cluster::start_with(&setup.flags(TINY), 3, |place, setup| setup.storage(Backend::ALL[place]));
        for away in 0..3 {
            down_and_back(&mut cluster, away, away, 2_000).await;
        }
    });
}
