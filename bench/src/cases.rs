//! What is measured with a lone server, and the loads that a cluster gets as well. Each group starts with an empty server.

use crate::cluster::Cluster;
use crate::clustered;
use crate::disturbed::{self, Disturbance};
use crate::h2load::{self, Load};
use crate::server::{Server, now};
use crate::table::Figure;
use crate::target::Target;
use crate::{Effort, Error};
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::kv_client::KvClient;
use castd_proto::etcdserverpb::lease_client::LeaseClient;
use castd_proto::etcdserverpb::watch_client::WatchClient;
use castd_proto::etcdserverpb::{request_op, watch_request};
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

pub type Figures = Vec<(Figure, f64)>;
type Running<'a> = Pin<Box<dyn Future<Output = Result<Figures, Error>> + 'a>>;

/// What is done with a lone [`Server`], or with a [`Cluster`].
pub struct Case<On> {
    pub name: &'static str,
    pub run: for<'a> fn(&'a mut On, &'a Effort) -> Running<'a>,
}

/// Cases that one server, or one cluster, goes through after another.
pub enum Group {
    Lone(&'static [Case<Server>]),
    Cluster(&'static [Case<Cluster>]),
}

impl Group {
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Group::Lone(cases) => cases.iter().map(|case| case.name).collect(),
            Group::Cluster(cases) => cases.iter().map(|case| case.name).collect(),
        }
    }
}

macro_rules! case {
    ($name:literal, $run:expr) => {
        $crate::cases::Case { name: $name, run: |server, effort| Box::pin($run(server, effort)) }
    };
}
pub(crate) use case;

pub const GROUPS: &[Group] = &[
    Group::Lone(&[
        case!("put-1", async |s: &mut Server, e: &Effort| put(&Target::lone(s), e, 1, 5_000.0)),
        case!("put-64", async |s: &mut Server, e: &Effort| put(&Target::lone(s), e, 64, 200_000.0)),
        case!("put-1000", async |s: &mut Server, e: &Effort| put(&Target::lone(s), e, 1_000, 200_000.0)),
        case!("range-1", async |s: &mut Server, e: &Effort| range(&Target::lone(s), e, 1, 20_000.0, false)),
        case!("range-64", async |s: &mut Server, e: &Effort| range(&Target::lone(s), e, 64, 200_000.0, false)),
        case!("range-1000", async |s: &mut Server, e: &Effort| range(&Target::lone(s), e, 1_000, 200_000.0, false)),
        case!("serializable-1", async |s: &mut Server, e: &Effort| range(&Target::lone(s), e, 1, 20_000.0, true)),
        case!("serializable-64", async |s: &mut Server, e: &Effort| range(&Target::lone(s), e, 64, 200_000.0, true)),
        case!("serializable-1000", async |s: &mut Server, e: &Effort| {
            range(&Target::lone(s), e, 1_000, 200_000.0, true)
        }),
    ]),
    Group::Lone(&[case!("txn-64", async |s: &mut Server, e: &Effort| txn(&Target::lone(s), e, 64, 100_000.0))]),
    // The same reads of a key with one version: etcd reads a key more slowly the more of them there are.
    Group::Lone(&[
        case!("fresh-range-64", async |s: &mut Server, e: &Effort| range(&Target::lone(s), e, 64, 200_000.0, false)),
        case!("fresh-range-1000", async |s: &mut Server, e: &Effort| {
            range(&Target::lone(s), e, 1_000, 200_000.0, false)
        }),
    ]),
    Group::Lone(&[
        case!("watch-1000", async |s: &mut Server, e: &Effort| watch(&Target::lone(s), e).await),
        case!("keepalive", keep_alive),
    ]),
    Group::Lone(&[case!("load", load), case!("memory", memory), case!("restart", restart)]),
    // A lone client sees each pause, many clients what is left of the throughput.
    Group::Lone(&[
        case!("put-idle-1", async |s: &mut Server, e: &Effort| disturbed::put(s, e, 1, Disturbance::None).await),
        case!("put-compacting-1", async |s: &mut Server, e: &Effort| {
            disturbed::put(s, e, 1, Disturbance::Compaction).await
        }),
        case!("put-defragmenting-1", async |s: &mut Server, e: &Effort| {
            disturbed::put(s, e, 1, Disturbance::Defragmentation).await
        }),
    ]),
    Group::Lone(&[
        case!("put-idle-64", async |s: &mut Server, e: &Effort| disturbed::put(s, e, 64, Disturbance::None).await),
        case!("put-compacting-64", async |s: &mut Server, e: &Effort| {
            disturbed::put(s, e, 64, Disturbance::Compaction).await
        }),
        case!("put-defragmenting-64", async |s: &mut Server, e: &Effort| {
            disturbed::put(s, e, 64, Disturbance::Defragmentation).await
        }),
    ]),
    Group::Cluster(clustered::LOADS),
    Group::Cluster(clustered::WATCH),
    Group::Cluster(clustered::FAILOVER),
];

