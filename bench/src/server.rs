//! Server processes under test: castd or etcd, on free ports and in empty directories; alone, or members of one cluster.
//!
//! Both are started with the same flags, and etcd's timing: a heartbeat every 100 ms, an election time-out of 1,000.

use crate::Error;
use crate::table::Kind;
use castd_proto::etcdserverpb::kv_client::KvClient;
use castd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use castd_proto::etcdserverpb::{RangeRequest, StatusRequest, StatusResponse};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::transport::Channel;

pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(1_000);
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Until a server answers.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until an answer is late enough to ask again. A member that has just lost its leader keeps a read for seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
pub const POLL: Duration = Duration::from_millis(5);

/// What is started.
#[derive(Clone)]
pub struct Program {
    pub kind: Kind,
    pub path: PathBuf,
    /// Castd's backend.
    pub storage: String,
}

pub struct Server {
    program: Program,
    name: String,
    dir: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    /// `--initial-cluster`.
    members: String,
    process: Child,
}

/// An address that nobody listens on at the moment. Its port is none that the system gives to outgoing connections: one of
/// those could take it while the server is down, even one to the very same port.
fn free_address() -> Result<SocketAddr, Error> {
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 1_000 * 22) as u16;
    for _ in PORTS {
        let place = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + place));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(format!("no free port in {PORTS:?}").into())
}

impl Server {
    /// One that is a cluster by itself.
    pub async fn start(program: &Program) -> Result<Server, Error> {
        let mut servers = Server::start_all(program, 1).await?;
        servers.pop().ok_or_else(|| "no server".into())
    }

    /// So many that form a cluster, all serving.
    pub async fn start_all(program: &Program, count: usize) -> Result<Vec<Server>, Error> {
        // Beside the build, so that both servers write to a real disk and not to a tmpfs.
        let base = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
        let mut places = Vec::new();
        for number in 1..=count {
            places.push((format!("bench{number}"), free_address()?, free_address()?));
        }
        let listed: Vec<String> = places.iter().map(|(name, _, peer)| format!("{name}=http://{peer}")).collect();
        let members = listed.join(",");
        let mut servers = Vec::new();
        for (name, client, peer) in places {
            let dir = tempfile::Builder::new().prefix("castd-bench-").tempdir_in(&base)?;
            let process = spawn(program, &name, &dir, client, peer, &members)?;
            servers.push(Server {
                program: program.clone(),
                name,
                dir,
                client,
                peer,
                members: members.clone(),
                process,
            });
        }
        for server in &mut servers {
            server.wait_until_ready().await?;
        }
        Ok(servers)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    pub async fn channel(&self) -> Result<Channel, Error> {
        Ok(Channel::from_shared(self.url())?.connect().await?)
    }

    pub async fn status(&self) -> Result<StatusResponse, Error> {
        let mut client = MaintenanceClient::new(self.channel().await?);
        Ok(tokio::time::timeout(ANSWER_WITHIN, client.status(StatusRequest {})).await??.into_inner())
    }

    /// Ends the process as an operator would, starts it again, and answers how long the start took until it served.
    pub async fn restart(&mut self) -> Result<Duration, Error> {
        self.ask_to_end()?;
        self.wait_for_end()?;
        let started = now();
        self.resume()?;
        self.wait_until_ready().await?;
        Ok(started.elapsed())
    }

    /// Ends the process as a crash would. It is gone when this returns.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts the process again, on the data that it left.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.process = spawn(&self.program, &self.name, &self.dir, self.client, self.peer, &self.members)?;
        Ok(())
    }

    pub fn stop(self) -> Result<(), Error> {
        Server::stop_all(vec![self])
    }

    /// All at once, as when a machine is shut down.
    pub fn stop_all(mut servers: Vec<Server>) -> Result<(), Error> {
        servers.iter().try_for_each(Server::ask_to_end)?;
        servers.iter_mut().try_for_each(Server::wait_for_end)
    }

    fn ask_to_end(&self) -> Result<(), Error> {
        Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status()?;
        Ok(())
    }

    fn wait_for_end(&mut self) -> Result<(), Error> {
        self.process.wait()?;
        Ok(())
    }

    /// Until a linearizable read is answered.
    pub async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let started = now();
        loop {
            if let Ok(Ok(())) = tokio::time::timeout(ANSWER_WITHIN, self.read()).await {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                return Err(format!("{:?} ended with {status}; it said: {log}", self.program.kind).into());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{:?} does not answer", self.program.kind).into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn read(&self) -> Result<(), Error> {
        let mut client = KvClient::new(self.channel().await?);
        client.range(RangeRequest { key: "ready".into(), ..Default::default() }).await?;
        Ok(())
    }

    /// CPU time that the process has used, user and system.
    pub fn cpu(&self) -> Result<Duration, Error> {
        const TICKS_PER_SECOND: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit_once(')').ok_or("no name in stat")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> Result<u64, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(
    program: &Program,
    name: &str,
    dir: &TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    members: &str,
) -> Result<Child, Error> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = Command::new(&program.path);
    command
        .args(["--name", name, "--data-dir"])
        .arg(dir.path().join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", members, "--quota-backend-bytes", "8589934592"])
        .args(["--heartbeat-interval", &HEARTBEAT.as_millis().to_string()])
        .args(["--election-timeout", &ELECTION_TIMEOUT.as_millis().to_string()])
        // The default of newer releases, which castd follows; Debian's etcd has it off.
        .arg("--pre-vote=true")
        .args(["--log-level", "error"]);
    match program.kind {
        Kind::Castd => command.args(["--storage", &program.storage]),
        Kind::Etcd => command.args(["--logger", "zap"]),
    };
    let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log"))?;
    let spawned = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    spawned.map_err(|error| format!("{}: {error}", program.path.display()).into())
}

/// The one clock of the benchmark.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub fn now() -> Instant {
    Instant::now()
}
