//! The replicated alarms: which are on, and which requests they refuse.
//!
//! | alarm   | raised                                   | refuses                                         |
//! |---------|------------------------------------------|-------------------------------------------------|
//! | NOSPACE | by a member whose store is at its quota  | what needs room: puts, txns with a put, leases  |
//! | CORRUPT | by whoever found members to differ       | whatever changes keys or leases                 |
//!
//! An alarm belongs to a member, and holds for all of them. One that a member raised for want of room says what was missing,
//! so that the member can tell when there is room again. Copies are cheap, for views.

use crate::ids::{LogIndex, MemberId};
use crate::quota::{Shortage, cost};
use crate::state::StateError;
use castd_backend_api::{Backend, Table, WriteBatch};
use castd_proto::castdpb::{AlarmRow, SpaceShortage, raft_request::Op};
use castd_proto::etcdserverpb::{AlarmMember, AlarmType};
use prost::Message as _;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// One alarm. Its kind is a number: another release may know more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub kind: i32,
    pub member: MemberId,
}

impl Alarm {
    pub fn no_space(member: MemberId) -> Self {
        Alarm { kind: AlarmType::Nospace.into(), member }
    }

    /// As metrics and texts have it.
    pub fn name(self) -> String {
        AlarmType::try_from(self.kind).map_or_else(|_| self.kind.to_string(), |kind| kind.as_str_name().to_owned())
    }
}

impl From<Alarm> for AlarmMember {
    fn from(alarm: Alarm) -> AlarmMember {
        AlarmMember { member_id: alarm.member.0, alarm: alarm.kind }
    }
}

/// How an alarm came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// By this entry. One and the same alarm may be raised, cleared and raised again.
    pub index: LogIndex,
    /// Of room, if that is why; `None` if somebody raised it by hand.
    pub shortage: Option<Shortage>,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    NoSpace,
    Corrupt,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    on: Arc<BTreeMap<Alarm, Raised>>,
}

impl Alarms {
    /// # Errors
    /// When the backend fails or a row is damaged.
    pub fn open(backend: &dyn Backend) -> Result<Self, StateError> {
        let mut on = BTreeMap::new();
        let mut is_damaged = false;
        backend.scan(Table::Alarm, b"", b"", &mut |key, value| {
            let row = decode(key, value);
            is_damaged |= row.is_none();
            on.extend(row);
            ControlFlow::Continue(())
        })?;
        if is_damaged { Err(StateError::BadRow { table: Table::Alarm }) } else { Ok(Alarms { on: Arc::new(on) }) }
    }

    pub fn is_empty(&self) -> bool {
        self.on.is_empty()
    }

    /// All of them, by kind and then by member.
    pub fn iter(&self) -> impl Iterator<Item = Alarm> {
        self.on.keys().copied()
    }

    /// Those of `kind`, or all for [`AlarmType::None`].
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let every = kind == i32::from(AlarmType::None);
        self.iter().filter(|alarm| every || alarm.kind == kind).map(AlarmMember::from).collect()
    }

    pub fn contains(&self, alarm: Alarm) -> bool {
        self.on.contains_key(&alarm)
    }

    /// Whether any member has raised it.
    pub fn any(&self, kind: AlarmType) -> bool {
        let first = Alarm { kind: kind.into(), member: MemberId(0) };
        self.on.range(first..).next().is_some_and(|(alarm, _)| alarm.kind == first.kind)
    }

    pub fn get(&self, alarm: Alarm) -> Option<Raised> {
        self.on.get(&alarm).copied()
    }

    /// Answers whether it was off.
    pub fn raise(&mut self, alarm: Alarm, raised: Raised, batch: &mut WriteBatch) -> bool {
        if self.contains(alarm) {
            return false;
        }
        put_row(batch, alarm, raised);
        Arc::make_mut(&mut self.on).insert(alarm, raised);
        true
    }

    /// Answers whether it was on.
    pub fn clear(&mut self, alarm: Alarm, batch: &mut WriteBatch) -> bool {
        let was_on = self.contains(alarm);
        if was_on {
            batch.delete(Table::Alarm, row_key(alarm));
            Arc::make_mut(&mut self.on).remove(&alarm);
        }
        was_on
    }

    /// Whether an entry must not be carried out. The same on every member: it depends on the log alone.
    pub fn fence(&self, op: &Op) -> Option<Fence> {
        if self.is_empty() {
            return None;
        }
        let changes_data = match op {
            Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compact(_)
            | Op::LeaseGrant(_)
            | Op::LeaseRevoke(_)
            // The leader's keeper asks again and again, and gets its way when the alarm has gone.
            | Op::LeaseExpire(_) => true,
            Op::LeaseCheckpoint(_)
            | Op::Alarm(_)
            | Op::SpaceShortage(_)
            | Op::SpaceRegained(_)
            | Op::MemberAttributes(_)
            | Op::ClusterVersion(_)
            | Op::Downgrade(_) => false,
        };
        if changes_data && self.any(AlarmType::Corrupt) {
            return Some(Fence::Corrupt);
        }
        (self.any(AlarmType::Nospace) && cost::of(op) > 0).then_some(Fence::NoSpace)
    }

    /// Every row, for a portable snapshot.
    pub fn put_rows(&self, batch: &mut WriteBatch) {
        for (alarm, raised) in self.on.iter() {
            put_row(batch, *alarm, *raised);
        }
    }
}

