//! Who shares which piece of work, seen through a backend that works only when it is let.

use super::*;
use crate::raft::log::{LogStore, MemoryLog};
use crate::snapshot::policy::PolicySettings;
use crate::state::Machine;
use actix::Addr;
use bytes::Bytes;
use castd_backend_api::{Size, Visit, WriteBatch};
use castd_backend_memory::Memory;
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

struct World {
    snapshotter: Addr<Snapshotter>,
    asked: Receiver<Table>,
    let_go: Sender<()>,
    metrics: Metrics,
    _dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ((asked_sender, asked), (let_go, let_go_receiver)) = (mpsc::channel(), mpsc::channel());
        let backend =
            Slow { rows: Memory::new(), asked: Mutex::new(asked_sender), let_go: Mutex::new(let_go_receiver) };
        let machine = Machine::open(Arc::new(backend)).expect("opened");
        let settings =
            PolicySettings { snapshot_count: 1, catchup_entries: 1, keeps_snapshot: false, is_durable: false };
        let nobody = Nobody.start();
        let links = Links {
            truncate_log: nobody.clone().recipient(),
            log_cut: nobody.recipient(),
            view: Published::new(machine.view()),
            purger: MemoryLog::new().purger(),
        };
        let metrics = Metrics::new(crate::telemetry::metrics::MetricsLevel::Basic);
        let snapshotter = Snapshotter::new(
            SnapshotStore::open(dir.path()).expect("opened"),
            SnapshotPolicy::new(settings, LogIndex(0), LogIndex(0)),
            links,
            Clock::start(),
            metrics.clone(),
            Logger::root(slog::Discard, slog::o!()),
        );
        World { snapshotter: snapshotter.start(), asked, let_go, metrics, _dir: dir }
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
