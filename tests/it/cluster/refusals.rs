//! What a member answers that has lost its majority: whatever needs one is refused in etcd's words, the rest is answered.

use crate::harness::grpc::{delete_op, put, put_op, range, text};
use crate::harness::{Api, Cluster, Setup, for_each_backend, http_get, refused, wait_for};
use castd_proto::etcdserverpb::{
    AlarmRequest, MemberAddRequest, MemberListRequest, MemberRemoveRequest, RangeRequest, TxnRequest,
    WatchCreateRequest,
};
use std::time::{Duration, Instant};
use tonic::{Code, Request, Status};

for_each_backend!(a_member_without_a_majority_says_so_in_etcds_words);

const PATIENCE: Duration = Duration::from_secs(30);
const NO_LEADER: &str = "etcdserver: no leader";
const TIMEOUTS: [&str; 3] = [
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to previous leader failure",
    "etcdserver: request timed out, possibly due to connection lost",
];
/// Etcd 3.4, while there is nobody to send a proposal to.
const OLD_TIMEOUT: &str = "context deadline exceeded";

async fn a_member_without_a_majority_says_so_in_etcds_words(setup: Setup) {
    let mut cluster = Cluster::start(&setup, 3);
    let is_etcd = cluster.servers[0].setup.is_etcd();
    let leader = cluster.leader().await;
    let (left, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    let api = cluster.servers[left].api();
    api.put("k", "v").await;
    api.grant(1, 600).await.expect("granted");
    let id = api.status().await.expect("answered").header.expect("a header").member_id;
    let mut watcher = api.watch_stream();
    watcher.create(WatchCreateRequest { start_revision: 3, ..crate::harness::grpc::watch("k", "") }).await;
    cluster.servers[leader].kill();
    cluster.servers[lost].kill();
    let has_none = async || api.status().await.ok().filter(|status| status.leader == 0);
    let status = wait_for("no leader is known", PATIENCE, has_none).await;
    assert_eq!(status.errors, [NO_LEADER]);

    // What this member knows by itself.
    let local = RangeRequest { serializable: true, ..range("k", "") };
    assert_eq!(api.range(local).await.expect("answered").kvs.len(), 1);
    assert_eq!(api.leases().await, [1]);
    let members = api.cluster.clone().member_list(MemberListRequest { linearizable: false }).await;
    assert_eq!(members.expect("answered").into_inner().members.len(), 3);
    assert_eq!(api.hash_kv(0).await.expect("answered").header.expect("a header").revision, 2);
    let health = http_get(cluster.servers[left].setup.ports.client, "/health").expect("answered");
    assert!(health.status == 503 && health.body.contains(r#""health":"false""#), "{}", health.body);
    refused(api.move_leader(id).await, Code::FailedPrecondition, "etcdserver: not leader");
    refused(api.put_with(put("", "v")).await, Code::InvalidArgument, text::EMPTY_KEY);

    // Who asks for a leader is refused at once.
    let started = Instant::now();
    let wanting = |message| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
        request
    };
    refused(api.kv.clone().put(wanting(put("k", "v"))).await, Code::Unavailable, NO_LEADER);
    assert!(started.elapsed() < Duration::from_secs(3));

    // The rest is tried for five seconds and two elections. All at once, or this would take a while.
    let ask = |what: &'static str, asked: Asked| {
        let api = api.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let error = asked.ask(&api).await.expect_err(what);
            (what, error, started.elapsed())
        })
    };
    let asked = [
        ask("put", Asked::Put),
        ask("delete", Asked::Delete),
        ask("txn", Asked::Txn),
        ask("compact", Asked::Compact),
        ask("grant", Asked::Grant),
        ask("revoke", Asked::Revoke),
        ask("alarms", Asked::Alarms),
        ask("range", Asked::Range),
        ask("keep alive", Asked::KeepAlive),
        ask("time to live", Asked::TimeToLive),
        ask("add", Asked::Add),
        ask("remove", Asked::Remove(id)),
    ];
    for asked in asked {
        let (what, error, took) = asked.await.expect("no panic");
        println!("{what}: {error:?} after {took:?}");
        let (code, message) = (error.code(), error.message());
        match what {
            "keep alive" | "time to live" => assert_eq!((code, message), (Code::Unavailable, NO_LEADER), "{what}"),
            "add" | "remove" => {
                assert!(code == Code::Unavailable && message == "etcdserver: unhealthy cluster", "{what}: {error:?}");
                continue;
            }
            _ if is_etcd && message == OLD_TIMEOUT => {}
            "range" => assert_eq!((code, message), (Code::Unavailable, TIMEOUTS[0])),
            _ => assert!(code == Code::Unavailable && TIMEOUTS.contains(&message), "{what}: {error:?}"),
        }
        assert!((5..25).contains(&took.as_secs()), "{what} took {took:?}");
    }

    // The watcher was told nothing that may not come to pass.
    cluster.servers[lost].restart();
    wait_for("a put", PATIENCE, async || api.put_with(put("k", "again")).await.ok()).await;
    let told = watcher.events(1).await.remove(0).kv.expect("a pair");
    let expected = api.get("k").await.expect("there");
    assert!(told.mod_revision == 3 && told.mod_revision <= expected.mod_revision, "{told:?} {expected:?}");
}

#[derive(Clone, Copy)]
enum Asked {
    Put,
    Delete,
    Txn,
    Compact,
    Grant,
    Revoke,
    Alarms,
    Range,
    KeepAlive,
    TimeToLive,
    Add,
    Remove(u64),
}

impl Asked {
    async fn ask(self, api: &Api) -> Result<(), Status> {
        match self {
            Asked::Put => api.put_with(put("k", "v")).await.map(drop),
            Asked::Delete => api.delete("other", "").await.map(drop),
            Asked::Txn => {
                let txn = TxnRequest { success: vec![put_op("k", "v"), delete_op("other", "")], ..Default::default() };
                api.kv.clone().txn(txn).await.map(drop)
            }
            Asked::Compact => api.compact(1, false).await.map(drop),
            Asked::Grant => api.grant(2, 600).await.map(drop),
            Asked::Revoke => api.revoke(404).await.map(drop),
            Asked::Alarms => api.maintenance.clone().alarm(AlarmRequest::default()).await.map(drop),
            Asked::Range => api.range(range("k", "")).await.map(drop),
            Asked::KeepAlive => api.keep_alive(1).await.map(drop),
            Asked::TimeToLive => {
                let request = castd_proto::etcdserverpb::LeaseTimeToLiveRequest { id: 1, keys: false };
                api.lease.clone().lease_time_to_live(request).await.map(drop)
            }
            Asked::Add => {
                let peer_urls = vec!["http://127.0.0.1:9".to_owned()];
                api.cluster.clone().member_add(MemberAddRequest { peer_urls, is_learner: false }).await.map(drop)
            }
            Asked::Remove(id) => api.cluster.clone().member_remove(MemberRemoveRequest { id }).await.map(drop),
        }
    }
}
