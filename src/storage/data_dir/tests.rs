//! Refusals, first starts that were cut short, and stores that are set aside.

use super::*;
use crate::ids::{ClusterId, MemberId};
use castd_backend_api::{Table, WriteBatch};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::mpsc;
use std::time::SystemTime;

const KIND: StorageKind = StorageKind::Memory;

/// Every path below a directory with mode, time of change and content.
type Tree = BTreeMap<PathBuf, (u32, SystemTime, Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let (mut tree, mut open) = (Tree::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        tree.insert(path, (metadata.mode(), metadata.modified().unwrap(), content));
    }
    tree
}

fn settings(dir: &tempfile::TempDir, kind: StorageKind) -> Settings {
    let mut settings = Settings::new(dir.path().join("data"), kind);
    settings.lock_wait = Duration::ZERO;
    settings
}

fn prepare(settings: &Settings) -> Result<(DataDir, Vec<Notice>), DataDirError> {
    let mut notices = Vec::new();
    let data_dir = DataDir::prepare(settings.clone(), &mut |notice| notices.push(notice))?;
    Ok((data_dir, notices))
}

fn refusal(settings: &Settings) -> DataDirError {
    prepare(settings).err().expect("it is refused")
}

fn format(kind: StorageKind) -> Format {
    Format::new(kind, ClusterId(0xc1), MemberId(0x11))
}

/// A first start, from an empty directory to a committed FORMAT.
fn create(settings: &Settings) -> DataDir {
    let (mut data_dir, _) = prepare(settings).unwrap();
    assert_eq!(data_dir.format(), None);
    fs::write(data_dir.log_path().join("0001.raftlog"), "entries").unwrap();
    close(&data_dir, begin(&data_dir));
    data_dir.commit_format(format(settings.kind)).unwrap();
    data_dir
}

/// An empty store in the place of whichever there was.
fn begin(data_dir: &DataDir) -> Arc<dyn Backend> {
    data_dir.commit_replacement(data_dir.begin_replacement().unwrap()).unwrap()
}

fn close(data_dir: &DataDir, backend: Arc<dyn Backend>) {
    assert!(data_dir.close_backend(backend).unwrap(), "somebody still has it");
}

fn open(data_dir: &DataDir) -> Arc<dyn Backend> {
    match data_dir.open_backend().unwrap() {
        Found::Store(backend) => backend,
        Found::Nothing => panic!("there is nothing"),
        Found::Unclosed => panic!("it was not closed"),
        Found::Broken(aside) => panic!("{}", aside.reason),
    }
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn persistent_kinds() -> impl Iterator<Item = StorageKind> {
    StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in() && kind.keeps_files())
}

fn put(backend: &dyn Backend, value: &'static str) {
    let mut batch = WriteBatch::new();
    batch.put(Table::Kv, "key", value);
    backend.write(&batch).unwrap();
    backend.flush().unwrap();
}

fn value_of(backend: &dyn Backend) -> Option<Vec<u8>> {
    backend.get(Table::Kv, b"key").unwrap().map(|value| value.to_vec())
}

#[test]
fn a_first_start_lays_out_private_directories_and_the_next_one_finds_the_member() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir, KIND);
    assert_eq!(DataDir::inspect(&settings).unwrap(), None);
    assert!(!settings.data_dir.exists(), "a look creates nothing");
    drop(create(&settings));
    for path in ["", "member", "member/log", "member/snap"] {
        assert_eq!(fs::metadata(settings.data_dir.join(path)).unwrap().mode() & 0o777, 0o700, "{path}");
    }
    for path in ["lock", "member/FORMAT"] {
        assert_eq!(fs::metadata(settings.data_dir.join(path)).unwrap().mode() & 0o777, 0o600, "{path}");
    }
    assert!(!settings.data_dir.join("member/creating").exists());
    assert_eq!(DataDir::inspect(&settings).unwrap(), Some(format(KIND)));
    let (data_dir, notices) = prepare(&settings).unwrap();
    assert_eq!((data_dir.format(), notices), (Some(&format(KIND)), vec![]));
}

