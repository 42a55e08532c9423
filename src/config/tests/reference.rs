//! The table of flags against a list of etcd 3.7.1's, which was written from etcd's documents.

use std::collections::BTreeSet;

use crate::config::flag::{FileKey, Flag, Kind};
use crate::config::gone::advice_on;
use crate::config::table;

const FLAGS_OF_ETCD: &str = include_str!("flags-of-etcd-3.7.1.txt");

/// Flags that etcd 3.7.1 does not define: castd's own, and those of older releases that castd serves, or will.
const NOT_OF_ETCD_3_7: [&str; 3] = ["discovery", "discovery-proxy", "enable-v2"];

fn kind_in_the_list(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool => "bool",
        Kind::Uint => "uint",
        Kind::Uint64 => "uint64",
        Kind::Uint32 => "uint32",
        Kind::Int => "int",
        Kind::Int64 => "int64",
        Kind::Text => "string",
        Kind::Duration => "duration",
        Kind::Urls => "urls",
        Kind::Origins => "origins",
        Kind::Set => "set",
        Kind::List => "list",
        Kind::Choice(_) => "choice",
        Kind::Choices(_) => "choices",
        Kind::Gates => "gates",
        Kind::Ignored => "ignored",
    }
}

fn row_of(flag: &Flag) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let key = flag.file_path().map_or("-".to_owned(), |path| path.join("."));
    let columns = [
        flag.name.to_owned(),
        kind_in_the_list(flag).to_owned(),
        or_dash(flag.default),
        flag.environment_variable(),
        key,
    ];
    columns.join(" | ")
}

#[test]
fn the_table_has_every_flag_of_etcd_with_its_type_default_variable_and_key() {
    let listed: BTreeSet<&str> = FLAGS_OF_ETCD.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(listed.len(), 128, "the list is whole");
    let rows = table::FLAGS.iter().filter(|flag| flag.since != "castd" && !NOT_OF_ETCD_3_7.contains(&flag.name));
    let ours: BTreeSet<String> = rows.map(row_of).collect();
    let ours: BTreeSet<&str> = ours.iter().map(String::as_str).collect();
    assert_eq!(listed.difference(&ours).collect::<Vec<_>>(), Vec::<&&str>::new(), "missing or different in table.rs");
    assert_eq!(ours.difference(&listed).collect::<Vec<_>>(), Vec::<&&str>::new(), "not of etcd 3.7.1");
}

#[test]
fn castds_own_flags_are_named_as_its_own_and_can_be_set_everywhere() {
    for flag in table::FLAGS.iter().filter(|flag| flag.since == "castd") {
        assert!(
            ["storage", "quota-auto-", "cast-"].iter().any(|start| flag.name.starts_with(start)),
            "{} could be one of etcd's",
            flag.name
        );
        assert_eq!(flag.file, FileKey::Same, "{}", flag.name);
    }
}

/// Every flag that some release from 2.0 to 3.6 had, and 3.7.1 has not.
#[test]
fn whoever_passes_a_flag_that_is_gone_is_told_what_became_of_it() {
    let gone = "experimental-enable-v2v3 proxy proxy-failure-wait proxy-refresh-interval proxy-dial-timeout \
                proxy-write-timeout proxy-read-timeout addr bind-addr peer-addr peer-bind-addr peers peers-file \
                experimental-v3demo experimental-gRPC-addr experimental-auto-compaction-retention ca-file peer-ca-file \
                log-output debug log-package-levels experimental-initial-corrupt-check \
                experimental-compact-hash-check-enabled experimental-txn-mode-write-with-shared-buffer \
                experimental-stop-grpc-service-on-defrag experimental-enable-lease-checkpoint \
                experimental-enable-lease-checkpoint-persist experimental-snapshot-catchup-entries \
                experimental-memory-mlock experimental-backend-bbolt-freelist-type \
                experimental-peer-skip-client-san-verification experimental-warning-unary-request-duration \
                experimental-warning-apply-duration experimental-enable-distributed-tracing \
                experimental-distributed-tracing-address experimental-distributed-tracing-service-name \
                experimental-distributed-tracing-instance-id experimental-distributed-tracing-sampling-rate \
                experimental-corrupt-check-time experimental-compact-hash-check-time experimental-compaction-batch-limit \
                experimental-compaction-sleep-interval experimental-watch-progress-notify-interval \
                experimental-bootstrap-defrag-threshold-megabytes experimental-max-learners \
                experimental-downgrade-check-time";
    for name in gone.split_whitespace() {
        assert!(table::find(name).is_none(), "{name} is there");
        let advice = advice_on(name).unwrap_or_default();
        assert!(advice.starts_with(&format!("--{name} is ")), "{name}: {advice:?}");
    }
}
