//! Writes the raft log; the only place that does.
//!
//! ```text
//!   RaftNode ──AppendLog, ReplaceLog, FetchLog──▶ LogWriter ──LogPersisted, LogFetched──▶ RaftNode
//!   Snapshotter ──TruncateLog──▶ LogWriter ◀──ClearPendingInstall── Applier
//! ```
//!
//! It takes all writes that are queued into one batch and one fsync, while RaftNode goes on stepping: under load the
//! slower the disk, the larger the batch. A failed write or fsync ends the process; it is never retried, because after a
//! failed fsync the page cache is clean and a second one would succeed without the data.

use crate::actors::raft_node::{LogFetched, LogPersisted};
use crate::actors::snapshotter::LogGrown;
use crate::ids::LogIndex;
use crate::process;
use crate::raft::log::{Install, LogError, LogStore, LogWrite};
use crate::raft::node;
use crate::raft::terms::LogPosition;
use crate::snapshot::file_name;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::SpanContext;
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use raft::eraftpb::ConfState;
use slog::Logger;
use std::time::Duration;

/// An fsync that takes longer is worth a warning (etcd: `slow fdatasync`).
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// raft-engine panics when its fsync fails.
const WRITE_FAILED: &str = "the raft log could not be written, and nothing unwritten was acknowledged";
/// The Snapshotter is told whenever the log has grown or shrunk by so much.
const GROWTH_STEP_BYTES: u64 = 1 << 20;

/// Command: make this durable, then say so by [`LogPersisted`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AppendLog {
    pub write: node::AppendLog,
    /// The sampled requests among the entries.
    pub spans: Vec<SpanContext>,
}

/// Command: read entries `low .. high`, for a follower that is far behind: at least one, and then as many as fit. Answered by
/// [`LogFetched`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct FetchLog {
    pub low: LogIndex,
    pub high: LogIndex,
    pub bytes_max: u64,
}

/// Command: entries up to `position` are not needed any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TruncateLog {
    pub position: LogPosition,
    /// The voters and learners at that index: what a start from there begins with.
    pub conf_state: ConfState,
}

/// Command: the log begins anew behind a snapshot of the leader, whose file is in `snap/`. Durable in one step, with the name
/// of the file that the state has yet to be replaced by. Then say so by [`LogPersisted`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReplaceLog {
    pub replace: node::ReplaceLog,
}

/// Command: the state has been replaced by the snapshot at `position`; a start need not do it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct ClearPendingInstall {
    pub position: LogPosition,
}

pub struct LogWriter {
    store: Box<dyn LogStore>,
    raft_node: Recipient<LogPersisted>,
    fetched: Recipient<LogFetched>,
    snapshotter: Recipient<LogGrown>,
    /// The newest snapshot that the state is to be replaced by.
    pending_install: Option<LogPosition>,
    /// Live bytes that the Snapshotter was last told.
    told_bytes: u64,
    queue: Vec<AppendLog>,
    write_is_due: bool,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl LogWriter {
    pub fn new(
        store: Box<dyn LogStore>,
        raft_node: Recipient<LogPersisted>,
        fetched: Recipient<LogFetched>,
        snapshotter: Recipient<LogGrown>,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        LogWriter {
            store,
            raft_node,
            fetched,
            snapshotter,
            pending_install: None,
            told_bytes: 0,
            queue: Vec::new(),
            write_is_due: false,
            clock,
            metrics,
            log,
        }
    }

    fn write_queued(&mut self) {
        let Some(last) = self.queue.last() else { return };
        let number = last.write.number;
        let started = self.clock.wall();
        let mut spans: Vec<SpanContext> = Vec::new();
        let writes: Vec<LogWrite> = self
            .queue
            .drain(..)
            .map(|append| {
                spans.extend(append.spans);
                LogWrite { entries: append.write.entries, hard_state: append.write.hard_state, must_sync: true }
            })
            .collect();
        let written = match process::disk_work(WRITE_FAILED, || self.store.append_many(&writes)) {
            Ok(written) => written,
            Err(error) => process::fatal(&self.log, &format!("{WRITE_FAILED}: {error}")),
        };
        if !spans.is_empty() {
            let ended = self.clock.wall();
            spans.iter().for_each(|span| span.record("LogWriter", started, ended));
        }
        self.raft_node.do_send(LogPersisted { number });
        self.tell_growth();
        self.metrics.disk.wal_fsync.observe(written.sync.as_secs_f64());
        self.metrics.disk.wal_write.observe(written.write.as_secs_f64());
        self.metrics.disk.wal_write_bytes.add(written.bytes as i64);
        if written.sync > SLOW_SYNC {
            slog::warn!(self.log, "slow fdatasync"; "took" => ?written.sync, "expected-duration" => ?SLOW_SYNC);
        }
    }
}

impl LogWriter {
    fn tell_growth(&mut self) {
        let live_bytes = self.store.size().live_bytes;
        if live_bytes.abs_diff(self.told_bytes) >= GROWTH_STEP_BYTES {
            self.told_bytes = live_bytes;
            self.snapshotter.do_send(LogGrown { live_bytes });
        }
    }
}

impl Actor for LogWriter {
    type Context = Context<Self>;
}

/// Told to itself: handled when no more AppendLog is waiting in the mailbox.
#[derive(Message)]
#[rtype(result = "()")]
struct WriteQueued;

impl Handler<WriteQueued> for LogWriter {
    type Result = ();

