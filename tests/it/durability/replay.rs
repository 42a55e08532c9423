//! Plays a history to a new server through ordinary requests, and compares the hashes.

use super::judge::Judge;
use super::writers::Change;
use crate::harness::grpc::{delete_op, put};
use crate::harness::{Api, Backend, subject};
use castd_proto::etcdserverpb::{PutRequest, RequestOp, request_op};
use std::collections::BTreeSet;

/// A new server on another backend, if there is one, comes to the same hash at each of several revisions.
pub async fn compare(backend: Backend, api: &Api, judge: &Judge) {
    let other = Backend::ALL.iter().rev().find(|other| **other != backend).unwrap_or(&backend);
    let server = subject(*other).or_else(|| subject(backend)).expect("this one is tested").start();
    let replayed = server.api();
    let leases: BTreeSet<i64> = judge
        .history()
        .values()
        .flatten()
        .filter_map(|change| match change {
            Change::Put { lease, .. } if *lease != 0 => Some(*lease),
            _ => None,
        })
        .collect();
    for lease in leases {
        replayed.grant(lease, 3_600).await.expect("granted");
    }
    for (revision, changes) in judge.history() {
        // One txn is one revision, whatever made it the first time.
        let ops = changes.iter().map(op).collect();
        let answer = replayed.txn(vec![], ops, vec![]).await.expect("a txn succeeds");
        assert_eq!(answer.header.expect("a header").revision, *revision);
    }
    if judge.compacted() > 0 {
        replayed.compact(judge.compacted(), true).await.expect("compacted");
    }
    let newest = judge.seen();
    let middle = (judge.compacted().max(1) + newest) / 2 + 1;
    for revision in [middle, newest - 1, newest] {
        let (ours, theirs) = (api.hash_kv(revision).await, replayed.hash_kv(revision).await);
        let (ours, theirs) = (ours.expect("hashed"), theirs.expect("hashed"));
        assert_eq!(ours.compact_revision, theirs.compact_revision);
        assert_eq!(ours.hash, theirs.hash, "{} and {} differ at {revision}", backend.name(), other.name());
    }
}

fn op(change: &Change) -> RequestOp {
    match change {
        Change::Delete { key } => delete_op(key, ""),
        Change::Put { key, value, lease } => {
            let request = PutRequest { lease: *lease, ..put(key, value) };
            RequestOp { request: Some(request_op::Request::RequestPut(request)) }
        }
    }
}
