//! Defragment: space comes back, and nobody waits for it.

use super::{metric, wait_for_log};
use crate::harness::grpc::Api;
use crate::harness::{Setup, for_each_backend, wait_for, wait_until};
use castd_proto::etcdserverpb as pb;
use castd_proto::health::HealthCheckRequest;
use castd_proto::health::health_client::HealthClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

for_each_backend!(etcdctl_defragments);
for_each_backend!(castd:
    reads_and_writes_go_on_while_space_comes_back,
    health_says_not_serving_meanwhile_where_that_is_asked_for,
    a_start_gives_space_back_from_a_threshold_on,
);

const PATIENCE: Duration = Duration::from_secs(30);
/// Far above what a busy machine takes for one request, far below what stopping for all of the data would.
const LATENCY_MAX: Duration = Duration::from_secs(2);

async fn defragment(api: &Api) -> pb::DefragmentResponse {
    api.maintenance.clone().defragment(pb::DefragmentRequest {}).await.expect("done").into_inner()
}

async fn etcdctl_defragments(setup: Setup) {
    let is_etcd = setup.is_etcd();
    let server = setup.start();
    let api = server.api();
    api.put("k", "v").await;
    let line = format!("Finished defragmenting etcd member[{}]\n", server.endpoint());
    server.etcdctl(&["defrag"]).prints(&line);
    let all = format!("Finished defragmenting etcd member[{}]\n", server.setup.client_url());
    server.etcdctl(&["defrag", "--cluster"]).prints(&all);
    assert_eq!(defragment(&api).await.header, None);
    assert_eq!(api.get("k").await.expect("there").value, "v");
    assert_eq!(metric(&server, "etcd_disk_backend_defrag_duration_seconds_count"), 3.0);
    if !is_etcd {
        assert_eq!(metric(&server, "etcd_disk_defrag_inflight"), 0.0);
        for said in ["starting defragment", "defragmenting", "finished defragmenting directory", "finished defragment"]
        {
            wait_for_log(&server, &format!("\"{said}\""));
        }
    }
}

async fn fill(api: &Api) {
    let value = "v".repeat(40_000);
    for index in 0..600 {
        api.put(&format!("key{}", index % 100), &format!("{index}{value}{index}")).await;
    }
}

async fn db_size(api: &Api) -> i64 {
    api.maintenance.clone().status(pb::StatusRequest {}).await.expect("answered").into_inner().db_size
}

async fn reads_and_writes_go_on_while_space_comes_back(setup: Setup) {
    // sled reuses its space, but its file does not shrink.
    let shrinks = setup.backend().is_some_and(|backend| backend.name() != "sled");
    let server = setup.start();
    let api = server.api();
    fill(&api).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|client| {
            let (api, stop, served) = (server.api(), stop.clone(), served.clone());
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    api.put(&format!("small{client}"), "v").await;
                    api.get("key50").await;
                    slowest = slowest.max(started.elapsed());
                    served.fetch_add(1, Ordering::Relaxed);
                }
                slowest
            })
        })
        .collect();
    let before = db_size(&api).await;
    api.delete("key", "kez").await.expect("deleted");
    api.compact(api.revision().await, true).await.expect("compacted");
    futures_util::future::join_all((0..8).map(|_| defragment(&api))).await;
    if shrinks {
        let smaller = async || Some(db_size(&api).await).filter(|after| *after < before / 4);
        wait_for("the deleted takes no space", PATIENCE, smaller).await;
    }
    // Over and over, until the clients have met enough of it.
    let enough = served.load(Ordering::Relaxed) + 40;
    while served.load(Ordering::Relaxed) < enough {
        defragment(&api).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let slowest = client.await.expect("no request failed");
        assert!(slowest < LATENCY_MAX, "a request took {slowest:?}");
    }
    assert_eq!(api.get("small0").await.expect("there").value, "v");
}

async fn health_says_not_serving_meanwhile_where_that_is_asked_for(setup: Setup) {
    let (serving, not_serving) = (1, 2);
    let server = setup.flag("--feature-gates=StopGRPCServiceOnDefrag=true").start();
    let api = server.api();
    fill(&api).await;
    api.delete("key", "kez").await.expect("deleted");
    let mut health = HealthClient::new(server.api().channel);
    let mut statuses = health.watch(HealthCheckRequest::default()).await.expect("opens").into_inner();
    let mut next = async || statuses.message().await.expect("goes on").expect("a status").status;
    assert_eq!(next().await, serving);
    // One that is over before the stream was looked at is left out of it.
    loop {
        defragment(&api).await;
        if let Ok(status) = tokio::time::timeout(Duration::from_millis(200), next()).await {
            assert_eq!(status, not_serving);
            break;
        }
    }
    assert_eq!(next().await, serving);
    assert_eq!(health.check(HealthCheckRequest::default()).await.expect("checked").into_inner().status, serving);
    assert!(!server.log().contains("has no effect yet"));
}

async fn a_start_gives_space_back_from_a_threshold_on(setup: Setup) {
    let on_disk = setup.backend().is_some_and(|backend| backend.name() == "rocksdb");
    let mut server = setup.flag("--bootstrap-defrag-threshold-megabytes=1").start();
    // The log is written by a thread of its own.
    crate::harness::wait_until("nothing is free yet, and that is said", Duration::from_secs(10), || {
        server.log().contains("Skipping defragmentation")
    });
    if !on_disk {
        // What is free in them they do not know, or there is nothing.
        return;
    }
    let api = server.api();
    fill(&api).await;
    api.delete("key", "kez").await.expect("deleted");
    let revision = api.revision().await;
    // Not waited for: the process ends before anything is given back, or the test sees nothing.
    api.compact(revision, true).await.expect("compacted");
    server.kill();
    server.restart();
    // How much is free depends on how far RocksDB has come by itself.
    let times = |text| server.log().matches(text).count();
    wait_until("it decides, and says so", PATIENCE, || {
        times("Skipping defragmentation") + times("finished defragmenting directory") == 2
    });
}