#[test]
fn what_etcd_wrote_is_refused_and_left_as_it_was() {
    let in_data_dir = [
        "member/snap/db",
        "member/wal/0000000000000000-0000000000000000.wal",
        "member/snap/0000000000000002-0000000000000004.snap",
        "snap/0000000000000002-0000000000000004.snap",
        "wal/0000000000000000-0000000000000000.wal",
        "proxy/cluster",
    ];
    for name in in_data_dir {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, KIND);
        let found = settings.data_dir.join(name);
        write(&found, "etcd's");
        fs::set_permissions(&settings.data_dir, fs::Permissions::from_mode(0o755)).unwrap();
        let before = tree(dir.path());
        for error in [refusal(&settings), DataDir::inspect(&settings).unwrap_err()] {
            assert!(matches!(&error, DataDirError::WrittenByEtcd { found: named, .. } if *named == found), "{error}");
            let text = error.to_string();
            assert!(text.contains("etcdctl make-mirror"), "{text}");
        }
        assert_eq!(tree(dir.path()), before, "{name}");
    }
}

#[test]
fn a_wal_dir_of_etcd_is_refused_and_no_data_dir_is_made_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir, KIND);
    settings.wal_dir = Some(dir.path().join("wal"));
    write(&dir.path().join("wal/0000000000000000-0000000000000000.wal"), "etcd's");
    let before = tree(dir.path());
    assert!(matches!(refusal(&settings), DataDirError::WrittenByEtcd { .. }));
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_newer_format_and_another_backend_are_refused_and_left_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir, KIND);
    let path = settings.data_dir.join("member/FORMAT");

    write(&path, "{\"format\":2,\"layout\":\"of the future\"}");
    let before = tree(dir.path());
    let error = refusal(&settings);
    assert!(matches!(error, DataDirError::NewerFormat { found: 2, .. }), "{error}");
    assert_eq!(tree(dir.path()), before);

    write(&path, "{\"format\":1,\"backend\":\"sled\",\"cluster_id\":\"1\",\"member_id\":\"2\"}");
    let before = tree(dir.path());
    let error = refusal(&settings);
    assert!(matches!(&error, DataDirError::OtherBackend { written, .. } if written == "sled"), "{error}");
    let text = error.to_string();
    assert!(text.contains("start with `--storage sled`") && text.contains("etcdctl snapshot save"), "{text}");
    assert_eq!(tree(dir.path()), before);

    write(&path, "{\"format\":1,");
    let error = refusal(&settings);
    assert!(matches!(error, DataDirError::UnreadableFormat { .. }), "{error}");
}

#[test]
fn a_directory_in_use_is_refused_after_the_wait_and_names_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir, KIND);
    let _first = create(&settings);
    settings.lock_wait = Duration::from_millis(50);
    let mut notices = Vec::new();
    let error = DataDir::prepare(settings.clone(), &mut |notice| notices.push(notice)).err().unwrap();
    let (directory, at_most) = (settings.data_dir.clone(), settings.lock_wait);
    assert_eq!(notices, vec![Notice::WaitingForLock { directory, at_most }], "told once, not at each try");
    let text = error.to_string();
    assert!(matches!(error, DataDirError::Locked { holder: Some(pid), .. } if pid == std::process::id()), "{text}");
    assert!(text.starts_with(&settings.data_dir.display().to_string()), "{text}");
}

#[test]
fn a_directory_that_is_given_up_in_time_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir, KIND);
    let first = create(&settings);
    settings.lock_wait = Duration::from_secs(60);
    let (waiting, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            told.recv().unwrap();
            drop(first);
        });
        let data_dir = DataDir::prepare(settings, &mut |notice| waiting.send(notice).unwrap()).unwrap();
        assert!(data_dir.format().is_some());
    });
}

