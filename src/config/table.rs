//! Every flag castd knows, one row each: etcd 3.7.1's, those of earlier releases that castd still serves, and our own.
//!
//! Adding a setting starts here: a row, a field in [`super::Config`], a line in `config/castd.conf.yml`; then
//! `CASTD_WRITE_DOCS=1 cargo test --release --lib config` renews `docs/configuration.md`. The tests hold the table, `--help`,
//! the sample and the document against one another.

use super::flag::FileKey::{self, Nested};
use super::flag::Flag;
use super::flag::Kind::{self, *};
use super::flag::Section::{self, *};

const fn flag(
    section: Section,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    since: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, since, section, file: FileKey::Same, help }
}

/// A flag whose key in a file is another, or none.
const fn keyed(file: FileKey, mut row: Flag) -> Flag {
    row.file = file;
    row
}

const fn ignored(name: &'static str) -> Flag {
    keyed(FileKey::None, flag(Hidden, name, Ignored, "", "0.4", ""))
}

pub(super) const CLIENT_TLS: &str = "client-transport-security";
pub(super) const PEER_TLS: &str = "peer-transport-security";
const DISCOVERY: &str = "discovery-config";

pub const DEFAULT_NAME: &str = "default";
pub const DEFAULT_PEER_URL: &str = "http://localhost:2380";
pub const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
pub const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";
pub const DEFAULT_LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