    fn handle(&mut self, _: WriteQueued, _: &mut Self::Context) {
        self.write_is_due = false;
        self.write_queued();
    }
}

impl Handler<AppendLog> for LogWriter {
    type Result = ();

    fn handle(&mut self, append: AppendLog, context: &mut Self::Context) {
        self.queue.push(append);
        if !self.write_is_due {
            self.write_is_due = true;
            context.notify(WriteQueued);
        }
    }
}

impl Handler<FetchLog> for LogWriter {
    type Result = ();

    fn handle(&mut self, fetch: FetchLog, _: &mut Self::Context) {
        let entries = match self.store.entries(fetch.low, fetch.high, fetch.bytes_max) {
            Ok(entries) => entries,
            // Cut or overwritten since RaftNode asked; it will ask for something else.
            Err(LogError::Refused { .. }) => Vec::new(),
            Err(error) => process::fatal(&self.log, &format!("the raft log could not be read: {error}")),
        };
        self.fetched.do_send(LogFetched { low: fetch.low, entries });
    }
}

impl Handler<TruncateLog> for LogWriter {
    type Result = ();

    fn handle(&mut self, truncate: TruncateLog, _: &mut Self::Context) {
        if let Err(error) = self.store.truncate(truncate.position, &truncate.conf_state) {
            process::fatal(&self.log, &format!("the raft log could not be cut: {error}"));
        }
        slog::info!(self.log, "cut the raft log"; "up-to-index" => truncate.position.index.0, "live-bytes" => self.store.size().live_bytes);
        self.tell_growth();
    }
}

impl Handler<ReplaceLog> for LogWriter {
    type Result = ();

    fn handle(&mut self, command: ReplaceLog, _: &mut Self::Context) {
        // What came before goes before: it may hold a vote.
        self.write_queued();
        let node::ReplaceLog { number, position, conf_state, hard_state } = command.replace;
        let install = Install { position, conf_state, hard_state, pending: Some(file_name(position)) };
        if let Err(error) = process::disk_work(WRITE_FAILED, || self.store.replace(&install)) {
            process::fatal(&self.log, &format!("the raft log could not be replaced: {error}"));
        }
        self.pending_install = Some(position);
        slog::info!(self.log, "the raft log begins anew, behind a snapshot of the leader";
            "snapshot-index" => position.index.0, "snapshot-term" => position.term.0);
        self.raft_node.do_send(LogPersisted { number });
        self.tell_growth();
    }
}

impl Handler<ClearPendingInstall> for LogWriter {
    type Result = ();

    fn handle(&mut self, command: ClearPendingInstall, _: &mut Self::Context) {
        // Another one may have been accepted since, and is still to be installed.
        if self.pending_install.take_if(|pending| *pending == command.position).is_none() {
            return;
        }
        if let Err(error) = process::disk_work(WRITE_FAILED, || self.store.clear_pending_install()) {
            process::fatal(&self.log, &format!("{WRITE_FAILED}: {error}"));
        }
    }
}
