//! What followers that are behind are served from: the window, then the log on disk, then a snapshot.
//!
//! ```text
//!   entries ─▶ in the window? ─no─▶ FetchLog ─▶ log_fetched      cut? ─▶ SnapshotWanted ─▶ snapshot_offered ─▶ MsgSnapshot
//! ```

use super::{Effect, Node};
use crate::ids::{LogIndex, MemberId};
use crate::raft::terms::LogPosition;
use raft::SnapshotStatus;
use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot};

/// Entries that nobody but a follower behind needs are kept in memory up to so many bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;

impl Node {
    /// What [`Effect::FetchLog`] asked for, from `low` on. Nothing, if the log has been cut meanwhile.
    pub fn log_fetched(&mut self, low: LogIndex, entries: Vec<Entry>) {
        let contexts = self.raft.mut_store().offer_fetched(low.0, entries);
        contexts.into_iter().for_each(|context| self.raft.on_entries_fetched(context));
        self.raft.mut_store().drop_fetched();
    }

    /// There is a snapshot that can be sent: raft names it in the next MsgSnapshot.
    pub fn snapshot_offered(&mut self, position: LogPosition, conf_state: ConfState) {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (position.index.0, position.term.0);
        metadata.set_conf_state(conf_state);
        self.raft.mut_store().offer_snapshot(snapshot);
    }

    /// The offered snapshot is no longer there.
    pub fn snapshot_withdrawn(&mut self) {
        self.raft.mut_store().withdraw_snapshot();
    }

    /// What became of a snapshot for `to`.
    pub fn snapshot_sent(&mut self, to: MemberId, is_delivered: bool) {
        let status = if is_delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(to.0, status);
    }

    /// The rows that belong to this MsgSnapshot are here, complete and sound.
    pub fn snapshot_received(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot && message.to == self.settings.id.0 {
            // An error means "not for us".
            let _ = self.raft.step(message);
        }
    }

    /// The state is that of the snapshot at `position`.
    pub fn install_finished(&mut self, position: LogPosition) {
        if self.installing == Some(position) {
            self.installing = None;
        }
        self.advance_applied(position.index);
    }

    pub(super) fn ask_for_supplies(&mut self, effects: &mut Vec<Effect>) {
        let store = self.raft.mut_store();
        for request in store.take_fetch_requests() {
            let (low, high, bytes_max) = (LogIndex(request.low), LogIndex(request.high), request.bytes_max);
            effects.push(Effect::FetchLog { low, high, bytes_max });
        }
        if let Some(request) = store.take_snapshot_request() {
            let (to, index_min) = (MemberId(request.to), LogIndex(request.index_min));
            effects.push(Effect::SnapshotWanted { to, index_min });
        }
    }

    /// Forgets entries that are applied and on disk, unless a follower that is not far behind will need them soon.
    pub(super) fn shrink_window(&mut self) {
        let raft = &self.raft.raft;
        let unneeded = self.applied.min(raft.raft_log.persisted);
        let mut upto = unneeded;
        if self.is_leader() {
            let near = raft.raft_log.last_index().saturating_sub(self.settings.catchup_entries);
            let followers = raft.prs().iter().filter(|(id, _)| **id != self.settings.id.0);
            let slowest = followers.map(|(_, progress)| progress.matched).filter(|matched| *matched >= near).min();
            upto = upto.min(slowest.unwrap_or(upto));
        }
        let store = self.raft.mut_store();
        store.shrink_to(upto);
        store.shrink_to_bytes(KEPT_BYTES_MAX, unneeded);
    }
}
