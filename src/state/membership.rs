//! Entries that change the membership: the table of members follows, and raft's configuration from it.
//!
//! ```text
//!   ConfChange entry ──change_of──▶ MembersInSlice::change ──▶ rows, and what raft is told
//! ```
//! Raft knows members by their ids and only whether they vote. That is derived from the table, so that the two cannot
//! differ; a change that the table refuses does not exist for raft.

use crate::cast::RequestError;
use crate::ids::LogIndex;
use crate::membership::members::Members;
use crate::planted::{self, Bug};
use crate::raft::conf_change::AppliedConfChange;
use crate::raft::terms::LogPosition;
use crate::recovery::FIRST_TERM;
use crate::state::{Outcome, StateError, rows};
use castd_backend_api::WriteBatch;
use castd_proto::castdpb::{ConfChange, ConfChangeV2, MembershipChange, membership_change::Kind};
use castd_proto::etcdserverpb as pb;
use prost::Message as _;
use raft::eraftpb::{self, ConfState, Entry, EntryType};
use std::sync::Arc;

/// A change of the membership that was applied.
#[derive(Clone, Debug)]
pub struct MembershipChanged {
    pub kind: Kind,
    /// As it is now, or as it was when it was removed.
    pub member: pb::Member,
    /// What raft has to follow.
    pub raft: Option<AppliedConfChange>,
}

/// The table of members, raft's configuration that follows from it, and the rows of both.
pub(super) struct MembersInSlice<'a> {
    pub(super) members: &'a mut Arc<Members>,
    pub(super) conf_state: &'a mut ConfState,
    pub(super) batch: &'a mut WriteBatch,
}

impl MembersInSlice<'_> {
    /// A change that is refused leaves table and raft as they were: raft hears of none.
    pub(super) fn change(
        &mut self,
        position: LogPosition,
        change: &MembershipChange,
        changes: &mut Vec<MembershipChanged>,
    ) -> Result<Outcome, RequestError> {
        if is_overtaken(self.members, change) {
            return Ok(Outcome::MembershipOvertaken);
        }
        self.members.check(change)?;
        let index = position.index;
        let changed = Arc::make_mut(self.members).change(index, change)?;
        *self.conf_state = rows::conf_state_of(self.members);
        let is_forgotten = changed.kind == Kind::Remove && planted::is_on(Bug::ZombieMember);
        if !is_forgotten {
            rows::put_member(self.batch, &changed.row);
        }
        rows::put_members_changed(self.batch, index);
        if !is_forgotten {
            rows::put_conf_state(self.batch, self.conf_state);
        }
        let raft = raft_change(changed.kind, &changed.member).map(|change| {
            let conf_state = (position.term.0 != FIRST_TERM).then(|| self.conf_state.clone());
            AppliedConfChange { index, change, conf_state }
        });
        changes.push(MembershipChanged { kind: changed.kind, member: changed.member, raft });
        Ok(Outcome::Members(self.members.list().cloned().collect()))
    }
}

fn is_overtaken(members: &Members, change: &MembershipChange) -> bool {
    change.checked_index > 0 && change.checked_index < members.changed_at().0
}

/// What applying `entry`, one that changes the membership, would make of the table.
///
/// # Errors
/// When the entry cannot be read.
pub fn replay_membership(members: &mut Members, entry: &Entry) -> Result<(), StateError> {
    if let Some(change) = change_of(entry)?
        && !is_overtaken(members, &change)
    {
        // One that is refused changes nothing, here as there.
        let _ = members.change(LogIndex(entry.index), &change);
    }
    Ok(())
}

/// What raft has to know of a change, if anything: it knows members by their ids only.
fn raft_change(kind: Kind, member: &pb::Member) -> Option<eraftpb::ConfChangeV2> {
    let change_type = match kind {
        Kind::Add if member.is_learner && !planted::is_on(Bug::CountsLearners) => {
            eraftpb::ConfChangeType::AddLearnerNode
        }
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
pub(super) fn change_of(entry: &Entry) -> Result<Option<MembershipChange>, StateError> {
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
    use crate::state::Machine;
    use castd_backend_api::{Backend as _, Table};
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
        let raft =
            raft.map(|raft| (raft.change.get_changes()[0].get_change_type(), raft.change.get_changes()[0].node_id));
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
