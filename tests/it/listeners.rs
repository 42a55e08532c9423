//! Where a member listens: several addresses, unix sockets, ports for HTTP or metrics alone.

use crate::harness::ctl::etcdctl;
use crate::harness::places::free_port;
use crate::harness::{Backend, Place, Server, Setup, block_on, http_get, wait_until};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn alone(case: impl AsyncFnOnce(Setup)) {
    let _place = Place::take();
    block_on(case(Setup::castd(Backend::Memory)));
}

/// Listens in one more place. The flag comes a second time, which is the one that counts.
fn listening(setup: Setup, more: &str) -> Setup {
    let urls = format!("--listen-client-urls={},{more}", setup.client_url());
    setup.flag(urls)
}

/// What curl gets: status, body.
fn curl(arguments: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "10", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = stdout.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

fn over_socket(path: &Path, page: &str) -> (u16, String) {
    curl(&["--unix-socket", &path.to_string_lossy(), &format!("http://localhost{page}")])
}

/// A line of the log, as it was written.
fn line(server: &Server, message: &str, holding: &str) -> bool {
    server.log().lines().any(|line| line.contains(&format!("\"msg\":\"{message}\"")) && line.contains(holding))
}

#[test]
fn a_unix_socket_serves_grpc_and_http_to_its_owner() {
    alone(async |setup: Setup| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("castd.sock");
        let mut server = listening(setup, &format!("unix://{}", path.display())).start();
        let file = std::fs::metadata(&path).expect("it is there");
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o600);

        let endpoint = format!("unix://{}", path.display());
        etcdctl(&endpoint, &["put", "k", "by file"], None).prints("OK\n");
        server.etcdctl(&["get", "k", "--print-value-only"]).prints("by file\n");
        etcdctl(&endpoint, &["get", "k", "--print-value-only"], None).prints("by file\n");
        etcdctl(&endpoint, &["member", "list"], None).ok();
        // Its `:authority` is none.
        assert!(etcdctl(&endpoint, &["endpoint", "status"], None).ok().contains("3.7.1"));
        assert_eq!(over_socket(&path, "/health").0, 200);
        let shown = path.display().to_string();
        assert!(line(&server, "serving client traffic insecurely; this is strongly discouraged!", &shown));
        server.end();
        assert!(!path.exists(), "it is left behind");
    });
}

#[test]
fn a_socket_of_a_killed_member_is_taken_over_and_nobody_elses() {
    alone(async |setup: Setup| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("castd.sock");
        let url = format!("unix://{}", path.display());
        let mut server = listening(setup, &url).start();
        server.kill();
        assert!(path.exists());
        server.restart();
        etcdctl(&url, &["put", "k", "v"], None).prints("OK\n");

        let refused = |text: &str| {
            let data = tempfile::tempdir().expect("a directory");
            let other = listening(Setup::castd(Backend::Memory), &url);
            let output = other.command(&data.path().join("data")).output().expect("it runs");
            assert_eq!(output.status.code(), Some(1));
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(log.contains(text) && log.contains("discovery failed"), "{log}");
            assert!(!data.path().join("data").exists(), "it has touched the disk");
        };
        refused("bind: address already in use");
        etcdctl(&url, &["get", "k", "--print-value-only"], None).prints("v\n");
        server.end();
        std::fs::write(&path, "not a socket").expect("written");
        refused("is not a socket");
        assert_eq!(std::fs::read(&path).expect("still there"), b"not a socket");
    });
}

#[test]
fn a_socket_may_be_named_like_an_address_in_the_working_directory() {
    alone(async |setup: Setup| {
        let directory = tempfile::tempdir().expect("a directory");
        let peer = directory.path().join("peer.sock");
        let setup =
            listening(setup, "unix://localhost:12379").flag(format!("--listen-peer-urls=unix://{}", peer.display()));
        let mut command = setup.command(&directory.path().join("data"));
        let mut child = command
            .current_dir(directory.path())
            .stderr(std::fs::File::create(directory.path().join("log")).expect("a file"))
            .spawn()
            .expect("it runs");
        wait_until("it serves", Duration::from_secs(30), || {
            http_get(setup.ports.client, "/health").is_ok_and(|answer| answer.status == 200)
        });
        assert_eq!(over_socket(&directory.path().join("localhost:12379"), "/version").0, 200);
        assert_eq!(over_socket(&peer, "/members").0, 200);
        assert_eq!(over_socket(&peer, "/health").0, 404);
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
            .expect("it runs");
        child.wait().expect("it ends");
        assert!(!peer.exists() && !directory.path().join("localhost:12379").exists());
    });
}

