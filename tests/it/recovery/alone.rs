//! `--force-new-cluster`: two of three members are gone for good, the third goes on.

use super::{PATIENCE, assert_filled, fill, has_applied};
use crate::harness::grpc::put;
use crate::harness::{Api, Cluster, Server, Setup, for_each_backend, run_castd, wait_for, wait_until};
use std::time::Duration;

for_each_backend!(castd:
    the_last_of_three_goes_on_alone_and_grows_to_three_again,
    one_that_is_killed_while_it_is_forced_is_forced_again,
    a_learner_goes_on_alone,
);

const FORCE: &str = "--force-new-cluster";

fn forced(setup: &Setup) -> Setup {
    setup.clone().flag(FORCE)
}

/// Three members with data, of which the last is to survive. Answers what it holds, its revision, and its id.
async fn three(setup: &Setup) -> (Cluster, castd_proto::etcdserverpb::RangeResponse, i64, u64) {
    let cluster = Cluster::start(setup, 3);
    // Not by the survivor, so that others have answered its clients.
    let revision = fill(&cluster.servers[0].api()).await;
    let survivor = cluster.servers[2].api();
    let expected = has_applied(&survivor, revision).await;
    let id = survivor.status().await.expect("answered").header.expect("a header").member_id;
    (cluster, expected, revision, id)
}

fn kill_all(cluster: &mut Cluster) {
    cluster.servers.iter_mut().for_each(Server::kill);
}

async fn cluster_id(api: &Api) -> u64 {
    api.status().await.expect("answered").header.expect("a header").cluster_id
}

async fn the_last_of_three_goes_on_alone_and_grows_to_three_again(setup: Setup) {
    let (mut cluster, expected, revision, id) = three(&setup).await;
    let api = cluster.servers[2].api();
    let of_cluster = cluster_id(&api).await;
    kill_all(&mut cluster);
    let plain = cluster.servers[2].setup.clone();
    cluster.servers[2].setup = forced(&plain);
    cluster.servers[2].restart();
    let log = cluster.servers[2].log();
    assert!(log.contains("forcing restart member") && log.matches("\"removed member\"").count() >= 2, "{log}");
    assert_filled(&api, &expected, revision).await;
    let members = api.list_members().await;
    assert_eq!(members.iter().map(|member| (member.id, &member.name[..])).collect::<Vec<_>>(), [(id, "m3")]);
    assert_eq!(members[0].peer_urls, [plain.peer_url()]);
    assert_eq!(cluster_id(&api).await, of_cluster);
    assert_eq!(api.put("after", "v").await, revision + 1);

    // With the flag nothing more happens; without it the member stays alone.
    for setup in [forced(&plain), plain] {
        cluster.servers[2].kill();
        cluster.servers[2].setup = setup;
        cluster.servers[2].restart();
        assert_eq!(api.list_members().await.len(), 1);
        assert!(api.get("after").await.is_some());
    }

    // One of the others comes back after all: nobody of its cluster is left for it.
    cluster.servers[0].spawn();
    assert_eq!(cluster.servers[0].wait_exit().code(), Some(0), "{}", cluster.servers[0].log());
    assert!(cluster.servers[0].log().contains("the member has been permanently removed from the cluster"));

    for _ in 0..2 {
        cluster.grow(&api, false).await;
    }
    assert_eq!(api.list_members().await.len(), 3);
    for server in cluster.servers.iter().skip(2) {
        server.api().put("from-each", "v").await;
        assert!(server.api().get("after").await.is_some());
    }
    cluster.assert_equal().await;
    // They are a majority without the one that was forced.
    cluster.servers[2].kill();
    let other = cluster.servers[3].api();
    let written = async || other.put_with(put("without", "v")).await.ok();
    wait_for("a put without the first", PATIENCE, written).await;
}

/// At whatever moment: killed again and again, later each time, until it serves.
async fn one_that_is_killed_while_it_is_forced_is_forced_again(setup: Setup) {
    const LINES: [&str; 5] = [
        "bootstrapping cluster",
        "bootstrapping storage",
        "bootstrapping raft",
        "forcing restart member",
        "now serving peer/client/metrics",
    ];
    let (mut cluster, expected, revision, id) = three(&setup).await;
    kill_all(&mut cluster);
    let mut server = cluster.servers.pop().expect("three");
    server.setup = forced(&server.setup);
    for line in LINES {
        let seen = server.log().matches(line).count();
        server.spawn();
        wait_until(line, PATIENCE, || server.log().matches(line).count() > seen);
        server.kill();
    }
    for pause_millis in (0..60).step_by(6) {
        server.spawn();
        std::thread::sleep(Duration::from_millis(pause_millis));
        server.kill();
    }
    server.restart();
    let api = server.api();
    assert_filled(&api, &expected, revision).await;
    assert_eq!(api.list_members().await.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
    api.put("after", "v").await;
}

async fn a_learner_goes_on_alone(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 1);
    let first = cluster.servers[0].api();
    let revision = fill(&first).await;
    let id = cluster.grow(&first, true).await;
    let learner = cluster.servers[1].api();
    let expected = has_applied(&learner, revision).await;
    kill_all(&mut cluster);
    cluster.servers.remove(0);
    cluster.servers[0].setup = forced(&cluster.servers[0].setup);
    cluster.servers[0].restart();
    assert_filled(&learner, &expected, revision).await;
    let members = learner.list_members().await;
    assert_eq!(members.iter().map(|member| (member.id, member.is_learner)).collect::<Vec<_>>(), [(id, false)]);
    learner.put("after", "v").await;
}

/// What was answered is there, though nobody had told the survivor that it was committed; and where there is no member yet,
/// the flag does nothing.
#[test]
fn what_was_acknowledged_last_is_kept_and_an_empty_directory_is_none_to_force() {
    run_castd(crate::harness::Backend::Memory, async |setup: Setup| {
        let mut cluster = Cluster::start(&setup, 3);
        for round in 0..3 {
            let leader = cluster.leader().await;
            let api = cluster.servers[leader].api();
            let survivor = (leader + 1) % 3;
            let absent = (leader + 2) % 3;
            cluster.servers[absent].kill();
            let key = format!("last{round}");
            // Two make the majority, so that the survivor has it, whatever it knows of it.
            wait_for("a put by two", PATIENCE, async || api.put_with(put(&key, "v")).await.ok()).await;
            cluster.servers[leader].kill();
            cluster.servers[survivor].kill();
            let copy = copy_of(&cluster.servers[survivor]);
            assert!(copy.api().get(&key).await.is_some(), "{key} was acknowledged");
            drop(copy);
            for server in &mut cluster.servers {
                server.spawn();
            }
            cluster.servers.iter_mut().for_each(Server::wait_ready);
        }
        let empty = forced(&Setup::castd(crate::harness::Backend::Memory)).start();
        assert!(empty.log().contains("--force-new-cluster has no effect"), "{}", empty.log());
        assert_eq!(empty.api().list_members().await.len(), 1);
    });
}

/// A server on a copy of its directory that is forced to be alone.
fn copy_of(server: &Server) -> Server {
    let setup = forced(&server.setup);
    let mut copy = setup.prepare();
    let copied = std::process::Command::new("cp").arg("-a").arg(server.data_dir()).arg(copy.data_dir()).status();
    assert!(copied.expect("cp runs").success());
    copy.restart();
    copy
}
