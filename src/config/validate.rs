//! Whether settings make sense together: etcd's checks, in etcd's order, with etcd's texts.
//!
//! [`verify`] is what etcd does before anything else (`failed to verify flags`); [`verify_start`] what it finds out when
//! it sets up listeners (`discovery failed`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::file::refused_choice;
use super::gates::FeatureGates;
use super::go::{self, quote, quote_list};
use super::note::{Level, Note};
use super::settings::{GateError, Settings};
use super::table;
use super::typed::{AutoCompaction, Config, TlsSide};
use crate::membership::urls::{Scheme, Url, UrlSet};
use crate::telemetry::log::{LogFormat, LogRotation, LogSettings};

const ELECTION_MS_MAX: u64 = 50_000;
const SAMPLES_MAX: i64 = 1_000_000;
const MAX_REQUEST_BYTES_RECOMMENDED: u64 = 10 << 20;
const QUOTA_BYTES_RECOMMENDED_MAX: u64 = 8 << 30;

/// A setting, or two, that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("--logger=capnslog is removed in v3.5")]
    Capnslog,
    #[error("unknown logger option {}", quote(.0))]
    Logger(String),
    /// etcd panics here: the exit code is 2 and nothing is logged.
    #[error("unrecognized level: {}", quote(.0))]
    LogLevel(String),
    #[error("unknown log format: {0}, supported values json, console")]
    LogFormat(String),
    #[error("multi logoutput for \"default\" is not supported yet")]
    LogDefaultAmongOthers,
    #[error("running with systemd/journal but other '--log-outputs' values ({}) are configured with 'default'; override 'default' value with something else", quote_list(.0))]
    LogJournalAmongOthers(Vec<String>),
    #[error("--log-outputs requires a single file path when --log-rotate-config-json is defined")]
    LogRotationWithoutFile,
    #[error("improperly formatted log rotation config: {0}")]
    LogRotationSyntax(String),
    #[error("invalid log rotation config: {0}")]
    LogRotationType(String),
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"")]
    DiscoveryFallback,
    #[error("expected IP in URL for binding ({0})")]
    BindToName(String),
    #[error("--initial-advertise-peer-urls {} must be \"host:port\" (unexpected empty host ({url}))", quote(all))]
    AdvertisePeer { all: String, url: String },
    #[error(
        "--advertise-client-urls {} must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host ({url}))",
        quote(all)
    )]
    AdvertiseClient { all: String, url: String },
    #[error("unexpected clusterState {}", quote(.0))]
    ClusterState(String),
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
    )]
    BootstrapTwice,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    HalfADiscovery,
    #[error("--discovery-endpoints must not contain empty endpoints")]
    EmptyDiscoveryEndpoint,
    #[error("--heartbeat-interval must be >0 (set to 0ms)")]
    NoHeartbeat,
    #[error("--election-timeout must be >0 (set to 0ms)")]
    NoElectionTimeout,
    #[error(
        "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort { election_ms: u64, heartbeat_ms: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong(u64),
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseMissing,
    #[error("undefined auto-compaction-mode")]
    NoCompactionMode,
    #[error("unknown auto-compaction-mode {}", quote(.0))]
    CompactionMode(String),
    #[error("distributed tracing configurition is not valid: (tracing sampling rate must be positive)")]
    SamplingBelowZero,
    #[error("distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)")]
    SamplingTooHigh,
    #[error("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")]
    LeaseCheckpointPersist,
    #[error("--compact-hash-check-time must be >0 (set to {0})")]
    CompactHashCheckTime(String),
    #[error("unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)", quote(.0))]
    TlsVersion(String),
    #[error("min version ({min}) is greater than max version ({max})")]
    TlsVersions { min: String, max: String },
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    CipherSuitesOfTls13,
    #[error(transparent)]
    Gates(#[from] GateError),
    /// A word in a file that is none of the flag's.
    #[error("{0}")]
    Choice(String),

    #[error("unexpected TLS cipher suite {}", quote(.0))]
    CipherSuite(String),
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    SelfSignedCertValidity,
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    KeyPair { key: String, cert: String },
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
        quote_list(cns),
        quote_list(hostnames)
    )]
    AllowedTwice { cns: Vec<String>, hostnames: Vec<String> },
    #[error("TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS scheme")]
    NoKeyPairForClients(String),
    #[error("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")]
    NoKeyPairForMetrics,
    #[error("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}")]
    BoundTwice(String),
    #[error("error parsing CompactionRetention: {0}")]
    CompactionRetention(String),
}

