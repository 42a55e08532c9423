//! What every log store owes, told as one model and run over each of them.

use super::{EngineLog, EngineLogOptions, Install, LogError, LogStore, LogWrite, MemoryLog, Recovered};
use crate::ids::LogIndex;
use crate::raft::terms::{LogPosition, TermIndex};
use ::raft::eraftpb::{ConfState, Entry, HardState};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A log as one would write it down on paper.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub fresh: bool,
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub truncated: (u64, u64),
    pub entries: BTreeMap<u64, Entry>,
    pub pending: Option<String>,
}

impl Model {
    pub fn new() -> Self {
        Self {
            fresh: true,
            hard_state: HardState::default(),
            conf_state: ConfState::default(),
            truncated: (0, 0),
            entries: BTreeMap::new(),
            pending: None,
        }
    }

    pub fn last(&self) -> (u64, u64) {
        self.entries.values().last().map_or(self.truncated, |entry| (entry.index, entry.term))
    }

    pub fn recovered(&self, above: u64) -> Recovered {
        let mut terms = TermIndex::new(LogPosition::new(self.truncated.0, self.truncated.1));
        for entry in self.entries.values() {
            terms.push(entry.index, entry.term).unwrap();
        }
        Recovered {
            fresh: self.fresh,
            hard_state: self.hard_state.clone(),
            conf_state: self.conf_state.clone(),
            terms,
            entries: self.entries.range(above + 1..).map(|(_, entry)| entry.clone()).collect(),
            pending_install: self.pending.clone(),
        }
    }

