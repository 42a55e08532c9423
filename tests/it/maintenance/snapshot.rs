//! Snapshot: what a client saves is the state, whole, sealed, and readable by whoever restores it.

use super::{fill, metric, wait_for_log};
use crate::harness::{Setup, for_each_backend};
use castd::mvcc::HashKv;
use castd::snapshot::{SnapshotReader, SnapshotStore};
use castd::state::{Machine, portable};
use castd_backend_memory::Memory;
use castd_proto::etcdserverpb as pb;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

for_each_backend!(etcdctl_saves_a_snapshot, the_stream_is_cut_and_sealed_as_etcds);
for_each_backend!(castd: what_was_saved_is_the_state_even_while_others_write_and_compact, damage_is_found);

/// What the saved file holds, brought back into an empty member.
fn restored(file: &Path) -> Machine {
    let bytes = fs::read(file).expect("readable");
    let (header, summary) =
        SnapshotReader::open(&bytes[..]).and_then(SnapshotReader::verify).expect("a sound snapshot");
    assert!(summary.is_sealed, "saved without its checksum");
    // A store of snapshots knows them by their names.
    let directory = tempfile::tempdir().expect("a directory");
    let name = format!("{:016x}-{:016x}.cast", header.term, header.index);
    fs::write(directory.path().join(name), bytes).expect("written");
    let store = SnapshotStore::open(directory.path()).expect("opened");
    let (file, _) = store.newest_sound(|_| true).expect("readable").expect("it is there");
    let backend = Arc::new(Memory::new());
    portable::fill(&file, backend.as_ref()).expect("filled");
    Machine::open(backend).expect("opened")
}

async fn etcdctl_saves_a_snapshot(setup: Setup) {
    let is_etcd = setup.is_etcd();
    let server = setup.start();
    fill(&server.api(), 500).await;
    let file = server.directory().join("saved.db");
    let path = file.to_str().expect("text");
    let saved = server.etcdctl(&["snapshot", "save", path]);
    saved.clone().prints(&format!("Snapshot saved at {path}\n"));
    for said in ["created temporary db file", "fetching snapshot", "fetched snapshot", "\"saved\""] {
        assert!(saved.stderr.contains(said), "{said:?} is missing in {}", saved.stderr);
    }
    let metadata = fs::metadata(&file).expect("it is there");
    assert_eq!((metadata.len() % 512, metadata.permissions().mode() & 0o777), (32, 0o600));
    assert!(!file.with_extension("db.part").exists());
    server.etcdctl(&["snapshot", "save"]).fails(128, "Error: snapshot save expects one argument");
    if is_etcd {
        return;
    }
    let machine = restored(&file);
    let view = machine.view();
    let hash = server.api().hash_kv(0).await.expect("hashed");
    let HashKv { hash: found, compact_revision, hash_revision } = view.mvcc.hash_kv(0).expect("hashed");
    assert_eq!((found, compact_revision, hash_revision), (hash.hash, hash.compact_revision, hash.hash_revision));
    assert_eq!(view.members.list().count(), 1);
    assert_eq!(view.cluster_version.as_deref(), Some("3.7.0"));
    assert_eq!(metric(&server, "etcd_disk_backend_snapshot_duration_seconds_count"), 1.0);
    for line in ["sending database snapshot to client", "successfully sent database snapshot to client"] {
        wait_for_log(&server, line);
    }
}

