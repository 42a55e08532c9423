//! Applies committed entries: the only code that changes a member's data.
//!
//! ```text
//!   entries of a slice ──▶ mvcc, leases, members ──▶ one WriteBatch (with the applied index) ──▶ backend
//! ```
//!
//! A request that fails, or that an alarm refuses, leaves no trace but its entry. A backend that fails ends the member.

use crate::cast::RequestError;
use crate::ids::{LeaseId, LogIndex, MemberId, Revision};
use crate::lease::{Grant, LeaseTable, LeaseTableError};
use crate::membership::downgrade::{self, Release};
use crate::membership::members::Members;
use crate::mvcc::{Changes, Compacted, Deleted, MvccError, OpCounts, Slice, Store, StoreError};
use crate::planted::{self, Bug};
use crate::quota::{self, Quota, Shortage, cost};
use crate::raft::tag::RequestTag;
use crate::raft::terms::LogPosition;
use crate::state::alarms::{Alarm, Alarms, Fence, Raised};
use crate::state::membership::{self, MembersInSlice, MembershipChanged};
use crate::state::requests::{Admission, Requests};
use crate::state::rows::{self, AppliedPosition};
use crate::state::{Checkpoints, Outcome, View};
use crate::telemetry::metrics::RequestKind;
use castd_backend_api::{Backend, BackendError, Table, WriteBatch};
use castd_proto::castdpb::{LeaseCheckpoints, LeaseExpire, RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::{self as pb, alarm_request::AlarmAction};
use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType};
use std::sync::Arc;

/// What ends a member: nothing in here is the fault of a request.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Leases(#[from] LeaseTableError),
    #[error("a row of table {table:?} is damaged")]
    BadRow { table: Table },
    #[error("entry {index} of the log is damaged: {source}")]
    BadEntry { index: u64, source: prost::DecodeError },
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted { grant: Grant, ttl_secs: i64 },
    Revoked { lease: LeaseId },
    Checkpointed { lease: LeaseId, remaining_secs: i64 },
}

/// What became of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmChange {
    Raised { alarm: Alarm, shortage: Option<Shortage> },
    Cleared { alarm: Alarm },
}

/// What a slice did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One for each entry.
    pub outcomes: Vec<Result<Outcome, RequestError>>,
    /// Entries whose answer waits until compacted rows are gone, by place in the slice.
    pub waits_for_deletion: Vec<usize>,
    /// One for each revision, ascending.
    pub changes: Vec<Changes>,
    /// The store was compacted up to here.
    pub compacted: Option<Revision>,
    /// Each compaction, with the store as it was before.
    pub compactions: Vec<Compacted>,
    pub leases: Vec<LeaseChange>,
    pub alarms: Vec<AlarmChange>,
    /// Entries that were carried out and went beyond this member's own quota, by place in the slice. Other members have
    /// quotas of their own, so nothing in the state follows from it.
    pub over_quota: Vec<(usize, Shortage)>,
    pub membership: Vec<MembershipChanged>,
    pub counts: OpCounts,
}

/// Told of each step as it is done, by somebody who has a clock.
pub trait Observer {
    /// The entry at this place of the slice was applied; `kind` is `None` for those that are not requests.
    fn applied(&mut self, place: usize, kind: Option<RequestKind>, outcome: &Result<Outcome, RequestError>);
    /// The slice has been written to the backend.
    fn written(&mut self);
}

/// Nobody wants to know.
impl Observer for () {
    fn applied(&mut self, _: usize, _: Option<RequestKind>, _: &Result<Outcome, RequestError>) {}
    fn written(&mut self) {}
}

pub struct Machine {
    store: Store,
    leases: LeaseTable,
    alarms: Alarms,
    requests: Requests,
    members: Arc<Members>,
    conf_state: ConfState,
    cluster_version: Option<String>,
    downgrade: Option<String>,
    applied: AppliedPosition,
    checkpoints: Checkpoints,
    backend: Arc<dyn Backend>,
    /// This member's, for [`Applied::over_quota`] and nothing else.
    quota: Quota,
}

