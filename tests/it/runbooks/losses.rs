//! What happens to a cluster, and what is left of it after the runbook.

use super::stage::Stage;
use crate::harness::{Setup, wait_until};
use castd::storage::{DataDir, Found, Settings, StorageKind};
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

pub fn lost_quorum(setup: &Setup) {
    let mut stage = Stage::with_three_members("lost-quorum", setup);
    stage.write_keys(&THREE, 5);
    for name in ["m2", "m3"] {
        stage.on(name).crash();
    }
    let health = stage.on("m1").run("! etcdctl --endpoints=$ENDPOINT --command-timeout=1s endpoint health 2>&1");
    assert!(health.contains("is unhealthy"), "{health}");
    let printed = stage.step();
    assert_eq!(printed.matches("| http://").count(), 1, "{printed}");

    let printed = stage.step();
    assert_eq!(printed.matches(", started, ").count(), 1, "{printed}");
    stage.step();
    stage.assert_members(&["m1"]);
    stage.assert_keys(&["m1"], 5);
    stage.step_on_each();
    stage.join("m2");
    stage.join("m3");
    stage.assert_members(&THREE);
    stage.assert_keys(&THREE, 5);
    // They are a cluster again, of which one may fail.
    stage.on("m1").crash();
    stage.on("m2").run("until etcdctl --endpoints=$ENDPOINT endpoint health; do sleep 1; done");
    stage.assert_keys(&["m2", "m3"], 5);
    stage.finish();
}

/// With the file in which backups are kept.
fn with_backups(runbook: &'static str, setup: &Setup) -> Stage {
    let stage = Stage::open(runbook, setup);
    let file = stage.directory().join("backup.db").display().to_string();
    stage.settings("backup", [("BACKUP", file)]).and_three_members()
}

pub fn backup(setup: &Setup) {
    let mut stage = with_backups("backup", setup);
    stage.write_keys(&THREE, 5);
    let printed = stage.step();
    assert!(printed.contains("| REVISION | TOTAL KEYS |"), "{printed}");
    assert!(stage.directory().join("backup.db").exists());
    stage.finish();
}

pub fn restore(setup: &Setup) {
    let mut stage = with_backups("restore", setup);
    stage.write_keys(&THREE, 5);
    stage.follow("backup");
    // What comes after it is not in it.
    stage.ask(&["m1"], "del key/3");
    stage.ask(&["m1"], "put later lost");
    let revision = |stage: &mut Stage| -> i64 {
        let printed = stage.ask(&["m1"], "get first-key -w json");
        let answer: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        answer["header"]["revision"].as_i64().expect("a number")
    };
    let cluster_of = |stage: &mut Stage| -> String {
        let printed = stage.ask(&["m1"], "member list -w json");
        let answer: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        answer["header"]["cluster_id"].to_string()
    };
    let (revision_before, cluster_before) = (revision(&mut stage), cluster_of(&mut stage));
    for name in THREE {
        stage.on(name).crash();
    }
    stage.step_on_each();
    let printed = stage.step();
    assert_eq!(printed.matches("| started |").count(), 3, "{printed}");
    stage.assert_keys(&THREE, 5);
    assert_eq!(stage.ask(&["m2"], "get later"), "");
    assert_ne!(cluster_of(&mut stage), cluster_before);
    assert!(revision(&mut stage) > revision_before + 999_999_000);
    // Who watches from a revision that it knew is sent away.
    let old = format!("! etcdctl --endpoints=$ENDPOINT get first-key --rev={revision_before} 2>&1");
    assert!(stage.on("m1").run(&old).contains("required revision has been compacted"));
    stage.assert_members(&THREE);
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
    let Found::Store(backend) = data_dir.open_backend().expect("readable") else { panic!("not sound") };
    let mut rows = Vec::new();
    let scanned = backend.scan(Table::Kv, b"", b"", &mut |key, row| {
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
    backend.write(&batch).expect("written");
    assert!(data_dir.close_backend(backend).expect("flushed"), "nobody finds out");
}
