//! A server process under test: castd or etcd, on free ports and an empty directory.

use crate::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Castd,
    Etcd,
}

pub struct Server {
    kind: Kind,
    program: PathBuf,
    storage: String,
    dir: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    process: Child,
}

/// Two ports that nobody listens on at the moment.
fn free_ports() -> std::io::Result<(SocketAddr, SocketAddr)> {
    let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((first.local_addr()?, second.local_addr()?))
}

impl Server {
    pub async fn start(kind: Kind, program: &Path, storage: &str) -> Result<Server, Error> {
        // Beside the build, so that both servers write to a real disk and not to a tmpfs.
        let base = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
        let dir = tempfile::Builder::new().prefix("castd-bench-").tempdir_in(base)?;
        let (client, peer) = free_ports()?;
        let process = spawn(kind, program, storage, dir.path(), client, peer)?;
        let mut server =
            Server { kind, program: program.to_owned(), storage: storage.to_owned(), dir, client, peer, process };
        server.wait_until_ready().await?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.client
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Ends the process as an operator would, starts it again, and answers how long the start took until it served.
    pub async fn restart(&mut self) -> Result<Duration, Error> {
        self.end()?;
        let started = now();
        self.process = spawn(self.kind, &self.program, &self.storage, self.dir.path(), self.client, self.peer)?;
        self.wait_until_ready().await?;
        Ok(started.elapsed())
    }

    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status()?;
        self.process.wait()?;
        Ok(())
    }

    /// Until a linearizable read is answered.
    async fn wait_until_ready(&mut self) -> Result<(), Error> {
        use castd_proto::etcdserverpb::{RangeRequest, kv_client::KvClient};
        let started = now();
        loop {
            if let Ok(mut client) = KvClient::connect(self.url()).await
                && client.range(RangeRequest { key: "ready".into(), ..Default::default() }).await.is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("{:?} ended with {status}; see {}", self.kind, self.dir.path().display()).into());
            }
            if started.elapsed() > Duration::from_secs(120) {
                return Err(format!("{:?} does not answer", self.kind).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
    kind: Kind,
    program: &Path,
    storage: &str,
    dir: &Path,
    client: SocketAddr,
    peer: SocketAddr,
) -> Result<Child, Error> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = Command::new(program);
    command
        .args(["--name", "bench", "--data-dir"])
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("bench={peer}"), "--quota-backend-bytes", "8589934592"])
        .args(["--log-level", "error"]);
    match kind {
        Kind::Castd => command.args(["--storage", storage]),
        Kind::Etcd => command.args(["--logger", "zap"]),
    };
    let log = std::fs::File::create(dir.join("log"))?;
    let spawned = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    spawned.map_err(|error| format!("{}: {error}", program.display()).into())
}

/// The one clock of the benchmark.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub fn now() -> Instant {
    Instant::now()
}
