//! What becomes of settings: refused, and where that is said; without effect, and still served; asked of the system.

use super::{Ended, logged, run_to_end};
use crate::harness::{Backend, Place, Server, Setup, block_on};
use std::fs;
use std::path::Path;

const ALL_KEYS: &str = include_str!("../../../config/castd.conf.yml");
const OF_ETCD: &str = include_str!("../../../src/config/tests/etcd-sample-keys.yml");

fn castd() -> Setup {
    Setup::castd(Backend::Memory)
}

/// Runs castd with only those words, to its end.
fn with_only(words: &[&str]) -> Ended {
    run_to_end(&words.iter().fold(castd().bare(), |setup, word| setup.flag(*word)), Path::new("unused"))
}

/// Runs castd as it would serve but for those flags, to its end.
fn with_more(flags: &[&str]) -> Ended {
    let data = tempfile::tempdir().expect("a directory");
    run_to_end(&flags.iter().fold(castd(), |setup, flag| setup.flag(*flag)), &data.path().join("data"))
}

impl Ended {
    /// The lines of the log, as level, message and error.
    fn log(&self) -> Vec<(String, String, String)> {
        let text = |line: &serde_json::Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let lines = self.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.map(|line| (text(&line, "level"), text(&line, "msg"), text(&line, "error"))).collect()
    }

    #[track_caller]
    fn last_line(&self) -> (String, String, String) {
        self.log().pop().unwrap_or_else(|| panic!("nothing was logged: {self:#?}"))
    }
}

fn line(level: &str, message: &str, error: &str) -> (String, String, String) {
    (level.to_owned(), message.to_owned(), error.to_owned())
}

