//! By how much counters move.

use super::{Page, work};
use crate::harness::server::Ports;
use crate::harness::{Backend, Place, Server, Setup, block_on, for_each_backend, wait_until};
use std::time::Duration;

for_each_backend!(counters_move_by_what_was_done);

/// What [`work`] does, as etcd counts it.
const MOVES: &[(&str, f64)] = &[
    // Puts: 3, 1, 1 in a txn, 3 watched, 2 leased.
    ("etcd_mvcc_put_total", 10.0),
    // A range of keys is one; the leased ones are deleted one by one.
    ("etcd_mvcc_delete_total", 3.0),
    // 3 asked for, a previous value, a comparison and a range in a txn, one comparison and 2 ranges in the other, and the
    // one by which a compaction learns of the revision.
    ("etcd_mvcc_range_total", 10.0),
    // The put with its previous value, the put and the range, the one that reads, the keys of the lease.
    ("etcd_mvcc_txn_total", 4.0),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", 3.0 * 9.0 + 9.0 + 4.0 + 3.0 * 2.0 + 2.0 * 7.0),
    ("etcd_debugging_mvcc_current_revision", 12.0),
    ("etcd_debugging_mvcc_events_total", 3.0),
    ("etcd_debugging_mvcc_pending_events_total", 0.0),
    ("etcd_debugging_mvcc_watcher_total", 0.0),
    ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
    ("etcd_debugging_mvcc_keys_total", 5.0),
    ("etcd_debugging_lease_granted_total", 1.0),
    ("etcd_debugging_lease_revoked_total", 1.0),
    ("etcd_debugging_lease_renewed_total", 1.0),
    ("etcd_debugging_lease_ttl_total_sum", 60.0),
    ("etcd_debugging_lease_ttl_total_count", 1.0),
    ("etcd_debugging_server_lease_expired_total", 0.0),
    ("etcd_server_proposals_failed_total", 0.0),
    ("etcd_server_proposals_pending", 0.0),
    ("etcd_server_leader_changes_seen_total", 0.0),
    ("etcd_server_slow_read_indexes_total", 0.0),
    ("etcd_server_read_indexes_failed_total", 0.0),
    // 9 puts, a delete, a txn, a grant, 2 revocations, a compaction.
    ("etcd_server_proposals_committed_total", 15.0),
    ("etcd_server_proposals_applied_total", 15.0),
];

/// Kind, service, method; started, received, sent; a code, and how often it was handled with that.
type Call = (&'static str, &'static str, &'static str, f64, f64, f64, &'static str, f64);

const CALLS: &[Call] = &[
    ("unary", "KV", "Put", 9.0, 9.0, 9.0, "OK", 9.0),
    ("unary", "KV", "Range", 3.0, 3.0, 2.0, "OK", 2.0),
    ("unary", "KV", "Range", 3.0, 3.0, 2.0, "OutOfRange", 1.0),
    ("unary", "KV", "DeleteRange", 1.0, 1.0, 1.0, "OK", 1.0),
    ("unary", "KV", "Txn", 2.0, 2.0, 2.0, "OK", 2.0),
    ("unary", "KV", "Compact", 1.0, 1.0, 1.0, "OK", 1.0),
    ("unary", "Lease", "LeaseRevoke", 2.0, 2.0, 1.0, "NotFound", 1.0),
    ("bidi_stream", "Lease", "LeaseKeepAlive", 1.0, 1.0, 1.0, "OK", 1.0),
    ("bidi_stream", "Watch", "Watch", 1.0, 2.0, 5.0, "OK", 0.0),
];

/// Bytes of messages, which are the same for the same ids.
const BYTES: [&str; 2] = ["etcd_network_client_grpc_received_bytes_total", "etcd_network_client_grpc_sent_bytes_total"];

/// What moved, once it has come to rest.
async fn moves(server: &Server) -> impl Fn(&str) -> f64 {
    // A scrape is not counted by what it shows; the health check of the start may still be.
    let before = Page::of(server);
    work(server).await;
    // The stream ends a moment after its client has gone.
    wait_until("the watch stream is gone", Duration::from_secs(10), || {
        let page = Page::of(server);
        page.value("etcd_debugging_mvcc_watch_stream_total") == before.value("etcd_debugging_mvcc_watch_stream_total")
            && page.value("etcd_debugging_mvcc_pending_events_total") == 0.0
    });
    let after = Page::of(server);
    move |series| after.value(series) - before.value(series)
}

async fn counters_move_by_what_was_done(setup: Setup) {
    let server = setup.start();
    let moved = moves(&server).await;
    for (series, expected) in MOVES {
        assert_eq!(moved(series), *expected, "{series}");
    }
    for (kind, service, method, started, received, sent, code, handled) in CALLS {
        let labels = format!(r#"grpc_method="{method}",grpc_service="etcdserverpb.{service}",grpc_type="{kind}""#);
        for (name, expected) in [("started", started), ("msg_received", received), ("msg_sent", sent)] {
            assert_eq!(moved(&format!("grpc_server_{name}_total{{{labels}}}")), *expected, "{name} {method}");
        }
        let series = format!(r#"grpc_server_handled_total{{grpc_code="{code}",{labels}}}"#);
        assert_eq!(moved(&series), *handled, "{method} {code}");
    }
    if server.setup.is_etcd() {
        return;
    }
    // Of names that etcd 3.4 has not.
    for (series, expected) in [
        (r#"etcd_server_request_duration_seconds_count{success="true",type="Put"}"#, 9.0),
        (r#"etcd_server_request_duration_seconds_count{success="true",type="Range"}"#, 2.0),
        (r#"etcd_server_request_duration_seconds_count{success="false",type="Range"}"#, 1.0),
        (r#"etcd_server_request_duration_seconds_count{success="true",type="ReadonlyTxn"}"#, 1.0),
        (r#"etcd_server_request_duration_seconds_count{success="true",type="Txn"}"#, 1.0),
        (r#"etcd_server_request_duration_seconds_count{success="false",type="LeaseRevoke"}"#, 1.0),
        (r#"etcd_server_range_duration_seconds_count{success="true"}"#, 2.0),
        (r#"etcd_server_range_duration_seconds_count{success="false"}"#, 1.0),
        (r#"etcd_server_apply_duration_seconds_count{op="Put",success="true",version="v3"}"#, 9.0),
        (r#"etcd_server_apply_duration_seconds_count{op="Txn",success="true",version="v3"}"#, 1.0),
        (r#"etcd_server_apply_duration_seconds_count{op="LeaseRevoke",success="false",version="v3"}"#, 1.0),
        (r#"etcd_server_client_requests_total{client_api_version="unknown",type="stream"}"#, 2.0),
    ] {
        assert_eq!(moved(series), expected, "{series}");
    }
    let commits = moved("etcd_disk_backend_commit_duration_seconds_count");
    assert!((1.0..=16.0).contains(&commits), "{commits} commits");
    assert!(moved("etcd_disk_wal_fsync_duration_seconds_count") >= 9.0);
    assert!(moved("etcd_disk_wal_write_bytes_total") > 100.0);
}

#[test]
fn messages_have_as_many_bytes_as_etcd_counts() {
    let _place = Place::take();
    let ports = Ports::free();
    let of = |setup: Setup| {
        block_on(async {
            let server = setup.ports(ports).start();
            let moved = moves(&server).await;
            BYTES.map(moved)
        })
    };
    assert_eq!(of(Setup::castd(Backend::Memory)), of(Setup::etcd("etcd")));
}
