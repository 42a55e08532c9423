//! The configuration as the rest of castd sees it: typed, in units, with the defaults filled in.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::gates::FeatureGates;
use super::note::FieldValue;
use super::settings::{Settings, default_of};
use super::state::WITHOUT_EFFECT;
use super::table::{self, DEFAULT_NAME};
use crate::membership::urls::UrlSet;
use crate::storage::StorageKind;
use crate::telemetry::log::LogSettings;
use crate::telemetry::metrics::MetricsLevel;
use crate::telemetry::trace::TraceSettings;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialClusterState {
    New,
    Existing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep what is younger.
    Periodic(Duration),
    /// Keep that many revisions.
    Revision(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Discovery {
    /// URL of a v2 token.
    pub v2_url: String,
    pub v2_proxy: String,
    pub token: String,
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub insecure_transport: bool,
    pub insecure_skip_verify: bool,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    pub user: String,
    pub password: String,
    pub srv_domain: String,
    pub srv_name: String,
    /// Limits of messages, 0 for the library's; negative ones are, too.
    pub request_bytes_max: u64,
    pub answer_bytes_max: u64,
    /// Name a server's certificate must be for; empty for that of its address.
    pub server_name: String,
    /// In place of user and password.
    pub auth_token: String,
}

impl Discovery {
    /// Whether the members of a new cluster are to be found out.
    pub fn is_asked_for(&self) -> bool {
        !(self.v2_url.is_empty() && self.endpoints.is_empty() && self.srv_domain.is_empty())
    }
}

/// TLS on one side: towards clients or towards peers. Empty paths are unset.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsSide {
    pub cert_file: String,
    pub key_file: String,
    pub client_cert_file: String,
    pub client_key_file: String,
    pub client_cert_auth: bool,
    pub trusted_ca_file: String,
    pub auto_tls: bool,
    pub crl_file: String,
    pub allowed_cns: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    pub skip_client_san_verification: bool,
}

impl TlsSide {
    /// As etcd's `TLSInfo.Empty`.
    pub fn has_no_key_pair(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }
}

/// Everything an operator can decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    /// Never empty.
    pub data_dir: PathBuf,
    /// A place of its own for the log.
    pub wal_dir: Option<PathBuf>,
    pub storage: StorageKind,
    pub storage_keep_snapshot: bool,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub initial_election_tick_advance: bool,
    pub listen_peer_urls: UrlSet,
    pub listen_client_urls: UrlSet,
    pub listen_client_http_urls: UrlSet,
    pub listen_metrics_urls: UrlSet,
    /// 0 for all.
    pub max_snapshots: u64,
    /// 0 for all.
    pub max_wals: u64,
    /// `None` for no limit.
    pub quota_backend_bytes: Option<u64>,
    pub quota_auto_disarm: bool,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive_min_time: Duration,
    /// `None`: quiet clients are not pinged.
    pub grpc_keepalive_interval: Option<Duration>,
    /// `None`: a client may take for ever to answer.
    pub grpc_keepalive_timeout: Option<Duration>,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,
    pub enable_grpc_gateway: bool,
    pub enable_v2: bool,
    pub peer_read_timeout: Duration,
    pub peer_write_timeout: Duration,
    pub feature_gates: FeatureGates,

    pub initial_advertise_peer_urls: UrlSet,
    pub advertise_client_urls: UrlSet,
    /// As given; see [`Config::initial_cluster_map`].
    pub initial_cluster: String,
    pub initial_cluster_state: InitialClusterState,
    pub initial_cluster_token: String,
    pub discovery: Discovery,
    pub strict_reconfig_check: bool,
    pub pre_vote: bool,
    pub auto_compaction: AutoCompaction,

    pub client_tls: TlsSide,
    pub peer_tls: TlsSide,
    pub self_signed_cert_validity_years: u64,
    pub cipher_suites: Vec<String>,
    /// `TLS1.2`, `TLS1.3` or empty.
    pub tls_min_version: String,
    pub tls_max_version: String,
    /// Holds `*` for all; empty means all, too.
    pub cors: BTreeSet<String>,
    /// Holds `*` for all; empty means all, too.
    pub host_whitelist: BTreeSet<String>,
    /// `simple`, or `jwt,…`.
    pub auth_token: String,
    pub auth_token_ttl: Duration,
    /// As given; out of 4…31, 10 is used and a warning logged.
    pub bcrypt_cost: u64,

    pub enable_pprof: bool,
    pub metrics: MetricsLevel,
    pub logging: LogSettings,
    pub tracing: TraceSettings,
    pub warning_unary_request_duration: Duration,
    pub warning_apply_duration: Duration,

    /// Zero for never.
    pub corrupt_check_time: Duration,
    pub compact_hash_check_time: Duration,
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval: Duration,
    pub watch_progress_notify_interval: Duration,
    pub bootstrap_defrag_threshold_megabytes: u64,
    pub max_learners: u64,
    pub downgrade_check_time: Duration,
    pub memory_mlock: bool,
    /// Settings that are not at their default, and that castd has nothing to do with.
    pub without_effect: Vec<&'static str>,

    pub force_new_cluster: bool,
    pub unsafe_no_fsync: bool,
}

