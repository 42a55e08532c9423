//! A random walk: every answer of the store, and what its views show, must be the model's.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use castd_backend_api::{Backend, Table};
use castd_proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare::TargetUnion,
        request_op::Request,
    },
    mvccpb::KeyValue,
};
use prost::Message;

use crate::ids::{LeaseId, Revision};

use super::{
    super::{Answer, Changes, EventKind, Leases, RowKey, Store, View, check},
    LEASES, Model,
};

const KEYS: [&[u8]; 12] = [b"a", b"aa", b"ab", b"a\0", b"b", b"ba", b"c", b"d/1", b"d/2", b"d/3", b"\xff", b"\xff\xff"];

/// Random numbers from one number.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[self.below(KEYS.len() as u64) as usize])
    }

    fn range_end(&mut self) -> Bytes {
        match self.below(6) {
            0 => Bytes::from_static(b"\0"),
            1..3 => self.key(),
            _ => Bytes::new(),
        }
    }

    fn value(&mut self) -> Bytes {
        let long = if self.one_in(12) { 150 } else { 0 };
        Bytes::from(vec![b'v'; long + self.below(4) as usize])
    }

    /// Around the revisions there are, now and then outside.
    fn revision(&mut self, model: &Model) -> i64 {
        match self.below(4) {
            0 => 0,
            1 => self.below(model.revision as u64 + 3) as i64 - 1,
            _ => {
                let readable = (model.revision - model.compacted.max(0)).max(1) as u64;
                model.revision - self.below(readable) as i64
            }
        }
    }

    fn range(&mut self, model: &Model) -> RangeRequest {
        let plain = self.one_in(3);
        let mut maybe = |end: u64| if plain || self.below(3) > 0 { 0 } else { self.below(end) as i64 };
        let (sort_order, sort_target) = (maybe(3) as i32, maybe(5) as i32);
        let limit = maybe(6) - i64::from(maybe(9) == 1);
        let revisions = [(); 4].map(|()| maybe(4) * maybe(1 + model.revision as u64 / 2));
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit,
            revision: self.revision(model),
            sort_order,
            sort_target,
            serializable: false,
            keys_only: self.one_in(4),
            count_only: self.one_in(6),
            min_mod_revision: revisions[0],
            max_mod_revision: revisions[1],
            min_create_revision: revisions[2],
            max_create_revision: revisions[3],
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.one_in(5);
        let ignore_lease = self.one_in(5);
        PutRequest {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if ignore_lease || self.below(3) > 0 { 0 } else { self.below(LEASES as u64 + 2) as i64 },
            prev_kv: self.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete_range(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.range_end(), prev_kv: self.one_in(2) }
    }

    fn compare(&mut self, model: &Model) -> Compare {
        let number = self.below(3) as i64;
        let union = match self.below(6) {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(self.revision(model))),
            2 => Some(TargetUnion::ModRevision(self.revision(model))),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(number)),
            _ => None,
        };
        let fitting = match &union {
            Some(TargetUnion::Version(_)) => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            _ => 4,
        };
        Compare {
            result: self.below(4) as i32,
            target: if self.one_in(8) { self.below(5) as i32 } else { fitting },
            key: self.key(),
            range_end: self.range_end(),
            target_union: union,
        }
    }

    fn operations(&mut self, model: &Model, depth: u32) -> Vec<RequestOp> {
        (0..self.below(4))
            .map(|_| {
                let request = match self.below(if depth < 3 { 10 } else { 8 }) {
                    0..2 => Request::RequestRange(self.range(model)),
                    2..6 => Request::RequestPut(self.put()),
                    6..8 => Request::RequestDeleteRange(self.delete_range()),
                    _ => Request::RequestTxn(self.txn(model, depth + 1)),
                };
                RequestOp { request: Some(request) }
            })
            .collect()
    }

    fn txn(&mut self, model: &Model, depth: u32) -> TxnRequest {
        TxnRequest {
            compare: (0..self.below(3)).map(|_| self.compare(model)).collect(),
            success: self.operations(model, depth),
            failure: self.operations(model, depth),
        }
    }
}

/// Leases 1 to [`LEASES`] are there, always.
#[derive(Default)]
struct Owners(BTreeMap<Bytes, LeaseId>);