#[test]
fn wide_modes_and_strange_files_are_told_and_used_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir, KIND);
    drop(create(&settings));
    let member = settings.data_dir.join("member");
    fs::set_permissions(&settings.data_dir, fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(&member, fs::Permissions::from_mode(0o705)).unwrap();
    let strange = settings.data_dir.join("notes.txt");
    fs::write(&strange, "remember the milk").unwrap();
    let (_, notices) = prepare(&settings).unwrap();
    let expected = vec![
        Notice::WideMode { path: settings.data_dir.clone(), mode: 0o750 },
        Notice::WideMode { path: member, mode: 0o705 },
        Notice::UnexpectedFile { path: strange },
    ];
    assert_eq!(notices, expected);
    assert!(notices[0].to_string().starts_with("check file permission"), "{}", notices[0]);
}

#[test]
fn a_first_start_cut_short_anywhere_is_followed_by_a_fresh_one_or_a_complete_one() {
    for with_wal_dir in [false, true] {
        for step in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let mut settings = settings(&dir, KIND);
            settings.wal_dir = with_wal_dir.then(|| dir.path().join("wal"));
            let (member, log_root) = (settings.data_dir.join("member"), settings.wal_dir.clone());
            let log_root = log_root.unwrap_or_else(|| member.clone());
            let format = format(KIND);
            let steps: Vec<Box<dyn Fn() + '_>> = vec![
                Box::new(|| fs::create_dir_all(&member).unwrap()),
                Box::new(|| write(&member.join("creating.tmp"), "")),
                Box::new(|| write(&member.join("creating"), "")),
                Box::new(|| write(&log_root.join("creating"), "")),
                Box::new(|| write(&log_root.join("log/0001.raftlog"), "half an entr")),
                Box::new(|| write(&member.join("state/1/CURRENT"), "MANI")),
                Box::new(|| write(&log_root.join("FORMAT.tmp"), "{\"form")),
                Box::new(|| format.write(&log_root).unwrap()),
                Box::new(|| format.write(&member).unwrap()),
                Box::new(|| fs::remove_file(member.join("creating")).unwrap()),
            ];
            if step == steps.len() {
                break;
            }
            for done in &steps[..=step] {
                done();
            }
            let committed = step >= 7;
            let (mut data_dir, _) = prepare(&settings).unwrap();
            assert_eq!(data_dir.format(), committed.then_some(&format), "step {step}");
            assert_eq!(list(&data_dir.log_path()).unwrap().len(), usize::from(committed), "step {step}");
            if !committed {
                assert_eq!(list(&member.join("state")).unwrap(), Vec::<PathBuf>::new());
                fs::write(data_dir.log_path().join("0001.raftlog"), "entries").unwrap();
                data_dir.commit_format(format.clone()).unwrap();
            }
            drop(data_dir);
            for root in [&member, &log_root] {
                assert!(!root.join("creating").exists() && root.join("FORMAT").exists(), "step {step}");
                assert!(!root.join("FORMAT.tmp").exists(), "step {step}");
            }
            assert_eq!(prepare(&settings).unwrap().0.format(), Some(&format));
        }
    }
}

#[test]
fn data_without_a_format_is_refused_and_never_removed() {
    for name in ["log/0001.raftlog", "state/1/CURRENT", "snap/1"] {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, KIND);
        let path = settings.data_dir.join("member").join(name);
        write(&path, "dear to somebody");
        let error = refusal(&settings);
        assert!(matches!(error, DataDirError::FormatMissing { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear to somebody");
    }
}

#[test]
fn a_member_without_its_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut with_wal_dir = settings(&dir, KIND);
    with_wal_dir.wal_dir = Some(dir.path().join("wal"));
    drop(create(&with_wal_dir));
    let forgotten = Settings { wal_dir: None, ..with_wal_dir.clone() };
    assert!(matches!(refusal(&forgotten), DataDirError::LogMissing { .. }));
    let mistaken = Settings { wal_dir: Some(dir.path().join("elsewhere")), ..with_wal_dir.clone() };
    assert!(matches!(refusal(&mistaken), DataDirError::LogMissing { .. }));
    assert_eq!(prepare(&with_wal_dir).unwrap().0.log_path(), dir.path().join("wal/log"));
}

#[test]
fn the_log_of_another_member_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir, KIND);
    settings.wal_dir = Some(dir.path().join("wal"));
    drop(create(&settings));
    Format::new(KIND, ClusterId(0xc1), MemberId(0x12)).write(&dir.path().join("wal")).unwrap();
    assert!(matches!(refusal(&settings), DataDirError::LogOfAnotherMember { .. }));
}

