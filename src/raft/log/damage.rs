//! Files as a crash or a bad disk leaves them: what was acknowledged is there, or the start says why it cannot be.

use super::contract::{Model, Step, begin, same, scratch, small_files, step, steps};
use super::{EngineLog, EngineLogOptions, LogError, LogStore, LogWrite};
use crate::ids::LogIndex;
use ::raft::eraftpb::{Entry, HardState};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

/// The files as they are now, as if the machine had gone down: nothing is closed or cut to size.
fn image(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}

fn newest(dir: &Path) -> PathBuf {
    let names = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "raftlog")).max().unwrap()
}

/// Where the batches of a file end: behind the header of 69 bytes each starts with its length in 7 bytes.
fn ends(file: &[u8]) -> Vec<usize> {
    let mut ends = vec![69];
    loop {
        let at = ends[ends.len() - 1];
        let Some(head) = file.get(at..at + 8) else { return ends };
        let length = (u64::from_be_bytes(head.try_into().unwrap()) >> 8) as usize;
        if length == 0 {
            return ends;
        }
        ends.push(at + length);
    }
}

fn entries(indexes: std::ops::Range<u64>, commit: u64) -> LogWrite {
    let entry = |index| Entry { index, term: 2, data: vec![index as u8; 20].into(), ..Entry::default() };
    let hard_state = Some(HardState { term: 2, vote: 1, commit, ..HardState::default() });
    LogWrite { entries: indexes.map(entry).collect(), hard_state, must_sync: true }
}

fn large_files(dir: &Path) -> EngineLogOptions {
    EngineLogOptions { file_bytes: 64 << 10, purge_above_bytes: 256 << 10, ..EngineLogOptions::new(dir) }
}

/// A log of a few synced records, and the model before and after the last of them.
fn three_records(dir: &Path) -> (EngineLog, Vec<Model>) {
    let mut log = EngineLog::open(large_files(dir)).unwrap();
    let mut model = Model::new();
    begin(&mut log, &mut model);
    let mut models = vec![model.clone()];
    for (from, to) in [(2, 4), (4, 6), (6, 7)] {
        let write = entries(from..to, from);
        log.append(&write).unwrap();
        model.entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
        model.hard_state = write.hard_state.unwrap();
        models.push(model.clone());
    }
    (log, models)
}

#[test]
fn a_last_record_torn_or_zeroed_at_any_byte_is_dropped_and_the_ones_before_it_stay() {
    let dir = scratch();
    let (from, to) = (dir.path().join("log"), dir.path().join("image"));
    let (log, models) = three_records(&from);
    let whole = fs::read(newest(&from)).unwrap();
    let ends = ends(&whole);
    let (start, end) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    for at in start..=end {
        for tail in [&[][..], &whole[end..], &[0; 5000], &[0xff; 300]] {
            image(&from, &to);
            let zeroed = vec![0; if tail.len() == 5000 { end - at } else { 0 }];
            fs::write(newest(&to), [&whole[..at], &zeroed, tail].concat()).unwrap();
            let mut recovered = EngineLog::open(large_files(&to)).unwrap();
            let model = if at == end { &models[3] } else { &models[2] };
            same(&mut recovered, model);
            // And it goes on from there.
            let next = model.last().0 + 1;
            recovered.append(&entries(next..next + 1, next)).unwrap();
            drop(recovered);
            assert_eq!(EngineLog::open(large_files(&to)).unwrap().load(LogIndex(0)).unwrap().terms.last_index(), next);
        }
    }
    drop(log);
}

