//! One server process: how it is started, and its life.

use super::http::http_get;
use super::places::free_port;
use super::{Backend, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For a start that replays a log, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// Of a log shown after a failure.
const LOG_TAIL_BYTES: usize = 6_000;

/// Where a server listens. Ids follow from the peer port, so that servers which must compare equal share these.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub client: u16,
    pub peer: u16,
}

impl Ports {
    pub fn free() -> Self {
        Ports { client: free_port(), peer: free_port() }
    }
}

/// How to start a server.
#[derive(Clone)]
pub struct Setup {
    /// Words in front of the program, such as `setpriv …`; they end in an exec.
    wrapper: Vec<String>,
    program: OsString,
    backend: Option<Backend>,
    pub ports: Ports,
    /// Where peers are told to reach it, if that is not where it listens.
    proxy: Option<u16>,
    name: String,
    /// Of a member that is not alone: `--initial-cluster`, and whether it is there already.
    cluster: Option<(String, bool)>,
    flags: Vec<String>,
    /// Replaces what [`Setup::start`] would say about names, addresses and timing.
    bare: bool,
    environment: Vec<(String, OsString)>,
    default_timing: bool,
}

impl Setup {
    pub fn castd(backend: Backend) -> Self {
        // For a build that another one must not replace while the tests run.
        let program = std::env::var_os("CASTD_TEST_CASTD").unwrap_or_else(|| env!("CARGO_BIN_EXE_castd").into());
        Setup::new(program, Some(backend)).flag(format!("--storage={}", backend.name()))
    }

    pub fn etcd(program: impl Into<OsString>) -> Self {
        Setup::new(program.into(), None).flag("--logger=zap")
    }

    fn new(program: OsString, backend: Option<Backend>) -> Self {
        let (flags, environment) = (Vec::new(), Vec::new());
        Setup {
            wrapper: Vec::new(),
            program,
            backend,
            ports: Ports::free(),
            proxy: None,
            name: "m1".to_owned(),
            cluster: None,
            flags,
            bare: false,
            environment,
            default_timing: false,
        }
    }

    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub fn flags<const N: usize>(self, flags: [&str; N]) -> Self {
        flags.into_iter().fold(self, Setup::flag)
    }

    /// Runs it through a program that changes its surroundings and then becomes it.
    pub fn through<const N: usize>(mut self, wrapper: [&str; N]) -> Self {
        self.wrapper = wrapper.map(str::to_owned).to_vec();
        self
    }

    /// The backend is then to be chosen in another way.
    pub fn without_storage_flag(mut self) -> Self {
        self.flags.retain(|flag| !flag.starts_with("--storage="));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// Peers are to reach it through a proxy at that port.
    pub fn behind(mut self, proxy: u16) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// A member of that name in a cluster of others: one that they found together, or one that exists.
    pub fn member(mut self, name: &str, initial_cluster: impl Into<String>, exists: bool) -> Self {
        name.clone_into(&mut self.name);
        self.cluster = Some((initial_cluster.into(), exists));
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its part of an `--initial-cluster`.
    pub fn listed(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    /// With another backend.
    pub fn storage(self, backend: Backend) -> Self {
        let flag = format!("--storage={}", backend.name());
        Setup { backend: Some(backend), ..self.without_storage_flag() }.flag(flag)
    }

    /// Elections as without flags. Otherwise they are ten times faster, and so are starts, and leases may be shorter.
    pub fn default_timing(mut self) -> Self {
        self.default_timing = true;
        self
    }

    /// No flags but those given.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self.flags.clear();
        self
    }

    /// An etcd 3.4 is asked, not Castd.
    pub fn is_etcd(&self) -> bool {
        self.backend.is_none()
    }

    pub fn backend(&self) -> Option<Backend> {
        self.backend
    }

    /// It needs a snapshot to come back without the whole of its log.
    pub fn keeps_snapshots(&self) -> bool {
        self.backend.is_some_and(|backend| backend.name() != "rocksdb")
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.client)
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.proxy.unwrap_or(self.ports.peer))
    }