impl Machine {
    /// Reads what `backend` holds; an empty one gives an empty state at index 0.
    ///
    /// # Errors
    /// When the backend fails or a row is damaged.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Self, StateError> {
        let mut store = Store::open(Arc::clone(&backend))?;
        let leases = LeaseTable::open(backend.as_ref(), store.take_attached())?;
        let members = rows::read_members(backend.as_ref())?;
        let conf_state = rows::read_conf_state(backend.as_ref())?;
        if conf_state != rows::conf_state_of(&members) {
            // Written in one batch, always: one of the two is damaged.
            return Err(StateError::BadRow { table: Table::Member });
        }
        Ok(Machine {
            leases,
            alarms: Alarms::open(backend.as_ref())?,
            requests: Requests::open(backend.as_ref())?,
            members: Arc::new(members),
            conf_state,
            cluster_version: rows::read_cluster_version(backend.as_ref())?,
            downgrade: rows::read_downgrade(backend.as_ref())?,
            applied: AppliedPosition::read(backend.as_ref())?,
            checkpoints: Checkpoints::default(),
            store,
            backend,
            quota: Quota::default(),
        })
    }

    pub fn view(&self) -> View {
        View {
            applied: self.applied.index,
            term: self.applied.term,
            state_hash: self.applied.hash,
            checkpoints: self.checkpoints.clone(),
            mvcc: self.store.view(),
            leases: self.leases.clone(),
            alarms: self.alarms.clone(),
            requests: self.requests.clone(),
            members: Arc::clone(&self.members),
            conf_state: self.conf_state.clone(),
            cluster_version: self.cluster_version.clone(),
            downgrade: self.downgrade.clone(),
            backend: Arc::clone(&self.backend),
        }
    }

    pub fn applied(&self) -> LogIndex {
        self.applied.index
    }

    /// Of the last applied entry.
    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.applied.index, term: self.applied.term }
    }

    /// Another `Arc` after each change.
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    pub fn revision(&self) -> Revision {
        self.store.revision()
    }

    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The size that counts against the quota.
    pub fn db_size(&self) -> u64 {
        quota::db_size(self.store.bytes() + self.leases.bytes())
    }

    /// From now on entries that go beyond `quota` are reported. There is none at first.
    pub fn report_beyond(&mut self, quota: Quota) {
        self.quota = quota;
    }

    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The index that a crash at this moment would leave the backend at.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn durable_index(&self) -> Result<LogIndex, BackendError> {
        AppliedPosition::read_durable(self.backend.as_ref()).map(|position| position.index)
    }

    /// Applies `entries`, in order, and writes what they changed in one atomic batch.
    ///
    /// # Errors
    /// When the backend fails or an entry cannot be read: the member has to end.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Applied, StateError> {
        self.apply_observed(entries, &mut ())
    }

    /// As [`Machine::apply`], and tells `observer` what is done when.
    ///
    /// # Errors
    /// As [`Machine::apply`].
    pub fn apply_observed(&mut self, entries: &[Entry], observer: &mut dyn Observer) -> Result<Applied, StateError> {
        let mut applied = Applied::default();
        applied.outcomes.reserve(entries.len());
        let mut slice = self.store.begin();
        for (place, entry) in entries.iter().enumerate() {
            let mut kind = None;
            assert_eq!(entry.index, self.applied.index.0 + 1, "entries are applied in order, each once");
            let position = LogPosition::new(entry.index, entry.term);
            let changes_before = slice.batch().ops().len();
            let tag = RequestTag::from_context(&entry.context);
            let admission = tag.map_or(Admission::New, |tag| self.requests.admit(tag, position.index));
            let outcome = match entry.get_entry_type() {
                _ if admission != Admission::New => Err(RequestError::Repeated),
                EntryType::EntryNormal if entry.data.is_empty() => Ok(Outcome::Done),
                EntryType::EntryNormal => {
                    let request = RaftRequest::decode(entry.data.clone())
                        .map_err(|source| StateError::BadEntry { index: entry.index, source })?;
                    kind = request.op.as_ref().and_then(kind_of);
                    let mut step = Step {
                        entry: position,
                        slice: &mut slice,
                        leases: &mut self.leases,
                        alarms: &mut self.alarms,
                        quota: self.quota,
                        members: &mut self.members,
                        cluster_version: &mut self.cluster_version,
                        downgrade: &mut self.downgrade,
                        applied: &mut applied,
                    };
                    step.carry_out(request)?
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => match membership::change_of(entry)? {
                    Some(change) => {
                        let mut table = MembersInSlice {
                            members: &mut self.members,
                            conf_state: &mut self.conf_state,
                            batch: slice.batch(),
                        };
                        table.change(position, &change, &mut applied.membership)
                    }
                    None => Ok(Outcome::Done),
                },
            };
            observer.applied(place, kind, &outcome);
            let changes = &slice.batch().ops()[changes_before..];
            let hash = self.applied.hash.next(position, outcome.is_ok(), changes);
            self.applied = AppliedPosition { index: position.index, term: position.term, hash };
            self.checkpoints.applied(position.index.0, hash);
            self.requests.applied(position.index, &self.members);
            applied.outcomes.push(outcome);
        }
        if planted::is_on(Bug::AppliedIndexApart) {
            let mut apart = WriteBatch::new();
            self.applied.put(&mut apart);
            self.backend.write(&apart)?;
        } else {
            self.applied.put(slice.batch());
        }
        self.requests.write(slice.batch());
        applied.changes = slice.take_changes();
        applied.counts = slice.counts();
        slice.commit()?;
        observer.written();
        Ok(applied)
    }

    /// Whether a compaction left rows that nobody can read any more.
    pub fn has_compacted_rows(&self) -> bool {
        self.store.has_compacted_rows()
    }

    /// Lets the index forget a piece of them, once no view can read them. [`Machine::delete_swept`] deletes it.
    pub fn sweep_compacted(&mut self, rows_max: usize) {
        self.store.sweep_compacted(rows_max);
    }

    /// Deletes what the index has forgotten, up to `rows_max` rows.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn delete_swept(&mut self, rows_max: usize) -> Result<Deleted, StoreError> {
        self.store.delete_swept(rows_max)
    }

    /// Both, one after the other.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn delete_compacted(&mut self, rows_max: usize) -> Result<Deleted, StoreError> {
        self.store.delete_compacted(rows_max)
    }
}

