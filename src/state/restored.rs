//! A state that a client saved, as the state of the members of a new cluster.
//!
//! ```text
//!   saved file ──rows──▶ kept │ changed │ left out ──▶ snap/<1>-<members>.cast, from which each of them starts
//! ```
//! | rows                          | become                                                              |
//! |-------------------------------|---------------------------------------------------------------------|
//! | keys, users                   | what they were                                                      |
//! | leases, alarms                | what they were, as if the first log had granted and raised them     |
//! | members, removed ids          | the new members                                                     |
//! | requests carried out          | none: whoever would repeat one belongs to the old cluster           |
//! | revision, compaction          | what they were; or raised, and all of the past compacted            |
//! | cluster version, downgrade    | what they were                                                      |
//! | applied position              | the end of a first log: as many conf changes as there are members   |
//!
//! The rolling hash goes on from the old one over all that is new: members that were restored from other files, or in
//! another way, are found out.

use crate::ids::{ClusterId, LogIndex, Revision, Term};
use crate::membership::members::{MemberRow, Members};
use crate::mvcc::{FINISHED_ROW, REVISION_ROW, SCHEDULED_ROW, put_compacted};
use crate::raft::terms::LogPosition;
use crate::recovery::FIRST_TERM;
use crate::snapshot::{Row, SnapshotError, SnapshotFile, SnapshotReader, SnapshotStore};
use crate::state::StateError;
use crate::state::rows::{self, AppliedPosition};
use bytes::Bytes;
use castd_backend_api::{Op, Table, WriteBatch};
use castd_proto::castdpb::{AlarmRow, LeaseRow, SnapshotHeader};
use castd_proto::etcdserverpb::Member;
use prost::Message as _;
use raft::eraftpb::ConfState;
use std::io::Read;

#[derive(Debug, thiserror::Error)]
pub enum RestoredError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("revision {revision} cannot be raised by {bump}")]
    BumpTooLarge { revision: i64, bump: u64 },
}

/// The cluster that is to have the state.
#[derive(Clone, Debug)]
pub struct Founding {
    pub cluster: ClusterId,
    pub members: Vec<Member>,
    /// Raises the revision by so much and compacts all before it. Clients that saw revisions which the file does not have
    /// then see none of them twice.
    pub bump: Option<u64>,
}

/// What the members of the new cluster start from.
#[derive(Clone, Debug)]
pub struct Restored {
    pub file: SnapshotFile,
    pub position: LogPosition,
    pub conf_state: ConfState,
    pub revision: Revision,
}

/// Writes the state that `reader` gives into `store`; durable on return.
///
/// # Errors
/// When the file is damaged or the disk fails. Nothing with a final name is left then.
pub fn write(
    mut reader: SnapshotReader<impl Read>,
    store: &SnapshotStore,
    founding: &Founding,
) -> Result<Restored, RestoredError> {
    let first_log = LogPosition::new(founding.members.len() as u64, FIRST_TERM);
    let members = Members::restore(founding.members.iter().cloned().map(MemberRow::Set), first_log.index);
    let conf_state = rows::conf_state_of(&members);
    let saved = reader.header().clone();
    let raised = founding.bump.map(|bump| raise(saved.revision, bump)).transpose()?;
    let header = SnapshotHeader {
        cluster_id: founding.cluster.0,
        index: first_log.index.0,
        term: first_log.term.0,
        conf_state: Some(rows::conf_state_row(&conf_state)),
        revision: raised.map_or(saved.revision, |raised| raised.0),
        compact_revision: raised.map_or(saved.compact_revision, |raised| raised.0),
        ..saved
    };
    let mut new = WriteBatch::new();
    for member in members.rows() {
        rows::put_member(&mut new, &member);
    }
    rows::put_members_changed(&mut new, first_log.index);
    rows::put_conf_state(&mut new, &conf_state);
    if let Some(raised) = raised {
        put_compacted(&mut new, raised);
    }

    let mut taking = store.take(&header)?;
    let mut position = AppliedPosition::default();
    while let Some(chunk) = reader.next_rows()? {
        for Row { table, key, value } in chunk {
            if rows::is_position(table, &key) {
                position = rows::position_of(&value)?;
            }
            if rows::is_of_cluster(table, &key) || raised.is_some() && is_revision(table, &key) {
                continue;
            }
            let value = match table {
                Table::Lease => granted_at(value, first_log.index)?,
                Table::Alarm => raised_at(value, first_log.index)?,
                Table::Meta | Table::Kv | Table::Member | Table::Request | Table::Auth => value,
            };
            taking.writer().row(table, &key, &value)?;
        }
    }
    let hash = position.hash.next(first_log, true, new.ops());
    AppliedPosition { index: first_log.index, term: Term(FIRST_TERM), hash }.put(&mut new);
    for op in new.ops() {
        if let Op::Put { table, key, value } = op {
            taking.writer().row(*table, key, value)?;
        }
    }
    let (file, _) = taking.finish()?;
    Ok(Restored { file, position: first_log, conf_state, revision: Revision(header.revision) })
}

