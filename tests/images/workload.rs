//! A real castd under strace through several lives, clients that write in every way, and what they were told when.

use crate::disk::Loss;
use crate::recording::Step;
use crate::tape::{self, CutShort, Tape};
use crate::trace::{Micros, TRACED};
use etcd_client::{Client, CompactionOptions, PutOptions, ResponseHeader, Txn, TxnOp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

pub const OPERATIONS: usize = 2_000;
const WORKERS: usize = 4;
const KEYS: usize = 40;
const LEASE_TTL_SECS: i64 = 100_000;
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a revision did: a key's new value and lease, or its end.
pub type Writes = BTreeMap<Vec<u8>, Option<(Vec<u8>, i64)>>;

#[derive(Clone, Debug)]
pub enum Deed {
    Wrote {
        revision: i64,
        writes: Writes,
    },
    Granted {
        lease: i64,
    },
    Revoked {
        lease: i64,
    },
    Compacted {
        revision: i64,
    },
    /// It has answered a read from it.
    Shown {
        revision: i64,
    },
}

/// Something that a client was told was done, and when it knew.
#[derive(Clone, Debug)]
pub struct Promise {
    pub at: Micros,
    /// Of the member that said so.
    pub term: u64,
    pub deed: Deed,
    /// On the member that was recorded: the others' promises say what is true.
    pub binds: bool,
}

impl Promise {
    pub fn now(header: Option<&ResponseHeader>, deed: Deed) -> Self {
        Promise { at: now(), term: header.map_or(0, ResponseHeader::raft_term), deed, binds: true }
    }
}

#[derive(Clone)]
pub struct Recording {
    pub steps: Vec<Step>,
    /// Where to begin to cut.
    pub from: usize,
    /// In the order in which they were made.
    pub promises: Vec<Promise>,
    /// For clients and for peers, of all members: who a member is follows from them.
    pub ports: Vec<(u16, u16)>,
    pub member: usize,
}

pub fn now() -> Micros {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as Micros)
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

pub fn strace_works() -> bool {
    let _alone = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// The flags that a recorded member and one that opens its images share: of one member of those with these ports, for
/// clients and for peers.
pub fn flags(storage: &str, data: &Path, ports: &[(u16, u16)], member: usize) -> Vec<String> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(ports[member].0), url(ports[member].1));
    let all: Vec<String> = (0..).zip(ports).map(|(number, ports)| format!("m{number}={}", url(ports.1))).collect();
    // Alone, nobody is in the way; together, nobody is to lose the lead because the machine is slow.
    let (heartbeat, election) = if ports.len() == 1 { (10, 100) } else { (100, 2_000) };
    vec![
        format!("--name=m{member}"),
        format!("--data-dir={}", data.display()),
        format!("--storage={storage}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={}", all.join(",")),
        format!("--heartbeat-interval={heartbeat}"),
        format!("--election-timeout={election}"),
        // Small, so that the log is cut many times.
        "--snapshot-count=150".to_owned(),
        "--snapshot-catchup-entries=50".to_owned(),
    ]
}

