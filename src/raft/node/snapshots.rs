//! Snapshots in raft's eyes: which one may be sent, and how one that was received takes the place of log and state.
//!
//! ```text
//!   leader    raft needs one ──SnapshotWanted──▶ … snapshot_offered ──▶ MsgSnapshot ──▶ … snapshot_sent
//!   follower  MsgSnapshot ──▶ ReplaceLog ──▶ log_persisted ──▶ InstallSnapshot ──▶ … install_finished
//! ```
//! The file itself never comes here. It has arrived, and was checked, before a MsgSnapshot is stepped: a log that was replaced
//! names a file that is there.

use super::{AppendLog, Effect, Node, RaftError};
use crate::ids::{LogIndex, MemberId};
use crate::raft::terms::LogPosition;
use raft::SnapshotStatus;
use raft::eraftpb::{ConfState, HardState, Snapshot, SnapshotMetadata};

/// One write of the log that begins it anew, behind a snapshot. Durable as a whole before [`Node::log_persisted`] is called
/// with the number of `then`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplaceLog {
    pub position: LogPosition,
    pub conf_state: ConfState,
    /// With the commit index of `position`.
    pub hard_state: HardState,
    /// What raft wrote behind the snapshot in the same breath.
    pub then: AppendLog,
}

impl Node {
    /// A snapshot is there that raft may send. It holds the state after `position`, and `conf_state` is the membership then.
    pub fn snapshot_offered(&mut self, position: LogPosition, conf_state: ConfState) {
        let LogPosition { index, term } = position;
        let mut metadata = SnapshotMetadata { index: index.0, term: term.0, ..SnapshotMetadata::default() };
        metadata.set_conf_state(conf_state);
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        self.raft.mut_store().offer_snapshot(snapshot);
    }

    /// The one that was offered is gone.
    pub fn snapshot_withdrawn(&mut self) {
        self.raft.mut_store().withdraw_snapshot();
    }

    /// What became of the MsgSnapshot to `to`: until this is told, raft sends nothing else to it.
    pub fn snapshot_sent(&mut self, to: MemberId, ok: bool) {
        self.raft.report_snapshot(to.0, if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// The state machine stands at the snapshot that was installed, and the published view with it.
    pub fn install_finished(&mut self, position: LogPosition) {
        self.applied = self.applied.max(position.index.0);
    }

    /// The log on disk is being replaced. raft-rs ends the process if it has to look at it meanwhile, and it looks before
    /// each campaign.
    pub(super) fn is_replacing_log(&self) -> bool {
        self.log_writes.iter().any(|write| write.installs.is_some())
    }

    /// What of the old log was not handed on is part of the snapshot, or void.
    pub(super) fn forget_replaced(&mut self, effects: &mut Vec<Effect>) {
        self.committed.clear();
        for pending in self.pending.drain(..) {
            self.uncommitted_bytes -= pending.bytes;
            effects.push(Effect::Failed(pending.request, RaftError::LeaderChanged));
        }
    }

    /// To raft the log is applied up to `position` from now on: it looks no further back. Whoever reads waits for
    /// [`Node::install_finished`].
    pub(super) fn log_replaced(&mut self, position: LogPosition, effects: &mut Vec<Effect>) {
        self.advance_apply(position.index.0);
        effects.push(Effect::InstallSnapshot { position });
    }

    /// The state machine may still be on its way to where raft has been told that it is.
    pub(super) fn advance_apply(&mut self, index: u64) {
        if index > self.raft.raft.raft_log.applied {
            self.raft.advance_apply_to(index);
        }
    }

    pub(super) fn tell_snapshot_wanted(&mut self, effects: &mut Vec<Effect>) {
        if let Some(request) = self.raft.mut_store().take_snapshot_request() {
            let (to, index_min) = (MemberId(request.to), LogIndex(request.index_min));
            effects.push(Effect::SnapshotWanted { to, index_min });
        }
    }
}