#[test]
fn a_lost_data_dir_beside_a_kept_log_comes_back_as_the_same_member_without_its_state() {
    for kind in persistent_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&dir, kind);
        settings.wal_dir = Some(dir.path().join("wal"));
        drop(create(&settings));
        fs::remove_dir_all(&settings.data_dir).unwrap();
        let (data_dir, _) = prepare(&settings).unwrap();
        assert_eq!(data_dir.format(), Some(&format(kind)));
        assert_eq!(list(&data_dir.log_path()).unwrap().len(), 1);
        assert!(matches!(data_dir.open_backend().unwrap(), Found::Nothing));
    }
}

#[test]
fn the_wal_dir_may_be_the_data_dir() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir, KIND);
    settings.wal_dir = Some(settings.data_dir.clone());
    drop(create(&settings));
    assert_eq!(prepare(&settings).unwrap().0.format(), Some(&format(KIND)));
}

#[test]
fn a_store_that_was_closed_is_opened_again_with_its_rows() {
    for kind in persistent_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, kind);
        let data_dir = create(&settings);
        let backend = open(&data_dir);
        put(&*backend, "value");
        close(&data_dir, backend);
        drop(data_dir);
        let opened = open(&prepare(&settings).unwrap().0);
        assert_eq!(value_of(&*opened).as_deref(), Some(&b"value"[..]), "{kind}");
    }
}

#[test]
fn damaged_stores_are_set_aside_one_after_the_other_and_the_next_one_begins_empty() {
    for kind in persistent_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, kind);
        drop(create(&settings));
        for number in 1..=2 {
            let member = settings.data_dir.join("member");
            damage(kind, &member.join("state"));
            let (data_dir, _) = prepare(&settings).unwrap();
            let Found::Broken(set_aside) = data_dir.open_backend().unwrap() else { panic!("{kind}: not broken") };
            assert_eq!(set_aside.moved_to, member.join(format!("state.broken-{number}")), "{kind}");
            assert!(set_aside.moved_to.join(number.to_string()).is_dir());
            assert!(matches!(data_dir.open_backend().unwrap(), Found::Nothing), "{kind}");
            let backend = begin(&data_dir);
            assert_eq!(value_of(&*backend), None);
            put(&*backend, "value");
            close(&data_dir, backend);
        }
    }
}

/// Leaves files that the engine cannot open.
fn damage(kind: StorageKind, state: &Path) {
    let store = list(state).unwrap().into_iter().find(|path| path.is_dir()).unwrap();
    match kind {
        StorageKind::Rocksdb => {
            for file in list(&store).unwrap() {
                if file.file_name().unwrap().to_string_lossy().starts_with("MANIFEST") {
                    fs::remove_file(file).unwrap();
                }
            }
        }
        StorageKind::Sled => fs::write(store.join("conf"), [0xff; 64]).unwrap(),
        StorageKind::Memory => unreachable!("keeps no files"),
    }
}

#[cfg(feature = "sled")]
#[test]
fn sled_that_was_not_closed_is_not_opened_and_stays_until_another_store_has_taken_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir, StorageKind::Sled);
    let data_dir = create(&settings);
    let state = settings.data_dir.join("member/state");
    let closed = state.join("closed");
    assert!(closed.exists());
    put(&*open(&data_dir), "value");
    assert!(!closed.exists(), "gone before the first write");
    drop(data_dir);
    for filled_to_the_end in [false, true] {
        let (data_dir, _) = prepare(&settings).unwrap();
        assert!(matches!(data_dir.open_backend().unwrap(), Found::Unclosed));
        let replacement = data_dir.begin_replacement().unwrap();
        assert_eq!(value_of(&*replacement.backend), None);
        assert!(state.join("1").exists());
        if filled_to_the_end {
            let backend = data_dir.commit_replacement(replacement).unwrap();
            assert!(!state.join("1").exists());
            // One that is to close it while another one reads it says nothing.
            let reader = Arc::clone(&backend);
            assert!(!data_dir.close_backend(backend).unwrap());
            assert!(!closed.exists());
            close(&data_dir, reader);
        }
    }
    assert_eq!(value_of(&*open(&prepare(&settings).unwrap().0)), None);
}

