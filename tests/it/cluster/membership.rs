//! Members come and go while the others serve.

use crate::harness::cluster::{add, listed};
use crate::harness::grpc::range;
use crate::harness::server::Ports;
use crate::harness::{Api, Backend, Cluster, Place, Server, Setup, block_on, ctl, for_each_backend, refused, wait_for};
use castd_proto::etcdserverpb::MemberAddRequest;
use std::time::{Duration, Instant};
use tonic::Code;

for_each_backend!(castd:
    one_member_grows_to_three_and_back_to_one,
    a_learner_learns_and_is_promoted_by_a_follower,
    a_leader_that_is_removed_ends_by_itself_and_another_leads,
    who_waits_for_a_member_that_is_removed_is_told_at_once,
    a_member_moves_to_another_peer_url,
    etcdctl_adds_a_member_with_what_it_prints,
    a_member_that_was_removed_while_it_was_down_ends_when_it_comes_back,
    a_restart_with_other_client_urls_makes_them_known,
    a_change_that_would_leave_no_majority_is_refused_until_the_checks_are_off,
);

const PATIENCE: Duration = Duration::from_secs(30);
const NOT_ENOUGH: &str = "etcdserver: re-configuration failed due to not enough started members";
const NOT_READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";
const NOT_LEARNER: &str = "etcdserver: can only promote a learner member";
const STOPPED: &str = "etcdserver: server stopped";
const FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";

async fn own_id(api: &Api) -> u64 {
    api.status().await.expect("answered").header.expect("a header").member_id
}

async fn one_member_grows_to_three_and_back_to_one(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 1);
    let first = cluster.servers[0].api();
    for write in 0..50 {
        first.put(&format!("k{write}"), "v").await;
    }
    let second = cluster.grow(&first, false).await;
    let third = cluster.grow(&cluster.servers[1].api(), false).await;
    assert_eq!(first.list_members().await.len(), 3);
    for api in cluster.apis() {
        assert_eq!(api.count("k").await, 50, "who came later has it all");
        api.put("from-each", "v").await;
    }
    cluster.assert_equal().await;

    // Any one may be away now.
    cluster.servers[0].kill();
    let written = async || cluster.servers[1].api().put_with(crate::harness::grpc::put("k50", "v")).await.ok();
    wait_for("a put without the first", PATIENCE, written).await;
    cluster.servers[0].restart();
    assert_eq!(first.count("k").await, 51);

    for (place, id) in [(2, third), (1, second)] {
        first.remove(id).await;
        let ended = cluster.servers[place].wait_exit();
        assert_eq!(ended.code(), Some(0), "{}", cluster.servers[place].log());
        assert!(cluster.servers[place].log().contains("the member has been permanently removed from the cluster"));
        // Its data does not bring it back.
        cluster.servers[place].spawn();
        assert_eq!(cluster.servers[place].wait_exit().code(), Some(0), "{}", cluster.servers[place].log());
    }
    let alone = own_id(&first).await;
    let is_alone = async || (first.list_members().await.len() == 1).then_some(());
    wait_for("the first is alone", PATIENCE, is_alone).await;
    first.put("k51", "v").await;
    let last = first.cluster.clone().member_remove(castd_proto::etcdserverpb::MemberRemoveRequest { id: alone }).await;
    refused(last, Code::Unknown, NOT_ENOUGH);
    cluster.servers[0].kill();
    cluster.servers[0].restart();
    assert_eq!(first.count("k").await, 52);
}