impl Leases for Owners {
    fn exists(&self, lease: LeaseId) -> bool {
        lease.0 <= LEASES
    }
    fn owner(&self, key: &[u8]) -> Option<LeaseId> {
        self.0.get(key).copied()
    }
    fn attach(&mut self, lease: LeaseId, key: &Bytes) {
        assert_eq!(self.0.insert(key.clone(), lease), None, "attached while attached");
    }
    fn detach(&mut self, lease: LeaseId, key: &[u8]) {
        assert_eq!(self.0.remove(key), Some(lease), "detached what was not attached");
    }
}

struct Walk {
    store: Store,
    backend: Arc<dyn Backend>,
    model: Model,
    owners: Owners,
    /// Views that somebody still reads, and the model as it was.
    held: Vec<(View, Model)>,
}

/// Walks one step for each number of `entropy`. `reopen` gets the backend (none at first), closes it and opens it again; it
/// must not lose anything. Answers the hash of all that is left.
///
/// # Panics
/// When the store differs from the model.
pub fn walk(
    reopen: &mut dyn FnMut(Option<Arc<dyn Backend>>) -> Arc<dyn Backend>,
    entropy: &[u64],
) -> crate::mvcc::HashKv {
    let backend = reopen(None);
    let mut walk = Walk::new(backend, Model::default());
    for number in entropy {
        let chance = &mut Chance(*number);
        match chance.below(16) {
            0..8 => walk.slice(chance),
            8..11 => walk.read(chance),
            11 => walk.hold_or_drop(chance),
            12..15 => walk.delete_compacted(chance),
            _ => {
                let Walk { store, backend, model, held, owners: _ } = walk;
                drop((store, held));
                walk = Walk::new(reopen(Some(backend)), model);
            }
        }
        walk.store.tree.check();
        walk.check_bytes();
    }
    walk.held.clear();
    while walk.store.has_compacted_rows() {
        walk.delete_compacted(&mut Chance(1));
    }
    walk.check_rows();
    walk.check_bytes();
    assert_eq!(walk.store.doomed_bytes(), 0);
    walk.read(&mut Chance(2));
    walk.store.view().hash_kv(0).expect("the present can be hashed")
}

impl Walk {
    fn new(backend: Arc<dyn Backend>, model: Model) -> Self {
        let mut store = Store::open(backend.clone()).expect("the rows are sound");
        assert_eq!(store.revision().0, model.revision);
        assert_eq!(store.compact_revision().0, model.compacted);
        let attached = store.take_attached().into_iter().map(|(lease, key)| (key, lease));
        let owners = Owners(attached.collect());
        assert_eq!(owners.0, model.owners());
        let walk = Self { store, backend, model, owners, held: Vec::new() };
        walk.check_bytes();
        walk
    }

    fn slice(&mut self, chance: &mut Chance) {
        let Self { store, model, owners, .. } = self;
        let mut slice = store.begin();
        let mut changes: Vec<Changes> = Vec::new();
        for _ in 0..=chance.below(8) {
            match chance.below(12) {
                0..5 => {
                    let put = chance.put();
                    assert_eq!(told(slice.put(&put, owners)), told(model.put(&put)), "{put:?}");
                }
                5..7 => {
                    let delete = chance.delete_range();
                    let expected = model.delete_range(&delete);
                    assert_eq!(told(slice.delete_range(&delete, owners)), told(Ok(expected)), "{delete:?}");
                }
                7..10 => {
                    let txn = chance.txn(model, 0);
                    if check::txn(&txn, 128).is_err() {
                        continue;
                    }
                    if chance.one_in(8) {
                        slice.expect_answer(Answer::Unwanted);
                        let (actual, expected) = (slice.txn(&txn, owners), model.txn(&txn));
                        assert_eq!(told(actual.map(|it| it.header)), told(expected.map(|it| it.header)), "{txn:?}");
                        slice.expect_answer(Answer::Wanted);
                    } else {
                        assert_eq!(told(slice.txn(&txn, owners)), told(model.txn(&txn)), "{txn:?}");
                    }
                }
                10 => {
                    let lease = LeaseId(1 + chance.below(LEASES as u64) as i64);
                    let keys: Vec<Bytes> =
                        owners.0.iter().filter(|(_, owner)| **owner == lease).map(|(key, _)| key.clone()).collect();
                    keys.iter().for_each(|key| owners.detach(lease, key));
                    assert_eq!(slice.delete_keys(&keys), keys.len() as u64);
                    model.delete_keys(&keys);
                }
                _ => {
                    let revision = chance.revision(model);
                    let expected = model.compact(revision).map(|()| super::header(model.revision));
                    assert_eq!(told(slice.compact(Revision(revision)).map(|it| it.header)), told(expected));
                }
            }
            changes.extend(model.seal());
            assert_eq!(slice.revision().0, model.revision);
        }
        assert_eq!(slice.take_changes(), changes);
        slice.commit().expect("the backend writes");
        assert_eq!(owners.0, model.owners());
        let view = self.store.view();
        for event in changes.iter().flat_map(|changes| &changes.events) {
            check_previous(&view, &self.model, event);
        }
    }

