//! From the first line of the log to the exit code.

use super::{logged, run_to_end};
use crate::harness::{Backend, Place, Setup, block_on, for_each_backend, wait_until};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

for_each_backend!(castd: signals_stop_it_cleanly_and_are_what_it_dies_of, a_write_under_way_when_it_stops_is_answered_or_not_made);

async fn signals_stop_it_cleanly_and_are_what_it_dies_of(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    for (signal, number, name) in [(Signal::TERM, 15, "terminated"), (Signal::INT, 2, "interrupt")] {
        let revision = api.put("k", name).await;
        server.signal(signal);
        let status = server.wait_exit();
        assert_eq!((status.signal(), status.code()), (Some(number), None), "a shell calls it {}", 128 + number);
        let log = server.log();
        assert!(log.contains(&format!("\"signal\":\"{name}\"")), "the signal is not named in the log");
        server.restart();
        assert_eq!(api.revision().await, revision);
    }
    let log = server.log();
    for message in ["received signal; shutting down", "closing etcd server", "closed etcd server"] {
        assert_eq!(log.matches(&format!("\"{message}\"")).count(), 2, "{message}");
    }
}

async fn a_write_under_way_when_it_stops_is_answered_or_not_made(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let api = api.clone();
        writers.spawn(async move {
            let mut acknowledged = 0;
            while api.put_with(crate::harness::grpc::put(&format!("w{writer}"), "v")).await.is_ok() {
                acknowledged += 1;
            }
            (writer, acknowledged)
        });
    }
    while api.revision().await < 50 {}
    server.stop();
    server.restart();
    for (writer, acknowledged) in writers.join_all().await {
        let version = api.get(&format!("w{writer}")).await.map_or(0, |kv| kv.version);
        assert!(version == acknowledged || version == acknowledged + 1, "{version} puts of which {acknowledged} known");
    }
}

#[test]
fn the_log_is_json_with_etcds_fields() {
    let _place = Place::take();
    block_on(async {
        let mut server = Setup::castd(Backend::Memory).start();
        server.end();
        let log = server.log();
        assert!(log.lines().count() > 5);
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            for field in ["level", "ts", "caller", "msg"] {
                assert!(line[field].is_string(), "no {field} in {line}");
            }
        }
        assert!(logged(&server, "ready to serve client requests", "level").is_some_and(|level| level == "info"));
        assert_eq!(logged(&server, "starting an etcd server", "etcd-version").expect("logged"), "3.7.1");
        assert_eq!(logged(&server, "starting an etcd server", "name").expect("logged"), "m1");
        assert!(server.stdout().is_empty());
    });
}

#[test]
fn the_log_is_text_and_elsewhere_when_asked() {
    let _place = Place::take();
    block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("castd.log");
        let setup = Setup::castd(Backend::Memory).flag("--log-format=console").flag("--log-level=warn");
        let setup = setup.flag(format!("--log-outputs=stdout,{}", file.display()));
        let mut server = setup.env("ETCD_NO_SUCH_THING", "1").start();
        server.end();
        let written = std::fs::read_to_string(&file).expect("the file is there");
        assert_eq!(server.stdout(), written);
        assert!(server.log().is_empty(), "{}", server.log());
        let line = written.lines().find(|line| line.contains("unrecognized environment variable")).expect("a warning");
        assert!(line.split('\t').count() >= 4 && line.contains("\twarn\t"), "{line}");
        assert!(!written.contains("\tinfo\t"), "{written}");
    });
}

#[test]
fn systemd_is_told_when_it_is_ready() {
    let _place = Place::take();
    block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        let server = Setup::castd(Backend::Memory).env("NOTIFY_SOCKET", &path).start();
        let mut message = [0; 64];
        let bytes = socket.recv(&mut message).expect("it is told");
        assert_eq!(String::from_utf8_lossy(&message[..bytes]).trim_end(), "READY=1");
        wait_until("the log says so", Duration::from_secs(5), || {
            logged(&server, "successfully notified init daemon", "level").is_some()
        });
    });
}

#[test]
fn a_port_in_use_is_told_with_code_1() {
    let _place = Place::take();
    for peer in [false, true] {
        let setup = Setup::castd(Backend::Memory);
        let port = if peer { setup.ports.peer } else { setup.ports.client };
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("it was free");
        let data = tempfile::tempdir().expect("a directory");
        let ended = run_to_end(&setup, &data.path().join("data"));
        ended.with(1, &format!("listen tcp 127.0.0.1:{port}: bind: address already in use"));
        ended.with(1, "discovery failed");
    }
}