async fn the_stream_is_cut_and_sealed_as_etcds(setup: Setup) {
    let version = if setup.is_etcd() { "" } else { "3.7.0" };
    let server = setup.start();
    let api = server.api();
    fill(&api, 300).await;
    let mut stream = api.maintenance.clone().snapshot(pb::SnapshotRequest {}).await.expect("opens").into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.expect("goes on") {
        messages.push(message);
    }
    let seal = messages.pop().expect("there are some");
    let data: Vec<u8> = messages.iter().flat_map(|message| message.blob.to_vec()).collect();
    assert_eq!(data.len() % 512, 0);
    assert!(messages.len() > 3, "only {}", messages.len());
    let mut remaining = data.len() as u64;
    for message in &messages {
        assert!(message.header.is_none() && message.version == version, "{:?} {:?}", message.header, message.version);
        assert!(!message.blob.is_empty() && message.blob.len() <= 32 * 1024, "{}", message.blob.len());
        remaining -= message.blob.len() as u64;
        assert_eq!(message.remaining_bytes, remaining);
    }
    assert_eq!(remaining, 0);
    assert_eq!((seal.remaining_bytes, &seal.blob[..]), (0, &Sha256::digest(&data)[..]));
    assert!(seal.header.is_none() && seal.version == version);

    let mut client = server.client().await;
    let mut stream = client.snapshot().await.expect("opens");
    let mut received = 0;
    while let Some(message) = stream.message().await.expect("goes on") {
        received += message.blob().len();
    }
    assert_eq!(received, data.len() + 32);
}

async fn what_was_saved_is_the_state_even_while_others_write_and_compact(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    fill(&api, 400).await;
    let writer = tokio::spawn({
        let api = api.clone();
        async move {
            let mut round = 0;
            loop {
                let revision = api.put(&format!("key{:03}", round % 300), &format!("{round}")).await;
                if round % 40 == 39 {
                    api.compact(revision - 20, false).await.expect("compacted");
                }
                round += 1;
            }
        }
    });
    for round in 0..5 {
        let file = server.directory().join(format!("saved{round}.db"));
        let from = api.revision().await;
        let saving = {
            let (endpoint, path) = (server.endpoint(), file.to_str().expect("text").to_owned());
            tokio::task::spawn_blocking(move || {
                crate::harness::ctl::etcdctl(&endpoint, &["snapshot", "save", &path], None).ok()
            })
        };
        saving.await.expect("saved");
        let machine = restored(&file);
        let revision = machine.revision().0;
        assert!((from..=api.revision().await).contains(&revision), "as of {revision}");
        // No compaction has reached it before it was hashed, or the next round will do.
        if let Ok(hash) = api.hash_kv(revision).await {
            let view = machine.view();
            if view.mvcc.compact_revision().0 == hash.compact_revision {
                assert_eq!(view.mvcc.hash_kv(0).expect("hashed").hash, hash.hash, "as of {revision}");
            }
        }
    }
    assert!(!writer.is_finished(), "a write failed");
    writer.abort();
    let _ = writer.await;
    // With nobody writing there is nothing to miss.
    let file = server.directory().join("last.db");
    server.etcdctl(&["snapshot", "save", file.to_str().expect("text")]).ok();
    let hash = api.hash_kv(0).await.expect("hashed");
    assert_eq!(restored(&file).view().mvcc.hash_kv(0).expect("hashed").hash, hash.hash);
    assert_eq!(server.etcdctl(&["get", "key001", "--rev=2"]).code, 1, "nothing was compacted");
}

async fn damage_is_found(setup: Setup) {
    let server = setup.start();
    fill(&server.api(), 50).await;
    let file = server.directory().join("saved.db");
    server.etcdctl(&["snapshot", "save", file.to_str().expect("text")]).ok();
    let sound = fs::read(&file).expect("readable");
    let verify = |bytes: &[u8]| SnapshotReader::open(bytes).and_then(SnapshotReader::verify);
    assert!(verify(&sound).expect("sound").1.is_sealed);
    let steps = sound.len() / 97;
    for at in (0..sound.len()).step_by(steps) {
        let mut damaged = sound.clone();
        damaged[at] ^= 4;
        let error = verify(&damaged).expect_err("a flipped bit").to_string();
        assert!(
            error.contains("damaged at byte") || error == "this is not a Castd snapshot" || error.contains("newer"),
            "{error}"
        );
        let error = verify(&sound[..at]).expect_err("truncated").to_string();
        assert!(error.contains("it ends too early"), "{error}");
    }
    let error = verify(&sound[..sound.len() - 1]).expect_err("half a checksum").to_string();
    assert!(error.contains("something follows the trailer"), "{error}");
}
