//! Installing a snapshot of the leader: the store is filled on a thread of its own, and exchanged here.
//!
//! Until the exchange, readers read the old state, which nothing changes any more; what is committed meanwhile waits.

use super::{Applier, EntriesCommitted, SnapshotInstalled};
use crate::actors::compactor::HistoryCompacted;
use crate::actors::lease_keeper::LeasesReplaced;
use crate::actors::log_writer::ClearPendingInstall;
use crate::actors::watch_hub::StoreReplaced;
use crate::installation;
use crate::process;
use crate::raft::terms::LogPosition;
use crate::snapshot::SnapshotFile;
use crate::state::Machine;
use actix::{AsyncContext, Context, Message};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What comes behind an install that is under way. RaftNode sends two slices at most before it is told more.
pub(super) enum Behind {
    Slice(EntriesCommitted),
    Install(LogPosition),
}

pub(super) struct Installing {
    position: LogPosition,
    since: Duration,
    behind: VecDeque<Behind>,
}

/// Told to itself by the thread that has filled the store.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Filled {
    machine: Machine,
}

impl Applier {
    /// Keeps what comes while a snapshot is being installed. Gives back what can be done now.
    pub(super) fn or_wait(&mut self, behind: Behind) -> Option<Behind> {
        match &mut self.installing {
            Some(installing) => {
                installing.behind.push_back(behind);
                None
            }
            None => Some(behind),
        }
    }

    pub(super) fn install(&mut self, position: LogPosition, context: &mut Context<Self>) {
        slog::info!(self.log, "applying snapshot"; "current-applied-index" => self.machine.applied().0,
            "incoming-leader-snapshot-index" => position.index.0, "incoming-leader-snapshot-term" => position.term.0);
        self.metrics.server.snapshot_apply_in_progress.set(1);
        self.installing = Some(Installing { position, since: self.clock.now(), behind: VecDeque::new() });
        let (myself, data_dir, log) = (context.address(), Arc::clone(&self.links.data_dir), self.log.clone());
        let fill = move || {
            let file = SnapshotFile::at(&data_dir.snapshots_path(), position)?;
            installation::replace_state(&data_dir, &file)
        };
        let spawned = std::thread::Builder::new().name("install".into()).spawn(move || match fill() {
            Ok(machine) => myself.do_send(Filled { machine }),
            Err(error) => process::fatal(&log, &format!("a received snapshot could not be installed: {error}")),
        });
        if let Err(error) = spawned {
            process::fatal(&self.log, &format!("cannot start a thread: {error}"));
        }
    }

    /// The other store takes the place of the present one: first for readers, then for watchers and leases, then for raft.
    pub(super) fn exchange(&mut self, filled: Filled, context: &mut Context<Self>) {
        let Some(Installing { position, since, behind }) = self.installing.take() else { return };
        let Filled { mut machine } = filled;
        machine.report_beyond(self.settings.quota);
        for alarm in self.machine.alarms().iter() {
            self.show_alarm(alarm, 0);
        }
        let old = std::mem::replace(&mut self.machine, machine);
        let view = self.machine.view();
        let (revision, compacted) = (view.mvcc.revision(), view.mvcc.compact_revision());
        let leases = view.leases.clone();
        self.published.store(view);
        self.metrics.mvcc.current_revision.set(revision.0);
        for alarm in self.machine.alarms().iter() {
            self.show_alarm(alarm, 1);
        }
        let now = self.clock.now();
        self.links.store_replaced.do_send(StoreReplaced { revision, compacted });
        self.links.leases_replaced.do_send(LeasesReplaced { leases, now });
        self.tell_members();
        if self.machine.has_compacted_rows() {
            self.links.history_compacted.do_send(HistoryCompacted);
        }
        self.links.clear_pending_install.do_send(ClearPendingInstall { position });
        for installed in &self.links.snapshot_installed {
            installed.do_send(SnapshotInstalled { position });
        }
        self.answer_after_deletion();
        self.look_at_backend();
        self.metrics.server.snapshot_apply_in_progress.set(0);
        slog::info!(self.log, "applied snapshot"; "current-applied-index" => position.index.0,
            "incoming-leader-snapshot-index" => position.index.0, "incoming-leader-snapshot-term" => position.term.0,
            "current-revision" => revision.0, "took" => ?now.saturating_sub(since));
        // To take an index of millions of keys apart takes a while, and nobody needs to wait. Where there is no thread for
        // it, it goes here.
        drop(std::thread::Builder::new().name("forget".into()).spawn(move || drop(old)));
        for behind in behind {
            match self.or_wait(behind) {
                Some(Behind::Slice(slice)) => self.apply(slice),
                Some(Behind::Install(position)) => self.install(position, context),
                None => {}
            }
        }
    }
}
