//! kill -9 under load, a hundred times, at moments a seed decides: nothing acknowledged is lost, nothing is invented, no
//! revision goes back, and what is there in the end is what the same history makes of a new server.
//!
//! ```text
//!   writers ──acknowledged, and under way when killed──▶ Judge ◀──all revisions, after each restart── watch
//!                                                          └──▶ replay into a new server: the same hash
//! ```
//! `CASTD_SEED=…` repeats the choices of a run, if not the moments.

mod judge;
mod replay;
mod writers;

use crate::harness::{Api, Backend, Place, subject};
use judge::Judge;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use writers::Writer;

/// On each backend; three of them have more than the hundred that is asked for.
const KILLS: usize = 50;
const WRITERS: usize = 5;
/// Acknowledgements between two kills.
const ACKNOWLEDGED_MAX: usize = 160;
/// Small, so that logs are cut and snapshots written all the time.
const SNAPSHOT_COUNT: usize = 150;
const TIME_MAX: Duration = Duration::from_secs(170);

#[test]
fn nothing_acknowledged_is_lost_in_a_hundred_kills() {
    let _place = Place::take();
    let seed: u64 = match std::env::var("CASTD_SEED") {
        Ok(seed) => seed.parse().expect("CASTD_SEED is a number"),
        Err(_) => std::process::id().into(),
    };
    println!("CASTD_SEED={seed}");
    let kills: usize = std::thread::scope(|scope| {
        let runs = Backend::ALL.iter().zip(0..).map(|(backend, number)| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                let run = run(*backend, StdRng::seed_from_u64(seed + number));
                let runtime = runtime.expect("a runtime starts");
                let kills = runtime.block_on(async { tokio::time::timeout(TIME_MAX, run).await });
                kills.expect("it ends in time")
            })
        });
        // All are started before the first is waited for.
        let runs: Vec<_> = runs.collect();
        runs.into_iter().map(|run| run.join().expect("this backend lost nothing")).sum()
    });
    assert!(kills >= KILLS * Backend::ALL.len(), "only {kills} kills");
}

/// Kills a server on that backend again and again; how often.
async fn run(backend: Backend, mut random: StdRng) -> usize {
    let Some(mut setup) = subject(backend) else { return KILLS };
    setup = setup.flag(format!("--snapshot-count={SNAPSHOT_COUNT}"));
    if !setup.is_etcd() {
        setup = setup.flag(format!("--snapshot-catchup-entries={}", SNAPSHOT_COUNT / 10));
    }
    let mut server = setup.start();
    let api = server.api();
    let mut judge = Judge::default();
    let mut writers: Vec<_> = (0..WRITERS).map(|id| Writer::new(id, random.random())).collect();
    let mut kills = 0;
    while kills < KILLS {
        let load = Load::new(random.random_range(1..ACKNOWLEDGED_MAX));
        let working: Vec<_> =
            writers.drain(..).map(|writer| tokio::spawn(writer.work(api.clone(), load.clone()))).collect();
        let compacting = random.random_bool(0.3).then(|| judge.seen()).filter(|revision| *revision > 1);
        load.wait().await;
        // Most lives are short, some long enough for what happens every second: snapshots, cutting the log.
        if random.random_bool(0.15) {
            tokio::time::sleep(Duration::from_millis(random.random_range(900..1_500))).await;
        }
        // A compaction is under way or just over when the server dies.
        let compaction = compacting.map(|revision| tokio::spawn(compact(api.clone(), revision)));
        tokio::time::sleep(Duration::from_micros(random.random_range(0..3_000))).await;
        load.killed.store(true, Ordering::SeqCst);
        server.kill();
        kills += 1;
        for worker in working {
            let (writer, outcomes) = worker.await.expect("no writer failed while the server was alive");
            writers.push(writer);
            outcomes.into_iter().for_each(|outcome| judge.hear(outcome));
        }
        if let (Some(revision), Some(compaction)) = (compacting, compaction) {
            judge.hear_compaction(revision, compaction.await.expect("compactions do not panic"));
        }
        // Now and then it dies while it starts.
        if random.random_bool(0.25) {
            server.spawn();
            tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
            server.kill();
            kills += 1;
        }
        server.restart();
        judge.see(&api).await;
    }
    let total = judge.seen();
    if server.setup.keeps_snapshots() {
        assert!(server.snapshots() > 0, "no snapshot was written, so no log was cut");
    }
    assert!(judge.acknowledged() > KILLS, "only {} acknowledged writes were judged", judge.acknowledged());
    println!("{}: {kills} kills, {} acknowledged, {total} revisions", backend.name(), judge.acknowledged());
    replay::compare(backend, &api, &judge).await;
    server.end();
    kills
}

/// Whether it was acknowledged.
async fn compact(api: Api, revision: i64) -> bool {
    api.compact(revision, revision % 2 == 0).await.is_ok()
}

/// What the writers of one life of the server share.
#[derive(Clone)]
struct Load {
    acknowledged: Arc<AtomicUsize>,
    enough: usize,
    /// From here on a failed request is no surprise.
    killed: Arc<AtomicBool>,
    progress: Arc<tokio::sync::Notify>,
}

impl Load {
    fn new(enough: usize) -> Self {
        Load { acknowledged: Arc::default(), enough, killed: Arc::default(), progress: Arc::default() }
    }

    fn acknowledge(&self) {
        if self.acknowledged.fetch_add(1, Ordering::SeqCst) + 1 >= self.enough {
            self.progress.notify_one();
        }
    }

    async fn wait(&self) {
        self.progress.notified().await;
    }

    /// Called with what went wrong.
    fn assert_killed(&self, error: &tonic::Status) {
        assert!(self.killed.load(Ordering::SeqCst), "a living server refused a write: {error}");
    }
}