#[test]
fn a_flag_that_is_gone_is_unknown_and_its_successor_named() {
    for (flag, name, advice) in [
        (
            "--experimental-max-learners=2",
            "experimental-max-learners",
            "--experimental-max-learners is now --max-learners",
        ),
        (
            "-experimental-initial-corrupt-check",
            "experimental-initial-corrupt-check",
            "--experimental-initial-corrupt-check is now --feature-gates=InitialCorruptCheck=true|false",
        ),
        ("--peers=x", "peers", "--peers is now --initial-cluster"),
        ("--debug", "debug", "--debug is now --log-level=debug"),
    ] {
        let ended = with_only(&[flag]);
        ended.with(2, advice);
        let start = format!("flag provided but not defined: -{name}\n{advice}\nUsage:\n");
        assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn what_cannot_be_parsed_is_told_in_plain_lines_on_stderr() {
    for (words, code, start) in [
        (&["--log-level=zz"][..], 2, "panic: unrecognized level: \"zz\"\n"),
        (&["gateway", "start"], 1, "castd gateway is not part of castd yet"),
        (&["grpc-proxy"], 1, "castd grpc-proxy is not part of castd yet"),
        (
            &["--v2-deprecation=not-yet"],
            2,
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"\n",
        ),
        (
            &["--feature-gates=Nothing=true"],
            2,
            "invalid value \"Nothing=true\" for flag -feature-gates: unrecognized feature gate: Nothing\n",
        ),
        (
            &["--max-concurrent-streams=-1"],
            2,
            "invalid value \"-1\" for flag -max-concurrent-streams: strconv.ParseUint:",
        ),
        (&["--name", "x", "--storage=tape"], 2, "invalid value \"tape\" for flag -storage: invalid value\n"),
    ] {
        let ended = with_only(words);
        assert_eq!(ended.status.code(), Some(code), "{ended:#?}");
        assert!(ended.stderr.starts_with(start), "{words:?}: {}", ended.stderr);
        assert!(ended.log().is_empty() && ended.stdout.is_empty(), "{ended:#?}");
    }
}

#[test]
fn settings_that_make_no_sense_are_the_last_line_of_the_log() {
    for (words, level, message, error) in [
        (&["extra"][..], "warn", "failed to verify flags", "\"extra\" is not a valid flag"),
        (&["--logger=capnslog"], "warn", "failed to verify flags", "--logger=capnslog is removed in v3.5"),
        (
            &["--discovery-fallback=proxy"],
            "warn",
            "failed to verify flags",
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (
            &["--discovery-token=t"],
            "warn",
            "failed to verify flags",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "warn",
            "failed to verify flags",
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            &["--tls-min-version=TLS1.1"],
            "warn",
            "failed to verify flags",
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--auto-compaction-retention=xx"],
            "fatal",
            "discovery failed",
            "error parsing CompactionRetention: time: invalid duration \"xx\"",
        ),
        (&["--cipher-suites=BAD"], "fatal", "discovery failed", "unexpected TLS cipher suite \"BAD\""),
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"],
            "fatal",
            "discovery failed",
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
    ] {
        let ended = with_only(words);
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        assert_eq!(ended.last_line(), line(level, message, error), "{words:?}");
        assert_eq!(ended.stdout, "");
    }
    let missing = "--advertise-client-urls is required when --listen-client-urls is set explicitly";
    let ended = with_only(&["--listen-client-urls=http://127.0.0.1:1"]);
    let log = ended.log();
    let two =
        [line("warn", "failed to verify flags", missing), line("warn", "advertise client URLs are not set", missing)];
    assert_eq!(log[log.len() - 2..], two);
}

#[test]
fn what_castd_cannot_do_yet_is_refused_by_name() {
    for (flags, error) in [
        (
            &["--cert-file=c", "--key-file=k"][..],
            "--key-file: TLS towards clients is not served yet; a later release of castd will",
        ),
        (&["--peer-auto-tls"], "--peer-auto-tls: TLS towards peers is not served yet; a later release of castd will"),
        (&["--auth-token=jwt,sign-method=RS256"], "--auth-token: only simple tokens are served yet"),
    ] {
        let ended = with_more(flags);
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        let (level, message, found) = ended.last_line();
        assert_eq!((level.as_str(), message.as_str()), ("error", "failed to verify flags"));
        assert!(found.starts_with(error), "{found}");
    }
}

#[test]
fn a_file_that_etcd_does_not_log_about_is_told_in_plain_lines() {
    let directory = tempfile::tempdir().expect("a directory");
    let with_file = |text: &str| {
        let path = directory.path().join("c.yml");
        fs::write(&path, text).expect("written");
        with_only(&["--config-file", &path.display().to_string()])
    };
    let urls = with_file("listen-client-urls: nowhere\n");
    let scheme = "URL scheme must be http, https, unix, or unixs: nowhere\n";
    assert_eq!(urls.stderr, format!("unexpected error setting up listen-client-urls: {scheme}"));
    assert_eq!((urls.status.code(), urls.stdout.as_str()), (Some(1), ""));
    let origins = with_file("cors: nowhere\n");
    assert_eq!(origins.stderr, format!("panic: new UniqueURLs should never fail: {scheme}"));
    assert_eq!(origins.status.code(), Some(2));
    let logged = with_file("snapshot-count: '5'\n");
    let error = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field \
                 configYAML.snapshot-count of type uint64";
    assert_eq!(logged.last_line(), line("warn", "failed to verify flags", error));
}

/// The sample, with the addresses of `setup`, in a directory of its own.
fn start_from(sample: &str, setup: &Setup, directory: &Path, more: &str) -> Server {
    let at = directory.display();
    let text = sample
        .replace("http://localhost:2379", &setup.client_url())
        .replace("http://localhost:2380", &setup.peer_url())
        .replace("data-dir: ''", &format!("data-dir: '{at}/data'"))
        .replace("data-dir:\n", &format!("data-dir: '{at}/data'\n"))
        .replace("storage: 'rocksdb'", "storage: 'memory'");
    let path = directory.join("castd.yml");
    fs::write(&path, format!("{text}{more}")).expect("written");
    setup.clone().bare().flag(format!("--config-file={}", path.display())).start()
}

#[test]
fn the_sample_of_all_keys_and_that_of_etcd_serve() {
    let _place = Place::take();
    block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let setup = castd();
        let mut server = start_from(ALL_KEYS, &setup, directory.path(), "");
        assert!(!server.log().contains("has no effect"), "{}", server.log());
        let started = |server: &Server, field: &str| logged(server, "starting an etcd server", field).expect("logged");
        assert_eq!(started(&server, "member-initialized"), false);
        assert_eq!(started(&server, "name"), "default");
        let log = server.log();
        let place = |field: &str| log.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("no {field}"));
        assert!(
            place("etcd-version") < place("member-initialized")
                && place("member-initialized") < place("v2-deprecation")
        );
        server.end();

        let directory = tempfile::tempdir().expect("a directory");
        let more = format!("storage: memory\ninitial-cluster: default={}\n", setup.peer_url());
        let server = start_from(OF_ETCD, &setup, directory.path(), &more);
        let ignored = logged(&server, "keys of the config file that set nothing are ignored", "keys").expect("logged");
        let ignored = ignored.as_array().cloned().unwrap_or_default();
        assert!(ignored.contains(&"proxy-failure-wait".into()) && !ignored.contains(&"name".into()), "{ignored:?}");
        assert_eq!(started(&server, "auto-compaction-retention"), "1h0m0s");
    });
}

