//! One of several leads, the others stand by, and everybody can see who it is.
//!
//! ```text
//!   campaign("scheduler", value, lease) ──▶ answered when no older key is left under `scheduler/`
//!   observe("scheduler")                ──▶ each value of each leader, as it is proclaimed
//!   proclaim, resign                    ──▶ only by the leader whose key is still there
//! ```
//! - A candidate's value is what others need to know of it, here its address. The leader may change it at any time.
//! - Leading ends with the lease, whether the leader notices or not. What it does as a leader should therefore say, in the
//!   same transaction, that its key must still be there (`create_revision == rev`), as [`Node::assign`] does.
//! - A candidate that goes away while it waits is taken out of the queue by the server.
//!
//! ```text
//!   cargo run --release --example election
//! ```

use std::error::Error;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, LeaderKey, ProclaimOptions, ResignOptions, Txn, TxnOp};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

mod server;

/// How long a leader that says nothing is still taken for one.
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
    // Two runs on one server do not stand for the same election.
    let election = format!("examples/scheduler-{}", std::process::id());
    let mut leaders = observe(&client, &election);

    let mut a = Node::elect(&client, &election, "a:7000").await?;
    println!("observed: {}", next(&mut leaders, "a:7000").await?);
    // Both wait for the one before them, and for nobody else.
    let b = stand_by(&client, &election, "b:7000").await?;
    let c = stand_by(&client, &election, "c:7000").await?;

    a.proclaim("a:7001").await?;
    println!("observed: {} (it has moved)", next(&mut leaders, "a:7001").await?);
    assert!(a.assign("job 1").await?);
    a.resign().await?;

    let mut b = b.await??;
    println!("observed: {} (the one before has resigned)", next(&mut leaders, "b:7000").await?);
    assert!(b.assign("job 2").await?);
    // It stands still, and its lease runs out.
    b.fall_asleep();
    let c = c.await??;
    println!("observed: {} (the one before was not heard of any more)", next(&mut leaders, "c:7000").await?);
    assert!(c.assign("job 3").await?);

    let late = b.assign("job 4").await?;
    println!("b:7000 wakes up and assigns a job: {}", if late { "done" } else { "refused" });
    assert!(!late, "a former leader has written");
    let refused = b.proclaim("b:7000").await.expect_err("a former leader has proclaimed");
    println!("b:7000 proclaims itself: {refused}");

    let led = client.leader(election.as_str()).await?;
    assert_eq!(led.kv().ok_or("nobody leads")?.value(), b"c:7000");
    c.resign().await?;
    client.delete(format!("{election}-last-job"), None).await?;
    println!("ok");
    Ok(())
}

/// Sends on what each leader proclaims, as long as somebody listens.
fn observe(client: &Client, election: &str) -> mpsc::UnboundedReceiver<String> {
    let (sender, leaders) = mpsc::unbounded_channel();
    let (mut client, election) = (client.clone(), election.to_owned());
    tokio::spawn(async move {
        // A stream that breaks is opened again: it begins with who leads then.
        while let Ok(mut observed) = client.observe(election.as_str()).await {
            while let Ok(Some(news)) = observed.message().await {
                let value = news.kv().map(|kv| String::from_utf8_lossy(kv.value()).into_owned());
                if sender.send(value.unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    });
    leaders
}

async fn next(leaders: &mut mpsc::UnboundedReceiver<String>, expected: &str) -> Result<String, Failure> {
    let leader = leaders.recv().await.ok_or("the observer has ended")?;
    assert_eq!(leader, expected, "another leader was observed");
    Ok(leader)
}

/// Campaigns in the background. Returns when the candidate stands in the queue.
async fn stand_by(
    client: &Client,
    election: &str,
    address: &'static str,
) -> Result<JoinHandle<Result<Node, Failure>>, Failure> {
    let queue_length = async || {
        let count = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.kv_client().get(format!("{election}/"), Some(count)).await.map(|answer| answer.count())
    };
    let before = queue_length().await?;
    let candidate = {
        let (client, election) = (client.clone(), election.to_owned());
        tokio::spawn(async move { Node::elect(&client, &election, address).await })
    };
    while queue_length().await? == before {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(candidate)
}

/// One that leads, as far as it knows.
struct Node {
    client: Client,
    election: String,
    /// Its name, its key, the revision at which the key was created, its lease: what every later request shows.
    key: LeaderKey,
    keeper: JoinHandle<()>,
}

impl Node {
    /// Waits until it leads.
    async fn elect(client: &Client, election: &str, address: &str) -> Result<Node, Failure> {
        let mut client = client.clone();
        let lease = client.lease_grant(TTL_SECS, None).await?.id();
        // Also while it waits: a candidate whose lease runs out never leads (`election: not leader`).
        let keeper = tokio::spawn(keep_alive(client.clone(), lease));
        let won = client.campaign(election, address, lease).await?;
        let key = won.leader().ok_or("elected without a key")?.clone();
        Ok(Node { client, election: election.to_owned(), key, keeper })
    }

    async fn proclaim(&mut self, address: &str) -> Result<(), etcd_client::Error> {
        let as_leader = ProclaimOptions::new().with_leader(self.key.clone());
        self.client.proclaim(address, Some(as_leader)).await.map(drop)
    }

    /// What a leader is for. False if it does not lead any more; then nothing was written.
    async fn assign(&self, job: &str) -> Result<bool, etcd_client::Error> {
        let while_leading = Txn::new()
            .when([Compare::create_revision(self.key.key(), CompareOp::Equal, self.key.rev())])
            .and_then([TxnOp::put(format!("{}-last-job", self.election), job, None)]);
        Ok(self.client.kv_client().txn(while_leading).await?.succeeded())
    }

    /// Lets the next one lead at once, instead of after the lease.
    async fn resign(mut self) -> Result<(), etcd_client::Error> {
        self.keeper.abort();
        self.client.resign(Some(ResignOptions::new().with_leader(self.key.clone()))).await?;
        self.client.lease_revoke(self.key.lease()).await.map(drop)
    }

    /// The process stands still: it believes what it believed, and keeps nothing alive.
    fn fall_asleep(&self) {
        self.keeper.abort();
    }
}

async fn keep_alive(mut client: Client, lease: i64) {
    let Ok((mut requests, mut answers)) = client.lease_keep_alive(lease).await else { return };
    while requests.keep_alive().await.is_ok() && matches!(answers.message().await, Ok(Some(_))) {
        sleep(KEEP_ALIVE_EVERY).await;
    }
}
