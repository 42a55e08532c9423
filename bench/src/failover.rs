//! How long a cluster is without a leader that takes writes when the one it had is killed.
//!
//! ```text
//!   writes, through the members that remain:  | | | | |   | | | | | | | | |
//!   the leader:                       ──────────╳ killed, gone
//!                                               ├──────────────────────────▶ the first answer to a write that was
//!                                               what is measured             sent after the leader was gone
//! ```
//! In election time-outs of the flag in use. A write is sent every few milliseconds, to the remaining members in turn, and
//! none waits for another: one that was lost with the leader hangs for seconds, and is not what is asked about. One that
//! was sent before counts neither, for the old leader may have committed it. Then the killed member is started, and the
//! next leader is killed when all members have everything.

use crate::cases::{Figures, value};
use crate::cluster::Cluster;
use crate::server::{ELECTION_TIMEOUT, now};
use crate::table::Figure;
use crate::{Effort, Error};
use castd_proto::etcdserverpb::PutRequest;
use castd_proto::etcdserverpb::kv_client::KvClient;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

const WRITE_EVERY: Duration = Duration::from_millis(5);
/// Writes answered before the leader is killed: the connections are open and the members know their leader.
const ANSWERS_BEFORE: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(cluster: &mut Cluster, effort: &Effort) -> Result<Figures, Error> {
    let mut figures = Figures::new();
    for _ in 0..effort.kills {
        let without_leader = kill_leader(cluster).await?.div_duration_f64(ELECTION_TIMEOUT);
        figures.push((Figure::ElectionTimeouts, without_leader));
        figures.push((Figure::WorstElectionTimeouts, without_leader));
    }
    Ok(figures)
}

/// Answers how long it took until writes were taken again.
async fn kill_leader(cluster: &mut Cluster) -> Result<Duration, Error> {
    let leader = cluster.leader().await?;
    let mut clients = Vec::new();
    for remaining in cluster.servers.iter().cycle().skip(leader + 1).take(cluster.servers.len() - 1) {
        clients.push(KvClient::new(remaining.channel().await?));
    }
    let mut writer = Writer::start(clients);
    for _ in 0..ANSWERS_BEFORE {
        writer.answered_write_since(None).await?;
    }
    let killed_at = now();
    cluster.servers[leader].kill()?;
    let gone_at = now();
    let answered_at = writer.answered_write_since(Some(gone_at)).await?;
    writer.stop();
    cluster.servers[leader].resume()?;
    cluster.servers[leader].wait_until_ready().await?;
    cluster.wait_until_equal().await?;
    Ok(answered_at - killed_at)
}

/// When a write was sent, and when it was answered.
struct Answered {
    sent_at: Instant,
    at: Instant,
}

struct Writer {
    answers: mpsc::UnboundedReceiver<Answered>,
    sending: JoinHandle<()>,
}

impl Writer {
    fn start(clients: Vec<KvClient<Channel>>) -> Writer {
        let (sender, answers) = mpsc::unbounded_channel();
        let sending = tokio::spawn(async move {
            // What has no answer yet ends with this task.
            let mut writes = JoinSet::new();
            let mut ticks = tokio::time::interval(WRITE_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for client in clients.iter().cycle() {
                ticks.tick().await;
                writes.spawn(write(client.clone(), sender.clone()));
                while writes.try_join_next().is_some() {}
            }
        });
        Writer { answers, sending }
    }

    /// When the first write was answered that was sent after `since`.
    async fn answered_write_since(&mut self, since: Option<Instant>) -> Result<Instant, Error> {
        let answered = async {
            while let Some(answered) = self.answers.recv().await {
                if since.is_none_or(|since| answered.sent_at > since) {
                    return Ok(answered.at);
                }
            }
            Err(Error::from("the writer has ended"))
        };
        let ended = tokio::time::timeout(PATIENCE, answered).await;
        ended.unwrap_or_else(|_| Err(format!("no write was answered within {PATIENCE:?}").into()))
    }

    fn stop(self) {
        self.sending.abort();
    }
}

async fn write(mut client: KvClient<Channel>, answers: mpsc::UnboundedSender<Answered>) {
    let sent_at = now();
    let request = PutRequest { key: "failover".into(), value: value().into(), ..Default::default() };
    // An error is no answer: whoever waits goes on waiting for one.
    if client.put(request).await.is_ok() {
        let _ = answers.send(Answered { sent_at, at: now() });
    }
}