/// For clients and for peers of so many members.
pub fn free_ports(members: usize) -> Vec<(u16, u16)> {
    let bind = |_| [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let listeners: Vec<[TcpListener; 2]> = (0..members).map(bind).collect();
    let port = |it: &TcpListener| it.local_addr().expect("it is bound").port();
    listeners.iter().map(|both| both.each_ref().map(port).into()).collect()
}

/// A child has the files of its parent until it is another program, and with them the locks on them: no member is open in
/// this process then.
pub static SPAWNING: RwLock<()> = RwLock::new(());

/// strace, to which the program has to be added that it is to look at.
pub fn traced(trace: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-ttt", "-xx", "-s", "100000000", "-o"]).arg(trace);
    // Not every processor has all of them.
    let calls: Vec<String> = TRACED.split(',').map(|name| format!("?{name}")).collect();
    command.arg(format!("--trace={}", calls.join(",")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A member's flags, and nothing of what surrounds the tests.
pub fn server<'a>(
    command: &'a mut Command,
    storage: &str,
    data: &Path,
    ports: &[(u16, u16)],
    member: usize,
) -> &'a mut Command {
    command.args(flags(storage, data, ports, member));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
        command.env_remove(name);
    }
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

pub struct Life {
    /// The program itself: strace is its child.
    process: Child,
    trace: PathBuf,
}

impl Life {
    pub fn begin(mut command: Command, trace: PathBuf) -> Life {
        let alone = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
        let process = command.spawn().expect("strace can be run");
        drop(alone);
        Life { process, trace }
    }

    pub fn end(self, signal: Signal) -> String {
        kill_process(Pid::from_child(&self.process), signal).expect("a running child can be signalled");
        self.ended()
    }

    /// Waits for its end, and for the last line of its trace.
    pub fn ended(mut self) -> String {
        let last_word = format!("{} ", self.process.id());
        self.process.wait().expect("a child can be waited for");
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&self.trace).expect("the trace is text");
            let last = text.lines().rev().find(|line| line.starts_with(&last_word));
            if last.is_some_and(|line| line.contains("+++ ")) {
                return text;
            }
            assert!(began.elapsed() < READY_WITHIN, "strace has not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn connect(url: &str) -> Client {
    let began = Instant::now();
    loop {
        if let Ok(mut client) = Client::connect([url], None).await
            && client.put("ready", "", None).await.is_ok()
        {
            return client;
        }
        assert!(began.elapsed() < READY_WITHIN, "castd does not serve under strace");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Worker {
    client: Client,
    number: usize,
    dice: StdRng,
    leases: Vec<i64>,
    promises: Vec<Promise>,
}

impl Worker {
    fn key(&mut self) -> Vec<u8> {
        format!("w{}/{}", self.number, self.dice.random_range(0..KEYS)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        // Now and then larger than several pages.
        let length = if self.dice.random_ratio(1, 30) { 20_000 } else { self.dice.random_range(1..600) };
        (0..length).map(|_| self.dice.random()).collect()
    }

    fn promise(&mut self, header: Option<&ResponseHeader>, deed: Deed) {
        self.promises.push(Promise::now(header, deed));
    }

    async fn grant(&mut self) -> Result<i64, etcd_client::Error> {
        let answer = self.client.lease_grant(LEASE_TTL_SECS, None).await?;
        self.promise(answer.header(), Deed::Granted { lease: answer.id() });
        Ok(answer.id())
    }

    async fn operation(&mut self) -> Result<(), etcd_client::Error> {
        let (key, value) = (self.key(), self.value());
        match self.dice.random_range(0..100) {
            0..60 => {
                let lease = match self.leases.last() {
                    Some(lease) if self.dice.random_ratio(1, 5) => *lease,
                    _ => 0,
                };
                let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
                let answer = self.client.put(key.clone(), value.clone(), options).await?;
                let revision = revision(answer.header());
                let writes = [(key, Some((value, lease)))].into();
                self.promise(answer.header(), Deed::Wrote { revision, writes });
            }
            60..80 => {
                let other = format!("w{}/always", self.number).into_bytes();
                let gone = self.key();
                let (put, also) = (TxnOp::put(other.clone(), value.clone(), None), TxnOp::delete(gone.clone(), None));
                let answer = self.client.txn(Txn::new().and_then([put, also])).await?;
                let revision = revision(answer.header());
                let writes = [(other, Some((value, 0))), (gone, None)].into();
                self.promise(answer.header(), Deed::Wrote { revision, writes });
            }
            80..90 => {
                let answer = self.client.delete(key.clone(), None).await?;
                let revision = revision(answer.header());
                if answer.deleted() > 0 {
                    self.promise(answer.header(), Deed::Wrote { revision, writes: [(key, None)].into() });
                }
            }
            90..97 => {
                let lease = self.grant().await?;
                self.leases.push(lease);
            }
            97..99 if self.leases.len() > 1 => {
                // Nothing hangs on it: with keys, it would be a revision that nobody is told of.
                let lease = self.grant().await?;
                let answer = self.client.lease_revoke(lease).await?;
                self.promise(answer.header(), Deed::Revoked { lease });
            }
            _ => {
                let newest = self.promises.iter().rev().find_map(|promise| match promise.deed {
                    Deed::Wrote { revision, .. } => Some(revision),
                    _ => None,
                });
                let Some(revision) = newest else { return Ok(()) };
                let options = CompactionOptions::new().with_physical();
                // Another worker may have been further.
                if let Ok(answer) = self.client.compact(revision, Some(options)).await {
                    self.promise(answer.header(), Deed::Compacted { revision });
                }
            }
        }
        Ok(())
    }
}

pub async fn load(url: &str, operations: usize, seed: u64) -> Vec<Promise> {
    let mut promises = Vec::new();
    let mut ready = connect(url).await;
    let answer = ready.put("ready", "", None).await.expect("it serves");
    let revision = revision(answer.header());
    // Before it others may have been made, each alike: `ready` is not compared.
    promises.push(Promise::now(answer.header(), Deed::Wrote { revision, writes: Writes::new() }));
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..WORKERS {
        let client = connect(url).await;
        let dice = StdRng::seed_from_u64(seed * WORKERS as u64 + number as u64);
        let mut worker = Worker { client, number, dice, leases: Vec::new(), promises: Vec::new() };
        workers.spawn(async move {
            for _ in 0..operations / WORKERS {
                worker.operation().await.expect("nothing is wrong with this member");
            }
            worker.promises
        });
    }
    promises.extend(workers.join_all().await.into_iter().flatten());
    promises
}

/// How lives end: how the process does, and what the power takes with it, if it fails, too. What comes after such an end
/// is the start from an image, recorded.
const ENDS: [(Signal, Option<Loss>); 4] = [
    (Signal::KILL, None),
    (Signal::TERM, Some(Loss::Torn)),
    (Signal::KILL, Some(Loss::Scattered)),
    (Signal::KILL, None),
];

/// Records a member that keeps its state in `storage`, in a directory of its own.
pub fn record(storage: &str) -> Recording {
    tape::whole(|| record_once(storage))
}

fn record_once(storage: &str) -> Result<Recording, CutShort> {
    let base = tempfile::Builder::new().prefix("castd-images-").tempdir().expect("a temporary directory");
    let root = base.path().join("root");
    std::fs::create_dir(&root).expect("a directory");
    let ports = free_ports(1);
    let url = format!("http://127.0.0.1:{}", ports[0].0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut tape, mut promises) = (Tape::new(&root), Vec::new());
    for (number, (signal, power)) in ENDS.into_iter().enumerate() {
        let trace = base.path().join(format!("trace-{number}"));
        let mut command = traced(&trace);
        command.arg(env!("CARGO_BIN_EXE_castd"));
        server(&mut command, storage, &root.join("data"), &ports, 0);
        let life = Life::begin(command, trace);
        let operations = OPERATIONS.div_ceil(ENDS.len()) + WORKERS;
        promises.extend(runtime.block_on(load(&url, operations, number as u64)));
        tape.add(&life.end(signal), power)?;
    }
    promises.sort_by_key(|promise| promise.at);
    Ok(Recording { steps: tape.into_steps(), from: 0, promises, ports, member: 0 })
}
