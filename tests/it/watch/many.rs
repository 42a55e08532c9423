//! Many watchers on a stream, many streams, and clients that do not read.

use crate::harness::grpc::{shown, watch};
use crate::harness::{Setup, for_each_backend};
use castd_proto::etcdserverpb::WatchCreateRequest;
use std::collections::BTreeMap;

for_each_backend!(
    a_thousand_watchers_on_one_stream_each_get_their_events_once,
    a_client_that_does_not_read_holds_up_nobody_and_loses_nothing,
    the_client_crate_may_put_several_watchers_on_one_stream,
);

async fn a_thousand_watchers_on_one_stream_each_get_their_events_once(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    for index in 0..1_000_i64 {
        // Each key has ten watchers, one of them from the beginning.
        let start_revision = i64::from(index % 10 == 0);
        let created = stream.create(WatchCreateRequest { start_revision, ..watch(&format!("k{}", index / 10), "") });
        assert_eq!(created.await.watch_id, index);
    }
    for round in 0..3 {
        for key in 0..100 {
            api.put(&format!("k{key}"), &format!("{round}")).await;
        }
    }
    let mut told: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for _ in 0..3_000 {
        if told.values().map(Vec::len).sum::<usize>() == 3_000 {
            break;
        }
        let response = stream.next().await;
        told.entry(response.watch_id).or_default().extend(response.events.iter().map(shown));
    }
    assert_eq!(told.len(), 1_000);
    for (watcher, events) in told {
        let key = watcher / 10;
        let expected: Vec<_> = (0..3).map(|round| format!("PUT k{key}={round} @{}", 2 + round * 100 + key)).collect();
        assert_eq!(events, expected, "watcher {watcher}");
    }
}

async fn a_client_that_does_not_read_holds_up_nobody_and_loses_nothing(setup: Setup) {
    let server = setup.start();
    let (api, slow_api) = (server.api(), server.api());
    let mut slow = slow_api.watch_stream();
    slow.create(watch("k", "l")).await;
    let mut fast = api.watch_stream();
    fast.create(watch("k", "l")).await;
    let value = "v".repeat(100_000);
    const ROUNDS: usize = 300;
    for round in 0..ROUNDS {
        api.put(&format!("k{round}"), &value).await;
        // The fast one is never behind, although the slow one has 30 MB waiting in the end.
        let event = &fast.events(1).await[0];
        assert_eq!(event.kv.as_ref().expect("a pair").key, format!("k{round}"));
    }
    let events = slow.events(ROUNDS).await;
    for (round, event) in events.iter().enumerate() {
        let kv = event.kv.as_ref().expect("a pair");
        assert_eq!((kv.key.as_ref(), kv.mod_revision), (format!("k{round}").as_bytes(), round as i64 + 2));
    }
}

async fn the_client_crate_may_put_several_watchers_on_one_stream(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    let mut stream = client.watch("a", None).await.expect("watching");
    assert_eq!(stream.message().await.expect("goes on").expect("created").watch_id(), 0);
    for (key, id) in [("b", 1), ("c", 2)] {
        stream.watch(key, None).await.expect("sent");
        let created = stream.message().await.expect("goes on").expect("a response");
        assert!(created.created());
        assert_eq!(created.watch_id(), id);
    }
    for (key, id) in [("b", 1), ("a", 0), ("c", 2)] {
        client.put(key, "1", None).await.expect("put");
        let response = stream.message().await.expect("goes on").expect("a response");
        assert_eq!((response.watch_id(), response.events().len()), (id, 1));
    }
    stream.cancel(1).await.expect("sent");
    assert!(stream.message().await.expect("goes on").expect("a response").canceled());
    client.put("b", "2", None).await.expect("put");
    client.put("c", "2", None).await.expect("put");
    assert_eq!(stream.message().await.expect("goes on").expect("a response").watch_id(), 2);
}
