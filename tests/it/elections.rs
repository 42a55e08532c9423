//! The Election service: one leader at a time, and everybody can know who.

use crate::harness::grpc::text;
use crate::harness::{Api, Setup, for_each_backend, refused};
use castd_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use etcd_client::{ProclaimOptions, ResignOptions};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Code, Status, Streaming};

for_each_backend!(
    the_client_crate_campaigns_proclaims_and_resigns,
    answers_carry_the_revisions_that_they_are_about,
    who_does_not_lead_changes_nothing,
    questions_without_an_answer_are_refused_without_a_code,
    campaigning_again_proclaims_the_new_value,
    whoever_gives_up_campaigning_resigns,
    an_observer_sees_three_leaders_and_all_that_they_proclaim,
    candidates_lead_one_after_the_other,
    etcdctl_and_the_service_elect_one_leader,
);
for_each_backend!(castd:
    a_candidate_whose_session_expires_never_leads,
    an_observer_outlives_compaction,
    an_observer_is_told_when_the_server_stops,
);

const PATIENCE: Duration = Duration::from_secs(30);
const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const LEADER_MISSING: &str = "\"leader\" field must be provided";

async fn campaign(api: &Api, name: &str, lease: i64, value: &str) -> Result<CampaignResponse, Status> {
    let (name, value) = (name.to_owned().into(), value.to_owned().into());
    let request = CampaignRequest { name, lease, value };
    api.election.clone().campaign(request).await.map(tonic::Response::into_inner)
}

/// Wins at once.
async fn lead(api: &Api, name: &str, lease: i64, value: &str) -> LeaderKey {
    campaign(api, name, lease, value).await.expect("elected").leader.expect("a leader")
}

/// Campaigns in the background, and returns when it stands in the queue.
async fn wait_in_line(api: &Api, name: &str, lease: i64, value: &str) -> JoinHandle<Result<LeaderKey, Status>> {
    let prefix = format!("{name}/");
    let before = api.count(&prefix).await;
    let waiting = {
        let (api, name, value) = (api.clone(), name.to_owned(), value.to_owned());
        tokio::spawn(async move { campaign(&api, &name, lease, &value).await.map(|won| won.leader.expect("a leader")) })
    };
    api.wait_for_count(&prefix, before + 1).await;
    waiting
}

async fn outcome(waiting: JoinHandle<Result<LeaderKey, Status>>) -> Result<LeaderKey, Status> {
    tokio::time::timeout(PATIENCE, waiting).await.expect("the wait ends").expect("no panic")
}

async fn proclaim(api: &Api, leader: &LeaderKey, value: &str) -> Result<i64, Status> {
    let request = ProclaimRequest { leader: Some(leader.clone()), value: value.to_owned().into() };
    let answer = api.election.clone().proclaim(request).await?;
    Ok(answer.into_inner().header.expect("a header").revision)
}

async fn resign(api: &Api, leader: &LeaderKey) -> i64 {
    let request = ResignRequest { leader: Some(leader.clone()) };
    api.election.clone().resign(request).await.expect("resigned").into_inner().header.expect("a header").revision
}

async fn leader(api: &Api, name: &str) -> Result<LeaderResponse, Status> {
    let request = LeaderRequest { name: name.to_owned().into() };
    api.election.clone().leader(request).await.map(tonic::Response::into_inner)
}

async fn granted(api: &Api, ttl: i64) -> i64 {
    api.grant(0, ttl).await.expect("granted").id
}

/// An open observation. etcd sends the head of the stream with the first message, so opening it is not waited for.
struct Observation(JoinHandle<Result<Streaming<LeaderResponse>, Status>>, Option<Streaming<LeaderResponse>>);

fn observe(api: &Api, name: &str) -> Observation {
    let (mut election, request) = (api.election.clone(), LeaderRequest { name: name.to_owned().into() });
    let opening = async move { election.observe(request).await.map(tonic::Response::into_inner) };
    Observation(tokio::spawn(opening), None)
}

impl Observation {
    async fn try_next(&mut self) -> Result<LeaderResponse, Status> {
        let message = async {
            if self.1.is_none() {
                self.1 = Some((&mut self.0).await.expect("no panic")?);
            }
            let stream = self.1.as_mut().expect("opened above");
            Ok(stream.message().await?.expect("the stream has not ended"))
        };
        tokio::time::timeout(PATIENCE, message).await.expect("there is news in time")
    }

