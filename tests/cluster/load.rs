//! Clients and watchers at work, from the first request to the verdict.

use crate::clients::{self, Shared};
use crate::cluster::{Cluster, connect};
use crate::watchers::{self, Wish};
use castd_judge::check::{leases, registers, revisions, truth, watches};
use castd_judge::history::{History, LeaseOperation, Operation, Outcome, Refusal, Watch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Revisions that stay behind the slowest watcher: the pair before an event must be there, too.
const KEPT_REVISIONS: i64 = 1_000;
const COMPACT_EVERY: Duration = Duration::from_secs(3);
/// All leases have run out within, once nobody keeps them alive.
const LEASES_END_WITHIN: Duration = Duration::from_secs(60);

const WISHES: [Wish; 5] = [
    Wish { prefix: "", wants_previous: false },
    Wish { prefix: "", wants_previous: true },
    Wish { prefix: "kv/", wants_previous: true },
    Wish { prefix: "reg/", wants_previous: false },
    Wish { prefix: "lease/", wants_previous: false },
];

pub struct Load {
    pub shared: Shared,
    clients: Vec<JoinHandle<Vec<Operation>>>,
    leases: Vec<JoinHandle<(Vec<Operation>, Vec<LeaseOperation>)>>,
    watchers: Vec<JoinHandle<Vec<Watch>>>,
    compactor: JoinHandle<()>,
    /// The revision that watchers have to reach.
    until: Arc<AtomicI64>,
}

/// What was done and looked at.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub operations: revisions::Checked,
    pub registers: registers::Checked,
    pub watches: watches::Checked,
    pub leases: leases::Checked,
    pub unknown: usize,
    /// What errors said, and how often.
    pub errors: BTreeMap<String, usize>,
    pub compacted: i64,
}

impl Load {
    /// `clients` at the key space, and `leases` more that have one lease after the other.
    pub fn start(cluster: &Cluster, clients: usize, leases: usize, seed: u64) -> Self {
        let shared = Shared::new(cluster.endpoints.clone());
        let until = Arc::new(AtomicI64::new(i64::MAX));
        let places: Vec<_> = WISHES.iter().map(|_| Arc::new(AtomicI64::new(0))).collect();
        let watchers = WISHES.into_iter().zip(&places).enumerate().map(|(watcher, (wish, place))| {
            let (shared, until, place) = (shared.clone(), Arc::clone(&until), Arc::clone(place));
            tokio::spawn(watchers::run(shared, watcher, wish, seed + 1_000 + watcher as u64, place, until))
        });
        let watchers = watchers.collect();
        let run = |client: usize| tokio::spawn(clients::run(shared.clone(), client, seed + client as u64));
        let clients_at_work = (0..clients).map(run).collect();
        let run = |client: usize| tokio::spawn(clients::run_leases(shared.clone(), client, seed + client as u64));
        let leases = (clients..clients + leases).map(run).collect();
        let compactor = tokio::spawn(compact(shared.clone(), places, seed));
        Load { shared, clients: clients_at_work, leases, watchers, compactor, until }
    }

    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Stops everything, waits until all members and watchers have everything, and judges. The cluster is well.
    pub async fn end(self, cluster: &mut Cluster) -> Verdict {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for client in self.clients {
            history.operations.extend(client.await.expect("a client does not panic"));
        }
        for client in self.leases {
            let (operations, leases) = client.await.expect("a client does not panic");
            history.operations.extend(operations);
            history.leases.extend(leases);
        }
        self.compactor.await.expect("it does not panic");
        cluster.wait_healthy().await;
        wait_for_leases(cluster).await;
        let level = cluster.wait_level().await;
        self.until.store(level.revision, Ordering::Relaxed);
        for watcher in self.watchers {
            history.watches.extend(watcher.await.expect("a watcher does not panic"));
        }
        let compacted = self.shared.compacted.load(Ordering::Relaxed);
        let verdict = judge(&history, compacted).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(verdict.operations.revisions as i64, level.revision - 1, "every revision was told");
        compare_hashes(cluster).await;
        verdict
    }
}

fn judge(history: &History, compacted: i64) -> Result<Verdict, String> {
    let mut errors: BTreeMap<String, usize> = BTreeMap::new();
    let mut unknown = 0;
    for operation in &history.operations {
        match &operation.outcome {
            Outcome::Answered(_) => continue,
            Outcome::Unknown(_) => unknown += 1,
            Outcome::Refused(_) => {}
        }
        let (Outcome::Unknown(said) | Outcome::Refused(Refusal::Other(said))) = &operation.outcome else { continue };
        *errors.entry(said.clone()).or_default() += 1;
    }
    let log = truth::log_of(history)?;
    let (operations, ends) = revisions::check(history, &log)?;
    let registers = registers::check(history, "reg/")?;
    let watches = watches::check(history, &log, compacted)?;
    let leases = leases::check(history, &log, &ends, leases::ClockError::default())?;
    Ok(Verdict { operations, registers, watches, leases, unknown, errors, compacted })
}

/// Forgets history that every watcher is past, now and then.
async fn compact(shared: Shared, places: Vec<Arc<AtomicI64>>, seed: u64) {
    let mut connection = clients::Connection::new(&shared, seed ^ 0xc0);
    let mut due = Instant::now() + COMPACT_EVERY;
    while !shared.is_stopping() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if Instant::now() < due {
            continue;
        }
        due = Instant::now() + COMPACT_EVERY;
        let slowest = places.iter().map(|place| place.load(Ordering::Relaxed)).min().unwrap_or(0);
        let revision = slowest - KEPT_REVISIONS;
        if revision <= shared.compacted.load(Ordering::Relaxed) {
            continue;
        }
        // Told before it is done: a watcher may hear of it at once.
        shared.compacted.store(revision, Ordering::Relaxed);
        let mut client = connection.client().await;
        let compacted = tokio::time::timeout(COMPACT_EVERY, client.compact(revision, None)).await;
        if !matches!(compacted, Ok(Ok(_))) {
            connection.leave();
        }
    }
}

async fn wait_for_leases(cluster: &Cluster) {
    let started = Instant::now();
    loop {
        let mut client = connect(&cluster.members[0].client_url()).await.expect("it serves");
        let leases = client.leases().await.map(|leases| leases.leases().len());
        match leases {
            Ok(0) => return,
            left => {
                assert!(started.elapsed() < LEASES_END_WITHIN, "leases that nobody keeps alive do not end: {left:?}")
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All members hold the same, by each of their hashes, and nobody has raised an alarm.
pub async fn compare_hashes(cluster: &Cluster) {
    let revision = cluster.wait_level().await.revision;
    let mut hashes = Vec::new();
    for member in &cluster.members {
        let mut client = connect(&member.client_url()).await.expect("it serves");
        let hash_kv = client.hash_kv(revision).await.expect("HashKV is answered");
        let hash = client.hash().await.expect("Hash is answered").hash();
        hashes.push((hash_kv.hash(), hash_kv.compact_version(), hash));
        let alarms = client
            .alarm(etcd_client::AlarmAction::Get, etcd_client::AlarmType::None, None)
            .await
            .expect("alarms can be listed");
        let alarms: Vec<_> = alarms.alarms().iter().map(|alarm| (alarm.member_id(), alarm.alarm())).collect();
        assert!(alarms.is_empty(), "{alarms:?}");
    }
    assert!(hashes.windows(2).all(|two| two[0] == two[1]), "members differ: {hashes:?}");
}