#[test]
fn a_flipped_bit_in_what_was_synced_is_an_error_that_names_the_file() {
    let dir = scratch();
    let (from, to) = (dir.path().join("log"), dir.path().join("image"));
    let (mut log, models) = three_records(&from);
    // Not synced: vouches for the three before it.
    log.append(&LogWrite { must_sync: false, ..entries(7..7, 6) }).unwrap();
    let whole = fs::read(newest(&from)).unwrap();
    let ends = ends(&whole);
    let synced = ends[ends.len() - 2];
    for at in 0..ends[ends.len() - 1] {
        image(&from, &to);
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(newest(&to), damaged).unwrap();
        match EngineLog::open(large_files(&to)) {
            Err(error @ LogError::Corrupt { .. }) if at < synced => {
                assert!(error.to_string().contains("image/0000000000000001.raftlog"), "{error}");
            }
            Ok(mut log) if at >= synced => same(&mut log, &models[3]),
            other => panic!("byte {at} of {synced}: {:?}", other.err()),
        }
    }
}

#[test]
fn a_flipped_bit_in_the_header_is_an_error_even_before_the_only_record() {
    let dir = scratch();
    let (from, to) = (dir.path().join("log"), dir.path().join("image"));
    let mut log = EngineLog::open(large_files(&from)).unwrap();
    begin(&mut log, &mut Model::new());
    let whole = fs::read(newest(&from)).unwrap();
    let ends = ends(&whole);
    for at in 0..ends[0] {
        image(&from, &to);
        let mut damaged = whole[..ends[1]].to_vec();
        damaged[at] ^= 1 << (at % 8);
        fs::write(newest(&to), damaged).unwrap();
        assert!(matches!(EngineLog::open(large_files(&to)), Err(LogError::Corrupt { .. })), "byte {at}");
    }
}

#[test]
fn a_lost_file_is_an_error() {
    let dir = scratch();
    let (from, to) = (dir.path().join("log"), dir.path().join("image"));
    let mut log = EngineLog::open(small_files(&from)).unwrap();
    begin(&mut log, &mut Model::new());
    for index in 2..200 {
        let mut write = entries(index..index + 1, index);
        write.entries[0].data = vec![7; 300].into();
        log.append(&write).unwrap();
    }
    drop(log);
    let mut files: Vec<_> = fs::read_dir(&from).unwrap().map(|item| item.unwrap().file_name()).collect();
    files.retain(|name| name.to_string_lossy().ends_with(".raftlog"));
    files.sort();
    assert!(files.len() > 10);
    for lost in &files[..files.len() - 1] {
        image(&from, &to);
        fs::remove_file(to.join(lost)).unwrap();
        assert!(matches!(EngineLog::open(small_files(&to)), Err(LogError::Corrupt { .. })), "{lost:?}");
        image(&from, &to);
        let length = fs::metadata(to.join(lost)).unwrap().len();
        fs::OpenOptions::new().write(true).open(to.join(lost)).unwrap().set_len(length - 3).unwrap();
        assert!(matches!(EngineLog::open(small_files(&to)), Err(LogError::Corrupt { .. })), "{lost:?}");
    }
}

#[test]
fn a_crash_while_files_are_changed_leaves_a_log_that_opens() {
    let dir = scratch();
    let (from, to) = (dir.path().join("log"), dir.path().join("image"));
    let (log, models) = three_records(&from);
    drop(log);
    let header = fs::read(newest(&from)).unwrap()[..69].to_vec();
    for length in 0..=header.len() {
        image(&from, &to);
        fs::write(to.join("0000000000000002.raftlog"), &header[..length]).unwrap();
        same(&mut EngineLog::open(large_files(&to)).unwrap(), &models[3]);
        same(&mut EngineLog::open(large_files(&to)).unwrap(), &models[3]);
    }
    // The very first file, before anything was promised.
    for length in 0..=header.len() {
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).unwrap();
        fs::write(to.join("0000000000000001.raftlog"), &header[..length]).unwrap();
        let mut log = EngineLog::open(large_files(&to)).unwrap();
        assert!(log.load(LogIndex(0)).unwrap().fresh);
    }
}

