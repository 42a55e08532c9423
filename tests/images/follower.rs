//! A member that gets snapshots: one of three that is killed again and again, while the others go on and cut their logs.
//!
//! ```text
//!   m1, m2   ──writes────────────writes, log cut───────writes──▶
//!   m3       ──▶ killed                   started ──installs──▶ killed   (under strace)
//! ```
//! What it has on its disk, others have acknowledged. What binds it is what it has shown by itself: a revision that it has
//! answered a serializable read from is there after each start.

use crate::disk::Loss;
use crate::recording::{Action, Step};
use crate::tape::{self, CutShort, Tape};
use crate::workload::{Deed, Life, Promise, READY_WITHIN, Recording, SPAWNING, free_ports, load, server, traced};
use etcd_client::{Client, GetOptions};
use rustix::process::Signal;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
/// The last one.
const FOLLOWER: usize = 2;
/// While it is there, and while it is not: more than `--snapshot-count` and `--snapshot-catchup-entries`.
const OPERATIONS: (usize, usize) = (120, 400);
const ENDS: [Option<Loss>; 3] = [None, Some(Loss::Torn), None];

/// A member that is not looked at.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the logs of the others begin: each says when it cuts its own.
fn cut(base: &Path) -> u64 {
    let upto = |number: usize| {
        let log = std::fs::read_to_string(base.join(format!("log-{number}"))).unwrap_or_default();
        let cuts = log.lines().filter(|line| line.contains("\"cut the raft log\""));
        let upto = cuts.filter_map(|line| {
            let (_, behind) = line.split_once("\"up-to-index\":")?;
            behind.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
        });
        upto.max().unwrap_or_default()
    };
    (0..FOLLOWER).map(upto).min().unwrap_or_default()
}

async fn applied(url: &str) -> u64 {
    let mut client = Client::connect([url], None).await.expect("it serves");
    client.status().await.expect("it serves").raft_applied_index()
}

/// Until told otherwise, and then until it has shown that revision: which ones it shows.
async fn watch_over(url: String, mut until: tokio::sync::oneshot::Receiver<i64>) -> Vec<Promise> {
    let began = Instant::now();
    let (mut promises, mut wanted) = (Vec::new(), None);
    let mut client = None;
    loop {
        wanted = wanted.or_else(|| until.try_recv().ok());
        if client.is_none() {
            client = Client::connect([&url], None).await.ok();
        }
        let options = Some(GetOptions::new().with_serializable());
        if let Some(connected) = &mut client
            && let Ok(answer) = connected.get("ready", options).await
        {
            let revision = answer.header().map_or(0, |header| header.revision());
            promises.push(Promise::now(answer.header(), Deed::Shown { revision }));
            if wanted.is_some_and(|wanted| revision >= wanted) {
                return promises;
            }
        }
        assert!(began.elapsed() < READY_WITHIN, "the follower does not catch up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the clients of the others were told: true, but nothing that the follower promised.
fn unbound(told: Vec<Promise>) -> impl Iterator<Item = Promise> {
    told.into_iter().map(|promise| Promise { binds: false, ..promise })
}

fn newest(promises: &[Promise]) -> i64 {
    let revisions = promises.iter().filter_map(|promise| match promise.deed {
        Deed::Wrote { revision, .. } => Some(revision),
        _ => None,
    });
    revisions.max().unwrap_or_default()
}

/// Records the third of three members.
pub fn record(storage: &str) -> Recording {
    tape::whole(|| record_once(storage))
}

fn record_once(storage: &str) -> Result<Recording, CutShort> {
    let base = tempfile::Builder::new().prefix("castd-images-").tempdir().expect("a temporary directory");
    let root = base.path().join("root");
    std::fs::create_dir(&root).expect("a directory");
    let ports = free_ports(MEMBERS);
    let other = |number: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castd"));
        let data = base.path().join(format!("m{number}"));
        // Rows in memory: their log is cut as soon as there is a snapshot, and need not wait for a flush.
        let command = server(&mut command, "memory", &data, &ports, number);
        command.stderr(std::fs::File::create(base.path().join(format!("log-{number}"))).expect("a file"));
        let _alone = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
        Other(command.spawn().expect("castd can be run"))
    };
    let follower = |trace: &Path| {
        let mut command = traced(trace);
        command.arg(env!("CARGO_BIN_EXE_castd"));
        server(&mut command, storage, &root.join("data"), &ports, FOLLOWER);
        Life::begin(command, trace.to_owned())
    };
    let url = |number: usize| format!("http://127.0.0.1:{}", ports[number].0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut tape, mut promises, mut from) = (Tape::new(&root), Vec::new(), 0);
    let mut others = Vec::new();
    for (number, power) in ENDS.into_iter().enumerate() {
        let trace = base.path().join(format!("trace-{number}"));
        let life = follower(&trace);
        if others.is_empty() {
            others = (0..FOLLOWER).map(other).collect();
        }
        let seed = 2 * number as u64;
        promises.extend(runtime.block_on(async {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let shown = tokio::spawn(watch_over(url(FOLLOWER), receiver));
            let told = load(&url(0), OPERATIONS.0, seed).await;
            sender.send(newest(&told)).expect("it waits for it");
            unbound(told).chain(shown.await.expect("it has shown all")).collect::<Vec<_>>()
        }));
        tape.add(&life.end(Signal::KILL), power)?;
        // In its first life nobody sends it a snapshot.
        from = if number == 0 { tape.steps().len() } else { from };
        if number + 1 < ENDS.len() {
            let gone = runtime.block_on(applied(&url(0)));
            promises.extend(unbound(runtime.block_on(load(&url(0), OPERATIONS.1, seed + 1))));
            // The first of it may still be on its way, from before the link was given up.
            let began = Instant::now();
            while cut(base.path()) < gone + OPERATIONS.1 as u64 / 2 {
                assert!(began.elapsed() < READY_WITHIN, "the others do not cut their logs");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    drop(others);
    // It takes none of its own in lives as short as these.
    let arrived = |step: &Step| matches!(&step.action, Action::Rename { to, .. } if to.ends_with(".cast"));
    let arrived = tape.steps()[from..].iter().filter(|step| arrived(step)).count();
    assert!(arrived >= ENDS.len() - 1, "only {arrived} snapshots have arrived");
    promises.sort_by_key(|promise| promise.at);
    Ok(Recording { steps: tape.into_steps(), from, promises, ports, member: FOLLOWER })
}
