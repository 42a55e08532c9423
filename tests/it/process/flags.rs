//! Flags as Go reads them, the environment, the file, which of them wins, and what is said of mistakes.

use super::{Ended, logged, run_to_end};
use crate::harness::{Backend, Place, Server, Setup, block_on, for_each_backend};
use std::fs;
use std::path::Path;

for_each_backend!(castd: the_backend_is_chosen_by_flag_environment_or_file);

fn castd() -> Setup {
    Setup::castd(Backend::Memory)
}

/// Runs castd with only those flags, to its end.
fn with_flags(flags: &[&str]) -> Ended {
    let setup = flags.iter().fold(castd().bare(), |setup, flag| setup.flag(*flag));
    run_to_end(&setup, Path::new("unused"))
}

/// Runs castd as it would serve, but for those flags.
fn with_more_flags(flags: &[&str]) -> Ended {
    let data = tempfile::tempdir().expect("a directory");
    let setup = flags.iter().fold(castd(), |setup, flag| setup.flag(*flag));
    run_to_end(&setup, &data.path().join("data"))
}

fn name_of(server: &Server) -> String {
    server.etcdctl(&["member", "list"]).ok().split(", ").nth(2).expect("a name").to_owned()
}

#[test]
fn the_version_is_etcds_and_ours() {
    let ended = with_flags(&["--version"]);
    assert_eq!(ended.status.code(), Some(0));
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    for (line, start) in lines[1..].iter().zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: "]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert!(lines[4].to_lowercase().contains("castd") && lines[4].contains(env!("CARGO_PKG_VERSION")), "{lines:?}");
    assert_eq!(with_flags(&["-version"]).stdout, ended.stdout);
    assert_eq!(with_flags(&["--version=true"]).stdout, ended.stdout);
}

#[test]
fn help_names_every_flag() {
    for flag in ["--help", "-h", "-help"] {
        let ended = with_flags(&[flag]);
        assert_eq!(ended.status.code(), Some(0));
        assert!(ended.stderr.to_lowercase().contains("usage"), "{}", ended.stderr);
        for flag in ["--name", "--data-dir", "--storage", "--listen-client-urls", "--enable-distributed-tracing"] {
            assert!(ended.stdout.contains(flag), "{flag} is not in the help");
        }
    }
}

#[test]
fn flags_that_cannot_be_read_are_told_with_code_2() {
    for (flags, text) in [
        (&["--bogus"][..], "flag provided but not defined: -bogus"),
        (&["-bogus=1"], "flag provided but not defined: -bogus"),
        (&["--heartbeat-interval=abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--heartbeat-interval", "abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--strict-reconfig-check=zz"], "invalid boolean value \"zz\" for -strict-reconfig-check: parse error"),
        (&["--name"], "flag needs an argument: -name"),
        (
            &["--listen-client-urls=ftp://127.0.0.1:1"],
            "invalid value \"ftp://127.0.0.1:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, or \
             unixs: ftp://127.0.0.1:1",
        ),
        (
            &["--listen-peer-urls=http://127.0.0.1"],
            "invalid value \"http://127.0.0.1\" for flag -listen-peer-urls: URL address does not have the form \
             \"host:port\": http://127.0.0.1",
        ),
        (
            &["--advertise-client-urls=http://127.0.0.1:1/x"],
            "invalid value \"http://127.0.0.1:1/x\" for flag -advertise-client-urls: URL must not contain a path: \
             http://127.0.0.1:1/x",
        ),
        (&["--initial-cluster-state=zzz"], "invalid value \"zzz\" for flag -initial-cluster-state: invalid value"),
    ] {
        let ended = with_flags(flags);
        ended.with(2, text);
        assert!(ended.stderr.starts_with(text), "{}", ended.stderr);
        assert!(ended.stderr.to_lowercase().contains("usage"), "the usage follows: {}", ended.stderr);
    }
}

#[test]
fn settings_that_cannot_be_are_told_with_code_1() {
    for (flags, text) in [
        (&["extra"][..], "\"extra\" is not a valid flag"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--heartbeat-interval=300", "--election-timeout=1000"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (&["--election-timeout=60000"], "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        (&["--listen-client-urls=http://example.com:1"], "expected IP in URL for binding (http://example.com:1)"),
        (
            &["--initial-cluster=other=http://127.0.0.1:1"],
            "couldn't find local name \"m1\" in the initial cluster configuration",
        ),
        (&["--auto-compaction-mode=zz"], "unknown auto-compaction-mode \"zz\""),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "tracing sampling rate must be positive",
        ),
        (&["--log-format=zz"], "unknown log format: zz, supported values json, console"),
        (&["--config-file=/nowhere/at/all"], "open /nowhere/at/all: no such file or directory"),
    ] {
        with_more_flags(flags).with(1, text);
    }
    let ended = with_flags(&["--listen-client-urls=http://127.0.0.1:1"]);
    ended.with(1, "--advertise-client-urls is required when --listen-client-urls is set explicitly");
    let unknown = with_flags(&["--storage=tape"]);
    assert!(unknown.status.code().is_some_and(|code| code == 1 || code == 2), "{unknown:?}");
    assert!(unknown.said().contains("tape"), "{}", unknown.stderr);
}

