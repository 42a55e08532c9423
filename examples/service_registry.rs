//! Service registration and discovery: who is there now, and who comes and goes.
//!
//! ```text
//!   instance ──put with lease──▶ services/checkout/a      discoverer: list at revision r
//!       └─────keep alive───────▶ (the lease)                          watch from r + 1
//! ```
//! - An instance puts its address under the prefix of its service, with a lease, and keeps the lease alive. When it dies,
//!   nobody has to clean up: the lease runs out and the key goes with it.
//! - The discoverer reads the prefix once and then follows what changed *since that read*. A watch from "now" would miss
//!   what happened between the two; a watch from the read's revision + 1 misses nothing and repeats nothing.
//!
//! Not here: what to do when the connection breaks; that is `config_watch.rs`, and it is the same for every watch.
//!
//! ```text
//!   cargo run --release --example service_registry
//! ```
#![expect(clippy::disallowed_methods, reason = "leases end in real time")]

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::time::Duration;

use etcd_client::{Client, DeleteOptions, EventType, GetOptions, PutOptions, WatchOptions, WatchStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

mod server;

/// How long the others believe in an instance that says nothing.
const TTL_SECS: i64 = 2;
/// Three chances within each TTL, so that one lost answer does not cost the registration.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(TTL_SECS as u64 * 1000 / 3);
/// Longer than anything here takes; only there so that a fault ends the program.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    let server = server::Server::from_environment()?;
    let outcome = tokio::runtime::Runtime::new()?.block_on(demonstrate(server.endpoint()));
    server.stop();
    outcome
}

async fn demonstrate(endpoint: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::connect([endpoint], None).await?;
    // Two runs on one server do not see each other.
    let service = format!("examples/services/checkout-{}/", std::process::id());

    let first = Instance::register(&client, &service, "a", "10.0.0.1:7000").await?;
    let second = Instance::register(&client, &service, "b", "10.0.0.2:7000").await?;
    println!("registered: a, b");

    let mut directory = Directory::open(&client, &service).await?;
    println!("discovered at revision {}: {}", directory.listed_at, directory.names());
    assert_eq!(directory.names(), "a b");

    let third = Instance::register(&client, &service, "c", "10.0.0.3:7000").await?;
    let change = directory.next_change().await?;
    println!("discovered: {change:?}");
    assert_eq!(change, Change::Joined { name: "c".to_owned(), address: "10.0.0.3:7000".to_owned() });

    first.leave().await?;
    let change = directory.next_change().await?;
    println!("discovered: {change:?} (it said goodbye)");
    assert_eq!(change, Change::Left { name: "a".to_owned() });

    // Longer than one TTL: whoever is kept alive stays.
    let everybody_stays = timeout(Duration::from_secs(TTL_SECS as u64) + KEEP_ALIVE_EVERY, directory.next_change());
    assert!(everybody_stays.await.is_err(), "an instance that is kept alive was lost");

    let died_at = Instant::now();
    second.die();
    let change = directory.next_change().await?;
    let noticed_after = died_at.elapsed();
    println!("discovered: {change:?} (it died; noticed after {:.1} s)", noticed_after.as_secs_f64());
    assert_eq!(change, Change::Left { name: "b".to_owned() });
    let ttl = Duration::from_secs(TTL_SECS as u64);
    assert!(noticed_after + 2 * KEEP_ALIVE_EVERY > ttl, "the lease ended before its time to live");

    // What was followed change by change is what a fresh reader sees.
    assert_eq!(Directory::open(&client, &service).await?.instances, directory.instances);
    println!("left: {}", directory.names());
    assert_eq!(directory.names(), "c");

    third.leave().await?;
    let leftovers = client.kv_client().delete(service, Some(DeleteOptions::new().with_prefix())).await?;
    assert_eq!(leftovers.deleted(), 0, "a key outlived its lease");
    println!("ok");
    Ok(())
}