/// In the order of `--help`.
#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    flag(Member, "name", Text, DEFAULT_NAME, "2.0", "Name of this member, for people; must be one of those in --initial-cluster."),
    flag(Member, "data-dir", Text, "", "2.0", "Directory of this member's data; '${name}.etcd' when empty."),
    flag(Member, "wal-dir", Text, "", "2.2", "Directory of its own for the log; inside the data directory when empty."),
    flag(Member, "snapshot-count", Uint64, "10000", "2.0", "Applied entries between two snapshots on disk; 0 stands for the default."),
    flag(Member, "snapshot-catchup-entries", Uint64, "5000", "3.6", "Entries kept behind a snapshot for followers that are slow."),
    flag(Member, "heartbeat-interval", Uint, "100", "2.0", "Milliseconds between two heartbeats of a leader."),
    flag(Member, "election-timeout", Uint, "1000", "2.0", "Milliseconds without a leader before an election; at least five heartbeats, at most 50000."),
    flag(Member, "initial-election-tick-advance", Bool, "true", "3.4", "Start with most of the election timeout gone, so that a first leader is found sooner."),
    flag(Member, "listen-peer-urls", Urls, DEFAULT_PEER_URL, "2.0", "URLs to listen on for other members."),
    flag(Member, "listen-client-urls", Urls, DEFAULT_CLIENT_URL, "2.0", "URLs to listen on for clients: gRPC, and HTTP unless --listen-client-http-urls is given."),
    flag(Member, "listen-client-http-urls", Urls, "", "3.5", "URLs to listen on for HTTP clients alone; takes HTTP away from --listen-client-urls."),
    flag(Member, "max-snapshots", Uint, "5", "2.0", "Snapshot files to keep, 0 for all. Deprecated in 3.6."),
    flag(Member, "max-wals", Uint, "5", "2.0", "Log files to keep, 0 for all."),
    flag(Member, "memory-mlock", Bool, "false", "3.6", "Keep the memory of the process out of swap."),
    flag(Member, "quota-backend-bytes", Int64, "0", "3.0", "Size of the store from which on writes are refused; 0 stands for 2 GiB, a negative number for no limit."),
    flag(Member, "quota-auto-disarm", Bool, "true", "castd", "Take the alarm NOSPACE of this member back when there is room again; castd's own. Off, it is disarmed by hand, as in etcd."),
    flag(Member, "backend-bbolt-freelist-type", Text, "map", "3.5", "How etcd's bbolt keeps its list of free pages."),
    flag(Member, "backend-batch-interval", Duration, "0s", "3.4", "Time before etcd commits what it has written to bbolt; 0 stands for 100ms."),
    flag(Member, "backend-batch-limit", Int, "0", "3.4", "Operations before etcd commits them to bbolt; 0 stands for 10000."),
    flag(Member, "max-txn-ops", Uint, "128", "3.3", "Operations allowed in one branch of a transaction."),
    flag(Member, "max-request-bytes", Uint, "1572864", "3.2", "Size of the largest request a client may send."),
    flag(Member, "max-concurrent-streams", Uint32, "4294967295", "3.5", "Streams a client may have open at a time on one connection."),
    flag(Member, "grpc-keepalive-min-time", Duration, "5s", "3.2", "A client that pings more often than this is sent away."),
    flag(Member, "grpc-keepalive-interval", Duration, "2h0m0s", "3.2", "Time after which a quiet client is pinged; 0 for never."),
    flag(Member, "grpc-keepalive-timeout", Duration, "20s", "3.2", "Time a pinged client has to answer; 0 for ever."),
    keyed(Nested(&["socket-options", "reuse-port"]), flag(Member, "socket-reuse-port", Bool, "false", "3.5", "Set SO_REUSEPORT on listeners.")),
    keyed(Nested(&["socket-options", "reuse-address"]), flag(Member, "socket-reuse-address", Bool, "false", "3.5", "Set SO_REUSEADDR on listeners.")),
    flag(Member, "enable-grpc-gateway", Bool, "true", "3.4", "Serve the JSON gateway under /v3/."),
    flag(Member, "enable-v2", Bool, "false", "3.2", "Serve the v2 API under /v2/; etcd dropped it in 3.6."),
    keyed(FileKey::None, flag(Member, "raft-read-timeout", Duration, "5s", "3.5", "Time after which a silent connection from a peer is closed; at least 5s.")),
    keyed(FileKey::None, flag(Member, "raft-write-timeout", Duration, "5s", "3.5", "Time after which a stuck connection to a peer is closed; at least 5s.")),
    flag(Member, "feature-gates", Gates, "", "3.6", "Comma list of Name=true|false. Gates are:"),

    flag(Storage, "storage", Choice(&["rocksdb", "sled", "memory"]), "rocksdb", "castd", "Backend of the store: 'rocksdb', 'sled' or 'memory'. A data directory remembers its own."),
    flag(Storage, "storage-keep-snapshot", Bool, "false", "castd", "Keep a portable snapshot beside a backend that could do without."),

    flag(Clustering, "initial-advertise-peer-urls", Urls, DEFAULT_PEER_URL, "2.0", "URLs at which other members reach this one."),
    flag(Clustering, "initial-cluster", Text, DEFAULT_INITIAL_CLUSTER, "2.0", "All members of a new cluster: 'name=url,name=url'. Not looked at once there is data."),
    flag(Clustering, "initial-cluster-state", Choice(&["new", "existing"]), "new", "2.0", "'new' to found a cluster, 'existing' to join one. Not looked at once there is data."),
    flag(Clustering, "initial-cluster-token", Text, "etcd-cluster", "2.0", "Enters all ids of a new cluster, so that two with the same URLs are kept apart."),
    flag(Clustering, "advertise-client-urls", Urls, DEFAULT_CLIENT_URL, "2.0", "URLs at which clients reach this member; needed when --listen-client-urls is given."),
    keyed(FileKey::None, flag(Clustering, "discovery", Text, "", "2.0", "URL of a v2 discovery token; etcd dropped it in 3.7.")),
    keyed(FileKey::None, flag(Clustering, "discovery-proxy", Text, "", "2.0", "HTTP proxy on the way to v2 discovery; etcd dropped it in 3.7.")),
    keyed(FileKey::None, flag(Clustering, "discovery-fallback", Choice(&["exit", "proxy"]), "exit", "2.0", "What to do when discovery fails; only 'exit' is left.")),
    keyed(Nested(&[DISCOVERY, "token"]), flag(Clustering, "discovery-token", Text, "", "3.6", "Token of a v3 discovery.")),
    keyed(Nested(&[DISCOVERY, "client", "endpoints"]), flag(Clustering, "discovery-endpoints", Set, "", "3.6", "Servers of a v3 discovery.")),
    keyed(Nested(&[DISCOVERY, "client", "dial-timeout"]), flag(Clustering, "discovery-dial-timeout", Duration, "2s", "3.6", "Time to connect to a discovery server.")),
    keyed(Nested(&[DISCOVERY, "client", "request-timeout"]), flag(Clustering, "discovery-request-timeout", Duration, "5s", "3.6", "Time for one request to a discovery server.")),
    keyed(Nested(&[DISCOVERY, "client", "keepalive-time"]), flag(Clustering, "discovery-keepalive-time", Duration, "2s", "3.6", "Time after which a quiet discovery server is pinged.")),
    keyed(Nested(&[DISCOVERY, "client", "keepalive-timeout"]), flag(Clustering, "discovery-keepalive-timeout", Duration, "6s", "3.6", "Time a pinged discovery server has to answer.")),
    keyed(Nested(&[DISCOVERY, "client", "secure", "insecure-transport"]), flag(Clustering, "discovery-insecure-transport", Bool, "true", "3.6", "Talk to discovery servers without TLS.")),
    keyed(Nested(&[DISCOVERY, "client", "secure", "insecure-skip-tls-verify"]), flag(Clustering, "discovery-insecure-skip-tls-verify", Bool, "false", "3.6", "Do not verify the certificates of discovery servers.")),
    keyed(Nested(&[DISCOVERY, "client", "secure", "cert"]), flag(Clustering, "discovery-cert", Text, "", "3.6", "Client certificate for discovery servers.")),
    keyed(Nested(&[DISCOVERY, "client", "secure", "key"]), flag(Clustering, "discovery-key", Text, "", "3.6", "Key of that certificate.")),
    keyed(Nested(&[DISCOVERY, "client", "secure", "cacert"]), flag(Clustering, "discovery-cacert", Text, "", "3.6", "CA bundle to verify discovery servers with.")),
    keyed(Nested(&[DISCOVERY, "client", "auth", "username"]), flag(Clustering, "discovery-user", Text, "", "3.6", "user[:password] on discovery servers.")),
    keyed(Nested(&[DISCOVERY, "client", "auth", "password"]), flag(Clustering, "discovery-password", Text, "", "3.6", "Password on discovery servers.")),
    flag(Clustering, "discovery-srv", Text, "", "2.0", "DNS domain whose SRV records name the members of a new cluster."),
    flag(Clustering, "discovery-srv-name", Text, "", "3.4", "Suffix of the SRV service that is asked for."),
    flag(Clustering, "strict-reconfig-check", Bool, "true", "2.3", "Refuse changes of membership that would cost the quorum."),
    flag(Clustering, "pre-vote", Bool, "true", "3.4", "Ask whether an election could be won before disturbing a leader."),
    flag(Clustering, "auto-compaction-retention", Text, "0", "3.0", "How much history automatic compaction leaves; 0 turns it off."),
    flag(Clustering, "auto-compaction-mode", Text, "periodic", "3.3", "'periodic': the retention is a time ('30m', '8' for hours). 'revision': it is a number of revisions."),
    flag(Clustering, "v2-deprecation", Choices(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", "3.5", "How far the v2 store is given up. Deprecated in 3.6."),

    keyed(Nested(&[CLIENT_TLS, "cert-file"]), flag(Security, "cert-file", Text, "", "2.0", "Certificate shown to clients.")),
    keyed(Nested(&[CLIENT_TLS, "key-file"]), flag(Security, "key-file", Text, "", "2.0", "Key of that certificate.")),
    keyed(Nested(&[CLIENT_TLS, "client-cert-file"]), flag(Security, "client-cert-file", Text, "", "3.5", "Certificate this server shows when it is its own client.")),
    keyed(Nested(&[CLIENT_TLS, "client-key-file"]), flag(Security, "client-key-file", Text, "", "3.5", "Key of that certificate.")),
    keyed(Nested(&[CLIENT_TLS, "client-cert-auth"]), flag(Security, "client-cert-auth", Bool, "false", "2.1", "Demand a certificate of every client.")),
    keyed(Nested(&[CLIENT_TLS, "trusted-ca-file"]), flag(Security, "trusted-ca-file", Text, "", "2.1", "CA bundle to verify clients with; demands a certificate of every client.")),
    keyed(Nested(&[CLIENT_TLS, "auto-tls"]), flag(Security, "auto-tls", Bool, "false", "3.0", "Make a certificate for clients.")),
    keyed(FileKey::None, flag(Security, "client-crl-file", Text, "", "3.3", "List of revoked client certificates.")),
    keyed(Nested(&[CLIENT_TLS, "allowed-hostname"]), flag(Security, "client-cert-allowed-hostname", List, "", "3.4", "Host names one of which a client's certificate must be for.")),
    keyed(Nested(&[PEER_TLS, "cert-file"]), flag(Security, "peer-cert-file", Text, "", "2.0", "Certificate shown to peers.")),
    keyed(Nested(&[PEER_TLS, "key-file"]), flag(Security, "peer-key-file", Text, "", "2.0", "Key of that certificate.")),
    keyed(Nested(&[PEER_TLS, "client-cert-file"]), flag(Security, "peer-client-cert-file", Text, "", "3.5", "Certificate shown when connecting to a peer.")),
    keyed(Nested(&[PEER_TLS, "client-key-file"]), flag(Security, "peer-client-key-file", Text, "", "3.5", "Key of that certificate.")),
    keyed(Nested(&[PEER_TLS, "client-cert-auth"]), flag(Security, "peer-client-cert-auth", Bool, "false", "2.1", "Demand a certificate of every peer.")),
    keyed(Nested(&[PEER_TLS, "trusted-ca-file"]), flag(Security, "peer-trusted-ca-file", Text, "", "2.1", "CA bundle to verify peers with.")),
    keyed(Nested(&[PEER_TLS, "auto-tls"]), flag(Security, "peer-auto-tls", Bool, "false", "3.0", "Make a certificate for peers.")),
    keyed(FileKey::None, flag(Security, "peer-crl-file", Text, "", "3.3", "List of revoked peer certificates.")),
    keyed(Nested(&[PEER_TLS, "allowed-cn"]), flag(Security, "peer-cert-allowed-cn", List, "", "3.3", "Common names one of which a peer's certificate must have.")),
    keyed(Nested(&[PEER_TLS, "allowed-hostname"]), flag(Security, "peer-cert-allowed-hostname", List, "", "3.4", "Host names one of which a peer's certificate must be for.")),
    keyed(Nested(&[PEER_TLS, "skip-client-san-verification"]), flag(Security, "peer-skip-client-san-verification", Bool, "false", "3.6", "Do not compare a peer's address with its certificate.")),
    flag(Security, "self-signed-cert-validity", Uint, "1", "3.5", "Years that certificates made by --auto-tls and --peer-auto-tls are valid."),
    flag(Security, "cipher-suites", List, "", "3.2", "Cipher suites allowed with TLS 1.2, by Go's names."),
    flag(Security, "tls-min-version", Text, "TLS1.2", "3.5", "Oldest TLS version spoken: TLS1.2 or TLS1.3."),
    flag(Security, "tls-max-version", Text, "", "3.5", "Newest TLS version spoken: TLS1.2 or TLS1.3; any when empty."),
    flag(Security, "cors", Origins, "*", "2.0", "Origins browsers may come from; '*' for all."),
    flag(Security, "host-whitelist", Set, "*", "3.4", "Host names under which plain HTTP is answered; '*' for all."),

    flag(Auth, "auth-token", Text, "simple", "3.2", "Kind of token and its options: 'simple' or 'jwt,…'."),
    flag(Auth, "bcrypt-cost", Uint, "10", "3.4", "Cost of hashing a password, 4 to 31."),
    flag(Auth, "auth-token-ttl", Uint, "300", "3.4", "Seconds that an unused simple token lives."),

    flag(Monitoring, "enable-pprof", Bool, "false", "2.3", "Serve profiles under /debug/pprof/."),
    flag(Monitoring, "metrics", Text, "basic", "3.1", "'extensive' adds histograms of gRPC latency."),
    flag(Monitoring, "listen-metrics-urls", Urls, "", "3.3", "More URLs to serve /metrics and /health on."),

    flag(Logging, "logger", Text, "zap", "3.4", "Only 'zap', the layout of etcd's structured logs."),
    flag(Logging, "log-outputs", Set, "default", "3.4", "Comma list of 'default', 'stdout', 'stderr', 'systemd/journal' and files."),
    flag(Logging, "log-level", Text, "info", "3.4", "debug, info, warn, error, dpanic, panic or fatal."),
    flag(Logging, "log-format", Text, "json", "3.6", "json or console."),
    flag(Logging, "enable-log-rotation", Bool, "false", "3.5", "Rotate the one file among --log-outputs."),
    flag(Logging, "log-rotation-config-json", Text, DEFAULT_LOG_ROTATION, "3.5", "How to rotate it: megabytes, days, files."),
    flag(Logging, "warning-unary-request-duration", Duration, "300ms", "3.6", "Warn about a request that takes longer."),

    flag(Tracing, "enable-distributed-tracing", Bool, "false", "3.6", "Export OpenTelemetry traces."),
    flag(Tracing, "distributed-tracing-address", Text, "localhost:4317", "3.6", "Collector that takes OTLP over gRPC."),
    flag(Tracing, "distributed-tracing-service-name", Text, "etcd", "3.6", "Name of the service in traces, the same for all members."),
    flag(Tracing, "distributed-tracing-instance-id", Text, "", "3.6", "Name of this member in traces."),
    flag(Tracing, "distributed-tracing-sampling-rate", Int, "0", "3.6", "Traces to keep in a million, besides those a caller has sampled."),

    flag(Features, "corrupt-check-time", Duration, "0s", "3.6", "Time between two comparisons of all members' data; 0 for none."),
    flag(Features, "compact-hash-check-time", Duration, "1m0s", "3.6", "Time between two comparisons of compaction hashes."),
    flag(Features, "compaction-batch-limit", Int, "0", "3.6", "Revisions deleted in one slice of a compaction; 0 stands for 1000."),
    flag(Features, "compaction-sleep-interval", Duration, "0s", "3.6", "Pause between two slices; 0 stands for 10ms."),
    flag(Features, "watch-progress-notify-interval", Duration, "0s", "3.6", "Time between two progress notifications to a quiet watcher; 0 stands for 10m."),
    flag(Features, "warning-apply-duration", Duration, "100ms", "3.6", "Warn about an entry that takes longer to apply."),
    flag(Features, "bootstrap-defrag-threshold-megabytes", Uint, "0", "3.6", "Give space back after a start when so many megabytes are free; 0 is never."),
    flag(Features, "max-learners", Int, "1", "3.6", "Learners a cluster may have at a time."),
    flag(Features, "downgrade-check-time", Duration, "5s", "3.6", "Time between two looks at a downgrade under way."),

    flag(Unsafe, "force-new-cluster", Bool, "false", "2.0", "Turn this member's data into a cluster of one."),
    flag(Unsafe, "unsafe-no-fsync", Bool, "false", "3.4", "Never wait for the disk. Loses data."),

    keyed(FileKey::None, flag(Hidden, "config-file", Text, "", "3.0", "")),
    keyed(FileKey::None, flag(Hidden, "version", Bool, "false", "2.0", "")),
    ignored("cluster-active-size"),
    ignored("cluster-remove-delay"),
    ignored("cluster-sync-interval"),
    ignored("config"),
    ignored("force"),
    ignored("max-result-buffer"),
    ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"),
    ignored("peer-election-timeout"),
    ignored("retry-interval"),
    ignored("snapshot"),
    ignored("v"),
    ignored("vv"),
    ignored("test.coverprofile"),
    ignored("test.outputdir"),
];

/// What a file can set and nothing else can, by the path of its key.
#[rustfmt::skip]
pub static FILE_KEYS: &[Flag] = &[
    keyed(Nested(&[CLIENT_TLS, "allowed-cn"]), flag(Security, "client-transport-security.allowed-cn", List, "", "3.6", "Common names one of which a client's certificate must have.")),
    keyed(Nested(&[CLIENT_TLS, "skip-client-san-verification"]), flag(Security, "client-transport-security.skip-client-san-verification", Bool, "false", "3.6", "Do not compare a client's address with its certificate.")),
    keyed(Nested(&[DISCOVERY, "client", "max-request-bytes"]), flag(Clustering, "discovery-config.client.max-request-bytes", Int, "0", "3.6", "Size of the largest request to a discovery server; 0 for its default.")),
    keyed(Nested(&[DISCOVERY, "client", "max-recv-bytes"]), flag(Clustering, "discovery-config.client.max-recv-bytes", Int, "0", "3.6", "Size of the largest answer of a discovery server; 0 for its default.")),
    keyed(Nested(&[DISCOVERY, "client", "secure", "server-name"]), flag(Clustering, "discovery-config.client.secure.server-name", Text, "", "3.6", "Name a discovery server's certificate must be for, if not that of its address.")),
    keyed(Nested(&[DISCOVERY, "client", "auth", "token"]), flag(Clustering, "discovery-config.client.auth.token", Text, "", "3.6", "Token for discovery servers, in place of user and password.")),
];

/// A flag by its name, without dashes.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Everything that has a value: the flags, and what only a file can set.
pub fn settings() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().chain(FILE_KEYS)
}

/// How mature etcd 3.7.1 calls a feature gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off until asked for.
    Alpha,
    /// On until told otherwise.
    Beta,
}

/// The gates and their stage; the stage decides the default.
pub static GATES: &[(&str, Stage)] = &[
    ("StopGRPCServiceOnDefrag", Stage::Alpha),
    ("InitialCorruptCheck", Stage::Alpha),
    ("CompactHashCheck", Stage::Alpha),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta),
    ("LeaseCheckpoint", Stage::Alpha),
    ("LeaseCheckpointPersist", Stage::Alpha),
    ("SetMemberLocalAddr", Stage::Alpha),
    ("FastLeaseKeepAlive", Stage::Beta),
    ("PriorityRequest", Stage::Alpha),
];

/// Cipher suites by the names Go knows: its own lists, secure and insecure, and two old spellings.
pub static CIPHER_SUITES: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
];
