//! How a watcher learns how far it has seen when there is nothing to see.

use crate::harness::grpc::{put, shown, watch};
use crate::harness::{Setup, for_each_backend};
use castd_proto::etcdserverpb::WatchCreateRequest;

for_each_backend!(progress_asked_for_is_told_for_the_whole_stream, progress_is_told_now_and_then_to_those_who_want_it,);
for_each_backend!(castd: progress_never_runs_ahead_of_events, progress_is_not_told_while_a_watcher_waits_for_the_future);

async fn progress_asked_for_is_told_for_the_whole_stream(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.create(watch("k", "")).await;
    stream.create(watch("l", "")).await;
    let revision = api.put("other", "1").await;
    // 3.4 may answer from before the put has reached the watchers; so may we, but not for long.
    loop {
        stream.ask_progress().await;
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
        assert!(!progress.created && !progress.canceled);
        if progress.header.expect("a header").revision == revision {
            break;
        }
    }
    api.put("k", "1").await;
    assert_eq!(stream.events(1).await.len(), 1);

    let mut client = server.client().await;
    let mut stream = client.watch("k", None).await.expect("watching");
    stream.message().await.expect("goes on").expect("created");
    stream.request_progress().await.expect("sent");
    let progress = stream.message().await.expect("goes on").expect("a response");
    assert_eq!((progress.watch_id(), progress.header().expect("a header").revision()), (-1, revision + 1));
}

async fn progress_is_told_now_and_then_to_those_who_want_it(setup: Setup) {
    let flag = if setup.is_etcd() {
        "--experimental-watch-progress-notify-interval=100ms"
    } else {
        "--watch-progress-notify-interval=100ms"
    };
    let server = setup.flag(flag).start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { watch_id: 1, ..watch("k", "") }).await;
    stream.create(WatchCreateRequest { watch_id: 2, progress_notify: true, ..watch("k", "") }).await;
    let revision = api.put("other", "1").await;
    loop {
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (2, 0));
        if progress.header.expect("a header").revision == revision {
            break;
        }
    }
    api.put("k", "1").await;
    let mut told = Vec::new();
    while told.len() < 2 {
        let response = stream.next().await;
        told.extend(response.events.iter().map(|event| (response.watch_id, shown(event))));
    }
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.header.expect("a header").revision), (2, revision + 1));
}

/// A cache that believes a progress answer would miss an event that came after it with a lower revision.
async fn progress_never_runs_ahead_of_events(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let writer = tokio::spawn({
        let api = api.clone();
        async move {
            for round in 0..600 {
                api.put_with(put("k", &format!("{round}"))).await.expect("put");
            }
        }
    });
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { start_revision: 1, ..watch("k", "") }).await;
    let (mut seen, mut promised, mut answers) = (1, 0, 0);
    while seen < 601 {
        stream.ask_progress().await;
        let response = stream.next().await;
        for event in &response.events {
            let revision = event.kv.as_ref().expect("a pair").mod_revision;
            assert_eq!(revision, seen + 1);
            assert!(revision > promised, "{revision} came after progress had promised {promised}");
            seen = revision;
        }
        if response.events.is_empty() {
            promised = response.header.expect("a header").revision;
            assert!(promised <= seen, "promised {promised} with events only to {seen}");
            answers += 1;
        }
    }
    writer.await.expect("the writer ends");
    assert!(answers > 0);
}

async fn progress_is_not_told_while_a_watcher_waits_for_the_future(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut empty = api.watch_stream();
    empty.ask_progress().await;
    empty.create(watch("k", "")).await;

    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { start_revision: 4, ..watch("k", "") }).await;
    stream.ask_progress().await;
    stream.cancel(0).await;
    assert!(stream.next().await.canceled, "nothing came before the answer to the cancel");
    stream.create(watch("k", "")).await;
    stream.ask_progress().await;
    assert_eq!(stream.next().await.watch_id, -1);
}
