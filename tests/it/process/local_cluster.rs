//! `config/local-cluster.sh`, which `make cluster` runs: three members on one machine, as a developer starts and stops them.

use crate::harness::places::free_port;
use crate::harness::{Backend, Place, Setup, ctl, for_each_backend, wait_until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

for_each_backend!(castd: three_members_serve_until_ctrl_c_and_go_on_after_it);

const PATIENCE: Duration = Duration::from_secs(60);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/local-cluster.sh");

/// The script under way, as from a terminal: Ctrl-C reaches its whole process group.
struct Script {
    process: Child,
    directory: tempfile::TempDir,
}

impl Script {
    fn start(backend: Backend, clients: &str, peers: &str, directory: tempfile::TempDir) -> Script {
        let output = File::create(directory.path().join("output")).expect("a file");
        let castd = Setup::castd(backend).command(Path::new("")).get_program().to_owned();
        let process = Command::new(SCRIPT)
            .arg(castd)
            .env("CLIENT_PORTS", clients)
            .env("PEER_PORTS", peers)
            .env("DATA_DIR", directory.path().join("cluster"))
            .env("SETTINGS", format!("storage: '{}'", backend.name()))
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("one more descriptor"))
            .stdout(output)
            .process_group(0)
            .spawn()
            .expect("bash is there");
        Script { process, directory }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("output")).expect("written")
    }

    fn wait_for(&mut self, text: &str) {
        wait_until(text, PATIENCE, || {
            let has = self.output().contains(text);
            assert!(has || !self.has_ended(), "it ended before {text:?}:\n{}", self.output());
            has
        });
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("a child can be waited for").is_some()
    }

    /// The members' process ids, which it prints in the form of commands.
    fn members(&self) -> Vec<Pid> {
        let output = self.output();
        let commands = output.lines().filter_map(|line| line.strip_prefix("cluster |   kill -9 "));
        let pids = commands.map(|rest| rest.split_whitespace().next().and_then(|pid| pid.parse().ok()));
        pids.map(|pid| Pid::from_raw(pid.expect("a number")).expect("not 0")).collect()
    }

    fn ctrl_c(&self) {
        kill_process_group(Pid::from_child(&self.process), Signal::INT).expect("it runs");
    }

    /// Its exit code and where its data is, once it and all members have ended.
    fn end(mut self) -> (Option<i32>, tempfile::TempDir) {
        wait_until("the script ends", PATIENCE, || self.has_ended());
        for member in self.members() {
            assert!(test_kill_process(member).is_err(), "a member goes on:\n{}", self.output());
        }
        let code = self.process.wait().expect("it has ended").code();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a directory"));
        (code, directory)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if !self.has_ended() {
            for member in self.members() {
                let _ = kill_process(member, Signal::KILL);
            }
            let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
            let _ = self.process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.output());
        }
    }
}

fn three_ports() -> (String, [u16; 3]) {
    let ports = [(); 3].map(|()| free_port());
    (ports.map(|port| port.to_string()).join(" "), ports)
}

async fn three_members_serve_until_ctrl_c_and_go_on_after_it(setup: Setup) {
    let backend = setup.backend().expect("castd's");
    let ((clients, client_ports), (peers, _)) = (three_ports(), three_ports());
    let endpoints = client_ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let mut script = Script::start(backend, &clients, &peers, tempfile::tempdir().expect("a directory"));
    script.wait_for("Ctrl-C stops all");
    let output = script.output();
    assert!(output.contains(&format!("ENDPOINTS={endpoints}\n")), "{output}");
    let mut prefixes: Vec<_> = output.lines().map(|line| line.split(" | ").next().unwrap_or_default()).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    assert_eq!(prefixes, ["cluster", "m1", "m2", "m3"], "{output}");
    let health = ctl::etcdctl(&endpoints, &["endpoint", "health"], None);
    // Debian's etcdctl says it on stderr.
    assert_eq!((health.code, health.stderr.matches("is healthy").count()), (0, 3), "{health:?}");
    ctl::etcdctl(&endpoints, &["put", "k", "v"], None).prints("OK\n");
    script.ctrl_c();
    let (code, directory) = script.end();
    assert_eq!(code, Some(0));
    let output = std::fs::read_to_string(directory.path().join("output")).expect("written");
    assert_eq!(output.matches("\"closed etcd server\"").count(), 3, "all of them in order: {output}");
    assert!(output.ends_with("cluster | all members have ended\n"), "{output}");

    // On the same data, with one that dies.
    let mut script = Script::start(backend, &clients, &peers, directory);
    script.wait_for("Ctrl-C stops all");
    ctl::etcdctl(&endpoints, &["get", "k"], None).prints("k\nv\n");
    kill_process(script.members()[1], Signal::KILL).expect("it runs");
    script.wait_for("m2 has ended with 137; again: ");
    let two =
        endpoints.split(',').filter(|it| !it.ends_with(&client_ports[1].to_string())).collect::<Vec<_>>().join(",");
    ctl::etcdctl(&two, &["get", "k"], None).prints("k\nv\n");
    script.ctrl_c();
    let (code, directory) = script.end();
    assert_eq!(code, Some(1), "not all ended as they should");

    // The peers would not find each other.
    let script = Script::start(backend, &clients, &three_ports().0, directory);
    let (code, directory) = script.end();
    let output = std::fs::read_to_string(directory.path().join("output")).expect("written");
    assert_eq!(code, Some(1));
    assert!(output.contains(&format!("holds a cluster on PEER_PORTS=\"{peers}\"")), "{output}");
}

#[test]
fn a_port_that_is_taken_is_named_before_anything_is_started() {
    let _place = Place::take();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    for place in 0..3 {
        let (mut ports, others) = (three_ports().1, three_ports().0);
        ports[place] = port;
        let ports = ports.map(|port| port.to_string()).join(" ");
        let (clients, peers) = if place == 0 { (&ports, &others) } else { (&others, &ports) };
        let script = Script::start(Backend::Memory, clients, peers, tempfile::tempdir().expect("a directory"));
        let (code, directory) = script.end();
        let output = std::fs::read_to_string(directory.path().join("output")).expect("written");
        let expected = format!(
            "cluster: port {port} is taken; end what listens there, or choose others with CLIENT_PORTS and PEER_PORTS\n"
        );
        assert_eq!((code, output), (Some(1), expected));
        assert!(!directory.path().join("cluster").exists());
    }
}