/// Where the settings come from; two checks are for one of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    CommandLine,
    File,
}

/// What verification makes of texts.
pub(super) struct Verified {
    pub feature_gates: FeatureGates,
}

/// `logging` stays at its default until the wishes about it are known to be good: errors are logged with it.
pub(super) fn verify(
    settings: &Settings,
    origin: Origin,
    advertise_client_urls: &UrlSet,
    initial_cluster: &str,
    logging: &mut LogSettings,
    notes: &mut Vec<Note>,
) -> Result<Verified, ConfigError> {
    if origin == Origin::CommandLine && settings.text("discovery-fallback") == "proxy" {
        return Err(ConfigError::DiscoveryFallback);
    }
    *logging = verify_logging(settings)?;
    for urls in ["listen-peer-urls", "listen-client-urls", "listen-client-http-urls"] {
        verify_bind(&settings.urls(urls))?;
    }
    if settings.urls("listen-client-http-urls").is_empty() {
        let text = "Running http and grpc server on single port. This is not recommended for production.";
        notes.push(Note::new(Level::Warn, text));
    }
    verify_bind(&settings.urls("listen-metrics-urls"))?;
    let peer_urls = settings.urls("initial-advertise-peer-urls");
    if let Some(url) = without_host(&peer_urls) {
        return Err(ConfigError::AdvertisePeer { all: peer_urls.to_string(), url });
    }
    if let Some(url) = without_host(advertise_client_urls) {
        return Err(ConfigError::AdvertiseClient { all: advertise_client_urls.to_string(), url });
    }
    verify_bootstrap_source(settings, initial_cluster)?;
    verify_times(settings)?;
    if advertise_client_urls.is_empty() {
        return Err(ConfigError::AdvertiseMissing);
    }
    match settings.text("auto-compaction-mode") {
        "periodic" | "revision" => {}
        "" => return Err(ConfigError::NoCompactionMode),
        other => return Err(ConfigError::CompactionMode(other.to_owned())),
    }
    if settings.bool("enable-distributed-tracing") {
        match settings.signed("distributed-tracing-sampling-rate") {
            ..0 => return Err(ConfigError::SamplingBelowZero),
            0..=SAMPLES_MAX => {}
            _ => return Err(ConfigError::SamplingTooHigh),
        }
    }
    let feature_gates = FeatureGates::parse(settings.text("feature-gates"))?;
    match (feature_gates.is_on("LeaseCheckpoint"), feature_gates.is_on("LeaseCheckpointPersist")) {
        (true, false) => notes.push(Note::new(
            Level::Warn,
            "Detected that checkpointing is enabled without persistence. \
             Consider enabling feature gate LeaseCheckpointPersist",
        )),
        (false, true) => return Err(ConfigError::LeaseCheckpointPersist),
        (true, true) | (false, false) => {}
    }
    let hash_check = settings.nanos("compact-hash-check-time");
    if hash_check <= 0 {
        return Err(ConfigError::CompactHashCheckTime(go::format_duration(hash_check)));
    }
    if settings.text("name") == table::DEFAULT_NAME {
        let text = "it isn't recommended to use default name, please set a value for --name. \
                    Note that etcd might run into issue when multiple members have the same default name";
        notes.push(Note::new(Level::Warn, text).with("name", table::DEFAULT_NAME));
    }
    verify_tls_versions(settings)?;
    if let Some(text) = table::find("storage").and_then(|flag| refused_choice(flag, settings.text("storage"))) {
        return Err(ConfigError::Choice(text));
    }
    Ok(Verified { feature_gates })
}