async fn a_learner_learns_and_is_promoted_by_a_follower(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let apis = cluster.apis();
    for write in 0..30 {
        apis[0].put(&format!("k{write}"), "v").await;
    }
    let setup = cluster.newcomer();
    let (id, members) = add(&apis[0], &setup.peer_url(), true).await;
    refused(apis[1].promote(id).await, Code::FailedPrecondition, NOT_READY);
    let mut learner = setup.clone().member(setup.name(), listed(&members, &setup), true).prepare();
    learner.spawn();
    let api = learner.api();
    let has_all = async || {
        let local = castd_proto::etcdserverpb::RangeRequest {
            serializable: true,
            count_only: true,
            ..crate::harness::grpc::range("k", "l")
        };
        api.range(local).await.ok().filter(|answer| answer.count == 30)
    };
    wait_for("the learner has it all", PATIENCE, has_all).await;
    refused(api.put_with(crate::harness::grpc::put("k", "v")).await, Code::FailedPrecondition, FOR_LEARNERS);
    cluster.servers.push(learner);

    let follower = (cluster.leader().await + 1) % 3;
    let promoted = wait_for("promoted", PATIENCE, async || apis[follower].promote(id).await.ok()).await;
    assert!(promoted.iter().any(|member| member.id == id && !member.is_learner));
    refused(apis[follower].promote(id).await, Code::FailedPrecondition, NOT_LEARNER);
    let serves = async || api.put_with(crate::harness::grpc::put("through-it", "v")).await.ok();
    wait_for("the new voter serves", PATIENCE, serves).await;
    cluster.assert_equal().await;
}

async fn a_leader_that_is_removed_ends_by_itself_and_another_leads(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let leader = cluster.leader().await;
    let (asked, left) = (cluster.servers[leader].api(), cluster.servers[(leader + 1) % 3].api());
    let id = own_id(&asked).await;
    left.put("k", "v").await;
    left.remove(id).await;
    let ended = cluster.servers[leader].wait_exit();
    assert_eq!(ended.code(), Some(0));
    left.put("k2", "v").await;
    assert_eq!(left.list_members().await.len(), 2);
    assert_ne!(cluster.leader().await, leader);
    cluster.assert_equal().await;
}

async fn who_waits_for_a_member_that_is_removed_is_told_at_once(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let place = (cluster.leader().await + 1) % 3;
    let (removed, left) = (cluster.servers[place].api(), cluster.servers[(place + 1) % 3].api());
    left.remove(own_id(&removed).await).await;
    let started = Instant::now();
    let write = tokio::spawn({
        let removed = removed.clone();
        async move { removed.put_with(crate::harness::grpc::put("k", "v")).await }
    });
    let read = removed.range(range("k", "")).await;
    let write = write.await.expect("answered");
    // Etcd ends a second after it was removed, too; requests time out after more than five.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    refused(read, Code::Unavailable, STOPPED);
    refused(write, Code::Unavailable, STOPPED);
    assert_eq!(cluster.servers[place].wait_exit().code(), Some(0));
}

async fn a_member_moves_to_another_peer_url(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let moving = cluster.servers[2].api();
    let id = own_id(&moving).await;
    let old = cluster.servers[2].setup.clone();
    let new = old.clone().ports(Ports { peer: Ports::free().peer, ..old.ports });
    // It says so itself, and is heard where it is until it goes.
    let members = moving.update(id, &new.peer_url()).await.expect("updated");
    assert!(members.iter().any(|member| member.id == id && member.peer_urls == [new.peer_url()]));
    for write in 0..20 {
        moving.put(&format!("before/{write}"), "v").await;
    }
    cluster.servers[2].stop();
    cluster.servers[2].setup = new;
    cluster.servers[2].restart();
    // Without the first it takes the one that moved.
    cluster.servers[0].kill();
    let other = cluster.servers[1].api();
    let written = async || other.put_with(crate::harness::grpc::put("k", "v")).await.ok();
    wait_for("a put by the two", PATIENCE, written).await;
    cluster.servers[0].restart();
    cluster.assert_equal().await;
}

async fn etcdctl_adds_a_member_with_what_it_prints(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 1);
    let newcomer = cluster.newcomer();
    let url = format!("--peer-urls={}", newcomer.peer_url());
    let endpoint = cluster.servers[0].endpoint();
    let answer = ctl::command(&endpoint, &["member", "add", newcomer.name(), &url]).output().expect("etcdctl runs");
    let printed = String::from_utf8(answer.stdout).expect("text");
    let setting = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("{name} in {printed}")).trim_matches('"').to_owned()
    };
    assert_eq!(setting("ETCD_INITIAL_CLUSTER_STATE"), "existing");
    let mut joined = newcomer.clone().member(&setting("ETCD_NAME"), setting("ETCD_INITIAL_CLUSTER"), true).prepare();
    joined.restart();
    joined.api().put("k", "v").await;
    cluster.servers.push(joined);
    cluster.assert_equal().await;
    // A third one is refused while one of two is away.
    cluster.servers[1].kill();
    let api = cluster.servers[0].api();
    let request = MemberAddRequest { peer_urls: vec!["http://127.0.0.1:9".to_owned()], is_learner: false };
    let refused = api.cluster.clone().member_add(request).await.expect_err("one of two is away");
    assert!([Code::Unavailable, Code::Unknown].contains(&refused.code()), "{refused:?}");
    cluster.servers[1].restart();
    cluster.assert_equal().await;
}

