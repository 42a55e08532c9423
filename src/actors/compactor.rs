//! Keeps compaction's clocks: when history is compacted by itself, and how fast what is left of it is deleted.
//!
//! ```text
//!   RaftNode ──LeaderChanged──▶ Compactor ──Propose──▶ RaftNode              (a compaction is a request like any other)
//!   Applier ──HistoryCompacted, PieceDeleted──▶ Compactor ──DeletePiece──▶ Applier
//! ```
//! The cores are [`crate::compaction::auto`] and [`crate::compaction::pace`]. Rows are deleted by the Applier, because the
//! backend has one writer: a piece queues there behind the slices that came before it, and those that come next wait for
//! one short piece.

use crate::actors::Tick;
use crate::actors::applier::DeletePiece;
use crate::actors::raft_node::{LeaderChanged, Propose};
use crate::cast::{Published, Reply, RequestError};
use crate::compaction::auto::{self, AutoCompactor};
use crate::compaction::pace::{self, Pace};
use crate::config::AutoCompaction;
use crate::ids::Revision;
use crate::mvcc::{Deleted, Left, MvccError};
use crate::state::{Outcome, View};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::SpanContext;
use actix::{Actor, ActorFutureExt as _, AsyncContext, Context, Handler, Message, Recipient, WrapFuture as _};
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::CompactionRequest;
use prost::Message as _;
use raft::eraftpb::EntryType;
use slog::Logger;
use std::time::{Duration, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;

/// Event, from the Applier: a compaction left rows that nobody can read any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HistoryCompacted;

/// Event, from the Applier: a piece of them is deleted.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct PieceDeleted {
    pub deleted: Deleted,
    /// For how long the Applier did nothing else.
    pub took: Duration,
    /// The index's share of that.
    pub index_took: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub keep: AutoCompaction,
    pub pace: pace::Settings,
}

pub struct Links {
    pub propose: Recipient<Propose>,
    pub applier: Recipient<DeletePiece>,
}

