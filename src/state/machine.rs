//! Applies committed entries: the only code that changes a member's data.
//!
//! ```text
//!   entries of a slice ──▶ mvcc, leases, members ──▶ one WriteBatch (with the applied index) ──▶ backend
//! ```
//!
//! A request that fails leaves no trace but its entry. A backend that fails ends the member.

use crate::cast::RequestError;
use crate::ids::{LeaseId, LogIndex, Revision, Term};
use crate::lease::{Grant, LeaseTable, LeaseTableError};
use crate::membership::members::Members;
use crate::mvcc::{Changes, MvccError, Slice, Store, StoreError};
use crate::state::rows::{self, AppliedPosition};
use crate::state::{Outcome, View};
use castd_backend_api::{Backend, BackendError, Table, WriteBatch};
use castd_proto::castdpb::{ConfChange, ConfChangeV2, MembershipChange, RaftRequest};
use castd_proto::castdpb::{membership_change::Kind, raft_request::Op};
use castd_proto::etcdserverpb as pb;
use prost::Message as _;
use raft::eraftpb::{self, ConfState, Entry, EntryType};
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
    pub leases: Vec<LeaseChange>,
    pub membership: Vec<MembershipChanged>,
}

/// A change of the membership that was applied.
#[derive(Clone, Debug)]
pub struct MembershipChanged {
    pub kind: Kind,
    /// As it is now, or as it was when it was removed.
    pub member: pb::Member,
    /// What raft has to follow.
    pub raft: Option<eraftpb::ConfChangeV2>,
}

/// One piece of physical deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    pub rows: usize,
    /// Nothing compacted up to here is left.
    pub finished: Option<Revision>,
}

pub struct Machine {
    store: Store,
    leases: LeaseTable,
    members: Arc<Members>,
    conf_state: ConfState,
    cluster_version: Option<String>,
    applied: AppliedPosition,
    backend: Arc<dyn Backend>,
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
            members: Arc::new(members),
            conf_state,
            cluster_version: rows::read_cluster_version(backend.as_ref())?,
            applied: AppliedPosition::read(backend.as_ref())?,
            store,
            backend,
        })
    }

    pub fn view(&self) -> View {
        View {
            applied: self.applied.index,
            term: self.applied.term,
            mvcc: self.store.view(),
            leases: self.leases.clone(),
            members: Arc::clone(&self.members),
            conf_state: self.conf_state.clone(),
            cluster_version: self.cluster_version.clone(),
            backend: Arc::clone(&self.backend),
        }
    }

    pub fn applied(&self) -> LogIndex {
        self.applied.index
    }

    pub fn revision(&self) -> Revision {
        self.store.revision()
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
        let mut applied = Applied::default();
        applied.outcomes.reserve(entries.len());
        let mut slice = self.store.begin();
        for entry in entries {
            assert_eq!(entry.index, self.applied.index.0 + 1, "entries are applied in order, each once");
            let outcome = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => Ok(Outcome::Done),
                EntryType::EntryNormal => {
                    let request = RaftRequest::decode(entry.data.clone())
                        .map_err(|source| StateError::BadEntry { index: entry.index, source })?;
                    let mut step = Step {
                        entry: AppliedPosition { index: LogIndex(entry.index), term: Term(entry.term) },
                        slice: &mut slice,
                        leases: &mut self.leases,
                        members: &mut self.members,
                        cluster_version: &mut self.cluster_version,
                        applied: &mut applied,
                    };
                    step.carry_out(request)?
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => match membership_change(entry)? {
                    Some(change) => {
                        let mut table = MembersInSlice {
                            members: &mut self.members,
                            conf_state: &mut self.conf_state,
                            batch: slice.batch(),
                        };
                        table.change(LogIndex(entry.index), &change, &mut applied.membership)
                    }
                    None => Ok(Outcome::Done),
                },
            };
            applied.outcomes.push(outcome);
            self.applied = AppliedPosition { index: LogIndex(entry.index), term: Term(entry.term) };
        }
        self.applied.put(slice.batch());
        applied.changes = slice.take_changes();
        slice.commit()?;
        Ok(applied)
    }

    /// Whether a compaction left rows that nobody can read any more.
    pub fn has_compacted_rows(&self) -> bool {
        self.store.has_compacted_rows()
    }

    /// Deletes up to `rows_max` of them, once no view can read them.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn delete_compacted(&mut self, rows_max: usize) -> Result<Deleted, StoreError> {
        let rows = self.store.delete_compacted(rows_max)?;
        let finished = (!self.store.has_compacted_rows()).then(|| self.store.finished_compact_revision());
        Ok(Deleted { rows, finished })
    }
}

/// One entry in the middle of a slice.
struct Step<'a, 's> {
    entry: AppliedPosition,
    slice: &'a mut Slice<'s>,
    leases: &'a mut LeaseTable,
    members: &'a mut Arc<Members>,
    cluster_version: &'a mut Option<String>,
    applied: &'a mut Applied,
}

