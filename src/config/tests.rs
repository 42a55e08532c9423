//! The whole way from an operator's words to a [`Config`] or a refusal.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod document;
mod reference;
mod samples;

fn invoke(line: &[&str], environment: &[(&str, &str)], file: Option<&str>) -> Invocation {
    let arguments = std::iter::once("castd").chain(line.iter().copied()).map(str::to_owned).collect();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    from_invocation(&Surroundings {
        arguments,
        environment,
        read_file: &|_| file.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::Error::from_raw_os_error(2)),
        default_host: &|| Ok(IpAddr::from([10, 1, 2, 3])),
        architecture: "amd64",
    })
}

fn run(line: &[&str], environment: &[(&str, &str)], file: Option<&str>) -> (Config, Vec<Note>) {
    match invoke(line, environment, file) {
        Invocation::Run(config, notes) => (*config, notes),
        other => panic!("{line:?} {file:?}: {other:?}"),
    }
}

pub(super) fn config(line: &[&str]) -> Config {
    run(line, &[], None).0
}

fn from_file(text: &str) -> Config {
    run(&["--config-file=c.yml"], &[], Some(text)).0
}

/// The last note of a refusal: its message and its error.
fn refusal(invocation: Invocation) -> (String, String) {
    match invocation {
        Invocation::Failed { code: 1, notes, .. } => {
            let last = notes.last().expect("a reason");
            let error = last.fields.iter().find(|(name, _)| *name == "error");
            match error.map(|(_, value)| value.clone()) {
                Some(FieldValue::Text(error)) => (last.message.clone(), error),
                other => (last.message.clone(), format!("{other:?}")),
            }
        }
        other => panic!("no refusal: {other:?}"),
    }
}

fn messages(notes: &[Note]) -> Vec<&str> {
    notes.iter().map(|note| note.message.as_str()).collect()
}

#[test]
fn defaults_are_those_of_etcd_3_7_1() {
    let (config, notes) = run(&[], &[], None);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(config.initial_cluster, "default=http://localhost:2380");
    assert_eq!(config.snapshot_count, 10_000);
    assert_eq!(
        (config.heartbeat_interval, config.election_timeout),
        (Duration::from_millis(100), Duration::from_secs(1))
    );
    assert_eq!((config.election_ticks(), config.request_timeout()), (10, Duration::from_secs(7)));
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.grpc_keepalive_interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.compaction_batch_limit, 1000);
    assert_eq!(config.compaction_sleep_interval, Duration::from_millis(10));
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.storage, crate::storage::StorageKind::Rocksdb);
    assert!(config.pre_vote && config.strict_reconfig_check && config.enable_grpc_gateway && !config.enable_v2);
    assert_eq!(config.logging, LogSettings::default());
    assert_eq!(
        messages(&notes),
        [
            "Running http and grpc server on single port. This is not recommended for production.",
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into \
             issue when multiple members have the same default name",
            "Running: ",
            "'data-dir' was empty; using default",
        ]
    );
}