#[test]
fn metrics_listeners_tell_metrics_and_health_and_nothing_else() {
    alone(async |setup: Setup| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("metrics.sock");
        let port = free_port();
        let setup = setup.flag(format!("--listen-metrics-urls=http://127.0.0.1:{port},unix://{}", path.display()));
        let server = setup.start();
        for page in ["/metrics", "/health", "/livez", "/readyz", "/readyz/linearizable_read"] {
            assert_eq!(http_get(port, page).expect("answered").status, 200, "{page}");
            assert_eq!(over_socket(&path, page).0, 200, "{page}");
            assert_eq!(curl(&["--http2-prior-knowledge", &format!("http://127.0.0.1:{port}{page}")]).0, 200, "{page}");
        }
        for page in ["/", "/version", "/v3/kv/range", "/debug/vars", "/members", "/metrics/x"] {
            let answer = http_get(port, page).expect("answered");
            assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{page}");
        }
        // Health goes on being told on the client port.
        assert_eq!(http_get(server.setup.ports.client, "/health").expect("answered").status, 200);
        let refused = etcdctl(&format!("127.0.0.1:{port}"), &["get", "k"], None);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(line(&server, "serving metrics", &format!("http://127.0.0.1:{port}")));
        assert!(line(&server, "now serving peer/client/metrics", &format!("http://127.0.0.1:{port}")));
    });
}

#[test]
fn a_port_for_http_leaves_grpc_to_the_other() {
    alone(async |setup: Setup| {
        let port = free_port();
        let client = setup.ports.client;
        let mut server = setup.flag(format!("--listen-client-http-urls=http://127.0.0.1:{port}")).prepare();
        server.spawn();
        wait_until("it serves", Duration::from_secs(30), || {
            http_get(port, "/health").is_ok_and(|answer| answer.status == 200)
        });
        server.etcdctl(&["put", "k", "v"]).prints("OK\n");
        assert_eq!(http_get(port, "/version").expect("answered").status, 200);
        assert_eq!(curl(&["--http2-prior-knowledge", &format!("http://127.0.0.1:{port}/version")]).0, 200);
        // HTTP/1.1 is hung up on, and HTTP/2 told that this is not gRPC.
        assert_eq!(curl(&[&format!("http://127.0.0.1:{client}/version")]), (0, String::new()));
        assert_eq!(curl(&["--http2-prior-knowledge", &format!("http://127.0.0.1:{client}/version")]).0, 415);
        let refused = etcdctl(&format!("127.0.0.1:{port}"), &["put", "k", "w"], None);
        assert_ne!(refused.code, 0, "{refused:?}");
        server.etcdctl(&["get", "k", "--print-value-only"]).prints("v\n");
        let serving = "serving client traffic insecurely; this is strongly discouraged!";
        assert!(line(&server, serving, r#""traffic":"grpc""#) && line(&server, serving, r#""traffic":"http""#));
        server.end();
    });
}

#[test]
fn a_port_is_shared_by_members_that_both_ask_for_it() {
    alone(async |setup: Setup| {
        let ports = setup.ports;
        let _first = setup.flag("--socket-reuse-port").flag("--socket-reuse-address").start();
        let second = Setup::castd(Backend::Memory).flag("--socket-reuse-port");
        let urls = format!("--listen-client-urls=http://127.0.0.1:{},{}", ports.client, second.client_url());
        let second = second.flag(urls).start();
        second.api().put("k", "v").await;

        let third = Setup::castd(Backend::Memory);
        let urls = format!("--listen-client-urls=http://127.0.0.1:{}", ports.client);
        let data = tempfile::tempdir().expect("a directory");
        let output = third.flag(urls).command(&data.path().join("data")).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("bind: address already in use"));
    });
}

#[test]
fn too_few_descriptors_are_told_at_the_start() {
    alone(async |setup: Setup| {
        let data = tempfile::tempdir().expect("a directory");
        let castd = setup.command(&data.path().join("data"));
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=150:150").arg(castd.get_program()).args(castd.get_args());
        let output = limited.output().expect("prlimit is installed");
        assert_eq!(output.status.code(), Some(1));
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(log.contains("file descriptor limit of etcd process is too low; please set higher"), "{log}");
        assert!(log.contains(r#""limit":150"#) && log.contains(r#""recommended-limit":150"#), "{log}");
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    alone(async |setup: Setup| {
        let server = setup.start();
        let api = server.api();
        api.put("k", "1").await;
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count();
        let limited = Command::new("prlimit")
            .args(["--pid", &server.pid().to_string(), &format!("--nofile={}", open + 8)])
            .status()
            .expect("prlimit is installed");
        assert!(limited.success());
        let crowd: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(server.endpoint())).collect();
        assert!(crowd.iter().all(Result::is_ok), "the kernel takes them");
        wait_until("the log says so", Duration::from_secs(10), || {
            line(&server, "cannot accept connections", "oo many open files")
        });
        // Who is connected notices nothing, and when the crowd has gone others are let in.
        api.put("k", "2").await;
        drop(crowd);
        assert_eq!(server.api().put("k", "3").await, 4);
    });
}
