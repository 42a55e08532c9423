//! The programs in `examples/` do what they say: each is run as it is, and those that can use another server also against
//! a castd process.
//!
//! What an example claims it checks itself and exits with a failure otherwise; here its exit code counts, and the lines
//! that its reader looks for, in their order.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

#[test]
fn the_embedded_member_comes_back_with_all_it_had() {
    run(
        "embedded",
        None,
        &[
            "started a member at http://127.0.0.1:",
            "wrote 10 keys and deleted one",
            "stopped at revision 12",
            "started it again at http://127.0.0.1:",
            "found 9 keys again, none lost, none too many",
            "ok",
        ],
    );
}

#[test]
fn a_killed_leader_costs_a_second_and_no_write() {
    run(
        "failover",
        None,
        &[
            "three members serve; m",
            "writes are acknowledged; kill -9 m",
            "does not take a write: ",
            "writes are acknowledged again, after ",
            "leads in term ",
            "is started again on its data",
            "has caught up, and follows",
            "writes acknowledged, ",
            "each member has all ",
            "ok",
        ],
    );
}

const SERVICE_REGISTRY: &[&str] = &[
    "registered: a, b",
    "discovered at revision",
    "discovered: Joined { name: \"c\", address: \"10.0.0.3:7000\" }",
    "discovered: Left { name: \"a\" } (it said goodbye)",
    "discovered: Left { name: \"b\" } (it died; noticed after",
    "left: c",
    "ok",
];

const CONFIG_WATCH: &[&str] = &[
    "read: revision",
    "changed: revision",
    "-- the connection is lost, two changes happen",
    "caught up: revision",
    "caught up: revision",
    "-- the connection is lost, a key is deleted, the history is compacted",
    "read again: revision",
    "changed: revision",
    "ok",
];

const FENCED_LOCK: &[&str] = &[
    "locked with token",
    "wrote with token",
    "5 writers, 5 wake-ups; a herd would have had 15",
    "the sleeper has the lock with token",
    "its lease ran out: the successor has the lock with token",
    "the sleeper wakes up and writes: Err(Stale",
    "ok",
];

const LOCK_SERVICE: &[&str] = &[
    "goes home",
    "5 clerks sold 20 of 20 items",
    "one gave up, and has left the queue",
    "the sleeper has the lock",
    "its lease ran out: the successor has the lock",
    "the sleeper wakes up and writes: refused",
    "ok",
];

const ELECTION: &[&str] = &[
    "observed: a:7000",
    "observed: a:7001 (it has moved)",
    "observed: b:7000 (the one before has resigned)",
    "observed: c:7000 (the one before was not heard of any more)",
    "b:7000 wakes up and assigns a job: refused",
    "election: not leader",
    "ok",
];

#[test]
fn a_dead_instance_is_seen_to_go() {
    run("service_registry", None, SERVICE_REGISTRY);
}

#[test]
fn settings_survive_lost_connections_and_compaction() {
    run("config_watch", None, CONFIG_WATCH);
}

#[test]
fn a_lock_that_ran_out_is_refused_by_its_token() {
    run("fenced_lock", None, FENCED_LOCK);
}

#[test]
fn a_lock_of_the_service_is_not_stolen() {
    run("lock_service", None, LOCK_SERVICE);
}

#[test]
fn an_election_is_seen_by_everybody() {
    run("election", None, ELECTION);
}

#[test]
fn the_clients_run_against_a_server_of_its_own_process() {
    let server = Castd::start();
    // One after the other: config_watch compacts the history that the others follow.
    let programs = [
        ("service_registry", SERVICE_REGISTRY),
        ("fenced_lock", FENCED_LOCK),
        ("lock_service", LOCK_SERVICE),
        ("election", ELECTION),
        ("config_watch", CONFIG_WATCH),
    ];
    for (name, lines) in programs {
        run(name, Some(&server.endpoint), lines);
    }
}

/// Runs an example to its end. Each of `expected` begins, or is inside, a line of its own, in this order.
fn run(name: &str, endpoint: Option<&str>, expected: &[&str]) {
    let program = directory_of_examples().join(name);
    assert!(program.exists(), "{} is missing: cargo build --release --examples", program.display());
    let mut command = Command::new(&program);
    command.env_remove("CASTD_ENDPOINT");
    if let Some(endpoint) = endpoint {
        command.env("CASTD_ENDPOINT", endpoint);
    }
    let output = command.output().expect("the example can be started");
    let (printed, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let all = format!("{name} ended with {}\n{printed}\n{complained}", output.status);
    assert!(output.status.success(), "{all}");
    let mut lines = printed.lines();
    for fragment in expected {
        assert!(lines.any(|line| line.contains(fragment)), "no line, or not in its place: {fragment}\n{all}");
    }
}

/// Cargo puts examples beside the directory of the test executables.
fn directory_of_examples() -> PathBuf {
    let this_test = std::env::current_exe().expect("the path of this test");
    this_test.ancestors().nth(2).expect("a target directory").join("examples")
}

/// A server that ends with the test.
struct Castd {
    endpoint: String,
    process: Child,
    _data: tempfile::TempDir,
}

impl Castd {
    fn start() -> Castd {
        let data = tempfile::tempdir().expect("a directory for the data");
        let (clients, peers) = (free_url(), free_url());
        let mut process = Command::new(env!("CARGO_BIN_EXE_castd"))
            .arg("--storage=memory")
            .arg(format!("--data-dir={}", data.path().join("member.castd").display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=default={peers}"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("castd can be started");
        let mut log = BufReader::new(process.stderr.take().expect("the log is piped"));
        let mut said = String::new();
        while !said.contains("ready to serve client requests") {
            let read = log.read_line(&mut said).expect("the log can be read");
            assert!(read > 0, "castd ended before it was ready:\n{said}");
        }
        // Nobody reads on; a full pipe must not stop the server.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Castd { endpoint: clients, process, _data: data }
    }
}

impl Drop for Castd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Free now; the server will take it a moment later.
fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    format!("http://{}", listener.local_addr().expect("its address"))
}
