//! Settings that follow what is stored under a prefix: through changes, lost connections and compaction.
//!
//! ```text
//!   read the prefix, at revision r ──▶ watch from r + 1 ──▶ apply each revision, r moves on
//!         ▲                              ▲        │                │
//!         │                              │        └── connection lost: again from r + 1
//!         └── history up to r is compacted: nothing but reading everything again helps
//! ```
//! Three rules make a follower correct:
//! - Start where the reading ended, at its revision + 1: nothing is missed, nothing comes twice.
//! - What belongs together is written in one Txn, has one revision, and is applied in one step.
//! - After a compaction the new reading *replaces* the old state: a key that was deleted meanwhile sends no event.
//!
//! To show them, the program pulls the plug of its own connection. It also compacts the server's history, so do not point
//! it at a server whose history you need.
//!
//! ```text
//!   cargo run --release --example config_watch
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, DeleteOptions, Event, EventType, GetOptions, Txn, TxnOp, WatchOptions};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

mod server;

/// Between attempts to reach a server that is away. A service with many copies would add a little chance.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Longer than anything here takes; only there so that a fault ends the program.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    let server = server::Server::from_environment()?;
    let outcome = tokio::runtime::Runtime::new()?.block_on(demonstrate(server.endpoint()));
    server.stop();
    outcome
}

async fn demonstrate(endpoint: &str) -> Result<(), Box<dyn Error>> {
    let mut operator = Operator::connect(endpoint).await?;
    operator.write(&[("limit/low", "1"), ("limit/high", "10"), ("motd", "hello")]).await?;

    let mut plug = Plug::into(endpoint).await?;
    let mut updates = Follower::start(&plug.endpoint, &operator.prefix).await?;

    let update = next(&mut updates).await?;
    println!("read: {update}");
    assert_eq!((update.origin, update.text("motd")), (Origin::Read, Some("hello")));

    let revision = operator.write(&[("limit/low", "20"), ("limit/high", "30")]).await?;
    let update = next(&mut updates).await?;
    println!("changed: {update}");
    assert_eq!((update.origin, update.revision), (Origin::Changed, revision));

    println!("-- the connection is lost, two changes happen, the connection comes back");
    plug.pull().await;
    let while_away =
        [operator.write(&[("limit/low", "40"), ("limit/high", "50")]).await?, operator.write(&[("motd", "hi")]).await?];
    plug.put_back();
    for revision in while_away {
        let update = next(&mut updates).await?;
        println!("caught up: {update}");
        assert_eq!((update.origin, update.revision), (Origin::Changed, revision));
    }

    println!("-- the connection is lost, a key is deleted, the history is compacted, the connection comes back");
    plug.pull().await;
    operator.delete("motd").await?;
    let revision = operator.write(&[("limit/low", "60"), ("limit/high", "70")]).await?;
    operator.client.compact(revision, None).await?;
    plug.put_back();
    let update = next(&mut updates).await?;
    println!("read again: {update}");
    assert_eq!((update.origin, update.text("limit/low")), (Origin::Read, Some("60")));
    assert_eq!(update.text("motd"), None, "a key that was deleted during a gap is still there");

    let revision = operator.write(&[("limit/low", "80"), ("limit/high", "90")]).await?;
    let update = next(&mut updates).await?;
    println!("changed: {update}");
    assert_eq!((update.origin, update.revision), (Origin::Changed, revision));

    let prefix = operator.prefix.clone();
    operator.client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?;
    println!("ok");
    Ok(())
}

/// The next update, and what holds for every one of them: the two limits, always written together, are never seen apart.
async fn next(updates: &mut mpsc::UnboundedReceiver<Update>) -> Result<Update, Box<dyn Error>> {
    let update = timeout(PATIENCE, updates.recv()).await?.ok_or("the follower has ended")?;
    let limit = |name: &str| {
        update.text(name).ok_or_else(|| format!("no {name}"))?.parse::<u32>().map_err(|error| error.to_string())
    };
    assert!(limit("limit/low")? < limit("limit/high")?, "half of a change was applied: {update}");
    Ok(update)
}

type Settings = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    /// Everything was read, at one revision.
    Read,
    /// One revision was applied to what was known.
    Changed,
}

/// The settings as they became valid at a revision.
struct Update {
    origin: Origin,
    revision: i64,
    settings: Settings,
}

impl Update {
    fn text(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}

impl std::fmt::Display for Update {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let settings: Vec<String> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        write!(to, "revision {}: {}", self.revision, settings.join(" "))
    }
}

/// Keeps the settings in step with the server, whatever happens to the connection.
struct Follower {
    client: Client,
    prefix: String,
    settings: Settings,
    /// Everything up to this revision is in `settings`. None: read everything.
    seen: Option<i64>,
    updates: mpsc::UnboundedSender<Update>,
}

