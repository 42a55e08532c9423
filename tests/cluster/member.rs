//! One castd process: how it is started, and its lives.

use crate::network::Network;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const ENDS_WITHIN: Duration = Duration::from_secs(60);
const LOG_TAIL_LINES: usize = 5;

/// What a member keeps its data in, as `--storage` takes it.
pub type Storage = &'static str;

/// Below the range from which the kernel takes the ports of outgoing connections: a port that is free while its member
/// restarts must not become somebody's source port.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test binaries that run side by side start at different places.
    let next = NEXT.get_or_init(|| AtomicU16::new((std::process::id() % 200 * 100) as u16));
    for _ in PORTS {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// How a member begins, if it has no data.
#[derive(Clone, Debug)]
pub struct Founding {
    /// As `--initial-cluster` takes it.
    pub cluster: String,
    pub joins: bool,
}

pub struct Member {
    /// In the harness: never used twice.
    pub number: usize,
    pub storage: Storage,
    pub founding: Founding,
    flags: Vec<String>,
    client_port: u16,
    listen_port: u16,
    proxy_port: u16,
    directory: PathBuf,
    network: Network,
    process: Option<Child>,
    is_paused: bool,
}

impl Member {
    /// Within a runtime: its proxy is open from now on.
    pub fn new(number: usize, storage: Storage, base: &Path, flags: &[String], network: &Network) -> Self {
        let directory = base.join(format!("m{number}"));
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        let (client_port, listen_port, proxy_port) = (free_port(), free_port(), free_port());
        let proxy = TcpListener::bind(("127.0.0.1", proxy_port)).expect("it was free");
        network.serve(number, proxy, listen_port);
        Member {
            number,
            storage,
            founding: Founding { cluster: String::new(), joins: false },
            flags: flags.to_vec(),
            client_port,
            listen_port,
            proxy_port,
            directory,
            network: network.clone(),
            process: None,
            is_paused: false,
        }
    }

    pub fn name(&self) -> String {
        format!("m{}", self.number)
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Where its peers reach it: through its proxy.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.proxy_port)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn log_file(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.directory.join("log")).expect("a log file opens")
    }

    /// Starts it where it was, without waiting.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "{} is running", self.name());
        let mut command = Command::new(env!("CARGO_BIN_EXE_castd"));
        command
            .arg(format!("--name={}", self.name()))
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .arg(format!("--storage={}", self.storage))
            .arg(format!("--listen-client-urls={}", self.client_url()))
            .arg(format!("--advertise-client-urls={}", self.client_url()))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", self.listen_port))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-cluster={}", self.founding.cluster))
            .arg(format!("--initial-cluster-state={}", if self.founding.joins { "existing" } else { "new" }))
            .args(&self.flags);
        // What the developer's shell has set is not part of the test.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(self.log_file()).stderr(self.log_file());
        let child = command.spawn().expect("castd can be run");
        self.network.member_runs(self.number, child.id());
        self.process = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it is running");
        kill_process(Pid::from_child(process), signal).expect("a running child can be signalled");
    }

    /// SIGKILL, as the kernel would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// SIGTERM, as systemd would. Its last word is the signal itself, as etcd's.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_end();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}\n{}", self.log_tail());
    }

    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.is_paused = true;
    }

    pub fn go_on(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.signal(Signal::CONT);
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        self.is_paused = false;
        let mut process = self.process.take().expect("it is running");
        let started = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                return status;
            }
            if started.elapsed() > ENDS_WITHIN {
                let _ = process.kill();
                let _ = process.wait();
                panic!("{} has not ended in {ENDS_WITHIN:?}\n{}", self.name(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How it ended, if it did so by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().expect("a child can be waited for");
        if status.is_some() {
            self.process = None;
        }
        status
    }

    /// Everything it has said, in all its lives.
    pub fn log(&self) -> String {
        std::fs::read(self.directory.join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// The last index that it has cut off its raft log, as it says itself.
    pub fn cut_upto(&self) -> Option<u64> {
        let log = self.log();
        let cut = log.lines().rev().find(|line| line.contains("\"cut the raft log\""))?;
        let digits = cut.split("\"up-to-index\":").nth(1)?;
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("--- {}, {}: {}\n{}", self.name(), self.storage, self.directory.display(), tail.join("\n"))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The test is over; nothing of it is worth a clean stop.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