async fn a_member_that_was_removed_while_it_was_down_ends_when_it_comes_back(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let api = cluster.servers[0].api();
    let id = own_id(&cluster.servers[2].api()).await;
    cluster.servers[2].kill();
    api.remove(id).await;
    api.put("k", "v").await;
    let gone = "the member has been permanently removed from the cluster";
    for _ in 0..2 {
        cluster.servers[2].spawn();
        assert_eq!(cluster.servers[2].wait_exit().code(), Some(0), "{}", cluster.servers[2].log());
        let log = cluster.servers[2].log();
        let error = log.lines().rfind(|line| line.contains("\"server error\"")).expect("it says why");
        assert!(error.contains(gone) && log.contains("data-dir used by this member must be removed"), "{error}");
    }
    let refused = "rejected stream from remote peer because it was removed";
    assert!(cluster.servers[..2].iter().any(|server| server.log().contains(refused)));
    assert_eq!(api.list_members().await.len(), 2);
    cluster.assert_equal().await;
}

async fn a_restart_with_other_client_urls_makes_them_known(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let api = cluster.servers[0].api();
    let (id, before) = (own_id(&cluster.servers[2].api()).await, api.list_members().await);
    cluster.servers[2].stop();
    let client = format!("http://127.0.0.1:{}", Ports::free().client);
    cluster.servers[2].setup =
        cluster.servers[2].setup.clone().flag(format!("--advertise-client-urls={client},http://localhost:9"));
    cluster.servers[2].restart();
    for api in cluster.apis() {
        let members = api.list_members().await;
        for (member, before) in members.iter().zip(&before) {
            if member.id == id {
                assert_eq!(member.client_urls, [client.as_str(), "http://localhost:9"]);
                assert_eq!((&member.name, &member.peer_urls), (&before.name, &before.peer_urls));
            } else {
                assert_eq!(member, before);
            }
        }
    }
}

async fn a_change_that_would_leave_no_majority_is_refused_until_the_checks_are_off(setup: Setup) {
    const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
    let mut cluster = Cluster::start_with(&setup, 3, |place, setup| {
        // The second lets everything through.
        if place == 1 { setup.flag("--strict-reconfig-check=false") } else { setup }
    });
    let (strict, lax) = (cluster.servers[0].api(), cluster.servers[1].api());
    let (second, third) = (own_id(&lax).await, own_id(&cluster.servers[2].api()).await);
    cluster.servers[2].kill();
    let change = async |api: &Api, is_learner| {
        let request = MemberAddRequest { peer_urls: vec!["http://127.0.0.1:9".to_owned()], is_learner };
        api.cluster.clone().member_add(request).await
    };
    let remove =
        async |id| strict.cluster.clone().member_remove(castd_proto::etcdserverpb::MemberRemoveRequest { id }).await;
    for is_learner in [false, true] {
        refused(change(&strict, is_learner).await, Code::Unavailable, UNHEALTHY);
    }
    refused(remove(second).await, Code::Unavailable, UNHEALTHY);
    // Nothing is lost with a learner, if one insists.
    let added = change(&lax, true).await.expect("let through").into_inner().member.expect("who").id;
    assert_eq!(strict.list_members().await.len(), 4);
    remove(added).await.expect("a learner may go");
    // And whoever is down may.
    strict.remove(third).await;
    assert_eq!(strict.list_members().await.len(), 2);
    cluster.servers.pop();
    cluster.assert_equal().await;
}