/// Those that 3.4 has, too, checked against etcd 3.4.23.
#[test]
fn settings_that_make_no_sense_are_refused_in_etcds_words() {
    let cases: &[(&[&str], &str)] = &[
        (&["extra"], "\"extra\" is not a valid flag"),
        (&["--version=false", "--", "a\"b"], "\"a\\\"b\" is not a valid flag"),
        (&["--version", "extra"], "\"extra\" is not a valid flag"),
        (&["--listen-peer-urls=http://example.com:44379"], "expected IP in URL for binding (http://example.com:44379)"),
        (&["--listen-client-http-urls=http://a:1"], "expected IP in URL for binding (http://a:1)"),
        (&["--listen-metrics-urls=http://a:1"], "expected IP in URL for binding (http://a:1)"),
        (&["--listen-peer-urls=http://:1"], "expected IP in URL for binding (http://:1)"),
        (
            &["--initial-advertise-peer-urls", "http://:80,http://a:1"],
            "--initial-advertise-peer-urls \"http://:80,http://a:1\" must be \"host:port\" (unexpected empty host (http://:80))",
        ),
        (
            &["--advertise-client-urls", "http://:80"],
            "--advertise-client-urls \"http://:80\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:80))",
        ),
        (
            &["--discovery-srv=d", "--initial-cluster=a=http://h:1"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (&["--discovery-token=t"], "both --discovery-token and --discovery-endpoints must be set"),
        (&["--discovery-endpoints=e"], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--discovery-token=t", "--discovery-endpoints=e,, "],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            &["--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (&["--election-timeout=60000"], "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (&["--auto-compaction-mode=zz"], "unknown auto-compaction-mode \"zz\""),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
        ),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)",
        ),
        (&["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (&["--compact-hash-check-time=-90s"], "--compact-hash-check-time must be >0 (set to -1m30s)"),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--tls-min-version=x"], "unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--logger=zz"], "unknown logger option \"zz\""),
        (&["--log-format=x"], "unknown log format: x, supported values json, console"),
        (&["--log-outputs=default,stderr"], "multi logoutput for \"default\" is not supported yet"),
        (
            &["--log-outputs=stderr,systemd/journal"],
            "running with systemd/journal but other '--log-outputs' values ([\"stderr\" \"systemd/journal\"]) are configured with 'default'; override 'default' value with something else",
        ),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=a,b"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=a", "--log-rotation-config-json={\"maxsize\": true}"],
            "invalid log rotation config: json: cannot unmarshal bool into Go struct field logRotationConfig.maxsize of type int",
        ),
    ];
    for (line, error) in cases {
        assert_eq!(
            refusal(invoke(line, &[], None)),
            ("failed to verify flags".to_owned(), (*error).to_owned()),
            "{line:?}"
        );
    }
}

#[test]
fn an_advertised_url_is_demanded_of_who_listens_explicitly_but_not_in_a_file() {
    let invocation = invoke(&["--listen-client-urls=http://127.0.0.1:1"], &[], None);
    let Invocation::Failed { notes, .. } = &invocation else { panic!("{invocation:?}") };
    assert_eq!(messages(notes)[notes.len() - 2..], ["failed to verify flags", "advertise client URLs are not set"]);
    let text = "--advertise-client-urls is required when --listen-client-urls is set explicitly";
    assert_eq!(refusal(invocation).1, text);
    let config = from_file("listen-client-urls: http://127.0.0.1:1");
    assert_eq!(config.advertise_client_urls.to_string(), "http://localhost:2379");
}

