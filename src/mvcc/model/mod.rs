//! The key-value store as one would write it without caring about speed, and a random walk that holds the real one against it.
//!
//! The model keeps every version for ever in a sorted map and answers by looking at all of them. What it shares with the
//! store are the messages.

mod walk;

pub use walk::walk;

use std::collections::BTreeMap;

use bytes::Bytes;
use castd_proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::KeyValue,
};
use prost::Message;

use crate::ids::{LeaseId, Revision};

use super::{Changes, Event, EventKind, HashKv, MvccError, RowKey};

/// Leases above this one are not known.
const LEASES: i64 = 3;

#[derive(Clone, Debug)]
struct Record {
    row: RowKey,
    /// None for a deletion.
    pair: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub struct Model {
    keys: BTreeMap<Bytes, Vec<Record>>,
    revision: i64,
    compacted: i64,
    /// Of the request that is being applied.
    events: Vec<Event>,
}

impl Default for Model {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), revision: 1, compacted: -1, events: Vec::new() }
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn is_meant(key: &[u8], from: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => key == from,
        [0] => from <= key,
        end => from <= key && key < end,
    }
}

impl Model {
    fn current(&self) -> i64 {
        self.revision + i64::from(!self.events.is_empty())
    }

    fn seen_at(&self, key: &[u8], at: i64) -> Option<&Record> {
        let record = self.keys.get(key)?.iter().rfind(|record| record.row.main.0 <= at)?;
        record.pair.is_some().then_some(record)
    }

    fn pairs(&self, at: i64, from: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
        let meant = self.keys.keys().filter(|key| is_meant(key, from, range_end));
        meant.filter_map(|key| self.seen_at(key, at)?.pair.clone()).collect()
    }

    /// Key → lease, for all that have one.
    fn owners(&self) -> BTreeMap<Bytes, LeaseId> {
        let pairs = self.pairs(self.revision, b"\0", b"\0");
        pairs.into_iter().filter(|pair| pair.lease != 0).map(|pair| (pair.key, LeaseId(pair.lease))).collect()
    }

    fn seal(&mut self) -> Option<Changes> {
        let events = std::mem::take(&mut self.events);
        self.revision += i64::from(!events.is_empty());
        (!events.is_empty()).then_some(Changes { revision: Revision(self.revision), events })
    }

    fn change(&mut self, key: &Bytes, pair: Option<KeyValue>) {
        let main = self.revision + 1;
        let row = RowKey { main: Revision(main), sub: self.events.len() as u32, tombstone: pair.is_none() };
        let previous = self.seen_at(key, main - 1).map(|record| record.row);
        let event = match &pair {
            Some(kv) => {
                let previous = previous.filter(|_| kv.create_revision != main);
                Event { kind: EventKind::Put, kv: kv.clone(), previous }
            }
            None => {
                let kv = KeyValue { key: key.clone(), mod_revision: main, ..KeyValue::default() };
                Event { kind: EventKind::Delete, kv, previous }
            }
        };
        self.keys.entry(key.clone()).or_default().push(Record { row, pair });
        self.events.push(event);
    }

