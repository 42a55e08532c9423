//! Applies what raft has committed, slice by slice, to the replicated state machine.
//!
//! ```text
//!   RaftNode ──EntriesCommitted──▶ Applier ──┬─StoreChanged, StoreReplaced──▶ WatchHub
//!            ──InstallSnapshot───▶           ├─LeasesChanged, LeasesReplaced─▶ LeaseKeeper
//!                                            ├─Applied, ConfChangeApplied, SnapshotInstalled──▶ RaftNode
//!                                            ├─ClearPendingInstall──▶ LogWriter
//!                                            ├─MembershipChanged──▶ PeerLinks
//!                                            ├─BackendDurable──▶ Snapshotter
//!                                            ├─Propose: my alarm goes──▶ RaftNode
//!                                            ├─HistoryCompacted, PieceDeleted──▶ Compactor ──DeletePiece──▶ Applier
//!                                            └─replies──▶ edge
//! ```
//!
//! The order of one slice is fixed: the backend first, then the published view, then the watchers, then the replies. So
//! whoever got a reply finds the write in the view. Physical deletion after a compaction also runs here, because the backend
//! has one writer; when, and how much at once, the Compactor says. And as nobody else knows sooner how large the store is, it
//! is here that an alarm NOSPACE is taken back; when, says [`AutoDisarm`].

mod installing;
mod stopwatch;

use self::installing::{Behind, Filled, Installing};
use self::stopwatch::Stopwatch;
use crate::actors::Tick;
use crate::actors::compactor::{HistoryCompacted, PieceDeleted};
use crate::actors::lease_keeper::{LeasesChanged, LeasesReplaced};
use crate::actors::log_writer::ClearPendingInstall;
use crate::actors::peer_links;
use crate::actors::raft_node::{self, ConfChangeApplied, Propose};
use crate::actors::snapshotter::{BackendDurable, CompactionFinished, CompactionScheduled};
use crate::actors::watch_hub::{StoreChanged, StoreReplaced};
use crate::cast::{Published, Reply, RequestError};
use crate::ids::{LogIndex, MemberId};
use crate::membership::members::Members;
use crate::mvcc::{Deleted, Left};
use crate::planted::{self, Bug};
use crate::process;
use crate::quota::{AutoDisarm, Quota};
use crate::raft::terms::LogPosition;
use crate::state::{Alarm, AlarmChange, Applied, Machine, MembershipChanged, Outcome, View};
use crate::storage::DataDir;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Span, SpanContext};
use actix::{Actor, Context, Handler, Message, Recipient};
use castd_proto::castdpb::membership_change::Kind;
use castd_proto::castdpb::{RaftRequest, SpaceRegained, raft_request::Op};
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};
use slog::Logger;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Compacted rows deleted at once, before the clock is looked at.
const DELETED_AT_ONCE: usize = 32;
/// How often the backend is asked what is durable and whether its own threads failed.
const LOOK_AT_BACKEND_EVERY: Duration = Duration::from_secs(1);

/// Event, from RaftNode: these entries are committed, and durable in the log.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EntriesCommitted {
    pub entries: Vec<Entry>,
    /// For each entry, the request of this member that waits for it.
    pub waiters: Vec<Option<Waiter>>,
}

/// Command: the state is to be that of the snapshot at `position`, whose file is in `snap/`, sound. The log begins behind it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct InstallSnapshot {
    pub position: LogPosition,
}

/// Event, from the Applier: the state is that of the snapshot at `position`, published and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SnapshotInstalled {
    pub position: LogPosition,
}

/// A request that waits for its entry.
pub struct Waiter {
    pub reply: Reply,
    pub span: SpanContext,
}

