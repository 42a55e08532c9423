//! Leases: granting, keeping, revoking, running out.

use crate::harness::grpc::{put, shown, text, watch};
use crate::harness::{KeepAlive, Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::{PutRequest, WatchCreateRequest};
use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions};
use std::time::{Duration, Instant};
use tonic::Code;

for_each_backend!(
    the_client_crate_grants_keeps_asks_after_and_revokes,
    ids_and_times_are_granted_within_bounds,
    the_default_timing_makes_two_seconds_the_least,
    revoking_deletes_the_keys_in_one_revision,
    a_key_belongs_to_the_lease_it_was_put_with_last,
    keep_alives_are_answered_one_by_one_even_for_leases_that_are_not,
    a_lease_runs_out_in_its_time_and_not_before,
    a_lease_that_is_kept_alive_stays,
    many_leases_may_run_out_at_once,
);

async fn the_client_crate_grants_keeps_asks_after_and_revokes(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    let granted = client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(123))).await.expect("granted");
    assert_eq!((granted.id(), granted.ttl(), granted.error()), (123, 600, ""));
    assert_eq!(granted.header().expect("a header").revision(), 1, "a lease makes no revision");
    for key in ["b", "a"] {
        client.put(key, "1", Some(PutOptions::new().with_lease(123))).await.expect("put");
    }
    let options = Some(LeaseTimeToLiveOptions::new().with_keys());
    let answer = client.lease_time_to_live(123, options).await.expect("answered");
    assert_eq!((answer.id(), answer.granted_ttl()), (123, 600));
    assert!((597..600).contains(&answer.ttl()), "{} of 600 s are left", answer.ttl());
    let mut keys = answer.keys().to_vec();
    keys.sort();
    assert_eq!(keys, [b"a".to_vec(), b"b".to_vec()]);
    assert!(client.lease_time_to_live(123, None).await.expect("answered").keys().is_empty());

    let (mut keeper, mut answers) = client.lease_keep_alive(123).await.expect("a stream opens");
    for _ in 0..2 {
        keeper.keep_alive().await.expect("sent");
        let answer = answers.message().await.expect("goes on").expect("an answer");
        assert_eq!((answer.id(), answer.ttl()), (123, 600));
    }
    let leases = client.leases().await.expect("listed");
    assert_eq!(leases.leases().iter().map(|lease| lease.id()).collect::<Vec<_>>(), [123]);

    let revoked = client.lease_revoke(123).await.expect("revoked");
    assert_eq!(revoked.header().expect("a header").revision(), 4);
    assert_eq!(client.get("a", None).await.expect("read").count(), 0);
    refused(client.lease_revoke(123).await, Code::NotFound, text::LEASE_NOT_FOUND);
    let gone = client.lease_time_to_live(123, None).await.expect("not an error");
    assert_eq!((gone.id(), gone.ttl(), gone.granted_ttl()), (123, -1, 0));
    assert!(client.leases().await.expect("listed").leases().is_empty());
}

async fn ids_and_times_are_granted_within_bounds(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let (one, other) = (api.grant(0, 100).await.expect("granted").id, api.grant(0, 100).await.expect("granted").id);
    assert!(one > 0 && other > 0 && one != other);
    for id in [1, i64::MAX, -7, i64::MIN] {
        assert_eq!(api.grant(id, 100).await.expect("granted").id, id);
        refused(api.grant(id, 100).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    }
    let mut expected = vec![one, other, 1, i64::MAX, -7, i64::MIN];
    expected.sort_unstable();
    assert_eq!(api.leases().await, expected);

    assert_eq!(api.grant(50, 9_000_000_000).await.expect("285 years").ttl, 9_000_000_000);
    refused(api.grant(51, 9_000_000_001).await, Code::OutOfRange, "etcdserver: too large lease TTL");
    refused(api.grant(51, i64::MAX).await, Code::OutOfRange, "etcdserver: too large lease TTL");
    for (id, ttl) in [(60, 0), (61, -1), (62, i64::MIN), (63, 1)] {
        assert_eq!(api.grant(id, ttl).await.expect("raised").ttl, 1, "one and a half elections of 100 ms, in seconds");
    }
    refused(api.revoke(404).await, Code::NotFound, text::LEASE_NOT_FOUND);
    refused(api.revoke(0).await, Code::NotFound, text::LEASE_NOT_FOUND);
    assert_eq!(api.revision().await, 1);
}

async fn the_default_timing_makes_two_seconds_the_least(setup: Setup) {
    let server = setup.default_timing().start();
    let api = server.api();
    assert_eq!(api.grant(1, 1).await.expect("raised").ttl, 2);
    assert_eq!(api.grant(2, 3).await.expect("granted").ttl, 3);
}

async fn revoking_deletes_the_keys_in_one_revision(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.grant(1, 600).await.expect("granted");
    api.grant(2, 600).await.expect("granted");
    for key in ["k3", "k1", "k2"] {
        api.put_with(PutRequest { lease: 1, ..put(key, "v") }).await.expect("put");
    }
    api.put("k4", "v").await; // 5
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { prev_kv: true, ..watch("k", "l") }).await;
    assert_eq!(api.revoke(1).await.expect("revoked").header.expect("a header").revision, 6);
    let response = stream.next().await;
    let told: Vec<_> = response.events.iter().map(shown).collect();
    assert_eq!(told, ["DELETE k1 @6", "DELETE k2 @6", "DELETE k3 @6"]);
    assert!(response.events.iter().all(|event| event.prev_kv.as_ref().is_some_and(|kv| kv.lease == 1)));
    assert_eq!(api.revoke(2).await.expect("revoked").header.expect("a header").revision, 6, "there was nothing to do");
    refused(api.put_with(PutRequest { lease: 1, ..put("k", "v") }).await, Code::NotFound, text::LEASE_NOT_FOUND);
}

