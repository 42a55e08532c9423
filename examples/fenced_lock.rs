//! A distributed lock, and the fencing token without which a lock protects nothing.
//!
//! ```text
//!   locks/ledger/<lease 1>   created at revision 5 ◀── holds the lock; 5 is its token
//!   locks/ledger/<lease 2>   created at revision 6 ◀── watches the key of lease 1, and nothing else
//!   locks/ledger/<lease 3>   created at revision 8 ◀── watches the key of lease 2
//! ```
//! - Queueing is one Txn: "if my key does not exist (`create_revision == 0`), put it with my lease". The revision at which
//!   it is created is the place in the queue; the lowest one holds the lock.
//! - Everybody waits for the key *before* theirs to go. Watching the holder would wake all waiters at each release, to
//!   let one of them through: the herd.
//! - A lease can run out while its owner still believes that it holds the lock: it was paused, swapped out, cut off. No
//!   lock service can prevent that. So the owner shows its token with every write, and the resource refuses a token older
//!   than the newest it has seen.
//!
//! Where the resource is the server itself, the same is said by a Txn: write only if the lock's key still has the
//! `create_revision` that the writer was given.
//!
//! ```text
//!   cargo run --release --example fenced_lock
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchFilterType, WatchOptions,
};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

mod server;

const WRITERS: usize = 5;
/// How long a holder that says nothing keeps the others waiting.
const TTL_SECS: i64 = 2;
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(TTL_SECS as u64 * 1000 / 3);
/// Longer than anything here takes; only there so that a fault ends the program.
const PATIENCE: Duration = Duration::from_secs(20);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Box<dyn Error>> {
    let server = server::Server::from_environment()?;
    let outcome = tokio::runtime::Runtime::new()?.block_on(async {
        let client = Client::connect([server.endpoint()], None).await?;
        timeout(PATIENCE, demonstrate(client)).await?
    });
    server.stop();
    outcome.map_err(|failure: Failure| failure as Box<dyn Error>)
}

async fn demonstrate(client: Client) -> Result<(), Failure> {
    // Two runs on one server do not wait for each other.
    let name = format!("examples/locks/ledger-{}", std::process::id());
    let ledger = Arc::new(Mutex::new(Ledger::default()));

    one_after_the_other(&client, &name, &ledger).await?;
    a_holder_that_was_away(&client, &name, &ledger).await?;

    let tokens: Vec<i64> = ledger.lock().await.entries.iter().map(|(token, _)| *token).collect();
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "the ledger took tokens out of order: {tokens:?}");
    assert_eq!(tokens.len(), WRITERS + 1);
    println!("ok");
    Ok(())
}

/// Many writers want the lock at once. They get it in turn, and each release wakes one of them.
async fn one_after_the_other(client: &Client, name: &str, ledger: &Arc<Mutex<Ledger>>) -> Result<(), Failure> {
    let first = Lock::acquire(client, name).await?;
    println!("locked with token {}; {WRITERS} writers queue up behind it", first.token);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (client, name, ledger) = (client.clone(), name.to_owned(), ledger.clone());
        writers.spawn(async move {
            let lock = Lock::acquire(&client, &name).await?;
            // Whoever holds the lock finds the ledger free. `try_lock` does not wait: two holders would fail here.
            let mut ledger = ledger.try_lock().map_err(|_| "two holders at one time")?;
            ledger.append(lock.token, format!("writer {writer}"))?;
            tokio::task::yield_now().await;
            drop(ledger);
            println!("writer {writer} wrote with token {} after {} wake-up", lock.token, lock.woken);
            let woken = lock.woken;
            lock.release().await?;
            Ok::<usize, Failure>(woken)
        });
    }
    while queue_length(client, name).await? < WRITERS as i64 + 1 {
        sleep(Duration::from_millis(10)).await;
    }
    first.release().await?;
    let mut woken = 0;
    while let Some(writer) = writers.join_next().await {
        woken += writer??;
    }
    println!("{WRITERS} writers, {woken} wake-ups; a herd would have had {}", WRITERS * (WRITERS + 1) / 2);
    assert_eq!(woken, WRITERS, "a release woke more, or fewer, than the next in the queue");
    Ok(())
}

/// A holder stands still for longer than its lease. The next one gets the lock, and the ledger refuses the first.
async fn a_holder_that_was_away(client: &Client, name: &str, ledger: &Arc<Mutex<Ledger>>) -> Result<(), Failure> {
    let sleeper = Lock::acquire(client, name).await?;
    println!("the sleeper has the lock with token {}, and falls asleep", sleeper.token);
    sleeper.fall_asleep();

    let successor = Lock::acquire(client, name).await?;
    println!("its lease ran out: the successor has the lock with token {}", successor.token);
    assert!(successor.token > sleeper.token);
    ledger.lock().await.append(successor.token, "successor".to_owned())?;

    let refused = ledger.lock().await.append(sleeper.token, "sleeper".to_owned());
    println!("the sleeper wakes up and writes: {refused:?}");
    assert_eq!(refused, Err(Stale { token: sleeper.token, newest: successor.token }));
    successor.release().await?;
    Ok(())
}

