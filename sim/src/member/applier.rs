//! The shell of Applier: the backend first, then the published view, then watchers, leases and members, then the answers.

use super::mail::{
    Job, Out, ToApplier, ToCompactor, ToLeaseKeeper, ToLogWriter, ToPeerLinks, ToRaftNode, ToSnapshotter, ToWatchHub,
    Waiter,
};
use super::{Around, Fatal};
use crate::member::edge::News;
use crate::planted::{self, Bug};
use crate::trace::Line;
use bytes::Bytes;
use castd::cast::RequestError;
use castd::ids::LogIndex;
use castd::membership::members::Members;
use castd::mvcc::{Deleted, Left};
use castd::raft::node::CommittedEntry;
use castd::raft::terms::LogPosition;
use castd::state::{Machine, Outcome};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Compacted rows deleted at once, before the clock is looked at.
const DELETED_AT_ONCE: usize = 32;
const LOOK_AT_BACKEND_EVERY: Duration = Duration::from_secs(1);

/// What comes behind an install that is under way.
enum Behind {
    Slice(Vec<CommittedEntry>, Vec<Option<Waiter>>),
    Install(LogPosition),
}

struct Installing {
    position: LogPosition,
    behind: VecDeque<Behind>,
}

pub struct Applier {
    pub machine: Machine,
    installing: Option<Installing>,
    members_told: Option<Arc<Members>>,
    waiting_for_deletion: Vec<(Waiter, Result<Outcome, RequestError>)>,
    looked_at: Duration,
    looked_at_index: LogIndex,
}

impl Applier {
    pub fn new(machine: Machine) -> Self {
        Applier {
            machine,
            installing: None,
            members_told: None,
            waiting_for_deletion: Vec::new(),
            looked_at: Duration::ZERO,
            looked_at_index: LogIndex(0),
        }
    }

    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    pub fn started(&mut self, around: &mut Around<'_>) -> Result<(), Fatal> {
        self.tell_members(around);
        self.look_at_backend(around)?;
        if self.machine.has_compacted_rows() {
            around.mail(ToCompactor::HistoryCompacted);
        }
        Ok(())
    }

    pub fn handle(&mut self, mail: ToApplier, around: &mut Around<'_>) -> Result<(), Fatal> {
        match mail {
            ToApplier::EntriesCommitted { entries, waiters } => {
                if let Some(Behind::Slice(entries, waiters)) = self.or_wait(Behind::Slice(entries, waiters)) {
                    self.apply(entries, waiters, around)?;
                }
                if self.machine.applied().0 >= self.looked_at_index.0 + around.settings.snapshot_count {
                    self.look_at_backend(around)?;
                }
            }
            ToApplier::InstallSnapshot { position } => {
                if let Some(Behind::Install(position)) = self.or_wait(Behind::Install(position)) {
                    self.install(position, around);
                }
            }
            ToApplier::DeletePiece { rows_max } => self.delete(rows_max, around)?,
            ToApplier::Tick { now } => {
                if now >= self.looked_at + LOOK_AT_BACKEND_EVERY {
                    self.looked_at = now;
                    self.look_at_backend(around)?;
                }
            }
        }
        Ok(())
    }

    fn or_wait(&mut self, behind: Behind) -> Option<Behind> {
        match &mut self.installing {
            Some(installing) => {
                installing.behind.push_back(behind);
                None
            }
            None => Some(behind),
        }
    }

    fn apply(
        &mut self,
        committed: Vec<CommittedEntry>,
        waiters: Vec<Option<Waiter>>,
        around: &mut Around<'_>,
    ) -> Result<(), Fatal> {
        let mut entries: Vec<_> = committed.into_iter().map(|committed| committed.entry).collect();
        if planted::is_on(Bug::SkipsAnEntry) && around.place == 1 {
            let skipped = |entry: &&mut raft::eraftpb::Entry| entry.index > 100 && entry.index.is_multiple_of(50);
            entries.iter_mut().filter(skipped).for_each(|entry| entry.data = Bytes::new());
        }
        let mut applied = self.machine.apply(&entries)?;
        around.shared.view = Arc::new(self.machine.view());
        around.checks.applied(around.place, around.id, around.boot, &self.machine, &applied);
        let (index, revision) = (self.machine.applied().0, self.machine.revision().0);
        let hash = around.checks.hash_at(index);
        around.note(Line::Applied { index, revision, hash });
        for (place, shortage) in std::mem::take(&mut applied.over_quota) {
            applied.outcomes[place] = Err(RequestError::BeyondQuota(shortage));
        }
        if !applied.changes.is_empty() || applied.compacted.is_some() {
            around.mail(ToWatchHub::StoreChanged { changes: applied.changes.into(), compacted: applied.compacted });
        }
        if !applied.leases.is_empty() {
            let now = around.now;
            around.mail(ToLeaseKeeper::LeasesChanged { changes: applied.leases, now });
        }
        self.tell_members(around);
        if applied.compacted.is_some() {
            around.checks.summary.count("history was compacted");
            around.mail(ToCompactor::HistoryCompacted);
        }
        for changed in applied.membership {
            around.checks.summary.count("the membership changed");
            if let Some(applied) = changed.raft {
                around.checks.conf_change_applied();
                around.mail(ToRaftNode::ConfChangeApplied { applied });
            }
        }
        around.mail(ToRaftNode::Applied { index: LogIndex(index) });
        for (place, (waiter, outcome)) in waiters.into_iter().zip(applied.outcomes).enumerate() {
            let Some(waiter) = waiter else { continue };
            if applied.waits_for_deletion.contains(&place) {
                self.waiting_for_deletion.push((waiter, outcome));
            } else {
                answer(waiter, outcome, around);
            }
        }
        self.answer_after_deletion(around);
        Ok(())
    }