/// One running copy of a service, as long as it is kept alive.
struct Instance {
    client: Client,
    lease: i64,
    keeper: JoinHandle<()>,
}

impl Instance {
    async fn register(
        client: &Client,
        service: &str,
        name: &str,
        address: &str,
    ) -> Result<Instance, etcd_client::Error> {
        let mut client = client.clone();
        let lease = client.lease_grant(TTL_SECS, None).await?.id();
        let key = format!("{service}{name}");
        client.put(key, address, Some(PutOptions::new().with_lease(lease))).await?;
        let keeper = tokio::spawn(keep_alive(client.clone(), lease));
        Ok(Instance { client, lease, keeper })
    }

    /// Goes in good order: revoking the lease deletes the key at once.
    async fn leave(mut self) -> Result<(), etcd_client::Error> {
        self.keeper.abort();
        self.client.lease_revoke(self.lease).await?;
        Ok(())
    }

    /// Goes as a process does that is killed: it just falls silent.
    fn die(self) {
        self.keeper.abort();
    }
}

/// Keeps the lease alive until it is lost. A service would register again then.
async fn keep_alive(mut client: Client, lease: i64) {
    let outcome: Result<(), etcd_client::Error> = async {
        let (mut requests, mut answers) = client.lease_keep_alive(lease).await?;
        loop {
            sleep(KEEP_ALIVE_EVERY).await;
            requests.keep_alive().await?;
            match answers.message().await? {
                Some(answer) if answer.ttl() > 0 => {}
                _ => return Ok(()),
            }
        }
    }
    .await;
    match outcome {
        Ok(()) => eprintln!("lease {lease:x} has expired"),
        Err(error) => eprintln!("lease {lease:x} can no longer be kept alive: {error}"),
    }
}

#[derive(Debug, PartialEq)]
enum Change {
    Joined { name: String, address: String },
    Left { name: String },
}

/// The instances of one service, followed from a first complete reading.
struct Directory {
    service: String,
    listed_at: i64,
    instances: BTreeMap<String, String>,
    watch: WatchStream,
    /// Known, applied, not yet handed out: one message of the server may carry several changes.
    changes: VecDeque<Change>,
}

impl Directory {
    async fn open(client: &Client, service: &str) -> Result<Directory, Box<dyn Error>> {
        let mut client = client.clone();
        let listing = client.get(service, Some(GetOptions::new().with_prefix())).await?;
        let listed_at = listing.header().ok_or("an answer without header")?.revision();
        let mut instances = BTreeMap::new();
        for pair in listing.kvs() {
            instances.insert(name_in(service, pair.key_str()?), pair.value_str()?.to_owned());
        }
        let since_then = WatchOptions::new().with_prefix().with_start_revision(listed_at + 1);
        let watch = client.watch(service, Some(since_then)).await?;
        Ok(Directory { service: service.to_owned(), listed_at, instances, watch, changes: VecDeque::new() })
    }

    fn names(&self) -> String {
        self.instances.keys().cloned().collect::<Vec<_>>().join(" ")
    }

    /// Waits for somebody to come or go.
    async fn next_change(&mut self) -> Result<Change, Box<dyn Error>> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            let message = timeout(PATIENCE, self.watch.message()).await??.ok_or("the server ended the watch")?;
            if message.canceled() {
                return Err(format!("the server cancelled the watch: {}", message.cancel_reason()).into());
            }
            for event in message.events() {
                let pair = event.kv().ok_or("an event without key")?;
                let name = name_in(&self.service, pair.key_str()?);
                self.changes.push_back(match event.event_type() {
                    EventType::Put => {
                        let address = pair.value_str()?.to_owned();
                        self.instances.insert(name.clone(), address.clone());
                        Change::Joined { name, address }
                    }
                    EventType::Delete => {
                        self.instances.remove(&name);
                        Change::Left { name }
                    }
                });
            }
        }
    }
}

fn name_in(service: &str, key: &str) -> String {
    key.strip_prefix(service).unwrap_or(key).to_owned()
}
