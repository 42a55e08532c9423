//! Settings castd takes and checks, but cannot serve yet: what nobody may start with, and what is merely ignored.
//!
//! When a feature lands, its row goes, and `docs/configuration.md` is written again (see [`super::table`]).

use std::fmt;
use std::time::Duration;

use super::state::{GATES_WITHOUT_EFFECT, WITHOUT_EFFECT};
use super::typed::Config;
use crate::membership::urls::UrlSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Starting would be unsafe, or would pretend: do not start.
    Refuse,
    /// Harmless: say so and go on.
    Warn,
    /// As harmless, and no later release will change it.
    WithoutEffect,
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
        match self.severity {
            Severity::Refuse => write!(f, "--{}: {}; a later release of castd will", self.flag, self.text),
            Severity::Warn | Severity::WithoutEffect => write!(f, "--{}: {}", self.flag, self.text),
        }
    }
}

impl NotYet {
    /// Whether a member that has data goes by its data, and this does not matter.
    pub fn is_for_new_members(&self) -> bool {
        matches!(self.flag, "discovery" | "discovery-proxy" | "discovery-endpoints" | "discovery-srv")
    }
}

type Asked = fn(&Config) -> bool;

fn has_tls(urls: &UrlSet) -> bool {
    urls.iter().any(|url| url.scheme().is_tls())
}

const NO_CLIENT_TLS: &str = "TLS towards clients is not served yet";
const NO_PEER_TLS: &str = "TLS towards peers is not served yet";
const NO_CLIENT_CHECKS: &str = "clients' certificates are not checked yet";
const NO_PEER_CHECKS: &str = "peers' certificates are not checked yet";
const NO_TLS: &str = "TLS is not served yet";
const NO_USERS: &str = "there are no users, passwords and tokens yet";

#[rustfmt::skip]
const REFUSED: &[(&str, Asked, &str)] = &[
    ("listen-peer-urls", |c| has_tls(&c.listen_peer_urls), "https and unixs URLs are not served yet"),
    ("listen-client-urls", |c| has_tls(&c.listen_client_urls), "https and unixs URLs are not served yet"),
    ("listen-client-http-urls", |c| has_tls(&c.listen_client_http_urls), "https and unixs URLs are not served yet"),
    ("listen-metrics-urls", |c| has_tls(&c.listen_metrics_urls), "https and unixs URLs are not served yet"),
    ("initial-advertise-peer-urls", |c| has_tls(&c.initial_advertise_peer_urls), "https and unixs URLs are not served yet"),
    ("cert-file", |c| !c.client_tls.cert_file.is_empty(), NO_CLIENT_TLS),
    ("key-file", |c| !c.client_tls.key_file.is_empty(), NO_CLIENT_TLS),
    ("client-cert-file", |c| !c.client_tls.client_cert_file.is_empty(), NO_CLIENT_TLS),
    ("client-key-file", |c| !c.client_tls.client_key_file.is_empty(), NO_CLIENT_TLS),
    ("client-cert-auth", |c| c.client_tls.client_cert_auth, NO_CLIENT_CHECKS),
    ("trusted-ca-file", |c| !c.client_tls.trusted_ca_file.is_empty(), NO_CLIENT_CHECKS),
    ("client-crl-file", |c| !c.client_tls.crl_file.is_empty(), NO_CLIENT_CHECKS),
    ("client-cert-allowed-hostname", |c| !c.client_tls.allowed_hostnames.is_empty(), NO_CLIENT_CHECKS),
    ("client-transport-security.allowed-cn", |c| !c.client_tls.allowed_cns.is_empty(), NO_CLIENT_CHECKS),
    ("auto-tls", |c| c.client_tls.auto_tls, NO_CLIENT_TLS),
    ("peer-cert-file", |c| !c.peer_tls.cert_file.is_empty(), NO_PEER_TLS),
    ("peer-key-file", |c| !c.peer_tls.key_file.is_empty(), NO_PEER_TLS),
    ("peer-client-cert-file", |c| !c.peer_tls.client_cert_file.is_empty(), NO_PEER_TLS),
    ("peer-client-key-file", |c| !c.peer_tls.client_key_file.is_empty(), NO_PEER_TLS),
    ("peer-client-cert-auth", |c| c.peer_tls.client_cert_auth, NO_PEER_CHECKS),
    ("peer-trusted-ca-file", |c| !c.peer_tls.trusted_ca_file.is_empty(), NO_PEER_CHECKS),
    ("peer-crl-file", |c| !c.peer_tls.crl_file.is_empty(), NO_PEER_CHECKS),
    ("peer-cert-allowed-cn", |c| !c.peer_tls.allowed_cns.is_empty(), NO_PEER_CHECKS),
    ("peer-cert-allowed-hostname", |c| !c.peer_tls.allowed_hostnames.is_empty(), NO_PEER_CHECKS),
    ("peer-auto-tls", |c| c.peer_tls.auto_tls, NO_PEER_TLS),
    ("auth-token", |c| c.auth_token != "simple", "only simple tokens are served yet"),
    ("discovery", |c| !c.discovery.v2_url.is_empty(), "v2 discovery is not served yet"),
    ("discovery-endpoints", |c| !c.discovery.endpoints.is_empty(), "v3 discovery is not served yet"),
    ("discovery-srv", |c| !c.discovery.srv_domain.is_empty(), "discovery by DNS is not served yet"),
];

