//! The Lock service: one holder at a time, whatever becomes of those who hold and those who wait.

use crate::harness::grpc::{put, range, text};
use crate::harness::{Api, Server, Setup, for_each_backend, http_get, refused, wait_for};
use castd_proto::etcdserverpb::{PutRequest, RangeRequest};
use castd_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use etcd_client::LockOptions;
use prost::Message;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Code, Request, Status};

for_each_backend!(
    twenty_contenders_count_without_losing_one,
    a_lock_is_a_key_of_its_lease_and_goes_with_unlock,
    without_a_lease_the_server_grants_one,
    locking_again_with_the_same_lease_returns_at_once,
    what_cannot_be_locked_is_refused_without_a_code,
    a_holder_whose_session_expires_loses_the_lock_to_the_next_in_line,
    a_revoked_lease_lets_the_next_one_in,
    whoever_gives_up_leaves_the_queue,
    etcdctl_and_the_service_stand_in_one_queue,
);
for_each_backend!(castd:
    a_waiter_whose_session_expires_is_told_at_once_and_never_gets_the_lock,
    history_may_be_compacted_while_somebody_waits,
    a_deadline_is_kept_even_if_nobody_is_there_to_say_so,
    a_server_that_stops_says_so_and_keeps_the_places,
    a_thousand_wait_and_go_without_a_trace,
);

const PATIENCE: Duration = Duration::from_secs(30);
const EXPIRED: &str = "mutex: session is expired";

async fn lock(api: &Api, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest { name: name.to_owned().into(), lease };
    api.lock.clone().lock(request).await.map(tonic::Response::into_inner)
}

/// Locks in the background, and returns when it stands in the queue.
async fn wait_in_line(api: &Api, name: &str, lease: i64) -> JoinHandle<Result<LockResponse, Status>> {
    let prefix = format!("{name}/");
    let before = api.count(&prefix).await;
    let waiting = {
        let (api, name) = (api.clone(), name.to_owned());
        tokio::spawn(async move { lock(&api, &name, lease).await })
    };
    api.wait_for_count(&prefix, before + 1).await;
    waiting
}

async fn unlock(api: &Api, locked: &LockResponse) -> i64 {
    let answer = api.lock.clone().unlock(UnlockRequest { key: locked.key.clone() }).await.expect("unlocked");
    answer.into_inner().header.expect("a header").revision
}

async fn granted(api: &Api, ttl: i64) -> i64 {
    api.grant(0, ttl).await.expect("granted").id
}

/// What came of waiting.
async fn outcome(waiting: JoinHandle<Result<LockResponse, Status>>) -> Result<LockResponse, Status> {
    tokio::time::timeout(PATIENCE, waiting).await.expect("the wait ends").expect("no panic")
}

async fn twenty_contenders_count_without_losing_one(setup: Setup) {
    const CONTENDERS: usize = 20;
    const ROUNDS: usize = 3;
    let server = setup.start();
    let holders = Arc::new(AtomicUsize::new(0));
    let mut contenders = JoinSet::new();
    for _ in 0..CONTENDERS {
        let (mut client, holders) = (server.client().await, holders.clone());
        contenders.spawn(async move {
            let lease = client.lease_grant(600, None).await.expect("granted").id();
            for _ in 0..ROUNDS {
                let options = LockOptions::new().with_lease(lease);
                let locked = client.lock("counter lock", Some(options)).await.expect("locked");
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two holders at one time");
                let read = client.get("counter", None).await.expect("read");
                let count: usize = read.kvs().first().map_or(0, |kv| kv.value_str().expect("text").parse().unwrap());
                client.put("counter", (count + 1).to_string(), None).await.expect("written");
                assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                client.unlock(locked.key()).await.expect("unlocked");
            }
        });
    }
    contenders.join_all().await;
    let api = server.api();
    let counted = api.get("counter").await.expect("written").value;
    assert_eq!(counted, (CONTENDERS * ROUNDS).to_string());
    assert_eq!(api.count("counter lock/").await, 0);
}

async fn a_lock_is_a_key_of_its_lease_and_goes_with_unlock(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.grant(0xbeef, 600).await.expect("granted");
    api.grant(-255, 600).await.expect("granted");
    let locked = lock(&api, "l", 0xbeef).await.expect("locked");
    assert_eq!(locked.key, "l/beef");
    assert_eq!(locked.header.expect("a header").revision, 2, "that of the put");
    let kv = api.get("l/beef").await.expect("there");
    assert_eq!((kv.value.len(), kv.lease, kv.create_revision), (0, 0xbeef, 2));

    let waiting = wait_in_line(&api, "l", -255).await;
    assert_eq!(unlock(&api, &locked).await, 4);
    let other = outcome(waiting).await.expect("locked");
    assert_eq!(other.key, "l/-ff");
    assert_eq!(other.header.expect("a header").revision, 4, "that of the read that saw the lock free");
    assert_eq!(unlock(&api, &other).await, 5);
    // An unlock of nothing, or of what is another's now, changes nothing.
    assert_eq!(unlock(&api, &other).await, 5);
    assert_eq!(api.count("l/").await, 0);
    assert_eq!(api.leases().await, [-255, 0xbeef], "leases are the caller's business");
}