    /// Who leads with what, and the revision of the answer less that of the value.
    async fn next(&mut self) -> (String, String, i64) {
        let news = self.try_next().await.expect("the stream goes on");
        let kv = news.kv.expect("a pair");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&kv.key), text(&kv.value), news.header.expect("a header").revision - kv.mod_revision)
    }

    async fn sees(&mut self, leader: &LeaderKey, value: &str) {
        let (key, seen, _) = self.next().await;
        assert_eq!((key.as_bytes(), seen.as_str()), (&leader.key[..], value));
    }
}

async fn the_client_crate_campaigns_proclaims_and_resigns(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    let lease = client.lease_grant(600, None).await.expect("granted").id();
    let won = client.campaign("e", "one", lease).await.expect("elected");
    let key = won.leader().expect("a leader").clone();
    assert_eq!((key.name(), key.rev(), key.lease()), (&b"e"[..], 2, lease));
    assert_eq!(key.key(), format!("e/{lease:x}").as_bytes());
    let mut observed = client.observe("e").await.expect("observed");
    let news = observed.message().await.expect("goes on").expect("a leader");
    assert_eq!(news.kv().expect("a pair").value(), b"one");

    let as_leader = ProclaimOptions::new().with_leader(key.clone());
    client.proclaim("two", Some(as_leader)).await.expect("proclaimed");
    assert_eq!(client.leader("e").await.expect("led").kv().expect("a pair").value(), b"two");
    let news = observed.message().await.expect("goes on").expect("news");
    assert_eq!(news.kv().expect("a pair").value(), b"two");
    client.resign(Some(ResignOptions::new().with_leader(key))).await.expect("resigned");
    refused(client.leader("e").await, Code::Unknown, NO_LEADER);
}

async fn answers_carry_the_revisions_that_they_are_about(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let lease = granted(&api, 600).await;
    let won = campaign(&api, "e", lease, "v").await.expect("elected");
    assert_eq!(won.header.expect("a header").revision, 2);
    let one = won.leader.expect("a leader");
    let key = format!("e/{lease:x}");
    assert_eq!(one, LeaderKey { name: "e".into(), key: key.clone().into(), rev: 2, lease });
    assert_eq!(proclaim(&api, &one, "w").await.expect("proclaimed"), 3);
    let kv = api.get(&key).await.expect("there");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.lease), (2, 3, lease), "it lives as long as the session");

    api.put("other", "").await; // 4
    let led = leader(&api, "e").await.expect("led");
    assert_eq!((led.header.expect("a header").revision, led.kv.expect("a pair").mod_revision), (4, 3));
    assert_eq!(observe(&api, "e").next().await, (key, "w".to_owned(), 1), "the revision of the read");

    let waiting = {
        let api = api.clone();
        let lease = granted(&api, 600).await;
        tokio::spawn(async move { campaign(&api, "e", lease, "x").await })
    };
    api.wait_for_count("e/", 2).await; // 5
    assert_eq!(resign(&api, &one).await, 6);
    let won = waiting.await.expect("no panic").expect("elected");
    assert_eq!(won.header.expect("a header").revision, 5, "that of joining, whenever the turn came");
    assert_eq!(won.leader.expect("a leader").rev, 5);
}

async fn who_does_not_lead_changes_nothing(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let (first, second) = (granted(&api, 600).await, granted(&api, 600).await);
    let old = lead(&api, "e", first, "old").await;
    let waiting = wait_in_line(&api, "e", second, "new").await;
    api.revoke(first).await.expect("revoked");
    let new = outcome(waiting).await.expect("elected");
    refused(proclaim(&api, &old, "late").await, Code::Unknown, NOT_LEADER);
    let revision = api.revision().await;
    assert_eq!(resign(&api, &old).await, revision, "no error, and no change");
    assert_eq!(leader(&api, "e").await.expect("led").kv.expect("a pair").value, "new");

    // A former leader that leads again does so by a new key.
    resign(&api, &new).await;
    let again = lead(&api, "e", second, "again").await;
    assert_eq!(again.key, new.key);
    refused(proclaim(&api, &new, "late").await, Code::Unknown, NOT_LEADER);
    resign(&api, &new).await;
    assert_eq!(leader(&api, "e").await.expect("led").kv.expect("a pair").value, "again");
    if !server.setup.is_etcd() {
        // Nothing stays of a proclamation that failed. etcd forgets the lease that it made for it.
        let leases = api.leases().await;
        refused(proclaim(&api, &LeaderKey { lease: 0, ..new }, "late").await, Code::Unknown, NOT_LEADER);
        let as_before = async || (api.leases().await == leases).then_some(());
        crate::harness::wait_for("the lease is revoked", PATIENCE, as_before).await;
    }
}