    fn tell_members(&mut self, around: &mut Around<'_>) {
        let members = self.machine.members();
        if !self.members_told.as_ref().is_some_and(|told| Arc::ptr_eq(told, members)) {
            self.members_told = Some(Arc::clone(members));
            let members = Arc::clone(members);
            around.mail(ToPeerLinks::MembershipChanged { members });
        }
    }

    fn look_at_backend(&mut self, around: &mut Around<'_>) -> Result<(), Fatal> {
        self.looked_at_index = self.machine.applied();
        let durable = if around.disk.storage.is_durable() { self.machine.durable_index()? } else { LogIndex(0) };
        let view = Arc::clone(&around.shared.view);
        around.mail(ToSnapshotter::BackendDurable { durable, view });
        Ok(())
    }

    fn delete(&mut self, rows_max: usize, around: &mut Around<'_>) -> Result<(), Fatal> {
        let mut rows = 0;
        let deleted = loop {
            let at_once = DELETED_AT_ONCE.min(rows_max - rows);
            self.machine.sweep_compacted(at_once);
            let deleted = self.machine.delete_swept(at_once).map_err(Fatal::new)?;
            rows += deleted.rows;
            // How long a row takes is the backend's.
            let is_over = deleted.left != Left::Rows || rows >= rows_max || around.dice.chance(300);
            if is_over || deleted.finished.is_some() {
                break Deleted { rows, ..deleted };
            }
        };
        if deleted.left == Left::HeldByViews {
            around.checks.summary.count("a view kept rows from being deleted");
        }
        if rows > 0 {
            around.shared.view = Arc::new(self.machine.view());
        }
        around.mail(ToCompactor::PieceDeleted { deleted });
        self.answer_after_deletion(around);
        Ok(())
    }

    fn answer_after_deletion(&mut self, around: &mut Around<'_>) {
        if !self.waiting_for_deletion.is_empty() && !self.machine.has_compacted_rows() {
            for (waiter, outcome) in std::mem::take(&mut self.waiting_for_deletion) {
                answer(waiter, outcome, around);
            }
        }
    }

    // ---- Snapshots ----

    fn install(&mut self, position: LogPosition, around: &mut Around<'_>) {
        around.note(Line::InstallBegins { index: position.index.0 });
        self.installing = Some(Installing { position, behind: VecDeque::new() });
        let after = around.disk_time(4);
        around.out.push(Out::Later { after, job: Job::Fill { position } });
    }

    /// The store is filled and in its place on disk: it takes the place of the present one for readers, then for watchers and
    /// leases, then for raft.
    pub fn exchange(&mut self, machine: Machine, around: &mut Around<'_>) -> Result<(), Fatal> {
        let Some(Installing { position, behind }) = self.installing.take() else { return Ok(()) };
        self.machine = machine;
        let view = self.machine.view();
        let (revision, compacted) = (view.mvcc.revision(), view.mvcc.compact_revision());
        let leases = view.leases.clone();
        around.shared.view = Arc::new(view);
        around.checks.installed(around.place, around.boot, &self.machine);
        around.note(Line::Installed { index: position.index.0 });
        let now = around.now;
        around.mail(ToWatchHub::StoreReplaced { revision, compacted });
        around.mail(ToLeaseKeeper::LeasesReplaced { leases, now });
        self.tell_members(around);
        if self.machine.has_compacted_rows() {
            around.mail(ToCompactor::HistoryCompacted);
        }
        around.mail(ToLogWriter::ClearPendingInstall { position });
        around.mail(ToRaftNode::SnapshotInstalled { position });
        around.mail(ToSnapshotter::SnapshotInstalled { position });
        self.answer_after_deletion(around);
        self.look_at_backend(around)?;
        for behind in behind {
            match self.or_wait(behind) {
                Some(Behind::Slice(entries, waiters)) => self.apply(entries, waiters, around)?,
                Some(Behind::Install(position)) => self.install(position, around),
                None => {}
            }
        }
        Ok(())
    }
}

fn answer(waiter: Waiter, outcome: Result<Outcome, RequestError>, around: &mut Around<'_>) {
    match waiter {
        Waiter::Edge(ticket) => around.edge(ticket, News::Written(outcome)),
        Waiter::Compactor => around.mail(ToCompactor::Answered { ok: outcome.is_ok() }),
        Waiter::Nobody => {}
    }
}