#[test]
fn the_environment_speaks_where_flags_do_not() {
    let _place = Place::take();
    block_on(async {
        let setup = castd().env("ETCD_NAME", "m1").flag("--name=m1");
        let conflict = "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                        environment variable or disable flag))";
        run_to_end(&setup, Path::new("unused")).with(1, conflict);
        let setup = castd().env("ETCD_MAX_TXN_OPS", "xx");
        run_to_end(&setup, Path::new("unused")).with(1, "invalid value \"xx\" for ETCD_MAX_TXN_OPS: parse error");

        let setup = castd().env("ETCD_MAX_TXN_OPS", "2").env("ETCD_NO_SUCH_THING", "1").env("ETCD_SNAPSHOT_COUNT", "");
        let server = setup.start();
        let put = |key| crate::harness::grpc::put_op(key, "1");
        let api = server.api();
        api.txn(vec![], vec![put("a"), put("b")], vec![]).await.expect("two are allowed");
        api.txn(vec![], vec![put("a"), put("b"), put("c")], vec![]).await.expect_err("three are not");
        let used = logged(&server, "recognized and used environment variable", "variable-name");
        assert_eq!(used.expect("logged"), "ETCD_MAX_TXN_OPS");
        let unknown = logged(&server, "unrecognized environment variable", "environment-variable");
        assert_eq!(unknown.expect("logged"), "ETCD_NO_SUCH_THING=1");
    });
}

#[test]
fn flags_are_read_as_go_reads_them() {
    let _place = Place::take();
    block_on(async {
        let setup = castd();
        let cluster = format!("infra0={}", setup.peer_url());
        let setup = setup
            .flags(["-name", "first", "-name", "infra0", "-strict-reconfig-check", "--pre-vote=F"])
            .flag(format!("--initial-cluster={cluster}"));
        let server = setup.start();
        assert_eq!(name_of(&server), "infra0", "the last one wins");
    });
}

/// Writes a file with what a member needs, and more.
fn config_file(directory: &Path, setup: &Setup, more: &str) -> String {
    let (client, peer) = (setup.client_url(), setup.peer_url());
    let data = directory.join("data");
    let text = format!(
        "name: from-file\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: from-file={peer}\n\
         heartbeat-interval: 10\nelection-timeout: 100\n{more}\n",
        data.display()
    );
    let path = directory.join("castd.yml");
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[test]
fn a_file_replaces_flags_and_environment() {
    let _place = Place::take();
    block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let setup = castd();
        let more = "storage: memory\nmax-txn-ops: 1\nno-such-key: [1, {a: b}]\nexperimental-thing: 7\nwal-dir:\n";
        let path = config_file(directory.path(), &setup, more);
        for by_environment in [false, true] {
            let setup =
                setup.clone().bare().flag("--name=from-flags").flag("--max-txn-ops=50").env("ETCD_MAX_TXN_OPS", "9");
            let setup = match by_environment {
                true => setup.env("ETCD_CONFIG_FILE", &path),
                false => setup.flag(format!("--config-file={path}")),
            };
            let mut server = setup.start();
            assert_eq!(name_of(&server), "from-file");
            let put = |key| crate::harness::grpc::put_op(key, "1");
            let api = server.api();
            api.txn(vec![], vec![put("a"), put("b")], vec![]).await.expect_err("one is allowed");
            let loaded = "loaded server configuration, other configuration command line flags and environment \
                          variables will be ignored if provided";
            assert_eq!(logged(&server, loaded, "path").expect("logged"), path);
            server.end();
        }
    });
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_code_1() {
    for (more, text) in [
        ("name: 77", "cannot unmarshal number into Go struct field configYAML.name of type string"),
        (
            "heartbeat-interval: abc",
            "cannot unmarshal string into Go struct field configYAML.heartbeat-interval of type uint",
        ),
        ("corrupt-check-time: 10m", "cannot unmarshal string"),
        ("name: [unclosed", "error converting YAML to JSON: yaml: "),
        ("initial-cluster-state: zz", "unexpected clusterState \"zz\""),
        ("listen-peer-urls: ftp://x", "unexpected error setting up listen-peer-urls: "),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let setup = castd();
        let path = config_file(directory.path(), &setup, more);
        let setup = setup.bare().flag(format!("--config-file={path}"));
        run_to_end(&setup, Path::new("unused")).with(1, text);
    }
}

async fn the_backend_is_chosen_by_flag_environment_or_file(setup: Setup) {
    let backend = setup.backend().expect("castd's").name();
    let written = |server: &Server| {
        let format = fs::read_to_string(server.data_dir().join("member/FORMAT")).expect("there is a FORMAT");
        assert!(format.contains(&format!("\"{backend}\"")), "{format}");
    };
    let server = setup.clone().start();
    written(&server);
    drop(server);
    let server = setup.clone().without_storage_flag().env("ETCD_STORAGE", backend).start();
    written(&server);
    drop(server);
    let directory = tempfile::tempdir().expect("a directory");
    let path = config_file(directory.path(), &setup, &format!("storage: {backend}"));
    let server = setup.bare().flag(format!("--config-file={path}")).start();
    let format = fs::read_to_string(directory.path().join("data/member/FORMAT")).expect("there is a FORMAT");
    assert!(format.contains(&format!("\"{backend}\"")), "{format}");
    drop(server);
}