async fn questions_without_an_answer_are_refused_without_a_code(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    refused(leader(&api, "e").await, Code::Unknown, NO_LEADER);
    refused(campaign(&api, "e", 404, "v").await, Code::Unknown, text::LEASE_NOT_FOUND);
    let mut election = api.election.clone();
    refused(election.resign(ResignRequest { leader: None }).await, Code::Unknown, LEADER_MISSING);
    let nobody = ProclaimRequest { leader: None, value: "v".into() };
    refused(election.proclaim(nobody).await, Code::Unknown, LEADER_MISSING);
    let keyless = LeaderKey { lease: granted(&api, 600).await, ..Default::default() };
    refused(proclaim(&api, &keyless, "v").await, Code::Unknown, text::EMPTY_KEY);
    let request = ResignRequest { leader: Some(keyless) };
    refused(election.resign(request).await, Code::Unknown, text::EMPTY_KEY);
    assert_eq!(api.revision().await, 1);
}

async fn campaigning_again_proclaims_the_new_value(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let lease = granted(&api, 600).await;
    let won = lead(&api, "e", lease, "v").await;
    assert_eq!(lead(&api, "e", lease, "v").await, won);
    assert_eq!(api.revision().await, 2, "nothing was written");
    assert_eq!(lead(&api, "e", lease, "w").await, won);
    let kv = leader(&api, "e").await.expect("led").kv.expect("a pair");
    assert_eq!((kv.value, kv.create_revision, kv.mod_revision), ("w".into(), 2, 3));
}

async fn whoever_gives_up_campaigning_resigns(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    lead(&api, "e", granted(&api, 600).await, "v").await;
    let waiting = wait_in_line(&api, "e", granted(&api, 600).await, "w").await;
    waiting.abort();
    api.wait_for_count("e/", 1).await;
}

async fn an_observer_sees_three_leaders_and_all_that_they_proclaim(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut observers = [observe(&api, "e"), observe(&api, "e")];
    // They wait while nobody leads; what happens elsewhere is none of their business.
    lead(&api, "e0", granted(&api, 600).await, "elsewhere").await;
    let leases = [granted(&api, 600).await, granted(&api, 600).await, granted(&api, 600).await];
    let first = lead(&api, "e", leases[0], "first").await;
    for observer in &mut observers {
        observer.sees(&first, "first").await;
    }
    let second = wait_in_line(&api, "e", leases[1], "second").await;
    let third = wait_in_line(&api, "e", leases[2], "third").await;
    for value in ["a", "b", ""] {
        proclaim(&api, &first, value).await.expect("proclaimed");
        for observer in &mut observers {
            observer.sees(&first, value).await;
        }
    }
    // One goes by itself, one loses its session; one who comes in the middle sees who leads now.
    resign(&api, &first).await;
    let second = outcome(second).await.expect("elected");
    observers[0].sees(&second, "second").await;
    proclaim(&api, &second, "c").await.expect("proclaimed");
    observers[0].sees(&second, "c").await;
    observe(&api, "e").sees(&second, "c").await;
    api.revoke(leases[1]).await.expect("revoked");
    let third = outcome(third).await.expect("elected");
    observers[0].sees(&third, "third").await;
    resign(&api, &third).await;
    let again = lead(&api, "e", leases[0], "again").await;
    observers[0].sees(&again, "again").await;

    // The other one has not read for a while: nothing was skipped that it had begun to watch.
    let mut seen = Vec::new();
    while seen.last().is_none_or(|value| value != "again") {
        seen.push(observers[1].next().await.1);
    }
    assert!(seen.len() >= 2 && seen[0] == "second", "{seen:?}");
}