/// What metrics call a request; `None` for what they do not tell apart.
fn kind_of(op: &Op) -> Option<RequestKind> {
    Some(match op {
        Op::Put(_) => RequestKind::Put,
        Op::DeleteRange(_) => RequestKind::DeleteRange,
        Op::Txn(_) => RequestKind::Txn,
        Op::Compact(_) => RequestKind::Compaction,
        Op::LeaseGrant(_) => RequestKind::LeaseGrant,
        Op::LeaseRevoke(_) | Op::LeaseExpire(_) => RequestKind::LeaseRevoke,
        Op::LeaseCheckpoint(_) => RequestKind::LeaseCheckpoint,
        Op::MemberAttributes(_) => RequestKind::ClusterMemberAttrSet,
        Op::ClusterVersion(_) => RequestKind::ClusterVersionSet,
        Op::Alarm(_) | Op::SpaceShortage(_) | Op::SpaceRegained(_) => RequestKind::Alarm,
        Op::Downgrade(_) => RequestKind::DowngradeInfoSet,
    })
}

/// One entry in the middle of a slice.
struct Step<'a, 's> {
    entry: LogPosition,
    slice: &'a mut Slice<'s>,
    leases: &'a mut LeaseTable,
    alarms: &'a mut Alarms,
    quota: Quota,
    members: &'a mut Arc<Members>,
    cluster_version: &'a mut Option<String>,
    downgrade: &'a mut Option<String>,
    applied: &'a mut Applied,
}