const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
pub(super) const PEER_TIMEOUT_MIN_NANOS: i64 = 5_000_000_000;
pub(super) const WATCH_PROGRESS_MIN_NANOS: i64 = 100_000_000;

/// What validation has already made out of texts.
pub(super) struct Checked {
    pub logging: LogSettings,
    pub auto_compaction: AutoCompaction,
    pub feature_gates: FeatureGates,
    /// Empty when `--listen-client-urls` was given alone, which validation refuses.
    pub advertise_client_urls: UrlSet,
    pub initial_cluster: String,
}

impl Config {
    /// Nothing can go wrong here: what could, validation has found.
    pub(super) fn from_settings(settings: &Settings, checked: Checked) -> Config {
        let side = |prefix: &str| {
            let text = |name: &str| settings.text(&format!("{prefix}{name}")).to_owned();
            TlsSide {
                cert_file: text("cert-file"),
                key_file: text("key-file"),
                client_cert_file: text("client-cert-file"),
                client_key_file: text("client-key-file"),
                client_cert_auth: settings.bool(&format!("{prefix}client-cert-auth")),
                trusted_ca_file: text("trusted-ca-file"),
                auto_tls: settings.bool(&format!("{prefix}auto-tls")),
                ..TlsSide::default()
            }
        };
        let name = settings.text("name").to_owned();
        let data_dir = match settings.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            given => PathBuf::from(given),
        };
        let text = |name: &str| settings.text(name).to_owned();
        let millis = |name: &str| Duration::from_millis(settings.unsigned(name));
        let set = |name: &str| settings.list(name).into_iter().filter(|item| !item.is_empty()).collect();
        Config {
            name,
            data_dir,
            wal_dir: Some(settings.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            storage: match settings.text("storage") {
                "sled" => StorageKind::Sled,
                "memory" => StorageKind::Memory,
                _ => StorageKind::Rocksdb,
            },
            storage_keep_snapshot: settings.bool("storage-keep-snapshot"),
            snapshot_count: or(settings.unsigned("snapshot-count"), 10_000),
            snapshot_catchup_entries: settings.unsigned("snapshot-catchup-entries"),
            heartbeat_interval: millis("heartbeat-interval"),
            election_timeout: millis("election-timeout"),
            initial_election_tick_advance: settings.bool("initial-election-tick-advance"),
            listen_peer_urls: settings.urls("listen-peer-urls"),
            listen_client_urls: settings.urls("listen-client-urls"),
            listen_client_http_urls: settings.urls("listen-client-http-urls"),
            listen_metrics_urls: settings.urls("listen-metrics-urls"),
            max_snapshots: settings.unsigned("max-snapshots"),
            max_wals: settings.unsigned("max-wals"),
            quota_backend_bytes: match settings.signed("quota-backend-bytes") {
                0 => Some(DEFAULT_QUOTA_BYTES),
                bytes => u64::try_from(bytes).ok(),
            },
            quota_auto_disarm: settings.bool("quota-auto-disarm"),
            max_txn_ops: settings.unsigned("max-txn-ops"),
            max_request_bytes: settings.unsigned("max-request-bytes"),
            max_concurrent_streams: u32::try_from(settings.unsigned("max-concurrent-streams")).unwrap_or(u32::MAX),
            grpc_keepalive_min_time: duration(settings.nanos("grpc-keepalive-min-time")),
            grpc_keepalive_interval: positive(settings.nanos("grpc-keepalive-interval")),
            grpc_keepalive_timeout: positive(settings.nanos("grpc-keepalive-timeout")),
            socket_reuse_port: settings.bool("socket-reuse-port"),
            socket_reuse_address: settings.bool("socket-reuse-address"),
            enable_grpc_gateway: settings.bool("enable-grpc-gateway"),
            enable_v2: settings.bool("enable-v2"),
            peer_read_timeout: duration(settings.nanos("raft-read-timeout").max(PEER_TIMEOUT_MIN_NANOS)),
            peer_write_timeout: duration(settings.nanos("raft-write-timeout").max(PEER_TIMEOUT_MIN_NANOS)),
            feature_gates: checked.feature_gates,
            initial_advertise_peer_urls: settings.urls("initial-advertise-peer-urls"),
            advertise_client_urls: checked.advertise_client_urls,
            initial_cluster: checked.initial_cluster,
            initial_cluster_state: match settings.text("initial-cluster-state") {
                "existing" => InitialClusterState::Existing,
                _ => InitialClusterState::New,
            },
            initial_cluster_token: text("initial-cluster-token"),
            discovery: Discovery {
                v2_url: text("discovery"),
                v2_proxy: text("discovery-proxy"),
                token: text("discovery-token"),
                endpoints: settings.list("discovery-endpoints"),
                dial_timeout: duration(settings.nanos("discovery-dial-timeout")),
                request_timeout: duration(settings.nanos("discovery-request-timeout")),
                keepalive_time: duration(settings.nanos("discovery-keepalive-time")),
                keepalive_timeout: duration(settings.nanos("discovery-keepalive-timeout")),
                insecure_transport: settings.bool("discovery-insecure-transport"),
                insecure_skip_verify: settings.bool("discovery-insecure-skip-tls-verify"),
                cert_file: text("discovery-cert"),
                key_file: text("discovery-key"),
                ca_file: text("discovery-cacert"),
                user: text("discovery-user"),
                password: text("discovery-password"),
                srv_domain: text("discovery-srv"),
                srv_name: text("discovery-srv-name"),
                request_bytes_max: natural(settings.signed("discovery-config.client.max-request-bytes")),
                answer_bytes_max: natural(settings.signed("discovery-config.client.max-recv-bytes")),
                server_name: text("discovery-config.client.secure.server-name"),
                auth_token: text("discovery-config.client.auth.token"),
            },
            strict_reconfig_check: settings.bool("strict-reconfig-check"),
            pre_vote: settings.bool("pre-vote"),
            auto_compaction: checked.auto_compaction,
            client_tls: TlsSide {
                crl_file: text("client-crl-file"),
                allowed_cns: settings.list("client-transport-security.allowed-cn"),
                allowed_hostnames: settings.list("client-cert-allowed-hostname"),
                ..side("")
            },
            peer_tls: TlsSide {
                crl_file: text("peer-crl-file"),
                allowed_cns: settings.list("peer-cert-allowed-cn"),
                allowed_hostnames: settings.list("peer-cert-allowed-hostname"),
                skip_client_san_verification: settings.bool("peer-skip-client-san-verification"),
                ..side("peer-")
            },
            self_signed_cert_validity_years: settings.unsigned("self-signed-cert-validity"),
            cipher_suites: settings.list("cipher-suites"),
            tls_min_version: text("tls-min-version"),
            tls_max_version: text("tls-max-version"),
            cors: set("cors"),
            host_whitelist: set("host-whitelist"),
            auth_token: text("auth-token"),
            auth_token_ttl: Duration::from_secs(settings.unsigned("auth-token-ttl")),
            bcrypt_cost: settings.unsigned("bcrypt-cost"),
            enable_pprof: settings.bool("enable-pprof"),
            metrics: match settings.text("metrics") {
                "extensive" => MetricsLevel::Extensive,
                _ => MetricsLevel::Basic,
            },
            logging: checked.logging,
            tracing: TraceSettings {
                enabled: settings.bool("enable-distributed-tracing"),
                address: text("distributed-tracing-address"),
                service_name: text("distributed-tracing-service-name"),
                instance_id: text("distributed-tracing-instance-id"),
                sampling_rate_per_million: u32::try_from(settings.signed("distributed-tracing-sampling-rate"))
                    .unwrap_or(0),
            },
            warning_unary_request_duration: duration(or(settings.nanos("warning-unary-request-duration"), 300_000_000)),
            warning_apply_duration: duration(settings.nanos("warning-apply-duration")),
            corrupt_check_time: duration(settings.nanos("corrupt-check-time")),
            compact_hash_check_time: duration(settings.nanos("compact-hash-check-time")),
            compaction_batch_limit: match u64::try_from(settings.signed("compaction-batch-limit")) {
                Ok(limit) if limit > 0 => limit,
                Ok(_) | Err(_) => 1000,
            },
            compaction_sleep_interval: positive(settings.nanos("compaction-sleep-interval"))
                .unwrap_or(Duration::from_millis(10)),
            watch_progress_notify_interval: positive(settings.nanos("watch-progress-notify-interval"))
                .map_or(Duration::from_secs(600), |given| given.max(duration(WATCH_PROGRESS_MIN_NANOS))),
            bootstrap_defrag_threshold_megabytes: settings.unsigned("bootstrap-defrag-threshold-megabytes"),
            max_learners: natural(settings.signed("max-learners")),
            downgrade_check_time: duration(settings.nanos("downgrade-check-time")),
            memory_mlock: settings.bool("memory-mlock"),
            without_effect: table::settings()
                .filter(|flag| WITHOUT_EFFECT.iter().any(|(name, _)| *name == flag.name))
                .filter(|flag| *settings.value(flag.name) != default_of(flag))
                .map(|flag| flag.name)
                .collect(),
            force_new_cluster: settings.bool("force-new-cluster"),
            unsafe_no_fsync: settings.bool("unsafe-no-fsync"),
        }
    }