async fn candidates_lead_one_after_the_other(setup: Setup) {
    const CANDIDATES: usize = 10;
    let server = setup.start();
    let api = server.api();
    let mut observer = observe(&api, "e");
    let mut candidates = JoinSet::new();
    for number in 0..CANDIDATES {
        let api = server.api();
        candidates.spawn(async move {
            let lease = granted(&api, 600).await;
            let own = lead(&api, "e", lease, &format!("candidate {number}")).await;
            let led = leader(&api, "e").await.expect("led").kv.expect("a pair");
            assert_eq!((led.key, led.create_revision), (own.key.clone(), own.rev), "two leaders at one time");
            proclaim(&api, &own, &format!("leader {number}")).await.expect("still leading");
            resign(&api, &own).await;
        });
    }
    tokio::time::timeout(PATIENCE, candidates.join_all()).await.expect("everybody gets a turn");
    // Who looks away misses leaders, never order: each leads before the next one does.
    let mut leaders = BTreeSet::new();
    let last = lead(&api, "e", granted(&api, 600).await, "last").await;
    loop {
        let (key, value, _) = observer.next().await;
        if key.as_bytes() == &last.key[..] {
            break;
        }
        if value.starts_with("candidate") {
            assert!(leaders.insert(key), "it has led before");
        }
    }
    assert!(!leaders.is_empty());
}

async fn etcdctl_and_the_service_elect_one_leader(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let listener = server.etcdctl_running(&["elect", "-l", "e"]);
    let own = lead(&api, "e", granted(&api, 600).await, "service").await;
    assert_eq!(listener.line(), Some(String::from_utf8_lossy(&own.key).into_owned()));
    assert_eq!(listener.line().as_deref(), Some("service"));
    let candidate = server.etcdctl_running(&["elect", "e", "tool"]);
    api.wait_for_count("e/", 2).await;
    let waiting = wait_in_line(&api, "e", granted(&api, 600).await, "next").await;
    resign(&api, &own).await;
    let key = candidate.line().expect("its key");
    assert_eq!(candidate.line().as_deref(), Some("tool"));
    assert_eq!((listener.line(), listener.line().as_deref()), (Some(key), Some("tool")));
    candidate.interrupt();
    let next = outcome(waiting).await.expect("elected");
    assert_eq!(listener.line(), Some(String::from_utf8_lossy(&next.key).into_owned()));
    assert_eq!(listener.line().as_deref(), Some("next"));
}

async fn a_candidate_whose_session_expires_never_leads(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let own = lead(&api, "e", granted(&api, 600).await, "v").await;
    let waiting = wait_in_line(&api, "e", granted(&api, 1).await, "w").await;
    let behind = wait_in_line(&api, "e", granted(&api, 600).await, "x").await;
    // etcd would say that it leads, once the one before has gone.
    refused(outcome(waiting).await, Code::Unknown, NOT_LEADER);
    resign(&api, &own).await;
    let leading = outcome(behind).await.expect("elected");
    assert_eq!(leader(&api, "e").await.expect("led").kv.expect("a pair").key, leading.key);
}

async fn an_observer_outlives_compaction(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut observer = observe(&api, "e");
    let lease = granted(&api, 600).await;
    let mut told = BTreeSet::new();
    for round in 0..20 {
        let own = lead(&api, "e", lease, &format!("{round}")).await;
        api.compact(proclaim(&api, &own, &format!("{round}+")).await.expect("proclaimed"), true).await.expect("done");
        api.compact(resign(&api, &own).await, true).await.expect("compacted");
    }
    let own = lead(&api, "e", lease, "end").await;
    loop {
        let (_, value, _) = observer.next().await;
        assert!(told.insert(value.clone()), "{value} was told twice");
        if value == "end" {
            break;
        }
    }
    // In step again, it misses nothing.
    proclaim(&api, &own, "after").await.expect("proclaimed");
    observer.sees(&own, "after").await;
}

async fn an_observer_is_told_when_the_server_stops(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let mut observer = observe(&api, "e");
    let own = lead(&api, "e", granted(&api, 600).await, "v").await;
    observer.sees(&own, "v").await;
    let waiting = wait_in_line(&api, "e", granted(&api, 600).await, "w").await;
    server.end();
    refused(observer.try_next().await, Code::Unavailable, "etcdserver: server stopped");
    refused(outcome(waiting).await, Code::Unavailable, "etcdserver: server stopped");
    server.restart();
    assert_eq!(leader(&server.api(), "e").await.expect("led").kv.expect("a pair").key, own.key);
}
