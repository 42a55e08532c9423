//! How the state machine's own tables look in a backend.
//!
//! | table  | key                 | value                                           |
//! |--------|---------------------|-------------------------------------------------|
//! | Meta   | `applied`           | index, term, state hash: 8 bytes each, big-endian |
//! | Meta   | `conf_state`        | `castdpb.ConfStateRow`                          |
//! | Meta   | `cluster_version`   | text                                            |
//! | Meta   | `members_changed`   | index of the last change, 8 bytes, big-endian    |
//! | Meta   | `downgrade`         | text: the target; only while one is under way   |
//! | Member | id, 8 bytes         | `etcdserverpb.Member`, empty if removed for good |
//! | Lease  | see `lease`         | `castdpb.LeaseRow`                              |
//! | Alarm  | member, kind: 8 and 4 bytes | `castdpb.AlarmRow`, see `alarms`        |
//! | Request | member, boot: 8 bytes each | see `requests`                          |
//!
//! The key space's rows (`Kv`, and the compaction rows in `Meta`) belong to `mvcc`.

use crate::ids::{LogIndex, MemberId, Term};
use crate::membership::members::{MemberRow, Members};
use crate::raft::terms::LogPosition;
use crate::state::{StateError, StateHash, View};
use bytes::Bytes;
use castd_backend_api::{Backend, BackendError, Op, Table, WriteBatch};
use castd_proto::castdpb::ConfStateRow;
use castd_proto::etcdserverpb::Member;
use prost::Message as _;
use raft::eraftpb::ConfState;
use std::ops::ControlFlow;

const APPLIED: &[u8] = b"applied";
const CONF_STATE: &[u8] = b"conf_state";
const CLUSTER_VERSION: &[u8] = b"cluster_version";
const MEMBERS_CHANGED: &[u8] = b"members_changed";
const DOWNGRADE: &[u8] = b"downgrade";

/// Index and term of the last applied entry, and the hash of what all entries up to it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedPosition {
    pub index: LogIndex,
    pub term: Term,
    pub hash: StateHash,
}

impl AppliedPosition {
    fn encode(self) -> Bytes {
        [self.index.0, self.term.0, self.hash.0].map(u64::to_be_bytes).concat().into()
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let row: &[u8; 24] = row.try_into().ok()?;
        let mut numbers = row.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let (index, term) = (LogIndex(numbers.next()?), Term(numbers.next()?));
        Some(AppliedPosition { index, term, hash: StateHash(numbers.next()?) })
    }

    pub fn position(self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }

    /// What `backend` holds, as readers see it.
    ///
    /// # Errors
    /// When the backend fails or the row is damaged.
    pub fn read(backend: &dyn Backend) -> Result<Self, StateError> {
        let row = backend.get(Table::Meta, APPLIED)?;
        row.map_or(Ok(Self::default()), |row| position_of(&row))
    }

    /// What `backend` would hold after a crash.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn read_durable(backend: &dyn Backend) -> Result<Self, BackendError> {
        let row = backend.durable(Table::Meta, APPLIED)?;
        Ok(row.and_then(|row| Self::decode(&row)).unwrap_or_default())
    }

    pub fn put(self, batch: &mut WriteBatch) {
        batch.put(Table::Meta, APPLIED, self.encode());
    }
}

/// The row of [`AppliedPosition`], read.
pub fn position_of(value: &[u8]) -> Result<AppliedPosition, StateError> {
    AppliedPosition::decode(value).ok_or(StateError::BadRow { table: Table::Meta })
}

/// Whether the row belongs to one log and one membership, and not to the data.
pub fn is_of_cluster(table: Table, key: &[u8]) -> bool {
    match table {
        Table::Meta => [APPLIED, CONF_STATE, MEMBERS_CHANGED].contains(&key),
        Table::Member | Table::Request => true,
        Table::Kv | Table::Lease | Table::Alarm | Table::Auth => false,
    }
}

/// Whether this is the row of the cluster's version.
pub fn is_cluster_version(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && key == CLUSTER_VERSION
}

/// Whether this is the row of [`AppliedPosition`].
pub fn is_position(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && key == APPLIED
}

pub fn conf_state_row(conf_state: &ConfState) -> ConfStateRow {
    ConfStateRow {
        voters: conf_state.voters.clone(),
        learners: conf_state.learners.clone(),
        voters_outgoing: conf_state.voters_outgoing.clone(),
        learners_next: conf_state.learners_next.clone(),
        auto_leave: conf_state.auto_leave,
    }
}

pub fn put_conf_state(batch: &mut WriteBatch, conf_state: &ConfState) {
    batch.put(Table::Meta, CONF_STATE, conf_state_row(conf_state).encode_to_vec());
}

