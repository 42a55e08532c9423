//! How a cluster begins, and what keeps a member from beginning in it.

use crate::harness::cluster::{add, listed};
use crate::harness::server::Ports;
use crate::harness::{Api, Backend, Cluster, Place, Server, Setup, block_on, for_each_backend};

for_each_backend!(castd:
    members_agree_on_ids_and_restart_without_the_flags,
    what_does_not_fit_the_cluster_that_is_there_is_refused_in_etcds_words,
    a_member_that_lost_its_data_is_not_founded_again,
    whoever_joins_asks_one_after_the_other_until_somebody_answers,
);

/// Said of the same flags by Debian's etcd; and nothing of the attempt is left in the way of the right ones.
#[test]
fn flags_that_describe_no_new_cluster_are_refused_as_etcd_refuses_them() {
    let _place = Place::take();
    let ports = Ports::free();
    let url = format!("http://127.0.0.1:{}", ports.peer);
    let advertised = |urls: &str| format!("--initial-advertise-peer-urls={urls}");
    let cases = [
        (String::new(), None),
        (format!("m2={url}"), None),
        ("m1".to_owned(), None),
        (format!("m1={url},m2"), None),
        (format!("m1={url},m2=127.0.0.1:9"), None),
        (format!("m1={url}/path"), None),
        (format!("m1={url},m2={url}"), None),
        (format!("m1={url},m1={url}"), None),
        (format!("m1={url},m2=http://127.0.0.1:9,m3=http://127.0.0.1:9"), None),
        ("m1=http://127.0.0.1:9".to_owned(), None),
        (format!("m1={url},m1=http://127.0.0.1:9"), None),
        (format!("m1={url}"), Some(advertised("http://127.0.0.1:9"))),
        (format!("m1={url}"), Some(advertised(&format!("{url},http://127.0.0.1:9")))),
        (format!("m1={url},m2=http://127.0.0.1:9"), Some(advertised("http://127.0.0.1:9"))),
        ("m1=http://[::1]:9".to_owned(), Some(advertised("http://127.0.0.1:9"))),
    ];
    let mut server = Setup::castd(Backend::Memory).ports(ports).prepare();
    for (listed, flag) in cases {
        let with = |setup: Setup| {
            let setup = setup.ports(ports).member("m1", listed.clone(), false);
            flag.clone().into_iter().fold(setup, Setup::flag)
        };
        let etcds = refusal(with(Setup::etcd("etcd")));
        server.setup = with(Setup::castd(Backend::Memory));
        assert_eq!(refusal_of(&mut server), etcds, "{listed} {flag:?}");
    }
    server.setup = Setup::castd(Backend::Memory).ports(ports);
    server.restart();
    block_on(async { server.api().put("k", "v").await });
}

/// What the list of somebody who joins is checked for before others are asked.
#[test]
fn flags_that_describe_no_existing_cluster_are_refused_as_etcd_refuses_them() {
    let _place = Place::take();
    let ports = Ports::free();
    let url = format!("http://127.0.0.1:{}", ports.peer);
    for listed in [
        String::new(),
        "m2=http://127.0.0.1:9".to_owned(),
        format!("m1={url},m2"),
        format!("m1={url},m2={url}"),
        format!("m1={url}"),
        format!("m1={url},m2=http://127.0.0.1:9"),
        // Its own URLs may be others than it says: they are compared with what the cluster knows.
        "m1=http://127.0.0.1:8,m2=http://127.0.0.1:9".to_owned(),
    ] {
        let refused = |setup: Setup| refusal(setup.ports(ports).member("m1", listed.clone(), true));
        assert_eq!(refused(Setup::castd(Backend::Memory)), refused(Setup::etcd("etcd")), "{listed}");
    }
}