    fn read(&mut self, chance: &mut Chance) {
        check_view(&self.store.view(), &self.model, chance);
        for (view, model) in &self.held {
            check_view(view, model, chance);
        }
    }

    fn hold_or_drop(&mut self, chance: &mut Chance) {
        if self.held.len() < 3 && chance.one_in(2) {
            self.held.push((self.store.view(), self.model.clone()));
        } else if !self.held.is_empty() {
            let (view, model) = self.held.swap_remove(chance.below(self.held.len() as u64) as usize);
            check_view(&view, &model, chance);
        }
    }

    fn delete_compacted(&mut self, chance: &mut Chance) {
        let max = 1 + chance.below(20) as usize;
        let deleted = self.store.delete_compacted(max).expect("the backend writes");
        assert!(deleted.rows <= max);
        if !self.store.has_compacted_rows() {
            self.check_rows();
        }
    }

    /// What the store says it takes is what its rows take.
    fn check_bytes(&self) {
        let mut bytes = 0;
        let scanned = self.backend.scan(Table::Kv, &[], &[], &mut |key, row| {
            bytes += (key.len() + row.len()) as u64;
            ControlFlow::Continue(())
        });
        scanned.expect("the backend reads");
        assert_eq!(self.store.bytes(), bytes);
        assert!(self.store.doomed_bytes() <= bytes);
        assert_eq!(self.store.view().bytes(), bytes);
    }

    /// With nothing left to delete, the rows are exactly those of the model.
    fn check_rows(&self) {
        let mut rows = BTreeMap::new();
        let scanned = self.backend.scan(Table::Kv, &[], &[], &mut |key, row| {
            let pair = KeyValue::decode(row).expect("rows are messages");
            rows.insert(RowKey::decode(key).expect("keys of rows are row keys"), pair);
            ControlFlow::Continue(())
        });
        scanned.expect("the backend reads");
        assert_eq!(rows, self.model.rows_left());
        assert_eq!(self.store.finished_compact_revision().0, self.model.compacted);
    }
}

/// Answers and errors in one form that can be compared.
fn told<T: std::fmt::Debug>(result: Result<T, super::MvccError>) -> String {
    match result {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => error.to_string(),
    }
}

fn check_previous(view: &View, model: &Model, event: &super::Event) {
    let before = event.kv.mod_revision - 1;
    let expected = match event.previous {
        Some(_) if before >= model.compacted => {
            model.seen_at(&event.kv.key, before).and_then(|record| record.pair.clone())
        }
        _ => None,
    };
    assert_eq!(view.previous(event).expect("the backend reads"), expected, "{event:?}");
}