async fn a_key_belongs_to_the_lease_it_was_put_with_last(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for lease in [1, 2] {
        api.grant(lease, 600).await.expect("granted");
    }
    let keys = async |lease| api.time_to_live(lease).await.keys;
    for key in ["a", "b", "c", "d"] {
        api.put_with(PutRequest { lease: 1, ..put(key, "v") }).await.expect("put");
    }
    api.put_with(PutRequest { lease: 2, ..put("a", "v") }).await.expect("put");
    api.put("b", "v").await;
    api.delete("c", "").await.expect("deleted");
    assert_eq!((keys(1).await, keys(2).await), (vec!["d".into()], vec!["a".into()]));
    api.revoke(1).await.expect("revoked");
    assert!(api.get("d").await.is_none() && api.get("b").await.is_some());
    api.put("c", "again").await;
    assert_eq!(api.get("a").await.expect("there").lease, 2);
}

async fn keep_alives_are_answered_one_by_one_even_for_leases_that_are_not(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for (id, ttl) in [(1, 100), (2, 200)] {
        api.grant(id, ttl).await.expect("granted");
    }
    let mut stream = KeepAlive::open(&api, 1).await;
    for id in [2, 404, 1, 0, 2] {
        stream.send(id).await;
    }
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(stream.answer().await);
    }
    assert_eq!(answers, [(1, 100), (2, 200), (404, 0), (1, 100), (0, 0), (2, 200)]);
    api.revoke(2).await.expect("revoked");
    stream.send(2).await;
    assert_eq!(stream.answer().await, (2, 0));
    let KeepAlive { requests, mut answers } = stream;
    drop(requests);
    assert!(answers.message().await.expect("a clean end").is_none());
}

async fn a_lease_runs_out_in_its_time_and_not_before(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut stream = api.watch_stream();
    stream.create(watch("k", "l")).await;
    let granted = Instant::now();
    for (lease, ttl) in [(1, 1), (2, 2)] {
        assert_eq!(api.grant(lease, ttl).await.expect("granted").ttl, ttl);
        for key in ["b", "a"] {
            api.put_with(PutRequest { lease, ..put(&format!("k{lease}{key}"), "v") }).await.expect("put");
        }
    }
    stream.events(4).await;
    for (lease, revision) in [(1, 6), (2, 7)] {
        let response = stream.next().await;
        let waited = granted.elapsed();
        let told: Vec<_> = response.events.iter().map(shown).collect();
        assert_eq!(told, [format!("DELETE k{lease}a @{revision}"), format!("DELETE k{lease}b @{revision}")]);
        assert!(waited >= Duration::from_secs(lease), "lease {lease} was gone after {waited:?}");
        assert!(waited < Duration::from_secs(lease + 5), "lease {lease} was gone only after {waited:?}");
        assert_eq!(api.time_to_live(lease as i64).await.ttl, -1);
    }
    assert!(api.leases().await.is_empty());
    refused(api.revoke(1).await, Code::NotFound, text::LEASE_NOT_FOUND);
}

async fn a_lease_that_is_kept_alive_stays(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.grant(1, 2).await.expect("granted");
    api.put_with(PutRequest { lease: 1, ..put("k", "v") }).await.expect("put");
    let mut stream = KeepAlive::open(&api, 1).await;
    let started = Instant::now();
    let mut kept = started;
    assert_eq!(stream.answer().await, (1, 2));
    // Longer than two whole lives.
    while started.elapsed() < Duration::from_millis(4_500) {
        tokio::time::sleep(Duration::from_millis(400)).await;
        kept = Instant::now();
        stream.send(1).await;
        assert_eq!(stream.answer().await, (1, 2));
        assert!(api.get("k").await.is_some());
    }
    let mut watcher = api.watch_stream();
    watcher.create(watch("k", "")).await;
    let event = shown(&watcher.events(1).await[0]);
    assert!(event.starts_with("DELETE k"), "{event}");
    assert!(kept.elapsed() >= Duration::from_secs(2), "gone {:?} after the last keep-alive", kept.elapsed());
    stream.send(1).await;
    assert_eq!(stream.answer().await, (1, 0));
}

async fn many_leases_may_run_out_at_once(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    const LEASES: i64 = 300;
    let mut granting = tokio::task::JoinSet::new();
    for lease in 1..=LEASES {
        let api = api.clone();
        granting.spawn(async move {
            api.grant(lease, 1).await.expect("granted");
            api.put_with(PutRequest { lease, ..put(&format!("k{lease}"), "v") }).await.expect("put");
        });
    }
    granting.join_all().await;
    let mut stream = api.watch_stream();
    stream.create(WatchCreateRequest { start_revision: 1, ..watch("k", "l") }).await;
    let events = stream.events(2 * LEASES as usize).await;
    let deleted: std::collections::BTreeSet<_> = events
        .iter()
        .filter(|event| event.r#type == 1)
        .map(|event| event.kv.as_ref().expect("a pair"))
        .map(|kv| (kv.key.clone(), kv.mod_revision))
        .collect();
    assert_eq!(deleted.len(), LEASES as usize);
    let revisions: std::collections::BTreeSet<_> = deleted.iter().map(|(_, revision)| *revision).collect();
    assert_eq!(revisions.len(), LEASES as usize, "one revision for each lease");
    assert!(api.leases().await.is_empty());
}
