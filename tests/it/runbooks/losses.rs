//! What happens to a cluster, and what is left of it after the runbook.

use super::stage::Stage;
use crate::harness::{Setup, wait_until};
use castd::storage::{DataDir, Settings, StorageKind};
use castd_backend_api::{Table, WriteBatch};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

const THREE: [&str; 3] = ["m1", "m2", "m3"];
const PATIENCE: Duration = Duration::from_secs(30);

pub fn replace_machine(setup: &Setup) {
    let mut stage = Stage::with_three_members("replace-machine", setup);
    stage.write_keys(&THREE, 5);
    stage.on("m3").crash();
    stage.step();
    stage.join("m4");
    stage.assert_members(&["m1", "m2", "m4"]);
    stage.assert_keys(&["m1", "m2", "m4"], 5);
    // The dead one comes back: it is told, and ends without failure.
    stage.on("m3").run("castd & wait %castd");
    assert!(stage.on("m3").log().contains("the member has been permanently removed from the cluster"));
    stage.assert_members(&["m1", "m2", "m4"]);
    stage.finish();
}

pub fn replace_disk(setup: &Setup) {
    let mut stage = Stage::with_three_members("replace-disk", setup);
    stage.write_keys(&THREE, 5);
    stage.on("m3").crash();
    // Without the runbook it does not come back, and does not found something of its own either.
    let code = stage.on("m3").run("rm -rf \"$ETCD_DATA_DIR\"; castd & wait %castd || echo $?");
    assert_eq!(code, "1\n");
    assert!(stage.on("m3").log().contains("has already been bootstrapped"));
    stage.step();
    stage.join("m3");
    stage.assert_members(&THREE);
    stage.assert_keys(&THREE, 5);
    // It counts.
    stage.on("m1").crash();
    stage.on("m3").run("until etcdctl --endpoints=$ENDPOINT endpoint health; do sleep 1; done");
    stage.assert_keys(&["m2", "m3"], 5);
    stage.finish();
}

pub fn corrupt(setup: &Setup) {
    let mut stage = Stage::with_three_members("corrupt", setup);
    stage.write_keys(&THREE, 5);
    stage.on("m2").run("kill %castd; wait");
    let data_dir = stage.directory().join("m2/data");
    let kind = if setup.keeps_snapshots() { StorageKind::Sled } else { StorageKind::Rocksdb };
    flip_a_bit(&data_dir, kind, "value-3");
    stage.on("m2").run("castd &\nuntil etcdctl --endpoints=$ENDPOINT endpoint health; do sleep 1; done");
    // Something is built on it.
    stage.ask(&["m1"], "put key/3 --ignore-value");
    wait_until("the alarm", PATIENCE, || stage.ask(&["m1"], "alarm list").contains("CORRUPT"));
    assert!(stage.on("m1").run("! etcdctl --endpoints=$ENDPOINT put k v 2>&1").contains("etcdserver: corrupt cluster"));

    let found = stage.step();
    assert!(found.lines().last().is_some_and(|line| line.contains(", started, m2, ")), "{found}");
    let printed = stage.step();
    assert!(printed.contains("removed from cluster"), "{printed}");
    stage.step();
    stage.join("m2");
    let printed = stage.step();
    assert_eq!(printed.lines().count(), 3, "{printed}");
    stage.assert_members(&THREE);
    stage.assert_keys(&THREE, 5);
    assert_eq!(stage.ask(&["m1"], "alarm list"), "");
    stage.finish();
}

/// In the last letter of that value, in the store of a member that is stopped.
fn flip_a_bit(data_dir: &Path, kind: StorageKind, value: &str) {
    let data_dir = DataDir::prepare(Settings::new(data_dir, kind), &mut |_| ()).expect("it is stopped");
    let opened = data_dir.open_backend().expect("sound so far");
    data_dir.backend_loaded().expect("nobody finds out");
    let mut rows = Vec::new();
    let scanned = opened.backend.scan(Table::Kv, b"", b"", &mut |key, row| {
        if let Some(at) = row.windows(value.len()).position(|window| window == value.as_bytes()) {
            let mut row = row.to_vec();
            row[at + value.len() - 1] ^= 1;
            rows.push((key.to_vec(), row));
        }
        ControlFlow::Continue(())
    });
    scanned.expect("it can be read");
    assert_eq!(rows.len(), 1);
    let mut batch = WriteBatch::new();
    rows.into_iter().for_each(|(key, row)| batch.put(Table::Kv, key, row));
    opened.backend.write(&batch).expect("written");
    opened.backend.flush().expect("flushed");
}
