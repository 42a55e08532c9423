//! A received snapshot, and a crash after each step of its install: what the next start makes of what it finds.

use super::*;
use crate::ids::ClusterId;
use crate::raft::log::{Install, MemoryLog};
use crate::snapshot::SnapshotFile;
use crate::state::{self, Machine, View};
use crate::storage::StorageKind;
use castd_backend_memory::Memory;
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::{CompactionRequest, LeaseGrantRequest, Member, PutRequest};
use prost::Message as _;
use raft::eraftpb::{Entry, HardState};

const OLD: u64 = 10;
const NEW: u64 = 200;

/// What the install had done when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    FileThere,
    LogReplaced,
    StoreHalfFilled,
    StoreFilled,
    StoreExchanged,
    PendingCleared,
}

const STEPS: [Step; 6] = [
    Step::FileThere,
    Step::LogReplaced,
    Step::StoreHalfFilled,
    Step::StoreFilled,
    Step::StoreExchanged,
    Step::PendingCleared,
];

fn entries(log: &mut MemoryLog) -> Vec<Entry> {
    let members = [1, 2, 3].map(|id| Member { id, peer_urls: vec![format!("http://h{id}:1")], ..Default::default() });
    recovery::begin(log, &members).expect("a working disk");
    let first = log.load(LogIndex(0)).expect("a working disk").entries;
    let put = |index: u64| {
        let op = match index {
            20 => Op::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 }),
            150 => Op::Compact(CompactionRequest { revision: 100, physical: false }),
            _ => Op::Put(PutRequest {
                key: format!("key{}", index % 50).into(),
                value: vec![index as u8; 5_000].into(),
                ..Default::default()
            }),
        };
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        Entry { index, term: 2, data, ..Entry::default() }
    };
    first.into_iter().chain((4..=NEW).map(put)).collect()
}

/// A follower that has little, and the snapshot of a leader that has more.
struct World {
    _dir: tempfile::TempDir,
    settings: storage::Settings,
    log: MemoryLog,
    old: View,
    new: View,
}

impl World {
    fn new(kind: StorageKind) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = storage::Settings::new(dir.path().join("data"), kind);
        let mut log = MemoryLog::new();
        let entries = entries(&mut log);
        let hard_state = HardState { term: 2, vote: 1, commit: OLD, ..HardState::default() };
        let write = crate::raft::log::LogWrite {
            entries: entries[3..OLD as usize].to_vec(),
            hard_state: Some(hard_state),
            must_sync: true,
        };
        log.append(&write).expect("a working disk");

        let mut data_dir = DataDir::prepare(settings.clone(), &mut |_| ()).expect("a directory");
        // The log of these tests is elsewhere, but there has to be one.
        std::fs::write(data_dir.log_path().join("log"), "").expect("written");
        data_dir.commit_format(Format::new(kind, ClusterId(7), MemberId(3))).expect("written");
        let replacement = data_dir.begin_replacement().expect("begun");
        let backend = data_dir.commit_replacement(replacement).expect("opened");
        let mut machine = Machine::open(Arc::clone(&backend)).expect("opened");
        machine.apply(&entries[..OLD as usize]).expect("applied");
        backend.flush().expect("flushed");