#[test]
fn what_etcd_finds_out_while_it_starts_is_called_a_failed_discovery() {
    let https = "--listen-client-urls=https://127.0.0.1:1";
    let advertise = "--advertise-client-urls=https://127.0.0.1:1";
    let cases: &[(&[&str], &str)] = &[
        (&["--auto-compaction-retention=xx"], "error parsing CompactionRetention: time: invalid duration \"xx\""),
        (
            &["--auto-compaction-retention=-1"],
            "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
        ),
        (&["--auto-compaction-retention=-1h"], "error parsing CompactionRetention: time: invalid duration \"-1h\""),
        (&["--cipher-suites=BAD"], "unexpected TLS cipher suite \"BAD\""),
        (
            &["--peer-auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (
            &[https, advertise],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (&[https, advertise, "--cert-file=x"], "KeyFile and CertFile must both be present[key: , cert: x]"),
        (&["--listen-peer-urls=https://127.0.0.1:1"], "KeyFile and CertFile must both be present[key: , cert: ]"),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            &[
                "--listen-peer-urls=https://127.0.0.1:1",
                "--peer-cert-file=a",
                "--peer-key-file=b",
                "--peer-cert-allowed-cn=c,d",
                "--peer-cert-allowed-hostname=h",
            ],
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"c\" \"d\"], hostnames=[\"h\"])",
        ),
        (
            &["--listen-client-http-urls=http://localhost:2379"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
        ),
    ];
    for (line, error) in cases {
        assert_eq!(refusal(invoke(line, &[], None)), ("discovery failed".to_owned(), (*error).to_owned()), "{line:?}");
    }
}

#[test]
fn what_ends_the_process_without_a_log_says_so_on_stderr() {
    let exit = |invocation| match invocation {
        Invocation::Exit { code, stdout, stderr } => (code, stdout, stderr),
        other => panic!("{other:?}"),
    };
    let (code, stdout, stderr) = exit(invoke(&["--zz"], &[], None));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.starts_with("flag provided but not defined: -zz\nUsage:\n"), "{stderr}");
    let (_, _, stderr) = exit(invoke(&["--experimental-max-learners=2"], &[], None));
    let advised = "flag provided but not defined: -experimental-max-learners\n--experimental-max-learners is now --max-learners\nUsage:";
    assert!(stderr.starts_with(advised), "{stderr}");
    assert_eq!(
        exit(invoke(&["--log-level=zz"], &[], None)),
        (2, String::new(), "panic: unrecognized level: \"zz\"\n".to_owned())
    );
    let bad_urls = exit(invoke(&["--config-file=c"], &[], Some("listen-peer-urls: x")));
    let text = "unexpected error setting up listen-peer-urls: URL scheme must be http, https, unix, or unixs: x\n";
    assert_eq!(bad_urls, (1, String::new(), text.to_owned()));
    assert_eq!(exit(invoke(&["--config-file=c"], &[], Some("cors: x"))).0, 2);
    for program in ["gateway", "grpc-proxy"] {
        let (code, _, stderr) = exit(invoke(&[program, "start", "--zz"], &[], None));
        assert!(code == 1 && stderr.starts_with(&format!("castd {program} is not part of castd yet")), "{stderr}");
    }
    assert_eq!(invoke(&["--name=x", "--version"], &[("ETCD_HEARTBEAT_INTERVAL", "xx")], None), Invocation::Version);
    assert_eq!(invoke(&["-h"], &[], None), Invocation::Help);
}

#[test]
fn flags_come_before_the_environment_and_a_file_replaces_both() {
    let environment = [("ETCD_NAME", "env"), ("ETCD_MAX_TXN_OPS", "7")];
    assert_eq!(run(&[], &environment, None).0.name, "env");
    let (config, _) = run(&["--max-wals=3"], &environment, None);
    assert_eq!((config.max_wals, config.max_txn_ops), (3, 7));
    assert_eq!(config.initial_cluster, "env=http://localhost:2380");

    let conflict = invoke(&["--name=flag"], &environment, None);
    let Invocation::Failed { code: 1, notes, .. } = conflict else { panic!("{conflict:?}") };
    assert_eq!(notes.last().map(|note| note.level), Some(Level::Fatal));
    let bad = refusal(invoke(&[], &[("ETCD_HEARTBEAT_INTERVAL", "xx")], None));
    assert_eq!(bad.1, "invalid value \"xx\" for ETCD_HEARTBEAT_INTERVAL: parse error");

    for (line, variable) in [(&["--config-file=c", "--name=flag"][..], None), (&["--name=flag"], Some("c"))] {
        let mut environment = environment.to_vec();
        environment.extend(variable.map(|file| ("ETCD_CONFIG_FILE", file)));
        let (config, notes) = run(line, &environment, Some("name: file\n"));
        assert_eq!((config.name.as_str(), config.max_txn_ops), ("file", 128));
        assert_eq!(config.initial_cluster, "file=http://localhost:2380");
        let loaded = "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided";
        assert!(notes.contains(&Note::new(Level::Info, loaded).with("path", "c")));
        assert!(!messages(&notes).contains(&"recognized and used environment variable"));
    }
    assert_eq!(refusal(invoke(&["--config-file=/nope"], &[], None)).1, "open /nope: no such file or directory");
    assert_eq!(
        refusal(invoke(&["--config-file=c"], &[], Some("initial-cluster-state: zz"))).1,
        "unexpected clusterState \"zz\""
    );
    assert_eq!(
        refusal(invoke(&["--config-file=c"], &[], Some("storage: zz"))).1,
        "unexpected storage \"zz\" (must be one of: rocksdb, sled, memory)"
    );
}

#[test]
fn who_gives_a_name_only_or_listens_everywhere_need_not_say_the_rest() {
    assert_eq!(config(&["--name=abc"]).initial_cluster, "abc=http://localhost:2380");
    assert_eq!(config(&["--name=abc"]).data_dir.to_str(), Some("abc.etcd"));
    for everywhere in ["http://0.0.0.0:1234", "http://[::]:1234"] {
        let (config, notes) = run(&["--name=abc", "--listen-peer-urls", everywhere], &[], None);
        assert_eq!(config.initial_advertise_peer_urls.to_string(), "http://10.1.2.3:1234");
        assert_eq!(config.initial_cluster, "abc=http://10.1.2.3:1234");
        assert!(
            notes.contains(&Note::new(Level::Info, "detected default host for advertise").with("host", "10.1.2.3"))
        );
    }
    let config = from_file("listen-client-urls: http://0.0.0.0:4321");
    assert_eq!(config.advertise_client_urls.to_string(), "http://10.1.2.3:4321");
    let given = ["--listen-peer-urls=http://0.0.0.0:1", "--initial-advertise-peer-urls=http://h:1"];
    assert_eq!(super::tests::config(&given).initial_advertise_peer_urls.to_string(), "http://h:1");
}

#[test]
fn retention_is_hours_a_time_or_revisions() {
    let compaction = |mode: &str, retention: &str| {
        let (mode, retention) =
            (format!("--auto-compaction-mode={mode}"), format!("--auto-compaction-retention={retention}"));
        config(&[&mode, &retention]).auto_compaction
    };
    assert_eq!(compaction("periodic", "8"), AutoCompaction::Periodic(Duration::from_secs(8 * 3600)));
    assert_eq!(compaction("periodic", "30m"), AutoCompaction::Periodic(Duration::from_secs(1800)));
    assert_eq!(compaction("periodic", ""), AutoCompaction::Off);
    assert_eq!(compaction("revision", "1000"), AutoCompaction::Revision(1000));
    assert_eq!(compaction("revision", "1us"), AutoCompaction::Revision(1000));
    assert_eq!(compaction("revision", "0"), AutoCompaction::Off);
}

#[test]
fn odd_values_are_taken_as_etcd_takes_them() {
    assert_eq!(config(&["--quota-backend-bytes=-1"]).quota_backend_bytes, None);
    assert_eq!(config(&["--snapshot-count=0"]).snapshot_count, 10_000);
    assert_eq!(config(&["--grpc-keepalive-interval=0s"]).grpc_keepalive_interval, None);
    assert_eq!(config(&["--raft-read-timeout=1s"]).peer_read_timeout, Duration::from_secs(5));
    assert_eq!(
        config(&["--warning-unary-request-duration=0"]).warning_unary_request_duration,
        Duration::from_millis(300)
    );
    assert_eq!(
        config(&["--watch-progress-notify-interval=1ms"]).watch_progress_notify_interval,
        Duration::from_millis(100)
    );
    assert_eq!(config(&["--max-learners=-1"]).max_learners, 0);
    assert_eq!(config(&["--log-level=WARN"]).logging.level, Level::Warn.into());
    for (line, message) in [
        (&["--raft-write-timeout=1s"][..], "raft-write-timeout increased to minimum value: 5s"),
        (&["--max-request-bytes=10485761"], "exceeded recommended request limit"),
        (&["--quota-backend-bytes=8589934593"], "quota exceeds the maximum value"),
        (&["--max-snapshots=3"], "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
        (&["--bcrypt-cost=3"], "use default bcrypt cost instead of the invalid given cost"),
        (&["--watch-progress-notify-interval=1ms"], "adjusting watch progress notify interval to minimum period"),
        (
            &["--cert-file=a"],
            "scheme is http or unix while key and cert files are present; ignoring key and cert files",
        ),
        (
            &["--peer-client-cert-auth"],
            "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL",
        ),
    ] {
        assert!(messages(&run(line, &[], None).1).contains(&message), "{message}");
    }
}

#[test]
fn a_processor_etcd_is_not_released_for_must_be_asked_for() {
    let invoke = |environment: Vec<(String, String)>| {
        from_invocation(&Surroundings {
            arguments: vec!["castd".to_owned()],
            environment,
            read_file: &|_| Err(io::Error::from_raw_os_error(2)),
            default_host: &|| Err("could not find default route".to_owned()),
            architecture: "riscv64",
        })
    };
    assert!(matches!(invoke(Vec::new()), Invocation::Failed { code: 1, .. }));
    let asked = invoke(vec![("ETCD_UNSUPPORTED_ARCH".to_owned(), "riscv64".to_owned())]);
    let Invocation::Run(_, notes) = asked else { panic!("{asked:?}") };
    assert!(messages(&notes).contains(&"running etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is set"));
    assert!(messages(&notes).contains(&"failed to detect default host"));
}

#[test]
fn the_summary_names_what_etcds_start_line_names() {
    let summary = config(&["--auto-compaction-retention=2"]).summary();
    let field = |name: &str| summary.iter().find(|(field, _)| *field == name).map(|(_, value)| value.clone());
    assert_eq!(field("heartbeat-interval"), Some("100ms".into()));
    assert_eq!(field("auto-compaction-retention"), Some("2h0m0s".into()));
    assert_eq!(field("cors"), Some(vec!["*".to_owned()].into()));
    let names: Vec<&str> = summary.iter().map(|(name, _)| *name).filter(|name| *name != "storage").collect();
    let of_etcd = "name data-dir wal-dir wal-dir-dedicated member-dir force-new-cluster heartbeat-interval \
        election-timeout initial-election-tick-advance snapshot-count max-wals max-snapshots snapshot-catchup-entries \
        initial-advertise-peer-urls listen-peer-urls advertise-client-urls listen-client-urls listen-metrics-urls \
        local-address cors host-whitelist initial-cluster initial-cluster-state initial-cluster-token \
        quota-backend-bytes max-request-bytes max-concurrent-streams pre-vote feature-gates initial-corrupt-check \
        corrupt-check-time-interval compact-check-time-interval auto-compaction-mode auto-compaction-retention \
        auto-compaction-interval discovery-token discovery-endpoints discovery-dial-timeout discovery-request-timeout \
        discovery-keepalive-time discovery-keepalive-timeout discovery-insecure-transport \
        discovery-insecure-skip-tls-verify discovery-cert discovery-key discovery-cacert discovery-user \
        downgrade-check-interval max-learners v2-deprecation";
    assert_eq!(names, of_etcd.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn the_log_shows_a_user_but_no_password() {
    let summary = config(&["--discovery-user=root:secret"]).summary();
    assert!(summary.contains(&("discovery-user", "root".into())));
}

#[test]
fn a_file_is_told_which_of_its_keys_set_nothing() {
    let (_, notes) = run(&["--config-file=c"], &[], Some("zz: 1\nexperimental-memory-mlock: true\ndiscovery:\n"));
    let text = "keys of the config file that set nothing are ignored";
    let keys = vec!["experimental-memory-mlock".to_owned(), "zz".to_owned()];
    let advice = vec!["--experimental-memory-mlock is now --memory-mlock".to_owned()];
    assert!(notes.contains(&Note::new(Level::Warn, text).with("keys", keys).with("advice", advice)), "{notes:?}");
    assert!(!messages(&run(&["--config-file=c"], &[], Some("name: x\n")).1).contains(&text));
}

#[test]
fn a_file_cannot_ask_for_certificates_that_are_never_valid() {
    let config =
        from_file("self-signed-cert-validity: 0\nclient-transport-security: {auto-tls: true, allowed-cn: [c]}\n");
    assert_eq!(config.self_signed_cert_validity_years, 1);
    assert_eq!(config.client_tls.allowed_cns, ["c"]);
    assert!(config.not_yet().iter().any(|found| found.flag == "client-transport-security.allowed-cn"));
}

proptest! {
    #[test]
    fn no_invocation_panics(
        line in proptest::collection::vec(any_word(), 0..5),
        variables in proptest::collection::vec((0..table::FLAGS.len(), any_value()), 0..4),
        file in proptest::option::of(proptest::collection::vec((0..table::FLAGS.len(), any_value()), 0..6)),
    ) {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        let variables: Vec<(String, String)> = variables
            .into_iter()
            .map(|(i, value)| (table::FLAGS[i].environment_variable(), value))
            .collect();
        let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let file = file.map(|entries| {
            entries.into_iter().map(|(i, value)| format!("{}: {value}\n", table::FLAGS[i].name)).collect::<String>()
        });
        if let Invocation::Run(config, _) = invoke(&words, &variables, file.as_deref()) {
            let _ = (config.not_yet(), config.summary(), config.initial_cluster_map());
            let _ = config.verify_new_cluster(&mut |_| Ok(IpAddr::from([127, 0, 0, 1])));
        }
    }
}

proptest! {
    #[test]
    fn a_value_means_the_same_however_it_is_given(flag in 0..table::FLAGS.len(), value in any_value()) {
        let flag = &table::FLAGS[flag];
        // One asks for another source of everything, one for no start at all; of a switch the next word is not the value.
        prop_assume!(!matches!(flag.name, "config-file" | "version") && !value.is_empty() && !flag.is_switch());
        let joined = invoke(&[&format!("--{}={value}", flag.name)], &[], None);
        let apart = invoke(&[&format!("-{}", flag.name), &value], &[], None);
        let by_variable = invoke(&[], &[(&flag.environment_variable(), &value)], None);
        match (&joined, &apart, &by_variable) {
            (Invocation::Run(joined, _), Invocation::Run(apart, _), Invocation::Run(by_variable, _)) => {
                prop_assert_eq!(joined, apart);
                prop_assert_eq!(joined, by_variable);
            }
            // What cannot be read ends with 2 on a command line, and with 1 in the environment.
            (Invocation::Exit { code: 2, stderr, .. }, Invocation::Exit { stderr: apart, .. }, refused) => {
                prop_assert_eq!(stderr, apart);
                let is_refused = matches!(refused, Invocation::Failed { code: 1, .. } | Invocation::Exit { code: 2, .. });
                prop_assert!(is_refused, "taken from the environment");
            }
            (Invocation::Failed { .. }, Invocation::Failed { .. }, Invocation::Failed { .. }) => {
                prop_assert_eq!(refusal(joined), refusal(by_variable));
            }
            other => prop_assert!(false, "one is refused and another is not: {:?}", other),
        }
    }
}

fn any_word() -> impl Strategy<Value = String> {
    (0..table::FLAGS.len(), any_value()).prop_map(|(i, value)| format!("--{}={value}", table::FLAGS[i].name))
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,20}",
        "-?[0-9]{1,4}(ns|ms|s|m|h)",
        "(true|false|on|x)",
        "(http|https|unix)://(localhost|127.0.0.1|0.0.0.0|\\[::\\]|a):[0-9]{1,5}",
        "[a-z]=http://[a-z]:[0-9]{1,4}(,[a-z]=http://[a-z]:[0-9]{1,4})?",
        "\\PC{0,16}",
    ]
}
