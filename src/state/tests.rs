//! The machine as a whole: alarms, what they refuse, and how large it says it is.

mod repeated;

use super::*;
use crate::cast::RequestError;
use crate::ids::{MemberId, Term};
use crate::quota::{Quota, Shortage, db_size};
use crate::snapshot::SnapshotStore;
use crate::storage::{StorageKind, Tuning, open_backend};
use castd_backend_api::{Backend, Table};
use castd_backend_memory::Memory;
use castd_proto::castdpb::raft_request::Op;
use castd_proto::castdpb::{GrantedLease, LeaseCheckpoints, LeaseExpire, RaftRequest, SpaceRegained, SpaceShortage};
use castd_proto::etcdserverpb::{AlarmType, alarm_request::AlarmAction};
use prost::Message as _;
use raft::eraftpb::Entry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::ControlFlow;
use std::sync::Arc;

const TERM: u64 = 2;
const ME: MemberId = MemberId(7);

fn entries(machine: &Machine, ops: Vec<Op>) -> Vec<Entry> {
    let first = machine.applied().0 + 1;
    let entry = |(index, op)| {
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        Entry { index, term: TERM, data, ..Default::default() }
    };
    (first..).zip(ops).map(entry).collect()
}

fn apply_all(machine: &mut Machine, ops: Vec<Op>) -> Applied {
    let entries = entries(machine, ops);
    machine.apply(&entries).expect("a sound backend")
}

fn apply(machine: &mut Machine, op: Op) -> Result<Outcome, RequestError> {
    apply_all(machine, vec![op]).outcomes.remove(0)
}

fn put(key: &str, value_bytes: usize) -> Op {
    Op::Put(pb::PutRequest { key: key.to_owned().into(), value: vec![b'v'; value_bytes].into(), ..Default::default() })
}

fn grant(id: i64) -> Op {
    Op::LeaseGrant(pb::LeaseGrantRequest { id, ttl: 60 })
}

fn compact(revision: i64) -> Op {
    Op::Compact(pb::CompactionRequest { revision, physical: false })
}

fn alarm(action: AlarmAction, member: u64, kind: AlarmType) -> Op {
    Op::Alarm(pb::AlarmRequest { action: action.into(), member_id: member, alarm: kind.into() })
}

fn listed(outcome: Result<Outcome, RequestError>) -> Vec<(u64, i32)> {
    let Ok(Outcome::Alarm(answer)) = outcome else { panic!("not a list of alarms: {outcome:?}") };
    answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
}

fn machine() -> (Arc<Memory>, Machine) {
    let backend = Arc::new(Memory::new());
    let machine = Machine::open(backend.clone()).expect("empty");
    (backend, machine)
}

#[test]
fn alarms_come_back_after_a_restart_and_from_a_snapshot() {
    let (backend, mut machine) = machine();
    let raised = listed(apply(&mut machine, alarm(AlarmAction::Activate, 3, AlarmType::Corrupt)));
    assert_eq!(raised, [(3, 2)]);
    let shortage = SpaceShortage { member_id: ME.0, db_size: 4_096, needed_bytes: 9_000 };
    apply(&mut machine, Op::SpaceShortage(shortage)).expect("done");
    let expected = machine.alarms().clone();
    let how = expected.get(Alarm::no_space(ME)).expect("it is on");
    assert_eq!(
        how,
        Raised { index: machine.applied(), shortage: Some(Shortage { db_size: 4_096, needed_bytes: 9_000 }) }
    );

    let dir = tempfile::tempdir().expect("a directory");
    let snapshots = SnapshotStore::open(dir.path()).expect("opened");
    portable::take(&snapshots, &machine.view(), crate::ids::ClusterId(7)).expect("taken");
    drop(machine);
    let mut reopened = Machine::open(backend).expect("sound");
    assert_eq!(reopened.alarms(), &expected);
    let list = listed(apply(&mut reopened, alarm(AlarmAction::Get, 0, AlarmType::None)));
    assert_eq!(list, [(ME.0, 1), (3, 2)]);

    let copy = Arc::new(Memory::new());
    let (file, _) = snapshots.newest_sound(|_| true).expect("readable").expect("there is one");
    portable::fill(&file, copy.as_ref()).expect("filled");
    assert_eq!(Machine::open(copy).expect("sound").alarms(), &expected);
}

