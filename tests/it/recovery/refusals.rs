//! What cannot be restored, and how that is said.

use super::{fill, restore, run_castutl, save};
use crate::harness::{Backend, Setup, run_castd};
use std::fs;
use std::path::{Path, PathBuf};

/// One saved file, and a member to restore it for.
fn with_saved(case: impl FnOnce(Setup, &Path, PathBuf) + 'static) {
    run_castd(Backend::Memory, async move |setup: Setup| {
        let server = setup.start();
        fill(&server.api()).await;
        let file = save(&server);
        case(server.setup.clone(), &file, server.directory().join("restored"));
    });
}

/// The error, and whether anything was written.
fn refusal(setup: &Setup, file: &Path, data_dir: &Path, more: &[&str]) -> String {
    let answer = restore(setup, &setup.listed(), file, data_dir, more);
    assert_eq!((answer.code, answer.stdout.as_str()), (1, ""), "{answer:?}");
    answer.last_stderr_line().to_owned()
}

#[test]
fn files_that_are_damaged_cut_or_somebody_elses_are_refused_in_etcds_words() {
    with_saved(|setup, file, data_dir| {
        let sound = fs::read(file).expect("readable");
        let other = data_dir.with_extension("db");
        let refused = |bytes: &[u8], more: &[&str]| {
            fs::write(&other, bytes).expect("written");
            let said = refusal(&setup, &other, &data_dir, more);
            said.replace(&other.display().to_string(), "FILE")
        };
        const NO_HASH: &str = "Error: snapshot missing hash but --skip-hash-check=false";
        let mut damaged = sound.clone();
        damaged[sound.len() / 2] ^= 1;
        let said = refused(&damaged, &[]);
        assert!(said.starts_with("Error: expected sha256 [") && said.contains("], got ["), "{said}");
        let said = refused(&damaged, &["--skip-hash-check"]);
        assert!(said.starts_with("Error: FILE: the snapshot is damaged at byte "), "{said}");
        assert_eq!(refused(&sound[..sound.len() / 2], &[]), NO_HASH);
        let said = refused(&sound[..sound.len() / 2], &["--skip-hash-check"]);
        assert!(
            said.starts_with("Error: FILE: the snapshot is damaged at byte ") && said.ends_with("too early"),
            "{said}"
        );
        assert_eq!(refused(b"", &[]), NO_HASH);
        assert_eq!(refused(&[0; 512 + 32], &["--skip-hash-check"]), "Error: FILE: this is not a Castd snapshot");
        assert!(!data_dir.join("member/FORMAT").exists());
        let gone = refusal(&setup, Path::new("/nowhere/f"), &data_dir, &[]);
        assert_eq!(gone, "Error: open /nowhere/f: no such file or directory");

        // Only the checksum is missing: that can be asked for.
        let bare = &sound[..sound.len() - 32];
        assert_eq!(refused(bare, &[]), NO_HASH);
        restore(&setup, &setup.listed(), &other, &data_dir, &["--skip-hash-check"]).prints("");
        let mut server = setup.clone().ports(crate::harness::server::Ports::free()).prepare();
        fs::rename(&data_dir, server.data_dir()).expect("moved");
        server.restart();
        assert!(server.is_healthy());
    });
}

#[test]
fn a_snapshot_of_etcd_is_named_and_a_way_shown() {
    run_castd(Backend::Memory, async |castd: Setup| {
        let etcd = Setup::etcd("etcd").start();
        etcd.api().put("k", "v").await;
        let (file, data_dir) = (save(&etcd), etcd.directory().join("restored"));
        for more in [&[][..], &["--skip-hash-check"]] {
            let said = refusal(&castd, &file, &data_dir, more);
            assert!(
                said.contains("is a snapshot of etcd (a bbolt database)") && said.contains("make-mirror"),
                "{said}"
            );
        }
        let status = run_castutl(&["snapshot", "status", file.to_str().expect("text")]);
        assert!(status.code == 1 && status.stderr.contains("is a snapshot of etcd"), "{status:?}");
        assert!(!data_dir.exists());
    });
}

#[test]
fn flags_that_contradict_each_other_and_taken_directories_are_refused_in_etcds_words() {
    with_saved(|setup, file, data_dir| {
        let taken = data_dir.with_file_name("taken");
        fs::create_dir_all(taken.join("member/snap")).expect("made");
        fs::write(taken.join("member/snap/db"), "etcd's").expect("written");
        let shown = taken.display();
        let expected = format!("Error: data-dir \"{shown}\" not empty or could not be read");
        assert_eq!(refusal(&setup, file, &taken, &[]), expected);
        let wal_dir = format!("--wal-dir={shown}");
        assert_eq!(refusal(&setup, file, &data_dir, &[&wal_dir]), format!("Error: wal-dir \"{shown}\" exists"));
        assert_eq!(fs::read(taken.join("member/snap/db")).expect("still there"), b"etcd's");

        let said = refusal(&setup, file, &data_dir, &["--name=q"]);
        assert_eq!(said, "Error: couldn't find local name \"q\" in the initial cluster configuration");
        let said = refusal(&setup, file, &data_dir, &["--initial-advertise-peer-urls=http://127.0.0.1:9"]);
        assert!(said.starts_with("Error: --initial-cluster has ") && said.contains("but missing from"), "{said}");
        let said = refusal(&setup, file, &data_dir, &["--initial-advertise-peer-urls=foo"]);
        assert_eq!(said, "Error: URL scheme must be http, https, unix, or unixs: foo");
        for more in [&["--bump-revision=5"][..], &["--mark-compacted"]] {
            let answer = restore(&setup, &setup.listed(), file, &data_dir, more);
            answer.fails(128, "Error: --mark-compacted required if --revision-bump > 0");
        }
        run_castutl(&["snapshot", "restore"]).fails(128, "Error: snapshot restore requires exactly one argument");
        run_castutl(&["snapshot", "restore", "f", "--bogus"]).fails(1, "Error: unknown flag: --bogus");
        run_castutl(&["snapshot", "status", "/nowhere/f"])
            .fails(1, "Error: stat /nowhere/f: no such file or directory");
        assert!(!data_dir.exists(), "nothing was begun");
    });
}