async fn queue_length(client: &Client, name: &str) -> Result<i64, etcd_client::Error> {
    let count = GetOptions::new().with_prefix().with_count_only();
    Ok(client.kv_client().get(format!("{name}/"), Some(count)).await?.count())
}

/// What the lock protects. It stands for anything that can remember one number: a database row, a file store, a device.
#[derive(Default)]
struct Ledger {
    newest_token: i64,
    entries: Vec<(i64, String)>,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("token {token} is older than {newest}")]
struct Stale {
    token: i64,
    newest: i64,
}

impl Ledger {
    fn append(&mut self, token: i64, entry: String) -> Result<(), Stale> {
        if token < self.newest_token {
            return Err(Stale { token, newest: self.newest_token });
        }
        self.newest_token = token;
        self.entries.push((token, entry));
        Ok(())
    }
}

/// A lock that is held, as far as its owner knows.
struct Lock {
    client: Client,
    lease: i64,
    keeper: JoinHandle<()>,
    /// The revision at which the place in the queue was taken. Whoever holds the lock later has a higher one.
    token: i64,
    /// How often the owner was woken before its turn came.
    woken: usize,
}

impl Lock {
    async fn acquire(client: &Client, name: &str) -> Result<Lock, Failure> {
        let mut client = client.clone();
        let lease = client.lease_grant(TTL_SECS, None).await?.id();
        let keeper = tokio::spawn(keep_alive(client.clone(), lease));
        let key = format!("{name}/{lease:016x}");
        let token = queue_up(&mut client, &key, lease).await?;
        let mut lock = Lock { client, lease, keeper, token, woken: 0 };
        lock.wait_for_turn(name).await?;
        // While we waited the lease may have run out, and our place in the queue with it.
        let own = lock.client.get(key, None).await?;
        if own.kvs().first().is_none_or(|pair| pair.create_revision() != token) {
            return Err("the lease ran out in the queue".into());
        }
        Ok(lock)
    }

    async fn wait_for_turn(&mut self, name: &str) -> Result<(), Failure> {
        loop {
            let before_us = GetOptions::new()
                .with_prefix()
                .with_max_create_revision(self.token - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(1)
                .with_keys_only();
            let answer = self.client.get(format!("{name}/"), Some(before_us)).await?;
            let Some(predecessor) = answer.kvs().first() else { return Ok(()) };
            let seen = answer.header().ok_or("an answer without header")?.revision();
            if wait_for_deletion(&mut self.client, predecessor.key(), seen + 1).await? {
                self.woken += 1;
            }
            // It may have left the queue without ever holding the lock: look again who is before us now.
        }
    }

    async fn release(mut self) -> Result<(), etcd_client::Error> {
        self.keeper.abort();
        self.client.lease_revoke(self.lease).await?;
        Ok(())
    }

    /// The process stands still: it believes what it believed, and keeps nothing alive.
    fn fall_asleep(&self) {
        self.keeper.abort();
    }
}

/// Takes a place in the queue, and returns the revision of it. Asking twice, after a time-out for instance, is harmless.
async fn queue_up(client: &mut Client, key: &str, lease: i64) -> Result<i64, Failure> {
    let take_a_place = Txn::new()
        .when([Compare::create_revision(key, CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key, "", Some(PutOptions::new().with_lease(lease)))])
        .or_else([TxnOp::get(key, None)]);
    let answer = client.txn(take_a_place).await?;
    if answer.succeeded() {
        return Ok(answer.header().ok_or("an answer without header")?.revision());
    }
    match answer.op_responses().first() {
        Some(TxnOpResponse::Get(own)) => {
            Ok(own.kvs().first().ok_or("a key that exists and does not")?.create_revision())
        }
        _ => Err("the answer to a get is something else".into()),
    }
}

/// True when the key was deleted. False when that cannot be known, because the watch ended: look again.
async fn wait_for_deletion(client: &mut Client, key: &[u8], from: i64) -> Result<bool, etcd_client::Error> {
    let deletions = WatchOptions::new().with_start_revision(from).with_filters([WatchFilterType::NoPut]);
    let mut watch = client.watch(key, Some(deletions)).await?;
    while let Some(message) = watch.message().await? {
        if message.canceled() {
            return Ok(false);
        }
        if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps the lease alive until it is lost. Whoever holds the lock need not be told: that is what the token is for.
async fn keep_alive(mut client: Client, lease: i64) {
    let Ok((mut requests, mut answers)) = client.lease_keep_alive(lease).await else { return };
    loop {
        sleep(KEEP_ALIVE_EVERY).await;
        if requests.keep_alive().await.is_err() {
            return;
        }
        match answers.message().await {
            Ok(Some(answer)) if answer.ttl() > 0 => {}
            _ => return,
        }
    }
}
