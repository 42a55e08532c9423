//! A snapshot that etcdctl saved founds a new cluster.

use super::{assert_filled, castutl, fill, has_applied, local, restore, restore_arguments, run_castutl, save};
use crate::harness::grpc::{text, watch};
use crate::harness::{Backend, Cluster, Server, Setup, ctl, for_each_backend, refused, run_castd, wait_until};
use castd_proto::etcdserverpb::WatchCreateRequest;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

for_each_backend!(castd:
    three_members_start_from_what_was_saved_of_another_cluster,
    clients_of_the_old_cluster_are_told_that_their_revisions_are_compacted,
    a_restore_that_is_killed_leaves_nothing_that_starts_and_is_done_again,
);

/// New members for a cluster of three, each restored from `file`.
fn restored(setup: &Setup, file: &Path, more: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(setup, 3, |_, setup| setup);
    let listed = cluster.servers.iter().map(|server| server.setup.listed()).collect::<Vec<_>>().join(",");
    for server in &cluster.servers {
        let answer = restore(&server.setup, &listed, file, &server.data_dir(), more);
        assert!(
            answer.stderr.contains("restoring snapshot") && answer.stderr.contains("restored snapshot"),
            "{answer:?}"
        );
        answer.prints("");
    }
    cluster.servers.iter_mut().for_each(Server::spawn);
    cluster.servers.iter_mut().for_each(Server::wait_ready);
    cluster
}

async fn three_members_start_from_what_was_saved_of_another_cluster(setup: Setup) {
    let mut old = Cluster::start(&setup, 3);
    let api = old.servers[0].api();
    let revision = fill(&api).await;
    let expected = has_applied(&api, revision).await;
    let hash = api.hash_kv(revision).await.expect("hashed");
    let file = save(&old.servers[1]);
    let old_members = api.list_members().await;

    let mut new = restored(&setup, &file, &["--initial-cluster-token=another"]);
    let members = new.servers[0].api().list_members().await;
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| !old_members.iter().any(|old| old.id == member.id)));
    let mut states = Vec::new();
    for api in new.apis() {
        assert_filled(&api, &expected, revision).await;
        let found = api.hash_kv(revision).await.expect("hashed");
        assert_eq!((found.hash, found.compact_revision), (hash.hash, hash.compact_revision));
        let header = api.status().await.expect("answered").header.expect("a header");
        states.push((header.cluster_id, header.revision));
    }
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    for (round, api) in new.apis().into_iter().enumerate() {
        assert_eq!(api.put("new", "v").await, revision + 1 + round as i64);
    }
    new.assert_equal().await;
    assert_eq!(old.servers[0].api().revision().await, revision, "the old one has nothing to do with it");

    // A member of the old cluster that is pointed at the new one is nobody there.
    old.servers[2].stop();
    let stranger = old.servers[2].setup.clone();
    let port = stranger.ports.peer;
    let before = new.servers[0].log().len();
    let new_peer = new.servers[2].setup.ports.peer;
    old.servers.iter_mut().take(2).for_each(Server::end);
    new.servers[2].stop();
    // It answers at an address of the new cluster.
    let ports = crate::harness::server::Ports { peer: new_peer, ..stranger.ports };
    assert_ne!(port, new_peer);
    old.servers[2].setup = stranger.ports(ports);
    old.servers[2].spawn();
    wait_until("the old member is refused", Duration::from_secs(30), || {
        new.servers[0].log().get(before..).is_some_and(|log| log.contains("cluster ID mismatch"))
            || new.servers[1].log().contains("cluster ID mismatch")
    });
    old.servers[2].kill();
    new.servers[0].api().put("still", "v").await;
    new.servers[2].restart();
    assert!(new.servers[2].api().get("still").await.is_some());

    // Restored members survive what others survive.
    for server in &mut new.servers {
        server.kill();
    }
    new.servers.iter_mut().for_each(Server::spawn);
    new.servers.iter_mut().for_each(Server::wait_ready);
    new.assert_equal().await;
    let api = new.servers[0].api();
    let grown = new.grow(&api, false).await;
    assert!(api.list_members().await.iter().any(|member| member.id == grown));
    new.assert_equal().await;
}