#[cfg(feature = "sled")]
#[test]
fn the_word_that_another_store_was_closed_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir, StorageKind::Sled);
    drop(create(&settings));
    fs::write(settings.data_dir.join("member/state/closed"), "2\n").unwrap();
    assert!(matches!(prepare(&settings).unwrap().0.open_backend().unwrap(), Found::Unclosed));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_that_was_not_closed_is_opened_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir, StorageKind::Rocksdb);
    let data_dir = create(&settings);
    put(&*open(&data_dir), "value");
    drop(data_dir);
    let opened = open(&prepare(&settings).unwrap().0);
    assert_eq!(value_of(&*opened).as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_store_that_is_gone_is_nothing_and_one_whose_number_is_damaged_is_set_aside() {
    for kind in persistent_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, kind);
        drop(create(&settings));
        let state = settings.data_dir.join("member/state");
        fs::remove_dir_all(&state).unwrap();
        let (data_dir, _) = prepare(&settings).unwrap();
        assert!(matches!(data_dir.open_backend().unwrap(), Found::Nothing));
        close(&data_dir, begin(&data_dir));
        drop(data_dir);

        fs::write(state.join("generation"), "one").unwrap();
        let (data_dir, _) = prepare(&settings).unwrap();
        assert!(matches!(data_dir.open_backend().unwrap(), Found::Broken(_)));
    }
}

#[test]
fn a_store_that_does_not_fit_the_log_is_set_aside_once_nobody_reads_it() {
    for kind in persistent_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = create(&settings(&dir, kind));
        let opened = open(&data_dir);
        put(&*opened, "value");
        assert!(matches!(data_dir.set_backend_aside("ahead of the log"), Err(DataDirError::BackendInUse)));
        drop(opened);
        let set_aside = data_dir.set_backend_aside("ahead of the log").unwrap().unwrap();
        assert_eq!(set_aside.reason, "ahead of the log");
        assert!(matches!(data_dir.open_backend().unwrap(), Found::Nothing));
        assert_eq!(value_of(&*begin(&data_dir)), None);
    }
}

#[test]
fn a_replacement_counts_from_its_commit_and_the_old_store_serves_its_readers_to_the_end() {
    for kind in StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in()) {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, kind);
        let data_dir = create(&settings);
        let old = if kind.keeps_files() { open(&data_dir) } else { begin(&data_dir) };
        put(&*old, "old");

        drop(data_dir.begin_replacement().unwrap());
        let replacement = data_dir.begin_replacement().unwrap();
        put(&*replacement.backend, "new");
        let new = data_dir.commit_replacement(replacement).unwrap();
        assert_eq!(value_of(&*old).as_deref(), Some(&b"old"[..]), "{kind}");
        assert_eq!(value_of(&*new).as_deref(), Some(&b"new"[..]), "{kind}");
        let first = settings.data_dir.join("member/state/1");
        assert_eq!(first.exists(), kind.keeps_files());
        drop(old);
        data_dir.remove_retired_backends();
        assert!(!first.exists(), "{kind}");
        put(&*data_dir.begin_replacement().unwrap().backend, "never committed");
        close(&data_dir, new);
        drop(data_dir);

        if kind.keeps_files() {
            let (data_dir, _) = prepare(&settings).unwrap();
            assert_eq!(value_of(&*open(&data_dir)).as_deref(), Some(&b"new"[..]), "{kind}");
            assert!(!settings.data_dir.join("member/state/3").exists());
        }
    }
}