#[test]
fn what_an_alarm_refuses_leaves_no_trace() {
    let (_, mut machine) = machine();
    apply_all(&mut machine, vec![put("a", 1), grant(1), alarm(AlarmAction::Activate, 9, AlarmType::Nospace)]);
    let (before, size) = (machine.revision(), machine.db_size());
    for op in [put("b", 1), grant(2)] {
        assert!(matches!(apply(&mut machine, op), Err(RequestError::NoSpace)));
    }
    assert_eq!((machine.revision(), machine.db_size()), (before, size));
    assert!(machine.view().leases.get(crate::ids::LeaseId(2)).is_none());
    // In the very slice in which it was raised, too, and no longer in which it was cleared.
    let clear = || alarm(AlarmAction::Deactivate, 9, AlarmType::Nospace);
    let raise = || alarm(AlarmAction::Activate, 9, AlarmType::Nospace);
    let outcomes = apply_all(&mut machine, vec![clear(), put("b", 1), raise(), put("c", 1), clear()]).outcomes;
    let done: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, true, true, false, true]);
}

/// The keeper asks again until the leases are gone.
#[test]
fn leases_do_not_run_out_in_a_corrupt_store() {
    let (_, mut machine) = machine();
    apply(&mut machine, grant(1)).expect("granted");
    let leases = vec![GrantedLease { id: 1, granted_index: machine.applied().0, remaining_ttl_secs: 0 }];
    let expire = || Op::LeaseExpire(LeaseExpire { leases: leases.clone(), term: Term(TERM).0 });
    apply(&mut machine, alarm(AlarmAction::Activate, 9, AlarmType::Corrupt)).expect("raised");
    assert!(matches!(apply(&mut machine, expire()), Err(RequestError::Corrupt)));
    assert_eq!(machine.view().leases.len(), 1);
    apply(&mut machine, alarm(AlarmAction::Deactivate, 9, AlarmType::Corrupt)).expect("cleared");
    apply(&mut machine, alarm(AlarmAction::Activate, 9, AlarmType::Nospace)).expect("raised");
    apply(&mut machine, expire()).expect("it needs no room");
    assert!(machine.view().leases.is_empty());
}

/// A former leader's proposal may be forwarded to the next one, which has renewed the lease meanwhile.
#[test]
fn what_the_clock_of_a_former_leader_said_is_void() {
    let (_, mut machine) = machine();
    apply(&mut machine, grant(1)).expect("granted");
    let granted = machine.applied().0;
    let leases = |remaining_ttl_secs| vec![GrantedLease { id: 1, granted_index: granted, remaining_ttl_secs }];
    let expire = |term| Op::LeaseExpire(LeaseExpire { leases: leases(0), term });
    let checkpoint = |term, left| Op::LeaseCheckpoint(LeaseCheckpoints { leases: leases(left), term });
    let former = apply_all(&mut machine, vec![expire(TERM - 1), checkpoint(TERM - 1, 5), checkpoint(0, 5)]);
    assert!(former.leases.is_empty() && former.outcomes.iter().all(Result::is_ok));
    let left = |machine: &Machine| machine.view().leases.get(crate::ids::LeaseId(1)).map(|it| it.remaining_ttl_secs);
    assert_eq!(left(&machine), Some(0), "all of it");
    apply(&mut machine, checkpoint(TERM, 5)).expect("done");
    assert_eq!(left(&machine), Some(5));
    apply(&mut machine, expire(TERM)).expect("done");
    assert_eq!(left(&machine), None);
}

#[test]
fn room_that_came_back_clears_the_alarm_that_was_raised_for_it_and_no_other() {
    let (_, mut machine) = machine();
    let shortage = || Op::SpaceShortage(SpaceShortage { member_id: ME.0, db_size: 1, needed_bytes: 2 });
    apply(&mut machine, shortage()).expect("raised");
    let first = machine.applied().0;
    let regained = |raised_index| Op::SpaceRegained(SpaceRegained { member_id: ME.0, raised_index });
    apply_all(&mut machine, vec![alarm(AlarmAction::Deactivate, ME.0, AlarmType::Nospace), shortage()]);
    let second = machine.applied().0;
    let late = apply_all(&mut machine, vec![regained(first)]);
    assert!(late.alarms.is_empty() && machine.alarms().contains(Alarm::no_space(ME)));
    let cleared = apply_all(&mut machine, vec![regained(second), regained(second)]);
    assert_eq!(cleared.alarms, [AlarmChange::Cleared { alarm: Alarm::no_space(ME) }]);
    assert!(machine.alarms().is_empty());
}

