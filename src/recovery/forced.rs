//! `--force-new-cluster`: a member that has lost the others for good goes on alone, with its data, its id and that of the
//! cluster.
//!
//! ```text
//!   … the log as it is      ──▶      … the log as it is │ this member votes, if it did not │ each other one is removed
//!                                                                                     all of it committed
//! ```
//! One write says so, before anything else is changed: a crash leaves the old cluster or the new one, and a second try finds
//! out which. The ids of the others never come back: one that was not lost after all is refused.
//!
//! etcd drops what the log does not say to be committed. Here the note of a commit rides with the next write of the log,
//! so the last writes that were acknowledged may be without it. They are kept: an election that this member won would have
//! committed them, too. Dropped is only what would remove this member itself.
//!
//! A member that is alone already is left as it is.

use super::{FIRST_TERM, Recovered, RecoveryError, fit};
use crate::ids::{LogIndex, MemberId};
use crate::membership::MembershipError;
use crate::membership::members::Members;
use crate::raft::log::{LogError, LogStore, LogWrite};
use crate::state::{Machine, MembershipChanged, StateError, membership_entry, replay_membership};
use castd_proto::castdpb::{MembershipChange, membership_change::Kind};
use castd_proto::etcdserverpb::Member;
use raft::eraftpb::{Entry, EntryType, HardState};

/// Entries applied at once.
const SLICE: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum ForceError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(
        "this member was removed from the cluster, and its id never comes back, so it cannot go on alone: restore a snapshot \
         into a new data directory (`castutl snapshot restore`)"
    )]
    Removed,
    #[error("this member cannot go on alone: {0}")]
    Refused(MembershipError),
}

/// A member that is alone, and what had to be done about it.
pub struct Forced {
    pub recovered: Recovered,
    /// None if it was alone.
    pub changes: Vec<MembershipChanged>,
    /// Entries that were not known to be committed, and now are.
    pub kept: u64,
    /// Those at the end of the log that were not, and are gone.
    pub dropped: u64,
}

/// `own` is how this member is reached, should the log not tell. Durable on return.
///
/// # Errors
/// When the log or the backend fails, and when this member was removed.
pub fn go_on_alone(log: &mut dyn LogStore, mut machine: Machine, own: &Member) -> Result<Forced, ForceError> {
    let found = log.load(machine.applied())?;
    let commit = found.hard_state.commit.max(machine.applied().0);
    let mut members = machine.members().as_ref().clone();
    let mut end = machine.applied().0;
    for entry in &found.entries {
        if entry.get_entry_type() != EntryType::EntryNormal {
            let mut next = members.clone();
            replay_membership(&mut next, entry)?;
            if entry.index > commit && next.is_removed(MemberId(own.id)) {
                break;
            }
            members = next;
        }
        end = entry.index;
    }

    let changes = changes(members, own)?;
    if changes.is_empty() {
        return Ok(Forced { recovered: fit(log, machine)?, changes: Vec::new(), kept: 0, dropped: 0 });
    }
    let term = found.hard_state.term.max(FIRST_TERM);
    let added: Vec<Entry> = (end + 1..).zip(&changes).map(|(index, change)| entry(index, term, change)).collect();
    let hard_state = HardState { term, commit: end + added.len() as u64, ..found.hard_state };
    log.append(&LogWrite { entries: added.clone(), hard_state: Some(hard_state), must_sync: true })?;

    let (entries, _) = found.entries.split_at(found.entries.partition_point(|entry| entry.index <= end));
    for slice in entries.chunks(SLICE) {
        machine.apply(slice)?;
    }
    let applied = machine.apply(&added)?;
    let (kept, dropped) = (end.saturating_sub(commit), found.terms.last_index().saturating_sub(end));
    Ok(Forced { recovered: fit(log, machine)?, changes: applied.membership, kept, dropped })
}

/// What makes this member the only one of `members`, in an order in which there is always a voter.
fn changes(mut members: Members, own: &Member) -> Result<Vec<MembershipChange>, ForceError> {
    let id = MemberId(own.id);
    if members.is_removed(id) {
        return Err(ForceError::Removed);
    }
    let change = |kind: Kind, member: &Member| MembershipChange {
        kind: kind.into(),
        member: Some(member.clone()),
        ..MembershipChange::default()
    };
    let mut changes = Vec::new();
    match members.get(id) {
        None => changes.push(change(Kind::Add, &Member { is_learner: false, ..own.clone() })),
        Some(known) if known.is_learner => changes.push(change(Kind::Promote, known)),
        Some(_) => {}
    }
    changes.extend(members.list().filter(|member| member.id != own.id).map(|other| change(Kind::Remove, other)));
    // Refused now rather than when they are in the log.
    for change in &changes {
        members.change(LogIndex(0), change).map_err(ForceError::Refused)?;
    }
    Ok(changes)
}