fn row_key(alarm: Alarm) -> Vec<u8> {
    [&alarm.member.0.to_be_bytes()[..], &alarm.kind.to_be_bytes()[..]].concat()
}

fn put_row(batch: &mut WriteBatch, alarm: Alarm, raised: Raised) {
    let shortage = raised.shortage.map(|Shortage { db_size, needed_bytes }| SpaceShortage {
        member_id: alarm.member.0,
        db_size,
        needed_bytes,
    });
    let row = AlarmRow { member_id: alarm.member.0, alarm: alarm.kind, shortage, raised_index: raised.index.0 };
    batch.put(Table::Alarm, row_key(alarm), row.encode_to_vec());
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Alarm, Raised)> {
    let AlarmRow { member_id, alarm, shortage, raised_index } = AlarmRow::decode(value).ok()?;
    let alarm = Alarm { kind: alarm, member: MemberId(member_id) };
    let shortage = shortage.map(|SpaceShortage { db_size, needed_bytes, .. }| Shortage { db_size, needed_bytes });
    (row_key(alarm) == key).then_some((alarm, Raised { index: LogIndex(raised_index), shortage }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_backend_memory::Memory;
    use castd_proto::castdpb::{ClusterVersion, LeaseCheckpoints, LeaseExpire, MemberAttributes, SpaceRegained};
    use castd_proto::etcdserverpb as pb;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_that_comes_back_from_its_rows(
            steps in prop::collection::vec((any::<bool>(), 0..4_u64, -1..4_i32, any::<Option<(u64, u64)>>()), 1..40),
        ) {
            let backend = Memory::new();
            let (mut alarms, mut model) = (Alarms::default(), BTreeSet::new());
            for (raises, member, kind, shortage) in steps {
                let alarm = Alarm { kind, member: MemberId(member) };
                let shortage = shortage.map(|(db_size, needed_bytes)| Shortage { db_size, needed_bytes });
                let mut batch = WriteBatch::new();
                if raises {
                    let raised = Raised { index: LogIndex(model.len() as u64), shortage };
                    prop_assert_eq!(alarms.raise(alarm, raised, &mut batch), model.insert((kind, member)));
                } else {
                    prop_assert_eq!(alarms.clear(alarm, &mut batch), model.remove(&(kind, member)));
                }
                backend.write(&batch).unwrap();
                let listed = |kind| {
                    let listed = alarms.list(kind).into_iter();
                    listed.map(|alarm| (alarm.alarm, alarm.member_id)).collect::<Vec<_>>()
                };
                prop_assert_eq!(listed(0), model.iter().copied().collect::<Vec<_>>());
                let some = model.iter().copied().filter(|(kind, _)| *kind == 2);
                prop_assert_eq!(listed(2), some.collect::<Vec<_>>());
                prop_assert_eq!(alarms.any(AlarmType::Nospace), model.iter().any(|(kind, _)| *kind == 1));
                prop_assert_eq!(&Alarms::open(&backend).unwrap(), &alarms);

                let copy = Memory::new();
                let mut rows = WriteBatch::new();
                alarms.put_rows(&mut rows);
                copy.write(&rows).unwrap();
                prop_assert_eq!(&Alarms::open(&copy).unwrap(), &alarms);
            }
        }
    }

    fn by_hand(index: u64) -> Raised {
        Raised { index: LogIndex(index), shortage: None }
    }

    #[test]
    fn an_alarm_remembers_how_it_was_first_raised() {
        let (mut alarms, mut batch) = (Alarms::default(), WriteBatch::new());
        let [one, two] = [1, 2].map(|member| Alarm::no_space(MemberId(member)));
        let of_space = |index| Raised { shortage: Some(Shortage { db_size: 5, needed_bytes: 9 }), ..by_hand(index) };
        assert!(alarms.raise(one, of_space(3), &mut batch));
        assert!(alarms.raise(two, by_hand(4), &mut batch));
        assert!(!alarms.raise(two, of_space(5), &mut batch), "raised by hand it stays");
        assert_eq!([alarms.get(one), alarms.get(two)], [Some(of_space(3)), Some(by_hand(4))]);
    }

    #[test]
    fn a_damaged_row_is_an_error() {
        for key in [b"short".to_vec(), row_key(Alarm::no_space(MemberId(2)))] {
            let backend = Memory::new();
            let mut batch = WriteBatch::new();
            let row = AlarmRow { member_id: 1, alarm: 1, ..AlarmRow::default() };
            batch.put(Table::Alarm, key, row.encode_to_vec());
            backend.write(&batch).unwrap();
            assert!(matches!(Alarms::open(&backend), Err(StateError::BadRow { table: Table::Alarm })));
        }
    }

    /// What etcd's "capped" and "corrupt" appliers refuse, and nothing else.
    #[test]
    fn an_alarm_refuses_what_etcd_refuses() {
        let put = pb::PutRequest { key: "a".into(), ..Default::default() };
        let putting = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put.clone())) };
        let ops = [
            Op::Put(put),
            Op::Txn(pb::TxnRequest { failure: vec![putting], ..Default::default() }),
            Op::LeaseGrant(pb::LeaseGrantRequest::default()),
            Op::Txn(pb::TxnRequest::default()),
            Op::DeleteRange(pb::DeleteRangeRequest::default()),
            Op::Compact(pb::CompactionRequest::default()),
            Op::LeaseRevoke(pb::LeaseRevokeRequest::default()),
            Op::LeaseExpire(LeaseExpire::default()),
            Op::LeaseCheckpoint(LeaseCheckpoints::default()),
            Op::Alarm(pb::AlarmRequest::default()),
            Op::SpaceShortage(SpaceShortage::default()),
            Op::SpaceRegained(SpaceRegained::default()),
            Op::MemberAttributes(MemberAttributes::default()),
            Op::ClusterVersion(ClusterVersion::default()),
            Op::Downgrade(pb::DowngradeInfo::default()),
        ];
        let mut alarms = Alarms::default();
        assert!(ops.iter().all(|op| alarms.fence(op).is_none()));
        let mut batch = WriteBatch::new();
        alarms.raise(Alarm { kind: 7, member: MemberId(1) }, by_hand(1), &mut batch);
        assert!(ops.iter().all(|op| alarms.fence(op).is_none()), "an alarm nobody here knows");
        alarms.raise(Alarm::no_space(MemberId(1)), by_hand(2), &mut batch);
        let fences: Vec<_> = ops.iter().map(|op| alarms.fence(op)).collect();
        assert!(fences[..3].iter().all(|fence| *fence == Some(Fence::NoSpace)), "{fences:?}");
        assert!(fences[3..].iter().all(Option::is_none), "{fences:?}");
        alarms.raise(Alarm { kind: AlarmType::Corrupt.into(), member: MemberId(2) }, by_hand(3), &mut batch);
        let fences: Vec<_> = ops.iter().map(|op| alarms.fence(op)).collect();
        assert!(fences[..8].iter().all(|fence| *fence == Some(Fence::Corrupt)), "{fences:?}");
        assert!(fences[8..].iter().all(Option::is_none), "{fences:?}");
    }
}
