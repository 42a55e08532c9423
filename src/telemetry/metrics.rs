//! What Prometheus reads: etcd's names, kinds, labels and buckets, in the classic text format.
//!
//! ```text
//!   actors, edge ──inc / set / observe──▶ Metrics (one Arc, fields by name) ──render──▶ GET /metrics
//!                                          /proc ──when rendered──┘
//! ```
//! - `families`: the plain ones, as a table of names.
//! - `grpc`: one row per RPC, an array index away.
//! - `requests`: histograms by kind of request and outcome.
//! - `clients`: requests by the version of the client.
//! - `process`: what the kernel knows about this process.
//!
//! On the way of a request nothing is looked up by name: whoever counts holds the counter. Families with labels appear
//! once they are first used, as in etcd; those of gRPC are there from the start.

mod clients;
mod families;
mod grpc;
pub mod process;
mod requests;

use std::ops::Deref;
use std::sync::Arc;

use prometheus::{Registry, TextEncoder};

pub use self::clients::ClientVersions;
pub use self::families::{
    AuthMetrics, CastdMetrics, DiskMetrics, HandlerMetrics, HealthMetrics, LeaseMetrics, MvccMetrics, NetworkMetrics,
    ProxyMetrics, ServerMetrics, SnapshotMetrics, WatchMetrics,
};
pub use self::grpc::{GrpcMetrics, RpcMetrics};
use self::process::ProcessMetrics;
pub use self::requests::{RequestKind, RequestMetrics};
use crate::ids::MemberId;

/// What to answer a scrape with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `--metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsLevel {
    #[default]
    Basic,
    /// With latency histograms of every RPC.
    Extensive,
}

/// What `castd_build_info` says.
#[derive(Clone, Copy, Debug)]
pub struct Build<'a> {
    /// Of castd.
    pub version: &'a str,
    pub storage: &'a str,
}

/// All metrics of this member. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

/// The metrics themselves, by who counts them.
pub struct Families {
    registry: Registry,
    pub server: ServerMetrics,
    pub health: HealthMetrics,
    pub network: NetworkMetrics,
    pub disk: DiskMetrics,
    pub snapshot: SnapshotMetrics,
    pub mvcc: MvccMetrics,
    pub watch: WatchMetrics,
    pub lease: LeaseMetrics,
    pub auth: AuthMetrics,
    pub castd: CastdMetrics,
    pub grpc: GrpcMetrics,
    pub clients: ClientVersions,
    pub requests: RequestMetrics,
    /// Constant zeros: etcd's server shows its proxy's names too, and dashboards ask for them.
    _proxy: ProxyMetrics,
    handler: HandlerMetrics,
    process: ProcessMetrics,
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

impl Metrics {
    #[must_use]
    pub fn new(level: MetricsLevel) -> Self {
        let registry = Registry::new();
        let handler = HandlerMetrics::register(&registry);
        for code in ["200", "500", "503"] {
            handler.requests_total.with_label_values(&[code]);
        }
        Self(Arc::new(Families {
            server: ServerMetrics::register(&registry),
            health: HealthMetrics::register(&registry),
            network: NetworkMetrics::register(&registry),
            disk: DiskMetrics::register(&registry),
            snapshot: SnapshotMetrics::register(&registry),
            mvcc: MvccMetrics::register(&registry),
            watch: WatchMetrics::register(&registry),
            lease: LeaseMetrics::register(&registry),
            auth: AuthMetrics::register(&registry),
            castd: CastdMetrics::register(&registry),
            grpc: GrpcMetrics::register(&registry, level),
            clients: ClientVersions::register(&registry),
            requests: RequestMetrics::register(&registry),
            _proxy: ProxyMetrics::register(&registry),
            handler,
            process: ProcessMetrics::register(&registry),
            registry,
        }))
    }