impl Step<'_, '_> {
    /// The inner error is the request's, the outer one ends the member.
    fn carry_out(&mut self, request: RaftRequest) -> Result<Result<Outcome, RequestError>, StateError> {
        let Some(op) = request.op else { return Ok(Ok(Outcome::Done)) };
        let outcome = match op {
            Op::Put(put) => self.slice.put(&put, self.leases).map(Outcome::Put),
            Op::DeleteRange(delete) => self.slice.delete_range(&delete, self.leases).map(Outcome::DeleteRange),
            Op::Txn(txn) => self.slice.txn(&txn, self.leases).map(Outcome::Txn),
            Op::Compact(compact) => self.compact(&compact),
            Op::LeaseGrant(grant) => return Ok(self.grant(&grant)),
            Op::LeaseRevoke(revoke) => return self.revoke(LeaseId(revoke.id)),
            Op::LeaseExpire(expire) => {
                let is_void = expire.term != self.entry.term.0;
                for expired in expire.leases.iter().filter(|_| !is_void) {
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
            // No member of this release proposes one.
            Op::Alarm(_) => return Ok(Err(RequestError::NotYet("castd does not have alarms yet"))),
        };
        match outcome {
            Ok(outcome) => Ok(Ok(outcome)),
            Err(MvccError::Store(error)) => Err(error.into()),
            Err(error) => Ok(Err(error.into())),
        }
    }

    fn compact(&mut self, compact: &pb::CompactionRequest) -> Result<Outcome, MvccError> {
        let place = self.applied.outcomes.len();
        let compacted = self.slice.compact(Revision(compact.revision));
        if compact.physical {
            // Also after Compacted: whoever asks for the physical part waits for the earlier ones.
            self.applied.waits_for_deletion.push(place);
        }
        let answer = compacted?;
        self.applied.compacted = Some(Revision(compact.revision));
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

    fn header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: self.slice.revision().0, ..Default::default() }
    }
}

/// The table of members, raft's configuration that follows from it, and the rows of both.
struct MembersInSlice<'a> {
    members: &'a mut Arc<Members>,
    conf_state: &'a mut ConfState,
    batch: &'a mut WriteBatch,
}

impl MembersInSlice<'_> {
    /// A change that is refused leaves table and raft as they were: raft hears of none.
    fn change(
        &mut self,
        index: LogIndex,
        change: &MembershipChange,
        changes: &mut Vec<MembershipChanged>,
    ) -> Result<Outcome, RequestError> {
        if change.checked_index > 0 && change.checked_index < self.members.changed_at().0 {
            return Ok(Outcome::MembershipOvertaken);
        }
        self.members.check(change)?;
        let changed = Arc::make_mut(self.members).change(index, change)?;
        *self.conf_state = rows::conf_state_of(self.members);
        rows::put_member(self.batch, &changed.row);
        rows::put_members_changed(self.batch, index);
        rows::put_conf_state(self.batch, self.conf_state);
        let raft = raft_change(changed.kind, &changed.member);
        changes.push(MembershipChanged { kind: changed.kind, member: changed.member, raft });
        Ok(Outcome::Members(self.members.list().cloned().collect()))
    }
}

/// What raft has to know of a change, if anything: it knows members by their ids only.
fn raft_change(kind: Kind, member: &pb::Member) -> Option<eraftpb::ConfChangeV2> {
    let change_type = match kind {
        Kind::Add if member.is_learner => eraftpb::ConfChangeType::AddLearnerNode,
        Kind::Add | Kind::Promote => eraftpb::ConfChangeType::AddNode,
        Kind::Remove => eraftpb::ConfChangeType::RemoveNode,
        Kind::Update => return None,
    };
    let mut single = eraftpb::ConfChangeSingle { node_id: member.id, ..Default::default() };
    single.set_change_type(change_type);
    let mut change = eraftpb::ConfChangeV2::default();
    change.mut_changes().push(single);
    Some(change)
}

/// The entry for a change of the membership. It is raft's business only that it is one: what raft does follows from the
/// change itself, once it was applied.
pub fn membership_entry(change: &MembershipChange) -> Vec<u8> {
    ConfChange { context: change.encode_to_vec().into(), ..Default::default() }.encode_to_vec()
}

