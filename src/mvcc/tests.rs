//! The store against its model, against numbers that etcd computed, and in the corners that broke other stores.

use std::sync::Arc;

use bytes::Bytes;
use castd_backend_api::{Backend, Table, WriteBatch};
use castd_backend_memory::Memory;
use castd_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use proptest::prelude::*;

use crate::ids::{LeaseId, Revision};

use super::{Changes, EventKind, Leases, MvccError, OpCounts, RowKey, Slice, Store, StoreError, model};

#[test]
fn operations_are_counted_as_etcd_counts_them() {
    let (_, mut store) = empty();
    let mut slice = store.begin();
    let mut done = OpCounts::default();
    let mut counted = |slice: &Slice<'_>| {
        let (before, now) = (std::mem::replace(&mut done, slice.counts()), slice.counts());
        [now.ranges - before.ranges, now.puts - before.puts, now.deletes - before.deletes, now.txns - before.txns]
    };
    slice.put(&put("a", "12"), &mut OneLease).expect("put");
    assert_eq!(counted(&slice), [0, 1, 0, 0]);
    slice.put(&PutRequest { prev_kv: true, ..put("a", "3") }, &mut OneLease).expect("put");
    assert_eq!(counted(&slice), [1, 1, 0, 1], "the previous value is a range, and the two are a txn");
    slice.delete_range(&delete("a", "z"), &mut OneLease).expect("deleted");
    assert_eq!(counted(&slice), [0, 0, 1, 0], "a range of keys is one delete");
    slice.put(&PutRequest { lease: 5, ..put("a", "") }, &mut OneLease).expect_err("no such lease");
    assert_eq!(counted(&slice), [0; 4]);
    let compare = || castd_proto::etcdserverpb::Compare { key: "a".into(), ..Default::default() };
    let one = TxnRequest { compare: vec![compare()], ..success([Request::RequestPut(put("b", ""))]) };
    slice.txn(&one, &mut OneLease).expect("done");
    assert_eq!(counted(&slice), [1, 1, 0, 0], "one comparison and, apart from it, one put");
    let range = Request::RequestRange(RangeRequest { key: "b".into(), ..RangeRequest::default() });
    let two = TxnRequest { compare: vec![compare(), compare()], ..success([range, Request::RequestPut(put("b", ""))]) };
    slice.txn(&two, &mut OneLease).expect("done");
    assert_eq!(counted(&slice), [3, 1, 0, 2]);
    slice.delete_keys(&["a".into(), "b".into()]);
    assert_eq!(counted(&slice), [0, 0, 2, 1]);
    assert_eq!(slice.counts().put_bytes, 3 + 2 + 1 + 1);
    slice.commit().expect("written");
    let (_, counts) = store.view().txn(&success([])).expect("done");
    assert_eq!(counts, OpCounts::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_its_model(entropy in proptest::collection::vec(any::<u64>(), 1..120)) {
        model::walk(&mut |backend| backend.unwrap_or_else(|| Arc::new(Memory::new()) as Arc<dyn Backend>), &entropy);
    }
}

/// One lease, 77, whatever is attached to it.
struct OneLease;