#[rustfmt::skip]
const IGNORED: &[(&str, Asked, &str)] = &[
    ("enable-v2", |c| c.enable_v2, "the v2 API is not served yet"),
    ("downgrade-check-time", |c| c.downgrade_check_time != Duration::from_secs(5), "a member's data is never converted for the release before, so nothing is looked at"),
    ("initial-election-tick-advance", |c| !c.initial_election_tick_advance, "a lone member campaigns at once, and all others wait for one election time-out"),
    ("discovery-proxy", |c| !c.discovery.v2_proxy.is_empty(), "v2 discovery is not served yet"),
    ("peer-skip-client-san-verification", |c| c.peer_tls.skip_client_san_verification, NO_PEER_CHECKS),
    ("self-signed-cert-validity", |c| c.self_signed_cert_validity_years != 1, NO_TLS),
    ("cipher-suites", |c| !c.cipher_suites.is_empty(), NO_TLS),
    ("tls-min-version", |c| c.tls_min_version != "TLS1.2", NO_TLS),
    ("tls-max-version", |c| !c.tls_max_version.is_empty(), NO_TLS),
    ("bcrypt-cost", |c| c.bcrypt_cost != 10, NO_USERS),
    ("auth-token-ttl", |c| c.auth_token_ttl != Duration::from_mins(5), NO_USERS),
];

/// Why giving that flag is refused, if it is, for at least some values.
pub(super) fn refusal_of(flag: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(row, _, _)| *row == flag).map(|(_, _, text)| *text)
}

/// Why giving that flag has no effect yet, if so.
pub(super) fn warning_of(flag: &str) -> Option<&'static str> {
    IGNORED.iter().find(|(row, _, _)| *row == flag).map(|(_, _, text)| *text)
}

impl Config {
    /// What was asked for and is not there, the worst first. `main` ends when any of it is to be refused, except, for a
    /// member that has data, what [`is_for_new_members`](NotYet::is_for_new_members).
    pub fn not_yet(&self) -> Vec<NotYet> {
        let rows = |table: &[(&'static str, Asked, &str)], severity| -> Vec<NotYet> {
            let asked = table.iter().filter(|(_, asked, _)| asked(self));
            asked.map(|(flag, _, text)| NotYet { flag, severity, text: (*text).to_owned() }).collect()
        };
        let mut all = rows(REFUSED, Severity::Refuse);
        all.extend(rows(IGNORED, Severity::Warn));
        all.extend(self.feature_gates.changed().filter_map(|(gate, on)| {
            let (_, reason) = GATES_WITHOUT_EFFECT.iter().find(|(name, _)| *name == gate)?;
            let text = format!("{gate}={on}: {reason}");
            Some(NotYet { flag: "feature-gates", severity: Severity::WithoutEffect, text })
        }));
        let without_effect = WITHOUT_EFFECT.iter().filter(|(flag, _)| self.without_effect.contains(flag));
        let severity = Severity::WithoutEffect;
        all.extend(without_effect.map(|(flag, text)| NotYet { flag, severity, text: (*text).to_owned() }));
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
            (
                &["--listen-peer-urls=unixs:///p", "--peer-cert-file=a", "--peer-key-file=b"],
                "listen-peer-urls",
                Severity::Refuse,
            ),
            (&["--enable-pprof"], "enable-pprof", Severity::WithoutEffect),
            (&["--initial-election-tick-advance=false"], "initial-election-tick-advance", Severity::Warn),
            (&["--feature-gates=PriorityRequest=true"], "feature-gates", Severity::WithoutEffect),
            (&["--backend-batch-limit=5"], "backend-batch-limit", Severity::WithoutEffect),
            (&["--max-wals=6"], "max-wals", Severity::WithoutEffect),
            (&["--grpc-keepalive-min-time=1s"], "grpc-keepalive-min-time", Severity::WithoutEffect),
            (&["--enable-v2"], "enable-v2", Severity::Warn),
        ] {
            let found = config(line).not_yet();
            assert_eq!(found.first().map(|f| (f.flag, f.severity)), Some((flag, severity)), "{line:?}: {found:?}");
        }
        assert_eq!(config(&["--feature-gates=StopGRPCServiceOnDefrag=true"]).not_yet(), []);
    }

    #[test]
    fn what_is_said_at_its_default_is_not_worth_a_word() {
        let line =
            ["--max-wals=5", "--raft-read-timeout=6s", "--backend-bbolt-freelist-type=map", "--auth-token-ttl=300"];
        assert_eq!(config(&line).not_yet(), []);
    }

    #[test]
    fn how_a_cluster_begins_matters_to_new_members_only() {
        for (line, is_for_new_members) in [(&["--discovery-srv=example.com"][..], true), (&["--cert-file=a"], false)] {
            let found = config(line).not_yet();
            assert_eq!(found.first().map(NotYet::is_for_new_members), Some(is_for_new_members), "{line:?}");
        }
    }

    #[test]
    fn every_flag_named_here_is_in_the_table() {
        for (flag, _, _) in REFUSED.iter().chain(IGNORED) {
            assert!(super::super::table::settings().any(|row| row.name == *flag), "{flag}");
        }
    }
}
