//! Members that are added, moved, promoted and removed, and what is left of it after a restart.

use crate::harness::{Api, Server, Setup, for_each_backend, http_get, refused};
use castd_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, ResponseHeader,
};
use serde_json::json;
use tonic::{Code, Status};

for_each_backend!(
    a_learner_comes_and_goes_and_comes_again_as_another,
    etcdctl_shows_who_has_not_started,
    a_change_that_cannot_be_is_refused_in_etcds_words,
    the_member_itself_may_move,
);
for_each_backend!(castd:
    an_update_does_not_promote,
    the_last_voter_stays_however_lax_the_checks,
    changes_at_once_are_made_one_after_the_other,
    a_lone_leader_serves_on_while_a_learner_is_silent,
);

const NOT_FOUND: &str = "etcdserver: member not found";
const URL_EXISTS: &str = "etcdserver: Peer URLs already exists";
const TOO_MANY_LEARNERS: &str = "etcdserver: too many learner members in cluster";
const NOT_ENOUGH: &str = "etcdserver: re-configuration failed due to not enough started members";
const NOT_READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";

const FAR: &str = "http://127.0.0.1:9";

fn urls(urls: &[&str]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

impl Api {
    async fn member_add(&self, peer_urls: &[&str], is_learner: bool) -> Result<MemberAddResponse, Status> {
        let request = MemberAddRequest { peer_urls: urls(peer_urls), is_learner };
        self.cluster.clone().member_add(request).await.map(tonic::Response::into_inner)
    }

    async fn member_remove(&self, id: u64) -> Result<Vec<Member>, Status> {
        let answer = self.cluster.clone().member_remove(MemberRemoveRequest { id }).await?.into_inner();
        check_header(answer.header);
        Ok(answer.members)
    }

    async fn member_update(&self, id: u64, peer_urls: &[&str]) -> Result<Vec<Member>, Status> {
        let request = MemberUpdateRequest { id, peer_urls: urls(peer_urls) };
        let answer = self.cluster.clone().member_update(request).await?.into_inner();
        check_header(answer.header);
        Ok(answer.members)
    }

    async fn member_promote(&self, id: u64) -> Result<Vec<Member>, Status> {
        let answer = self.cluster.clone().member_promote(MemberPromoteRequest { id }).await?.into_inner();
        check_header(answer.header);
        Ok(answer.members)
    }

    async fn members(&self) -> Vec<Member> {
        let request = MemberListRequest { linearizable: true };
        self.cluster.clone().member_list(request).await.expect("listed").into_inner().members
    }
}

fn check_header(header: Option<ResponseHeader>) {
    let header = header.expect("a header");
    assert_eq!(header.revision, 0, "answers about members carry no revision");
    assert!(header.raft_term > 0 && header.member_id != 0 && header.cluster_id != 0, "{header:?}");
}

/// The others, by id.
fn sorted(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by_key(|member| member.id);
    members
}

/// The member is the same after a stop and after a kill, and takes writes.
async fn restart(server: &mut Server, api: &Api, ending: impl FnOnce(&mut Server)) {
    let before = api.members().await;
    let revision = api.put("k", "before").await;
    ending(server);
    server.restart();
    assert_eq!(api.members().await, before);
    assert_eq!(api.put("k", "after").await, revision + 1);
}

async fn a_learner_comes_and_goes_and_comes_again_as_another(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let own = api.members().await.remove(0);

    let added = api.member_add(&["http://127.0.0.1:11", FAR], true).await.expect("added");
    check_header(added.header);
    let learner = added.member.expect("who was added");
    let expected = Member {
        id: learner.id,
        peer_urls: urls(&["http://127.0.0.1:11", FAR]),
        is_learner: true,
        ..Default::default()
    };
    assert_eq!(learner, expected, "its URLs are sorted, and it has not said yet who it is");
    assert_eq!(added.members, sorted(vec![own.clone(), learner.clone()]));
    restart(&mut server, &api, Server::kill).await;
    assert_eq!(api.members().await, sorted(vec![own.clone(), learner.clone()]));

    refused(api.member_promote(learner.id).await, Code::FailedPrecondition, NOT_READY);
    refused(api.member_add(&["http://127.0.0.1:10"], true).await, Code::FailedPrecondition, TOO_MANY_LEARNERS);

    assert_eq!(api.member_remove(learner.id).await.expect("removed"), std::slice::from_ref(&own));
    restart(&mut server, &api, Server::end).await;
    refused(api.member_remove(learner.id).await, Code::NotFound, NOT_FOUND);
    refused(api.member_promote(learner.id).await, Code::NotFound, NOT_FOUND);
    refused(api.member_update(learner.id, &[FAR]).await, Code::NotFound, NOT_FOUND);

    if server.setup.is_etcd() {
        // The same member in the same second would have the same id there, and be refused.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    }
    let again = api.member_add(&["http://127.0.0.1:11", FAR], true).await.expect("added").member.expect("who");
    assert_ne!(again.id, learner.id);
    assert_eq!(Member { id: 0, ..again }, Member { id: 0, ..learner });
    restart(&mut server, &api, Server::kill).await;
}

async fn etcdctl_shows_who_has_not_started(setup: Setup) {
    let server = setup.start();
    let (peer, client) = (server.setup.peer_url(), server.setup.client_url());
    let added = server.etcdctl(&["member", "add", "l1", "--learner", &format!("--peer-urls={FAR}")]).ok();
    let listed = server.etcdctl(&["member", "list", "-w", "json"]).json();
    let members = listed["members"].as_array().expect("members");
    let id_of = |is_learner: bool| {
        let member = members.iter().find(|member| member["isLearner"].as_bool().unwrap_or(false) == is_learner);
        member.expect("listed")["ID"].as_u64().expect("an id")
    };
    let (own, learner) = (id_of(false), id_of(true));
    let cluster = listed["header"]["cluster_id"].as_u64().expect("an id");
    assert_eq!(listed["header"].get("revision"), None);
    assert!(members.contains(&json!({"ID": learner, "peerURLs": [FAR], "isLearner": true})), "{listed}");
    assert!(added.starts_with(&format!("Member {learner:16x} added to cluster {cluster:16x}\n")), "{added}");
    assert!(
        added.contains(&format!("ETCD_INITIAL_CLUSTER=\"m1={peer},l1={FAR}\"\n"))
            || added.contains(&format!("ETCD_INITIAL_CLUSTER=\"l1={FAR},m1={peer}\"\n")),
        "{added}"
    );

    let mut lines = [
        (own, format!("{own:x}, started, m1, {peer}, {client}, false\n")),
        (learner, format!("{learner:x}, unstarted, , {FAR}, , true\n")),
    ];
    lines.sort_by_key(|(id, _)| *id);
    server.etcdctl(&["member", "list"]).prints(&lines.map(|(_, line)| line).concat());
    let table = server.etcdctl(&["member", "list", "-w", "table"]).ok();
    assert!(table.lines().any(|line| line.contains(&format!("{learner:x} | unstarted |"))), "{table}");
    let fields = server.etcdctl(&["member", "list", "-w", "fields"]).ok();
    let of_learner = format!("\"ID\" : {learner}\n\"Name\" : \"\"\n\"PeerURL\" : \"{FAR}\"\n\"IsLearner\" : true\n");
    assert!(fields.contains(&of_learner), "{fields}");

    let id = format!("{learner:x}");
    server.etcdctl(&["member", "promote", &id]).fails(1, &format!("Error: {NOT_READY}"));
    let removed = server.etcdctl(&["member", "remove", &id]);
    removed.prints(&format!("Member {learner:16x} removed from cluster {cluster:16x}\n"));
    server.etcdctl(&["member", "remove", &id]).fails(1, &format!("Error: {NOT_FOUND}"));
    server.etcdctl(&["member", "remove", &format!("{own:x}")]).fails(1, &format!("Error: {NOT_ENOUGH}"));
    let moved = server.etcdctl(&["member", "update", &format!("{own:x}"), "--peer-urls=http://127.0.0.1:12"]);
    moved.prints(&format!("Member {own:16x} updated in cluster {cluster:16x}\n"));
}

async fn a_change_that_cannot_be_is_refused_in_etcds_words(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let before = api.members().await;
    let (own, peer) = (before[0].id, server.setup.peer_url());
    for bad in
        [&[][..], &[""], &["ftp://127.0.0.1:1"], &["http://127.0.0.1"], &["http://127.0.0.1:1/path"], &[FAR, "x"]]
    {
        for is_learner in [false, true] {
            let text = "etcdserver: given member URLs are invalid";
            refused(api.member_add(bad, is_learner).await, Code::InvalidArgument, text);
        }
    }
    for is_learner in [false, true] {
        refused(api.member_add(&[FAR, &peer], is_learner).await, Code::FailedPrecondition, URL_EXISTS);
    }
    refused(api.member_remove(0x1234).await, Code::NotFound, NOT_FOUND);
    refused(api.member_remove(0).await, Code::NotFound, NOT_FOUND);
    refused(api.member_remove(own).await, Code::Unknown, NOT_ENOUGH);
    refused(api.member_update(0x1234, &[&peer]).await, Code::NotFound, NOT_FOUND);
    refused(api.member_promote(0x1234).await, Code::NotFound, NOT_FOUND);
    let text = "etcdserver: can only promote a learner member";
    refused(api.member_promote(own).await, Code::FailedPrecondition, text);
    api.member_add(&[FAR], true).await.expect("added");
    refused(api.member_update(own, &["http://127.0.0.1:12", FAR]).await, Code::FailedPrecondition, URL_EXISTS);
    assert_eq!(api.members().await.len(), 2);
}

async fn the_member_itself_may_move(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let own = api.members().await.remove(0);
    let peer = server.setup.peer_url();
    let moved = api.member_update(own.id, &["http://127.0.0.1:13", "http://127.0.0.1:12"]).await.expect("updated");
    let peer_urls = urls(&["http://127.0.0.1:13", "http://127.0.0.1:12"]);
    assert_eq!(moved, [Member { peer_urls, ..own.clone() }], "as they were given, and nothing else is changed");
    // Its flags still name the old URL: they were for its first start.
    restart(&mut server, &api, Server::kill).await;
    restart(&mut server, &api, Server::end).await;
    assert_eq!(api.member_update(own.id, &[&peer]).await.expect("updated"), [own]);
}

async fn an_update_does_not_promote(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let learner = api.member_add(&[FAR], true).await.expect("added").member.expect("who");
    let members = api.member_update(learner.id, &["http://127.0.0.1:12"]).await.expect("updated");
    let expected = Member { peer_urls: urls(&["http://127.0.0.1:12"]), ..learner.clone() };
    assert!(members.contains(&expected), "{members:?}");
    restart(&mut server, &api, Server::kill).await;
    let told = http_get(server.setup.ports.peer, "/members").expect("answered");
    let told: serde_json::Value = serde_json::from_str(&told.body).expect("json");
    let expected = json!({"id": learner.id, "peerURLs": ["http://127.0.0.1:12"], "isLearner": true});
    assert!(told.as_array().expect("members").contains(&expected), "{told}");
}

/// etcd 3.4 panics here, and again at each start.
async fn the_last_voter_stays_however_lax_the_checks(setup: Setup) {
    let mut server = setup.flag("--strict-reconfig-check=false").start();
    let api = server.api();
    api.member_add(&[FAR], true).await.expect("added");
    let own = api.members().await.into_iter().find(|member| !member.is_learner).expect("it votes").id;
    refused(api.member_remove(own).await, Code::Unknown, NOT_ENOUGH);
    restart(&mut server, &api, Server::kill).await;
}

async fn changes_at_once_are_made_one_after_the_other(setup: Setup) {
    const LEARNERS: usize = 5;
    let mut server = setup.flag(format!("--max-learners={LEARNERS}")).start();
    let api = server.api();
    let mut adding = Vec::new();
    for number in 0..2 * LEARNERS {
        let (api, url) = (api.clone(), format!("http://127.0.0.1:{}", 20 + number));
        adding.push(tokio::spawn(async move { api.member_add(&[&url], true).await }));
        // And something else that goes through the log at the same time.
        let (api, key) = (server.api(), format!("k{number}"));
        tokio::spawn(async move { api.put(&key, "v").await });
    }
    let mut added = Vec::new();
    for outcome in adding {
        match outcome.await.expect("no panic") {
            Ok(answer) => added.push(answer.member.expect("who").id),
            Err(error) => assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, TOO_MANY_LEARNERS)),
        }
    }
    assert_eq!(added.len(), LEARNERS);
    restart(&mut server, &api, Server::kill).await;
    let mut removing = Vec::new();
    for id in added.iter().chain(&added).copied() {
        let api = api.clone();
        removing.push(tokio::spawn(async move { api.member_remove(id).await }));
    }
    let mut removed = 0;
    for outcome in removing {
        match outcome.await.expect("no panic") {
            Ok(_) => removed += 1,
            Err(error) => assert_eq!((error.code(), error.message()), (Code::NotFound, NOT_FOUND)),
        }
    }
    assert_eq!(removed, LEARNERS, "each was removed once");
    restart(&mut server, &api, Server::kill).await;
    assert_eq!(api.members().await.len(), 1);
}

/// Its log is cut under a learner that never came: nothing waits for it, and the learner is still there afterwards.
async fn a_lone_leader_serves_on_while_a_learner_is_silent(setup: Setup) {
    let mut server = setup.flags(["--snapshot-count=50", "--snapshot-catchup-entries=10"]).start();
    let api = server.api();
    for round in 0..3 {
        let learner = api.member_add(&[FAR], true).await.expect("added").member.expect("who").id;
        for index in 0..150 {
            api.put(&format!("k{index}"), &format!("{round}")).await;
        }
        let read = api.get("k149").await.expect("there");
        assert_eq!(read.value, format!("{round}").as_bytes());
        restart(&mut server, &api, Server::kill).await;
        refused(api.member_promote(learner).await, Code::FailedPrecondition, NOT_READY);
        api.member_remove(learner).await.expect("removed");
    }
    if server.setup.keeps_snapshots() {
        assert!(server.snapshots() > 0);
    }
}