    /// Election timeout in heartbeats, rounded down, as etcd counts it.
    pub fn election_ticks(&self) -> u64 {
        let heartbeat = self.heartbeat_interval.as_millis().max(1);
        u64::try_from(self.election_timeout.as_millis() / heartbeat).unwrap_or(u64::MAX)
    }

    /// Time a client's request may take: waiting and disk, and two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Whether the name was left at its default.
    pub fn has_default_name(&self) -> bool {
        self.name == DEFAULT_NAME
    }

    /// Fields of etcd's line `starting an etcd server`, as far as the configuration knows them, in etcd's order.
    pub fn summary(&self) -> Vec<(&'static str, FieldValue)> {
        let urls = |urls: &UrlSet| FieldValue::List(urls.iter().map(ToString::to_string).collect());
        let path = |path: &std::path::Path| FieldValue::Text(path.display().to_string());
        let list = |items: &BTreeSet<String>| FieldValue::List(items.iter().cloned().collect());
        let discovery = &self.discovery;
        let (mode, retention, interval) = match self.auto_compaction {
            AutoCompaction::Off => ("periodic", "0s".into(), "0s".into()),
            AutoCompaction::Periodic(time) => ("periodic", time.into(), FieldValue::from(time)),
            AutoCompaction::Revision(count) => ("revision", count.into(), FieldValue::from(Duration::ZERO)),
        };
        vec![
            ("name", self.name.as_str().into()),
            ("data-dir", path(&self.data_dir)),
            ("wal-dir", self.wal_dir.as_deref().map_or("".into(), path)),
            ("wal-dir-dedicated", self.wal_dir.as_deref().map_or("".into(), path)),
            ("member-dir", path(&self.data_dir.join("member"))),
            ("storage", self.storage.name().into()),
            ("force-new-cluster", self.force_new_cluster.into()),
            ("heartbeat-interval", self.heartbeat_interval.into()),
            ("election-timeout", self.election_timeout.into()),
            ("initial-election-tick-advance", self.initial_election_tick_advance.into()),
            ("snapshot-count", self.snapshot_count.into()),
            ("max-wals", self.max_wals.into()),
            ("max-snapshots", self.max_snapshots.into()),
            ("snapshot-catchup-entries", self.snapshot_catchup_entries.into()),
            ("initial-advertise-peer-urls", urls(&self.initial_advertise_peer_urls)),
            ("listen-peer-urls", urls(&self.listen_peer_urls)),
            ("advertise-client-urls", urls(&self.advertise_client_urls)),
            ("listen-client-urls", urls(&self.listen_client_urls)),
            ("listen-metrics-urls", urls(&self.listen_metrics_urls)),
            ("local-address", "".into()),
            ("cors", list(&self.cors)),
            ("host-whitelist", list(&self.host_whitelist)),
            ("initial-cluster", self.initial_cluster.as_str().into()),
            (
                "initial-cluster-state",
                if self.initial_cluster_state == InitialClusterState::New { "new" } else { "existing" }.into(),
            ),
            ("initial-cluster-token", self.initial_cluster_token.as_str().into()),
            ("quota-backend-bytes", self.quota_backend_bytes.map_or(FieldValue::Number(-1), FieldValue::from)),
            ("max-request-bytes", self.max_request_bytes.into()),
            ("max-concurrent-streams", u64::from(self.max_concurrent_streams).into()),
            ("pre-vote", self.pre_vote.into()),
            ("feature-gates", self.feature_gates.to_string().into()),
            ("initial-corrupt-check", self.feature_gates.is_on("InitialCorruptCheck").into()),
            ("corrupt-check-time-interval", self.corrupt_check_time.into()),
            ("compact-check-time-interval", self.compact_hash_check_time.into()),
            ("auto-compaction-mode", mode.into()),
            ("auto-compaction-retention", retention),
            ("auto-compaction-interval", interval),
            ("discovery-token", discovery.token.as_str().into()),
            ("discovery-endpoints", discovery.endpoints.join(",").into()),
            ("discovery-dial-timeout", discovery.dial_timeout.into()),
            ("discovery-request-timeout", discovery.request_timeout.into()),
            ("discovery-keepalive-time", discovery.keepalive_time.into()),
            ("discovery-keepalive-timeout", discovery.keepalive_timeout.into()),
            ("discovery-insecure-transport", discovery.insecure_transport.into()),
            ("discovery-insecure-skip-tls-verify", discovery.insecure_skip_verify.into()),
            ("discovery-cert", discovery.cert_file.as_str().into()),
            ("discovery-key", discovery.key_file.as_str().into()),
            ("discovery-cacert", discovery.ca_file.as_str().into()),
            // Without the password that may stand behind it.
            ("discovery-user", discovery.user.split(':').next().unwrap_or_default().into()),
            ("downgrade-check-interval", self.downgrade_check_time.into()),
            ("max-learners", self.max_learners.into()),
            ("v2-deprecation", "write-only".into()),
        ]
    }
}

fn or<T: Default + PartialEq>(value: T, when_zero: T) -> T {
    if value == T::default() { when_zero } else { value }
}

/// Go's negative durations mean "at once", or "off", here.
fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn positive(nanos: i64) -> Option<Duration> {
    Some(duration(nanos)).filter(|time| !time.is_zero())
}