async fn without_a_lease_the_server_grants_one(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let locked = lock(&api, "l", 0).await.expect("locked");
    let kv = api.get("l/").await;
    assert!(kv.is_none());
    let leases = api.leases().await;
    assert_eq!(leases.len(), 1);
    assert_eq!(locked.key, format!("l/{:x}", leases[0]));
    assert_eq!(api.time_to_live(leases[0]).await.granted_ttl, 60);
    let waiting = wait_in_line(&api, "l", 0).await;
    api.revoke(leases[0]).await.expect("revoked");
    let other = outcome(waiting).await.expect("locked");
    assert_ne!(other.key, locked.key);
}

async fn locking_again_with_the_same_lease_returns_at_once(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let lease = granted(&api, 600).await;
    let first = lock(&api, "l", lease).await.expect("locked");
    let again = lock(&api, "l", lease).await.expect("locked");
    assert_eq!(first.key, again.key);
    assert_eq!(again.header.expect("a header").revision, 2, "nothing was written");
    // The lock of another name is another lock.
    lock(&api, "m", lease).await.expect("locked");
    // Giving up a second call does not give up the lock.
    let behind = granted(&api, 600).await;
    let waiting = wait_in_line(&api, "l", behind).await;
    drop(tokio::time::timeout(Duration::ZERO, lock(&api, "l", lease)).await);
    assert_eq!(lock(&api, "l", lease).await.expect("locked").key, first.key);
    assert!(!waiting.is_finished());
    unlock(&api, &first).await;
    outcome(waiting).await.expect("locked");
}

async fn what_cannot_be_locked_is_refused_without_a_code(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    refused(lock(&api, "l", 404).await, Code::Unknown, text::LEASE_NOT_FOUND);
    refused(lock(&api, &"l".repeat(3 << 19), granted(&api, 600).await).await, Code::Unknown, text::TOO_LARGE);
    let nothing = UnlockRequest { key: "".into() };
    refused(api.lock.clone().unlock(nothing).await, Code::Unknown, text::EMPTY_KEY);
    assert_eq!(api.revision().await, 1);
    // A name may be empty, or not be text.
    lock(&api, "", granted(&api, 600).await).await.expect("locked");
    let request = LockRequest { name: vec![0xff, 0xff, 0x00].into(), lease: 0 };
    let locked = api.lock.clone().lock(request).await.expect("locked").into_inner();
    assert!(locked.key.starts_with(&[0xff, 0xff, 0x00, b'/']));
}

async fn a_holder_whose_session_expires_loses_the_lock_to_the_next_in_line(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let holder = granted(&api, 1).await;
    let started = Instant::now();
    let lost = lock(&api, "l", holder).await.expect("locked");
    let next = wait_in_line(&api, "l", granted(&api, 600).await).await;
    let last = wait_in_line(&api, "l", granted(&api, 600).await).await;
    let owner = outcome(next).await.expect("locked");
    assert!(started.elapsed() >= Duration::from_secs(1), "taken from a live session");

    // The former holder can neither take it back nor release it for the new one.
    refused(lock(&api, "l", holder).await, Code::Unknown, text::LEASE_NOT_FOUND);
    unlock(&api, &lost).await;
    assert!(api.get(std::str::from_utf8(&owner.key).expect("text")).await.is_some());
    assert_eq!(api.count("l/").await, 2);
    assert!(!last.is_finished(), "two holders");
    unlock(&api, &owner).await;
    outcome(last).await.expect("locked");
}

async fn a_revoked_lease_lets_the_next_one_in(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let holder = granted(&api, 600).await;
    lock(&api, "l", holder).await.expect("locked");
    let next = wait_in_line(&api, "l", granted(&api, 600).await).await;
    let revoked = api.revoke(holder).await.expect("revoked").header.expect("a header").revision;
    assert_eq!(outcome(next).await.expect("locked").header.expect("a header").revision, revoked);
}

