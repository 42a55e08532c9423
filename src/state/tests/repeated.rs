//! Logs that hold requests more than once, cut into slices in any way, on any engine, with restarts and snapshots in
//! between: what is done is done once, and the rolling hash is the same everywhere.

use super::*;
use crate::ids::LogIndex;
use crate::raft::tag::RequestTag;
use castd_backend_api::WriteBatch;
use castd_proto::castdpb::{MembershipChange, membership_change::Kind};
use raft::eraftpb::EntryType;

fn tag(member: u64, sequence: u64) -> RequestTag {
    RequestTag { member: MemberId(member), boot: 77, sequence }
}

fn entry(op: Op) -> Entry {
    let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
    Entry { term: TERM, data, ..Default::default() }
}

fn tagged(tag: RequestTag, op: Op) -> Entry {
    Entry { context: tag.to_bytes().to_vec().into(), ..entry(op) }
}

fn joining(id: u64) -> Entry {
    let member = pb::Member { id, peer_urls: vec![format!("http://{id}")], ..Default::default() };
    let change = MembershipChange { kind: Kind::Add.into(), member: Some(member), ..Default::default() };
    let mut entry = Entry { term: TERM, data: membership_entry(&change).into(), ..Default::default() };
    entry.set_entry_type(EntryType::EntryConfChange);
    entry
}

/// With indexes, from 1.
fn log(entries: Vec<Entry>) -> Vec<Entry> {
    (1..).zip(entries).map(|(index, entry)| Entry { index, ..entry }).collect()
}