fn check_view(view: &View, model: &Model, chance: &mut Chance) {
    assert_eq!(view.revision().0, model.revision);
    assert_eq!(view.compact_revision().0, model.compacted);
    assert_eq!(view.keys() as usize, model.pairs(i64::MAX, b"\0", b"\0").len());
    for _ in 0..4 {
        let range = chance.range(model);
        let expected = model.range(&range);
        let told_expected = told(expected.as_ref().map(|it| (it.kvs.clone(), it.more, it.count)).map_err(copy));
        assert_eq!(told(view.range(&range).map(|it| (it.kvs, it.more, it.count))), told_expected, "{range:?}");
        let encoded = view.range_encoded(&range).map(|it| {
            let kvs: Vec<KeyValue> =
                it.kvs.into_iter().map(|row| KeyValue::decode(row).expect("rows are messages")).collect();
            (kvs, it.more, it.count)
        });
        assert_eq!(told(encoded), told_expected, "{range:?}");
        if range.revision <= 0 {
            let count = model.pairs(i64::MAX, &range.key, &range.range_end).len();
            assert_eq!(view.count(&range.key, &range.range_end), count as i64);
        }
        check_chunks(view, model, &range, chance);
    }
    let txn = TxnRequest {
        compare: (0..chance.below(3)).map(|_| chance.compare(model)).collect(),
        success: vec![RequestOp { request: Some(Request::RequestRange(chance.range(model))) }],
        failure: vec![RequestOp { request: Some(Request::RequestRange(chance.range(model))) }],
    };
    assert_eq!(told(view.txn(&txn).map(|(answer, _)| answer)), told(model.clone().txn(&txn)), "{txn:?}");
    let revision = chance.revision(model);
    assert_eq!(told(view.hash_kv(revision)), told(model.hash_kv(revision)), "hash at {revision}");
    check_changes(view, model, chance);
}

fn copy(error: &super::MvccError) -> super::MvccError {
    use super::MvccError::{Compacted, FutureRevision, KeyNotFound};
    match error {
        Compacted { requested, compacted } => Compacted { requested: *requested, compacted: *compacted },
        FutureRevision { requested, current } => FutureRevision { requested: *requested, current: *current },
        _ => KeyNotFound,
    }
}

fn check_chunks(view: &View, model: &Model, range: &RangeRequest, chance: &mut Chance) {
    let range = RangeRequest {
        key: range.key.clone(),
        range_end: range.range_end.clone(),
        limit: range.limit,
        revision: range.revision,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..RangeRequest::default()
    };
    let streamed = view.range_cursor(&range).and_then(|mut cursor| {
        let mut kvs: Vec<KeyValue> = Vec::new();
        while !cursor.is_done() {
            kvs.extend(view.range_chunk::<KeyValue>(&mut cursor, chance.below(4) as usize)?);
        }
        Ok((kvs, cursor.more, cursor.count, cursor.revision.0))
    });
    let expected = model.range(&range).map(|it| (it.kvs, it.more, it.count, model.revision));
    assert_eq!(told(streamed), told(expected), "{range:?}");
}

fn check_changes(view: &View, model: &Model, chance: &mut Chance) {
    let from = chance.revision(model);
    let to = model.revision + 1 - chance.below(3) as i64;
    let max = 1 + chance.below(5) as usize;
    let caught_up = match view.changes(Revision(from), Revision(to), max) {
        Ok(caught_up) => caught_up,
        Err(error) => {
            assert!(from < model.compacted);
            assert_eq!(error.to_string(), model.compacted(from).to_string());
            return;
        }
    };
    assert!(from >= model.compacted && caught_up.changes.len() <= max);
    let covered = from..caught_up.next.0;
    let expected: BTreeMap<RowKey, KeyValue> =
        model.rows().into_iter().filter(|(row, _)| covered.contains(&row.main.0)).collect();
    let mut found = BTreeMap::new();
    for changes in &caught_up.changes {
        for event in &changes.events {
            assert_eq!(event.kv.mod_revision, changes.revision.0);
            check_previous(view, model, event);
            let row = expected.iter().find(|(row, pair)| {
                let same = match event.kind {
                    EventKind::Delete => row.tombstone && pair.key == event.kv.key,
                    EventKind::Put => !row.tombstone && **pair == event.kv,
                };
                row.main == changes.revision && same && !found.contains_key(*row)
            });
            let (row, pair) = row.expect("only what happened is told");
            found.insert(*row, pair.clone());
        }
    }
    let left = model.rows_left();
    for (row, pair) in expected {
        // Of the compacted revision itself, only what compaction keeps is sure to be there.
        if row.main.0 > model.compacted || left.contains_key(&row) {
            assert_eq!(found.get(&row), Some(&pair), "{row:?}");
        }
    }
    if caught_up.changes.len() < max {
        assert_eq!(caught_up.next.0, (to.min(model.revision) + 1).max(from.max(0)));
    }
}