        // Views that hold no files open.
        let after = |entries: &[Entry]| {
            let mut machine = Machine::open(Arc::new(Memory::new())).expect("opened");
            machine.apply(entries).expect("applied");
            machine.view()
        };
        let (old, new) = (after(&entries[..OLD as usize]), after(&entries));
        let snapshots = SnapshotStore::open(data_dir.snapshots_path()).expect("opened");
        if kind.needs_snapshot() {
            // The newer file, of a log that is not ours yet, must not be taken for what the state is rebuilt from.
            let position = portable::take(&snapshots, &old, ClusterId(7)).expect("taken");
            log.truncate(position, &old.conf_state).expect("a working disk");
        }
        let outgoing =
            portable::write_outgoing(data_dir.snapshots_path().as_path(), &new, ClusterId(7)).expect("written");
        let mut incoming = snapshots.receive(outgoing.position(), outgoing.bytes()).expect("begun");
        incoming.write(&outgoing.read(0, usize::MAX).expect("readable")).expect("written");
        incoming.verify().and_then(crate::snapshot::Arrived::publish).expect("sound");
        drop(machine);
        data_dir.close_backend(backend).expect("flushed");
        World { _dir: dir, settings, log, old, new }
    }

    fn data_dir(&self) -> DataDir {
        DataDir::prepare(self.settings.clone(), &mut |_| ()).expect("a directory")
    }

    /// As the running member would, up to `last` and no further.
    fn install(&mut self, last: Step) {
        let data_dir = self.data_dir();
        drop(data_dir.open_backend().expect("opened"));
        let position = LogPosition { index: self.new.applied, term: self.new.term };
        let file = SnapshotFile::at(&data_dir.snapshots_path(), position).expect("it is there");
        for step in STEPS.into_iter().skip(1).take_while(|step| *step as u8 <= last as u8) {
            match step {
                Step::FileThere => {}
                Step::LogReplaced => {
                    let hard_state = HardState { term: 2, vote: 1, commit: NEW, ..HardState::default() };
                    let (conf_state, pending) = (self.new.conf_state.clone(), Some(file.name()));
                    let install = Install { position, conf_state, hard_state, pending };
                    self.log.replace(&install).expect("a working disk");
                }
                Step::StoreHalfFilled if last == step => {
                    let replacement = data_dir.begin_replacement().expect("begun");
                    let mut half = castd_backend_api::WriteBatch::new();
                    half.put(castd_backend_api::Table::Kv, &b"half"[..], &b"a row"[..]);
                    replacement.backend.write(&half).expect("written");
                    replacement.backend.flush().expect("flushed");
                }
                Step::StoreFilled if last == step => {
                    let replacement = data_dir.begin_replacement().expect("begun");
                    portable::fill(&file, replacement.backend.as_ref()).expect("filled");
                }
                Step::StoreHalfFilled | Step::StoreFilled => {}
                Step::StoreExchanged => drop(installation::replace_state(&data_dir, &file).expect("replaced")),
                Step::PendingCleared => drop(self.log.clear_pending_install().expect("a working disk")),
            }
        }
    }

    /// The power goes, and comes back.
    fn restart(&mut self) -> Result<Recovered, BootError> {
        self.log.crash(0);
        let data_dir = self.data_dir();
        let snapshots = SnapshotStore::open(data_dir.snapshots_path())?;
        let recovered = open_state(&data_dir, &mut self.log, &snapshots, &quiet())?;
        Ok(recovered)
    }
}

fn quiet() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

fn kinds() -> impl Iterator<Item = StorageKind> {
    StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in())
}

#[test]
fn a_crash_after_each_step_of_an_install_leaves_the_old_state_or_the_new_one() {
    for kind in kinds() {
        for step in STEPS {
            let mut world = World::new(kind);
            world.install(step);
            // A start may be cut short, too: the second one finds what the first has left.
            for start in 0..2 {
                let Recovered { machine, window } =
                    world.restart().unwrap_or_else(|error| panic!("{kind} {step:?}: {error}"));
                let expected = if step == Step::FileThere { &world.old } else { &world.new };
                let place = format!("{kind}, {step:?}, start {start}");
                assert_eq!(machine.applied(), expected.applied, "{place}");
                assert_eq!(
                    state::hash(&machine.view()).expect("hashed"),
                    state::hash(expected).expect("hashed"),
                    "{place}"
                );
                assert_eq!(window.terms().last_index(), expected.applied.0, "{place}");
                assert_eq!(window.conf_state().voters, [1, 2, 3], "{place}");
                assert_eq!(window.hard_state().vote, 1, "{place}");
                assert_eq!(world.log.load(LogIndex(0)).expect("a working disk").pending_install, None, "{place}");
            }
        }
    }
}

#[test]
fn without_the_file_an_install_that_was_begun_cannot_be_finished_and_the_start_says_so() {
    for kind in kinds() {
        for damage in [|_: &mut Vec<u8>| (), |bytes: &mut Vec<u8>| bytes[200] ^= 1] {
            let mut world = World::new(kind);
            world.install(Step::LogReplaced);
            let position = LogPosition { index: world.new.applied, term: world.new.term };
            let path = world.settings.data_dir.join("member/snap").join(crate::snapshot::file_name(position));
            let mut bytes = std::fs::read(&path).expect("readable");
            let whole = bytes.clone();
            damage(&mut bytes);
            if bytes == whole {
                std::fs::remove_file(&path).expect("removed");
            } else {
                std::fs::write(&path, bytes).expect("written");
            }
            let error = world.restart().err().expect("there is nothing to start from");
            assert!(matches!(error, BootError::NothingLeft { truncated: LogIndex(NEW), .. }), "{kind}: {error}");
            assert!(error.to_string().contains("remove this member and add it again"), "{error}");
            // With the file back, it starts.
            std::fs::write(&path, whole).expect("written");
            assert_eq!(world.restart().expect("it is there").machine.applied(), LogIndex(NEW));
        }
    }
}
