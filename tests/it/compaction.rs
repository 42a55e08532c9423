//! History that is compacted by itself, and what a compaction left that is deleted bit by bit.

use crate::harness::grpc::{range, refused, text};
use crate::harness::{Api, Server, Setup, for_each_backend, http_get, wait_for, wait_until};
use castd_proto::etcdserverpb::RangeRequest;
use std::time::{Duration, Instant};
use tonic::Code;

for_each_backend!(
    what_is_older_than_the_retention_is_compacted_by_itself,
    a_physical_compaction_waits_until_the_rows_are_gone,
);
for_each_backend!(castd: deletion_goes_on_after_a_crash, by_revision_nothing_is_done_before_five_minutes);

const PATIENCE: Duration = Duration::from_secs(30);

async fn is_compacted(api: &Api, revision: i64) -> bool {
    match api.range(RangeRequest { revision, ..range("k", "") }).await {
        Ok(_) => false,
        Err(status) => {
            assert_eq!((status.code(), status.message()), (Code::OutOfRange, text::COMPACTED));
            true
        }
    }
}

/// The value of a metric without labels.
fn metric(server: &Server, name: &str) -> f64 {
    let body = http_get(server.setup.ports.client, "/metrics").expect("served").body;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
    line.trim().parse().expect("a number")
}

async fn what_is_older_than_the_retention_is_compacted_by_itself(setup: Setup) {
    let retention = Duration::from_secs(1);
    let server = setup.flag("--auto-compaction-retention=1s").start();
    let api = server.api();
    let first = api.put("k", "1").await;
    let superseded = Instant::now();
    let second = api.put("k", "2").await;
    wait_for("the first version is forgotten", PATIENCE, async || is_compacted(&api, first).await.then_some(())).await;
    assert!(superseded.elapsed() > retention * 9 / 10, "after {:?}", superseded.elapsed());
    assert_eq!(api.get("k").await.expect("kept").value, "2");

    // And again, with nobody asking for it.
    let third = api.put("k", "3").await;
    wait_for("the second is, too", PATIENCE, async || is_compacted(&api, second).await.then_some(())).await;
    assert!(!is_compacted(&api, third).await);
    for line in ["starting auto periodic compaction", "completed auto periodic compaction"] {
        assert!(server.log().contains(line), "{line}");
    }
    wait_until("the rows are deleted", PATIENCE, || {
        metric(&server, "etcd_debugging_mvcc_db_compaction_keys_total") >= 2.0
            && server.log().contains("finished scheduled compaction")
    });
    assert!(metric(&server, "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count") > 0.0);
    assert!(metric(&server, "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count") > 0.0);
    if !server.setup.is_etcd() {
        // 3.4 does not count the last piece, and this one is all there is.
        assert!(metric(&server, "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count") > 0.0);
        assert!(metric(&server, "etcd_debugging_mvcc_db_compaction_last") > 1.6e9);
    }
}

async fn a_physical_compaction_waits_until_the_rows_are_gone(setup: Setup) {
    // etcd 3.4 has flags for neither the size of a piece nor the time between two.
    let setup = if setup.is_etcd() {
        setup
    } else {
        setup.flags(["--compaction-batch-limit=20", "--compaction-sleep-interval=20ms"])
    };
    let server = setup.start();
    let api = server.api();
    let mut revision = 0;
    for turn in 0..201 {
        revision = api.put("k", &turn.to_string()).await;
    }
    let started = Instant::now();
    api.compact(revision, true).await.expect("compacted");
    let took = started.elapsed();
    assert_eq!(metric(&server, "etcd_debugging_mvcc_db_compaction_keys_total"), 200.0);
    if !server.setup.is_etcd() {
        assert!(took > Duration::from_millis(9 * 18), "200 rows, 20 at a time, each 20 ms: {took:?}");
    }
    refused(api.compact(revision, true).await, Code::OutOfRange, text::COMPACTED);
    assert_eq!(api.get("k").await.expect("kept").value, "200");
}

async fn deletion_goes_on_after_a_crash(setup: Setup) {
    const ROWS: i64 = 300;
    let mut server = setup.flags(["--compaction-batch-limit=5", "--compaction-sleep-interval=100ms"]).start();
    let api = server.api();
    let mut revision = 0;
    for turn in 0..=ROWS {
        revision = api.put("k", &turn.to_string()).await;
    }
    api.compact(revision, false).await.expect("compacted");
    server.kill();
    assert!(!server.log().contains("finished scheduled compaction"), "that was too fast to be interrupted");
    server.setup = server.setup.clone().flags(["--compaction-batch-limit=100", "--compaction-sleep-interval=10ms"]);
    server.restart();
    assert!(is_compacted(&api, revision - 1).await);
    wait_until("it ends", PATIENCE, || server.log().contains("finished scheduled compaction"));
    assert!(server.log().contains(&format!("\"compact-revision\":{revision}")));
    let deleted = metric(&server, "etcd_debugging_mvcc_db_compaction_keys_total");
    assert!(deleted > 0.0 && deleted <= ROWS as f64, "{deleted} rows");
    assert_eq!(api.get("k").await.expect("kept").value, ROWS.to_string());
}

/// Five minutes are for the tests of its core; that it is taken and does no harm meanwhile is for this one.
async fn by_revision_nothing_is_done_before_five_minutes(setup: Setup) {
    let server = setup.flags(["--auto-compaction-mode=revision", "--auto-compaction-retention=1"]).start();
    let api = server.api();
    let first = api.put("k", "1").await;
    for turn in 0..50 {
        api.put("k", &turn.to_string()).await;
    }
    assert!(!is_compacted(&api, first).await);
    assert!(!server.log().contains("has no effect yet") && !server.log().contains("auto revision compaction"));
}
