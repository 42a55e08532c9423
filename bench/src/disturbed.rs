//! How long a put takes while the server has something else to do: a compaction to work off, a store to defragment.
//!
//! ```text
//!   history: many versions of many keys ──▶ compact | defragment ─────────┐ until it is answered
//!                                            clients: put, put, put, … ◀──┘
//! ```
//! Each client sends its next put when the last was answered. A server that stops for the disturbance so answers few puts
//! meanwhile, and each of those late: look at the worst.

use crate::cases::{Figures, KEY, scaled, value};
use crate::server::{Server, now};
use crate::table::Figure;
use crate::{Effort, Error};
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::kv_client::KvClient;
use castd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use castd_proto::etcdserverpb::request_op::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Old versions that a compaction has to delete.
const OLD_VERSIONS: f64 = 600_000.0;
const VERSIONS_EACH: u64 = 6;
const BATCH: u64 = 100;
const WRITERS: u64 = 16;
/// Puts of each client at least, so that there is something to tell.
const PUTS_MIN: usize = 50;
/// Puts of all clients together while nothing else goes on.
const IDLE_PUTS: f64 = 20_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    None,
    Compaction,
    Defragmentation,
}

pub async fn put(server: &Server, effort: &Effort, clients: usize, disturbance: Disturbance) -> Result<Figures, Error> {
    let newest = history(server, effort).await?;
    let mut kv = KvClient::new(server.channel().await?);
    let mut maintenance = MaintenanceClient::new(server.channel().await?);
    let compaction = pb::CompactionRequest { revision: newest, physical: true };
    if disturbance == Disturbance::Defragmentation {
        kv.compact(compaction).await?;
    }
    let ended = Arc::new(AtomicBool::new(false));
    let mut putting = Vec::new();
    for _ in 0..clients {
        let (kv, ended) = (KvClient::new(server.channel().await?), Arc::clone(&ended));
        let puts = match disturbance {
            Disturbance::None => (scaled(effort, IDLE_PUTS) as usize / clients).max(PUTS_MIN),
            Disturbance::Compaction | Disturbance::Defragmentation => PUTS_MIN,
        };
        putting.push(tokio::spawn(put_until(kv, ended, puts)));
    }
    match disturbance {
        Disturbance::None => {}
        Disturbance::Compaction => drop(kv.compact(compaction).await?),
        Disturbance::Defragmentation => drop(maintenance.defragment(pb::DefragmentRequest {}).await?),
    }
    ended.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for client in putting {
        latencies.extend(client.await??);
    }
    latencies.sort_unstable();
    let at = |share: f64| -> Result<f64, Error> {
        let place = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        Ok(latencies.get(place).ok_or("no put was answered")?.as_secs_f64() * 1e3)
    };
    Ok(vec![
        (Figure::P50Milliseconds, at(0.5)?),
        (Figure::P99Milliseconds, at(0.99)?),
        (Figure::WorstMilliseconds, at(1.0)?),
    ])
}

/// How long each put took.
async fn put_until(
    mut kv: KvClient<tonic::transport::Channel>,
    ended: Arc<AtomicBool>,
    puts_min: usize,
) -> Result<Vec<Duration>, Error> {
    let mut latencies = Vec::new();
    while latencies.len() < puts_min || !ended.load(Ordering::Relaxed) {
        let request = pb::PutRequest { key: KEY.into(), value: value().into(), ..Default::default() };
        let started = now();
        kv.put(request).await?;
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}

/// Writes [`OLD_VERSIONS`], and answers the newest revision.
async fn history(server: &Server, effort: &Effort) -> Result<i64, Error> {
    let puts = scaled(effort, OLD_VERSIONS).max(BATCH * WRITERS);
    let keys = puts / VERSIONS_EACH;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut kv = KvClient::new(server.channel().await?);
        writers.push(tokio::spawn(async move {
            let mut next = writer * BATCH;
            while next < puts {
                let puts = (next..next + BATCH).map(|number| {
                    let key = (number % keys).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
                    let put = pb::PutRequest { key: key.into(), value: value().into(), ..Default::default() };
                    pb::RequestOp { request: Some(Request::RequestPut(put)) }
                });
                kv.txn(pb::TxnRequest { success: puts.collect(), ..Default::default() }).await?;
                next += WRITERS * BATCH;
            }
            Ok::<(), Error>(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    let status = MaintenanceClient::new(server.channel().await?).status(pb::StatusRequest {}).await?;
    Ok(status.into_inner().header.ok_or("no header")?.revision)
}
