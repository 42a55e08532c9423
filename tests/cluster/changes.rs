//! Members come and go by the hundred while clients are served.

use crate::cluster::{Cluster, connect};
use crate::load::Load;
use crate::member::{Founding, Storage};
use crate::run;
use etcd_client::{Client, Error, MemberAddOptions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

const CHANGES_MIN: usize = 200;
const REPLACED_MIN: usize = 20;
const ANSWERED_MIN: usize = 5_000;
const CLIENTS: usize = 6;
const LEASES: usize = 2;
/// Until a change is accepted: the cluster waits for connections to last before it takes another member.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(60);
const FLAGS: [&str; 2] = ["--snapshot-count=2000", "--snapshot-catchup-entries=500"];

#[cfg(all(feature = "rocksdb", feature = "sled"))]
const STORAGES: [Storage; 3] = ["rocksdb", "sled", "memory"];
#[cfg(not(all(feature = "rocksdb", feature = "sled")))]
const STORAGES: [Storage; 3] = ["memory"; 3];

struct Changing {
    cluster: Cluster,
    rng: StdRng,
    changes: usize,
    replaced: usize,
}

#[test]
fn members_come_and_go_under_load() {
    run(async {
        let cluster = Cluster::start(&STORAGES, &FLAGS).await;
        let load = Load::start(&cluster, CLIENTS, LEASES, 9);
        let mut changing = Changing { cluster, rng: StdRng::seed_from_u64(9), changes: 0, replaced: 0 };
        let started = Instant::now();
        while changing.changes < CHANGES_MIN || changing.replaced < REPLACED_MIN {
            match changing.rng.random_range(0..10) {
                0..5 if changing.replaced < REPLACED_MIN => changing.replace().await,
                0..3 => changing.rename().await,
                _ => changing.announce_nobody().await,
            }
        }
        let Changing { mut cluster, changes, replaced, .. } = changing;
        let verdict = load.end(&mut cluster).await;
        println!("{changes} changes, {replaced} members replaced in {:?}\n{verdict:#?}", started.elapsed());
        assert!(verdict.operations.answered >= ANSWERED_MIN, "{}", verdict.operations.answered);
        let members = connect(&cluster.members[0].client_url()).await.expect("it serves").member_list().await;
        assert_eq!(members.expect("a list").members().len(), 3);
    });
}

impl Changing {
    /// Asks members in turn until one of them has done it.
    async fn until_done<T>(&mut self, what: &str, ask: impl AsyncFn(Client) -> Result<T, Error>) -> T {
        let started = Instant::now();
        loop {
            let urls = self.cluster.endpoints.list();
            let url = urls.choose(&mut self.rng).expect("there are members");
            let Some(client) = connect(url).await else { continue };
            let said = match tokio::time::timeout(Duration::from_secs(8), ask(client)).await {
                Ok(Ok(done)) => {
                    self.changes += 1;
                    return done;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            assert!(started.elapsed() < ACCEPTED_WITHIN, "{what}: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A member joins, as a learner at first or at once, and an old one goes: perhaps the leader.
    async fn replace(&mut self) {
        let storage = STORAGES.choose(&mut self.rng).expect("one");
        let place = self.cluster.add_process(storage);
        let url = self.cluster.members[place].peer_url();
        let learns = self.rng.random_range(0..3) > 0;
        let id = self.add(&url, learns).await;
        let members: Vec<_> =
            self.cluster.members.iter().map(|member| format!("{}={}", member.name(), member.peer_url())).collect();
        let joining = &mut self.cluster.members[place];
        joining.founding = Founding { cluster: members.join(","), joins: true };
        joining.spawn();
        if learns {
            self.until_done("promote", async |mut client| client.member_promote(id).await).await;
        }
        self.cluster.wait_healthy().await;
        self.cluster.publish();

        let old = self.rng.random_range(0..place);
        let old_id = self.cluster.ask(old).await.expect("it serves").member;
        // Nobody asks the one that is to go: it may be gone before it answers.
        let mut remaining = self.cluster.endpoints.list();
        remaining.remove(old);
        self.cluster.endpoints.set(remaining);
        self.remove(old_id).await;
        let status = self.cluster.members[old].wait_end();
        assert!(status.success(), "a removed member ends well: {status}\n{}", self.cluster.members[old].log_tail());
        self.cluster.forget(old);
        self.replaced += 1;
    }

    /// One that was added without an answer is there all the same.
    async fn add(&mut self, url: &str, learns: bool) -> u64 {
        self.until_done("add", async |mut client: Client| {
            let options = MemberAddOptions::new();
            let options = if learns { options.with_is_learner() } else { options };
            match client.member_add([url], Some(options)).await {
                Ok(added) => Ok(added.member().expect("it says whom").id()),
                Err(error) => {
                    let members = client.member_list().await?;
                    let added = members.members().iter().find(|member| member.peer_urls().iter().any(|it| it == url));
                    added.map(etcd_client::Member::id).ok_or(error)
                }
            }
        })
        .await
    }

    async fn remove(&mut self, id: u64) {
        self.until_done("remove", async |mut client: Client| match client.member_remove(id).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let members = client.member_list().await?;
                if members.members().iter().all(|member| member.id() != id) { Ok(()) } else { Err(error) }
            }
        })
        .await;
    }

    /// A learner that never comes, and is given up.
    async fn announce_nobody(&mut self) {
        // In use by nobody, whatever else runs here: reserved for documentation.
        let url = format!("http://192.0.2.{}:{}", self.rng.random_range(1..250), self.rng.random_range(1_000..60_000));
        let id = self.add(&url, true).await;
        self.remove(id).await;
    }

    /// A member is reached under another name.
    async fn rename(&mut self) {
        let member = self.cluster.members.choose(&mut self.rng).expect("there are members");
        let url = member.peer_url();
        let other = if self.rng.random_range(0..2) == 0 { url.replace("127.0.0.1", "localhost") } else { url.clone() };
        let place = self.cluster.members.iter().position(|member| member.peer_url() == url).expect("it is there");
        let id = self.cluster.ask(place).await.expect("it serves").member;
        self.until_done("update", async |mut client: Client| {
            let done = client.member_update(id, vec![other.clone()]).await;
            match done {
                Ok(_) => Ok(()),
                Err(error) => {
                    let members = client.member_list().await?;
                    let is_so = members.members().iter().any(|it| it.id() == id && it.peer_urls() == [other.clone()]);
                    if is_so { Ok(()) } else { Err(error) }
                }
            }
        })
        .await;
    }
}