/// Reads a membership entry with prost: rust-protobuf's decoder is not to be trusted with what came over a network.
/// `None` for one that says nothing: one change at a time never makes a joint configuration, which raft would leave so.
fn membership_change(entry: &Entry) -> Result<Option<MembershipChange>, StateError> {
    let bad = |source| StateError::BadEntry { index: entry.index, source };
    let context = if entry.get_entry_type() == EntryType::EntryConfChange {
        ConfChange::decode(entry.data.clone()).map_err(bad)?.context
    } else {
        ConfChangeV2::decode(entry.data.clone()).map_err(bad)?.context
    };
    if context.is_empty() { Ok(None) } else { MembershipChange::decode(context).map(Some).map_err(bad) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;
    use crate::membership::MembershipError;
    use castd_backend_memory::Memory;
    use raft::eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};

    fn change(kind: Kind, id: u64, is_learner: bool) -> MembershipChange {
        let member = pb::Member { id, is_learner, peer_urls: vec![format!("http://{id}")], ..Default::default() };
        MembershipChange { kind: kind.into(), member: Some(member), learners_max: 1, ..Default::default() }
    }

    /// What the change at the next index came to, and what raft is told.
    fn apply(
        machine: &mut Machine,
        change: &MembershipChange,
    ) -> (Result<Outcome, RequestError>, Option<(eraftpb::ConfChangeType, u64)>) {
        let data = membership_entry(change).into();
        let mut entry = Entry { index: machine.applied().0 + 1, term: 1, data, ..Default::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        let mut applied = machine.apply(&[entry]).expect("applied");
        let raft = applied.membership.pop().and_then(|changed| changed.raft);
        let raft = raft.map(|raft| (raft.get_changes()[0].get_change_type(), raft.get_changes()[0].node_id));
        (applied.outcomes.remove(0), raft)
    }

    fn conf_state(machine: &Machine) -> (Vec<u64>, Vec<u64>) {
        let conf_state = machine.view().conf_state;
        (conf_state.voters, conf_state.learners)
    }

    #[test]
    fn raft_is_told_what_the_table_of_members_says_and_nothing_of_what_was_refused() {
        let backend = Arc::new(Memory::new());
        let mut machine = Machine::open(backend.clone()).expect("opened");
        for (change, raft, expected) in [
            (change(Kind::Add, 1, false), Some((AddNode, 1)), (vec![1], vec![])),
            (change(Kind::Remove, 1, false), None, (vec![1], vec![])),
            (change(Kind::Add, 2, true), Some((AddLearnerNode, 2)), (vec![1], vec![2])),
            (change(Kind::Add, 3, true), None, (vec![1], vec![2])),
            (change(Kind::Update, 2, false), None, (vec![1], vec![2])),
            (change(Kind::Promote, 1, false), None, (vec![1], vec![2])),
            (change(Kind::Promote, 2, false), Some((AddNode, 2)), (vec![1, 2], vec![])),
            (change(Kind::Remove, 1, false), Some((RemoveNode, 1)), (vec![2], vec![])),
            (change(Kind::Add, 1, false), None, (vec![2], vec![])),
        ] {
            let (outcome, told) = apply(&mut machine, &change);
            assert_eq!((told, conf_state(&machine)), (raft, expected), "{change:?}: {outcome:?}");
            let restarted = Machine::open(backend.clone()).expect("rows are sound");
            assert_eq!(restarted.view().members, machine.view().members, "{change:?}");
            assert_eq!(conf_state(&restarted), conf_state(&machine), "{change:?}");
        }
        assert!(machine.view().members.is_removed(MemberId(1)));
    }

    #[test]
    fn a_change_checked_before_another_one_came_is_void() {
        let backend = Arc::new(Memory::new());
        let mut machine = Machine::open(backend.clone()).expect("opened");
        let checked_at = |index: u64, change: MembershipChange| MembershipChange { checked_index: index, ..change };
        let first = apply(&mut machine, &change(Kind::Add, 1, false)).0;
        assert!(matches!(first, Ok(Outcome::Members(members)) if members.len() == 1));
        assert!(apply(&mut machine, &checked_at(1, change(Kind::Add, 2, false))).0.is_ok());
        // Also after a restart: what is decided must not depend on who was there.
        let mut machine = Machine::open(backend).expect("opened");
        let overtaken = apply(&mut machine, &checked_at(1, change(Kind::Remove, 2, false)));
        assert!(matches!(overtaken, (Ok(Outcome::MembershipOvertaken), None)), "{overtaken:?}");
        assert_eq!(conf_state(&machine), (vec![1, 2], vec![]));
        // A refused change overtakes nobody.
        let refused = apply(&mut machine, &checked_at(2, change(Kind::Add, 2, false))).0;
        assert!(matches!(refused, Err(RequestError::Membership(MembershipError::IdExists))), "{refused:?}");
        let removed = apply(&mut machine, &checked_at(2, change(Kind::Remove, 2, false))).0;
        assert!(matches!(removed, Ok(Outcome::Members(_))), "{removed:?}");
    }

    #[test]
    fn members_and_configuration_that_contradict_each_other_are_damage() {
        let backend = Arc::new(Memory::new());
        let mut machine = Machine::open(backend.clone()).expect("opened");
        assert!(apply(&mut machine, &change(Kind::Add, 1, false)).0.is_ok());
        let mut batch = WriteBatch::new();
        rows::put_conf_state(&mut batch, &ConfState { voters: vec![1, 2], ..Default::default() });
        backend.write(&batch).expect("written");
        assert!(matches!(Machine::open(backend), Err(StateError::BadRow { table: Table::Member })));
    }
}