#[test]
fn settings_without_effect_are_served_and_said() {
    let _place = Place::take();
    block_on(async {
        let setup = castd().flags([
            "--max-wals=6",
            "--raft-read-timeout=1s",
            "--feature-gates=PriorityRequest=true",
            "--v2-deprecation=gone",
            "--backend-batch-limit=0",
        ]);
        let server = setup.env("ETCD_VERIFY", "all").env("ETCD_EXPERIMENTAL_MAX_LEARNERS", "1").start();
        let log = server.log();
        let without_effect: Vec<&str> = log.lines().filter(|line| line.contains("\"msg\":\"has no effect\"")).collect();
        for flag in ["max-wals", "feature-gates", "v2-deprecation"] {
            let named = format!("\"flag\":\"{flag}\"");
            assert!(without_effect.iter().any(|line| line.contains(&named)), "{flag}: {log}");
        }
        assert_eq!(without_effect.len(), 3, "{without_effect:?}");
        assert!(log.contains("raft-read-timeout increased to minimum value: 5s"));
        assert!(log.contains("--v2-deprecation is deprecated and scheduled for removal in v3.8."));
        let advice = logged(&server, "unrecognized environment variable", "advice").expect("logged");
        assert_eq!(advice, "--experimental-max-learners is now --max-learners");
    });
}

#[test]
fn how_a_cluster_begins_is_no_matter_for_a_member_with_data() {
    let _place = Place::take();
    block_on(async {
        let mut server = castd().start();
        server.api().put("k", "v").await;
        assert!(logged(&server, "Initialize and start etcd server", "data-dir").is_some());
        server.end();
        let others = "--initial-cluster=m1=http://127.0.0.1:1,m2=http://127.0.0.1:2";
        server.setup = server.setup.clone().flags(["--initial-cluster-state=existing", others]);
        server.restart();
        assert_eq!(server.api().get("k").await.expect("kept").value, "v");
        assert_eq!(logged(&server, "server has already been initialized", "dir-type").expect("logged"), "member");
    });
}

fn field_of_status(pid: &str, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field").to_owned();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn memory_is_locked_or_the_start_refused() {
    const IPC_LOCK: u32 = 14;
    let _place = Place::take();
    block_on(async {
        let mine = u64::from_str_radix(&field_of_status("self", "CapEff"), 16).expect("a number");
        let setup = castd().flag("--memory-mlock");
        let limited = if mine >> IPC_LOCK & 1 == 1 {
            let server = setup.clone().start();
            let locked = field_of_status(&server.pid().to_string(), "VmLck");
            assert_ne!(locked, "0 kB");
            setup.through(["setpriv", "--bounding-set=-ipc_lock", "sh", "-c", "ulimit -l 64; exec \"$0\" \"$@\""])
        } else {
            setup.through(["sh", "-c", "ulimit -l 64; exec \"$0\" \"$@\""])
        };
        let ended = run_to_end(&limited, Path::new("unused"));
        ended.with(1, "--memory-mlock: at most 65536 bytes may be locked");
    });
}
