//! Two members' links over loopback, with a proxy between them that can cut, go silent and be slow. RaftNode is a probe.

mod ends;
mod proxy;
mod snapshots;

use self::ends::{CLUSTER, End, Received, append, cluster_of, forwarded, heartbeat, soon};
use self::proxy::Proxy;
use super::dial::{Client, dial};
use super::lane::{Closed, Event, LaneMetrics, LaneTask};
use super::wire::message_bytes;
use super::*;
use crate::ids::ClusterId;
use crate::membership::urls::Url;
use crate::telemetry::clock::Clock;
use castd_proto::castdpb::{PeerEnvelope, PeerHashKvRequest, PeerMessage, PeerMessageType, SnapshotPart};
use raft::eraftpb::MessageType;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

const A: MemberId = MemberId(0xa);
const B: MemberId = MemberId(0xb);
const STRANGER: MemberId = MemberId(0xc);

/// Two members who know each other; what `a` sends to `b` goes through the proxy.
async fn pair() -> (End, End, Proxy) {
    let clock = Clock::start();
    let (mut a, mut b) = (End::start(A, clock).await, End::start(B, clock).await);
    let proxy = Proxy::start(b.address()).await;
    a.knows(&[(A, vec![a.url()]), (B, vec![proxy.url()])]);
    b.knows(&[(A, vec![a.url()]), (B, vec![proxy.url()])]);
    a.is_connected_to(B).await;
    b.is_connected_to(A).await;
    (a, b, proxy)
}