/// Members have quotas of their own, and must not differ by them.
#[test]
fn a_quota_changes_what_is_reported_and_nothing_else() {
    let run = |quota: Option<u64>| {
        let (backend, mut machine) = machine();
        machine.report_beyond(Quota::new(quota));
        let ops = vec![put("a", 3_000), put("b", 3_000), grant(1), compact(2), put("c", 10), compact(99)];
        let applied = apply_all(&mut machine, ops);
        let outcomes: Vec<String> = applied.outcomes.iter().map(|outcome| format!("{outcome:?}")).collect();
        let mut rows = Vec::new();
        for table in Table::ALL {
            let scanned = backend.scan(table, b"", b"", &mut |key, value| {
                rows.push((table, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            });
            scanned.expect("memory can be read");
        }
        (applied.over_quota, outcomes, rows)
    };
    let (none, outcomes, rows) = run(None);
    let (some, same_outcomes, same_rows) = run(Some(2 * 4_096));
    assert_eq!((&outcomes, &rows), (&same_outcomes, &same_rows));
    assert!(none.is_empty());
    let places: Vec<usize> = some.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [2, 4], "the lease and the last put; what costs nothing, or failed, is not reported");
    assert_eq!(some[0].1, Shortage { db_size: 8_192, needed_bytes: 8_192 + 64 });
}

/// What the machine says it takes, against a count of all rows, after each of many random steps, restarts among them.
#[test]
fn the_size_is_that_of_all_rows_on_every_engine() {
    for kind in StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in()) {
        for seed in 0..6 {
            let dir = tempfile::tempdir().expect("a directory");
            let open = || open_backend(kind, &dir.path().join("state"), Tuning::default()).expect("opened");
            let mut rng = StdRng::seed_from_u64(seed);
            let mut backend = open();
            let mut machine = Machine::open(backend.clone()).expect("empty");
            let mut largest = 0;
            for _ in 0..150 {
                match rng.random_range(0..20) {
                    0..12 => {
                        let ops = (0..rng.random_range(1..5)).map(|_| random_op(&mut rng, &machine)).collect();
                        apply_all(&mut machine, ops);
                    }
                    12..19 => {
                        machine.delete_compacted(rng.random_range(1..30)).expect("deleted");
                    }
                    _ if kind == StorageKind::Memory => {
                        machine = Machine::open(backend.clone()).expect("sound");
                    }
                    _ => {
                        backend.flush().expect("flushed");
                        drop(machine);
                        drop(backend);
                        backend = open();
                        machine = Machine::open(backend.clone()).expect("sound");
                    }
                }
                let counted = count(backend.as_ref());
                largest = largest.max(counted);
                let size = machine.view().size();
                assert_eq!(
                    (size.db_size, machine.db_size()),
                    (db_size(counted), db_size(counted)),
                    "{kind}, seed {seed}"
                );
                assert!(size.in_use <= size.db_size && size.in_use > 0);
            }
            let revision = machine.revision().0;
            let _ = apply(&mut machine, compact(revision));
            while machine.has_compacted_rows() {
                machine.delete_compacted(10).expect("deleted");
            }
            let size = machine.view().size();
            assert_eq!(size.in_use, size.db_size, "nothing waits for deletion");
            assert_eq!(size.db_size, db_size(count(backend.as_ref())));
            assert!(size.db_size < db_size(largest), "{kind}, seed {seed}: nothing was given back of {largest} bytes");
        }
    }
}

fn random_op(rng: &mut StdRng, machine: &Machine) -> Op {
    let key = format!("key{}", rng.random_range(0..8));
    let lease = rng.random_range(1..4);
    match rng.random_range(0..16) {
        0..6 => put(&key, rng.random_range(0..900)),
        6 | 7 => Op::Put(pb::PutRequest { key: key.into(), lease, ..Default::default() }),
        8 => Op::Put(pb::PutRequest { key: key.into(), ignore_value: true, ..Default::default() }),
        9 => Op::DeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() }),
        10 => {
            let put = pb::PutRequest { key: key.into(), value: vec![1; 300].into(), ..Default::default() };
            let operation = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
            Op::Txn(pb::TxnRequest { success: vec![operation], ..Default::default() })
        }
        11 => grant(lease),
        12 => Op::LeaseRevoke(pb::LeaseRevokeRequest { id: lease }),
        13 => {
            let granted = machine.view().leases.get(crate::ids::LeaseId(lease)).map_or(0, |lease| lease.granted.0);
            let left = GrantedLease { id: lease, granted_index: granted, remaining_ttl_secs: rng.random_range(0..60) };
            Op::LeaseCheckpoint(LeaseCheckpoints { leases: vec![left], term: TERM })
        }
        _ => compact(rng.random_range(1..=machine.revision().0)),
    }
}

fn count(backend: &dyn Backend) -> u64 {
    let mut bytes = 0;
    for table in [Table::Kv, Table::Lease] {
        let scanned = backend.scan(table, b"", b"", &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        });
        scanned.expect("a sound backend");
    }
    bytes
}
