//! A member whose disk does not answer: it must not lead, since its heartbeats would keep others from leading, and it cannot
//! write down whom it votes for.
//!
//! strace makes the disk slow; where it may not trace, these tests say so and pass.

use crate::fsync::{delay_fsync, strace_works};
use crate::harness::grpc::{put, range};
use crate::harness::{Api, Cluster, Server, Setup, for_each_backend, wait_for, wait_until};
use castd_proto::etcdserverpb::RangeRequest;
use rustix::process::{Pid, Signal, kill_process};
use std::process::Child;
use std::time::{Duration, Instant};

for_each_backend!(castd: a_leader_whose_disk_stands_still_is_replaced_and_has_no_say_until_it_is_back);

const PATIENCE: Duration = Duration::from_secs(60);
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than the test: it is over when it is let go.
const FOR_EVER: Duration = Duration::from_secs(600);

/// A disk that does not answer, until dropped.
struct Stuck(Child);

impl Stuck {
    fn disk_of(server: &Server) -> Stuck {
        Stuck(delay_fsync(server, FOR_EVER))
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // strace lets its tracees go on when it is asked to end.
        let ended = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let waited = self.0.wait();
        if !std::thread::panicking() {
            ended.expect("strace runs as long as the server");
            waited.expect("a child can be waited for");
        }
    }
}

async fn leader_of(api: &Api) -> u64 {
    api.status().await.map_or(0, |status| status.leader)
}

async fn a_leader_whose_disk_stands_still_is_replaced_and_has_no_say_until_it_is_back(setup: Setup) {
    if !strace_works() {
        println!("skipped: strace may not trace here");
        return;
    }
    let mut cluster = Cluster::start(&setup, 3);
    let old = cluster.leader().await;
    let (stuck, other) = (cluster.servers[old].api(), cluster.servers[(old + 1) % 3].api());
    let old_id = leader_of(&stuck).await;
    assert_eq!(other.grant(1, 60).await.expect("granted").ttl, 60);
    other.put("before", "v").await;

    let disk = Stuck::disk_of(&cluster.servers[old]);
    // Its entries get to the others before its own disk has them, so that the put needs nobody to lead instead of it.
    let started = Instant::now();
    other.put("meanwhile", "v").await;
    let replaced = async || Some(leader_of(&other).await).filter(|leader| ![0, old_id].contains(leader));
    wait_for("another one leads", PATIENCE, replaced).await;
    let took = started.elapsed();
    assert!(took < 6 * ELECTION_TIMEOUT, "another one led only after {took:?}");
    for number in 0..20 {
        let asked_at = Instant::now();
        other.put(&format!("k{number}"), "v").await;
        assert!(asked_at.elapsed() < 4 * ELECTION_TIMEOUT, "a put took {:?}", asked_at.elapsed());
    }
    assert_eq!(other.keep_alive(1).await.expect("kept"), 60);
    assert!(cluster.servers[old].log().contains("the disk of the raft log does not answer"));
    // It still follows, and answers what it has on its own.
    let local = RangeRequest { serializable: true, ..range("before", "") };
    assert_eq!(stuck.range(local).await.expect("answered").kvs.len(), 1);

    // Of the three only one can write: nobody may lead.
    let second = cluster.leader_among(&other).await;
    let left = (0..3).find(|place| ![old, second].contains(place)).expect("three");
    let alone = cluster.servers[left].api();
    let term = alone.status().await.expect("answered").raft_term;
    cluster.servers[second].kill();
    for api in [&alone, &stuck] {
        wait_for("it misses its leader", PATIENCE, async || (leader_of(api).await == 0).then_some(())).await;
    }
    let watched = Instant::now();
    while watched.elapsed() < 6 * ELECTION_TIMEOUT {
        let status = alone.status().await.expect("answered");
        assert_eq!((status.leader, status.raft_term), (0, term), "somebody voted who cannot write");
        let stuck = stuck.status().await.expect("answered");
        assert!(stuck.leader == 0 && stuck.raft_term <= term, "{stuck:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    drop(disk);
    wait_for("the two elect one", PATIENCE, async || alone.put_with(put("after", "v")).await.ok()).await;
    cluster.servers[second].restart();
    wait_until("all are well", PATIENCE, || cluster.servers.iter().all(Server::is_healthy));
    assert_eq!(alone.count("k").await, 20);
    cluster.assert_equal().await;
}