/// Settings of a restore, with the log in a directory of its own.
fn restoring(dir: &tempfile::TempDir) -> Settings {
    let wal_dir = Some(dir.path().join("wal"));
    Settings { wal_dir, creation: Creation::Restore, ..settings(dir, KIND) }
}

#[test]
fn a_restore_that_was_cut_short_is_taken_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let restore = restoring(&dir);
    assert_eq!(DataDir::vacancy(&restore).unwrap(), Vacancy::Vacant);
    let (unfinished, _) = prepare(&restore).unwrap();
    write(&unfinished.snapshots_path().join("1-1.cast"), "half of it");
    write(&unfinished.log_path().join("0001.raftlog"), "entries");
    drop(unfinished);

    let start = Settings { creation: Creation::FirstStart, ..restore.clone() };
    for start in [start.clone(), Settings { wal_dir: None, ..start }] {
        let error = refusal(&start);
        assert!(matches!(error, DataDirError::RestoreCutShort { .. }), "{error}");
        assert!(error.to_string().contains("run `castutl snapshot restore` again"), "{error}");
    }
    assert_eq!(DataDir::vacancy(&restore).unwrap(), Vacancy::Abandoned);
    let (mut again, notices) = prepare(&restore).unwrap();
    assert!(notices.iter().any(|notice| matches!(notice, Notice::UnfinishedCreation { .. })), "{notices:?}");
    assert!(list(&again.snapshots_path()).unwrap().is_empty() && list(&again.log_path()).unwrap().is_empty());
    fs::write(again.log_path().join("0001.raftlog"), "entries").unwrap();
    again.commit_format(format(KIND)).unwrap();
    drop(again);
    assert_eq!(DataDir::vacancy(&restore).unwrap(), Vacancy::DataDirTaken);
    let start = Settings { creation: Creation::FirstStart, ..restore };
    assert_eq!(prepare(&start).unwrap().0.format(), Some(&format(KIND)));
}

#[test]
fn a_restore_finds_room_only_where_etcd_would() {
    let vacancy = |prepare: &dyn Fn(&Settings)| {
        let dir = tempfile::tempdir().unwrap();
        let settings = restoring(&dir);
        prepare(&settings);
        DataDir::vacancy(&settings).unwrap()
    };
    let wal_dir = |settings: &Settings| settings.wal_dir.clone().unwrap();
    assert_eq!(vacancy(&|it| fs::create_dir(&it.data_dir).unwrap()), Vacancy::Vacant);
    assert_eq!(vacancy(&|it| fs::create_dir_all(it.data_dir.join("lost+found")).unwrap()), Vacancy::Vacant);
    assert_eq!(vacancy(&|it| write(&it.data_dir.join("anything"), "")), Vacancy::DataDirTaken);
    assert_eq!(vacancy(&|it| write(&it.data_dir.join("member/snap/db"), "")), Vacancy::DataDirTaken);
    assert_eq!(vacancy(&|it| drop(create(&settings_of(it)))), Vacancy::DataDirTaken);
    assert_eq!(vacancy(&|it| fs::create_dir(wal_dir(it)).unwrap()), Vacancy::WalDirTaken);
    assert_eq!(vacancy(&|it| write(&wal_dir(it).join("anything"), "")), Vacancy::WalDirTaken);
    // What is left of a crash before anything was written.
    assert_eq!(vacancy(&|it| write(&wal_dir(it).join(LOCK_FILE), "1")), Vacancy::Vacant);
    let locked = |it: &Settings| {
        fs::create_dir_all(it.data_dir.join(MEMBER)).unwrap();
        write(&it.data_dir.join(LOCK_FILE), "1");
    };
    assert_eq!(vacancy(&locked), Vacancy::Vacant);
    // A first start's remains are not a restore's.
    assert_eq!(vacancy(&|it| drop(prepare(&settings_of(it)).unwrap())), Vacancy::DataDirTaken);
}

/// Of a server that starts there.
fn settings_of(restore: &Settings) -> Settings {
    Settings { wal_dir: None, creation: Creation::FirstStart, ..restore.clone() }
}
