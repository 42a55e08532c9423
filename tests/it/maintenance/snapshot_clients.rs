//! Clients that take a snapshot and do not behave: they hold up nobody, and what was written for them goes.

use crate::harness::grpc::Api;
use crate::harness::{Server, Setup, for_each_backend, wait_for, wait_until};
use castd_proto::etcdserverpb as pb;
use rustix::process::Signal;
use std::time::Duration;
use tonic::{Code, Streaming};

for_each_backend!(castd:
    a_client_that_stops_reading_holds_up_nobody_and_is_forgotten_when_it_goes,
    only_so_many_clients_take_a_snapshot_at_once,
    a_member_that_stops_ends_snapshots_under_way,
);

const PATIENCE: Duration = Duration::from_secs(20);

/// More than the connection and all buffers on the way take.
async fn fill_16_mib(api: &Api) {
    let value = "v".repeat(1 << 20);
    for index in 0..16 {
        api.put(&format!("large{index}"), &format!("{index}{value}")).await;
    }
}

async fn begin(api: &Api) -> Streaming<pb::SnapshotResponse> {
    let mut stream = api.maintenance.clone().snapshot(pb::SnapshotRequest {}).await.expect("opens").into_inner();
    stream.message().await.expect("goes on").expect("the first blob");
    stream
}

/// Files without a name, of which there is one for each snapshot that is read.
fn nameless_files(server: &Server) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("readable");
    let targets = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets
        .filter(|target| {
            let target = target.to_string_lossy();
            target.contains("/member/snap/export.") && target.ends_with(" (deleted)")
        })
        .count()
}

async fn a_client_that_stops_reading_holds_up_nobody_and_is_forgotten_when_it_goes(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    fill_16_mib(&api).await;
    // On a connection of its own, which goes with it.
    let slow = server.api();
    let stalled = begin(&slow).await;
    assert!(nameless_files(&server) > 0);
    let revision = api.put("k", "1").await;
    // Rows go although the snapshot has them: a physical compaction waits until they are gone.
    api.compact(revision, true).await.expect("compacted");
    for index in 0..16 {
        api.delete(&format!("large{index}"), "").await.expect("deleted");
    }
    assert_eq!(api.get("k").await.expect("there").value, "1");
    assert!(nameless_files(&server) > 0, "it was not a client that reads slowly");
    drop((stalled, slow));
    wait_until("the file goes with its reader", PATIENCE, || nameless_files(&server) == 0);
    super::wait_for_log(&server, "the client went away");
}

async fn only_so_many_clients_take_a_snapshot_at_once(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    fill_16_mib(&api).await;
    let (mut channels, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let api = server.api();
        streams.push(begin(&api).await);
        channels.push(api);
    }
    let refused = api.maintenance.clone().snapshot(pb::SnapshotRequest {}).await.expect_err("too many");
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: too many requests"));
    streams.pop();
    channels.pop();
    let again = wait_for("there is room again", PATIENCE, async || {
        api.maintenance.clone().snapshot(pb::SnapshotRequest {}).await.ok()
    });
    let mut whole = again.await.into_inner();
    let mut messages = 0;
    while whole.message().await.expect("goes on").is_some() {
        messages += 1;
    }
    assert!(messages > 500, "only {messages}");
    // Those that waited get theirs, to the end.
    for mut stream in streams {
        let mut last = None;
        while let Some(message) = stream.message().await.expect("goes on") {
            last = Some(message);
        }
        assert_eq!(last.expect("some").blob.len(), 32);
    }
    wait_until("all files are gone", PATIENCE, || nameless_files(&server) == 0);
}

async fn a_member_that_stops_ends_snapshots_under_way(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    fill_16_mib(&api).await;
    let hash = api.hash_kv(0).await.expect("hashed").hash;
    let (stalled, mut read) = (begin(&server.api()).await, begin(&server.api()).await);
    server.signal(Signal::TERM);
    let mut last = None;
    let end = loop {
        match read.message().await {
            Ok(Some(message)) => last = Some(message),
            other => break other.map(drop),
        }
    };
    // What was on its way may be all; but then it is whole.
    if end.is_ok() {
        assert_eq!(last.expect("some").blob.len(), 32);
    }
    server.wait_exit();
    drop(stalled);
    let left = std::fs::read_dir(server.data_dir().join("member/snap")).expect("readable");
    let left: Vec<_> = left.map(|file| file.expect("readable").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    server.restart();
    assert_eq!(server.api().hash_kv(0).await.expect("hashed").hash, hash);
}
