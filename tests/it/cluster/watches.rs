//! Watches on members that are behind, cut off, or brought up to date by a snapshot.

use crate::harness::grpc::{WatchStream, put, range, watch};
use crate::harness::{Api, Cluster, Setup, for_each_backend, refused, wait_for, wait_until};
use castd_proto::etcdserverpb::{LeaseKeepAliveRequest, RangeRequest, WatchCreateRequest, WatchRequest};
use castd_proto::etcdserverpb::{WatchResponse, watch_request::RequestUnion};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

for_each_backend!(castd:
    a_watch_resumed_on_a_member_that_is_behind_waits_for_what_is_new,
    a_watch_resumed_on_a_member_that_gets_a_snapshot_waits_for_what_is_new,
    a_stream_that_wants_a_leader_ends_without_one_and_others_go_on,
);

const PATIENCE: Duration = Duration::from_secs(60);
const NO_LEADER: &str = "etcdserver: no leader";
/// Often enough to be wrong, if it could be.
const OFTEN: &str = "--watch-progress-notify-interval=100ms";

async fn a_watch_resumed_on_a_member_that_is_behind_waits_for_what_is_new(setup: Setup) {
    resume_behind(Cluster::start_apart(&setup.flags([OFTEN]), 3), 100, false).await;
}

async fn a_watch_resumed_on_a_member_that_gets_a_snapshot_waits_for_what_is_new(setup: Setup) {
    let flags = [OFTEN, "--snapshot-count=50", "--snapshot-catchup-entries=10"];
    let cluster = Cluster::start_apart(&setup.flags(flags), 3);
    let behind = resume_behind(cluster, 1_000, true).await;
    assert!(behind.contains("\"applied snapshot\""), "it came back by its log");
}

/// What a watcher has been told, checked as it comes: nothing twice, nothing left out, and progress that is true.
struct Seen {
    stream: WatchStream,
    /// The next revision that may come.
    next: i64,
    reports: usize,
}

impl Seen {
    async fn open(api: &Api, start_revision: i64) -> Seen {
        let mut stream = api.watch_stream();
        let create = WatchCreateRequest { start_revision, progress_notify: true, ..watch("k", "l") };
        stream.create(create).await;
        Seen { stream, next: start_revision, reports: 0 }
    }

    /// Until it knows all up to `revision`; every revision there is has one event.
    async fn up_to(&mut self, revision: i64) {
        while self.next <= revision {
            let said = self.stream.next().await;
            assert!(!said.canceled, "{said:?}");
            self.take(&said);
        }
    }

    fn take(&mut self, said: &WatchResponse) {
        let at = said.header.as_ref().expect("a header").revision;
        if said.events.is_empty() {
            assert!(at < self.next, "it claims {at}, and was to be told of {} before", self.next);
            assert_eq!(at, self.next - 1, "in sync, or silent");
            self.reports += 1;
        }
        for event in &said.events {
            let revision = event.kv.as_ref().expect("a pair").mod_revision;
            assert_eq!(revision, self.next, "in order, each once");
            assert!(revision <= at);
            self.next += 1;
        }
    }
}

async fn local_revision(api: &Api) -> i64 {
    let local = RangeRequest { serializable: true, ..range("?", "") };
    api.range(local).await.expect("answered").header.expect("a header").revision
}

