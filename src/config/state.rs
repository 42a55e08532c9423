//! What castd makes of each setting: it works, it has nothing to act on here, or it comes later.
//!
//! `docs/configuration.md` is written from this. What comes later follows from `not_yet.rs`, so that a row that goes
//! there changes the document, too.

use super::flag::{Flag, Kind};
use super::not_yet;

/// The fate of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Works,
    /// It works, but for some values, which are refused for now.
    WorksInPart(&'static str),
    /// Castd has nothing that it could change; saying it is no mistake.
    WithoutEffect(&'static str),
    /// Giving it is refused for now.
    Refused(&'static str),
    /// Giving it has no effect yet; the log says so.
    NoEffectYet(&'static str),
}

/// Settings of things that castd does in another way than etcd.
pub(super) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("max-snapshots", "castd keeps the newest snapshots that it may need, and removes the others by itself"),
    ("max-wals", "castd cuts its log by itself where nothing needs it any more"),
    ("backend-bbolt-freelist-type", "it is for etcd's bbolt"),
    ("backend-batch-interval", "it is for etcd's bbolt; castd writes what one slice of the log has changed at once"),
    ("backend-batch-limit", "it is for etcd's bbolt; castd writes what one slice of the log has changed at once"),
    ("grpc-keepalive-min-time", "the HTTP/2 library answers pings by itself and does not count them"),
    ("enable-pprof", "there is no Go runtime to profile; use perf on this process"),
    ("discovery-fallback", "'exit' is the only value that is left"),
    ("v2-deprecation", "etcd 3.7 enforces the default, too"),
    (
        "client-transport-security.skip-client-san-verification",
        "the addresses of clients are not compared with their certificates, as in etcd",
    ),
];

/// Feature gates that switch nothing, and why.
pub(super) const GATES_WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("TxnModeWriteWithSharedBuffer", "it is for etcd's bbolt"),
    ("LeaseCheckpoint", "castd always keeps the remaining time of long leases"),
    ("LeaseCheckpointPersist", "castd always keeps the remaining time of long leases"),
    ("SetMemberLocalAddr", "the system chooses the address that connections to peers come from"),
    ("FastLeaseKeepAlive", "keepalives never wait for the log in castd"),
    ("PriorityRequest", "castd has no queue in which a request could overtake others"),
];

/// Settings that mean nothing without another one, whose state they share.
const BELONGS_TO: &[(&str, &str)] = &[
    ("discovery-token", "discovery-endpoints"),
    ("discovery-dial-timeout", "discovery-endpoints"),
    ("discovery-request-timeout", "discovery-endpoints"),
    ("discovery-keepalive-time", "discovery-endpoints"),
    ("discovery-keepalive-timeout", "discovery-endpoints"),
    ("discovery-insecure-transport", "discovery-endpoints"),
    ("discovery-insecure-skip-tls-verify", "discovery-endpoints"),
    ("discovery-cert", "discovery-endpoints"),
    ("discovery-key", "discovery-endpoints"),
    ("discovery-cacert", "discovery-endpoints"),
    ("discovery-user", "discovery-endpoints"),
    ("discovery-password", "discovery-endpoints"),
    ("discovery-config.client.max-request-bytes", "discovery-endpoints"),
    ("discovery-config.client.max-recv-bytes", "discovery-endpoints"),
    ("discovery-config.client.secure.server-name", "discovery-endpoints"),
    ("discovery-config.client.auth.token", "discovery-endpoints"),
    ("discovery-srv-name", "discovery-srv"),
    ("log-rotation-config-json", "enable-log-rotation"),
];

/// Refused for some of their values only.
const WORKS_IN_PART: &[&str] = &[
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "listen-metrics-urls",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "auth-token",
];

/// What castd makes of `flag`.
pub fn state_of(flag: &Flag) -> State {
    if flag.kind == Kind::Ignored {
        return State::WithoutEffect("a flag of etcd 0.4, which etcd takes and forgets, too");
    }
    let name = BELONGS_TO.iter().find(|(name, _)| *name == flag.name).map_or(flag.name, |(_, leader)| leader);
    let without_effect = WITHOUT_EFFECT.iter().find(|(row, _)| *row == name);
    match (not_yet::refusal_of(name), not_yet::warning_of(name), without_effect) {
        (Some(text), _, _) if WORKS_IN_PART.contains(&name) => State::WorksInPart(text),
        (Some(text), _, _) => State::Refused(text),
        (None, Some(text), _) => State::NoEffectYet(text),
        (None, None, Some((_, text))) => State::WithoutEffect(text),
        (None, None, None) => State::Works,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table;

    #[test]
    fn every_setting_named_here_is_in_the_table() {
        let names = WITHOUT_EFFECT.iter().chain(BELONGS_TO).map(|(name, _)| name).chain(WORKS_IN_PART);
        for name in names {
            assert!(table::settings().any(|flag| flag.name == *name), "{name}");
        }
        for (name, _) in GATES_WITHOUT_EFFECT {
            assert!(table::GATES.iter().any(|(gate, _)| gate == name), "{name}");
        }
    }

    #[test]
    fn a_setting_shares_the_state_of_the_one_it_belongs_to() {
        let state = |name: &str| state_of(table::find(name).expect(name));
        assert_eq!(state("discovery-token"), state("discovery-endpoints"));
        assert_eq!(state("name"), State::Works);
        assert_eq!(state("backend-batch-limit"), State::WithoutEffect(WITHOUT_EFFECT[4].1));
        assert!(matches!(state("vv"), State::WithoutEffect(_)));
    }
}