pub fn read_conf_state(backend: &dyn Backend) -> Result<ConfState, StateError> {
    let row = backend.get(Table::Meta, CONF_STATE)?.unwrap_or_default();
    let row = ConfStateRow::decode(row).map_err(|_| StateError::BadRow { table: Table::Meta })?;
    Ok(conf_state_from_row(row))
}

pub fn conf_state_from_row(row: ConfStateRow) -> ConfState {
    ConfState {
        voters: row.voters,
        learners: row.learners,
        voters_outgoing: row.voters_outgoing,
        learners_next: row.learners_next,
        auto_leave: row.auto_leave,
        ..Default::default()
    }
}

pub fn put_cluster_version(batch: &mut WriteBatch, version: &str) {
    batch.put(Table::Meta, CLUSTER_VERSION, version.to_owned().into_bytes());
}

pub fn read_cluster_version(backend: &dyn Backend) -> Result<Option<String>, StateError> {
    read_text(backend, CLUSTER_VERSION)
}

pub fn put_downgrade(batch: &mut WriteBatch, target: Option<&str>) {
    match target {
        Some(target) => batch.put(Table::Meta, DOWNGRADE, target.to_owned().into_bytes()),
        None => batch.delete(Table::Meta, DOWNGRADE),
    }
}

pub fn read_downgrade(backend: &dyn Backend) -> Result<Option<String>, StateError> {
    read_text(backend, DOWNGRADE)
}

fn read_text(backend: &dyn Backend, key: &[u8]) -> Result<Option<String>, StateError> {
    let row = backend.get(Table::Meta, key)?;
    let text = row.map(|row| String::from_utf8(row.to_vec())).transpose();
    text.map_err(|_| StateError::BadRow { table: Table::Meta })
}

pub fn put_member(batch: &mut WriteBatch, row: &MemberRow) {
    let (id, value) = match row {
        MemberRow::Set(member) => (member.id, member.encode_to_vec()),
        MemberRow::Removed(id) => (id.0, Vec::new()),
    };
    batch.put(Table::Member, id.to_be_bytes().to_vec(), value);
}

pub fn put_members_changed(batch: &mut WriteBatch, index: LogIndex) {
    batch.put(Table::Meta, MEMBERS_CHANGED, index.0.to_be_bytes().to_vec());
}

/// 0 if there is no such row: no change was ever checked against a later index.
fn read_members_changed(backend: &dyn Backend) -> Result<LogIndex, StateError> {
    let Some(row) = backend.get(Table::Meta, MEMBERS_CHANGED)? else { return Ok(LogIndex(0)) };
    let index = row.as_ref().try_into().map(u64::from_be_bytes);
    index.map(LogIndex).map_err(|_| StateError::BadRow { table: Table::Meta })
}

/// Who votes and who learns: raft's configuration follows from the table of members, and from nothing else.
pub fn conf_state_of(members: &Members) -> ConfState {
    ConfState {
        voters: members.voters().map(|member| member.id).collect(),
        learners: members.learners().map(|member| member.id).collect(),
        ..Default::default()
    }
}

pub fn read_members(backend: &dyn Backend) -> Result<Members, StateError> {
    let changed_at = read_members_changed(backend)?;
    let mut rows = Vec::new();
    let mut damaged = false;
    backend.scan(Table::Member, b"", b"", &mut |key, value| {
        let row = key.try_into().ok().map(u64::from_be_bytes).and_then(|id| match value {
            [] => Some(MemberRow::Removed(MemberId(id))),
            value => Member::decode(value).ok().map(MemberRow::Set),
        });
        damaged |= row.is_none();
        rows.extend(row);
        ControlFlow::Continue(())
    })?;
    if damaged { Err(StateError::BadRow { table: Table::Member }) } else { Ok(Members::restore(rows, changed_at)) }
}

/// Every row of the tables beside the key space, as of `view`, for a portable snapshot.
pub fn snapshot_rows(view: &View) -> Vec<Op> {
    let mut batch = WriteBatch::new();
    AppliedPosition { index: view.applied, term: view.term, hash: view.state_hash }.put(&mut batch);
    put_conf_state(&mut batch, &view.conf_state);
    if let Some(version) = &view.cluster_version {
        put_cluster_version(&mut batch, version);
    }
    put_members_changed(&mut batch, view.members.changed_at());
    if let Some(target) = &view.downgrade {
        put_downgrade(&mut batch, Some(target));
    }
    for row in view.members.rows() {
        put_member(&mut batch, &row);
    }
    view.leases.put_rows(&mut batch);
    view.alarms.put_rows(&mut batch);
    view.requests.put_rows(&mut batch);
    view.mvcc.put_meta_rows(&mut batch);
    batch.ops().to_vec()
}