    fn apply(&mut self, write: &LogWrite) {
        for entry in &write.entries {
            self.entries.split_off(&entry.index);
            self.entries.insert(entry.index, entry.clone());
        }
        if let Some(hard_state) = &write.hard_state {
            let commit = hard_state.commit.max(self.hard_state.commit);
            self.hard_state = HardState { commit, ..hard_state.clone() };
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Part {
    back: u64,
    count: u64,
    newer: u64,
    bytes: usize,
    commit: Option<u64>,
    sync: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<Part>),
    Truncate { share: u64 },
    Replace { ahead: u64, pending: bool },
    ClearPending,
    Sync,
    Reopen { lose: u64 },
    Purge,
}

fn part() -> impl Strategy<Value = Part> {
    (0u64..6, 0u64..6, 0u64..2, 0usize..700, prop::option::of(0u64..100), any::<bool>())
        .prop_map(|(back, count, newer, bytes, commit, sync)| Part { back, count, newer, bytes, commit, sync })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => prop::collection::vec(part(), 1..4).prop_map(Step::Append),
        3 => (0u64..=100).prop_map(|share| Step::Truncate { share }),
        1 => (0u64..9, any::<bool>()).prop_map(|(ahead, pending)| Step::Replace { ahead, pending }),
        1 => Just(Step::ClearPending),
        1 => Just(Step::Sync),
        3 => (0u64..=100).prop_map(|lose| Step::Reopen { lose }),
        2 => Just(Step::Purge),
    ];
    prop::collection::vec(step, 1..40)
}

fn conf_state(index: u64) -> ConfState {
    ConfState { voters: vec![1, 2, 3], learners: vec![index], auto_leave: true, ..ConfState::default() }
}

pub(super) fn begin(log: &mut dyn LogStore, model: &mut Model) {
    let hard_state = HardState { term: 1, vote: 1, ..HardState::default() };
    install(
        log,
        model,
        Install { position: LogPosition::new(1, 1), conf_state: conf_state(1), hard_state, pending: None },
    );
}

fn install(log: &mut dyn LogStore, model: &mut Model, install: Install) {
    assert!(log.replace(&install).unwrap().synced);
    let LogPosition { index, term } = install.position;
    *model = Model {
        fresh: false,
        hard_state: HardState { commit: index.0, ..install.hard_state },
        conf_state: install.conf_state,
        truncated: (index.0, term.0),
        entries: BTreeMap::new(),
        pending: install.pending,
    };
}

/// Turns the parts into writes that raft could make, and takes them down in the model.
fn writes(model: &mut Model, parts: &[Part]) -> Vec<LogWrite> {
    let mut writes = vec![];
    for part in parts {
        let (last, _) = model.last();
        let from = (last + 1).saturating_sub(part.back).max(model.hard_state.commit + 1).max(model.truncated.0 + 1);
        let before = model.entries.get(&(from - 1)).map_or(model.truncated.1, |entry| entry.term);
        let term = before + part.newer;
        let data = |index: u64| vec![index as u8; part.bytes];
        let entry = |index| Entry { index, term, data: data(index).into(), ..Entry::default() };
        let mut write = LogWrite { entries: (from..from + part.count).map(entry).collect(), ..LogWrite::default() };
        let end = write.entries.last().map_or(last, |entry| entry.index);
        let term = term.max(model.hard_state.term);
        write.hard_state = part.commit.map(|share| {
            let commit = model.hard_state.commit + (end - model.hard_state.commit) * share / 100;
            let vote = if term > model.hard_state.term { term % 3 + 1 } else { model.hard_state.vote };
            HardState { term, vote, commit, ..HardState::default() }
        });
        write.must_sync = part.sync;
        model.apply(&write);
        writes.push(write);
    }
    writes
}

/// Takes one step on both sides. True if everything written so far is durable.
pub(super) fn step(log: &mut dyn LogStore, model: &mut Model, step: &Step) -> bool {
    match step {
        Step::Append(parts) => {
            let writes = writes(model, parts);
            let written = log.append_many(&writes).unwrap();
            assert_eq!(written.entries, writes.iter().map(|write| write.entries.len()).sum::<usize>());
            assert_eq!(written.synced, writes.iter().any(|write| write.must_sync));
            written.synced
        }
        Step::Truncate { share } => {
            let upto = model.truncated.0 + (model.last().0 - model.truncated.0) * share / 100;
            if upto == model.truncated.0 {
                log.truncate(LogPosition::new(upto, 0), &conf_state(upto)).unwrap();
                return false;
            }
            let term = model.entries[&upto].term;
            let written = log.truncate(LogPosition::new(upto, term), &conf_state(upto)).unwrap();
            model.truncated = (upto, term);
            model.entries = model.entries.split_off(&(upto + 1));
            model.conf_state = conf_state(upto);
            model.hard_state.commit = model.hard_state.commit.max(upto);
            written.synced
        }
        Step::Replace { ahead, pending } => {
            let (index, term) = (model.last().0 + ahead, model.last().1);
            let hard_state = HardState { term: model.hard_state.term.max(term) + 1, vote: 2, ..HardState::default() };
            let pending = pending.then(|| format!("snapshot {index}"));
            let position = LogPosition::new(index, term);
            install(log, model, Install { position, conf_state: conf_state(index), hard_state, pending });
            true
        }
        Step::ClearPending => {
            model.pending = None;
            log.clear_pending_install().unwrap().synced
        }
        Step::Sync => log.sync().unwrap().synced,
        Step::Purge => {
            log.purger().run().unwrap();
            false
        }
        Step::Reopen { .. } => false,
    }
}

pub(super) fn same(log: &mut dyn LogStore, model: &Model) {
    assert_eq!(log.load(LogIndex(0)).unwrap(), model.recovered(0));
    let middle = (model.truncated.0 + model.last().0) / 2;
    assert_eq!(log.load(LogIndex(middle)).unwrap(), model.recovered(middle));
    assert_eq!(log.load(LogIndex(u64::MAX)).unwrap().entries, []);
    let (low, high) = (model.truncated.0 + 1, model.last().0 + 1);
    if low < high {
        let all: Vec<_> = model.entries.values().cloned().collect();
        assert_eq!(log.entries(LogIndex(low), LogIndex(high), u64::MAX).unwrap(), all);
        assert_eq!(log.entries(LogIndex(low), LogIndex(high), 0).unwrap(), all[..1]);
        let some = log.entries(LogIndex(low), LogIndex(high), 1500).unwrap();
        assert!(!some.is_empty() && all.starts_with(&some));
        assert!(some.len() == 1 || some.iter().map(|entry| entry.data.len()).sum::<usize>() <= 1500);
    }
    for (low, high) in [(low - 1, high), (low, high + 1), (high, high)] {
        let read = log.entries(LogIndex(low), LogIndex(high), u64::MAX);
        assert!(matches!(read, Err(LogError::Refused { .. })), "{low}..{high}");
    }
}

/// These tests count calls of fsync and cut files; what fsync does is the kernel's business, and slow on a disk.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(super) fn small_files(dir: &std::path::Path) -> EngineLogOptions {
    EngineLogOptions { file_bytes: 4096, purge_above_bytes: 16384, ..EngineLogOptions::new(dir) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_log_of_files_recovers_what_was_written(steps in steps()) {
        let dir = scratch();
        let options = small_files(&dir.path().join("a/log"));
        let (mut log, mut model) = (EngineLog::open(options.clone()).unwrap(), Model::new());
        assert_eq!(log.load(LogIndex(0)).unwrap(), model.recovered(0));
        begin(&mut log, &mut model);
        for next in &steps {
            step(&mut log, &mut model, next);
            if matches!(next, Step::Reopen { .. }) {
                drop(log);
                log = EngineLog::open(options.clone()).unwrap();
            }
            same(&mut log, &model);
        }
        drop(log);
        same(&mut EngineLog::open(options).unwrap(), &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_log_in_memory_keeps_what_was_synced_and_a_prefix_of_the_rest(steps in steps()) {
        let (mut log, mut model) = (MemoryLog::new(), Model::new());
        assert_eq!(log.load(LogIndex(0)).unwrap(), model.recovered(0));
        begin(&mut log, &mut model);
        // What each unsynced write led to, from the last synced state on.
        let mut history = vec![model.clone()];
        for next in &steps {
            let unsynced = log.unsynced();
            let synced = step(&mut log, &mut model, next);
            if synced {
                history = vec![model.clone()];
            } else if log.unsynced() > unsynced {
                history.push(model.clone());
            }
            assert_eq!(log.unsynced() + 1, history.len());
            if let Step::Reopen { lose } = next {
                let keep = history.len() - 1 - (history.len() - 1) * *lose as usize / 100;
                log.crash(keep);
                model = history[keep].clone();
                history = vec![model.clone()];
            }
            same(&mut log, &model);
        }
    }
}

#[test]
fn a_broken_disk_fails_every_call_until_the_machine_comes_back() {
    let (mut log, mut model) = (MemoryLog::new(), Model::new());
    begin(&mut log, &mut model);
    log.break_disk();
    assert!(matches!(log.append(&LogWrite::default()), Err(LogError::SimulatedFailure)));
    assert!(matches!(log.sync(), Err(LogError::SimulatedFailure)));
    assert!(matches!(log.load(LogIndex(0)), Err(LogError::SimulatedFailure)));
    log.crash(0);
    same(&mut log, &model);
}

#[test]
fn without_fsync_nothing_is_called_synced_and_all_is_there_after_the_process_ends() {
    let dir = scratch();
    let options = EngineLogOptions { fsync: false, ..small_files(dir.path()) };
    let mut log = EngineLog::open(options.clone()).unwrap();
    let install = Install {
        position: LogPosition::new(1, 1),
        conf_state: conf_state(1),
        hard_state: HardState { term: 1, ..HardState::default() },
        pending: None,
    };
    assert!(!log.replace(&install).unwrap().synced);
    let entries = vec![Entry { index: 2, term: 1, ..Entry::default() }];
    let written = log.append(&LogWrite { entries, hard_state: None, must_sync: true }).unwrap();
    assert!(!written.synced && written.sync.is_zero() && !log.sync().unwrap().synced);
    drop(log);
    assert_eq!(EngineLog::open(options).unwrap().load(LogIndex(0)).unwrap().entries.len(), 1);
}

#[test]
fn a_log_in_use_is_not_opened_twice() {
    let dir = scratch();
    let log = EngineLog::open(small_files(dir.path())).unwrap();
    assert!(matches!(EngineLog::open(small_files(dir.path())), Err(LogError::Locked { .. })));
    drop(log);
    EngineLog::open(small_files(dir.path())).unwrap();
}

#[test]
fn superfluous_files_go_away_and_live_ones_are_reported_as_held() {
    let dir = scratch();
    let (mut log, mut model) = (EngineLog::open(small_files(dir.path())).unwrap(), Model::new());
    begin(&mut log, &mut model);
    let part = Part { back: 0, count: 5, newer: 0, bytes: 500, commit: Some(100), sync: false };
    for _ in 0..100 {
        step(&mut log, &mut model, &Step::Append(vec![part.clone()]));
    }
    let before = log.size();
    assert!(before.live_bytes >= 250_000 && before.disk_bytes >= 200_000, "{before:?}");
    assert!(log.purger().run().unwrap(), "500 entries hold the old files");
    step(&mut log, &mut model, &Step::Truncate { share: 99 });
    assert!(!log.purger().run().unwrap());
    let after = log.size();
    assert!(after.live_bytes < 10_000 && after.disk_bytes < 50_000, "{after:?}");
    drop(log);
    same(&mut EngineLog::open(small_files(dir.path())).unwrap(), &model);
}

#[test]
fn purging_on_another_thread_while_the_log_is_written_loses_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = scratch();
    let (mut log, mut model) = (EngineLog::open(small_files(dir.path())).unwrap(), Model::new());
    begin(&mut log, &mut model);
    let (purger, done) = (log.purger(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                purger.run().unwrap();
            }
        });
        for round in 0..600u64 {
            let part = Part {
                back: round % 3,
                count: 4,
                newer: round % 2,
                bytes: 300,
                commit: Some(50),
                sync: round % 7 == 0,
            };
            step(&mut log, &mut model, &Step::Append(vec![part]));
            if round % 20 == 19 {
                step(&mut log, &mut model, &Step::Truncate { share: 60 });
            }
            if round % 150 == 149 {
                step(&mut log, &mut model, &Step::Replace { ahead: round, pending: true });
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    same(&mut log, &model);
    drop((purger, log));
    same(&mut EngineLog::open(small_files(dir.path())).unwrap(), &model);
}
