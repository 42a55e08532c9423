//! What one watcher is told.

use crate::harness::grpc::{delete_op, put, put_op, shown, text, watch};
use crate::harness::{Setup, for_each_backend};
use castd_proto::etcdserverpb::{PutRequest, WatchCreateRequest, watch_create_request::FilterType};
use etcd_client::{EventType, PutOptions, WatchFilterType, WatchOptions};

for_each_backend!(
    the_client_crate_sees_puts_and_deletes_as_they_happen,
    a_watch_from_a_revision_gets_everything_since_in_order,
    ranges_of_every_kind_can_be_watched,
    filters_leave_events_out,
    the_previous_pair_comes_along_when_asked_for,
    a_delete_event_names_only_key_and_revision,
    a_start_in_the_future_is_silent_until_then,
    a_watch_below_the_compacted_revision_is_cancelled,
    large_responses_are_fragmented_when_asked_for,
    catching_up_and_live_events_meet_without_a_seam,
);

async fn the_client_crate_sees_puts_and_deletes_as_they_happen(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    client.put("k", "before", None).await.expect("put");
    let options = WatchOptions::new().with_prev_key();
    let mut stream = client.watch("k", Some(options)).await.expect("watching");
    let created = stream.message().await.expect("goes on").expect("a response");
    assert!(created.created() && created.events().is_empty());
    assert_eq!((created.watch_id(), created.header().expect("a header").revision()), (0, 2));

    client.put("other", "x", None).await.expect("put");
    client.put("k", "one", Some(PutOptions::new())).await.expect("put");
    client.delete("k", None).await.expect("deleted");
    let response = stream.message().await.expect("goes on").expect("a response");
    assert_eq!(response.header().expect("a header").revision(), 4);
    let event = &response.events()[0];
    assert_eq!((response.events().len(), event.event_type()), (1, EventType::Put));
    assert_eq!(event.kv().expect("a pair").value(), b"one");
    assert_eq!(event.prev_kv().expect("asked for").value(), b"before");
    let response = stream.message().await.expect("goes on").expect("a response");
    let event = &response.events()[0];
    assert_eq!(event.event_type(), EventType::Delete);
    assert_eq!(event.prev_kv().expect("asked for").value(), b"one");

    let mut only_deletes = client
        .watch("k", Some(WatchOptions::new().with_filters([WatchFilterType::NoPut]).with_start_revision(1)))
        .await
        .expect("watching");
    only_deletes.message().await.expect("goes on").expect("created");
    let response = only_deletes.message().await.expect("goes on").expect("a response");
    assert_eq!(response.events()[0].event_type(), EventType::Delete);

    stream.cancel(0).await.expect("sent");
    let cancelled = stream.message().await.expect("goes on").expect("a response");
    assert!(cancelled.canceled() && cancelled.cancel_reason().is_empty());
}

async fn a_watch_from_a_revision_gets_everything_since_in_order(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("a", "1").await; // 2
    api.put("b", "1").await; // 3
    api.txn(vec![], vec![put_op("b", "2"), delete_op("a", ""), put_op("c", "1")], vec![]).await.expect("runs"); // 4
    api.delete("b", "d").await.expect("deleted"); // 5
    let expected =
        ["PUT a=1 @2", "PUT b=1 @3", "PUT b=2 @4", "DELETE a @4", "PUT c=1 @4", "DELETE b @5", "DELETE c @5"];
    for (start, skipped) in [(1, 0), (2, 0), (3, 1), (4, 2), (5, 5)] {
        let mut stream = api.watch_stream();
        stream.create(WatchCreateRequest { start_revision: start, ..watch("a", "z") }).await;
        let events = stream.events(expected.len() - skipped).await;
        assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), expected[skipped..], "from {start}");
    }

    let mut live = api.watch_stream();
    live.create(watch("a", "z")).await;
    api.txn(vec![], vec![put_op("y", "1"), put_op("x", "1"), delete_op("nobody", "")], vec![]).await.expect("runs");
    let response = live.next().await;
    let told: Vec<_> = response.events.iter().map(shown).collect();
    assert_eq!(told, ["PUT y=1 @6", "PUT x=1 @6"], "a txn's events come together, in the order of the txn");
    assert_eq!(response.header.expect("a header").revision, 6);
}

async fn ranges_of_every_kind_can_be_watched(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let keys = ["a", "b", "b1", "b2", "c", "\u{7f}"];
    for key in keys {
        api.put(key, "").await;
    }
    for (span, expected) in [
        (("b", ""), &keys[1..2]),
        (("b", "c"), &keys[1..4]),
        (("b1", "\0"), &keys[2..]),
        (("\0", "\0"), &keys[..]),
        (("", "\0"), &keys[..]),
        (("", "b"), &keys[..1]),
    ] {
        let mut stream = api.watch_stream();
        stream.create(WatchCreateRequest { start_revision: 1, ..watch(span.0, span.1) }).await;
        let events = stream.events(expected.len()).await;
        let found: Vec<_> = events.iter().map(|event| event.kv.as_ref().expect("a pair").key.clone()).collect();
        assert_eq!(found, expected, "{span:?}");
    }
}