/// Command, from the Compactor: delete rows that nobody can read any more, so many or for so long. Answered by
/// [`PieceDeleted`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct DeletePiece {
    pub rows_max: usize,
    pub time_max: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--warning-apply-duration`.
    pub slow_apply: Duration,
    /// The Snapshotter is told how far the backend is after so many entries, too (`--snapshot-count`).
    pub report_entries: u64,
    /// This member.
    pub member: MemberId,
    /// `--quota-backend-bytes`.
    pub quota: Quota,
    /// `--quota-auto-disarm`.
    pub auto_disarm: bool,
}

/// Where the Applier's mail goes, and what it shares.
pub struct Links {
    pub applied: Recipient<raft_node::Applied>,
    pub conf_change_applied: Recipient<ConfChangeApplied>,
    pub membership_changed: Recipient<peer_links::MembershipChanged>,
    pub store_changed: Recipient<StoreChanged>,
    pub leases_changed: Recipient<LeasesChanged>,
    pub backend_durable: Recipient<BackendDurable>,
    pub compaction_scheduled: Recipient<CompactionScheduled>,
    pub compaction_finished: Recipient<CompactionFinished>,
    pub propose: Recipient<Propose>,
    pub history_compacted: Recipient<HistoryCompacted>,
    pub piece_deleted: Recipient<PieceDeleted>,
    pub store_replaced: Recipient<StoreReplaced>,
    pub leases_replaced: Recipient<LeasesReplaced>,
    pub clear_pending_install: Recipient<ClearPendingInstall>,
    pub snapshot_installed: Vec<Recipient<SnapshotInstalled>>,
    /// Where the store of a snapshot comes from.
    pub data_dir: Arc<DataDir>,
}

pub struct Applier {
    machine: Machine,
    links: Links,
    published: Published<View>,
    settings: Settings,
    installing: Option<Installing>,
    /// Those that PeerLinks knows.
    members_told: Option<Arc<Members>>,
    /// Requests that asked to wait until deleted revisions are gone from the backend.
    waiting_for_deletion: Vec<(Reply, Result<Outcome, RequestError>)>,
    looked_at: Duration,
    looked_at_index: LogIndex,
    auto_disarm: AutoDisarm,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl Applier {
    pub fn new(
        mut machine: Machine,
        links: Links,
        published: Published<View>,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        machine.report_beyond(settings.quota);
        Applier {
            machine,
            links,
            published,
            settings,
            installing: None,
            members_told: None,
            waiting_for_deletion: Vec::new(),
            looked_at: Duration::ZERO,
            looked_at_index: LogIndex(0),
            auto_disarm: AutoDisarm::new(settings.quota, settings.auto_disarm),
            clock,
            metrics,
            log,
        }
    }

    fn apply(&mut self, slice: EntriesCommitted) {
        let slow = self.settings.slow_apply;
        let mut stopwatch = Stopwatch::start(&slice.entries, slow, self.clock, &self.metrics, &self.log);
        let mut spans = SlicedSpans::start(&slice.waiters);
        if planted::is_on(Bug::PublishesLate) {
            self.published.store(self.machine.view());
        }
        let mut applied = match self.machine.apply_observed(&slice.entries, &mut stopwatch) {
            Ok(applied) => applied,
            Err(error) => process::fatal(&self.log, &format!("a committed entry could not be applied: {error}")),
        };
        if !planted::is_on(Bug::PublishesLate) {
            self.published.store(self.machine.view());
        }
        let ended = self.clock.now();
        stopwatch.stop(ended);

        spans.end(&applied.outcomes);
        self.count(&applied);
        for change in &applied.alarms {
            self.tell_alarm(*change);
        }
        // They were carried out, as etcd does; but who wrote them is to know.
        for (place, shortage) in applied.over_quota {
            if let Some(outcome) = applied.outcomes.get_mut(place) {
                *outcome = Err(RequestError::BeyondQuota(shortage));
            }
        }
        if !applied.changes.is_empty() || applied.compacted.is_some() {
            self.metrics.mvcc.current_revision.set(self.machine.revision().0);
            let view = self.published.load();
            self.links.store_changed.do_send(StoreChanged {
                changes: applied.changes.into(),
                compacted: applied.compacted,
                view,
                spans: spans.of_store,
            });
        }
        for compacted in applied.compactions {
            self.links.compaction_scheduled.do_send(CompactionScheduled { compacted });
        }
        if !applied.leases.is_empty() {
            self.links.leases_changed.do_send(LeasesChanged {
                changes: applied.leases,
                now: ended,
                spans: spans.of_leases,
            });
        }
        self.tell_members();
        if applied.compacted.is_some() {
            self.links.history_compacted.do_send(HistoryCompacted);
        }
        for changed in applied.membership {
            self.log_membership(&changed);
            if let Some(applied) = changed.raft {
                self.links.conf_change_applied.do_send(ConfChangeApplied { applied });
            }
        }
        self.links.applied.do_send(raft_node::Applied { index: self.machine.applied() });

        for (place, (waiter, outcome)) in slice.waiters.into_iter().zip(applied.outcomes).enumerate() {
            let Some(waiter) = waiter else { continue };
            if applied.waits_for_deletion.contains(&place) {
                self.waiting_for_deletion.push((waiter.reply, outcome));
            } else {
                waiter.reply.send(outcome);
            }
        }
        self.answer_after_deletion();
    }

    fn log_membership(&self, changed: &MembershipChanged) {
        let (id, urls) = (MemberId(changed.member.id), changed.member.peer_urls.join(","));
        match changed.kind {
            Kind::Add => slog::info!(self.log, "added member"; "added-peer-id" => %id, "added-peer-peer-urls" => urls,
                "added-peer-is-learner" => changed.member.is_learner),
            Kind::Remove => slog::info!(self.log, "removed member"; "removed-remote-peer-id" => %id,
                "removed-remote-peer-urls" => urls),
            Kind::Update => slog::info!(self.log, "updated member"; "updated-remote-peer-id" => %id,
                "updated-remote-peer-urls" => urls),
            Kind::Promote => slog::info!(self.log, "promote member"; "promoted-member-id" => %id),
        }
    }

    /// If there is something to tell.
    fn tell_members(&mut self) {
        let members = self.machine.members();
        if !self.members_told.as_ref().is_some_and(|told| Arc::ptr_eq(told, members)) {
            self.members_told = Some(Arc::clone(members));
            let members = Arc::clone(members);
            self.links.membership_changed.do_send(peer_links::MembershipChanged { members });
        }
    }

    fn count(&self, applied: &Applied) {
        let (mvcc, counts) = (&self.metrics.mvcc, applied.counts);
        mvcc.put.inc_by(counts.puts);
        mvcc.total_put_size.add(counts.put_bytes as i64);
        mvcc.delete.inc_by(counts.deletes);
        mvcc.range.inc_by(counts.ranges);
        mvcc.txn.inc_by(counts.txns);
    }

    fn tell_alarm(&self, change: AlarmChange) {
        match change {
            AlarmChange::Raised { alarm, shortage } => {
                let shortage =
                    shortage.map(|it| format!("{} of {} bytes", it.needed_bytes, self.settings.quota.reported()));
                slog::warn!(self.log, "alarm raised"; "alarm" => alarm.name(), "from" => %alarm.member, "needs" => shortage);
                self.show_alarm(alarm, 1);
            }
            AlarmChange::Cleared { alarm } => {
                slog::warn!(self.log, "alarm disarmed"; "alarm" => alarm.name(), "from" => %alarm.member);
                self.show_alarm(alarm, 0);
            }
        }
    }

    /// Deletes a little at a time until the piece is done: how long a row takes is the backend's.
    fn delete(&mut self, piece: DeletePiece) -> PieceDeleted {
        let started = self.clock.now();
        let (mut rows, mut index_took) = (0, Duration::ZERO);
        let mut now = started;
        loop {
            let rows_max = DELETED_AT_ONCE.min(piece.rows_max - rows);
            self.machine.sweep_compacted(rows_max);
            index_took += self.clock.now().saturating_sub(now);
            let deleted = match self.machine.delete_swept(rows_max) {
                Ok(deleted) => deleted,
                Err(error) => process::fatal(&self.log, &format!("compacted revisions could not be deleted: {error}")),
            };
            now = self.clock.now();
            rows += deleted.rows;
            let took = now.saturating_sub(started);
            let is_over = deleted.left != Left::Rows || rows >= piece.rows_max || took >= piece.time_max;
            if is_over || deleted.finished.is_some() {
                return PieceDeleted { deleted: Deleted { rows, ..deleted }, took, index_took };
            }
        }
    }

    fn show_alarm(&self, alarm: Alarm, is_on: i64) {
        self.metrics.server.alarms.with_label_values(&[&alarm.member.to_string(), &alarm.name()]).set(is_on);
    }

    /// Takes this member's alarm back once there is room again.
    fn disarm(&mut self, now: Duration) {
        let alarm = Alarm::no_space(self.settings.member);
        let (raised, db_size) = (self.machine.alarms().get(alarm), self.machine.db_size());
        let shortage = raised.and_then(|raised| Some((raised.index, raised.shortage?)));
        let is_due = self.auto_disarm.step(now, shortage, db_size);
        let Some(raised) = raised.filter(|_| is_due) else { return };
        slog::info!(self.log, "there is room again; disarming the alarm"; "alarm" => alarm.name(), "from" => %alarm.member,
            "db-size-bytes" => db_size, "quota-size-bytes" => self.settings.quota.reported());
        let report = SpaceRegained { member_id: alarm.member.0, raised_index: raised.index.0 };
        let data = RaftRequest { op: Some(Op::SpaceRegained(report)), ..Default::default() }.encode_to_vec().into();
        // What becomes of it, the log will show.
        let (sender, _) = oneshot::channel();
        let (kind, reply, span) = (EntryType::EntryNormal, Reply::internal(sender), SpanContext::default());
        self.links.propose.do_send(Propose { data, kind, reply, span });
    }

    /// Answers those who asked to wait until compacted revisions are gone, if they are.
    fn answer_after_deletion(&mut self) {
        if !self.waiting_for_deletion.is_empty() && !self.machine.has_compacted_rows() {
            for (reply, outcome) in self.waiting_for_deletion.drain(..) {
                reply.send(outcome);
            }
        }
    }

    fn look_at_backend(&mut self) {
        self.looked_at_index = self.machine.applied();
        let looked = self.machine.backend().background_errors().and_then(|()| self.machine.durable_index());
        match looked {
            Ok(durable) => {
                self.links.backend_durable.do_send(BackendDurable { durable, view: self.published.load() });
            }
            Err(error) => process::fatal(&self.log, &format!("the storage backend failed: {error}")),
        }
    }
}

/// The spans of one slice: one for each sampled request in it, and who is to go on with which trace.
#[derive(Default)]
struct SlicedSpans {
    /// By place in the slice.
    running: Vec<(usize, Span)>,
    of_store: Vec<SpanContext>,
    of_leases: Vec<SpanContext>,
}

impl SlicedSpans {
    fn start(waiters: &[Option<Waiter>]) -> Self {
        let sampled = waiters.iter().enumerate().filter_map(|(place, waiter)| {
            let span = &waiter.as_ref()?.span;
            span.is_sampled().then(|| (place, span.child("Applier")))
        });
        SlicedSpans { running: sampled.collect(), ..Default::default() }
    }

    fn end(&mut self, outcomes: &[Result<Outcome, RequestError>]) {
        for (place, mut span) in self.running.drain(..) {
            match outcomes.get(place) {
                Some(Ok(Outcome::Put(_) | Outcome::DeleteRange(_) | Outcome::Txn(_) | Outcome::Compact(_))) => {
                    self.of_store.push(span.context());
                }
                Some(Ok(Outcome::LeaseGrant(_))) => self.of_leases.push(span.context()),
                Some(Ok(Outcome::LeaseRevoke(_))) => {
                    self.of_store.push(span.context());
                    self.of_leases.push(span.context());
                }
                Some(Ok(Outcome::Alarm(_) | Outcome::Members(_) | Outcome::MembershipOvertaken | Outcome::Done))
                | None => {}
                Some(Err(error)) => span.error(error.to_string()),
            }
        }
    }
}

impl Actor for Applier {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.tell_members();
        self.look_at_backend();
        for alarm in self.machine.alarms().iter() {
            slog::warn!(self.log, "an alarm is still on"; "alarm" => alarm.name(), "from" => %alarm.member);
            self.show_alarm(alarm, 1);
        }
        if self.machine.has_compacted_rows() {
            // The last life ended in the middle of it.
            self.links.history_compacted.do_send(HistoryCompacted);
        }
    }
}

impl Handler<EntriesCommitted> for Applier {
    type Result = ();

    fn handle(&mut self, slice: EntriesCommitted, _: &mut Self::Context) {
        if let Some(Behind::Slice(slice)) = self.or_wait(Behind::Slice(slice)) {
            self.apply(slice);
        }
        if self.machine.applied().0 >= self.looked_at_index.0 + self.settings.report_entries {
            self.look_at_backend();
        }
    }
}

impl Handler<InstallSnapshot> for Applier {
    type Result = ();

    fn handle(&mut self, command: InstallSnapshot, context: &mut Self::Context) {
        if let Some(Behind::Install(position)) = self.or_wait(Behind::Install(command.position)) {
            self.install(position, context);
        }
    }
}

impl Handler<Filled> for Applier {
    type Result = ();

    fn handle(&mut self, filled: Filled, context: &mut Self::Context) {
        self.exchange(filled, context);
    }
}

impl Handler<DeletePiece> for Applier {
    type Result = ();

    fn handle(&mut self, piece: DeletePiece, _: &mut Self::Context) {
        let piece = self.delete(piece);
        if piece.deleted.rows > 0 {
            // The store has become smaller.
            self.published.store(self.machine.view());
        }
        self.links.piece_deleted.do_send(piece);
        if piece.deleted.finished.is_some() {
            self.links.compaction_finished.do_send(CompactionFinished);
        }
        self.answer_after_deletion();
    }
}

impl Handler<Tick> for Applier {
    type Result = ();

    fn handle(&mut self, tick: Tick, _: &mut Self::Context) {
        self.disarm(tick.now);
        if tick.now >= self.looked_at + LOOK_AT_BACKEND_EVERY {
            self.looked_at = tick.now;
            self.look_at_backend();
        }
    }
}
