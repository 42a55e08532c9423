//! Keeps what a member needs to come back, and decides when the log may be cut. Does all slow work on the disk that no
//! write may wait for.
//!
//! ```text
//!   Applier ──BackendDurable──▶ Snapshotter ──TruncateLog──▶ LogWriter
//!   LogWriter ──LogGrown──▶        │    └──────LogCut──────▶ RaftNode
//!   RaftNode ──SnapshotWanted──▶   │ ──SnapshotOffered, SnapshotWithdrawn, SnapshotSent──▶ RaftNode
//!   PeerLinks ──SendSnapshot──▶    │
//!   edge ──Defragment, ────▶       └─▶ a thread for each kind of work: snapshots into snap/, snapshots for clients and for
//!     ExportSnapshot, …                members that lag, space to be given back, hashes of what is compacted
//! ```
//!
//! What to do when stands in [`SnapshotPolicy`], and, for members that lag, in [`Outbound`]. The work itself happens on threads beside this one, from a published view,
//! so that neither the Applier nor clients wait. Of each kind one piece is done at a time; what is asked for meanwhile is
//! done once, afterwards, for all who asked: the piece under way may have begun before what they want to see done.

mod sending;

use self::sending::Prepared;
use crate::actors::Tick;
use crate::actors::applier::SnapshotInstalled;
use crate::actors::errands::Errands;
use crate::actors::log_writer::TruncateLog;
use crate::actors::raft_node::SnapshotWanted;
use crate::cast::Published;
use crate::ids::{ClusterId, LogIndex, MemberId, Revision};
use crate::mvcc::{Compacted, CompactionHashes, HashKv};
use crate::peer::courier::CarriesSnapshots;
use crate::process;
use crate::raft::log::Purger;
use crate::raft::terms::LogPosition;
use crate::snapshot::outbound::Outbound;
use crate::snapshot::policy::{Action, SnapshotPolicy};
use crate::snapshot::{Exported, SnapshotError, SnapshotStore};
use crate::state::View;
use crate::state::portable::{self, PortableError};
use crate::storage::DataDir;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Span, SpanContext};
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use castd_backend_api::{Backend, BackendError, Table};
use raft::eraftpb::{ConfState, Message as RaftMessage};
use slog::Logger;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const PURGE_EVERY: Duration = Duration::from_secs(30);
/// The history of a larger store is not hashed when it is compacted: that reads all of it, each time.
const HASHED_BYTES_MAX: u64 = 1 << 30;

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
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CompactionFinished;

/// Event, from the Applier: the store is to be compacted. Its rows are still there as long as the view is held.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CompactionScheduled {
    pub compacted: Compacted,
}

/// Command: give back what space can be given back, without holding up anybody. Answered when that is done; nobody need
/// wait for the answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Defragment {
    pub reply: oneshot::Sender<()>,
    pub span: SpanContext,
}

/// Command: write the state as of now, or a little later, into a file for a client. Given up when nobody waits for the
/// answer any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ExportSnapshot {
    pub reply: oneshot::Sender<Result<Exported, ExportError>>,
    pub span: SpanContext,
}

/// Query: what the history up to `revision` was when it was compacted there, if that is one of the last compactions.
/// Answered when it has been hashed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LookUpCompactionHash {
    pub revision: Revision,
    pub reply: oneshot::Sender<Option<HashKv>>,
    pub span: SpanContext,
}

/// Query: what was found at the last compactions?
#[derive(Message)]
#[rtype(result = "()")]
pub struct ListCompactionHashes {
    pub reply: oneshot::Sender<Vec<HashKv>>,
}

/// Why there is no snapshot for a client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0}")]
    NoSpace(String),
    #[error("{0}")]
    Failed(String),
}

impl From<PortableError> for ExportError {
    fn from(error: PortableError) -> Self {
        match error {
            PortableError::Snapshot(error @ SnapshotError::NoSpace { .. }) => ExportError::NoSpace(error.to_string()),
            other => ExportError::Failed(other.to_string()),
        }
    }
}

/// Who waits for a piece of work.
struct Caller<T> {
    reply: oneshot::Sender<T>,
    /// As long as the caller waits.
    _span: Span,
}

impl<T> Caller<T> {
    fn new(reply: oneshot::Sender<T>, span: &SpanContext) -> Self {
        Caller { reply, _span: span.child("Snapshotter") }
    }