    fn put(&mut self, put: &PutRequest) -> Result<PutResponse, MvccError> {
        if put.lease > LEASES {
            return Err(MvccError::LeaseNotFound(LeaseId(put.lease)));
        }
        let before = self.seen_at(&put.key, i64::MAX).and_then(|record| record.pair.clone());
        let main = self.revision + 1;
        let mut pair = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(main, |before| before.create_revision),
            mod_revision: main,
            version: before.as_ref().map_or(1, |before| before.version + 1),
            value: put.value.clone(),
            lease: put.lease,
        };
        if put.ignore_value || put.ignore_lease {
            let before = before.as_ref().ok_or(MvccError::KeyNotFound)?;
            if put.ignore_value {
                pair.value = before.value.clone();
            }
            if put.ignore_lease {
                pair.lease = before.lease;
            }
        }
        self.change(&put.key, Some(pair));
        Ok(PutResponse { header: header(self.current()), prev_kv: before.filter(|_| put.prev_kv) })
    }

    fn delete_range(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let before = self.pairs(i64::MAX, &delete.key, &delete.range_end);
        before.iter().for_each(|pair| self.change(&pair.key, None));
        let deleted = before.len() as i64;
        let prev_kvs = if delete.prev_kv { before } else { Vec::new() };
        DeleteRangeResponse { header: header(self.current()), deleted, prev_kvs }
    }

    fn delete_keys(&mut self, keys: &[Bytes]) {
        for key in keys {
            if self.seen_at(key, i64::MAX).is_some() {
                self.change(key, None);
            }
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), MvccError> {
        if revision <= self.compacted {
            return Err(self.compacted(revision));
        }
        if revision > self.revision {
            return Err(self.future(revision));
        }
        self.compacted = revision;
        Ok(())
    }

    fn compacted(&self, requested: i64) -> MvccError {
        MvccError::Compacted { requested: Revision(requested), compacted: Revision(self.compacted) }
    }

    fn future(&self, requested: i64) -> MvccError {
        MvccError::FutureRevision { requested: Revision(requested), current: Revision(self.current()) }
    }

    fn range(&self, range: &RangeRequest) -> Result<RangeResponse, MvccError> {
        let at = if range.revision <= 0 { self.current() } else { range.revision };
        if at > self.current() {
            return Err(self.future(at));
        }
        if at < self.compacted {
            return Err(self.compacted(at));
        }
        let mut kvs = self.pairs(at, &range.key, &range.range_end);
        let mut response =
            RangeResponse { header: header(self.current()), count: kvs.len() as i64, ..RangeResponse::default() };
        if range.count_only {
            return Ok(response);
        }
        let limit = if range.limit > 0 { range.limit as usize } else { usize::MAX };
        let (order, target) = (range.sort_order(), range.sort_target());
        let bounds =
            [range.max_mod_revision, range.min_mod_revision, range.max_create_revision, range.min_create_revision];
        if order == SortOrder::None && bounds == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|pair| {
            (bounds[0] == 0 || pair.mod_revision <= bounds[0])
                && (bounds[1] == 0 || pair.mod_revision >= bounds[1])
                && (bounds[2] == 0 || pair.create_revision <= bounds[2])
                && (bounds[3] == 0 || pair.create_revision >= bounds[3])
        });
        kvs.sort_by(|left, right| {
            let ordering = match target {
                SortTarget::Key => left.key.cmp(&right.key),
                SortTarget::Version => left.version.cmp(&right.version),
                SortTarget::Create => left.create_revision.cmp(&right.create_revision),
                SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
                SortTarget::Value => left.value.cmp(&right.value),
            };
            if order == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        if range.keys_only {
            for pair in &mut kvs {
                pair.value.clear();
                if target != SortTarget::Value {
                    pair.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut pairs = self.pairs(i64::MAX, &compare.key, &compare.range_end);
        if pairs.is_empty() {
            if compare.target() == CompareTarget::Value {
                return false;
            }
            pairs.push(KeyValue::default());
        }
        pairs.iter().all(|pair| {
            let union = compare.target_union.clone();
            let ordering = match (compare.target(), union) {
                (CompareTarget::Value, Some(TargetUnion::Value(value))) => pair.value.cmp(&value),
                (CompareTarget::Value, _) => pair.value.cmp(&Bytes::new()),
                (CompareTarget::Version, Some(TargetUnion::Version(version))) => pair.version.cmp(&version),
                (CompareTarget::Version, _) => pair.version.cmp(&0),
                (CompareTarget::Create, Some(TargetUnion::CreateRevision(create))) => pair.create_revision.cmp(&create),
                (CompareTarget::Create, _) => pair.create_revision.cmp(&0),
                (CompareTarget::Mod, Some(TargetUnion::ModRevision(main))) => pair.mod_revision.cmp(&main),
                (CompareTarget::Mod, _) => pair.mod_revision.cmp(&0),
                (CompareTarget::Lease, Some(TargetUnion::Lease(lease))) => pair.lease.cmp(&lease),
                (CompareTarget::Lease, _) => pair.lease.cmp(&0),
            };
            match compare.result() {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
            }
        })
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, MvccError> {
        let before = self.clone();
        let done = self.branch(&before, txn);
        if done.is_err() {
            *self = before;
        }
        let mut response = done?;
        response.header = header(self.current());
        Ok(response)
    }

    fn branch(&mut self, before: &Model, txn: &TxnRequest) -> Result<TxnResponse, MvccError> {
        let succeeded = txn.compare.iter().all(|compare| before.holds(compare));
        let operations: &[RequestOp] = if succeeded { &txn.success } else { &txn.failure };
        let mut responses = Vec::new();
        for operation in operations {
            let response = match operation.request.as_ref().ok_or(MvccError::KeyNotFound)? {
                Request::RequestRange(range) => {
                    if range.revision > before.revision {
                        return Err(before.future(range.revision));
                    }
                    if range.revision != 0 && range.revision < before.compacted {
                        return Err(before.compacted(range.revision));
                    }
                    Response::ResponseRange(self.range(range)?)
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)?),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete_range(delete)),
                Request::RequestTxn(txn) => Response::ResponseTxn(self.branch(before, txn)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    /// What compaction at `revision` leaves of the rows up to there, deletions aside.
    fn kept(&self, revision: i64) -> Vec<RowKey> {
        self.keys.keys().filter_map(|key| Some(self.seen_at(key, revision)?.row)).collect()
    }

    fn rows(&self) -> BTreeMap<RowKey, KeyValue> {
        let records = self.keys.iter().flat_map(|(key, records)| records.iter().map(move |record| (key, record)));
        records
            .map(|(key, record)| {
                let deleted = || KeyValue { key: key.clone(), ..KeyValue::default() };
                (record.row, record.pair.clone().unwrap_or_else(deleted))
            })
            .collect()
    }

    fn hash_kv(&self, revision: i64) -> Result<HashKv, MvccError> {
        let at = if revision <= 0 { self.revision } else { revision };
        if at > self.revision {
            return Err(self.future(at));
        }
        if at < self.compacted {
            return Err(self.compacted(at));
        }
        let mut kept = self.kept(at);
        if kept.is_empty() {
            kept = self.kept(self.compacted);
        }
        let mut bytes = b"key".to_vec();
        for (row, pair) in self.rows() {
            if row.main.0 <= at && (row.main.0 > self.compacted || kept.contains(&row)) {
                bytes.extend_from_slice(&row.encode());
                bytes.extend(pair.encode_to_vec());
            }
        }
        Ok(HashKv { hash: crc32c::crc32c(&bytes), compact_revision: self.compacted, hash_revision: at })
    }

    /// The rows that are left when compaction has finished.
    fn rows_left(&self) -> BTreeMap<RowKey, KeyValue> {
        let kept = self.kept(self.compacted);
        let mut rows = self.rows();
        rows.retain(|row, pair| {
            let newest_there = || {
                let newest = self.keys[&pair.key].iter().rfind(|record| record.row.main.0 <= self.compacted);
                newest.is_some_and(|newest| newest.row == *row)
            };
            let ends_here = row.tombstone && row.main.0 == self.compacted && newest_there();
            row.main.0 > self.compacted || ends_here || kept.contains(row)
        });
        rows
    }
}
