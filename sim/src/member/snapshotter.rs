//! The shell of Snapshotter: what its policy and its outbox want, and the work for it.

use super::mail::{Job, Out, Outgoing, ToLogWriter, ToRaftNode, ToSnapshotter};
use super::{Around, Fatal};
use crate::trace::Line;
use castd::ids::{LogIndex, MemberId};
use castd::raft::terms::LogPosition;
use castd::raft::window::has_member;
use castd::snapshot::outbound::{Outbound, Parcel, Sendable as _, Wanted, will_do};
use castd::snapshot::policy::{Action, SnapshotPolicy};
use castd::state::{View, conf_state_from_row};
use std::sync::Arc;
use std::time::Duration;

const TIDY_EVERY: Duration = Duration::from_secs(30);

pub struct Snapshotter {
    pub policy: SnapshotPolicy,
    outbound: Outbound<Outgoing>,
    is_taking: bool,
    is_flushing: bool,
    tidied_at: Duration,
}

impl Snapshotter {
    pub fn new(policy: SnapshotPolicy) -> Self {
        Snapshotter {
            policy,
            outbound: Outbound::default(),
            is_taking: false,
            is_flushing: false,
            tidied_at: Duration::ZERO,
        }
    }

    pub fn handle(&mut self, mail: ToSnapshotter, around: &mut Around<'_>) {
        match mail {
            ToSnapshotter::BackendDurable { durable, view } => self.act(&view, durable, around),
            ToSnapshotter::LogGrown { live_bytes } => self.policy.log_grown(live_bytes),
            ToSnapshotter::SnapshotWanted { to, index_min } => self.wanted(to, index_min, around),
            ToSnapshotter::SendSnapshot { message } => match self.outbound.send(around.now, message) {
                Ok(parcel) => self.begin_transfer(parcel, around),
                Err(to) => around.mail(ToRaftNode::SnapshotSent { to, ok: false }),
            },
            ToSnapshotter::SnapshotInstalled { position } => {
                self.policy.installed(position.index);
                self.tidied_at = Duration::ZERO;
            }
            ToSnapshotter::Flushed => {
                self.is_flushing = false;
                self.policy.flushed(around.now);
            }
            ToSnapshotter::SnapshotTaken { position } => {
                self.is_taking = false;
                self.policy.snapshot_taken(position.index);
            }
            ToSnapshotter::Prepared { prepared } => self.prepared(prepared, around),
            ToSnapshotter::Carried { to, ok } => {
                around.mail(ToRaftNode::SnapshotSent { to, ok });
                let next = self.outbound.ended(around.now, to);
                self.begin_transfer(next, around);
            }
            ToSnapshotter::Tick { now } => self.tick(now, around),
        }
    }

    fn act(&mut self, view: &Arc<View>, durable: LogIndex, around: &mut Around<'_>) {
        let position = LogPosition { index: view.applied, term: view.term };
        match self.policy.step(around.now, position, &view.conf_state, durable, view.size().in_use) {
            Action::Wait => {}
            Action::Cut { position, conf_state } => {
                around.mail(ToRaftNode::LogCut { position });
                around.mail(ToLogWriter::TruncateLog { position, conf_state });
            }
            Action::Flush if !self.is_flushing => {
                self.is_flushing = true;
                self.begin(Job::Flush, around);
            }
            Action::TakeSnapshot if !self.is_taking => {
                self.is_taking = true;
                self.begin(Job::TakeSnapshot { view: Arc::clone(view) }, around);
            }
            Action::Flush | Action::TakeSnapshot => {}
        }
    }

    fn begin(&self, job: Job, around: &mut Around<'_>) {
        let after = around.disk_time(5);
        around.out.push(Out::Later { after, job });
    }

    fn wanted(&mut self, to: MemberId, index_min: LogIndex, around: &mut Around<'_>) {
        // The one that is being taken may do; raft asks again.
        if self.is_taking {
            return;
        }
        match self.outbound.wanted(around.now, to, index_min) {
            Wanted::Wait => {}
            Wanted::OfferAgain => self.offer(around),
            Wanted::Prepare => {
                self.is_taking = true;
                let view = Arc::clone(&around.shared.view);
                self.begin(Job::PrepareSnapshot { view, to, index_min }, around);
            }
        }
    }

    fn prepared(&mut self, prepared: Option<(Outgoing, bool)>, around: &mut Around<'_>) {
        self.is_taking = false;
        let Some((snapshot, was_taken)) = prepared else { return self.outbound.not_prepared(around.now) };
        if was_taken {
            self.policy.snapshot_taken(snapshot.file.position.index);
        }
        self.outbound.prepared(around.now, snapshot);
        self.policy.hold(self.outbound.held());
        self.offer(around);
    }

    fn offer(&self, around: &mut Around<'_>) {
        let Some(snapshot) = self.outbound.offered() else { return };
        let position = snapshot.file.position;
        around.note(Line::SnapshotOffered { index: position.index.0 });
        let conf_state = snapshot.header().conf_state.clone().map(conf_state_from_row).unwrap_or_default();
        around.mail(ToRaftNode::SnapshotOffered { position, conf_state });
    }

    fn begin_transfer(&mut self, parcel: Option<Parcel<Outgoing>>, around: &mut Around<'_>) {
        self.policy.hold(self.outbound.held());
        if let Some(parcel) = parcel {
            around.checks.summary.count("a snapshot was sent");
            around.out.push(Out::Carry { parcel: Box::new(parcel) });
        }
    }

    fn tick(&mut self, now: Duration, around: &mut Around<'_>) {
        if self.outbound.withdraw_unused(around.now) {
            around.checks.summary.count("a snapshot was withdrawn");
            around.mail(ToRaftNode::SnapshotWithdrawn);
            self.policy.hold(self.outbound.held());
        }
        if !self.is_taking && now >= self.tidied_at + TIDY_EVERY {
            self.tidied_at = now;
            self.begin(Job::Tidy, around);
        }
    }
}

/// The newest snapshot in `snap/` that will do, or one that is written now; and whether it stands in `snap/` since now.
/// `None` while the state has not come far enough.
pub fn prepare(
    view: &View,
    to: MemberId,
    index_min: LogIndex,
    around: &mut Around<'_>,
) -> Result<Option<(Outgoing, bool)>, Fatal> {
    for file in around.disk.snapshots() {
        // One above our state is of another member; it may be void.
        if file.position.index > view.applied {
            continue;
        }
        if file.position.index < index_min {
            break;
        }
        let found = Outgoing { file: Arc::new(file.clone()) };
        if will_do(&found, to, index_min) {
            return Ok(Some((found, false)));
        }
    }
    if view.applied < index_min || !has_member(&view.conf_state, to.0) {
        return Ok(None);
    }
    let keeps = around.disk.storage.keeps_snapshot();
    let cluster = around.settings.cluster;
    let file =
        if keeps { around.disk.take_snapshot(view, cluster)? } else { around.disk.write_snapshot(view, cluster)? };
    Ok(Some((Outgoing { file: Arc::new(file) }, keeps)))
}