    /// It may have gone; then nobody needs the answer.
    fn answer(self, answer: T) {
        let _ = self.reply.send(answer);
    }
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

/// Event, from the Snapshotter: raft may send the snapshot at `position`, at which `conf_state` was the membership.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SnapshotOffered {
    pub position: LogPosition,
    pub conf_state: ConfState,
}

/// Event, from the Snapshotter: the one that was offered is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SnapshotWithdrawn;

/// Command: bring the snapshot that this MsgSnapshot names to its receiver, and say what became of it by [`SnapshotSent`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SendSnapshot {
    pub message: RaftMessage,
}

/// Event, from the Snapshotter: the receiver has it, or will not get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SnapshotSent {
    pub to: MemberId,
    pub ok: bool,
}

/// Told to itself by its worker thread.
#[derive(Message)]
#[rtype(result = "()")]
enum Done {
    Flushed,
    SnapshotTaken(LogPosition),
    Prepared(Option<Prepared>),
    Carried { to: MemberId, ok: bool },
    Tidied { is_more_left: bool },
    Purged,
    Reclaimed,
    Exported,
    Hashed(Option<HashKv>),
}

/// Where the Snapshotter's mail goes, and where it looks.
pub struct Links {
    pub truncate_log: Recipient<TruncateLog>,
    pub log_cut: Recipient<LogCut>,
    pub snapshot_offered: Recipient<SnapshotOffered>,
    pub snapshot_withdrawn: Recipient<SnapshotWithdrawn>,
    pub snapshot_sent: Recipient<SnapshotSent>,
    pub courier: Arc<dyn CarriesSnapshots>,
    /// Holds stores that were replaced, until nobody reads them any more.
    pub data_dir: Arc<DataDir>,
    pub view: Published<View>,
    pub purger: Purger,
    /// What waits for a disk.
    pub errands: Errands,
}

pub struct Snapshotter {
    store: SnapshotStore,
    /// A worker writes into it.
    is_taking: bool,
    policy: SnapshotPolicy,
    outbound: Outbound,
    /// A store was replaced, and its files, or those that it was filled from, may have to go.
    is_untidy: bool,
    is_tidying: bool,
    /// Written into each snapshot.
    cluster: ClusterId,
    links: Links,
    is_flushing: bool,
    is_purging: bool,
    is_reclaiming: bool,
    /// A compaction has left something to give back.
    has_reclaimable: bool,
    /// Somebody asked for all that there is to give back, and may have gone since.
    is_defragment_wanted: bool,
    defragment: Vec<Caller<()>>,
    is_exporting: bool,
    export: Vec<Caller<Result<Exported, ExportError>>>,
    hashes: CompactionHashes,
    purged_at: Duration,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl Snapshotter {
    pub fn new(
        store: SnapshotStore,
        policy: SnapshotPolicy,
        cluster: ClusterId,
        links: Links,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        Snapshotter {
            store,
            is_taking: false,
            policy,
            outbound: Outbound::default(),
            // The last life may have received what it did not need.
            is_untidy: true,
            is_tidying: false,
            cluster,
            links,
            is_flushing: false,
            is_purging: false,
            is_reclaiming: false,
            has_reclaimable: false,
            is_defragment_wanted: false,
            defragment: Vec::new(),
            is_exporting: false,
            export: Vec::new(),
            hashes: CompactionHashes::default(),
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
        let spawned = self.links.errands.long(name, move || match work() {
            Ok(done) => myself.do_send(done),
            Err(error) => process::fatal(&log, &format!("{error}")),
        });
        if let Err(error) = spawned {
            process::fatal(&self.log, &format!("cannot start a thread: {error}"));
        }
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
            Action::TakeSnapshot if !self.is_taking => {
                self.is_taking = true;
                let (store, cluster) = (self.store.clone(), self.cluster);
                let (clock, metrics) = (self.clock, self.metrics.clone());
                self.on_worker("snapshot", context, move || {
                    let mut written = now;
                    let position = portable::take_timed(&store, &view, cluster, &mut || written = clock.now())?;
                    let ended = clock.now();
                    metrics.snapshot.fsync.observe(ended.saturating_sub(written).as_secs_f64());
                    metrics.snapshot.save.observe(ended.saturating_sub(now).as_secs_f64());
                    Ok(Done::SnapshotTaken(position))
                });
            }
            Action::Flush | Action::TakeSnapshot => {}
        }
    }
}

/// Work that somebody asked for.
impl Snapshotter {
    /// What callers ask for is all there is to give back; a compaction leaves something in one table only.
    fn reclaim(&mut self, context: &mut Context<Self>) {
        if self.is_reclaiming || !(self.is_defragment_wanted || self.has_reclaimable) {
            return;
        }
        self.is_reclaiming = true;
        self.has_reclaimable = false;
        let is_defragment = std::mem::take(&mut self.is_defragment_wanted);
        let callers = std::mem::take(&mut self.defragment);
        let backend = Arc::clone(self.links.view.load().backend());
        let (clock, metrics, log) = (self.clock, self.metrics.clone(), self.log.clone());
        self.on_worker("reclaim", context, move || {
            if is_defragment {
                defragment(backend.as_ref(), clock, &metrics, &log)?;
            } else {
                backend.reclaim(Table::Kv)?;
            }
            callers.into_iter().for_each(|caller| caller.answer(()));
            Ok(Done::Reclaimed)
        });
    }