fn raise(revision: i64, bump: u64) -> Result<Revision, RestoredError> {
    let raised = i64::try_from(bump).ok().and_then(|bump| revision.checked_add(bump));
    raised.map(Revision).ok_or(RestoredError::BumpTooLarge { revision, bump })
}

fn is_revision(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && [REVISION_ROW, SCHEDULED_ROW, FINISHED_ROW].iter().any(|row| row.as_bytes() == key)
}

/// An index of the old log could be met again in the new one.
fn granted_at(row: Bytes, index: LogIndex) -> Result<Bytes, StateError> {
    let row = LeaseRow::decode(row).map_err(|_| StateError::BadRow { table: Table::Lease })?;
    Ok(LeaseRow { granted_index: index.0, ..row }.encode_to_vec().into())
}

fn raised_at(row: Bytes, index: LogIndex) -> Result<Bytes, StateError> {
    let row = AlarmRow::decode(row).map_err(|_| StateError::BadRow { table: Table::Alarm })?;
    Ok(AlarmRow { raised_index: index.0, ..row }.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaseId, MemberId};
    use crate::mvcc::MvccError;
    use crate::raft::tag::RequestTag;
    use crate::state::{Machine, View, portable};
    use castd_backend_memory::Memory;
    use castd_proto::castdpb::{MembershipChange, RaftRequest, membership_change::Kind, raft_request::Op as RaftOp};
    use castd_proto::etcdserverpb as pb;
    use raft::eraftpb::{Entry, EntryType};
    use std::sync::Arc;

    fn apply(machine: &mut Machine, op: RaftOp) {
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        let tag = RequestTag { member: MemberId(1), boot: 7, sequence: machine.applied().0 + 1 };
        let context = tag.to_bytes().to_vec().into();
        let entry = Entry { index: machine.applied().0 + 1, term: 5, data, context, ..Default::default() };
        machine.apply(&[entry]).expect("applied").outcomes.remove(0).expect("carried out");
    }

    fn add(machine: &mut Machine, id: u64) {
        let member = Member { id, peer_urls: vec![format!("http://{id}")], ..Default::default() };
        let change = MembershipChange { kind: Kind::Add.into(), member: Some(member), ..Default::default() };
        let data = crate::state::membership_entry(&change).into();
        let mut entry = Entry { index: machine.applied().0 + 1, term: 5, data, ..Default::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        machine.apply(&[entry]).expect("applied").outcomes.remove(0).expect("allowed");
    }

    /// Two members, a lease with a key, an alarm, a compaction, and history behind it.
    fn old() -> Machine {
        let mut machine = Machine::open(Arc::new(Memory::new())).expect("opened");
        add(&mut machine, 1);
        add(&mut machine, 2);
        let put = |key: &str, lease| {
            RaftOp::Put(pb::PutRequest { key: key.to_owned().into(), value: "v".into(), lease, ..Default::default() })
        };
        apply(&mut machine, RaftOp::LeaseGrant(pb::LeaseGrantRequest { id: 9, ttl: 600 }));
        for key in ["a", "b", "a", "c"] {
            apply(&mut machine, put(key, if key == "b" { 9 } else { 0 }));
        }
        apply(&mut machine, RaftOp::Compact(pb::CompactionRequest { revision: 3, physical: false }));
        let kind = pb::AlarmType::Nospace.into();
        let action = pb::alarm_request::AlarmAction::Activate.into();
        apply(&mut machine, RaftOp::Alarm(pb::AlarmRequest { action, member_id: 2, alarm: kind }));
        machine
    }

    fn founding(bump: Option<u64>) -> Founding {
        let member = |id: u64| Member { id, peer_urls: vec![format!("http://new{id}")], ..Default::default() };
        Founding { cluster: ClusterId(0xc1), members: [11, 12, 13].map(member).into(), bump }
    }

    /// The view of a member that starts from what is restored of `machine`.
    fn restored(machine: &Machine, founding: &Founding) -> (Restored, View) {
        let dir = tempfile::tempdir().expect("a directory");
        let exported = portable::export(dir.path(), &machine.view(), ClusterId(7), &|| true).expect("exported");
        let saved = exported.read(0, usize::MAX).expect("readable");
        let store = SnapshotStore::open(dir.path()).expect("opened");
        let restored = write(SnapshotReader::open(&saved[..]).expect("sound"), &store, founding).expect("restored");
        let backend = Arc::new(Memory::new());
        portable::fill(&restored.file, backend.as_ref()).expect("filled");
        let machine = Machine::open(backend).expect("opened");
        assert_eq!(machine.position(), restored.position);
        (restored, machine.view())
    }

    #[test]
    fn the_data_is_kept_and_the_cluster_is_the_new_one() {
        let old = old();
        let (restored, view) = restored(&old, &founding(None));
        assert_eq!((restored.position, restored.revision), (LogPosition::new(3, 1), old.revision()));
        assert_eq!(view.members.list().map(|member| member.id).collect::<Vec<_>>(), [11, 12, 13]);
        assert!(!view.members.is_removed(MemberId(1)) && view.members.get(MemberId(1)).is_none());
        assert_eq!((&view.conf_state.voters[..], &restored.conf_state), (&[11, 12, 13][..], &view.conf_state));
        assert!(view.requests.is_empty() && !old.view().requests.is_empty());
        let hash = |view: &View| view.mvcc.hash_kv(0).expect("hashed");
        assert_eq!(hash(&view), hash(&old.view()));
        let lease = view.leases.get(LeaseId(9)).expect("kept");
        assert_eq!((lease.ttl_secs, lease.granted, lease.keys.len()), (600, LogIndex(3), 1));
        assert_eq!(view.alarms.list(0), old.view().alarms.list(0));
    }

    #[test]
    fn a_raised_revision_leaves_no_past_that_could_be_read() {
        let old = old();
        let (restored, view) = restored(&old, &founding(Some(1_000)));
        let raised = Revision(old.revision().0 + 1_000);
        assert_eq!((restored.revision, view.mvcc.revision(), view.mvcc.compact_revision()), (raised, raised, raised));
        let read = |revision| {
            let all = pb::RangeRequest { key: "a".into(), range_end: "z".into(), revision, ..Default::default() };
            view.mvcc.range(&all).map(|outcome| outcome.kvs.len())
        };
        assert!(matches!((read(0), read(raised.0)), (Ok(3), Ok(3))));
        assert!(matches!(read(old.revision().0), Err(MvccError::Compacted { .. })));
        assert_eq!(view.leases.get(LeaseId(9)).expect("kept").keys.len(), 1);
    }

    #[test]
    fn members_restored_alike_have_one_hash_and_others_another() {
        let old = old();
        let hash = |founding: &Founding| restored(&old, founding).1.state_hash;
        assert_eq!(hash(&founding(None)), hash(&founding(None)));
        assert_ne!(hash(&founding(None)), hash(&founding(Some(1))));
        let mut other = founding(None);
        other.members[2].peer_urls = vec!["http://other".to_owned()];
        assert_ne!(hash(&founding(None)), hash(&other));
        let mut later = Machine::open(Arc::clone(old.view().backend())).expect("opened");
        apply(&mut later, RaftOp::ClusterVersion(castd_proto::castdpb::ClusterVersion { version: "3.7.0".to_owned() }));
        assert_ne!(hash(&founding(None)), restored(&later, &founding(None)).1.state_hash);
    }

    #[test]
    fn a_revision_that_cannot_be_raised_so_far_is_refused() {
        assert!(matches!(raise(5, u64::MAX), Err(RestoredError::BumpTooLarge { .. })));
        assert!(matches!(raise(5, i64::MAX as u64), Err(RestoredError::BumpTooLarge { .. })));
        assert_eq!(raise(5, 10).expect("it fits"), Revision(15));
    }
}
