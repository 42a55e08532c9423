//! The metrics that are one number or one histogram each, and those whose labels are not known beforehand.
//!
//! A histogram's last two arguments are its first bucket and how many there are, each twice the one before. Whoever
//! counts something with labels resolves it once (`with_label_values`) and keeps what it gets.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// Only our own tables come here, so a name that is wrong or there twice is our mistake.
pub(super) fn registered<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("metric names and labels are written correctly");
    registry.register(Box::new(metric.clone())).expect("each metric is registered once");
    metric
}

pub(super) fn doubling(name: &str, help: &str, start: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, 2.0, count).expect("the first bucket is positive");
    HistogramOpts::new(name, help).buckets(buckets)
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::new(name, help))
}

pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

/// For values that are not whole, or that do not fit an `i64`.
pub(super) fn real(registry: &Registry, name: &str, help: &str) -> Gauge {
    registered(registry, Gauge::new(name, help))
}

fn histogram(registry: &Registry, name: &str, help: &str, start: f64, count: usize) -> Histogram {
    registered(registry, Histogram::with_opts(doubling(name, help, start, count)))
}

pub(super) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

pub(super) fn histograms(registry: &Registry, opts: HistogramOpts, labels: &[&str]) -> HistogramVec {
    registered(registry, HistogramVec::new(opts, labels))
}

fn histograms_of(
    registry: &Registry,
    name: &str,
    help: &str,
    start: f64,
    count: usize,
    labels: &[&str],
) -> HistogramVec {
    histograms(registry, doubling(name, help, start, count), labels)
}

macro_rules! kind {
    (counter) => {
        IntCounter
    };
    (gauge) => {
        IntGauge
    };
    (histogram) => {
        Histogram
    };
    (counters) => {
        IntCounterVec
    };
    (gauges) => {
        IntGaugeVec
    };
    (histograms_of) => {
        HistogramVec
    };
}