impl Step<'_, '_> {
    /// The inner error is the request's, the outer one ends the member.
    fn carry_out(&mut self, request: RaftRequest) -> Result<Result<Outcome, RequestError>, StateError> {
        let Some(op) = request.op else { return Ok(Ok(Outcome::Done)) };
        match self.alarms.fence(&op) {
            Some(Fence::NoSpace) => return Ok(Err(RequestError::NoSpace)),
            Some(Fence::Corrupt) => return Ok(Err(RequestError::Corrupt)),
            None => {}
        }
        let db_size = quota::db_size(self.slice.bytes() + self.leases.bytes());
        let shortage = self.quota.shortage(db_size, cost::of(&op));
        let outcome = self.carry_out_op(op);
        if let (Some(shortage), Ok(Ok(_))) = (shortage, &outcome) {
            self.applied.over_quota.push((self.applied.outcomes.len(), shortage));
        }
        outcome
    }

    fn carry_out_op(&mut self, op: Op) -> Result<Result<Outcome, RequestError>, StateError> {
        let outcome = match op {
            Op::Put(put) => self.slice.put(&put, self.leases).map(Outcome::Put),
            Op::DeleteRange(delete) => self.slice.delete_range(&delete, self.leases).map(Outcome::DeleteRange),
            Op::Txn(txn) => self.slice.txn(&txn, self.leases).map(Outcome::Txn),
            Op::Compact(compact) => self.compact(&compact),
            Op::LeaseGrant(grant) => return Ok(self.grant(&grant)),
            Op::LeaseRevoke(revoke) => return self.revoke(LeaseId(revoke.id)),
            // What a former leader's clock said may have been forwarded to this one, who has renewed the lease since.
            Op::LeaseExpire(LeaseExpire { term, .. }) | Op::LeaseCheckpoint(LeaseCheckpoints { term, .. })
                if term != self.entry.term.0 && !planted::is_on(Bug::StaleLeaderRevokes) =>
            {
                Ok(Outcome::Done)
            }
            Op::LeaseExpire(expire) => {
                for expired in &expire.leases {
                    let grant = Grant { lease: LeaseId(expired.id), index: LogIndex(expired.granted_index) };
                    // Else revoked by a client in the meantime: nothing is left to do.
                    if self.leases.is_valid(grant) {
                        let _ = self.revoke(grant.lease)?;
                    }
                }
                Ok(Outcome::Done)
            }
            Op::LeaseCheckpoint(request) => {
                for checkpoint in request.leases {
                    let (lease, remaining_secs) = (LeaseId(checkpoint.id), checkpoint.remaining_ttl_secs);
                    let grant = Grant { lease, index: LogIndex(checkpoint.granted_index) };
                    if self.leases.checkpoint(grant, remaining_secs, self.slice.batch()) {
                        self.applied.leases.push(LeaseChange::Checkpointed { lease, remaining_secs });
                    }
                }
                Ok(Outcome::Done)
            }
            Op::MemberAttributes(attributes) => {
                if let Some(row) = Arc::make_mut(self.members).describe(&attributes) {
                    rows::put_member(self.slice.batch(), &row);
                }
                Ok(Outcome::Done)
            }
            Op::ClusterVersion(version) => {
                rows::put_cluster_version(self.slice.batch(), &version.version);
                *self.cluster_version = Some(version.version);
                Ok(Outcome::Done)
            }
            Op::Alarm(request) => Ok(self.change_alarm(&request)),
            Op::SpaceShortage(report) => {
                let shortage = Shortage { db_size: report.db_size, needed_bytes: report.needed_bytes };
                self.raise(Alarm::no_space(MemberId(report.member_id)), Some(shortage));
                Ok(Outcome::Done)
            }
            Op::SpaceRegained(report) => {
                let alarm = Alarm::no_space(MemberId(report.member_id));
                if self.alarms.get(alarm).is_some_and(|raised| raised.index.0 == report.raised_index) {
                    self.clear(alarm);
                }
                Ok(Outcome::Done)
            }
            Op::Downgrade(asked) => return Ok(self.downgrade(&asked)),
        };
        match outcome {
            Ok(outcome) => Ok(Ok(outcome)),
            Err(MvccError::Store(error)) => Err(error.into()),
            Err(error) => Ok(Err(error.into())),
        }
    }