/// Every row of every table, but how compaction is getting on.
fn rows(backend: &dyn Backend) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let scanned = backend.scan(table, b"", b"", &mut |key, value| {
            rows.push((table, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        scanned.expect("a sound backend");
    }
    rows
}

#[test]
fn a_request_that_comes_twice_does_nothing_the_second_time() {
    let (backend, mut machine) = machine();
    let change =
        |member, sequence, id| Entry { context: tag(member, sequence).to_bytes().to_vec().into(), ..joining(id) };
    let log = log(vec![
        change(1, 1, 1),
        tagged(tag(1, 3), put("a", 1)),
        tagged(tag(1, 2), put("b", 1)),
        // From here on again: in the same slice, and in later ones.
        tagged(tag(1, 3), put("a", 1)),
        change(1, 1, 1),
        tagged(tag(1, 4), grant(5)),
        tagged(tag(1, 4), grant(5)),
        tagged(tag(2, 4), put("c", 1)),
        tagged(tag(1, 2), put("b", 1)),
        // Two sequences, one window apart.
        tagged(tag(1, 5 + 4_096), put("d", 1)),
        tagged(tag(1, 5), put("late", 1)),
        entry(put("a", 1)),
        entry(put("a", 1)),
    ]);
    let expected_new = [true, true, true, false, false, true, false, true, false, true, false, true, true];
    for cuts in [vec![13], vec![1; 13], vec![3, 4, 6]] {
        let backend = Arc::new(Memory::new());
        let mut machine = Machine::open(backend.clone()).expect("empty");
        let mut rest = &log[..];
        let mut outcomes = Vec::new();
        let mut told = Vec::new();
        for cut in cuts {
            let (slice, behind) = rest.split_at(cut);
            let applied = machine.apply(slice).expect("a sound backend");
            outcomes.extend(applied.outcomes);
            told.extend(applied.membership.into_iter().map(|changed| changed.raft));
            rest = behind;
            machine = Machine::open(backend.clone()).expect("sound rows");
        }
        let is_new = |outcome: &Result<Outcome, RequestError>| match outcome {
            Ok(_) => true,
            Err(RequestError::Repeated) => false,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(outcomes.iter().map(is_new).collect::<Vec<_>>(), expected_new);
        assert_eq!(told.len(), 1, "raft hears of a change once");
        assert_eq!(machine.revision().0, 1 + 4 + 2, "and no repetition is a revision");
        let late = pb::RangeRequest { key: "late".into(), ..Default::default() };
        assert_eq!(machine.view().mvcc.range(&late).expect("read").count, 0);
    }
    // What it makes of itself is kept with what it did.
    machine.apply(&log).expect("applied");
    let before = rows(backend.as_ref());
    let again = Entry { index: 14, ..tagged(tag(1, 4), grant(6)) };
    machine.apply(&[again]).expect("applied");
    let changed = rows(backend.as_ref()).into_iter().filter(|row| !before.contains(row)).map(|(table, ..)| table);
    assert_eq!(changed.collect::<Vec<_>>(), [Table::Meta, Table::Request], "the applied index, and that it was used");
}

/// Random logs in which a third of the entries are repetitions, some of them from far back.
fn random_log(rng: &mut StdRng) -> Vec<Entry> {
    let mut oracle = Machine::open(Arc::new(Memory::new())).expect("empty");
    let mut all = Vec::new();
    let mut next = [1; 3];
    for index in 1..=400 {
        let entry = if !all.is_empty() && rng.random_range(0..3) == 0 {
            let before: &Entry = &all[rng.random_range(0..all.len())];
            before.clone()
        } else if rng.random_range(0..40) == 0 {
            Entry { term: TERM, ..Default::default() }
        } else {
            let member = rng.random_range(0..3_usize);
            let ahead = rng.random_range(0..3);
            next[member] += ahead;
            tagged(tag(member as u64, next[member]), random_op(rng, &oracle))
        };
        let entry = Entry { index, ..entry };
        oracle.apply(std::slice::from_ref(&entry)).expect("applied");
        all.push(entry);
    }
    all
}

#[test]
fn every_way_through_a_log_comes_to_the_same_state_and_the_same_hash() {
    let (mut restarts, mut copies, mut deleted) = (0, 0, 0);
    for seed in 0..8 {
        let mut rng = StdRng::seed_from_u64(seed);
        let log = random_log(&mut rng);
        let mut straight = Machine::open(Arc::new(Memory::new())).expect("empty");
        let mut hashes = vec![straight.view().state_hash];
        for entry in &log {
            straight.apply(std::slice::from_ref(entry)).expect("applied");
            hashes.push(straight.view().state_hash);
        }
        let unique: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(unique.len(), hashes.len(), "each entry moves the hash");

        for kind in StorageKind::ALL.into_iter().filter(|kind| kind.is_compiled_in()) {
            let dir = tempfile::tempdir().expect("a directory");
            let open = |name: &str| open_backend(kind, &dir.path().join(name), Tuning::default()).expect("opened");
            let snapshots = SnapshotStore::open(dir.path().join("snap")).expect("opened");
            let mut machine = Machine::open(open("first")).expect("empty");
            let mut lives = 0;
            let mut rest = &log[..];
            while !rest.is_empty() {
                let (slice, behind) = rest.split_at(rng.random_range(1..=rest.len().min(30)));
                machine.apply(slice).expect("applied");
                rest = behind;
                let view = machine.view();
                assert_eq!(view.state_hash, hashes[view.applied.0 as usize], "{kind}, seed {seed} at {}", view.applied);
                match rng.random_range(0..6) {
                    0 => {
                        // What it can read would stay.
                        drop(view);
                        for _ in 0..rng.random_range(1..20) {
                            deleted += machine.delete_compacted(rng.random_range(1..20)).expect("deleted").rows;
                        }
                    }
                    1 if kind != StorageKind::Memory => {
                        // The same directory again.
                        drop(view);
                        machine.backend().flush().expect("flushed");
                        drop(machine);
                        let name = if lives == 0 { "first".to_owned() } else { format!("life{lives}") };
                        machine = Machine::open(open(&name)).expect("sound");
                        restarts += 1;
                    }
                    2 => {
                        portable::take(&snapshots, &view, crate::ids::ClusterId(7)).expect("taken");
                        let (file, _) = snapshots.newest_sound(|_| true).expect("readable").expect("there is one");
                        lives += 1;
                        let backend = open(&format!("life{lives}"));
                        portable::fill(&file, backend.as_ref()).expect("filled");
                        machine = Machine::open(backend).expect("sound");
                        copies += 1;
                    }
                    _ => {}
                }
            }
            let (one, other) = (straight.view(), machine.view());
            assert_eq!(hash(&one).expect("hashed"), hash(&other).expect("hashed"), "{kind}, seed {seed}");
            assert_eq!(one.requests, other.requests);
        }
    }
    assert!(copies > 50 && deleted > 50, "{copies} copies, {deleted} rows deleted, {restarts} restarts");
    assert!(
        restarts > 20 || StorageKind::ALL.into_iter().all(|kind| !kind.is_compiled_in() || kind == StorageKind::Memory)
    );
}

/// Flips a bit of the newest row of `key`, behind the back of the index.
fn corrupt(backend: &dyn Backend, key: &str) {
    let mut newest = None;
    let scanned = backend.scan(Table::Kv, b"", b"", &mut |row, value| {
        if value.windows(key.len()).any(|window| window == key.as_bytes()) {
            newest = Some((row.to_vec(), value.to_vec()));
        }
        ControlFlow::Continue(())
    });
    scanned.expect("a sound backend");
    let (row, mut value) = newest.expect("the key is there");
    let at = value.iter().rposition(|byte| *byte == b'v').expect("values are all v");
    value[at] = b'w';
    let mut batch = WriteBatch::new();
    batch.put(Table::Kv, row, value);
    backend.write(&batch).expect("written");
}

#[test]
fn who_builds_on_a_damaged_row_has_another_hash_from_then_on() {
    let [(_, mut sound), (damaged_backend, mut damaged)] = [machine(), machine()];
    let keep = Op::Put(pb::PutRequest { key: "a".into(), ignore_value: true, ..Default::default() });
    let log = log(vec![entry(put("a", 9)), entry(put("b", 9)), entry(keep), entry(put("c", 9))]);
    for (index, entry) in (1..).zip(&log) {
        if index == 2 {
            corrupt(damaged_backend.as_ref(), "a");
        }
        sound.apply(std::slice::from_ref(entry)).expect("applied");
        damaged.apply(std::slice::from_ref(entry)).expect("applied");
        let same = sound.view().state_hash == damaged.view().state_hash;
        assert_eq!(same, index < 3, "at {index}");
        let same = sound.view().mvcc.hash_kv(0).expect("hashed") == damaged.view().mvcc.hash_kv(0).expect("hashed");
        assert_eq!(same, index < 2, "HashKV reads the row, at {index}");
    }
}

#[test]
fn checkpoints_and_the_newest_index_can_be_compared() {
    let (_, mut machine) = machine();
    let log = log((0..2_500).map(|_| Entry { term: TERM, ..Default::default() }).collect());
    let mut hashes = vec![];
    for entry in &log {
        machine.apply(std::slice::from_ref(entry)).expect("applied");
        hashes.push(machine.view().state_hash);
    }
    let points: Vec<_> = machine.view().hash_points().collect();
    let expected = [1_000, 2_000, 2_500].map(|index| HashPoint { index, hash: hashes[index as usize - 1] });
    assert_eq!(points, expected);
    // Cut in another way.
    let mut other = Machine::open(Arc::new(Memory::new())).expect("empty");
    log.chunks(333).for_each(|slice| drop(other.apply(slice).expect("applied")));
    assert_eq!(other.view().hash_points().collect::<Vec<_>>(), expected);
    assert_eq!(machine.applied(), LogIndex(2_500));
}