fn verify_bind(urls: &UrlSet) -> Result<(), ConfigError> {
    let to_name = |host: &str| host != "localhost" && host.parse::<IpAddr>().is_err();
    match urls.iter().find(|url| !url.scheme().is_unix() && to_name(url.host())) {
        Some(url) => Err(ConfigError::BindToName(url.to_string())),
        None => Ok(()),
    }
}

fn without_host(urls: &UrlSet) -> Option<String> {
    urls.iter().find(|url| !url.scheme().is_unix() && url.host().is_empty()).map(ToString::to_string)
}

fn verify_bootstrap_source(settings: &Settings, initial_cluster: &str) -> Result<(), ConfigError> {
    match settings.text("initial-cluster-state") {
        "new" | "existing" => {}
        other => return Err(ConfigError::ClusterState(other.to_owned())),
    }
    let endpoints = settings.list("discovery-endpoints");
    let sources = [!initial_cluster.is_empty(), !settings.text("discovery-srv").is_empty(), !endpoints.is_empty()];
    if sources.into_iter().filter(|given| *given).count() > 1 {
        return Err(ConfigError::BootstrapTwice);
    }
    if settings.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err(ConfigError::HalfADiscovery);
    }
    if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err(ConfigError::EmptyDiscoveryEndpoint);
    }
    Ok(())
}

fn verify_times(settings: &Settings) -> Result<(), ConfigError> {
    let (heartbeat_ms, election_ms) = (settings.unsigned("heartbeat-interval"), settings.unsigned("election-timeout"));
    if heartbeat_ms == 0 {
        return Err(ConfigError::NoHeartbeat);
    }
    if election_ms == 0 {
        return Err(ConfigError::NoElectionTimeout);
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return Err(ConfigError::ElectionTooShort { election_ms, heartbeat_ms });
    }
    if election_ms > ELECTION_MS_MAX {
        return Err(ConfigError::ElectionTooLong(election_ms));
    }
    Ok(())
}

fn verify_tls_versions(settings: &Settings) -> Result<(), ConfigError> {
    let version = |name: &str| match settings.text(name) {
        "" => Ok(0),
        "TLS1.2" => Ok(2),
        "TLS1.3" => Ok(3),
        other => Err(ConfigError::TlsVersion(other.to_owned())),
    };
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    if max != 0 && min > max {
        let text = |name: &str| settings.text(name).to_owned();
        return Err(ConfigError::TlsVersions { min: text("tls-min-version"), max: text("tls-max-version") });
    }
    if min == 3 && !settings.list("cipher-suites").is_empty() {
        return Err(ConfigError::CipherSuitesOfTls13);
    }
    Ok(())
}

fn verify_logging(settings: &Settings) -> Result<LogSettings, ConfigError> {
    match settings.text("logger") {
        "zap" => {}
        "capnslog" => return Err(ConfigError::Capnslog),
        other => return Err(ConfigError::Logger(other.to_owned())),
    }
    let mut words = settings.list("log-outputs");
    if words.is_empty() {
        words.push("default".to_owned());
    }
    if words.len() > 1 && words.iter().any(|word| word == "default") {
        return Err(ConfigError::LogDefaultAmongOthers);
    }
    let rotation = match settings.bool("enable-log-rotation") {
        true => Some(verify_rotation(&words, settings.text("log-rotation-config-json"))?),
        false => None,
    };
    let level = settings.text("log-level");
    let level = Level::parse(level).ok_or_else(|| ConfigError::LogLevel(level.to_owned()))?;
    let format = match settings.text("log-format") {
        "" | "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(ConfigError::LogFormat(other.to_owned())),
    };
    if words.len() > 1 && words.iter().any(|word| word == "systemd/journal") {
        return Err(ConfigError::LogJournalAmongOthers(words));
    }
    Ok(LogSettings { level: level.into(), format, outputs: words, rotation })
}

