//! The shell of Compactor.

use super::Around;
use super::mail::{ToApplier, ToCompactor, ToRaftNode, Waiter};
use castd::compaction::auto::{AutoCompactor, Store};
use castd::compaction::pace::{self, Pace, Piece};
use castd::config::AutoCompaction;
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::CompactionRequest;
use prost::Message as _;
use raft::eraftpb::EntryType;
use std::time::Duration;

/// Rows deleted in one piece: few, so that much can happen in between.
const PACE: pace::Settings = pace::Settings { rows_max: 40, sleep: Duration::from_millis(10) };

pub struct Compactor {
    auto: AutoCompactor,
    pace: Pace,
}

impl Compactor {
    pub fn new(keep: AutoCompaction) -> Self {
        Compactor { auto: AutoCompactor::new(keep), pace: Pace::new(PACE) }
    }

    pub fn handle(&mut self, mail: ToCompactor, around: &mut Around<'_>) {
        match mail {
            ToCompactor::LeaderChanged { status, now } => {
                self.auto.leader_changed(now, status.is_leader, store(around).revision);
            }
            ToCompactor::HistoryCompacted => self.pace.compacted(around.now),
            ToCompactor::PieceDeleted { deleted } => {
                if self.pace.piece_done(around.now, deleted).is_some() {
                    around.checks.summary.count("a compaction was finished");
                }
            }
            ToCompactor::Answered { ok: true } => drop(self.auto.completed()),
            ToCompactor::Answered { ok: false } => self.auto.failed(),
            ToCompactor::Tick { now } => {
                if let Some(Piece { rows_max, .. }) = self.pace.tick(now) {
                    around.mail(ToApplier::DeletePiece { rows_max });
                }
                if self.auto.is_time(now)
                    && let Some(revision) = self.auto.tick(now, store(around))
                {
                    around.checks.compaction_asked(around.true_now, revision.0);
                    around.checks.summary.count("history was compacted by itself");
                    let op = Op::Compact(CompactionRequest { revision: revision.0, physical: false });
                    let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
                    let (kind, waiter) = (EntryType::EntryNormal, Waiter::Compactor);
                    around.mail(ToRaftNode::Propose { data, kind, waiter });
                }
            }
        }
    }
}

fn store(around: &Around<'_>) -> Store {
    let mvcc = &around.shared.view.mvcc;
    Store { revision: mvcc.revision(), compacted: mvcc.compact_revision() }
}