async fn filters_leave_events_out(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    let filtered = |watch_id, filters: &[FilterType]| {
        let filters = filters.iter().map(|filter| i32::from(*filter)).collect();
        WatchCreateRequest { watch_id, filters, ..watch("k", "") }
    };
    stream.create(filtered(1, &[FilterType::Noput])).await;
    stream.create(filtered(2, &[FilterType::Nodelete])).await;
    stream.create(filtered(3, &[FilterType::Noput, FilterType::Nodelete])).await;
    stream.create(filtered(4, &[])).await;
    api.put("k", "1").await;
    api.delete("k", "").await.expect("deleted");
    api.put("k", "2").await;
    let mut told = Vec::new();
    for _ in 0..6 {
        let response = stream.next().await;
        assert!(!response.events.is_empty(), "nothing is sent about nothing");
        told.extend(response.events.iter().map(|event| (response.watch_id, shown(event))));
    }
    told.sort();
    let expected = [
        (1, "DELETE k @3"),
        (2, "PUT k=1 @2"),
        (2, "PUT k=2 @4"),
        (4, "DELETE k @3"),
        (4, "PUT k=1 @2"),
        (4, "PUT k=2 @4"),
    ];
    assert_eq!(told, expected.map(|(id, event)| (id, event.to_owned())));
}

async fn the_previous_pair_comes_along_when_asked_for(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("k", "1").await; // 2
    api.put("k", "2").await; // 3
    api.delete("k", "").await.expect("deleted"); // 4
    api.put("k", "3").await; // 5
    let previous = |events: &[castd_proto::mvccpb::Event]| {
        events
            .iter()
            .map(|event| event.prev_kv.as_ref().map(|kv| (kv.value.clone(), kv.mod_revision)))
            .collect::<Vec<_>>()
    };
    let mut stream = api.watch_stream();
    let request = WatchCreateRequest { start_revision: 1, prev_kv: true, ..watch("k", "") };
    stream.create(request.clone()).await;
    let events = stream.events(4).await;
    assert_eq!(previous(&events), [None, Some(("1".into(), 2)), Some(("2".into(), 3)), None]);
    api.put("k", "4").await; // 6
    assert_eq!(previous(&stream.events(1).await), [Some(("3".into(), 5))]);

    let mut without = api.watch_stream();
    without.create(WatchCreateRequest { prev_kv: false, ..request.clone() }).await;
    assert_eq!(previous(&without.events(5).await), vec![None; 5]);

    // What a compaction took cannot be shown.
    api.compact(3, true).await.expect("compacted");
    let mut late = api.watch_stream();
    late.create(WatchCreateRequest { start_revision: 3, ..request }).await;
    assert_eq!(previous(&late.events(4).await), [None, Some(("2".into(), 3)), None, Some(("3".into(), 5))]);
}

async fn a_delete_event_names_only_key_and_revision(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.grant(9, 3_600).await.expect("granted");
    let mut stream = api.watch_stream();
    stream.create(watch("k", "")).await;
    api.put_with(PutRequest { lease: 9, ..put("k", "v") }).await.expect("put");
    api.delete("k", "").await.expect("deleted");
    let events = stream.events(2).await;
    let kv = events[0].kv.clone().expect("a pair");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 2, 1, 9));
    let kv = events[1].kv.clone().expect("a pair");
    let expected = castd_proto::mvccpb::KeyValue { key: "k".into(), mod_revision: 3, ..Default::default() };
    assert_eq!(kv, expected);
}

async fn a_start_in_the_future_is_silent_until_then(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    let created = stream.create(WatchCreateRequest { start_revision: 5, ..watch("k", "") }).await;
    assert_eq!(created.header.expect("a header").revision, 1);
    stream.create(WatchCreateRequest { watch_id: 7, ..watch("last", "") }).await;
    for value in ["2", "3", "4", "5", "6"] {
        api.put("k", value).await;
    }
    api.put("last", "7").await;
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "PUT last=7 @7") {
        told.extend(stream.next().await.events.iter().map(shown));
    }
    // etcd 3.4.23 is older than the fix of early notifications (3.4.38).
    let expected = ["PUT k=5 @5", "PUT k=6 @6", "PUT last=7 @7"];
    if server.setup.is_etcd() {
        assert!(told.ends_with(&expected.map(str::to_owned)), "{told:?}");
    } else {
        assert_eq!(told, expected);
    }
}

