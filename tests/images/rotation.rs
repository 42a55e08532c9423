//! The log alone, with files so small that it changes, purges and reuses them all the time: what a server does after every
//! 64 MiB only, in a process of its own.
//!
//! ```text
//!   Rounds ──the same dice──▶ log of files, in the child, under strace ──▶ promise: "all up to round n is durable"
//!      └────────────────────▶ log in memory, here: what there is after each round ◀── compared ── log of files, from an image
//! ```

use crate::disk::Loss;
use crate::recording::Step;
use crate::tape::{self, CutShort, Tape};
use crate::trace::Micros;
use crate::workload::{Life, SPAWNING, now, traced};
use castd::ids::LogIndex;
use castd::raft::log::{EngineLog, EngineLogOptions, Install, LogError, LogStore, LogWrite, MemoryLog, Recovered};
use castd::raft::terms::LogPosition;
use raft::eraftpb::{ConfState, Entry, HardState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Signal, getpid, kill_process};
use std::fs::File;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::mpsc::{TrySendError, sync_channel};

/// Says to a process of this test where its log is to be, and from which round on to which.
const TASK: &str = "CASTD_IMAGES_LOG";
/// By end of life: the process is always killed, and sometimes the power fails, too.
const ENDS: [(usize, Option<Loss>); 4] =
    [(600, None), (1_200, Some(Loss::Torn)), (1_800, Some(Loss::Scattered)), (2_400, None)];

/// What is done to a log, one after the other: the same in every process.
struct Rounds {
    dice: StdRng,
    log: MemoryLog,
    number: usize,
}

enum Round {
    Append(LogWrite),
    Truncate(LogPosition, ConfState),
    Replace(Install),
    ClearPendingInstall,
    Purge,
}

impl Rounds {
    fn new() -> Self {
        Rounds { dice: StdRng::seed_from_u64(1), log: MemoryLog::new(), number: 0 }
    }

    fn next(&mut self) -> Result<Round, LogError> {
        self.number += 1;
        let now = self.log.load(LogIndex(u64::MAX))?;
        let round = self.choose(&now);
        apply(&round, &mut self.log)?;
        Ok(round)
    }

    fn choose(&mut self, now: &Recovered) -> Round {
        let (last, commit, dice) = (now.terms.last_index(), now.hard_state.commit, &mut self.dice);
        let conf_state = ConfState { voters: vec![1, self.number as u64], ..ConfState::default() };
        if now.fresh {
            let (position, hard_state, pending) = (LogPosition::new(0, 0), HardState::default(), None);
            return Round::Replace(Install { position, conf_state, hard_state, pending });
        }
        // At times nothing is cut for long: then a purge finds entries that it has to move.
        let is_hoarding = self.number / 200 % 3 == 2;
        match dice.random_range(0..100) {
            0..3 => Round::Purge,
            3..8 if !is_hoarding && commit > now.terms.truncated().index.0 => {
                let index = dice.random_range(now.terms.truncated().index.0 + 1..=commit);
                Round::Truncate(LogPosition::new(index, now.terms.term(index).unwrap_or_default()), conf_state)
            }
            8 => {
                let position = LogPosition::new(last + dice.random_range(1..20), now.hard_state.term);
                let hard_state = HardState { term: now.hard_state.term + 1, vote: 2, ..HardState::default() };
                let pending = dice.random_bool(0.5).then(|| format!("snapshot-{}", self.number));
                Round::Replace(Install { position, conf_state, hard_state, pending })
            }
            9 => Round::ClearPendingInstall,
            kind => {
                let is_new_term = dice.random_ratio(1, 15);
                let term = now.hard_state.term.max(1) + u64::from(is_new_term);
                let vote = if term > now.hard_state.term { dice.random_range(0..4) } else { now.hard_state.vote };
                // A new leader may know better what follows what is committed.
                let before = if is_new_term { dice.random_range(commit..=last) } else { last };
                let count = if kind < 25 { 0 } else { dice.random_range(1..5) };
                let entries: Vec<Entry> = (before + 1..=before + count)
                    .map(|index| {
                        let length = if dice.random_ratio(1, 40) { 9_000 } else { dice.random_range(0..700) };
                        let data: Vec<u8> = (0..length).map(|_| dice.random()).collect();
                        Entry { index, term, data: data.into(), ..Entry::default() }
                    })
                    .collect();
                let end = entries.last().map_or(last, |entry| entry.index);
                let commit = dice.random_range(commit..=end);
                let hard_state = Some(HardState { term, vote, commit, ..HardState::default() });
                let must_sync = !entries.is_empty() && dice.random_ratio(3, 4) || is_new_term;
                Round::Append(LogWrite { entries, hard_state, must_sync })
            }
        }
    }
}

/// Answers whether all up to this round is durable now.
fn apply(round: &Round, log: &mut dyn LogStore) -> Result<bool, LogError> {
    let written = match round {
        Round::Append(write) => log.append(write),
        Round::Truncate(upto, conf_state) => log.truncate(*upto, conf_state),
        Round::Replace(install) => log.replace(install),
        Round::ClearPendingInstall => log.clear_pending_install(),
        Round::Purge => return Ok(false),
    };
    written.map(|written| written.synced)
}

fn open(log: &Path) -> Result<EngineLog, LogError> {
    EngineLog::open(EngineLogOptions {
        file_bytes: 32 << 10,
        purge_above_bytes: 128 << 10,
        ..EngineLogOptions::new(log)
    })
}