impl Follower {
    async fn start(endpoint: &str, prefix: &str) -> Result<mpsc::UnboundedReceiver<Update>, etcd_client::Error> {
        // A peer that vanishes without a word closes nothing; only a ping that is not answered tells.
        let options = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true);
        let client = Client::connect([endpoint], Some(options)).await?;
        let (updates, receiver) = mpsc::unbounded_channel();
        let follower = Follower { client, prefix: prefix.to_owned(), settings: Settings::new(), seen: None, updates };
        tokio::spawn(follower.run());
        Ok(receiver)
    }

    async fn run(mut self) {
        while !self.updates.is_closed() {
            match self.follow().await {
                Ok(()) => self.seen = None,
                Err(_) => sleep(RETRY_AFTER).await,
            }
        }
    }

    /// Follows until something goes wrong, which is the error, or until the history that it needs is compacted.
    async fn follow(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let seen = match self.seen {
            Some(revision) => revision,
            None => self.read().await?,
        };
        let from = WatchOptions::new().with_prefix().with_start_revision(seen + 1).with_progress_notify();
        let mut watch = self.client.watch(self.prefix.as_str(), Some(from)).await?;
        loop {
            let message = watch.message().await?.ok_or("the server ended the watch")?;
            if message.compact_revision() > 0 {
                return Ok(());
            }
            if message.canceled() {
                return Err(message.cancel_reason().into());
            }
            // A message carries whole revisions, perhaps several. Where to go on is told by the last event: the
            // header's revision may be ahead of what this message brings.
            for revision in message.events().chunk_by(|one, other| revision_of(one) == revision_of(other)) {
                self.apply(revision)?;
            }
            // A message about nothing is the server's word that we have seen everything up to its revision: while
            // our own keys are quiet, `seen` must not fall behind the compaction of everybody else's.
            if message.events().is_empty() && !message.created() {
                self.seen = message.header().map(|header| header.revision()).max(self.seen);
            }
        }
    }

    async fn read(&mut self) -> Result<i64, Box<dyn Error + Send + Sync>> {
        let answer = self.client.get(self.prefix.as_str(), Some(GetOptions::new().with_prefix())).await?;
        let revision = answer.header().ok_or("an answer without header")?.revision();
        let mut settings = Settings::new();
        for pair in answer.kvs() {
            settings.insert(self.name_in(pair.key_str()?), pair.value_str()?.to_owned());
        }
        self.settings = settings;
        self.publish(Origin::Read, revision);
        Ok(revision)
    }

    /// Applies all events of one revision.
    fn apply(&mut self, events: &[Event]) -> Result<(), Box<dyn Error + Send + Sync>> {
        for event in events {
            let pair = event.kv().ok_or("an event without key")?;
            let name = self.name_in(pair.key_str()?);
            match event.event_type() {
                EventType::Put => self.settings.insert(name, pair.value_str()?.to_owned()),
                EventType::Delete => self.settings.remove(&name),
            };
        }
        if let Some(revision) = events.last().and_then(revision_of) {
            self.publish(Origin::Changed, revision);
        }
        Ok(())
    }

    fn publish(&mut self, origin: Origin, revision: i64) {
        self.seen = Some(revision);
        // Nobody listens any more: `run` sees it, too.
        let _ = self.updates.send(Update { origin, revision, settings: self.settings.clone() });
    }

    fn name_in(&self, key: &str) -> String {
        key.strip_prefix(&self.prefix).unwrap_or(key).to_owned()
    }
}

fn revision_of(event: &Event) -> Option<i64> {
    event.kv().map(|pair| pair.mod_revision())
}

/// Whoever changes the settings, over a connection of its own.
struct Operator {
    client: Client,
    /// Two runs on one server do not see each other.
    prefix: String,
}

impl Operator {
    async fn connect(endpoint: &str) -> Result<Operator, etcd_client::Error> {
        let client = Client::connect([endpoint], None).await?;
        Ok(Operator { client, prefix: format!("examples/config-{}/", std::process::id()) })
    }

    /// Writes all of it at one revision, which it returns.
    async fn write(&mut self, settings: &[(&str, &str)]) -> Result<i64, Box<dyn Error>> {
        let puts = settings.iter().map(|(name, value)| TxnOp::put(format!("{}{name}", self.prefix), *value, None));
        let answer = self.client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
        Ok(answer.header().ok_or("an answer without header")?.revision())
    }

    async fn delete(&mut self, name: &str) -> Result<(), etcd_client::Error> {
        self.client.delete(format!("{}{name}", self.prefix), None).await?;
        Ok(())
    }
}

/// A connection to the server that can be pulled out: a port of our own that passes everything on.
struct Plug {
    endpoint: String,
    server: String,
    listener: Arc<TcpListener>,
    /// While it is plugged in: what ends the line when dropped, and the line.
    line: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Plug {
    async fn into(endpoint: &str) -> io::Result<Plug> {
        let server = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await?);
        let endpoint = format!("http://{}", listener.local_addr()?);
        let mut plug = Plug { endpoint, server, listener, line: None };
        plug.put_back();
        Ok(plug)
    }

    /// On return nothing passes any more.
    async fn pull(&mut self) {
        if let Some((end, line)) = self.line.take() {
            drop(end);
            let _ = line.await;
        }
    }

    fn put_back(&mut self) {
        let (end, ended) = oneshot::channel();
        self.line = Some((end, tokio::spawn(pass_on(self.listener.clone(), self.server.clone(), ended))));
    }
}

async fn pass_on(listener: Arc<TcpListener>, server: String, mut ended: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let near = tokio::select! {
            accepted = listener.accept() => accepted.map(|(near, _)| near),
            _ = &mut ended => break,
        };
        let server = server.clone();
        connections.spawn(async move { copy_bidirectional(&mut near?, &mut TcpStream::connect(server).await?).await });
    }
    connections.shutdown().await;
}
