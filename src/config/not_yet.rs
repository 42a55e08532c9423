//! Settings castd takes and checks, but cannot serve yet: what nobody may start with, and what is merely ignored.
//!
//! When a feature lands, its row goes.

use std::fmt;

use super::typed::{Config, InitialClusterState, TlsSide};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Starting would be unsafe, or would pretend: do not start.
    Refuse,
    /// Harmless: say so and go on.
    Warn,
}

/// One setting that has no effect yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotYet {
    pub flag: &'static str,
    pub severity: Severity,
    pub text: String,
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}: {}", self.flag, self.text)
    }
}

type Asked = fn(&Config) -> bool;

fn asks_for_tls(side: &TlsSide) -> bool {
    !side.has_no_key_pair() || !side.client_cert_file.is_empty() || !side.client_key_file.is_empty()
}

fn has_https(config: &Config) -> bool {
    let all = [
        &config.listen_peer_urls,
        &config.listen_client_urls,
        &config.listen_client_http_urls,
        &config.listen_metrics_urls,
        &config.initial_advertise_peer_urls,
    ];
    all.into_iter().flatten().any(|url| url.scheme().is_tls())
}

fn has_unix(config: &Config) -> bool {
    [&config.listen_peer_urls, &config.listen_client_urls].into_iter().flatten().any(|url| url.scheme().is_unix())
}

const REFUSED: &[(&str, Asked, &str)] = &[
    ("listen-client-urls", has_https, "https and unixs URLs are not served yet"),
    ("listen-client-urls", has_unix, "unix sockets are not served yet"),
    (
        "listen-client-http-urls",
        |c| !c.listen_client_http_urls.is_empty(),
        "separate HTTP listeners are not served yet",
    ),
    ("listen-metrics-urls", |c| !c.listen_metrics_urls.is_empty(), "separate metrics listeners are not served yet"),
    ("cert-file", |c| asks_for_tls(&c.client_tls), "TLS towards clients is not served yet"),
    ("peer-cert-file", |c| asks_for_tls(&c.peer_tls), "TLS towards peers is not served yet"),
    ("client-cert-auth", |c| c.client_tls.client_cert_auth, "clients' certificates are not checked yet"),
    ("trusted-ca-file", |c| !c.client_tls.trusted_ca_file.is_empty(), "clients' certificates are not checked yet"),
    ("client-crl-file", |c| !c.client_tls.crl_file.is_empty(), "clients' certificates are not checked yet"),
    (
        "client-cert-allowed-hostname",
        |c| !c.client_tls.allowed_hostnames.is_empty(),
        "clients' certificates are not checked yet",
    ),
    ("auto-tls", |c| c.client_tls.auto_tls, "TLS towards clients is not served yet"),
    ("peer-client-cert-auth", |c| c.peer_tls.client_cert_auth, "peers' certificates are not checked yet"),
    ("peer-trusted-ca-file", |c| !c.peer_tls.trusted_ca_file.is_empty(), "peers' certificates are not checked yet"),
    ("peer-crl-file", |c| !c.peer_tls.crl_file.is_empty(), "peers' certificates are not checked yet"),
    ("peer-cert-allowed-cn", |c| !c.peer_tls.allowed_cns.is_empty(), "peers' certificates are not checked yet"),
    (
        "peer-cert-allowed-hostname",
        |c| !c.peer_tls.allowed_hostnames.is_empty(),
        "peers' certificates are not checked yet",
    ),
    ("peer-auto-tls", |c| c.peer_tls.auto_tls, "TLS towards peers is not served yet"),
    ("auth-token", |c| c.auth_token != "simple", "only simple tokens are served yet"),
    ("discovery", |c| !c.discovery.v2_url.is_empty(), "v2 discovery is not served yet"),
    ("discovery-endpoints", |c| !c.discovery.endpoints.is_empty(), "v3 discovery is not served yet"),
    ("discovery-srv", |c| !c.discovery.srv_domain.is_empty(), "discovery by DNS is not served yet"),
    ("initial-cluster", has_other_members, "clusters of more than one member are not served yet"),
    (
        "initial-cluster-state",
        |c| c.initial_cluster_state == InitialClusterState::Existing,
        "joining an existing cluster is not served yet",
    ),
    ("force-new-cluster", |c| c.force_new_cluster, "turning a member into a cluster of one is not served yet"),
];