async fn members_agree_on_ids_and_restart_without_the_flags(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let expected = cluster.servers[0].api().list_members().await;
    assert_eq!(expected.len(), 3);
    assert!(expected.iter().all(|member| !member.name.is_empty() && member.client_urls.len() == 1), "{expected:?}");
    assert!(expected.windows(2).all(|pair| pair[0].id < pair[1].id));
    cluster.servers[0].api().put("k", "v").await;
    for server in &mut cluster.servers {
        server.stop();
        // Flags about the beginning do not matter any more, not even wrong ones.
        server.setup = server.setup.clone().member(server.setup.name(), "other=http://127.0.0.1:9", true);
        server.spawn();
    }
    cluster.servers.iter_mut().for_each(Server::wait_ready);
    for api in cluster.apis() {
        assert_eq!(api.list_members().await, expected);
        assert!(api.get("k").await.is_some());
    }
}

/// Starts it, and answers the error that it ends with.
fn refusal(setup: Setup) -> String {
    refusal_of(&mut setup.prepare())
}

fn refusal_of(server: &mut Server) -> String {
    server.spawn();
    let status = server.wait_exit();
    assert_eq!(status.code(), Some(1), "{}", server.log());
    let log = server.log();
    let fatal = log.lines().rfind(|line| line.contains("discovery failed")).unwrap_or_else(|| panic!("{log}"));
    let fatal: serde_json::Value = serde_json::from_str(fatal).expect("a line of JSON");
    fatal["error"].as_str().expect("the reason").to_owned()
}

async fn what_does_not_fit_the_cluster_that_is_there_is_refused_in_etcds_words(setup: Setup) {
    let cluster = Cluster::start(&setup, 1);
    let api: Api = cluster.servers[0].api();
    let newcomer = cluster.newcomer();
    let there = cluster.servers[0].setup.listed();
    let joins = |list: String| newcomer.clone().member(newcomer.name(), list, true);

    let nobody = refusal(joins(format!("{},m1=http://127.0.0.1:9", newcomer.listed())));
    let no_info =
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
    assert_eq!(nobody, no_info);
    let unnamed = refusal(joins(there.clone()));
    assert_eq!(unnamed, "couldn't find local name \"m2\" in the initial cluster configuration");
    let not_added = refusal(joins(format!("{there},{}", newcomer.listed())));
    assert!(not_added.starts_with("error validating peerURLs {ClusterID:"), "{not_added}");
    assert!(not_added.ends_with("RemovedMemberIDs:[]}: member count is unequal"), "{not_added}");

    add(&api, "http://127.0.0.1:9", true).await;
    let another = refusal(joins(format!("{there},{}", newcomer.listed())));
    assert!(another.contains("PeerURLs: no match found for existing member ("), "{another}");
    assert!(another.contains("[http://127.0.0.1:9]"), "{another}");
    assert_eq!(api.list_members().await.len(), 2);
}

async fn a_member_that_lost_its_data_is_not_founded_again(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let id = cluster.servers[2].api().status().await.expect("answered").header.expect("a header").member_id;
    cluster.servers[2].stop();
    let error = refusal(cluster.servers[2].setup.clone());
    assert_eq!(error, format!("member {id:x} has already been bootstrapped"));

    // Removed and added again, it comes back as another.
    let api = cluster.servers[0].api();
    api.remove(id).await;
    let setup = cluster.servers[2].setup.clone();
    let (added, members) = add(&api, &setup.peer_url(), false).await;
    assert_ne!(added, id);
    let list = listed(&members, &setup);
    let mut replaced = setup.member("m3", list, true).prepare();
    replaced.restart();
    let found = replaced.api().status().await.expect("answered").header.expect("a header").member_id;
    assert_eq!(found, added);
    replaced.api().put("k", "v").await;
    cluster.servers[2] = replaced;
    cluster.assert_equal().await;
}

async fn whoever_joins_asks_one_after_the_other_until_somebody_answers(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    cluster.servers[1].api().put("k", "v").await;
    let newcomer = cluster.newcomer();
    let (added, members) = add(&cluster.servers[1].api(), &newcomer.peer_url(), false).await;
    // The first of the list by name.
    cluster.servers[0].kill();
    let mut joined = newcomer.clone().member(newcomer.name(), listed(&members, &newcomer), true).prepare();
    joined.restart();
    let api = joined.api();
    assert_eq!(api.status().await.expect("answered").header.expect("a header").member_id, added);
    assert!(api.get("k").await.is_some());
    cluster.servers.push(joined);
    cluster.servers[0].restart();
    cluster.assert_equal().await;
}