/// A voter that was added and has not come counts against the next.
#[test]
fn no_second_voter_is_added_while_the_first_has_not_started() {
    let _place = Place::take();
    block_on(async {
        let mut cluster = Cluster::start(&Setup::castd(Backend::Memory), 1);
        let api = cluster.servers[0].api();
        let newcomer = cluster.newcomer();
        let (_, members) = add(&api, &newcomer.peer_url(), false).await;
        let request = MemberAddRequest { peer_urls: vec!["http://127.0.0.1:9".to_owned()], is_learner: false };
        refused(api.cluster.clone().member_add(request).await, Code::Unknown, NOT_ENOUGH);
        // Two are a majority of two: nothing is written until it comes, and everything once it does.
        let (writes, waiting) = (api.clone(), std::time::Instant::now());
        let writing = tokio::spawn(async move { writes.put_with(crate::harness::grpc::put("k", "v")).await });
        let mut second = newcomer.clone().member(newcomer.name(), listed(&members, &newcomer), true).prepare();
        second.restart();
        let written = writing.await.expect("no panic");
        assert!(written.is_ok() || waiting.elapsed() > Duration::from_secs(5), "{written:?}");
        cluster.servers.push(second);
        cluster.assert_equal().await;
    });
}

/// With nothing but etcdctl, as an operator does it.
#[test]
fn etcdctl_grows_a_lone_member_to_three_and_shrinks_it_again() {
    let _place = Place::take();
    block_on(async {
        let mut cluster = Cluster::start(&Setup::castd(Backend::Memory), 1);
        let ctl = |at: &Server, arguments: &[&str]| ctl::etcdctl(&at.endpoint(), arguments, None);
        // The checks want members to have been connected for a while.
        let until_done = async |at: &Server, arguments: &[&str]| {
            wait_for("etcdctl succeeds", PATIENCE, async || {
                let answer = ctl(at, arguments);
                (answer.code == 0).then_some(answer.stdout)
            })
            .await
        };
        ctl(&cluster.servers[0], &["put", "lamp", "on"]).prints("OK\n");
        for size in [2, 3] {
            let newcomer = cluster.newcomer();
            let url = format!("--peer-urls={}", newcomer.peer_url());
            let printed = until_done(&cluster.servers[size - 2], &["member", "add", newcomer.name(), &url]).await;
            let setting = |name: &str| {
                let line = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
                line.unwrap_or_else(|| panic!("{name} in {printed}")).trim_matches('"').to_owned()
            };
            let url = setting("ETCD_INITIAL_ADVERTISE_PEER_URLS");
            assert_eq!((url, setting("ETCD_INITIAL_CLUSTER_STATE")), (newcomer.peer_url(), "existing".to_owned()));
            let listed = setting("ETCD_INITIAL_CLUSTER");
            let mut joined = newcomer.clone().member(&setting("ETCD_NAME"), listed, true).prepare();
            joined.restart();
            cluster.servers.push(joined);
            let list = ctl(&cluster.servers[0], &["member", "list"]).ok();
            assert_eq!(list.lines().filter(|line| line.contains(", started, ")).count(), size, "{list}");
        }
        for server in &cluster.servers {
            ctl(server, &["get", "lamp"]).prints("lamp\non\n");
            ctl(server, &["endpoint", "health"]).ok();
        }
        // Whoever leads goes first.
        for size in [2, 1] {
            let leader = cluster.leader().await;
            let id = format!("{:x}", own_id(&cluster.servers[leader].api()).await);
            let asked = &cluster.servers[(leader + 1) % cluster.servers.len()];
            let printed = until_done(asked, &["member", "remove", &id]).await;
            assert!(printed.starts_with(&format!("Member {id:>16} removed from cluster ")), "{printed}");
            let mut removed = cluster.servers.remove(leader);
            assert_eq!(removed.wait_exit().code(), Some(0), "{}", removed.log());
            cluster.leader().await;
            let list = ctl(&cluster.servers[0], &["member", "list"]).ok();
            assert_eq!(list.lines().count(), size, "{list}");
            ctl(&cluster.servers[0], &["put", "lamp", "off"]).prints("OK\n");
        }
        let id = format!("{:x}", own_id(&cluster.servers[0].api()).await);
        ctl(&cluster.servers[0], &["member", "remove", &id]).fails(1, &format!("Error: {NOT_ENOUGH}"));
        ctl(&cluster.servers[0], &["get", "lamp"]).prints("lamp\noff\n");
    });
}