fn verify_rotation(outputs: &[String], json: &str) -> Result<LogRotation, ConfigError> {
    let files = outputs.iter().filter(|output| !matches!(output.as_str(), "default" | "stderr" | "stdout")).count();
    if files > 1 || (outputs.len() == 1 && files == 0) {
        return Err(ConfigError::LogRotationWithoutFile);
    }
    let misfit = |field: &str, found: &serde_json::Value, expected: &str| {
        let found = match found {
            serde_json::Value::Null => "null".to_owned(),
            serde_json::Value::Bool(_) => "bool".to_owned(),
            serde_json::Value::Number(number) => format!("number {number}"),
            serde_json::Value::String(_) => "string".to_owned(),
            serde_json::Value::Array(_) => "array".to_owned(),
            serde_json::Value::Object(_) => "object".to_owned(),
        };
        let text =
            format!("json: cannot unmarshal {found} into Go struct field logRotationConfig.{field} of type {expected}");
        ConfigError::LogRotationType(text)
    };
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|error| ConfigError::LogRotationSyntax(error.to_string()))?;
    let Some(object) = value.as_object() else {
        let text = "json: cannot unmarshal into Go value of type embed.logRotationConfig".to_owned();
        return Err(ConfigError::LogRotationType(text));
    };
    let find = |field: &str| {
        object
            .iter()
            .rfind(|(name, value)| name.eq_ignore_ascii_case(field) && !value.is_null())
            .map(|(_, value)| value)
    };
    let count = |field: &str, default: u64| match find(field) {
        None => Ok(default),
        // A negative number means no limit to the library etcd uses.
        Some(value) => {
            value.as_i64().map(|number| u64::try_from(number).unwrap_or(0)).ok_or_else(|| misfit(field, value, "int"))
        }
    };
    let switch = |field: &str| match find(field) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| misfit(field, value, "bool")),
    };
    Ok(LogRotation {
        megabytes_max: match count("maxsize", 100)? {
            0 => 100,
            megabytes => megabytes,
        },
        age_days_max: count("maxage", 0)?,
        backups_max: count("maxbackups", 0)?,
        local_time: switch("localtime")?,
        compress: switch("compress")?,
    })
}

/// `8` is hours or revisions by the mode; `30m` is a time, which in revision mode counts by its nanoseconds.
pub(super) fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, ConfigError> {
    let retention = if retention.is_empty() { "0" } else { retention };
    let digits = retention.strip_prefix('+').unwrap_or(retention);
    let plain = digits.parse::<i64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let amount = match plain {
        Some(amount) => amount,
        None => go::parse_duration(retention).map_err(ConfigError::CompactionRetention)?,
    };
    let amount = u64::try_from(amount)
        .map_err(|_| ConfigError::CompactionRetention(format!("time: invalid duration {}", quote(retention))))?;
    Ok(match mode {
        _ if amount == 0 => AutoCompaction::Off,
        "revision" => AutoCompaction::Revision(amount),
        _ if plain.is_some() => AutoCompaction::Periodic(Duration::from_secs(amount.saturating_mul(3600))),
        _ => AutoCompaction::Periodic(Duration::from_nanos(amount)),
    })
}

