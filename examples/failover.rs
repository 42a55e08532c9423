//! A leader is killed while a client writes: who notices what, for how long, and what is left of it.
//!
//! ```text
//!   this program ──starts itself three times──▶ m1 ◀──▶ m2 ◀──▶ m3      processes, as `kill -9` is for processes
//!        │  writes 1, 2, 3, … each until it is acknowledged, wherever somebody answers
//!        └─ kills the one that leads, and starts it again
//! ```
//! Each member is this same program, started with castd's flags; it stops in good order when its standard input is closed,
//! so none outlives the one that started it. Elections have castd's default timing: followers wait for one to two election
//! timeouts of a second before they elect another leader, and that is about how long nobody can write.
//!
//! ```text
//!   cargo run --release --example failover
//! ```
#![expect(clippy::disallowed_methods, reason = "this is about real time")]

use std::error::Error;
use std::fmt::Display;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use castd::config::{Invocation, Surroundings, from_invocation};
use castd::member::Member;
use etcd_client::{Client, ConnectOptions, GetOptions};
use tempfile::TempDir;

/// Set for the processes that are members.
const IS_MEMBER: &str = "CASTD_EXAMPLE_MEMBER";
/// What is not answered by then is asked of another member.
const PATIENCE: Duration = Duration::from_millis(300);
const WRITES_BETWEEN: u64 = 200;
const PREFIX: &str = "entries/";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    if std::env::var_os(IS_MEMBER).is_some() {
        return be_a_member();
    }
    tokio::runtime::Runtime::new()?.block_on(kill_the_leader())
}

async fn kill_the_leader() -> Outcome<()> {
    let clock = Clock(Instant::now());
    let mut cluster = Cluster::start()?;
    let (leader, term) = cluster.wait_for_leader(None).await?;
    clock.say(format_args!("three members serve; {} leads in term {term}", cluster.name(leader)));

    let writes = Arc::new(Writes::default());
    let writer = tokio::spawn(write(cluster.urls(), Arc::clone(&writes), clock.0));
    writes.wait_for(WRITES_BETWEEN, &writer).await?;

    clock.say(format_args!("{} writes are acknowledged; kill -9 {}", writes.acknowledged(), cluster.name(leader)));
    writes.reports_refusals.store(true, Ordering::Relaxed);
    cluster.kill(leader)?;
    let (killed_at, before) = (Instant::now(), writes.acknowledged());

    // One may have been on its way; the next was asked for when the leader was dead.
    writes.wait_for(before + 2, &writer).await?;
    let refused = killed_at.elapsed();
    clock.say(format_args!("writes are acknowledged again, after {:.2} s", refused.as_secs_f64()));
    let (successor, new_term) = cluster.wait_for_leader(Some(leader)).await?;
    assert_ne!(successor, leader, "the dead do not lead");
    assert!(new_term > term, "a leader for each term, and a term for each leader");
    clock.say(format_args!("{} leads in term {new_term}", cluster.name(successor)));

    writes.wait_for(before + WRITES_BETWEEN, &writer).await?;
    let missed = writes.acknowledged() - before;
    clock.say(format_args!("{missed} writes later, {} is started again on its data", cluster.name(leader)));
    cluster.restart(leader)?;
    cluster.wait_until_it_has(leader, writes.acknowledged()).await?;
    clock.say(format_args!("{} has caught up, and follows", cluster.name(leader)));
    writes.wait_for(writes.acknowledged() + WRITES_BETWEEN, &writer).await?;

    writes.is_over.store(true, Ordering::Relaxed);
    let report = writer.await??;
    clock.say(format_args!(
        "{} writes acknowledged, {} of them at a second try, the slowest after {:.2} s",
        report.acknowledged,
        report.second_tries,
        report.slowest.as_secs_f64(),
    ));
    for place in 0..3 {
        cluster.check(place, report.acknowledged).await?;
    }
    let hashes = cluster.hashes().await?;
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "different histories: {hashes:?}");
    clock.say(format_args!("each member has all {} of them, and the same history", report.acknowledged));
    cluster.stop()?;
    println!("ok");
    Ok(())
}

