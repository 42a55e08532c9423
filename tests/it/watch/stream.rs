//! Watchers of one stream: ids, refusals, cancelling, ends.

use crate::harness::grpc::{shown, watch};
use crate::harness::{Setup, for_each_backend};
use castd_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion};
use tonic::Code;

for_each_backend!(
    the_server_counts_ids_from_zero_and_leaves_out_those_in_use,
    a_watcher_that_cannot_be_is_refused_in_its_created_answer,
    a_cancelled_watcher_is_told_and_then_silent,
    cancelling_nobody_is_not_answered,
    an_empty_request_is_passed_over,
    streams_end_when_the_server_stops,
    a_client_that_will_send_no_more_still_gets_events,
);

async fn the_server_counts_ids_from_zero_and_leaves_out_those_in_use(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    let with_id = |watch_id| WatchCreateRequest { watch_id, ..watch("k", "") };
    let mut ids = Vec::new();
    for asked in [0, 1, 0, 0, 77, -5, 0] {
        ids.push(stream.create(with_id(asked)).await.watch_id);
    }
    assert_eq!(ids, [0, 1, 2, 3, 77, -5, 4]);
    stream.cancel(2).await;
    assert!(stream.next().await.canceled);
    assert_eq!(stream.create(with_id(0)).await.watch_id, 5, "a freed id is not given out again");
    assert_eq!(stream.create(with_id(2)).await.watch_id, 2, "but it may be asked for");
    let mut other = api.watch_stream();
    assert_eq!(other.create(with_id(0)).await.watch_id, 0, "each stream counts for itself");
}

async fn a_watcher_that_cannot_be_is_refused_in_its_created_answer(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let revision = api.put("k", "1").await;
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { watch_id: 3, ..watch("k", "") }).await;
    for (request, reason) in [
        (watch("b", "a"), "mvcc: watcher range is empty"),
        (watch("b", "b"), "mvcc: watcher range is empty"),
        (WatchCreateRequest { watch_id: 3, ..watch("k", "") }, "mvcc: duplicate watch ID provided on the WatchStream"),
    ] {
        let refusal = stream.create(request).await;
        assert!(refusal.canceled, "{refusal:?}");
        assert_eq!((refusal.watch_id, refusal.cancel_reason.as_str()), (-1, reason));
        assert_eq!((refusal.header.expect("a header").revision, refusal.compact_revision), (revision, 0));
    }
    api.put("k", "2").await;
    assert_eq!(stream.next().await.watch_id, 3, "the others go on");
}

async fn a_cancelled_watcher_is_told_and_then_silent(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { watch_id: 1, ..watch("k", "") }).await;
    stream.create(WatchCreateRequest { watch_id: 2, ..watch("k", "") }).await;
    let revision = api.put("other", "1").await;
    stream.cancel(1).await;
    let cancelled = stream.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.created), (1, true, false));
    assert_eq!(cancelled.header.expect("a header").revision, revision);
    assert_eq!((cancelled.cancel_reason.as_str(), cancelled.compact_revision), ("", 0));
    for value in ["1", "2"] {
        api.put("k", value).await;
        let response = stream.next().await;
        assert_eq!((response.watch_id, response.events.len()), (2, 1));
    }
}

async fn cancelling_nobody_is_not_answered(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.create(watch("k", "")).await;
    stream.cancel(12).await;
    stream.cancel(-1).await;
    api.put("k", "1").await;
    let response = stream.next().await;
    assert_eq!(shown(&response.events[0]), "PUT k=1 @2");
    stream.cancel(0).await;
    assert!(stream.next().await.canceled);
    stream.cancel(0).await;
    let created = stream.create(watch("k", "")).await;
    assert_eq!(created.watch_id, 1, "a second cancel was not answered either");
}

async fn an_empty_request_is_passed_over(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.requests.send(WatchRequest { request_union: None }).await.expect("open");
    stream.create(watch("k", "")).await;
    stream.requests.send(WatchRequest { request_union: None }).await.expect("open");
    api.put("k", "1").await;
    assert_eq!(stream.events(1).await.len(), 1);
}

async fn streams_end_when_the_server_stops(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.create(watch("k", "")).await;
    let started = std::time::Instant::now();
    server.stop();
    assert!(started.elapsed() < std::time::Duration::from_secs(8), "a watcher does not hold up a stop");
    let error = stream.try_next().await.expect_err("the server is gone");
    // Clients make their streams again after these and only these.
    assert!(matches!(error.code(), Code::Unavailable | Code::Internal | Code::Unknown), "{error:?}");
    server.restart();
    let mut stream = api.watch_stream();
    stream.create(watch("k", "")).await;
    api.put("k", "1").await;
    assert_eq!(stream.events(1).await.len(), 1);
}

async fn a_client_that_will_send_no_more_still_gets_events(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch("k", ""))) };
    requests.send(create).await.expect("open");
    drop(requests);
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = api.watch.clone().watch(receiver).await.expect("a stream opens").into_inner();
    assert!(responses.message().await.expect("goes on").expect("a response").created);
    api.put("k", "1").await;
    let response = responses.message().await.expect("goes on").expect("a response");
    assert_eq!(shown(&response.events[0]), "PUT k=1 @2");
}