async fn clients_of_the_old_cluster_are_told_that_their_revisions_are_compacted(setup: Setup) {
    const BUMP: i64 = 1_000_000_000;
    let mut old = setup.clone().start();
    let revision = fill(&old.api()).await;
    let expected = local(&old.api()).await.expect("read");
    let file = save(&old);
    // Written after the snapshot: clients have seen revisions that the restored store does not have.
    let seen = old.api().put("lost", "v").await;
    old.kill();

    let new = restored(&setup, &file, &["--bump-revision=1000000000", "--mark-compacted"]);
    for api in new.apis() {
        let mut stream = api.watch_stream();
        stream.create(WatchCreateRequest { start_revision: seen + 1, ..watch("a", "z") }).await;
        let told = stream.next().await;
        assert!(told.canceled, "{told:?}");
        assert_eq!(told.compact_revision, revision + BUMP);
        let found = local(&api).await.expect("read");
        assert_eq!(found.kvs, expected.kvs);
        let past = castd_proto::etcdserverpb::RangeRequest { revision, ..crate::harness::grpc::range("a", "z") };
        refused(api.range(past).await, Code::OutOfRange, text::COMPACTED);
        assert_eq!(api.time_to_live(77).await.keys.len(), 8);
    }
    let api = new.servers[0].api();
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { start_revision: revision + BUMP + 1, ..watch("a", "z") }).await;
    assert_eq!(api.put("new", "v").await, revision + BUMP + 1);
    assert_eq!(stream.events(1).await.len(), 1);
    new.assert_equal().await;
    // Its compaction is one like others.
    api.compact(revision + BUMP + 1, true).await.expect("compacted");
    new.assert_equal().await;
}

async fn a_restore_that_is_killed_leaves_nothing_that_starts_and_is_done_again(setup: Setup) {
    let old = setup.clone().start();
    let value = "v".repeat(20_000);
    for number in 0..400 {
        old.api().put(&format!("k{number}"), &value).await;
    }
    let file = save(&old);
    let mut new = setup.ports(crate::harness::server::Ports::free()).prepare();
    let (listed, data_dir) = (new.setup.listed(), new.data_dir());
    let arguments = restore_arguments(&new.setup, &listed, &file, &data_dir);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (mut partial, mut pause) = (0, Duration::ZERO);
    while partial < 5 {
        let mut child = castutl(&arguments).spawn().expect("castutl runs");
        let begun = data_dir.join("member/creating");
        wait_until("it has begun", Duration::from_secs(30), || {
            begun.exists() || child.try_wait().expect("waited for").is_some()
        });
        std::thread::sleep(pause);
        pause += Duration::from_micros(700);
        child.kill().expect("killed");
        child.wait().expect("waited for");
        if data_dir.join("member/FORMAT").exists() {
            // Too late: it was done.
            std::fs::remove_dir_all(&data_dir).expect("removed");
            pause = Duration::ZERO;
        }
        if !begun.exists() {
            continue;
        }
        partial += 1;
        new.spawn();
        assert_eq!(new.wait_exit().code(), Some(1));
        assert!(new.log().contains("was cut short: run `castutl snapshot restore` again"), "{}", new.log());
    }
    let answer = run_castutl(&arguments);
    assert!(answer.stderr.contains("an earlier restore was cut short; starting over"), "{answer:?}");
    answer.prints("");
    new.restart();
    assert_eq!(new.api().count("k").await, 400);
    // And not once more.
    let complaint = format!("Error: data-dir {:?} not empty or could not be read", data_dir.display().to_string());
    run_castutl(&arguments).fails(1, &complaint);
}

/// The log in a directory of its own, one member, and a store of another kind than the one that was saved.
#[test]
fn a_snapshot_of_one_backend_is_restored_into_each_other_with_the_log_elsewhere() {
    for (from, into) in Backend::ALL.iter().zip(Backend::ALL.iter().cycle().skip(1)) {
        run_castd(*from, async |setup: Setup| {
            let old = setup.start();
            let revision = fill(&old.api()).await;
            let expected = local(&old.api()).await.expect("read");
            let file = save(&old);
            let status: serde_json::Value =
                run_castutl(&["snapshot", "status", file.to_str().expect("text"), "-w", "json"]).json();
            assert_eq!((&status["revision"], &status["totalKey"]), (&revision.into(), &expected.kvs.len().into()));
            assert_eq!(status["version"], "3.7.0");

            let mut new = Setup::castd(*into).prepare();
            let wal_dir = format!("--wal-dir={}", new.directory().join("wal").display());
            let listed = new.setup.listed();
            restore(&new.setup, &listed, &file, &new.data_dir(), &[&wal_dir]).prints("");
            // Only where and as it was restored.
            let plain = new.setup.clone();
            let mistaken = plain.clone().storage(*from).flag(wal_dir.clone());
            for (setup, complaint) in
                [(plain.clone(), "whose raft log is not in"), (mistaken, "holds a store of backend")]
            {
                new.setup = setup;
                new.spawn();
                assert_eq!(new.wait_exit().code(), Some(1));
                assert!(new.log().contains(complaint), "{}", new.log());
            }
            new.setup = plain.flag(wal_dir);
            new.restart();
            assert_filled(&new.api(), &expected, revision).await;
            let table = ctl::command(&new.endpoint(), &["member", "list"]).output().expect("etcdctl runs");
            assert!(String::from_utf8_lossy(&table.stdout).contains(&new.setup.peer_url()), "{table:?}");
        });
    }
}