/// All that a log says, as one number.
fn digest(found: &Recovered) -> u32 {
    let Recovered { fresh, hard_state, conf_state, terms, entries, pending_install } = found;
    let rest = format!("{fresh} {hard_state:?} {conf_state:?} {terms:?} {pending_install:?}");
    entries.iter().fold(crc32c::crc32c(rest.as_bytes()), |crc, entry| {
        let crc = crc32c::crc32c_append(crc, &[entry.index, entry.term].map(u64::to_le_bytes).concat());
        crc32c::crc32c_append(crc, &entry.data)
    })
}

fn everything(log: &mut dyn LogStore) -> Result<u32, LogError> {
    log.load(LogIndex(0)).map(|found| digest(&found))
}

/// Under strace, another process comes here, and is killed at the end.
#[test]
fn a_log_in_a_process_of_its_own() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task: Vec<&str> = task.split(';').collect();
    let [base, first, last] = task[..] else { panic!("{task:?}") };
    let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
    let mut promises = File::create(Path::new(base).join(format!("promises-{first}"))).expect("a file");
    let mut rounds = Rounds::new();
    (0..first).for_each(|_| drop(rounds.next().expect("a round")));
    let mut log = open(&Path::new(base).join("root/log")).expect("a log");
    let (found, expected) = (everything(&mut log).expect("it loads"), everything(&mut rounds.log).expect("it loads"));
    assert_eq!(found, expected, "after {first} rounds");
    // As in a member, purges run beside the writes.
    let purger = log.purger();
    let (sender, receiver) = sync_channel::<()>(1);
    std::thread::spawn(move || receiver.iter().all(|()| purger.run().is_ok()));
    for round in first + 1..=last {
        let next = rounds.next().expect("a round");
        if matches!(next, Round::Purge) {
            // One that is under way is enough.
            assert!(!matches!(sender.try_send(()), Err(TrySendError::Disconnected(()))), "a purge failed");
        }
        let mut is_durable = apply(&next, &mut log).expect("it writes");
        if round == last {
            is_durable |= log.sync().expect("it syncs").synced;
        }
        if is_durable {
            writeln!(promises, "{} {round}", now()).expect("a promise is kept");
        }
    }
    kill_process(getpid(), Signal::KILL).expect("it may kill itself");
}

pub struct Rotation {
    pub steps: Vec<Step>,
    /// When, and up to which round.
    pub promises: Vec<(Micros, usize)>,
    /// By number of rounds.
    states: Vec<u32>,
}

impl Rotation {
    pub fn record() -> Self {
        tape::whole(Self::record_once)
    }

    fn record_once() -> Result<Self, CutShort> {
        let base = tempfile::Builder::new().prefix("castd-images-").tempdir().expect("a temporary directory");
        let root = base.path().join("root");
        std::fs::create_dir(&root).expect("a directory");
        let (mut tape, mut promises, mut first) = (Tape::new(&root), Vec::new(), 0);
        for (last, power) in ENDS {
            let trace = base.path().join(format!("trace-{first}"));
            let mut command = traced(&trace);
            command.arg(std::env::current_exe().expect("this program"));
            command.args(["--exact", "rotation::a_log_in_a_process_of_its_own", "--nocapture"]);
            command.env(TASK, format!("{};{first};{last}", base.path().display()));
            let life = Life::begin(command, trace).ended();
            let text = std::fs::read_to_string(base.path().join(format!("promises-{first}"))).expect("its promises");
            promises.extend(text.lines().filter_map(|line| {
                let (at, round) = line.split_once(' ')?;
                Some((at.parse::<Micros>().ok()?, round.parse::<usize>().ok()?))
            }));
            assert_eq!(promises.last().map(|(_, round)| *round), Some(last), "the process did not come to its end");
            tape.add(&life, power)?;
            first = last;
        }
        let mut rounds = Rounds::new();
        let mut states = vec![everything(&mut rounds.log).expect("it loads")];
        for _ in 0..first {
            rounds.next().expect("a round");
            states.push(everything(&mut rounds.log).expect("it loads"));
        }
        Ok(Rotation { steps: tape.into_steps(), promises, states })
    }

    /// Answers how many rounds are in the image.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, root: &Path, until: Micros) -> Result<usize, String> {
        let _nobody_spawns = SPAWNING.read().unwrap_or_else(PoisonError::into_inner);
        let promised = self.promises.partition_point(|(at, _)| *at <= until);
        let promised = self.promises[..promised].last().map_or(0, |(_, round)| *round);
        let looked = catch_unwind(AssertUnwindSafe(|| self.open_twice(&root.join("log"), promised)));
        looked.unwrap_or_else(|_| Err("a panic".to_owned()))
    }

    fn open_twice(&self, path: &Path, promised: usize) -> Result<usize, String> {
        let text = |error: LogError| error.to_string();
        let mut log = open(path).map_err(text)?;
        let found = log.load(LogIndex(0)).map_err(text)?;
        let state = digest(&found);
        let Some(round) = (promised..self.states.len()).find(|round| self.states[*round] == state) else {
            let earlier = self.states.iter().rposition(|it| *it == state);
            return Err(format!("round {promised} was promised, the image is that of {earlier:?}"));
        };
        let expected = if found.fresh {
            state
        } else {
            // What comes next hides behind nothing that the start has left.
            let (index, term) = (found.terms.last_index() + 1, found.hard_state.term.max(1));
            let entries = vec![Entry { index, term, ..Entry::default() }];
            log.append(&LogWrite { entries, hard_state: None, must_sync: true }).map_err(text)?;
            log.purger().run().map_err(text)?;
            everything(&mut log).map_err(text)?
        };
        drop(log);
        let again = open(path).and_then(|mut log| everything(&mut log));
        match again.map_err(|error| format!("at the second start: {error}"))? == expected {
            true => Ok(round),
            false => Err(format!("the second start finds something else than round {round} and what came then")),
        }
    }
}