impl Leases for OneLease {
    fn exists(&self, lease: LeaseId) -> bool {
        lease.0 == 77
    }
    fn owner(&self, _: &[u8]) -> Option<LeaseId> {
        None
    }
    fn attach(&mut self, _: LeaseId, _: &Bytes) {}
    fn detach(&mut self, _: LeaseId, _: &[u8]) {}
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn delete(key: &'static str, range_end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false }
}

fn success(requests: impl IntoIterator<Item = Request>) -> TxnRequest {
    let success = requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    TxnRequest { compare: Vec::new(), success, failure: Vec::new() }
}

fn empty() -> (Arc<Memory>, Store) {
    let backend = Arc::new(Memory::new());
    (backend.clone(), Store::open(backend).expect("an empty backend is sound"))
}

fn apply(store: &mut Store, write: impl FnOnce(&mut Slice<'_>) -> Result<(), MvccError>) -> Vec<Changes> {
    let mut slice = store.begin();
    write(&mut slice).expect("the request can be done");
    let changes = slice.take_changes();
    slice.commit().expect("memory can be written");
    changes
}

fn apply_put(store: &mut Store, put: &PutRequest) {
    apply(store, |slice| slice.put(put, &mut OneLease).map(drop));
}

fn apply_delete(store: &mut Store, delete: &DeleteRangeRequest) {
    apply(store, |slice| slice.delete_range(delete, &mut OneLease).map(drop));
}

fn compact(store: &mut Store, revision: i64) {
    apply(store, |slice| slice.compact(Revision(revision)).map(drop));
    delete_compacted(store);
}

fn delete_compacted(store: &mut Store) {
    while store.has_compacted_rows() {
        store.delete_compacted(1).expect("memory can be written");
    }
}

/// Computed by etcd 3.4.23 (`etcdctl endpoint hashkv --rev=… -w json`) after the same history, made with `etcdctl put a 1`,
/// `put b 2`, lease 77 granted through the gateway, `put c 3 --lease=4d`, `put a 11`, `del b`, a txn `put d 4` `put e 5` `del a`,
/// `put b 22`, `put long <300 x>`, `del c d`; then `compact 6 --physical`, `compact 9 --physical`, `del "" --prefix` and
/// `compact 11 --physical`.
#[test]
fn hashes_are_those_of_etcd() {
    let (backend, mut store) = empty();
    let hash = |store: &Store, revision| {
        let hashed = store.view().hash_kv(revision).expect("the revision can be read");
        (hashed.hash, hashed.compact_revision)
    };
    apply_put(&mut store, &put("a", "1"));
    apply_put(&mut store, &put("b", "2"));
    apply_put(&mut store, &PutRequest { lease: 77, ..put("c", "3") });
    apply_put(&mut store, &put("a", "11"));
    apply_delete(&mut store, &delete("b", ""));
    let txn = success([
        Request::RequestPut(put("d", "4")),
        Request::RequestPut(put("e", "5")),
        Request::RequestDeleteRange(delete("a", "")),
    ]);
    apply(&mut store, |slice| slice.txn(&txn, &mut OneLease).map(drop));
    apply_put(&mut store, &put("b", "22"));
    apply_put(&mut store, &PutRequest { value: vec![b'x'; 300].into(), ..put("long", "") });
    apply_delete(&mut store, &delete("c", "d"));
    assert_eq!(hash(&store, 0), (707_407_700, -1));
    assert_eq!(hash(&store, 5), (4_060_138_935, -1));
    compact(&mut store, 6);
    assert_eq!(hash(&store, 0), (754_723_099, 6));
    assert_eq!(hash(&store, 7), (1_089_058_492, 6));
    compact(&mut store, 9);
    assert_eq!(hash(&store, 0), (3_574_138_240, 9));
    let mut store = Store::open(backend).expect("the rows are sound");
    assert_eq!(hash(&store, 0), (3_574_138_240, 9));
    apply_delete(&mut store, &delete("\0", "\0"));
    assert_eq!(hash(&store, 0), (2_319_510_429, 9));
    compact(&mut store, 11);
    assert_eq!(hash(&store, 0), (1_084_519_789, 11));
}

/// etcd #18667, #14110: the put was applied, the read behind it failed, and members differed from then on.
#[test]
fn a_txn_that_fails_changes_nothing() {
    let (_, mut store) = empty();
    for value in ["1", "2", "3", "4"] {
        apply_put(&mut store, &put("a", value));
    }
    compact(&mut store, 3);
    let before = (store.revision(), store.view().hash_kv(0).expect("now can be read"));
    let read = |revision| Request::RequestRange(RangeRequest { key: "a".into(), revision, ..RangeRequest::default() });
    let keep = |key| Request::RequestPut(PutRequest { ignore_value: true, ..put(key, "") });
    let write = || Request::RequestPut(put("b", "1"));
    let failing = [
        ("compacted", success([write(), read(2)])),
        ("compacted", success([write(), read(-2)])),
        ("future", success([write(), read(6)])),
        ("key not found", success([write(), keep("c")])),
        ("key not found", success([write(), Request::RequestDeleteRange(delete("a", "\0")), keep("a")])),
        ("lease 5 not found", success([write(), Request::RequestPut(PutRequest { lease: 5, ..put("c", "") })])),
        ("compacted", success([write(), Request::RequestTxn(success([read(1)]))])),
    ];
    for (reason, txn) in failing {
        let mut slice = store.begin();
        let error = slice.txn(&txn, &mut OneLease).expect_err("one of the operations cannot be done").to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(slice.take_changes(), []);
        slice.commit().expect("memory can be written");
        assert_eq!((store.revision(), store.view().hash_kv(0).expect("now can be read")), before);
        assert_eq!(store.keys(), 1);
    }
    let deleted_and_kept = success([keep("a"), Request::RequestDeleteRange(delete("a", "\0")), write(), keep("b")]);
    apply(&mut store, |slice| slice.txn(&deleted_and_kept, &mut OneLease).map(drop));
}

/// etcd #18089, #19179.
#[test]
fn a_watcher_that_starts_at_a_compacted_deletion_sees_it() {
    let (_, mut store) = empty();
    apply_put(&mut store, &put("a", "1"));
    apply_delete(&mut store, &delete("a", ""));
    apply_put(&mut store, &put("b", "1"));
    compact(&mut store, 3);
    let view = store.view();
    let told = |from| {
        let caught_up = view.changes(Revision(from), Revision(9), 9)?;
        Ok(caught_up
            .changes
            .iter()
            .flat_map(|it| &it.events)
            .map(|it| (it.kv.mod_revision, it.kind))
            .collect::<Vec<_>>())
    };
    let refused: Result<_, MvccError> = told(2);
    assert!(matches!(refused, Err(MvccError::Compacted { requested: Revision(2), compacted: Revision(3) })));
    assert_eq!(told(3).ok(), Some(vec![(3, EventKind::Delete), (4, EventKind::Put)]));
    assert_eq!(told(4).ok(), Some(vec![(4, EventKind::Put)]));
    assert_eq!(told(5).ok(), Some(vec![]));
}

#[test]
fn rows_stay_while_an_older_view_may_read_them() {
    let (_, mut store) = empty();
    apply_put(&mut store, &put("a", "1"));
    apply_put(&mut store, &put("a", "2"));
    let old = store.view();
    apply(&mut store, |slice| slice.compact(Revision(3)).map(drop));
    let copy = old.clone();
    drop(old);
    assert_eq!(store.delete_compacted(100).ok().map(|deleted| deleted.rows), Some(0));
    assert!(store.has_compacted_rows());
    let past = RangeRequest { key: "a".into(), revision: 2, ..RangeRequest::default() };
    assert_eq!(copy.range(&past).map(|outcome| outcome.kvs[0].value.clone()).ok(), Some("1".into()));
    let new = store.view();
    assert!(matches!(new.range(&past), Err(MvccError::Compacted { .. })));
    drop(copy);
    assert_eq!(
        store.delete_compacted(100).ok().map(|deleted| deleted.rows),
        Some(1),
        "a view from after the compaction is not in the way"
    );
    assert!(!store.has_compacted_rows());
    assert_eq!(new.range(&RangeRequest { revision: 3, ..past }).map(|outcome| outcome.count).ok(), Some(1));
}

#[test]
fn a_compaction_that_was_cut_short_goes_on_after_a_restart() {
    let (backend, mut store) = empty();
    for round in 0..5 {
        for key in ["a", "b", "c", "d"] {
            apply_put(&mut store, &put(key, "v"));
        }
        if round == 3 {
            apply_delete(&mut store, &delete("b", "d"));
        }
    }
    let revision = store.revision().0;
    apply(&mut store, |slice| slice.compact(Revision(revision - 4)).map(drop));
    let expected = store.view().hash_kv(0).expect("now can be read");
    let mut store = store;
    let mut restarts = 0;
    while store.has_compacted_rows() {
        restarts += 1;
        assert_eq!(store.delete_compacted(1).expect("memory can be written").rows, 1);
        store = Store::open(backend.clone()).expect("the rows are sound");
        assert_eq!(store.revision().0, revision);
        assert_eq!(store.compact_revision().0, revision - 4);
        assert_eq!(store.view().hash_kv(0).expect("now can be read"), expected);
        assert_eq!(store.keys(), 4);
    }
    assert_eq!(store.finished_compact_revision().0, revision - 4);
    assert_eq!(restarts, 14);
}

#[test]
fn a_damaged_row_is_an_error_and_not_a_panic() {
    let sound = castd_proto::mvccpb::KeyValue {
        key: "a".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        ..Default::default()
    };
    let key = RowKey::first_of(Revision(2)).encode().to_vec();
    let open = |key: &[u8], row: Vec<u8>| {
        let backend = Memory::new();
        let mut batch = WriteBatch::new();
        batch.put(Table::Kv, key.to_vec(), row);
        backend.write(&batch).expect("memory can be written");
        Store::open(Arc::new(backend)).map(|store| store.revision().0)
    };
    let encode = |row: &castd_proto::mvccpb::KeyValue| prost::Message::encode_to_vec(row);
    assert_eq!(open(&key, encode(&sound)).ok(), Some(2));
    assert!(matches!(open(&key[..9], encode(&sound)), Err(StoreError::RowKeyDamaged(_))));
    assert!(matches!(open(&key, vec![0xff]), Err(StoreError::RowDamaged(_))));
    let wrong = [(3, 2, 1), (2, 3, 1), (0, 2, 1), (2, 2, 0), (2, 2, -1)];
    for (create_revision, mod_revision, version) in wrong {
        let row = castd_proto::mvccpb::KeyValue { create_revision, mod_revision, version, ..sound.clone() };
        assert!(matches!(open(&key, encode(&row)), Err(StoreError::RowDamaged(_))), "{row:?}");
    }
    let (backend, store) = empty();
    drop(store);
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, super::SCHEDULED_ROW.as_bytes(), "six");
    backend.write(&batch).expect("memory can be written");
    assert!(matches!(Store::open(backend), Err(StoreError::MetaDamaged(_))));
}

#[test]
fn a_copy_of_the_rows_of_a_view_is_the_same_store() {
    let (_, mut store) = empty();
    apply_put(&mut store, &put("a", "1"));
    apply_put(&mut store, &put("a", "2"));
    apply_delete(&mut store, &delete("a", ""));
    apply(&mut store, |slice| slice.compact(Revision(3)).map(drop));
    let view = store.view();
    apply_put(&mut store, &put("later", "1"));
    let copy = Memory::new();
    let mut batch = WriteBatch::new();
    view.put_meta_rows(&mut batch);
    let copied = view.scan_rows(&mut |key, row| {
        batch.put(Table::Kv, key.to_vec(), row.to_vec());
        std::ops::ControlFlow::Continue(())
    });
    copied.expect("memory can be read");
    copy.write(&batch).expect("and written");
    let mut restored = Store::open(Arc::new(copy)).expect("the rows are sound");
    assert_eq!(restored.revision(), Revision(4));
    assert_eq!(restored.compact_revision(), Revision(3));
    assert_eq!(restored.view().hash_kv(0).ok(), view.hash_kv(0).ok());
    assert!(restored.has_compacted_rows());
    delete_compacted(&mut restored);
    assert_eq!(restored.view().hash_kv(0).ok(), view.hash_kv(0).ok());
}
