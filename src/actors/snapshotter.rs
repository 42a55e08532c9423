//! Keeps what a member needs to come back, and decides when the log may be cut.
//!
//! ```text
//!   Applier ──BackendDurable──▶ Snapshotter ──TruncateLog──▶ LogWriter
//!   LogWriter ──LogGrown──▶        │    └──────LogCut──────▶ RaftNode
//!                                  └─▶ snap/ (a thread that writes one snapshot at a time)
//! ```
//!
//! What to do when stands in [`SnapshotPolicy`]. Writing a snapshot and flushing a backend happen on a thread beside this
//! one, from a published view, so that neither the Applier nor clients wait.

use crate::actors::Tick;
use crate::actors::log_writer::TruncateLog;
use crate::ids::LogIndex;
use crate::process;
use crate::raft::log::Purger;
use crate::raft::terms::LogPosition;
use crate::snapshot::SnapshotStore;
use crate::snapshot::policy::{Action, SnapshotPolicy};
use crate::state::{View, portable};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use castd_backend_api::{Backend, Table};
use slog::Logger;
use std::sync::Arc;
use std::time::Duration;

const PURGE_EVERY: Duration = Duration::from_secs(30);

/// Event, from the Applier, every second: how far the backend is, in memory and on disk.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BackendDurable {
    /// A crash now would leave the backend at this index.
    pub durable: LogIndex,
    /// State as of the last applied entry.
    pub view: Arc<View>,
}

/// Event, from the Applier: rows were deleted whose space can be given back.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CompactionFinished {
    pub view: Arc<View>,
}

/// Event, from the LogWriter: bytes of the entries that the log still holds.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogGrown {
    pub live_bytes: u64,
}

/// Event, from the Snapshotter: the log no longer holds entries up to `position`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogCut {
    pub position: LogPosition,
}

/// Told to itself by its worker thread.
#[derive(Message)]
#[rtype(result = "()")]
enum Done {
    Flushed,
    SnapshotTaken(SnapshotStore, LogPosition),
    Purged,
    Reclaimed,
}

pub struct Links {
    pub truncate_log: Recipient<TruncateLog>,
    pub log_cut: Recipient<LogCut>,
}

pub struct Snapshotter {
    /// `None` while the worker has it.
    store: Option<SnapshotStore>,
    policy: SnapshotPolicy,
    links: Links,
    purger: Purger,
    is_flushing: bool,
    is_purging: bool,
    is_reclaiming: bool,
    /// More was deleted meanwhile.
    reclaim_next: Option<Arc<dyn Backend>>,
    purged_at: Duration,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl Snapshotter {
    pub fn new(
        store: SnapshotStore,
        policy: SnapshotPolicy,
        links: Links,
        purger: Purger,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        Snapshotter {
            store: Some(store),
            policy,
            links,
            purger,
            is_flushing: false,
            is_purging: false,
            is_reclaiming: false,
            reclaim_next: None,
            purged_at: Duration::ZERO,
            clock,
            metrics,
            log,
        }
    }

    /// Runs `work` on a thread of its own; a failure of the disk there ends the process.
    fn on_worker(
        &mut self,
        name: &str,
        context: &mut Context<Self>,
        work: impl FnOnce() -> Result<Done, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ) {
        let (myself, log) = (context.address(), self.log.clone());
        let spawned = std::thread::Builder::new().name(name.into()).spawn(move || match work() {
            Ok(done) => myself.do_send(done),
            Err(error) => process::fatal(&log, &format!("{error}")),
        });
        if let Err(error) = spawned {
            process::fatal(&self.log, &format!("cannot start a thread: {error}"));
        }
    }

    fn reclaim(&mut self, backend: Arc<dyn Backend>, context: &mut Context<Self>) {
        if self.is_reclaiming {
            self.reclaim_next = Some(backend);
            return;
        }
        self.is_reclaiming = true;
        self.on_worker("reclaim", context, move || {
            backend.reclaim(Table::Kv)?;
            Ok(Done::Reclaimed)
        });
    }

    fn act(&mut self, view: Arc<View>, durable: LogIndex, context: &mut Context<Self>) {
        let now = self.clock.now();
        let position = LogPosition { index: view.applied, term: view.term };
        let state_bytes = view.size().in_use;
        match self.policy.step(now, position, &view.conf_state, durable, state_bytes) {
            Action::Wait => {}
            Action::Cut { position, conf_state } => {
                slog::debug!(self.log, "cutting the raft log"; "up-to-index" => position.index.0);
                self.links.log_cut.do_send(LogCut { position });
                self.links.truncate_log.do_send(TruncateLog { position, conf_state });
            }
            Action::Flush if !self.is_flushing => {
                self.is_flushing = true;
                // Not the view: compaction would wait for it.
                let backend = Arc::clone(view.backend());
                self.on_worker("flush", context, move || {
                    backend.flush()?;
                    Ok(Done::Flushed)
                });
            }
            Action::TakeSnapshot => {
                let Some(mut store) = self.store.take() else { return };
                let (clock, metrics) = (self.clock, self.metrics.clone());
                self.on_worker("snapshot", context, move || {
                    let mut written = now;
                    let position = portable::take_timed(&mut store, &view, &mut || written = clock.now())?;
                    let ended = clock.now();
                    metrics.snapshot.fsync.observe(ended.saturating_sub(written).as_secs_f64());
                    metrics.snapshot.save.observe(ended.saturating_sub(now).as_secs_f64());
                    Ok(Done::SnapshotTaken(store, position))
                });
            }
            Action::Flush => {}
        }
    }
}

impl Actor for Snapshotter {
    type Context = Context<Self>;
}

impl Handler<BackendDurable> for Snapshotter {
    type Result = ();

    fn handle(&mut self, durable: BackendDurable, context: &mut Self::Context) {
        self.act(durable.view, durable.durable, context);
    }
}

impl Handler<CompactionFinished> for Snapshotter {
    type Result = ();

    fn handle(&mut self, finished: CompactionFinished, context: &mut Self::Context) {
        self.reclaim(Arc::clone(finished.view.backend()), context);
    }
}

impl Handler<LogGrown> for Snapshotter {
    type Result = ();

    fn handle(&mut self, grown: LogGrown, _: &mut Self::Context) {
        self.policy.log_grown(grown.live_bytes);
    }
}

impl Handler<Done> for Snapshotter {
    type Result = ();

    fn handle(&mut self, done: Done, context: &mut Self::Context) {
        match done {
            Done::Flushed => {
                self.is_flushing = false;
                self.policy.flushed(self.clock.now());
            }
            Done::SnapshotTaken(store, position) => {
                self.store = Some(store);
                self.policy.snapshot_taken(position.index);
                slog::info!(self.log, "saved snapshot"; "snapshot-index" => position.index.0);
            }
            Done::Purged => self.is_purging = false,
            Done::Reclaimed => {
                self.is_reclaiming = false;
                if let Some(backend) = self.reclaim_next.take() {
                    self.reclaim(backend, context);
                }
            }
        }
    }
}

/// Gives back the log's space in the background.
impl Handler<Tick> for Snapshotter {
    type Result = ();

    fn handle(&mut self, tick: Tick, context: &mut Self::Context) {
        if self.is_purging || tick.now < self.purged_at + PURGE_EVERY {
            return;
        }
        self.is_purging = true;
        self.purged_at = tick.now;
        let purger = self.purger.clone();
        self.on_worker("purge", context, move || {
            purger.run()?;
            Ok(Done::Purged)
        });
    }
}