const IGNORED: &[(&str, Asked, &str)] = &[
    ("enable-v2", |c| c.enable_v2, "the v2 API is not served yet"),
    ("corrupt-check-time", |c| !c.corrupt_check_time.is_zero(), "members' data is not compared yet"),
    ("enable-pprof", |c| c.enable_pprof, "profiles are not served yet"),
    ("memory-mlock", |c| c.memory_mlock, "memory is not locked yet"),
    ("enable-log-rotation", |c| c.log_rotation.is_some(), "log files are not rotated yet"),
    ("socket-reuse-port", |c| c.socket_reuse_port, "the socket option is not set yet"),
    ("socket-reuse-address", |c| c.socket_reuse_address, "the socket option is not set yet"),
    ("discovery-proxy", |c| !c.discovery.v2_proxy.is_empty(), "v2 discovery is not served yet"),
];

fn has_other_members(config: &Config) -> bool {
    // One that cannot be parsed is refused elsewhere, with a better text.
    config.initial_cluster_map().is_ok_and(|cluster| cluster.len() > 1)
}

impl Config {
    /// What was asked for and is not there, the worst first. `main` ends when any of it is to be refused.
    ///
    /// The initial cluster counts only for a member without data: of one that has some, drop those two rows.
    pub fn not_yet(&self) -> Vec<NotYet> {
        let rows = |table: &[(&'static str, Asked, &str)], severity| -> Vec<NotYet> {
            let asked = table.iter().filter(|(_, asked, _)| asked(self));
            asked.map(|(flag, _, text)| NotYet { flag, severity, text: (*text).to_owned() }).collect()
        };
        let mut all = rows(REFUSED, Severity::Refuse);
        all.extend(rows(IGNORED, Severity::Warn));
        all.extend(self.feature_gates.changed().map(|(gate, on)| NotYet {
            flag: "feature-gates",
            severity: Severity::Warn,
            text: format!("{gate}={on} has no effect yet"),
        }));
        all.extend(self.bbolt_flags_given.iter().map(|flag| NotYet {
            flag,
            severity: Severity::Warn,
            text: "is for etcd's bbolt and has no effect here".to_owned(),
        }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn what_would_be_unsafe_to_ignore_is_refused_and_the_rest_warned_about() {
        assert_eq!(config(&[]).not_yet(), []);
        for (line, flag, severity) in [
            (&["--cert-file=a", "--key-file=b"][..], "cert-file", Severity::Refuse),
            (&["--peer-auto-tls"], "peer-auto-tls", Severity::Refuse),
            (&["--trusted-ca-file=a"], "trusted-ca-file", Severity::Refuse),
            (&["--client-cert-auth"], "client-cert-auth", Severity::Refuse),
            (&["--auth-token=jwt,sign-method=RS256"], "auth-token", Severity::Refuse),
            (&["--discovery=http://d:1/x", "--initial-cluster="], "discovery", Severity::Refuse),
            (&["--discovery-srv=example.com"], "discovery-srv", Severity::Refuse),
            (&["--discovery-token=t", "--discovery-endpoints=e"], "discovery-endpoints", Severity::Refuse),
            (&["--initial-cluster=default=http://h:1,b=http://i:1"], "initial-cluster", Severity::Refuse),
            (&["--initial-cluster-state=existing"], "initial-cluster-state", Severity::Refuse),
            (&["--force-new-cluster"], "force-new-cluster", Severity::Refuse),
            (&["--listen-metrics-urls=http://127.0.0.1:1"], "listen-metrics-urls", Severity::Refuse),
            (&["--listen-client-http-urls=http://127.0.0.1:1"], "listen-client-http-urls", Severity::Refuse),
            (&["--listen-peer-urls=unix:///p"], "listen-client-urls", Severity::Refuse),
            (&["--corrupt-check-time=1m"], "corrupt-check-time", Severity::Warn),
            (&["--enable-pprof"], "enable-pprof", Severity::Warn),
            (&["--feature-gates=CompactHashCheck=true"], "feature-gates", Severity::Warn),
            (&["--backend-batch-limit=5"], "backend-batch-limit", Severity::Warn),
            (&["--enable-v2"], "enable-v2", Severity::Warn),
        ] {
            let found = config(line).not_yet();
            assert_eq!(found.first().map(|f| (f.flag, f.severity)), Some((flag, severity)), "{line:?}: {found:?}");
        }
    }

    #[test]
    fn every_flag_named_here_is_in_the_table() {
        for (flag, _, _) in REFUSED.iter().chain(IGNORED) {
            assert!(super::super::table::find(flag).is_some(), "{flag}");
        }
    }
}