/// What the writer has come to, for those who wait for it.
#[derive(Default)]
struct Writes {
    acknowledged: AtomicU64,
    /// The next write that fails is worth a line.
    reports_refusals: AtomicBool,
    is_over: AtomicBool,
}

impl Writes {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn wait_for<T>(&self, count: u64, writer: &tokio::task::JoinHandle<T>) -> Outcome<()> {
        let is_enough = async || Ok((self.acknowledged() >= count || writer.is_finished()).then_some(()));
        eventually("writes to be acknowledged", is_enough).await?;
        if self.acknowledged() < count { Err("the writer gave up".into()) } else { Ok(()) }
    }
}

struct Report {
    acknowledged: u64,
    second_tries: u64,
    slowest: Duration,
}

/// Writes numbers, each until it is acknowledged. To write one twice is harmless, and so a write without an answer, which
/// may have been made or not, is simply made again.
async fn write(urls: [String; 3], writes: Arc<Writes>, began: Instant) -> Outcome<Report> {
    let mut clients = Vec::new();
    for url in &urls {
        clients.push(connect(url).await?);
    }
    let mut report = Report { acknowledged: 0, second_tries: 0, slowest: Duration::ZERO };
    let mut place = 0;
    while !writes.is_over.load(Ordering::Relaxed) {
        let (key, asked_at) = (key_of(report.acknowledged), Instant::now());
        let mut attempts = 0;
        loop {
            attempts += 1;
            match clients[place].put(key.clone(), "written", None).await {
                Ok(_) => break,
                Err(reason) if writes.reports_refusals.swap(false, Ordering::Relaxed) => {
                    Clock(began).say(format_args!("m{} does not take a write: {}", place + 1, in_short(&reason)));
                }
                Err(_) => {}
            }
            place = (place + 1) % clients.len();
            if asked_at.elapsed() > Duration::from_secs(30) {
                return Err(format!("nobody has taken {key} for 30 s").into());
            }
        }
        report.acknowledged += 1;
        report.second_tries += u64::from(attempts > 1);
        report.slowest = report.slowest.max(asked_at.elapsed());
        writes.acknowledged.store(report.acknowledged, Ordering::Relaxed);
        // Members take turns, so that it does not depend on luck whether the dead one is asked.
        place = (place + 1) % clients.len();
    }
    Ok(report)
}

fn key_of(number: u64) -> String {
    format!("{PREFIX}{number:08}")
}

fn in_short(reason: &etcd_client::Error) -> String {
    match reason {
        etcd_client::Error::GRpcStatus(status) => format!("{} ({:?})", status.message(), status.code()),
        other => other.to_string(),
    }
}

async fn connect(url: &str) -> Outcome<Client> {
    let options = ConnectOptions::new().with_timeout(PATIENCE).with_connect_timeout(PATIENCE);
    // A connection is made when it is needed, and again when it is lost.
    Ok(Client::connect([url], Some(options)).await?)
}

/// Three members on this machine.
struct Cluster {
    members: Vec<Process>,
    initial_cluster: String,
    _directory: TempDir,
}

struct Process {
    name: String,
    flags: Vec<String>,
    url: String,
    running: Option<Child>,
}