fn entry(index: u64, term: u64, change: &MembershipChange) -> Entry {
    let mut entry = Entry { index, term, data: membership_entry(change).into(), ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChange);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log::MemoryLog;
    use crate::recovery::{begin, initial_member, recover};
    use castd_backend_api::Backend;
    use castd_backend_memory::Memory;
    use castd_proto::castdpb::{RaftRequest, raft_request::Op};
    use castd_proto::etcdserverpb::PutRequest;
    use prost::Message as _;
    use std::sync::Arc;

    const OWN: u64 = 2;

    fn own() -> Member {
        initial_member(MemberId(OWN), &["http://2".to_owned()])
    }

    fn put(index: u64) -> Entry {
        let put = PutRequest { key: format!("k{index}").into(), value: "v".into(), ..Default::default() };
        let data = RaftRequest { op: Some(Op::Put(put)), ..Default::default() }.encode_to_vec().into();
        Entry { index, term: 4, data, ..Entry::default() }
    }

    /// Members 1, 2 and 3, puts up to `last`, of which those up to `commit` are known to be committed.
    fn log(last: u64, commit: u64) -> MemoryLog {
        let mut log = MemoryLog::new();
        let members = [1, 2, 3].map(|id| initial_member(MemberId(id), &[format!("http://{id}")]));
        begin(&mut log, &members).expect("begun");
        let hard_state = Some(HardState { term: 5, vote: 1, commit, ..HardState::default() });
        log.append(&LogWrite { entries: (4..=last).map(put).collect(), hard_state, must_sync: true }).expect("written");
        log
    }

    fn open(backend: &Arc<Memory>) -> Machine {
        Machine::open(Arc::clone(backend) as Arc<dyn Backend>).expect("opened")
    }

    fn kinds(changes: &[MembershipChanged]) -> Vec<(Kind, u64)> {
        changes.iter().map(|change| (change.kind, change.member.id)).collect()
    }

    fn keys(machine: &Machine) -> i64 {
        machine.revision().0 - 1
    }

    #[test]
    fn a_member_of_three_goes_on_alone_with_all_that_it_has() {
        let (mut log, backend) = (log(20, 15), Arc::new(Memory::new()));
        let Forced { recovered, changes, kept, dropped } =
            go_on_alone(&mut log, open(&backend), &own()).expect("alone");
        assert_eq!((kept, dropped), (5, 0));
        assert_eq!(kinds(&changes), [(Kind::Remove, 1), (Kind::Remove, 3)]);
        let Recovered { machine, window } = recovered;
        assert_eq!((machine.applied(), keys(&machine)), (LogIndex(22), 17));
        assert_eq!((machine.view().conf_state.voters, window.hard_state().commit), (vec![OWN], 22));
        assert!(machine.members().is_removed(MemberId(1)) && machine.members().is_removed(MemberId(3)));
        assert_eq!((window.hard_state().term, window.terms().last_index()), (5, 22));

        // Again, also with a backend that has to be filled from the log: nothing more is written.
        let again = go_on_alone(&mut log, open(&backend), &own()).expect("alone");
        assert!(again.changes.is_empty());
        assert_eq!((again.recovered.machine.applied(), keys(&again.recovered.machine)), (LogIndex(22), 17));
        let empty = go_on_alone(&mut log, open(&Arc::new(Memory::new())), &own()).expect("alone");
        assert!(empty.changes.is_empty());
        assert_eq!((empty.recovered.machine.applied(), empty.recovered.window.hard_state().commit), (LogIndex(0), 22));
    }

    #[test]
    fn an_entry_that_may_have_been_about_to_remove_this_member_is_dropped_with_what_follows() {
        let (mut log, backend) = (log(10, 10), Arc::new(Memory::new()));
        let removal = MembershipChange { kind: Kind::Remove.into(), member: Some(own()), ..Default::default() };
        let entries = vec![entry(11, 5, &removal), Entry { term: 5, ..put(12) }];
        log.append(&LogWrite { entries, hard_state: None, must_sync: true }).expect("written");
        let known_to_be_committed = {
            let mut log = log.clone();
            let hard_state = Some(HardState { term: 5, vote: 1, commit: 11, ..HardState::default() });
            log.append(&LogWrite { entries: vec![], hard_state, must_sync: true }).expect("written");
            go_on_alone(&mut log, open(&Arc::new(Memory::new())), &own())
        };
        assert!(matches!(known_to_be_committed, Err(ForceError::Removed)));
        let Forced { recovered, changes, kept, dropped } =
            go_on_alone(&mut log, open(&backend), &own()).expect("alone");
        assert_eq!((kinds(&changes).len(), kept, dropped), (2, 0, 2));
        assert_eq!((recovered.machine.applied(), keys(&recovered.machine)), (LogIndex(12), 7));
        assert_eq!(recovered.window.terms().last_index(), 12);
    }

    #[test]
    fn a_crash_leaves_a_member_of_the_old_cluster_or_a_lone_one() {
        let (mut log, backend) = (log(20, 15), Arc::new(Memory::new()));
        let mut broken = log.clone();
        broken.break_disk();
        assert!(go_on_alone(&mut broken, open(&backend), &own()).is_err());
        broken.crash(usize::MAX);
        let before = recover(&mut broken, Arc::clone(&backend) as Arc<dyn Backend>).expect("sound");
        assert_eq!((before.machine.applied(), before.window.hard_state().commit), (LogIndex(0), 15));

        // The log has it, the backend does not.
        go_on_alone(&mut log, open(&Arc::new(Memory::new())), &own()).expect("alone");
        log.crash(0);
        let Recovered { machine, window } = recover(&mut log, backend).expect("sound");
        assert_eq!((machine.applied(), window.hard_state().commit), (LogIndex(0), 22));
    }

    /// From three voters and what `prepare` makes of them, half of which has been applied.
    fn alone_from(prepare: &[(Kind, u64, bool)]) -> Result<Vec<(Kind, u64)>, ForceError> {
        let (mut log, mut machine) = (log(3, 3), open(&Arc::new(Memory::new())));
        let entries: Vec<Entry> = (4..)
            .zip(prepare)
            .map(|(index, (kind, id, is_learner))| {
                let member =
                    Member { is_learner: *is_learner, ..initial_member(MemberId(*id), &[format!("http://{id}")]) };
                let (kind, member) = ((*kind).into(), Some(member));
                entry(index, 4, &MembershipChange { kind, member, learners_max: 9, ..Default::default() })
            })
            .collect();
        let commit = 3 + entries.len() as u64;
        let hard_state = Some(HardState { term: 5, vote: 1, commit, ..HardState::default() });
        log.append(&LogWrite { entries, hard_state, must_sync: true })?;
        let all = log.load(LogIndex(0))?.entries;
        machine.apply(&all[..3 + prepare.len() / 2])?;
        let own = initial_member(MemberId(9), &["http://9".to_owned()]);
        let Forced { recovered, changes, .. } = go_on_alone(&mut log, machine, &own)?;
        assert_eq!(recovered.machine.view().conf_state.voters, [9]);
        assert_eq!(recovered.machine.members().list().count(), 1);
        Ok(kinds(&changes))
    }

    #[test]
    fn a_learner_and_one_that_the_log_does_not_know_yet_become_voters() {
        let rest = [(Kind::Remove, 1), (Kind::Remove, 2), (Kind::Remove, 3)];
        let unknown = alone_from(&[]).expect("alone");
        assert_eq!(unknown, [&[(Kind::Add, 9)][..], &rest].concat());
        let learner = alone_from(&[(Kind::Add, 9, true)]).expect("alone");
        assert_eq!(learner, [&[(Kind::Promote, 9)][..], &rest].concat());
        let beside_a_learner = alone_from(&[(Kind::Add, 9, false), (Kind::Add, 4, true)]).expect("alone");
        assert_eq!(beside_a_learner, [&rest[..], &[(Kind::Remove, 4)]].concat());
    }

    #[test]
    fn a_member_that_was_removed_does_not_come_back() {
        let removed = alone_from(&[(Kind::Add, 9, false), (Kind::Remove, 9, false)]);
        assert!(matches!(removed, Err(ForceError::Removed)), "{:?}", removed.err());
    }

    /// One that has joined and was never sent anything.
    #[test]
    fn a_member_without_a_log_begins_one() {
        let mut log = MemoryLog::new();
        crate::recovery::begin_joining(&mut log).expect("begun");
        let forced = go_on_alone(&mut log, open(&Arc::new(Memory::new())), &own()).expect("alone");
        assert_eq!(kinds(&forced.changes), [(Kind::Add, OWN)]);
        assert_eq!(forced.recovered.machine.view().conf_state.voters, [OWN]);
    }
}