async fn whoever_gives_up_leaves_the_queue(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let locked = lock(&api, "l", granted(&api, 600).await).await.expect("locked");
    let patient = granted(&api, 600).await;
    // A call that is cancelled, …
    let cancelled = wait_in_line(&api, "l", granted(&api, 600).await).await;
    cancelled.abort();
    api.wait_for_count("l/", 1).await;
    // … one that runs into its deadline, …
    let (mut client, lease) = (api.lock.clone(), granted(&api, 600).await);
    let mut request = Request::new(LockRequest { name: "l".into(), lease });
    request.set_timeout(Duration::from_millis(300));
    assert!(client.lock(request).await.is_err());
    api.wait_for_count("l/", 1).await;
    // … and one whose connection is gone.
    let (url, lease) = (server.setup.client_url(), granted(&api, 600).await);
    let elsewhere = tokio::runtime::Runtime::new().expect("a runtime starts");
    elsewhere.spawn(async move {
        let options = LockOptions::new().with_lease(lease);
        etcd_client::Client::connect([url], None).await.expect("connected").lock("l", Some(options)).await
    });
    api.wait_for_count("l/", 2).await;
    let waiting = wait_in_line(&api, "l", patient).await;
    elsewhere.shutdown_background();
    api.wait_for_count("l/", 2).await;
    assert!(!waiting.is_finished(), "it has jumped the queue");
    unlock(&api, &locked).await;
    outcome(waiting).await.expect("locked");

    if !server.setup.is_etcd() {
        // A lease that the server granted goes with the call that it was granted for. etcd lets it run out.
        let leases = api.leases().await.len();
        let cancelled = wait_in_line(&api, "l", 0).await;
        cancelled.abort();
        api.wait_for_count("l/", 1).await;
        let as_before = async || (api.leases().await.len() == leases).then_some(());
        wait_for("the lease is revoked", PATIENCE, as_before).await;
    }
}

async fn history_may_be_compacted_while_somebody_waits(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let locked = lock(&api, "l", granted(&api, 600).await).await.expect("locked");
    let waiting = wait_in_line(&api, "l", granted(&api, 600).await).await;
    // Releases, compactions and newcomers race: whatever a waiter has missed, it finds out. (etcd tells it that the
    // revision has been compacted.)
    let mut crowd = JoinSet::new();
    for _ in 0..8 {
        let api = api.clone();
        crowd.spawn(async move {
            let lease = granted(&api, 600).await;
            for _ in 0..5 {
                let locked = lock(&api, "m", lease).await.expect("locked");
                let revision = api.put("noise", "").await;
                // Somebody else may have compacted more.
                let _ = api.compact(revision, false).await;
                unlock(&api, &locked).await;
            }
        });
    }
    tokio::time::timeout(PATIENCE, crowd.join_all()).await.expect("nobody waits for ever");
    let revision = api.revision().await;
    assert!(
        api.compact(revision, true).await.is_ok()
            || api.range(RangeRequest { revision: 1, ..range("l", "") }).await.is_err()
    );
    assert!(!waiting.is_finished());
    unlock(&api, &locked).await;
    outcome(waiting).await.expect("locked");
}

async fn etcdctl_and_the_service_stand_in_one_queue(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let holder = server.etcdctl_running(&["lock", "l"]);
    let key = holder.line().expect("the key of the lock");
    assert!(key.starts_with("l/"), "{key}");
    let waiting = wait_in_line(&api, "l", granted(&api, 600).await).await;
    let mut behind = server.etcdctl_running(&["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_KEY; echo done"]);
    api.wait_for_count("l/", 3).await;
    holder.interrupt();
    let locked = outcome(waiting).await.expect("locked");
    unlock(&api, &locked).await;
    assert!(behind.line().expect("the key").starts_with("l/"));
    assert_eq!(behind.line().as_deref(), Some("done"));
    assert_eq!(behind.wait(), 0);
    api.wait_for_count("l/", 0).await;
}

async fn a_waiter_whose_session_expires_is_told_at_once_and_never_gets_the_lock(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let locked = lock(&api, "l", granted(&api, 600).await).await.expect("locked");
    let expiring = granted(&api, 1).await;
    let waiting = wait_in_line(&api, "l", expiring).await;
    let behind = wait_in_line(&api, "l", granted(&api, 600).await).await;
    // The lock is still held: etcd would say this only when it is free.
    refused(outcome(waiting).await, Code::Unknown, EXPIRED);
    assert!(!behind.is_finished());

    // The same when the lease is revoked, and when somebody deletes the key.
    let revoked = granted(&api, 600).await;
    let waiting = wait_in_line(&api, "l", revoked).await;
    api.revoke(revoked).await.expect("revoked");
    refused(outcome(waiting).await, Code::Unknown, EXPIRED);
    let deleted = granted(&api, 600).await;
    let waiting = wait_in_line(&api, "l", deleted).await;
    let key = format!("l/{deleted:x}");
    // Put again at once, with another lease: it is not the place that was lost.
    api.delete(&key, "").await.expect("deleted");
    api.put_with(PutRequest { lease: granted(&api, 600).await, ..put(&key, "") }).await.expect("put");
    refused(outcome(waiting).await, Code::Unknown, EXPIRED);
    assert!(api.get(&key).await.is_some(), "what came later is not deleted with the lost place");
    api.delete(&key, "").await.expect("deleted");
    unlock(&api, &locked).await;
    outcome(behind).await.expect("locked");
}

