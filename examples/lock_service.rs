//! Locks without a recipe of one's own: the server queues up for the client.
//!
//! ```text
//!   lock("stock", lease)  ──▶ the server puts `stock/<lease>` and answers when no older key is left under `stock/`
//!   unlock(key)           ──▶ the server deletes the key, and the next call in the queue is answered
//! ```
//! - The lock is held for as long as its lease lives. Keeping the lease alive is the client's business, also while the call
//!   waits: a session that ran out in the queue is told so (`mutex: session is expired`) and never gets the lock.
//! - Calling again with the same lease returns at once, so that a call whose answer was lost is simply made again.
//! - Giving up is dropping the call, or a deadline: the server takes the key out of the queue.
//! - A holder may be paused for longer than its lease and not notice. So every write here says, in the same transaction, that
//!   the lock's key must still be the one that was locked: what a former holder does late is refused. Where the resource is
//!   not the server itself, it needs a token to compare: see `fenced_lock.rs`.
//!
//! `etcdctl lock`, etcd's Go client and `fenced_lock.rs` stand in the same queue, if they are given the same name.
//!
//! ```text
//!   cargo run --release --example lock_service
//! ```

use std::error::Error;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, LockOptions, Txn, TxnOp};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

mod server;

const CLERKS: usize = 5;
const ITEMS: i64 = 20;
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

async fn demonstrate(mut client: Client) -> Result<(), Failure> {
    // Two runs on one server do not meet.
    let shop = Shop { name: format!("examples/shop-{}", std::process::id()) };
    client.put(shop.stock(), ITEMS.to_string(), None).await?;

    let mut clerks = JoinSet::new();
    for clerk in 0..CLERKS {
        clerks.spawn(sell(client.clone(), shop.clone(), clerk));
    }
    let mut sold = 0;
    while let Some(clerk) = clerks.join_next().await {
        sold += clerk??;
    }
    println!("{CLERKS} clerks sold {sold} of {ITEMS} items");
    assert_eq!(sold, ITEMS, "an item was sold twice, or not at all");

    give_up(&mut client, &shop).await?;
    oversleep(&mut client, &shop).await?;
    client.delete(shop.stock(), None).await?;
    println!("ok");
    Ok(())
}

/// Sells one item at a time until there is none left.
async fn sell(mut client: Client, shop: Shop, clerk: usize) -> Result<i64, Failure> {
    let lease = client.lease_grant(TTL_SECS, None).await?.id();
    let keeper = tokio::spawn(keep_alive(client.clone(), lease));
    let mut sold = 0;
    loop {
        let lock = Lock::acquire(&mut client, &shop, lease).await?;
        let left = shop.count(&mut client).await?;
        if left == 0 {
            lock.release(&mut client).await?;
            break;
        }
        assert!(lock.write(&mut client, &shop.stock(), left - 1).await?, "nobody here loses the lock");
        sold += 1;
        lock.release(&mut client).await?;
    }
    println!("clerk {clerk} goes home");
    keeper.abort();
    client.lease_revoke(lease).await?;
    Ok(sold)
}

/// Whoever does not want to wait any longer drops the call, and stands in nobody's way.
async fn give_up(client: &mut Client, shop: &Shop) -> Result<(), Failure> {
    let lease = client.lease_grant(60, None).await?.id();
    let lock = Lock::acquire(client, shop, lease).await?;
    let impatient = client.lease_grant(60, None).await?.id();
    let waiting = Lock::acquire(client, shop, impatient);
    assert!(timeout(Duration::from_millis(100), waiting).await.is_err(), "two holders at one time");
    while shop.queue_length(client).await? > 1 {
        sleep(Duration::from_millis(10)).await;
    }
    println!("one gave up, and has left the queue");
    lock.release(client).await?;
    client.lease_revoke(lease).await?;
    client.lease_revoke(impatient).await?;
    Ok(())
}

/// A holder sleeps through the end of its lease. The next one gets the lock, and what the first writes then is refused.
async fn oversleep(client: &mut Client, shop: &Shop) -> Result<(), Failure> {
    // Nobody keeps this one alive.
    let lease = client.lease_grant(TTL_SECS, None).await?.id();
    let sleeper = Lock::acquire(client, shop, lease).await?;
    println!("the sleeper has the lock, and falls asleep");
    // Without a lease of its own, the server grants one of a minute.
    let successor = Lock::acquire(client, shop, 0).await?;
    println!("its lease ran out: the successor has the lock");
    assert!(successor.write(client, &shop.stock(), 100).await?);
    let late = sleeper.write(client, &shop.stock(), 0).await?;
    println!("the sleeper wakes up and writes: {}", if late { "done" } else { "refused" });
    assert!(!late, "a former holder has written");
    assert_eq!(shop.count(client).await?, 100);
    // Nor does its unlock release what is another's now.
    sleeper.release(client).await?;
    assert_eq!(shop.queue_length(client).await?, 1);
    successor.release(client).await?;
    Ok(())
}

#[derive(Clone)]
struct Shop {
    name: String,
}

impl Shop {
    fn stock(&self) -> String {
        format!("{}-stock", self.name)
    }

    async fn count(&self, client: &mut Client) -> Result<i64, Failure> {
        let answer = client.get(self.stock(), None).await?;
        Ok(answer.kvs().first().ok_or("the stock is not known")?.value_str()?.parse()?)
    }

    async fn queue_length(&self, client: &mut Client) -> Result<i64, etcd_client::Error> {
        let count = etcd_client::GetOptions::new().with_prefix().with_count_only();
        Ok(client.get(format!("{}/", self.name), Some(count)).await?.count())
    }
}

/// A lock that is held, as far as its owner knows.
struct Lock {
    key: Vec<u8>,
    /// The revision at which the key was created: another holder's key, or the same key later, has another.
    created: i64,
}

impl Lock {
    async fn acquire(client: &mut Client, shop: &Shop, lease: i64) -> Result<Lock, Failure> {
        let locked = client.lock(shop.name.as_str(), Some(LockOptions::new().with_lease(lease))).await?;
        let key = locked.key().to_vec();
        let answer = client.get(key.clone(), None).await?;
        let own = answer.kvs().first().ok_or("the lease ran out as soon as the lock was held")?;
        Ok(Lock { key, created: own.create_revision() })
    }

    /// False if the lock is not held any more; then nothing was written.
    async fn write(&self, client: &mut Client, key: &str, number: i64) -> Result<bool, etcd_client::Error> {
        let while_held = Txn::new()
            .when([Compare::create_revision(self.key.clone(), CompareOp::Equal, self.created)])
            .and_then([TxnOp::put(key, number.to_string(), None)]);
        Ok(client.txn(while_held).await?.succeeded())
    }

    async fn release(self, client: &mut Client) -> Result<(), etcd_client::Error> {
        client.unlock(self.key).await.map(drop)
    }
}

async fn keep_alive(mut client: Client, lease: i64) {
    let Ok((mut requests, mut answers)) = client.lease_keep_alive(lease).await else { return };
    while requests.keep_alive().await.is_ok() && matches!(answers.message().await, Ok(Some(_))) {
        sleep(KEEP_ALIVE_EVERY).await;
    }
}