    fn compact(&mut self, compact: &pb::CompactionRequest) -> Result<Outcome, MvccError> {
        let place = self.applied.outcomes.len();
        let view = self.slice.view();
        let compacted = self.slice.compact(Revision(compact.revision));
        if compact.physical {
            // Also after Compacted: whoever asks for the physical part waits for the earlier ones.
            self.applied.waits_for_deletion.push(place);
        }
        let answer = compacted?;
        self.applied.compacted = Some(Revision(compact.revision));
        self.applied.compactions.push(Compacted { revision: Revision(compact.revision), view });
        Ok(Outcome::Compact(answer))
    }

    fn grant(&mut self, grant: &pb::LeaseGrantRequest) -> Result<Outcome, RequestError> {
        let lease = LeaseId(grant.id);
        let index = self.entry.index;
        let ttl_secs = self.leases.grant(lease, grant.ttl, index, self.slice.batch())?;
        self.applied.leases.push(LeaseChange::Granted { grant: Grant { lease, index }, ttl_secs });
        let header = Some(self.header());
        Ok(Outcome::LeaseGrant(pb::LeaseGrantResponse { header, id: lease.0, ttl: ttl_secs, error: String::new() }))
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<Result<Outcome, RequestError>, StateError> {
        let keys = match self.leases.revoke(lease, self.slice.batch()) {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error.into())),
        };
        self.slice.delete_keys(&keys);
        self.applied.leases.push(LeaseChange::Revoked { lease });
        Ok(Ok(Outcome::LeaseRevoke(pb::LeaseRevokeResponse { header: Some(self.header()) })))
    }

    /// Answers with the alarms that it is about. Reads come here only from a member of another release: ours answers them
    /// from its view.
    fn change_alarm(&mut self, request: &pb::AlarmRequest) -> Outcome {
        let alarm = Alarm { kind: request.alarm, member: MemberId(request.member_id) };
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms.list(request.alarm),
            Ok(AlarmAction::Activate) if alarm.kind != i32::from(pb::AlarmType::None) => {
                self.raise(alarm, None);
                vec![alarm.into()]
            }
            Ok(AlarmAction::Deactivate) if self.clear(alarm) => vec![alarm.into()],
            Ok(AlarmAction::Activate | AlarmAction::Deactivate) | Err(_) => Vec::new(),
        };
        Outcome::Alarm(pb::AlarmResponse { header: Some(self.header()), alarms })
    }

    fn raise(&mut self, alarm: Alarm, shortage: Option<Shortage>) {
        let raised = Raised { index: self.entry.index, shortage };
        if self.alarms.raise(alarm, raised, self.slice.batch()) {
            self.applied.alarms.push(AlarmChange::Raised { alarm, shortage });
        }
    }

    /// Answers whether it was on.
    fn clear(&mut self, alarm: Alarm) -> bool {
        let was_on = self.alarms.clear(alarm, self.slice.batch());
        if was_on {
            self.applied.alarms.push(AlarmChange::Cleared { alarm });
        }
        was_on
    }

    /// Looked at again here: of two that were begun at once, one is.
    fn downgrade(&mut self, asked: &pb::DowngradeInfo) -> Result<Outcome, RequestError> {
        let target = if asked.enabled {
            let target = Release::parse(&asked.target_version)?;
            downgrade::check(self.cluster_version.as_deref(), self.downgrade.as_deref(), target)?;
            Some(target.to_string())
        } else {
            None
        };
        rows::put_downgrade(self.slice.batch(), target.as_deref());
        *self.downgrade = target;
        Ok(Outcome::Done)
    }

    fn header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: self.slice.revision().0, ..Default::default() }
    }
}