    /// Says who this member is. `version` is the etcd version we speak; runtime dashboards want a name for the runtime.
    pub fn identify(&self, member: MemberId, version: &str, build: Build<'_>) {
        self.castd.build_info.with_label_values(&[build.version, build.storage]).set(1);
        self.server.id.with_label_values(&[&member.to_string()]).set(1);
        self.server.version.with_label_values(&[version]).set(1);
        self.server.go_version.with_label_values(&["rust"]).set(1);
    }

    /// Replaces the version the cluster agreed on, `3.7`.
    pub fn set_cluster_version(&self, version: &str) {
        self.server.cluster_version.reset();
        self.server.cluster_version.with_label_values(&[version]).set(1);
    }

    /// Everything in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.handler.in_flight.inc();
        self.process.refresh();
        let rendered = TextEncoder::new().encode_to_string(&self.registry.gather());
        self.handler.in_flight.dec();
        let code = if rendered.is_ok() { "200" } else { "500" };
        self.handler.requests_total.with_label_values(&[code]).inc();
        // The encoder fails only on a family without a name or a metric; there is none.
        rendered.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use castd_proto::Rpc;

    use super::*;

    /// What etcd 3.7 shows before the first request: `name kind`, of histograms also first bucket, last bucket, count.
    const FRESH: &[&str] = &[
        "etcd_server_has_leader gauge",
        "etcd_server_is_leader gauge",
        "etcd_server_is_learner gauge",
        "etcd_server_leader_changes_seen_total counter",
        "etcd_server_heartbeat_send_failures_total counter",
        "etcd_server_learner_promote_successes counter",
        "etcd_server_proposals_committed_total gauge",
        "etcd_server_proposals_applied_total gauge",
        "etcd_server_proposals_pending gauge",
        "etcd_server_proposals_failed_total counter",
        "etcd_server_snapshot_apply_in_progress_total gauge",
        "etcd_server_slow_apply_total counter",
        "etcd_server_slow_read_indexes_total counter",
        "etcd_server_read_indexes_failed_total counter",
        "etcd_server_quota_backend_bytes gauge",
        "etcd_server_health_success counter",
        "etcd_server_health_failures counter",
        "etcd_network_client_grpc_sent_bytes_total counter",
        "etcd_network_client_grpc_received_bytes_total counter",
        "etcd_disk_wal_fsync_duration_seconds histogram 0.001 8.192 14",
        "etcd_disk_wal_write_duration_seconds histogram 0.001 8.192 14",
        "etcd_disk_wal_write_bytes_total gauge",
        "etcd_disk_backend_commit_duration_seconds histogram 0.001 8.192 14",
        "etcd_disk_backend_defrag_duration_seconds histogram 0.1 409.6 13",
        "etcd_disk_backend_snapshot_duration_seconds histogram 0.01 655.36 17",
        "etcd_disk_defrag_inflight gauge",
        "etcd_mvcc_range_total counter",
        "etcd_mvcc_put_total counter",
        "etcd_mvcc_delete_total counter",
        "etcd_mvcc_txn_total counter",
        "etcd_mvcc_db_total_size_in_bytes gauge",
        "etcd_mvcc_db_total_size_in_use_in_bytes gauge",
        "castd_storage_allocated_bytes gauge",
        "etcd_mvcc_db_open_read_transactions gauge",
        "etcd_mvcc_hash_duration_seconds histogram 0.01 163.84 15",
        "etcd_mvcc_hash_rev_duration_seconds histogram 0.01 163.84 15",
        "etcd_snap_fsync_duration_seconds histogram 0.001 8.192 14",
        "etcd_snap_db_fsync_duration_seconds histogram 0.001 8.192 14",
        "etcd_snap_db_save_total_duration_seconds histogram 0.1 51.2 10",
        "etcd_debugging_auth_revision gauge",
        "etcd_debugging_lease_granted_total counter",
        "etcd_debugging_lease_revoked_total counter",
        "etcd_debugging_lease_renewed_total counter",
        "etcd_debugging_lease_ttl_total histogram 1 8388608 24",
        "etcd_debugging_server_lease_expired_total counter",
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds histogram 0.001 8.192 14",
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds histogram 0.001 8.192 14",
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds histogram 0.001 8.192 14",
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds histogram 0.001 8.192 14",
        "etcd_debugging_mvcc_current_revision gauge",
        "etcd_debugging_mvcc_compact_revision gauge",
        "etcd_debugging_mvcc_keys_total gauge",
        "etcd_debugging_mvcc_events_total counter",
        "etcd_debugging_mvcc_pending_events_total gauge",
        "etcd_debugging_mvcc_watch_stream_total gauge",
        "etcd_debugging_mvcc_watcher_total gauge",
        "etcd_debugging_mvcc_slow_watcher_total gauge",
        "etcd_debugging_mvcc_total_put_size_in_bytes gauge",
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds histogram 0.5 4096 14",
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds histogram 1 4096 13",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds histogram 100 819200 14",
        "etcd_debugging_mvcc_db_compaction_keys_total counter",
        "etcd_debugging_mvcc_db_compaction_last gauge",
        "etcd_debugging_snap_save_total_duration_seconds histogram 0.001 8.192 14",
        "etcd_grpc_proxy_watchers_coalescing_total gauge",
        "etcd_grpc_proxy_events_coalescing_total counter",
        "etcd_grpc_proxy_cache_keys_total gauge",
        "etcd_grpc_proxy_cache_hits_total gauge",
        "etcd_grpc_proxy_cache_misses_total gauge",
        "os_fd_used gauge",
        "os_fd_limit gauge",
        "grpc_server_started_total counter",
        "grpc_server_msg_received_total counter",
        "grpc_server_msg_sent_total counter",
        "grpc_server_handled_total counter",
        "process_cpu_seconds_total counter",
        "process_open_fds gauge",
        "process_max_fds gauge",
        "process_resident_memory_bytes gauge",
        "process_start_time_seconds gauge",
        "process_virtual_memory_bytes gauge",
        "process_virtual_memory_max_bytes gauge",
        "promhttp_metric_handler_requests_in_flight gauge",
        "promhttp_metric_handler_requests_total counter",
    ];