macro_rules! families {
    ($($(#[$doc:meta])* $group:ident { $($field:ident: $kind:ident($($argument:expr),+ $(,)?),)+ })+) => {
        $(
            $(#[$doc])*
            pub struct $group {
                $(pub $field: kind!($kind),)+
            }

            impl $group {
                pub(super) fn register(registry: &Registry) -> Self {
                    Self { $($field: $kind(registry, $($argument),+),)+ }
                }
            }
        )+
    };
}

families! {
    /// Who this member is and how consensus goes. Counted by RaftNode, Applier and the edge.
    ServerMetrics {
        cluster_version: gauges("etcd_cluster_version", "The version the cluster agreed on, as a label", &["cluster_version"]),
        version: gauges("etcd_server_version", "The version of this server, as a label", &["server_version"]),
        go_version: gauges("etcd_server_go_version", "The runtime of this server, as a label", &["server_go_version"]),
        id: gauges("etcd_server_id", "The id of this member in hex, as a label", &["server_id"]),
        feature_enabled: gauges("etcd_server_feature_enabled", "Feature gates: 1 is on, 0 is off", &["name", "stage"]),
        has_leader: gauge("etcd_server_has_leader", "Whether this member knows a leader: 1 is yes, 0 is no"),
        is_leader: gauge("etcd_server_is_leader", "Whether this member is the leader: 1 is yes, 0 is no"),
        is_learner: gauge("etcd_server_is_learner", "Whether this member is a learner: 1 is yes, 0 is no"),
        leader_changes_seen: counter("etcd_server_leader_changes_seen_total", "Leader changes seen"),
        heartbeat_send_failures: counter("etcd_server_heartbeat_send_failures_total", "Heartbeats the leader sent late, probably because the disk is slow"),
        learner_promote_successes: counter("etcd_server_learner_promote_successes", "Learners promoted while this member was leader"),
        learner_promote_failures: counters("etcd_server_learner_promote_failures", "Learners not promoted while this member was leader", &["Reason"]),
        proposals_committed: gauge("etcd_server_proposals_committed_total", "Index of the last committed entry"),
        proposals_applied: gauge("etcd_server_proposals_applied_total", "Index of the last applied entry"),
        proposals_pending: gauge("etcd_server_proposals_pending", "Proposals waiting to be committed"),
        proposals_failed: counter("etcd_server_proposals_failed_total", "Proposals that failed"),
        snapshot_apply_in_progress: gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a received snapshot is being applied"),
        slow_apply: counter("etcd_server_slow_apply_total", "Applies that took longer than the warning duration"),
        slow_read_indexes: counter("etcd_server_slow_read_indexes_total", "Read indexes that were not confirmed in time"),
        read_indexes_failed: counter("etcd_server_read_indexes_failed_total", "Read indexes that failed"),
        quota_backend_bytes: gauge("etcd_server_quota_backend_bytes", "The storage quota in force, in bytes"),
        alarms: gauges("etcd_debugging_server_alarms", "Alarms that are on", &["server_id", "alarm_type"]),
    }

    /// Counted by the health handlers.
    HealthMetrics {
        success: counter("etcd_server_health_success", "Successful answers of /health"),
        failures: counter("etcd_server_health_failures", "Failed answers of /health"),
        check: gauges("etcd_server_healthcheck", "The last result of a check: 1 is healthy, 0 is not", &["type", "name"]),
        checks: counters("etcd_server_healthchecks_total", "Results of checks", &["type", "name", "status"]),
    }

    /// Counted by the edge (clients) and PeerLinks, which resolves its labels once per peer.
    NetworkMetrics {
        client_sent_bytes: counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages sent to clients"),
        client_received_bytes: counter("etcd_network_client_grpc_received_bytes_total", "Bytes of messages received from clients"),
        server_stream_failures: counters("etcd_network_server_stream_failures_total", "Failures of client streams", &["Type", "API"]),
        active_peers: gauges("etcd_network_active_peers", "Connected peers", &["Local", "Remote"]),
        known_peers: gauges("etcd_network_known_peers", "Known peers", &["Local", "Remote"]),
        disconnected_peers: counters("etcd_network_disconnected_peers_total", "Connections to peers that were lost", &["Local", "Remote"]),
        peer_sent_bytes: counters("etcd_network_peer_sent_bytes_total", "Bytes sent to peers", &["To"]),
        peer_received_bytes: counters("etcd_network_peer_received_bytes_total", "Bytes received from peers", &["From"]),
        peer_sent_failures: counters("etcd_network_peer_sent_failures_total", "Sends to peers that failed", &["To"]),
        peer_received_failures: counters("etcd_network_peer_received_failures_total", "Receives from peers that failed", &["From"]),
        peer_round_trip_time: histograms_of("etcd_network_peer_round_trip_time_seconds", "Round trips to peers", 0.0001, 16, &["To"]),
        snapshot_send_success: counters("etcd_network_snapshot_send_success", "Snapshots sent", &["To"]),
        snapshot_send_failures: counters("etcd_network_snapshot_send_failures", "Snapshots that could not be sent", &["To"]),
        snapshot_send_inflights: gauges("etcd_network_snapshot_send_inflights_total", "Snapshots being sent", &["To"]),
        snapshot_send_duration: histograms_of("etcd_network_snapshot_send_total_duration_seconds", "How long sending a snapshot took", 0.1, 10, &["To"]),
        snapshot_receive_success: counters("etcd_network_snapshot_receive_success", "Snapshots received", &["From"]),
        snapshot_receive_failures: counters("etcd_network_snapshot_receive_failures", "Snapshots that could not be received", &["From"]),
        snapshot_receive_inflights: gauges("etcd_network_snapshot_receive_inflights_total", "Snapshots being received", &["From"]),
        snapshot_receive_duration: histograms_of("etcd_network_snapshot_receive_total_duration_seconds", "How long receiving a snapshot took", 0.1, 10, &["From"]),
    }

    /// Counted by LogWriter (wal) and the Applier (backend).
    DiskMetrics {
        wal_fsync: histogram("etcd_disk_wal_fsync_duration_seconds", "How long an fsync of the raft log took", 0.001, 14),
        wal_write: histogram("etcd_disk_wal_write_duration_seconds", "How long a write to the raft log took", 0.001, 14),
        wal_write_bytes: gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the raft log"),
        backend_commit: histogram("etcd_disk_backend_commit_duration_seconds", "How long writing a batch to the backend took", 0.001, 14),
        backend_defrag: histogram("etcd_disk_backend_defrag_duration_seconds", "How long a defragmentation took", 0.1, 13),
        backend_snapshot: histogram("etcd_disk_backend_snapshot_duration_seconds", "How long reading out the backend took", 0.01, 17),
        defrag_inflight: gauge("etcd_disk_defrag_inflight", "1 while a defragmentation is running"),
    }

    /// Counted by the Snapshotter.
    SnapshotMetrics {
        fsync: histogram("etcd_snap_fsync_duration_seconds", "How long an fsync of a snapshot's description took", 0.001, 14),
        db_fsync: histogram("etcd_snap_db_fsync_duration_seconds", "How long an fsync of a received snapshot took", 0.001, 14),
        db_save: histogram("etcd_snap_db_save_total_duration_seconds", "How long saving a received snapshot took", 0.1, 10),
        save: histogram("etcd_debugging_snap_save_total_duration_seconds", "How long saving a snapshot took", 0.001, 14),
    }

    /// Counted by the Applier and whoever reads the published view.
    MvccMetrics {
        range: counter("etcd_mvcc_range_total", "Ranges this member served"),
        put: counter("etcd_mvcc_put_total", "Puts this member applied"),
        delete: counter("etcd_mvcc_delete_total", "Deletes this member applied"),
        txn: counter("etcd_mvcc_txn_total", "Transactions this member applied"),
        db_size: gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the store's rows, as they count against the quota"),
        db_size_in_use: gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of them that are in use"),
        storage_allocated: gauge("castd_storage_allocated_bytes", "Bytes that the storage engine takes for them on disk, or in memory"),
        db_open_read_transactions: gauge("etcd_mvcc_db_open_read_transactions", "Views of the store that are pinned"),
        hash: histogram("etcd_mvcc_hash_duration_seconds", "How long hashing the whole store took", 0.01, 15),
        hash_rev: histogram("etcd_mvcc_hash_rev_duration_seconds", "How long hashing up to a revision took", 0.01, 15),
        current_revision: gauge("etcd_debugging_mvcc_current_revision", "The current revision"),
        compact_revision: gauge("etcd_debugging_mvcc_compact_revision", "The revision compacted to"),
        keys: gauge("etcd_debugging_mvcc_keys_total", "Keys in the store"),
        total_put_size: gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of all keys and values put by this process"),
        index_compaction_pause: histogram("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Pauses while the index was compacted", 0.5, 14),
        db_compaction_pause: histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Pauses while the store was compacted", 1.0, 13),
        db_compaction: histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "How long compacting the store took", 100.0, 14),
        db_compaction_keys: counter("etcd_debugging_mvcc_db_compaction_keys_total", "Versions removed by compaction"),
        db_compaction_last: gauge("etcd_debugging_mvcc_db_compaction_last", "When the store was last compacted, in Unix seconds"),
    }

    /// Counted by the WatchHub and the watch streams.
    WatchMetrics {
        events: counter("etcd_debugging_mvcc_events_total", "Events sent to watchers"),
        pending_events: gauge("etcd_debugging_mvcc_pending_events_total", "Events waiting to be sent"),
        streams: gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams"),
        watchers: gauge("etcd_debugging_mvcc_watcher_total", "Watchers"),
        slow_watchers: gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are catching up"),
        send_events: histogram("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "How long sending a batch of events took", 0.001, 14),
        send_per_event: histogram("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "The same, per event", 0.001, 14),
        send_control: histogram("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "How long sending a control message took", 0.001, 14),
        send_progress: histogram("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "How long sending a progress notification took", 0.001, 14),
    }

    /// Counted by the Applier and the LeaseKeeper.
    LeaseMetrics {
        granted: counter("etcd_debugging_lease_granted_total", "Leases granted"),
        revoked: counter("etcd_debugging_lease_revoked_total", "Leases revoked"),
        renewed: counter("etcd_debugging_lease_renewed_total", "Leases renewed while this member was leader"),
        ttl: histogram("etcd_debugging_lease_ttl_total", "Times to live of granted leases, in seconds", 1.0, 24),
        expired: counter("etcd_debugging_server_lease_expired_total", "Leases that expired"),
    }

    /// Counted by the Applier.
    AuthMetrics {
        revision: gauge("etcd_debugging_auth_revision", "The revision of the auth store"),
    }

    /// Always zero here.
    ProxyMetrics {
        watchers_coalescing: gauge("etcd_grpc_proxy_watchers_coalescing_total", "Watchers the gRPC proxy coalesces"),
        events_coalescing: counter("etcd_grpc_proxy_events_coalescing_total", "Events the gRPC proxy coalesced"),
        cache_keys: gauge("etcd_grpc_proxy_cache_keys_total", "Keys the gRPC proxy caches"),
        cache_hits: gauge("etcd_grpc_proxy_cache_hits_total", "Cache hits of the gRPC proxy"),
        cache_misses: gauge("etcd_grpc_proxy_cache_misses_total", "Cache misses of the gRPC proxy"),
    }

    /// Our own, which etcd does not have.
    CastdMetrics {
        build_info: gauges("castd_build_info", "The release of castd and the storage backend, as labels", &["version", "storage"]),
    }

    /// About /metrics itself.
    HandlerMetrics {
        in_flight: gauge("promhttp_metric_handler_requests_in_flight", "Scrapes being served"),
        requests_total: counters("promhttp_metric_handler_requests_total", "Scrapes by status code", &["code"]),
    }
}

impl NetworkMetrics {
    /// Nobody speaks with `peer` any more. What it has been would stay on the page for ever, and whoever makes members up
    /// could fill it. Those who still hold a counter of it count for nobody.
    pub fn forget_peer(&self, own: &str, peer: &str) {
        let links = [&self.active_peers, &self.known_peers];
        links.iter().for_each(|gauges| drop(gauges.remove_label_values(&[own, peer])));
        drop(self.disconnected_peers.remove_label_values(&[own, peer]));
        let counters = [
            &self.peer_sent_bytes,
            &self.peer_received_bytes,
            &self.peer_sent_failures,
            &self.peer_received_failures,
            &self.snapshot_send_success,
            &self.snapshot_send_failures,
            &self.snapshot_receive_success,
            &self.snapshot_receive_failures,
        ];
        counters.iter().for_each(|counters| drop(counters.remove_label_values(&[peer])));
        let gauges = [&self.snapshot_send_inflights, &self.snapshot_receive_inflights];
        gauges.iter().for_each(|gauges| drop(gauges.remove_label_values(&[peer])));
        let histograms = [&self.peer_round_trip_time, &self.snapshot_send_duration, &self.snapshot_receive_duration];
        histograms.iter().for_each(|histograms| drop(histograms.remove_label_values(&[peer])));
    }
}