/// 8 bytes.
pub const KEY: &[u8] = b"bench/ky";

pub fn value() -> Vec<u8> {
    vec![b'v'; 256]
}

pub fn scaled(effort: &Effort, count: f64) -> u64 {
    (count * effort.scale) as u64
}

fn figures(run: &h2load::Run) -> Figures {
    vec![(Figure::PerSecond, run.requests_per_second), (Figure::CpuMicroseconds, run.cpu_microseconds)]
}

pub fn put(target: &Target, effort: &Effort, clients: usize, count: f64) -> Result<Figures, Error> {
    let request = pb::PutRequest { key: KEY.into(), value: value().into(), ..Default::default() };
    let count = scaled(effort, count);
    let load = Load { path: "/etcdserverpb.KV/Put", request: &request, answer_bytes_min: 1, clients, count };
    Ok(figures(&h2load::run(target, &load)?))
}

pub fn range(
    target: &Target,
    effort: &Effort,
    clients: usize,
    count: f64,
    serializable: bool,
) -> Result<Figures, Error> {
    put(target, effort, 1, 0.0)?;
    let request = pb::RangeRequest { key: KEY.into(), serializable, ..Default::default() };
    let count = scaled(effort, count);
    let answer_bytes_min = value().len();
    let load = Load { path: "/etcdserverpb.KV/Range", request: &request, answer_bytes_min, clients, count };
    Ok(figures(&h2load::run(target, &load)?))
}

/// A compare-and-swap as locks use it: one compare, one put, one get.
fn txn(target: &Target, effort: &Effort, clients: usize, count: f64) -> Result<Figures, Error> {
    // Without the key the comparison fails, and nothing is put.
    self::put(target, effort, 1, 0.0)?;
    let put = pb::PutRequest { key: KEY.into(), value: value().into(), ..Default::default() };
    let get = pb::RangeRequest { key: KEY.into(), ..Default::default() };
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Create.into(),
        key: KEY.into(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(0)),
        ..Default::default()
    };
    let request = pb::TxnRequest {
        compare: vec![compare],
        success: vec![
            pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) },
            pb::RequestOp { request: Some(request_op::Request::RequestRange(get)) },
        ],
        failure: Vec::new(),
    };
    let (answer_bytes_min, count) = (value().len(), scaled(effort, count));
    let load = Load { path: "/etcdserverpb.KV/Txn", request: &request, answer_bytes_min, clients, count };
    Ok(figures(&h2load::run(target, &load)?))
}

/// One writer, 1,000 watchers of its key on ten connections: events delivered in a second.
pub async fn watch(target: &Target<'_>, effort: &Effort) -> Result<Figures, Error> {
    const CONNECTIONS: usize = 10;
    const WATCHERS_EACH: usize = 100;
    let puts = scaled(effort, 2_000.0).max(10);
    let mut readers = Vec::new();
    for server in target.endpoints.iter().cycle().take(CONNECTIONS) {
        let (requests, receiver) = mpsc::channel(WATCHERS_EACH);
        for _ in 0..WATCHERS_EACH {
            let create = pb::WatchCreateRequest { key: KEY.into(), ..Default::default() };
            let create = watch_request::RequestUnion::CreateRequest(create);
            requests.send(pb::WatchRequest { request_union: Some(create) }).await?;
        }
        let mut client = WatchClient::new(server.channel().await?).max_decoding_message_size(64 << 20);
        let mut answers = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
        for _ in 0..WATCHERS_EACH {
            let created = answers.next().await.ok_or("the watch stream ended")??;
            if !created.created {
                return Err("expected a created answer".into());
            }
        }
        readers.push(tokio::spawn(async move {
            let mut events = 0;
            while events < puts as usize * WATCHERS_EACH {
                events += answers.next().await.ok_or("the watch stream ended")??.events.len();
            }
            drop(requests);
            Ok::<usize, Error>(events)
        }));
    }
    let cpu_before = target.cpu()?;
    let started = now();
    let mut writer = KvClient::new(target.first()?.channel().await?);
    for _ in 0..puts {
        writer.put(pb::PutRequest { key: KEY.into(), value: value().into(), ..Default::default() }).await?;
    }
    let mut events = 0;
    for reader in readers {
        events += reader.await??;
    }
    let took = started.elapsed();
    let cpu = target.cpu()?.saturating_sub(cpu_before);
    Ok(vec![
        (Figure::PerSecond, events as f64 / took.as_secs_f64()),
        (Figure::CpuMicroseconds, cpu.as_secs_f64() * 1e6 / events as f64),
    ])
}