    fn bounds(text: &str, name: &str) -> Vec<String> {
        text.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{"))
            .filter_map(|labels| labels.split_once("le=\"")?.1.split_once('"').map(|(bound, _)| bound.to_owned()))
            .collect()
    }

    #[test]
    fn a_fresh_member_shows_etcds_names_kinds_and_buckets() {
        let text = Metrics::new(MetricsLevel::Basic).render();
        for row in FRESH {
            let words: Vec<&str> = row.split(' ').collect();
            assert!(text.contains(&format!("# TYPE {} {}\n", words[0], words[1])), "{row}");
            if let [name, "histogram", first, last, count] = words[..] {
                let bounds = bounds(&text, name);
                assert_eq!(bounds.len(), count.parse::<usize>().unwrap() + 1, "{row}");
                assert_eq!([bounds[0].as_str(), &bounds[bounds.len() - 2], "+Inf"], [first, last, "+Inf"], "{row}");
            }
        }
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(types, FRESH.len(), "nothing else shows before it is used");
        assert!(!text.contains("grpc_server_handling_seconds"));
    }

    #[test]
    fn families_with_labels_show_once_used() {
        let metrics = Metrics::new(MetricsLevel::Basic);
        metrics.identify(MemberId(0x8e9e_05c5), "3.7.1", Build { version: "0.1.0", storage: "sled" });
        metrics.set_cluster_version("3.6");
        metrics.set_cluster_version("3.7");
        metrics.requests.served(RequestKind::Put, true, Duration::from_millis(3));
        metrics.requests.applied(RequestKind::Txn, false, Duration::from_micros(150));
        metrics.requests.ranged(true, Duration::from_micros(90));
        metrics.server.alarms.with_label_values(&["8e9e05c5", "NOSPACE"]).set(1);
        metrics.network.peer_round_trip_time.with_label_values(&["a"]).observe(0.01);
        let text = metrics.render();
        for line in [
            "etcd_server_id{server_id=\"8e9e05c5\"} 1",
            "castd_build_info{storage=\"sled\",version=\"0.1.0\"} 1",
            "etcd_server_version{server_version=\"3.7.1\"} 1",
            "etcd_cluster_version{cluster_version=\"3.7\"} 1",
            "etcd_server_request_duration_seconds_bucket{success=\"true\",type=\"Put\",le=\"0.004\"} 1",
            "etcd_server_request_duration_seconds_bucket{success=\"true\",type=\"Put\",le=\"0.002\"} 0",
            "etcd_server_apply_duration_seconds_bucket{op=\"Txn\",success=\"false\",version=\"v3\",le=\"0.0002\"} 1",
            "etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0001\"} 1",
            "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"8e9e05c5\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        assert!(!text.contains("cluster_version=\"3.6\""));
        assert!(!text.contains("type=\"Range\""), "kinds that never happened do not show");
        assert_eq!(bounds(&text, "etcd_server_request_duration_seconds").len(), 15);
        assert_eq!(bounds(&text, "etcd_server_apply_duration_seconds").len(), 21);
        assert_eq!(bounds(&text, "etcd_server_range_duration_seconds").len(), 21);
        assert_eq!(bounds(&text, "etcd_network_peer_round_trip_time_seconds").len(), 17);
    }

    #[test]
    fn every_rpc_is_there_before_its_first_request_and_counts_by_code() {
        let metrics = Metrics::new(MetricsLevel::Extensive);
        let rpc = metrics.grpc.of(Rpc::KvPut);
        rpc.started.inc();
        rpc.received.inc();
        rpc.sent.inc();
        rpc.handled(tonic::Code::ResourceExhausted, Duration::from_millis(4));
        let text = metrics.render();
        let labels = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
        for line in [
            format!("grpc_server_started_total{{{labels}}} 1"),
            format!("grpc_server_msg_received_total{{{labels}}} 1"),
            format!("grpc_server_msg_sent_total{{{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"ResourceExhausted\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 0"),
            format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
            "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",\
             grpc_type=\"bidi_stream\"} 0"
                .to_owned(),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        let handled = text.lines().filter(|line| line.starts_with("grpc_server_handled_total{")).count();
        assert_eq!(handled, Rpc::ALL.len() * 17);
    }

    #[test]
    fn client_versions_are_counted_but_cannot_flood_the_page() {
        let metrics = Metrics::new(MetricsLevel::Basic);
        metrics.clients.unary(Some("3.5"));
        metrics.clients.unary(Some("3.5"));
        metrics.clients.stream(None);
        metrics.clients.unary(Some("not a version\n"));
        for minor in 0..1000 {
            metrics.clients.unary(Some(&format!("9.{minor}")));
        }
        let text = metrics.render();
        let row = |kind: &str, version: &str| {
            let start =
                format!("etcd_server_client_requests_total{{client_api_version=\"{version}\",type=\"{kind}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
        };
        assert_eq!(row("unary", "3.5"), Some(2));
        assert_eq!(row("stream", "unknown"), Some(1));
        let shown = text.lines().filter(|line| line.starts_with("etcd_server_client_requests_total{")).count();
        assert!(shown < 50, "{shown}");
    }

    #[test]
    fn the_kernels_numbers_are_fresh_on_each_page() {
        let metrics = Metrics::new(MetricsLevel::Basic);
        let value = |name: &str| -> f64 {
            let text = metrics.render();
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name);
            line.parse().expect("a number")
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("os_fd_limit") >= 64.0);
        let files: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
        assert!(value("process_open_fds") >= 100.0);
        assert!(value("os_fd_used") >= 100.0);
        drop(files);
    }
}