    fn export(&mut self, context: &mut Context<Self>) {
        self.export.retain(|caller| !caller.reply.is_closed());
        if self.is_exporting || self.export.is_empty() {
            return;
        }
        self.is_exporting = true;
        let callers = std::mem::take(&mut self.export);
        let (view, directory) = (self.links.view.load(), self.store.dir().to_owned());
        let cluster = self.cluster;
        let (clock, metrics, log) = (self.clock, self.metrics.clone(), self.log.clone());
        self.on_worker("export", context, move || {
            let started = clock.now();
            let is_wanted = || callers.iter().any(|caller| !caller.reply.is_closed());
            let exported = portable::export(&directory, &view, cluster, &is_wanted);
            // What it can read may be deleted from here on.
            drop(view);
            metrics.disk.backend_snapshot.observe(clock.now().saturating_sub(started).as_secs_f64());
            if let Err(error) = &exported {
                slog::warn!(log, "no snapshot was written for a client"; "error" => %error);
            }
            let exported = exported.map_err(ExportError::from);
            callers.into_iter().for_each(|caller| caller.answer(exported.clone()));
            Ok(Done::Exported)
        });
    }

    /// Removes the files of stores that were replaced, and snapshots that were received and are of no more use.
    fn tidy(&mut self, context: &mut Context<Self>) {
        if self.is_tidying || self.is_taking || !self.is_untidy {
            return;
        }
        (self.is_tidying, self.is_untidy) = (true, false);
        let (data_dir, store) = (Arc::clone(&self.links.data_dir), self.store.clone());
        // A backend that is trusted needs none beside it.
        let superfluous = (!self.policy.keeps_snapshot()).then(|| self.links.view.load().applied);
        self.on_worker("tidy", context, move || {
            let is_more_left = data_dir.remove_retired_backends();
            if let Some(upto) = superfluous {
                store.keep(0, upto)?;
            }
            Ok(Done::Tidied { is_more_left })
        });
    }

    fn hash_compacted(&mut self, context: &mut Context<Self>) {
        let Some(Compacted { revision, view }) = self.hashes.begin_next() else { return };
        let log = self.log.clone();
        self.on_worker("hash", context, move || {
            let hashed = view.hash_kv(revision.0);
            if let Err(error) = &hashed {
                slog::warn!(log, "what is compacted could not be hashed";
                    "compact-revision" => revision.0, "error" => %error);
            }
            Ok(Done::Hashed(hashed.ok()))
        });
    }
}

/// Gives back what can be given back of all tables, with etcd's log lines.
fn defragment(backend: &dyn Backend, clock: Clock, metrics: &Metrics, log: &Logger) -> Result<(), BackendError> {
    let started = clock.now();
    let before = backend.size()?;
    slog::info!(log, "defragmenting"; "storage" => backend.name(),
        "current-db-size-bytes" => before.allocated_bytes, "current-db-size-in-use-bytes" => before.in_use_bytes);
    metrics.disk.defrag_inflight.set(1);
    for table in Table::ALL {
        backend.reclaim(table)?;
    }
    metrics.disk.defrag_inflight.set(0);
    let (after, took) = (backend.size()?, clock.now().saturating_sub(started));
    metrics.disk.backend_defrag.observe(took.as_secs_f64());
    let difference = |before: u64, after: u64| i128::from(after) - i128::from(before);
    slog::info!(log, "finished defragmenting directory"; "storage" => backend.name(),
        "current-db-size-bytes-diff" => difference(before.allocated_bytes, after.allocated_bytes) as i64,
        "current-db-size-bytes" => after.allocated_bytes,
        "current-db-size-in-use-bytes-diff" => difference(before.in_use_bytes, after.in_use_bytes) as i64,
        "current-db-size-in-use-bytes" => after.in_use_bytes, "took" => ?took);
    Ok(())
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

    fn handle(&mut self, _: CompactionFinished, context: &mut Self::Context) {
        self.has_reclaimable = true;
        self.reclaim(context);
    }
}

impl Handler<Defragment> for Snapshotter {
    type Result = ();