#[test]
fn foreign_files_and_newer_headers_do_not_panic() {
    let dir = scratch();
    let (from, to) = (dir.path().join("log"), dir.path().join("image"));
    drop(three_records(&from));
    for (name, opens) in [
        ("lost+found", true),
        ("0000000000000001.raftlog.reserved", true),
        ("000000000000000é.raftlog", false),
        ("+000000000000002.raftlog", false),
        ("2.raftlog", false),
        ("00000000000000002.rewrite", false),
    ] {
        image(&from, &to);
        fs::write(to.join(name), "").unwrap();
        assert_eq!(EngineLog::open(large_files(&to)).is_ok(), opens, "{name}");
    }
    // A version and an alignment that would make raft-engine divide the file otherwise.
    for at in [53 + 7, 53 + 8, 53 + 15] {
        image(&from, &to);
        let mut bytes = fs::read(newest(&to)).unwrap();
        bytes[at] = 0x7f;
        fs::write(newest(&to), bytes).unwrap();
        assert!(EngineLog::open(large_files(&to)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Unsynced writes may be lost from some point on, and only they.
    #[test]
    fn after_a_crash_the_log_is_one_that_was_written_and_not_older_than_the_last_sync(
        steps in steps(),
        cut in 0usize..=100,
        zeroed in any::<bool>(),
    ) {
        let dir = scratch();
        let (from, to) = (dir.path().join("log"), dir.path().join("image"));
        let options = large_files(&from);
        let (mut log, mut model) = (EngineLog::open(options.clone()).unwrap(), Model::new());
        begin(&mut log, &mut model);
        let mut history = vec![model.clone()];
        let mut synced_bytes = ends(&fs::read(newest(&from)).unwrap()).pop().unwrap();
        for next in &steps {
            if step(&mut log, &mut model, next) {
                history.clear();
                synced_bytes = ends(&fs::read(newest(&from)).unwrap()).pop().unwrap();
            }
            if matches!(next, Step::Reopen { .. }) {
                drop(log);
                log = EngineLog::open(options.clone()).unwrap();
                history.clear();
                synced_bytes = ends(&fs::read(newest(&from)).unwrap()).pop().unwrap();
            }
            history.push(model.clone());
        }
        image(&from, &to);
        let bytes = fs::read(newest(&to)).unwrap();
        let end = ends(&bytes).pop().unwrap();
        // In the first file only: later ones begin with everything synced.
        if newest(&to).ends_with("0000000000000001.raftlog") {
            let at = synced_bytes + (end - synced_bytes) * cut / 100;
            let tail = vec![0; if zeroed { end - at } else { 0 }];
            fs::write(newest(&to), [&bytes[..at], &tail].concat()).unwrap();
        }
        let recovered = EngineLog::open(large_files(&to)).unwrap().load(LogIndex(0)).unwrap();
        prop_assert!(history.iter().any(|model| model.recovered(0) == recovered), "{:?}", recovered);
    }

    /// Whatever the bytes are: an error, or a log that was written.
    #[test]
    fn random_damage_is_an_error_or_harmless(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        noise in prop::option::of((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..200))),
        rewrite in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let dir = scratch();
        let from = dir.path().join("log");
        let (log, models) = three_records(&from);
        drop(log);
        let mut bytes = fs::read(newest(&from)).unwrap();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some((at, noise)) = noise {
            let at = at.index(bytes.len());
            bytes.truncate(at);
            bytes.extend(noise);
        }
        fs::write(newest(&from), bytes).unwrap();
        let old = from.join("0000000000000001.rewrite");
        let header = fs::read(&old).unwrap();
        fs::write(&old, [&header[..69.min(header.len())], &rewrite].concat()).unwrap();
        if let Ok(mut log) = EngineLog::open(large_files(&from)) {
            let recovered = log.load(LogIndex(0)).unwrap();
            let known = models.iter().any(|model| model.recovered(0) == recovered);
            prop_assert!(known || recovered.fresh, "{:?}", recovered);
        }
    }
}
