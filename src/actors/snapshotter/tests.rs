//! Who shares which piece of work, seen through a backend that works only when it is let.

use super::*;
use crate::actors::errands::Errands;
use crate::peer::courier::{CarriesSnapshots, CarryError};
use crate::raft::log::{LogStore, MemoryLog};
use crate::snapshot::outbound::Parcel;
use crate::snapshot::policy::PolicySettings;
use crate::state::Machine;
use crate::storage::{Settings, StorageKind};
use actix::Addr;
use bytes::Bytes;
use castd_backend_api::{Size, Visit, WriteBatch};
use castd_backend_memory::Memory;
use castd_proto::castdpb::{RaftRequest, raft_request};
use castd_proto::etcdserverpb::{Member, PutRequest};
use prost::Message as _;
use raft::eraftpb::{Entry, MessageType};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};

/// Says when it is asked for space, and gives none back before it is let.
struct Slow {
    rows: Memory,
    asked: Mutex<Sender<Table>>,
    let_go: Mutex<Receiver<()>>,
}

impl Backend for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
        self.rows.write(batch)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.rows.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        self.rows.scan(table, from, to, visit)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.rows.flush()
    }

    fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.rows.durable(table, key)
    }

    fn size(&self) -> Result<Size, BackendError> {
        self.rows.size()
    }

    fn reclaim(&self, table: Table) -> Result<(), BackendError> {
        self.asked.lock().expect("no panic").send(table).expect("the test listens");
        self.let_go.lock().expect("no panic").recv().expect("the test lets it");
        Ok(())
    }

    fn background_errors(&self) -> Result<(), BackendError> {
        self.rows.background_errors()
    }
}

/// Takes the mail that these tests do not look at.
struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<TruncateLog> for Nobody {
    type Result = ();

    fn handle(&mut self, _: TruncateLog, _: &mut Self::Context) {}
}

impl Handler<LogCut> for Nobody {
    type Result = ();

    fn handle(&mut self, _: LogCut, _: &mut Self::Context) {}
}

/// In the place of RaftNode.
struct Raft(Sender<Told>);

#[derive(Debug, PartialEq)]
enum Told {
    Offered(LogPosition, Vec<u64>),
    Withdrawn,
    Sent { to: u64, ok: bool },
}

impl Actor for Raft {
    type Context = Context<Self>;
}

impl Handler<SnapshotOffered> for Raft {
    type Result = ();

    fn handle(&mut self, offered: SnapshotOffered, _: &mut Self::Context) {
        let _ = self.0.send(Told::Offered(offered.position, offered.conf_state.voters));
    }
}

impl Handler<SnapshotWithdrawn> for Raft {
    type Result = ();

    fn handle(&mut self, _: SnapshotWithdrawn, _: &mut Self::Context) {
        let _ = self.0.send(Told::Withdrawn);
    }
}

impl Handler<SnapshotSent> for Raft {
    type Result = ();

    fn handle(&mut self, sent: SnapshotSent, _: &mut Self::Context) {
        let _ = self.0.send(Told::Sent { to: sent.to.0, ok: sent.ok });
    }
}

/// Gives each parcel to the test, and is done with it when the test says how it went.
struct Porter {
    carrying: Mutex<Sender<(Parcel, Sender<bool>)>>,
}

impl CarriesSnapshots for Porter {
    fn carry(&self, parcel: &Parcel) -> Result<(), CarryError> {
        let (outcome, done) = mpsc::channel();
        self.carrying.lock().expect("no panic").send((parcel.clone(), outcome)).expect("the test listens");
        if done.recv().expect("the test decides") { Ok(()) } else { Err(CarryError::NotLeader) }
    }
}

