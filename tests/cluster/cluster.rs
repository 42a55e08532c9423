//! Members that make up a cluster, and what they say about it.

use crate::member::{Founding, Member, Storage};
use crate::network::Network;
use etcd_client::{Client, ConnectOptions, GetOptions};
use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Ten times faster than etcd's, as everything else here; slow enough for a busy machine with two cores.
const TIMING: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];
/// After the last fault everybody serves again within.
pub const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// For one question.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// Where clients may connect. Shared with them, and changed under them.
#[derive(Clone, Default)]
pub struct Endpoints(Arc<RwLock<Vec<String>>>);

impl Endpoints {
    pub fn list(&self) -> Vec<String> {
        self.0.read().expect("nobody panics with it").clone()
    }

    pub fn set(&self, urls: Vec<String>) {
        *self.0.write().expect("nobody panics with it") = urls;
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub network: Network,
    pub endpoints: Endpoints,
    flags: Vec<String>,
    next: usize,
    /// Kept when a test fails.
    directory: Option<TempDir>,
}

/// What a member says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub member: u64,
    pub leader: u64,
    pub applied: u64,
    pub revision: i64,
}

pub async fn connect(url: &str) -> Option<Client> {
    let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(1));
    Client::connect([url], Some(options)).await.ok()
}

impl Cluster {
    /// Everything but starting them. Within a runtime.
    pub fn prepare(storages: &[Storage], flags: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("castd-cluster-").tempdir().expect("a temporary directory");
        let token = format!("--initial-cluster-token={}", directory.path().display());
        let flags = TIMING.iter().chain(flags).map(|flag| (*flag).to_owned()).chain([token]).collect();
        let (network, endpoints) = (Network::new(), Endpoints::default());
        let mut cluster =
            Cluster { members: Vec::new(), network, endpoints, flags, next: 1, directory: Some(directory) };
        for storage in storages {
            cluster.add_process(storage);
        }
        let founders: Vec<_> =
            cluster.members.iter().map(|member| format!("{}={}", member.name(), member.peer_url())).collect();
        for member in &mut cluster.members {
            member.founding = Founding { cluster: founders.join(","), joins: false };
        }
        cluster
    }

    /// Starts them, and waits until all serve.
    pub async fn start(storages: &[Storage], flags: &[&str]) -> Self {
        let mut cluster = Cluster::prepare(storages, flags);
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.publish();
        cluster.wait_healthy().await;
        cluster
    }

    /// Another process, not started: answers its place.
    pub fn add_process(&mut self, storage: Storage) -> usize {
        let directory = self.directory.as_ref().expect("held until dropped").path();
        self.members.push(Member::new(self.next, storage, directory, &self.flags, &self.network));
        self.next += 1;
        self.members.len() - 1
    }

    /// Tells clients who there is.
    pub fn publish(&self) {
        self.endpoints.set(self.members.iter().map(Member::client_url).collect());
    }

    /// Takes the member out that has ended for good.
    pub fn forget(&mut self, place: usize) {
        let member = self.members.remove(place);
        assert!(!member.is_running());
        self.publish();
    }

    pub async fn ask(&self, place: usize) -> Option<Said> {
        let url = self.members[place].client_url();
        let asked = async {
            let status = connect(&url).await?.status().await.ok()?;
            let header = status.header()?;
            Some(Said {
                member: header.member_id(),
                leader: status.leader(),
                applied: status.raft_applied_index(),
                revision: header.revision(),
            })
        };
        tokio::time::timeout(ASK_WITHIN, asked).await.ok().flatten()
    }

    /// The place of the member that most say leads.
    pub async fn leader(&self) -> Option<usize> {
        let said = self.ask_all().await;
        let leader = said.iter().flatten().map(|said| said.leader).find(|leader| *leader != 0)?;
        said.iter().position(|said| said.is_some_and(|said| said.member == leader))
    }

    pub async fn ask_all(&self) -> Vec<Option<Said>> {
        futures_util::future::join_all((0..self.members.len()).map(|place| self.ask(place))).await
    }

    /// Every running member answers a linearizable read, and all name the same leader.
    async fn is_healthy(&self) -> bool {
        let reads = self.members.iter().map(async |member| {
            let url = member.client_url();
            let read = async {
                let options = GetOptions::new().with_keys_only();
                connect(&url).await?.get("health", Some(options)).await.ok()
            };
            tokio::time::timeout(ASK_WITHIN, read).await.ok().flatten().is_some()
        });
        let all_read = futures_util::future::join_all(reads).await.into_iter().all(|read| read);
        let said: Vec<_> = self.ask_all().await;
        let leaders: BTreeSet<_> = said.iter().map(|said| said.map(|said| said.leader)).collect();
        all_read && leaders.len() == 1 && !leaders.contains(&None)
    }

    pub async fn wait_healthy(&mut self) {
        let started = Instant::now();
        while !self.is_healthy().await {
            for place in 0..self.members.len() {
                if let Some(status) = self.members[place].has_ended() {
                    panic!(
                        "{} ended by itself: {status}\n{}",
                        self.members[place].name(),
                        self.members[place].log_tail()
                    );
                }
            }
            assert!(
                started.elapsed() < HEALTHY_WITHIN,
                "not healthy in {HEALTHY_WITHIN:?}: {:?}",
                self.ask_all().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All have applied the same, with nothing going on.
    pub async fn wait_level(&self) -> Said {
        let started = Instant::now();
        loop {
            let said = self.ask_all().await;
            let levels: BTreeSet<_> = said.iter().map(|said| said.map(|said| (said.applied, said.revision))).collect();
            if let (1, Some(Some(said))) = (levels.len(), said.first()) {
                return *said;
            }
            assert!(started.elapsed() < HEALTHY_WITHIN, "not level in {HEALTHY_WITHIN:?}: {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                eprintln!("{}", member.log_tail());
            }
            if let Some(directory) = self.directory.take() {
                eprintln!("--- kept: {}", directory.keep().display());
            }
        }
    }
}