fn kinds(messages: &[Message]) -> Vec<MessageType> {
    messages.iter().map(Message::get_msg_type).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_arrives_in_order_with_its_sender() {
    let (a, mut b, _proxy) = pair().await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    a.send((0..100).map(|index| append(A, B, index, 10)).collect());
    a.forward(B, vec![forwarded(1), forwarded(2)]);
    let mut indexes = Vec::new();
    let mut requests = Vec::new();
    while indexes.len() < 100 || requests.len() < 2 {
        match soon(b.next()).await {
            Received::Step { messages, .. } => {
                let appends = messages.iter().filter(|it| it.get_msg_type() == MessageType::MsgAppend);
                indexes.extend(appends.map(|message| message.index));
            }
            Received::Forwarded { from, requests: more } => {
                assert_eq!(from, A);
                requests.extend(more);
            }
            Received::Unreachable(_) => {}
        }
    }
    assert!(indexes.iter().copied().eq(0..100), "{indexes:?}");
    assert_eq!(requests, [forwarded(1), forwarded(2)]);
    let page = a.metrics.render();
    for line in [
        "etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 1",
        "etcd_network_known_peers{Local=\"a\",Remote=\"b\"} 1",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}");
    }
    let value = |page: &str, name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    assert!(value(&page, "etcd_network_peer_sent_bytes_total{To=\"b\"}") > 1_000.0);
    assert!(value(&page, "etcd_network_peer_round_trip_time_seconds_count{To=\"b\"}") >= 2.0);
    assert!(value(&b.metrics.render(), "etcd_network_peer_received_bytes_total{From=\"a\"}") > 1_000.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_told_to_raft_and_mended_by_itself() {
    let (mut a, mut b, proxy) = pair().await;
    // The bulk lane is open, too: raft is not told of what never was.
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    let connected_since = a.connections.load().since(B).expect("connected");
    for _ in 0..3 {
        proxy.cut();
        a.is_not_connected_to(B).await;
        a.is_told_unreachable(B).await;
        a.send(vec![append(A, B, 1, 10)]);
        a.is_told_unreachable(B).await;
        proxy.mend();
        a.is_connected_to(B).await;
        a.until_carried(&mut b, append(A, B, 1, 10)).await;
    }
    assert!(a.connections.load().since(B).expect("connected") > connected_since);
    let page = a.metrics.render();
    assert!(page.contains("etcd_network_disconnected_peers_total{Local=\"a\",Remote=\"b\"} 3"), "{page}");
    assert!(b.connections.load().since(A).is_some(), "the other direction did not notice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_is_noticed_and_found_again() {
    let (mut a, mut b, proxy) = pair().await;
    // The bulk lane is open, too: raft is not told of what never was.
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    let before = a.clock.now();
    proxy.silence();
    a.is_not_connected_to(B).await;
    assert!(a.clock.now() - before < Duration::from_secs(5), "long before TCP would");
    a.is_told_unreachable(B).await;
    proxy.mend();
    a.is_connected_to(B).await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_does_not_wait_behind_entries() {
    const ENTRIES: usize = 64;
    let (a, mut b, proxy) = pair().await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    // 64 MiB at 32 MiB a second, each connection by itself.
    proxy.slow_down(32 << 20);
    a.send((0..ENTRIES as u64).map(|index| append(A, B, index, 1 << 20)).collect());
    let (mut latencies, mut entries, mut beats) = (Vec::new(), 0, 0);
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    while entries < ENTRIES {
        tokio::select! {
            _ = beat.tick() => {
                beats += 1;
                a.send(vec![heartbeat(A, B, a.clock.now())]);
            }
            received = soon(b.next()) => {
                let Received::Step { messages, at, .. } = received else { continue };
                for message in messages {
                    match message.get_msg_type() {
                        MessageType::MsgAppend => entries += 1,
                        _ => latencies.push(at.saturating_sub(Duration::from_nanos(message.commit))),
                    }
                }
            }
        }
    }
    latencies.sort_unstable();
    assert!(beats >= 50, "only {beats} heartbeats in the time that the entries took");
    assert!(latencies.len() + 10 >= beats, "{} of {beats} heartbeats arrived meanwhile", latencies.len());
    // Nine of ten: whatever else runs on this machine may hold one up.
    let most = latencies[latencies.len() * 9 / 10];
    assert!(most < Duration::from_millis(50), "{most:?} of {latencies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_is_dropped_and_raft_is_told() {
    let (mut a, mut b, proxy) = pair().await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    proxy.slow_down(1 << 20);
    a.send((0..300).map(|index| append(A, B, index, 1 << 20)).collect());
    a.is_told_unreachable(B).await;
    // One heartbeat gets through all the same.
    a.send(vec![heartbeat(A, B, a.clock.now())]);
    soon(async {
        loop {
            if let Received::Step { messages, .. } = b.next().await
                && kinds(&messages).contains(&MessageType::MsgHeartbeat)
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_busy_is_not_filled_with_entries() {
    const ENTRIES: usize = 100;
    let (a, mut b, _proxy) = pair().await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    a.send((0..ENTRIES as u64).map(|index| append(A, B, index, 1 << 20)).collect());
    let (mut held, mut entries, mut bytes) = (Vec::new(), 0, 0);
    // Nothing of it is handled until a heartbeat has got through.
    a.send(vec![heartbeat(A, B, a.clock.now())]);
    let mut heartbeats = 0;
    while entries < ENTRIES || heartbeats == 0 {
        let quiet = tokio::time::timeout(Duration::from_millis(300), b.next()).await;
        let Ok(Received::Step { messages, room, .. }) = quiet else {
            assert!(!held.is_empty(), "nothing waits, and nothing comes");
            bytes = 0;
            held.clear();
            continue;
        };
        for message in &messages {
            match message.get_msg_type() {
                MessageType::MsgAppend => {
                    entries += 1;
                    bytes += message_bytes(message);
                }
                _ => heartbeats += 1,
            }
        }
        held.push(room);
        assert!(bytes <= 33 << 20, "{bytes} bytes wait at once");
    }
    assert_eq!(heartbeats, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_dialled_at_its_new_place_and_one_that_leaves_is_let_go() {
    let (mut a, mut b, proxy) = pair().await;
    let other_door = Proxy::start(b.address()).await;
    let closed_door = Proxy::start(b.address()).await;
    closed_door.cut();
    a.knows(&[(A, vec![a.url()]), (B, vec![closed_door.url(), other_door.url()])]);
    proxy.cut();
    soon(other_door.is_used()).await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;

    a.knows(&[(A, vec![a.url()])]);
    a.is_not_connected_to(B).await;
    soon(other_door.is_unused()).await;
    a.send(vec![append(A, B, 1, 10)]);
    a.is_told_unreachable(B).await;
    assert_eq!(peers_on(&a.metrics.render()), 0, "{}", a.metrics.render());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_log_is_old_is_reached_by_one_that_it_does_not_know() {
    let clock = Clock::start();
    let (mut a, mut b) = (End::start(A, clock).await, End::start(B, clock).await);
    b.knows(&[(B, vec![b.url()])]);
    a.knows(&[(A, vec![a.url()]), (B, vec![b.url()])]);
    a.is_connected_to(B).await;
    // And answers it, though its log has not told it where.
    b.is_connected_to(A).await;
    a.until_carried(&mut b, append(A, B, 1, 10)).await;
    b.until_carried(&mut a, append(B, A, 1, 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_told_and_told_to_end() {
    let (a, mut b, _proxy) = pair().await;
    b.removes(A);
    soon(a.removed.cancelled()).await;
    b.is_not_connected_to(A).await;
    assert!(!b.removed.is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_applies_its_own_removal_ends() {
    let clock = Clock::start();
    let mut a = End::start(A, clock).await;
    a.knows(&[(A, vec![a.url()])]);
    a.removes(A);
    let before = clock.now();
    soon(a.removed.cancelled()).await;
    assert!(clock.now() - before > Duration::from_millis(500), "others hear from it first");
}

async fn client(end: &End) -> Client {
    let url = Url::parse(&end.url()).expect("a URL");
    dial(&url, Duration::from_secs(5)).await.expect("it listens").0.client()
}

/// What the peer answers to a stream that begins with these.
async fn answer(end: &End, envelopes: Vec<PeerEnvelope>) -> Status {
    let stream = futures_util::StreamExt::chain(tokio_stream::iter(envelopes), tokio_stream::pending());
    let mut answers = match client(end).await.stream(stream).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match soon(answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("ended"),
            Err(status) => return status,
        }
    }
}

fn hello(from: MemberId) -> PeerEnvelope {
    let identity = identity_to(Identity { cluster: CLUSTER, member: from }, B);
    PeerEnvelope { identity: Some(identity), sent_at_nanos: 1, ..PeerEnvelope::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_refused_is_told_why_in_etcds_words() {
    let mut b = End::start(B, Clock::start()).await;
    b.knows(&[(A, vec!["http://127.0.0.1:1".to_owned()]), (B, vec![b.url()])]);
    b.removes(STRANGER);
    b.knows_removed(STRANGER).await;
    let changed = |change: fn(&mut castd_proto::castdpb::PeerIdentity)| {
        let mut envelope = hello(A);
        change(envelope.identity.as_mut().expect("it has one"));
        vec![envelope]
    };
    let message = |kind: PeerMessageType, term| {
        let message = PeerMessage { msg_type: kind.into(), from: A.0, to: B.0, term, ..PeerMessage::default() };
        vec![hello(A), PeerEnvelope { messages: vec![message], ..hello(A) }]
    };
    for (envelopes, code, text) in [
        (changed(|it| it.cluster_id = 9), Code::FailedPrecondition, "cluster ID mismatch"),
        (changed(|it| it.server_version = "2.3.8".to_owned()), Code::FailedPrecondition, "incompatible version"),
        (changed(|it| it.to = 9), Code::FailedPrecondition, "to field mismatch"),
        (changed(|it| it.from = 9), Code::NotFound, "error sender not found"),
        (
            changed(|it| it.from = STRANGER.0),
            Code::PermissionDenied,
            "the member has been permanently removed from the cluster",
        ),
        (vec![PeerEnvelope::default()], Code::InvalidArgument, "malformed peer message: it names no sender"),
        (
            message(PeerMessageType::MsgHup, 1),
            Code::InvalidArgument,
            "malformed peer message: a message that only a member itself may send to its raft",
        ),
        (
            message(PeerMessageType::MsgHeartbeat, 0),
            Code::InvalidArgument,
            "malformed peer message: a term that this message does not have",
        ),
    ] {
        let status = answer(&b, envelopes).await;
        assert_eq!((status.code(), status.message()), (code, text));
    }
    assert!(b.nothing_came(), "raft saw something of it");
}

/// Each on a stream that stays open, with the right cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_somebody_makes_up_get_so_many_places_and_no_more() {
    let mut b = End::start(B, Clock::start()).await;
    b.knows(&[(A, vec!["http://127.0.0.1:1".to_owned()]), (B, vec![b.url()])]);
    let (client, mut places) = (client(&b).await, Vec::new());
    let open = async |id: MemberId| {
        let mut client = client.clone();
        let peer_urls = vec!["http://127.0.0.1:1".to_owned()];
        let envelope = PeerEnvelope { lane: PeerLane::Bulk.into(), peer_urls, ..hello(id) };
        let (sender, envelopes) = tokio::sync::mpsc::unbounded_channel();
        sender.send(envelope).expect("there is its receiver");
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(envelopes);
        let mut answers = client.stream(stream).await?.into_inner();
        soon(answers.message()).await.map(|_| (sender, answers))
    };
    let mut refused = 0;
    for id in 100..400 {
        match open(MemberId(id)).await {
            Ok(place) => places.push(place),
            Err(status) => {
                assert_eq!((status.code(), status.message()), (Code::NotFound, "error sender not found"));
                refused += 1;
            }
        }
    }
    assert_eq!((places.len(), refused), (64, 236));
    soon(async {
        while peers_on(&b.metrics.render()) != 17 {
            tokio::task::yield_now().await
        }
    })
    .await;
    // Whoever is known needs no place.
    let _known = open(A).await.expect("let in");
    places.pop();
    soon(async { while open(MemberId(1_000)).await.is_err() {} }).await;
    assert_eq!(peers_on(&b.metrics.render()), 17, "{}", b.metrics.render());
}

/// Of how many peers a page of metrics tells.
fn peers_on(page: &str) -> usize {
    let labels = page.lines().filter(|line| line.starts_with("etcd_network_")).filter_map(|line| {
        let label = ["Remote=\"", "To=\"", "From=\""].iter().find_map(|name| line.split_once(name))?.1;
        label.split_once('"').map(|(peer, _)| peer)
    });
    labels.collect::<std::collections::BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_takes_the_place_of_the_older_one() {
    let mut b = End::start(B, Clock::start()).await;
    b.knows(&[(A, vec!["http://127.0.0.1:1".to_owned()]), (B, vec![b.url()])]);
    let open = async |lane: PeerLane| {
        let envelope = PeerEnvelope { lane: lane.into(), ..hello(A) };
        let stream = futures_util::StreamExt::chain(tokio_stream::iter([envelope]), tokio_stream::pending());
        let mut answers = client(&b).await.stream(stream).await.expect("let in").into_inner();
        assert_eq!(soon(answers.message()).await.expect("acknowledged").map(|ack| ack.sent_at_nanos), Some(1));
        answers
    };
    let mut older = open(PeerLane::Urgent).await;
    let mut of_another_lane = open(PeerLane::Bulk).await;
    let mut newer = open(PeerLane::Urgent).await;
    let ended = soon(older.message()).await.expect_err("it ended");
    assert_eq!((ended.code(), ended.message()), (Code::Cancelled, "the member has opened a newer stream"));
    for stream in [&mut of_another_lane, &mut newer] {
        let silent = tokio::time::timeout(Duration::from_millis(50), stream.message()).await;
        assert!(silent.is_err(), "{silent:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_nobody_answers_say_so_and_strangers_do_not_get_that_far() {
    let mut b = End::start(B, Clock::start()).await;
    b.knows(&[(A, vec!["http://127.0.0.1:1".to_owned()]), (B, vec![b.url()])]);
    let mut client = client(&b).await;
    let asked_by = |member| {
        let identity = Some(identity_to(Identity { cluster: CLUSTER, member }, B));
        PeerHashKvRequest { identity, revision: 0 }
    };
    let status = soon(client.hash_kv(asked_by(A))).await.expect_err("nobody is there");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "this member does not answer HashKv yet"));
    let status = soon(client.hash_kv(asked_by(STRANGER))).await.expect_err("a stranger");
    assert_eq!(status.message(), "error sender not found");
    let parts = tokio_stream::iter([SnapshotPart::default()]);
    let status = soon(client.send_snapshot(parts)).await.expect_err("no offer");
    assert_eq!(status.message(), "malformed peer message: a snapshot begins with its offer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_share_a_connection_until_it_breaks() {
    let (a, b, proxy) = pair().await;
    let calls = a.calls();
    let ask = async || -> Result<(), Status> {
        let mut client = calls.client(B).await.map_err(|error| Status::unknown(error.to_string()))?;
        let request = PeerHashKvRequest { identity: Some(calls.identity(B)), revision: 0 };
        client.hash_kv(request).await.map(drop)
    };
    let before = proxy.accepted();
    for _ in 0..3 {
        assert_eq!(soon(ask()).await.expect_err("nobody answers").code(), Code::Unavailable);
    }
    assert_eq!(proxy.accepted(), before + 1, "one connection");
    proxy.cut();
    soon(proxy.is_unused()).await;
    proxy.mend();
    let text = "this member does not answer HashKv yet";
    soon(async { while ask().await.expect_err("nobody answers").message() != text {} }).await;
    assert_eq!(calls.client(STRANGER).await.map(drop).expect_err("unknown").to_string(), "member c is not known");
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_the_connection_and_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("http://{}", silent.local_addr().expect("bound"))).expect("a URL");
    let metrics = crate::telemetry::metrics::Metrics::new(Default::default());
    let task = LaneTask {
        peer: B,
        lane: PeerLane::Urgent,
        urls: Arc::new(parking_lot::Mutex::new(vec![url])),
        settings: std::sync::Arc::new(ends::settings(Identity { cluster: ClusterId(1), member: A })),
        clock: Clock::start(),
        metrics: LaneMetrics {
            sent_bytes: metrics.network.peer_sent_bytes.with_label_values(&["b"]),
            round_trip: metrics.network.peer_round_trip_time.with_label_values(&["b"]),
        },
    };
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(task.run(move |event| drop(sender.send(event))));
    let first = soon(heard.recv()).await.expect("an event");
    assert!(matches!(first, Event::Closed { reason: Closed::Silent(_), was_open: false, .. }), "{first:?}");
    running.abort();
}

#[test]
fn appends_share_a_lane_and_all_else_overtakes_them() {
    let of = |kind| {
        let mut message = Message::default();
        message.set_msg_type(kind);
        lane_of(&message)
    };
    assert_eq!(of(MessageType::MsgAppend), PeerLane::Bulk);
    for kind in [MessageType::MsgHeartbeat, MessageType::MsgAppendResponse, MessageType::MsgTimeoutNow] {
        assert_eq!(of(kind), PeerLane::Urgent);
    }
}

#[test]
fn the_time_limits_follow_the_election_timeout() {
    let of = |millis| PeerSettings {
        election_timeout: Duration::from_millis(millis),
        ..ends::settings(Identity { cluster: ClusterId(1), member: A })
    };
    assert_eq!(of(1_000).pause_max(), Duration::from_millis(500));
    assert_eq!(of(1_000).urgent_silence_max(), Duration::from_secs(1));
    assert_eq!(of(50_000).urgent_silence_max(), Duration::from_secs(5), "not beyond --raft-read-timeout");
    assert_eq!(of(100).open_timeout(), Duration::from_millis(500));
    assert_eq!(cluster_of(&[(A, vec![])]).list().count(), 1);
}