/// A client that has seen the newest revision comes to a member that has not, which may need a snapshot to get there. Answers
/// that one's log.
async fn resume_behind(cluster: Cluster, puts: i64, is_cut: bool) -> String {
    let (behind, lagging) = cluster.follower().await;
    let ahead = cluster.servers[cluster.leader().await].api();
    for number in 0..10 {
        ahead.put(&format!("k{number}"), "v").await;
    }
    let before = ahead.revision().await;
    wait_for("all have that", PATIENCE, async || (local_revision(&lagging).await == before).then_some(())).await;
    let mut from_start = Seen::open(&lagging, 2).await;
    from_start.up_to(before).await;
    cluster.cut_off(behind);
    let gone = lagging.status().await.expect("answered").raft_applied_index;
    let mut from_now = Seen::open(&lagging, before + 1).await;
    for number in 0..puts {
        let written = async || ahead.put_with(put(&format!("k{}", number % 7), "v")).await.ok();
        wait_for("a put of the majority", PATIENCE, written).await;
    }
    let seen = ahead.revision().await;
    assert_eq!(local_revision(&lagging).await, before, "it is behind");

    let mut resumed = lagging.watch_stream();
    let create = WatchCreateRequest { start_revision: seen + 1, progress_notify: true, ..watch("k", "l") };
    let created = resumed.create(create).await;
    assert_eq!(created.header.expect("a header").revision, before, "as far as it knows");
    // Whoever has nothing to say about what was asked says nothing.
    resumed.ask_progress().await;
    let reports = from_start.reports + 2;
    while from_start.reports < reports {
        let said = from_start.stream.next().await;
        from_start.take(&said);
    }
    assert_eq!(from_start.next, before + 1, "and it claims no more than it knows");
    from_start.stream.ask_progress().await;

    if is_cut {
        super::snapshots::is_cut(&cluster, cluster.leader_among(&ahead).await, gone + puts as u64 / 2);
    }
    cluster.mend();
    let mut resumed = Seen { stream: resumed, next: seen + 1, reports: 0 };
    for number in 0..20 {
        ahead.put(&format!("k{number}"), "v").await;
    }
    let last = seen + 20;
    for watcher in [&mut resumed, &mut from_start, &mut from_now] {
        watcher.up_to(last).await;
        // In sync again, they say so.
        let reports = watcher.reports + 1;
        while watcher.reports < reports {
            let said = watcher.stream.next().await;
            watcher.take(&said);
        }
    }
    cluster.assert_equal().await;
    cluster.servers[behind].log()
}

fn wanting_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
    request
}

type OpenWatch = (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>);

async fn watch_wanting_leader(api: &Api) -> Result<OpenWatch, Status> {
    let (requests, receiver) = mpsc::channel(1);
    let create = RequestUnion::CreateRequest(watch("k", "l"));
    requests.send(WatchRequest { request_union: Some(create) }).await.expect("open");
    let mut answers = api.watch.clone().watch(wanting_leader(ReceiverStream::new(receiver))).await?.into_inner();
    let created = answers.message().await?.expect("an answer");
    assert!(created.created);
    Ok((requests, answers))
}

async fn a_stream_that_wants_a_leader_ends_without_one_and_others_go_on(setup: Setup) {
    let cluster = Cluster::start_apart(&setup, 3);
    // Once one that follows, once the one that leads: who is cut off has no leader.
    for round in 0..2 {
        let leader = cluster.leader().await;
        let alone = (leader + 1 - round) % 3;
        let (api, other) = (cluster.servers[alone].api(), cluster.servers[(alone + 1) % 3].api());
        let (_watching, mut wanting) = watch_wanting_leader(&api).await.expect("there is a leader");
        let (keeping, receiver) = mpsc::channel(1);
        keeping.send(LeaseKeepAliveRequest { id: 404 }).await.expect("open");
        let keeper = api.lease.clone().lease_keep_alive(wanting_leader(ReceiverStream::new(receiver))).await;
        let mut keeper = keeper.expect("there is a leader").into_inner();
        assert_eq!(keeper.message().await.expect("answered").expect("an answer").ttl, 0);
        let mut patient = api.watch_stream();
        patient.create(watch("k", "l")).await;

        cluster.cut_off(alone);
        let ended = tokio::time::timeout(PATIENCE, wanting.message()).await.expect("it ends");
        refused(ended, Code::Unavailable, NO_LEADER);
        let ended = tokio::time::timeout(PATIENCE, keeper.message()).await.expect("it ends");
        refused(ended, Code::Unavailable, NO_LEADER);
        refused(watch_wanting_leader(&api).await.map(drop), Code::Unavailable, NO_LEADER);
        let written = async || other.put_with(put("k", &round.to_string())).await.ok();
        let revision = wait_for("a put of the majority", PATIENCE, written).await.header.expect("a header").revision;

        cluster.mend();
        let event = patient.events(1).await.remove(0).kv.expect("a pair");
        assert_eq!(event.mod_revision, revision, "it was told nothing else, and did not end");
        let again = async || watch_wanting_leader(&api).await.ok();
        drop(wait_for("there is a leader again", PATIENCE, again).await);
    }
    // What was cut off has not put the others out: nobody who comes back wins an election by its term.
    wait_until("all follow one", PATIENCE, || cluster.servers.iter().all(crate::harness::Server::is_healthy));
    cluster.assert_equal().await;
}