pub struct Compactor {
    auto: AutoCompactor,
    pace: Pace,
    settings: Settings,
    links: Links,
    view: Published<View>,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl Compactor {
    pub fn new(
        settings: Settings,
        links: Links,
        view: Published<View>,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        let (auto, pace) = (AutoCompactor::new(settings.keep), Pace::new(settings.pace));
        Compactor { auto, pace, settings, links, view, clock, metrics, log }
    }

    /// What the store is at. No view is kept: it would hold the rows that are to go.
    fn store(&self) -> auto::Store {
        let view = self.view.load();
        auto::Store { revision: view.mvcc.revision(), compacted: view.mvcc.compact_revision() }
    }

    fn compact(&mut self, revision: Revision, context: &mut Context<Self>) {
        let started = self.clock.now();
        match self.settings.keep {
            AutoCompaction::Periodic(period) => slog::info!(self.log, "starting auto periodic compaction";
                "revision" => revision.0, "compact-period" => ?period),
            AutoCompaction::Revision(kept) => slog::info!(self.log, "starting auto revision compaction";
                "revision" => revision.0, "revision-compaction-retention" => kept),
            AutoCompaction::Off => {}
        }
        let op = Op::Compact(CompactionRequest { revision: revision.0, physical: false });
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        let (sender, answer) = oneshot::channel();
        let (kind, reply, span) = (EntryType::EntryNormal, Reply::internal(sender), SpanContext::default());
        self.links.propose.do_send(Propose { data, kind, reply, span });
        let answered = answer.into_actor(self).map(move |answer, this, _| {
            let outcome = answer.unwrap_or(Err(RequestError::Stopped));
            this.answered(revision, started, outcome);
        });
        context.spawn(answered);
    }

    fn answered(&mut self, revision: Revision, started: Duration, outcome: Result<Outcome, RequestError>) {
        let error = match outcome {
            // Somebody else may have compacted further meanwhile: what was to be done is done.
            Ok(_) | Err(RequestError::Mvcc(MvccError::Compacted { .. })) => {
                let now = self.clock.now();
                let next = self.auto.completed().and_then(|at| self.date(at));
                let took = now.saturating_sub(started);
                match self.settings.keep {
                    AutoCompaction::Periodic(period) => slog::info!(self.log, "completed auto periodic compaction";
                        "revision" => revision.0, "compact-period" => ?period, "took" => ?took, "next-compact-at" => next),
                    AutoCompaction::Revision(kept) => slog::info!(self.log, "completed auto revision compaction";
                        "revision" => revision.0, "revision-compaction-retention" => kept, "took" => ?took,
                        "next-compact-at" => next),
                    AutoCompaction::Off => {}
                }
                return;
            }
            Err(error) => error,
        };
        let retry = self.auto.retry_every();
        self.auto.failed();
        match self.settings.keep {
            AutoCompaction::Periodic(period) => slog::warn!(self.log, "failed auto periodic compaction";
                "revision" => revision.0, "compact-period" => ?period, "retry-interval" => ?retry, "error" => %error),
            AutoCompaction::Revision(kept) => slog::warn!(self.log, "failed auto revision compaction";
                "revision" => revision.0, "revision-compaction-retention" => kept, "retry-interval" => ?retry,
                "error" => %error),
            AutoCompaction::Off => {}
        }
    }

    /// As people write a time that is to come.
    fn date(&self, at: Duration) -> Option<String> {
        let date = self.clock.wall().checked_add(at.saturating_sub(self.clock.now()))?;
        OffsetDateTime::from(date).format(&Rfc3339).ok()
    }

    fn finished(&self, finished: pace::Finished) {
        let mvcc = &self.metrics.mvcc;
        mvcc.db_compaction.observe(millis(finished.took));
        let unix_seconds = self.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        mvcc.db_compaction_last.set(i64::try_from(unix_seconds).unwrap_or(i64::MAX));
        let size = self.view.load().size();
        slog::info!(self.log, "finished scheduled compaction"; "compact-revision" => finished.revision.0, "took" => ?finished.took,
            "number-of-keys-compacted" => finished.rows, "current-db-size-bytes" => size.db_size,
            "current-db-size-in-use-bytes" => size.in_use);
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Actor for Compactor {
    type Context = Context<Self>;
}

impl Handler<Tick> for Compactor {
    type Result = ();

    fn handle(&mut self, tick: Tick, context: &mut Self::Context) {
        if let Some(pace::Piece { rows_max, time_max }) = self.pace.tick(tick.now) {
            self.links.applier.do_send(DeletePiece { rows_max, time_max });
        }
        if self.auto.is_time(tick.now)
            && let Some(revision) = self.auto.tick(tick.now, self.store())
        {
            self.compact(revision, context);
        }
    }
}

impl Handler<LeaderChanged> for Compactor {
    type Result = ();

    fn handle(&mut self, changed: LeaderChanged, _: &mut Self::Context) {
        self.auto.leader_changed(changed.now, changed.status.is_leader, self.store().revision);
    }
}

impl Handler<HistoryCompacted> for Compactor {
    type Result = ();

    fn handle(&mut self, _: HistoryCompacted, _: &mut Self::Context) {
        self.pace.compacted(self.clock.now());
    }
}

impl Handler<PieceDeleted> for Compactor {
    type Result = ();

    fn handle(&mut self, piece: PieceDeleted, _: &mut Self::Context) {
        let mvcc = &self.metrics.mvcc;
        mvcc.db_compaction_keys.inc_by(piece.deleted.rows as u64);
        if piece.deleted.left != Left::HeldByViews {
            mvcc.db_compaction_pause.observe(millis(piece.took));
            mvcc.index_compaction_pause.observe(millis(piece.index_took));
        }
        if let Some(finished) = self.pace.piece_done(self.clock.now(), piece.deleted) {
            self.finished(finished);
        }
    }
}