impl Cluster {
    fn start() -> Outcome<Cluster> {
        let directory = tempfile::tempdir()?;
        let mut cluster = Cluster { members: Vec::new(), initial_cluster: String::new(), _directory: directory };
        for number in 1..=3 {
            let (name, clients, peers) = (format!("m{number}"), free_loopback_url()?, free_loopback_url()?);
            let flags = vec![
                format!("--name={name}"),
                format!("--data-dir={}", cluster._directory.path().join(&name).display()),
                format!("--listen-client-urls={clients}"),
                format!("--advertise-client-urls={clients}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
            ];
            let separator = if number > 1 { "," } else { "" };
            cluster.initial_cluster += &format!("{separator}{name}={peers}");
            cluster.members.push(Process { name, flags, url: clients, running: None });
        }
        for place in 0..3 {
            cluster.restart(place)?;
        }
        Ok(cluster)
    }

    fn restart(&mut self, place: usize) -> Outcome<()> {
        let member = &mut self.members[place];
        let running = Command::new(std::env::current_exe()?)
            .args(&member.flags)
            .arg(format!("--initial-cluster={}", self.initial_cluster))
            .env(IS_MEMBER, "yes")
            .stdin(Stdio::piped())
            .spawn()?;
        member.running = Some(running);
        Ok(())
    }

    /// SIGKILL: the process does not get to do anything any more.
    fn kill(&mut self, place: usize) -> Outcome<()> {
        let mut process = self.members[place].running.take().ok_or("it does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// In good order, all at once.
    fn stop(mut self) -> Outcome<()> {
        let mut stopping: Vec<Child> = self.members.iter_mut().filter_map(|member| member.running.take()).collect();
        stopping.iter_mut().for_each(|process| drop(process.stdin.take()));
        for mut process in stopping {
            let status = process.wait()?;
            assert!(status.success(), "a member ended with {status}");
        }
        Ok(())
    }

    fn name(&self, place: usize) -> &str {
        &self.members[place].name
    }

    fn urls(&self) -> [String; 3] {
        [0, 1, 2].map(|place| self.members[place].url.clone())
    }

    /// Who leads, and in which term, once somebody does and says so itself.
    async fn wait_for_leader(&self, but_not: Option<usize>) -> Outcome<(usize, u64)> {
        let leader = async || {
            for place in (0..3).filter(|place| Some(*place) != but_not) {
                let Ok(mut client) = connect(&self.members[place].url).await else { continue };
                if let Ok(status) = client.status().await
                    && status.header().is_some_and(|header| header.member_id() == status.leader())
                {
                    return Ok(Some((place, status.raft_term())));
                }
            }
            Ok(None)
        };
        eventually("somebody to lead", leader).await
    }

    /// Asks the member for what it has itself, which a serializable read is.
    async fn wait_until_it_has(&self, place: usize, writes: u64) -> Outcome<()> {
        let options = GetOptions::new().with_prefix().with_count_only().with_serializable();
        let has_it = async || {
            let Ok(mut client) = connect(&self.members[place].url).await else { return Ok(None) };
            let count = client.get(PREFIX, Some(options.clone())).await.map_or(0, |answer| answer.count());
            Ok((u64::try_from(count)? >= writes).then_some(()))
        };
        eventually("the member that was killed to catch up", has_it).await
    }

    /// Every single acknowledged write is there.
    async fn check(&self, place: usize, writes: u64) -> Outcome<()> {
        let mut client = connect(&self.members[place].url).await?;
        let found = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
        let mut keys = Vec::new();
        for pair in found.kvs() {
            keys.push(pair.key_str()?.to_owned());
        }
        let expected: Vec<String> = (0..writes).map(key_of).collect();
        assert!(keys == expected, "{} has {} keys, and not all of {writes}", self.name(place), keys.len());
        Ok(())
    }

    async fn hashes(&self) -> Outcome<Vec<(u32, i64)>> {
        let mut hashes = Vec::new();
        for member in &self.members {
            let answer = connect(&member.url).await?.hash_kv(0).await?;
            hashes.push((answer.hash(), answer.compact_version()));
        }
        Ok(hashes)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut process) = self.running.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Outcome<Option<T>>) -> Outcome<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("waited a minute for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Clock(Instant);

impl Clock {
    fn say(&self, what: impl Display) {
        println!("{:7.3} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// The other program in this one. Its log is left out here: [`Member::start_logged`] would take one.
fn be_a_member() -> Outcome<()> {
    let surroundings = Surroundings { environment: Vec::new(), ..Surroundings::of_this_process() };
    let Invocation::Run(config, _) = from_invocation(&surroundings) else {
        return Err("the flags of a member are not accepted".into());
    };
    let member = Member::start(*config)?;
    // Until it is closed, by this program's other half or by the end of that.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    member.stop();
    Ok(())
}

/// A port that nobody uses now; the member will a moment later.
fn free_loopback_url() -> Result<String, std::io::Error> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(format!("http://127.0.0.1:{port}"))
}