/// Keepalives of 1,000 leases through one stream.
async fn keep_alive(server: &mut Server, effort: &Effort) -> Result<Figures, Error> {
    const LEASES: i64 = 1_000;
    const UNDER_WAY: usize = 256;
    let count = scaled(effort, 200_000.0).max(1_000);
    let mut client = LeaseClient::new(server.channel().await?);
    for id in 1..=LEASES {
        client.lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await?;
    }
    let cpu_before = server.cpu()?;
    let started = now();
    let (requests, receiver) = mpsc::channel(UNDER_WAY);
    let sender = tokio::spawn(async move {
        for turn in 0..count as i64 {
            if requests.send(pb::LeaseKeepAliveRequest { id: turn % LEASES + 1 }).await.is_err() {
                return;
            }
        }
    });
    let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
    for _ in 0..count {
        let answer = answers.next().await.ok_or("the keepalive stream ended")??;
        if answer.ttl == 0 {
            return Err("a lease was lost".into());
        }
    }
    let took = started.elapsed();
    let cpu = server.cpu()?.saturating_sub(cpu_before);
    sender.await?;
    Ok(vec![
        (Figure::PerSecond, count as f64 / took.as_secs_f64()),
        (Figure::CpuMicroseconds, cpu.as_secs_f64() * 1e6 / count as f64),
    ])
}

/// Many different keys, in transactions of 100 puts, from 16 clients.
async fn load(server: &mut Server, effort: &Effort) -> Result<Figures, Error> {
    const CLIENTS: u64 = 16;
    const BATCH: u64 = 100;
    let cpu_before = server.cpu()?;
    let started = now();
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let mut kv = KvClient::new(server.channel().await?);
        let keys = effort.load_keys;
        clients.push(tokio::spawn(async move {
            let mut next = client * BATCH;
            while next < keys {
                let puts = (next..(next + BATCH).min(keys)).map(|number| {
                    // Spread over the key space, and still each number once: an odd factor is a bijection.
                    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
                    let put = pb::PutRequest { key: key.into(), value: value().into(), ..Default::default() };
                    pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }
                });
                kv.txn(pb::TxnRequest { success: puts.collect(), ..Default::default() }).await?;
                next += CLIENTS * BATCH;
            }
            Ok::<(), Error>(())
        }));
    }
    for client in clients {
        client.await??;
    }
    let took = started.elapsed();
    let cpu = server.cpu()?.saturating_sub(cpu_before);
    Ok(vec![
        (Figure::PerSecond, effort.load_keys as f64 / took.as_secs_f64()),
        (Figure::CpuMicroseconds, cpu.as_secs_f64() * 1e6 / effort.load_keys as f64),
    ])
}

/// Resident memory as the load left it.
async fn memory(server: &mut Server, _: &Effort) -> Result<Figures, Error> {
    Ok(vec![(Figure::Megabytes, server.memory()? as f64 / 1e6)])
}

/// From the start of the process until a linearizable read is answered, and the memory then.
async fn restart(server: &mut Server, _: &Effort) -> Result<Figures, Error> {
    let took = server.restart().await?;
    Ok(vec![(Figure::Milliseconds, took.as_secs_f64() * 1e3), (Figure::Megabytes, server.memory()? as f64 / 1e6)])
}
