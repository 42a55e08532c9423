//! Settings of older etcd releases that 3.7.1 does not define: what whoever still passes one should say instead.
//!
//! A flag of these ends the start with code 2, as in etcd; a variable or a key of a file is skipped, as in etcd, but with
//! a warning that carries the same advice.

use super::table;

/// Flags that became feature gates.
const NOW_GATES: &[(&str, &str)] = &[
    ("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    ("experimental-compact-hash-check-enabled", "CompactHashCheck"),
    ("experimental-txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"),
    ("experimental-stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
    ("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    ("experimental-enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
];

/// What stands after "--name is ".
const OTHERS: &[(&str, &str)] = &[
    ("addr", "now --advertise-client-urls"),
    ("bind-addr", "now --listen-client-urls"),
    ("peer-addr", "now --initial-advertise-peer-urls"),
    ("peer-bind-addr", "now --listen-peer-urls"),
    ("peers", "now --initial-cluster"),
    ("peers-file", "now --initial-cluster"),
    ("ca-file", "now --trusted-ca-file with --client-cert-auth"),
    ("peer-ca-file", "now --peer-trusted-ca-file with --peer-client-cert-auth"),
    ("debug", "now --log-level=debug"),
    ("log-output", "now --log-outputs"),
    ("log-package-levels", "gone: levels of single packages ended with etcd 3.4; see --log-level"),
    ("proxy", "gone: v2 proxies ended with etcd 3.5; 'off' can be left out, etcd grpc-proxy forwards the v3 API"),
    ("proxy-failure-wait", "gone with v2 proxies; leave it out"),
    ("proxy-refresh-interval", "gone with v2 proxies; leave it out"),
    ("proxy-dial-timeout", "gone with v2 proxies; leave it out"),
    ("proxy-write-timeout", "gone with v2 proxies; leave it out"),
    ("proxy-read-timeout", "gone with v2 proxies; leave it out"),
    ("experimental-enable-v2v3", "gone: the v2 API is switched by --enable-v2"),
    ("experimental-v3demo", "gone: the v3 API is always served"),
    ("experimental-gRPC-addr", "gone: gRPC is served on --listen-client-urls"),
];

/// The sentence for `name`, a flag without dashes, if etcd ever had it.
pub fn advice_on(name: &str) -> Option<String> {
    if let Some((_, gate)) = NOW_GATES.iter().find(|(old, _)| *old == name) {
        return Some(format!("--{name} is now --feature-gates={gate}=true|false"));
    }
    if let Some((_, fate)) = OTHERS.iter().find(|(old, _)| *old == name) {
        return Some(format!("--{name} is {fate}"));
    }
    let renamed = name.strip_prefix("experimental-")?;
    table::find(renamed).map(|flag| format!("--{name} is now --{}", flag.name))
}

/// The same for an environment variable.
pub fn advice_on_variable(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("ETCD_")?.to_lowercase().replace('_', "-");
    advice_on(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::GATES;

    #[test]
    fn who_passes_a_flag_of_an_older_release_is_told_its_new_name() {
        for (old, advice) in [
            ("experimental-watch-progress-notify-interval", "now --watch-progress-notify-interval"),
            ("experimental-peer-skip-client-san-verification", "now --peer-skip-client-san-verification"),
            ("experimental-auto-compaction-retention", "now --auto-compaction-retention"),
            ("experimental-initial-corrupt-check", "now --feature-gates=InitialCorruptCheck=true|false"),
            ("peers", "now --initial-cluster"),
        ] {
            assert_eq!(advice_on(old), Some(format!("--{old} is {advice}")));
        }
        assert_eq!(
            advice_on_variable("ETCD_EXPERIMENTAL_MAX_LEARNERS").as_deref(),
            Some("--experimental-max-learners is now --max-learners")
        );
        for unknown in ["zz", "experimental-zz", "experimental-", ""] {
            assert_eq!(advice_on(unknown), None, "{unknown}");
        }
        assert_eq!(advice_on_variable("PATH"), None);
    }

    #[test]
    fn no_setting_is_both_gone_and_there() {
        let gone = NOW_GATES.iter().chain(OTHERS).map(|(name, _)| *name);
        for name in gone {
            assert!(table::find(name).is_none(), "{name}");
        }
        assert!(NOW_GATES.iter().all(|(_, gate)| GATES.iter().any(|(name, _)| name == gate)));
    }
}