struct World {
    snapshotter: Addr<Snapshotter>,
    told: Receiver<Told>,
    carried: Receiver<(Parcel, Sender<bool>)>,
    position: LogPosition,
    directory: std::path::PathBuf,
    asked: Receiver<Table>,
    let_go: Sender<()>,
    metrics: Metrics,
    _dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        Self::start_with(false)
    }

    fn start_with(keeps_snapshot: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = dir.path().join("snap");
        let ((asked_sender, asked), (let_go, let_go_receiver)) = (mpsc::channel(), mpsc::channel());
        let backend =
            Slow { rows: Memory::new(), asked: Mutex::new(asked_sender), let_go: Mutex::new(let_go_receiver) };
        let mut machine = Machine::open(Arc::new(backend)).expect("opened");
        machine.apply(&log_of_two()).expect("applied");
        let settings = PolicySettings { snapshot_count: 1, catchup_entries: 1, keeps_snapshot, is_durable: false };
        let nobody = Nobody.start();
        let ((raft, told), (carrying, carried)) = (mpsc::channel(), mpsc::channel());
        let raft = Raft(raft).start();
        let data_dir = dir.path().join("data");
        let data_dir =
            DataDir::prepare(Settings::new(data_dir, StorageKind::Memory), &mut |_| ()).expect("a directory");
        let links = Links {
            truncate_log: nobody.clone().recipient(),
            log_cut: nobody.recipient(),
            snapshot_offered: raft.clone().recipient(),
            snapshot_withdrawn: raft.clone().recipient(),
            snapshot_sent: raft.recipient(),
            courier: Arc::new(Porter { carrying: Mutex::new(carrying) }),
            data_dir: Arc::new(data_dir),
            view: Published::new(machine.view()),
            purger: MemoryLog::new().purger(),
            errands: Errands::OnThreads,
        };
        let metrics = Metrics::new(crate::telemetry::metrics::MetricsLevel::Basic);
        let snapshotter = Snapshotter::new(
            SnapshotStore::open(&directory).expect("opened"),
            SnapshotPolicy::new(settings, LogIndex(0), LogIndex(0)),
            ClusterId(7),
            links,
            Clock::start(),
            metrics.clone(),
            Logger::root(slog::Discard, slog::o!()),
        );
        let (snapshotter, position) = (snapshotter.start(), machine.position());
        World { snapshotter, told, carried, position, directory, asked, let_go, metrics, _dir: dir }
    }

    fn defragment(&self) -> oneshot::Receiver<()> {
        let (reply, done) = oneshot::channel();
        self.snapshotter.do_send(Defragment { reply, span: SpanContext::default() });
        done
    }

    /// The table whose space is asked for next. Lets the actor run meanwhile.
    async fn next_asked(&self) -> Table {
        loop {
            match self.asked.try_recv() {
                Ok(table) => return table,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Lets one whole run over all tables happen, which has asked for the first already.
    async fn finish_run(&self) {
        for place in 0..Table::ALL.len() {
            self.let_go.send(()).expect("a run is under way");
            if place + 1 < Table::ALL.len() {
                assert_eq!(self.next_asked().await, Table::ALL[place + 1]);
            }
        }
    }

    fn runs(&self) -> u64 {
        self.metrics.disk.backend_defrag.get_sample_count()
    }
}

#[actix::test]
async fn who_asks_during_a_run_shares_the_next_one_with_all_who_did() {
    let world = World::start();
    let first = world.defragment();
    assert_eq!(world.next_asked().await, Table::ALL[0]);
    let mut later: Vec<_> = (0..20).map(|_| world.defragment()).collect();
    // Half of them go away, and what a compaction has left is given back with the rest.
    later.truncate(10);
    world.snapshotter.send(CompactionFinished).await.expect("it lives");
    world.finish_run().await;
    first.await.expect("answered");
    assert!(later.iter_mut().all(|caller| caller.try_recv().is_err()), "the run may have begun before what they mean");
    assert_eq!(world.next_asked().await, Table::ALL[0]);
    world.finish_run().await;
    for caller in later {
        caller.await.expect("answered");
    }
    assert_eq!(world.runs(), 2);
    world.snapshotter.send(CompactionFinished).await.expect("it lives");
    assert_eq!(world.next_asked().await, Table::Kv, "a third run only for what has been left since");
    world.let_go.send(()).expect("a run is under way");
}

#[actix::test]
async fn a_run_that_nobody_waits_for_is_a_run() {
    let world = World::start();
    drop(world.defragment());
    assert_eq!(world.next_asked().await, Table::ALL[0]);
    world.finish_run().await;
    while world.runs() == 0 {
        tokio::task::yield_now().await;
    }
}

#[actix::test]
async fn snapshots_asked_for_together_are_one_file_and_nobody_hears_of_those_given_up() {
    let world = World::start();
    let ask = || {
        let (reply, exported) = oneshot::channel();
        world.snapshotter.do_send(ExportSnapshot { reply, span: SpanContext::default() });
        exported
    };
    let asked: Vec<_> = (0..5).map(|_| ask()).collect();
    drop(ask());
    for exported in asked {
        let exported = exported.await.expect("answered").expect("written");
        assert_eq!(exported.bytes() % 512, 0);
    }
    // The first began at once, all others waited for it.
    assert!(world.metrics.disk.backend_snapshot.get_sample_count() <= 2);
}

/// Members 1 and 2 join, and a key is put.
fn log_of_two() -> Vec<Entry> {
    let members = [1, 2].map(|id| Member { id, peer_urls: vec![format!("http://h{id}:1")], ..Default::default() });
    let mut log = MemoryLog::new();
    crate::recovery::begin(&mut log, &members).expect("a working disk");
    let mut entries = log.load(LogIndex(0)).expect("a working disk").entries;
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    let request = RaftRequest { op: Some(raft_request::Op::Put(put)), ..Default::default() };
    entries.push(Entry { index: 3, term: 2, data: request.encode_to_vec().into(), ..Entry::default() });
    entries
}

impl World {
    async fn next<T>(&self, from: &Receiver<T>) -> T {
        loop {
            match from.try_recv() {
                Ok(next) => return next,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn want(&self, to: u64, index_min: u64) {
        self.snapshotter.do_send(SnapshotWanted { to: MemberId(to), index_min: LogIndex(index_min) });
    }

    fn send(&self, to: u64, position: LogPosition) {
        let mut message = RaftMessage { to, ..Default::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.mut_snapshot().mut_metadata().index = position.index.0;
        message.mut_snapshot().mut_metadata().term = position.term.0;
        self.snapshotter.do_send(SendSnapshot { message });
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.directory).expect("it is there").count()
    }
}

#[actix::test]
async fn raft_is_offered_a_snapshot_and_told_what_became_of_it() {
    for keeps_snapshot in [false, true] {
        let world = World::start_with(keeps_snapshot);
        // Two ask at once, and share it.
        world.want(2, 3);
        world.want(1, 2);
        assert_eq!(world.next(&world.told).await, Told::Offered(world.position, vec![1, 2]));
        assert_eq!(world.files(), usize::from(keeps_snapshot), "where it is of no use here, it has no name");
        world.send(2, world.position);
        let (parcel, outcome) = world.next(&world.carried).await;
        let whole = parcel.snapshot.read(0, usize::MAX).expect("readable");
        let (header, summary) =
            crate::snapshot::SnapshotReader::open(&whole[..]).and_then(|it| it.verify()).expect("sound");
        assert_eq!((header.index, header.cluster_id, summary.sha256), (3, 7, parcel.snapshot.sha256()));
        outcome.send(false).expect("it waits");
        assert_eq!(world.next(&world.told).await, Told::Sent { to: 2, ok: false });
        world.want(2, 3);
        assert_eq!(world.next(&world.told).await, Told::Offered(world.position, vec![1, 2]));
        world.send(2, world.position);
        world.next(&world.carried).await.1.send(true).expect("it waits");
        assert_eq!(world.next(&world.told).await, Told::Sent { to: 2, ok: true });
        world.send(2, LogPosition::new(9, 9));
        assert_eq!(world.next(&world.told).await, Told::Sent { to: 2, ok: false }, "nobody has that one");
    }
}

#[actix::test]
async fn a_damaged_file_is_not_offered_and_neither_is_a_state_that_does_not_know_the_receiver() {
    let world = World::start_with(true);
    let path = world.directory.join(crate::snapshot::file_name(world.position));
    std::fs::write(&path, b"CASTSNAP\x01\0\0\0 and no more").expect("written");
    world.want(2, 3);
    assert_eq!(world.next(&world.told).await, Told::Offered(world.position, vec![1, 2]));
    let file = crate::snapshot::SnapshotFile::at(&world.directory, world.position).expect("it is there");
    assert!(file.verify().is_ok() && world.files() == 2, "a sound one is in its place");

    world.want(5, 3);
    world.want(2, 4);
    world.send(2, world.position);
    world.next(&world.carried).await.1.send(true).expect("it waits");
    assert_eq!(world.next(&world.told).await, Told::Sent { to: 2, ok: true }, "and nothing was offered before");
}