    fn handle(&mut self, command: Defragment, context: &mut Self::Context) {
        if self.defragment.len() == self.defragment.capacity() {
            // Before the list grows, those who have gone are taken off it.
            self.defragment.retain(|caller| !caller.reply.is_closed());
        }
        self.defragment.push(Caller::new(command.reply, &command.span));
        self.is_defragment_wanted = true;
        self.reclaim(context);
    }
}

impl Handler<ExportSnapshot> for Snapshotter {
    type Result = ();

    fn handle(&mut self, command: ExportSnapshot, context: &mut Self::Context) {
        self.export.push(Caller::new(command.reply, &command.span));
        self.export(context);
    }
}

impl Handler<CompactionScheduled> for Snapshotter {
    type Result = ();

    fn handle(&mut self, scheduled: CompactionScheduled, context: &mut Self::Context) {
        if self.links.view.load().size().in_use <= HASHED_BYTES_MAX {
            self.hashes.compacted(scheduled.compacted);
            self.hash_compacted(context);
        }
    }
}

impl Handler<LookUpCompactionHash> for Snapshotter {
    type Result = ();

    fn handle(&mut self, query: LookUpCompactionHash, _: &mut Self::Context) {
        let _span = query.span.child("Snapshotter");
        self.hashes.ask(query.revision, query.reply);
    }
}

impl Handler<ListCompactionHashes> for Snapshotter {
    type Result = ();

    fn handle(&mut self, query: ListCompactionHashes, _: &mut Self::Context) {
        // Whoever asked may have gone; then nobody needs the answer.
        let _ = query.reply.send(self.hashes.known());
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
            Done::SnapshotTaken(position) => {
                self.is_taking = false;
                self.policy.snapshot_taken(position.index);
                slog::info!(self.log, "saved snapshot"; "snapshot-index" => position.index.0);
            }
            Done::Prepared(prepared) => self.prepared(prepared),
            Done::Carried { to, ok } => self.carried(to, ok, context),
            Done::Tidied { is_more_left } => {
                self.is_tidying = false;
                self.is_untidy |= is_more_left;
            }
            Done::Purged => self.is_purging = false,
            Done::Reclaimed => {
                self.is_reclaiming = false;
                self.reclaim(context);
            }
            Done::Exported => {
                self.is_exporting = false;
                self.export(context);
            }
            Done::Hashed(hash) => {
                self.hashes.hashed(hash);
                self.hash_compacted(context);
            }
        }
    }
}

impl Handler<SnapshotWanted> for Snapshotter {
    type Result = ();

    fn handle(&mut self, wanted: SnapshotWanted, context: &mut Self::Context) {
        self.snapshot_wanted(wanted, context);
    }
}

impl Handler<SendSnapshot> for Snapshotter {
    type Result = ();

    fn handle(&mut self, send: SendSnapshot, context: &mut Self::Context) {
        self.send_snapshot(send, context);
    }
}

impl Handler<SnapshotInstalled> for Snapshotter {
    type Result = ();

    fn handle(&mut self, installed: SnapshotInstalled, _: &mut Self::Context) {
        self.policy.installed(installed.position.index);
        self.is_untidy = true;
    }
}

/// Gives back the log's space in the background.
impl Handler<Tick> for Snapshotter {
    type Result = ();

    fn handle(&mut self, tick: Tick, context: &mut Self::Context) {
        self.withdraw_unused();
        self.tidy(context);
        if self.is_purging || tick.now < self.purged_at + PURGE_EVERY {
            return;
        }
        self.is_purging = true;
        self.purged_at = tick.now;
        // What was received and not needed.
        self.is_untidy = true;
        let purger = self.links.purger.clone();
        self.on_worker("purge", context, move || {
            purger.run()?;
            Ok(Done::Purged)
        });
    }
}

#[cfg(test)]
mod tests;