async fn a_deadline_is_kept_even_if_nobody_is_there_to_say_so(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let locked = lock(&api, "l", granted(&api, 600).await).await.expect("locked");
    let message = LockRequest { name: "l".into(), lease: granted(&api, 600).await }.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    let file = server.directory().join("request");
    std::fs::write(&file, body).expect("written");
    // A client that names a deadline and then waits longer than that.
    let curl = Command::new("curl")
        .args([
            "--silent",
            "--http2-prior-knowledge",
            "--max-time",
            "30",
            "--dump-header",
            "-",
            "--output",
            "/dev/null",
        ])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-timeout: 500m"])
        .arg("--data-binary")
        .arg(format!("@{}", file.display()))
        .arg(format!("{}/v3lockpb.Lock/Lock", server.setup.client_url()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    api.wait_for_count("l/", 2).await;
    let told =
        tokio::task::spawn_blocking(move || curl.wait_with_output().expect("curl ends")).await.expect("no panic");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("grpc-status: 4") && told.contains("context%20deadline%20exceeded"), "{told}");
    api.wait_for_count("l/", 1).await;
    unlock(&api, &locked).await;
}

async fn a_server_that_stops_says_so_and_keeps_the_places(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let (holder, waiter) = (granted(&api, 600).await, granted(&api, 2).await);
    let locked = lock(&api, "l", holder).await.expect("locked");
    let waiting = wait_in_line(&api, "l", waiter).await;
    server.end();
    refused(outcome(waiting).await, Code::Unavailable, "etcdserver: server stopped");
    server.restart();
    let api = server.api();
    // Whoever comes back in time has its old place; whoever does not leaves nothing behind.
    assert_eq!(api.count("l/").await, 2);
    let (back, revision) = (
        {
            let api = api.clone();
            tokio::spawn(async move { lock(&api, "l", waiter).await })
        },
        3,
    );
    refused(outcome(back).await, Code::Unknown, EXPIRED);
    assert_eq!(api.count("l/").await, 1);
    assert_eq!(api.leases().await, [holder]);
    assert_eq!(lock(&api, "l", holder).await.expect("locked").key, locked.key);
    assert!(api.revision().await > revision);

    let waiting = wait_in_line(&api, "l", granted(&api, 2).await).await;
    server.kill();
    assert!(outcome(waiting).await.is_err());
    server.restart();
    server.api().wait_for_count("l/", 1).await;
}

/// A number among the metrics.
fn metric(server: &Server, name: &str) -> Option<u64> {
    let page = http_get(server.setup.ports.client, "/metrics").ok()?.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))?;
    line.parse().ok()
}

async fn a_thousand_wait_and_go_without_a_trace(setup: Setup) {
    const WAITERS: i64 = 1_000;
    let server = setup.start();
    let api = server.api();
    let locked = lock(&api, "l", granted(&api, 600).await).await.expect("locked");
    let mut waiters = JoinSet::new();
    for number in 0..WAITERS {
        // A hundred calls to a connection, as if they were different clients.
        let api = if number % 100 == 0 { server.api() } else { api.clone() };
        waiters.spawn(async move {
            let lease = granted(&api, 600).await;
            lock(&api, "l", lease).await.map(|locked| (api, locked))
        });
    }
    api.wait_for_count("l/", WAITERS + 1).await;
    let memory = metric(&server, "process_resident_memory_bytes").expect("a number");
    assert!(memory < 512 << 20, "{memory} bytes for {WAITERS} waiters");
    // Each unlock lets one in.
    let mut holder = (api.clone(), locked);
    for left in (0..WAITERS).rev().take(50) {
        unlock(&holder.0, &holder.1).await;
        holder = waiters.join_next().await.expect("waiters are left").expect("no panic").expect("locked");
        assert_eq!(api.count("l/").await, left + 1);
    }
    // The others go away all at once.
    waiters.abort_all();
    api.wait_for_count("l/", 1).await;
    let none_left = async || {
        let left = ["etcd_debugging_mvcc_watch_stream_total", "etcd_debugging_mvcc_watcher_total"];
        left.iter().all(|name| metric(&server, name) == Some(0)).then_some(())
    };
    wait_for("all watches are gone", PATIENCE, none_left).await;
    // Who leaves wakes the one behind, and at most itself. A herd would have had fifty thousand.
    let events = metric(&server, "etcd_debugging_mvcc_events_total").expect("a number");
    assert!((50..=2 * WAITERS as u64).contains(&events), "{events} wake-ups");
}