/// The checks of the start-up after verification; warnings go to `notes`.
pub(super) fn verify_start(config: &Config, notes: &mut Vec<Note>) -> Result<(), ConfigError> {
    let unknown = |suite: &&String| !table::CIPHER_SUITES.contains(&suite.as_str());
    if let Some(suite) = config.cipher_suites.iter().find(unknown) {
        return Err(ConfigError::CipherSuite(suite.clone()));
    }
    if config.self_signed_cert_validity_years == 0 && (config.peer_tls.auto_tls || config.client_tls.auto_tls) {
        return Err(ConfigError::SelfSignedCertValidity);
    }
    for url in &config.listen_peer_urls {
        if url.scheme() == Scheme::Http {
            warn_of_unused_tls(&config.peer_tls, "HTTP", "peer", "peer-url", url.as_str(), notes);
        } else if url.scheme().is_tls() {
            verify_key_pair(&config.peer_tls)?;
        }
    }
    let clients = || config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    for url in clients() {
        if !url.scheme().is_tls() {
            warn_of_unused_tls(&config.client_tls, "http or unix", "client", "client-url", url.as_str(), notes);
        } else if config.client_tls.has_no_key_pair() && !config.client_tls.auto_tls {
            return Err(ConfigError::NoKeyPairForClients(url.to_string()));
        }
    }
    let grpc: BTreeSet<String> = config.listen_client_urls.iter().map(place).collect();
    if let Some(url) = config.listen_client_http_urls.iter().find(|url| grpc.contains(&place(url))) {
        return Err(ConfigError::BoundTwice(url.to_string()));
    }
    if clients().any(|url| url.scheme().is_tls()) {
        verify_key_pair(&config.client_tls)?;
    }
    let metrics_tls = config.listen_metrics_urls.iter().any(|url| url.scheme().is_tls());
    if metrics_tls && config.client_tls.has_no_key_pair() && !config.client_tls.auto_tls {
        return Err(ConfigError::NoKeyPairForMetrics);
    }
    warn_of_sizes(config, notes);
    Ok(())
}

fn place(url: &Url) -> String {
    url.socket_path().unwrap_or_else(|| url.authority().to_owned())
}

fn verify_key_pair(tls: &TlsSide) -> Result<(), ConfigError> {
    if tls.has_no_key_pair() && tls.auto_tls {
        return Ok(());
    }
    if tls.key_file.is_empty() || tls.cert_file.is_empty() {
        return Err(ConfigError::KeyPair { key: tls.key_file.clone(), cert: tls.cert_file.clone() });
    }
    if !tls.allowed_cns.is_empty() && !tls.allowed_hostnames.is_empty() {
        let (cns, hostnames) = (tls.allowed_cns.clone(), tls.allowed_hostnames.clone());
        return Err(ConfigError::AllowedTwice { cns, hostnames });
    }
    Ok(())
}

fn warn_of_unused_tls(tls: &TlsSide, scheme: &str, side: &str, field: &'static str, url: &str, notes: &mut Vec<Note>) {
    if !tls.has_no_key_pair() {
        let text = format!("scheme is {scheme} while key and cert files are present; ignoring key and cert files");
        notes.push(Note::new(Level::Warn, text).with(field, url));
    }
    if tls.client_cert_auth {
        let flag = if side == "peer" { "--peer-client-cert-auth" } else { "--client-cert-auth" };
        let text = format!("scheme is {scheme} while {flag} is enabled; ignoring client cert auth for this URL");
        notes.push(Note::new(Level::Warn, text).with(field, url));
    }
}

fn warn_of_sizes(config: &Config, notes: &mut Vec<Note>) {
    if config.max_request_bytes > MAX_REQUEST_BYTES_RECOMMENDED {
        let note = Note::new(Level::Warn, "exceeded recommended request limit")
            .with("max-request-bytes", config.max_request_bytes)
            .with("recommended-request-bytes", MAX_REQUEST_BYTES_RECOMMENDED);
        notes.push(note);
    }
    if let Some(bytes) = config.quota_backend_bytes.filter(|bytes| *bytes > QUOTA_BYTES_RECOMMENDED_MAX) {
        let note = Note::new(Level::Warn, "quota exceeds the maximum value")
            .with("quota-size-bytes", bytes)
            .with("quota-maximum-size-bytes", QUOTA_BYTES_RECOMMENDED_MAX);
        notes.push(note);
    }
    if !(4..=31).contains(&config.bcrypt_cost) {
        let note = Note::new(Level::Warn, "use default bcrypt cost instead of the invalid given cost")
            .with("min-cost", 4u64)
            .with("max-cost", 31u64)
            .with("default-cost", 10u64)
            .with("given-cost", config.bcrypt_cost);
        notes.push(note);
    }
}
