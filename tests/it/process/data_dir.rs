//! The data directory: whose it is, and what is refused without touching it.

use super::run_to_end;
use crate::harness::{Backend, Place, Setup, block_on, for_each_backend};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

for_each_backend!(castd:
    the_directory_is_private,
    what_etcd_wrote_is_refused_and_not_touched,
    what_another_backend_wrote_is_refused_and_not_touched,
    a_newer_format_is_refused_and_not_touched,
);

/// Every file below `root` with its mode and content.
fn content(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
            found.insert(path, (mode, Vec::new()));
        } else {
            let bytes = fs::read(&path).expect("readable");
            found.insert(path, (mode, bytes));
        }
    }
    found
}

async fn the_directory_is_private(setup: Setup) {
    let server = setup.start();
    for path in [server.data_dir(), server.data_dir().join("member")] {
        let mode = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", path.display());
    }
}

async fn what_etcd_wrote_is_refused_and_not_touched(setup: Setup) {
    let mut etcd = Setup::etcd("etcd").ports(setup.ports).start();
    etcd.etcdctl(&["put", "k", "v"]).prints("OK\n");
    etcd.end();
    let before = content(&etcd.data_dir());
    let ended = run_to_end(&setup, &etcd.data_dir());
    ended.with(1, "was written by etcd");
    ended.with(1, "make-mirror");
    assert!(before == content(&etcd.data_dir()), "the directory was changed");
    etcd.restart();
    etcd.etcdctl(&["get", "k"]).prints("k\nv\n");
}

async fn what_another_backend_wrote_is_refused_and_not_touched(setup: Setup) {
    let mut server = setup.clone().start();
    server.etcdctl(&["put", "k", "v"]).prints("OK\n");
    server.end();
    let before = content(&server.data_dir());
    let written = setup.backend().expect("castd's");
    for other in Backend::ALL.iter().filter(|other| **other != written) {
        let asked = Setup::castd(*other).ports(setup.ports);
        let ended = run_to_end(&asked, &server.data_dir());
        ended.with(1, &format!("backend {}, not {}", written.name(), other.name()));
        ended.with(1, &format!("--storage {}", written.name()));
        assert!(before == content(&server.data_dir()), "the directory was changed");
    }
    server.restart();
    server.etcdctl(&["get", "k"]).prints("k\nv\n");
}

async fn a_newer_format_is_refused_and_not_touched(setup: Setup) {
    let mut server = setup.clone().start();
    server.end();
    let path = server.data_dir().join("member/FORMAT");
    let ours = fs::read_to_string(&path).expect("there is a FORMAT");
    let newer = ours.replace("\"format\":1", "\"format\":99");
    assert_ne!(ours, newer);
    fs::write(&path, &newer).expect("written");
    let before = content(&server.data_dir());
    let ended = run_to_end(&setup, &server.data_dir());
    ended.with(1, "was written by a newer castd");
    ended.with(1, "99");
    assert!(before == content(&server.data_dir()), "the directory was changed");
    fs::write(&path, ours).expect("written");
    server.restart();
}

#[test]
fn a_second_process_waits_a_while_and_gives_up() {
    let _place = Place::take();
    block_on(async {
        let server = Setup::castd(Backend::Memory).start();
        let started = Instant::now();
        let ended = run_to_end(&Setup::castd(Backend::Memory), &server.data_dir());
        let waited = started.elapsed();
        ended.with(1, "is in use by another process");
        ended.with(1, "flocked by another process");
        assert!(waited >= Duration::from_secs(10) && waited < Duration::from_secs(20), "waited {waited:?}");
        assert_eq!(server.api().put("k", "v").await, 2, "the first is not disturbed");
    });
}