async fn a_watch_below_the_compacted_revision_is_cancelled(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for value in ["2", "3", "4", "5"] {
        api.put("k", value).await;
    }
    api.compact(4, true).await.expect("compacted");
    let mut stream = api.watch_stream();
    for start_revision in [1, 3] {
        let created = stream.create(WatchCreateRequest { start_revision, ..watch("k", "") }).await;
        assert!(!created.canceled, "that is told separately");
        let cancelled = stream.next().await;
        assert_eq!((cancelled.watch_id, cancelled.canceled), (created.watch_id, true), "{cancelled:?}");
        assert_eq!((cancelled.compact_revision, cancelled.cancel_reason.as_str()), (4, ""));
        assert!(cancelled.events.is_empty() && !cancelled.created);
        assert_eq!(cancelled.header.expect("a header").revision, 0);
        // The client learns it once more if it cancels, as it may have before it knew.
        stream.cancel(created.watch_id).await;
        let again = stream.next().await;
        assert_eq!((again.watch_id, again.canceled, again.compact_revision), (created.watch_id, true, 0));
    }
    let served = stream.create(WatchCreateRequest { start_revision: 4, ..watch("k", "") }).await;
    let events = stream.events(2).await;
    assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), ["PUT k=4 @4", "PUT k=5 @5"]);
    assert_eq!(served.watch_id, 2);

    if !server.setup.is_etcd() {
        stream
            .send(castd_proto::etcdserverpb::watch_request::RequestUnion::CreateRequest(WatchCreateRequest {
                start_revision: -1,
                ..watch("k", "")
            }))
            .await;
        let refusal = stream.next().await;
        assert!(refusal.created && refusal.canceled, "{refusal:?}");
        assert_eq!((refusal.watch_id, refusal.compact_revision), (-1, 0));
        assert_eq!(refusal.cancel_reason, text::COMPACTED);
        assert_eq!(refusal.header.expect("a header").revision, 5);
    }
}

async fn large_responses_are_fragmented_when_asked_for(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let value = "v".repeat(700_000);
    for index in 0..8 {
        api.put(&format!("k{index}"), &value).await;
    }
    let request = WatchCreateRequest { start_revision: 1, ..watch("k", "l") };
    let mut whole = api.watch_stream();
    whole.create(request.clone()).await;
    let response = whole.next().await;
    assert_eq!((response.events.len(), response.fragment), (8, false), "one response, however large");

    let mut fragmented = api.watch_stream();
    fragmented.create(WatchCreateRequest { fragment: true, ..request }).await;
    let mut pieces = Vec::new();
    loop {
        let piece = fragmented.next().await;
        let bytes: usize = piece.events.iter().map(|event| event.kv.as_ref().expect("a pair").value.len()).sum();
        assert!(bytes < 2_097_152, "{bytes} in a fragment");
        assert!(!piece.events.is_empty());
        let goes_on = piece.fragment;
        pieces.push(piece);
        if !goes_on {
            break;
        }
    }
    assert!(pieces.len() > 2, "{} pieces", pieces.len());
    let revisions: Vec<_> = pieces
        .iter()
        .flat_map(|piece| &piece.events)
        .map(|event| event.kv.as_ref().expect("a pair").mod_revision)
        .collect();
    assert_eq!(revisions, (2..10).collect::<Vec<_>>());
}

async fn catching_up_and_live_events_meet_without_a_seam(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    const REVISIONS: i64 = 1_500;
    let writer = tokio::spawn({
        let api = api.clone();
        async move {
            for round in 0..REVISIONS {
                api.put(&format!("k{}", round % 10), &format!("{round}")).await;
            }
        }
    });
    let mut watchers = tokio::task::JoinSet::new();
    while !writer.is_finished() {
        let revision = api.revision().await;
        for start_revision in [1, revision / 2 + 1, revision, revision + 10] {
            if watchers.len() >= 60 || start_revision > REVISIONS {
                continue;
            }
            let api = api.clone();
            watchers.spawn(async move {
                let mut stream = api.watch_stream();
                stream.create(WatchCreateRequest { start_revision, ..watch("k", "l") }).await;
                let first = start_revision.max(2);
                let events = stream.events((REVISIONS + 2 - first) as usize).await;
                for (event, revision) in events.iter().zip(first..) {
                    let expected = format!("PUT k{}={} @{revision}", (revision - 2) % 10, revision - 2);
                    assert_eq!(shown(event), expected, "watching from {start_revision}");
                }
            });
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    writer.await.expect("the writer ends");
    assert!(watchers.len() > 4);
    watchers.join_all().await;
}