    /// The command as [`Setup::start`] would run it with that data dir.
    pub fn command(&self, data: &Path) -> Command {
        let mut words = self.wrapper.iter().map(OsString::from).chain([self.program.clone()]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words);
        if !self.bare {
            command
                .arg(format!("--name={}", self.name))
                .arg(format!("--data-dir={}", data.display()))
                .arg(format!("--listen-client-urls={}", self.client_url()))
                .arg(format!("--advertise-client-urls={}", self.client_url()))
                .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", self.ports.peer))
                .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
                .arg(format!("--initial-cluster={}", self.cluster.as_ref().map_or(self.listed(), |it| it.0.clone())));
            if self.cluster.as_ref().is_some_and(|(_, exists)| *exists) {
                command.arg("--initial-cluster-state=existing");
            }
            if !self.default_timing {
                command.args(["--heartbeat-interval=10", "--election-timeout=100"]);
            }
        }
        command.args(&self.flags);
        // What the developer's shell has set is not part of the test.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        command.env_remove("NOTIFY_SOCKET").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Starts it in a directory of its own and waits until it serves.
    pub fn start(self) -> Server {
        let mut server = self.prepare();
        server.restart();
        server
    }

    /// Everything but starting it.
    pub fn prepare(self) -> Server {
        let directory = tempfile::Builder::new().prefix("castd-it-").tempdir().expect("a temporary directory");
        Server { setup: self, directory: Some(directory), process: None }
    }
}

/// A server process, or one that has ended and may be started again.
pub struct Server {
    pub setup: Setup,
    /// Kept when a test fails.
    directory: Option<TempDir>,
    process: Option<Child>,
}

impl Server {
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("held until dropped").path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// Portable snapshots that Castd has on disk.
    pub fn snapshots(&self) -> usize {
        std::fs::read_dir(self.data_dir().join("member/snap")).map_or(0, Iterator::count)
    }

    fn log_file(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.directory().join(name)).expect("a log file opens")
    }

    /// Starts it where it was, without waiting.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "it is running");
        let child = self
            .setup
            .command(&self.data_dir())
            .stdout(self.log_file("stdout.log"))
            .stderr(self.log_file("stderr.log"))
            .spawn()
            .expect("the server can be run");
        self.process = Some(child);
    }

    /// Starts it where it was, and waits until it serves.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    pub fn wait_ready(&mut self) {
        let started = Instant::now();
        while !self.is_healthy() {
            if let Some(status) = self.process().try_wait().expect("a child can be waited for") {
                self.process = None;
                panic!("the server ended instead of serving: {status}\n{}", self.log_tail());
            }
            assert!(started.elapsed() < READY_WITHIN, "not ready in {READY_WITHIN:?}\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_healthy(&self) -> bool {
        http_get(self.setup.ports.client, "/health?exclude=NOSPACE")
            .is_ok_and(|answer| answer.status == 200 && answer.body.contains(r#""health":"true""#))
    }

    fn process(&mut self) -> &mut Child {
        self.process.as_mut().expect("it is running")
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it is running").id()
    }

    /// A process that is to stop stands still when this returns: where others are at work, its threads go on for a while.
    pub fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.process()), signal).expect("a running child can be signalled");
        if signal == Signal::STOP {
            let process = self.pid();
            wait_until("its threads stand still", STOPPED_WITHIN, || stands_still(process));
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let log = self.directory().join("stderr.log");
        let mut status = None;
        wait_until(&format!("the process ends, see {}", log.display()), STOPPED_WITHIN, || {
            status = self.process().try_wait().expect("a child can be waited for");
            status.is_some()
        });
        self.process = None;
        status.expect("set when the wait ended")
    }

    /// SIGTERM, as systemd would.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// A stop of which only the effect on disk matters.
    pub fn end(&mut self) {
        self.stop();
    }

    /// SIGKILL, as the kernel would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.setup.ports.client)
    }

    /// All it has said on stderr, in all its lives.
    pub fn log(&self) -> String {
        read_lossy(&self.directory().join("stderr.log"))
    }

    pub fn stdout(&self) -> String {
        read_lossy(&self.directory().join("stdout.log"))
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let start = log.ceil_char_boundary(log.len().saturating_sub(LOG_TAIL_BYTES));
        format!("--- end of {}/stderr.log\n{}", self.directory().display(), &log[start..])
    }
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The test is over; nothing of it is worth a clean stop.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
            if let Some(directory) = self.directory.take() {
                eprintln!("--- kept: {}", directory.keep().display());
            }
        }
    }
}

/// Whether all threads of the process are stopped, as the kernel tells.
fn stands_still(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it has not ended");
    threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        let state = stat.rsplit(") ").next().and_then(|fields| fields.chars().next());
        matches!(state, Some('T' | 't'))
    })
}
