//! What clients write down, as requests and answers of the API, and back.

use crate::member::edge::{Answer, Ask};
use castd::cast::RequestError;
use castd::lease::LeaseError;
use castd::mvcc::MvccError;
use castd::state::Outcome;
use castd_judge::history::{self, Compare, Op, OpAnswer, Pair, Refusal, Request};
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use castd_proto::etcdserverpb::{request_op, response_op};
use castd_proto::mvccpb::KeyValue;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn pair(kv: &KeyValue) -> Pair {
    Pair {
        key: text(&kv.key),
        value: text(&kv.value),
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn pairs(kvs: &[KeyValue]) -> Vec<Pair> {
    kvs.iter().map(pair).collect()
}

/// The end of the range of all keys with this prefix.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

/// The smallest key there is, if there is none.
pub fn range_start(prefix: &str) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() }
}

fn range(op: &Op, serializable: bool) -> pb::RangeRequest {
    let one = |key: &str| pb::RangeRequest { key: key.as_bytes().to_vec().into(), serializable, ..Default::default() };
    let all = |prefix: &str| pb::RangeRequest {
        key: range_start(prefix).into(),
        range_end: prefix_end(prefix).into(),
        serializable,
        ..Default::default()
    };
    match op {
        Op::Get { key } => one(key),
        Op::List { prefix } => all(prefix),
        Op::Past { prefix, revision } => pb::RangeRequest { revision: *revision, ..all(prefix) },
        Op::Put { .. } | Op::Delete { .. } | Op::DeleteAll { .. } | Op::Nested(_) => unreachable!("it is no range"),
    }
}

fn put(op: &Op) -> Option<pb::PutRequest> {
    let Op::Put { key, value, lease } = op else { return None };
    Some(pb::PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        lease: *lease,
        prev_kv: true,
        ..Default::default()
    })
}

fn delete(op: &Op) -> Option<pb::DeleteRangeRequest> {
    let (key, range_end) = match op {
        Op::Delete { key } => (key.as_bytes().to_vec(), Vec::new()),
        Op::DeleteAll { prefix } => (range_start(prefix), prefix_end(prefix)),
        _ => return None,
    };
    Some(pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: true })
}

fn txn_op(op: &Op) -> pb::RequestOp {
    let request = match op {
        Op::Get { .. } | Op::List { .. } | Op::Past { .. } => request_op::Request::RequestRange(range(op, false)),
        Op::Put { .. } => request_op::Request::RequestPut(put(op).unwrap_or_default()),
        Op::Delete { .. } | Op::DeleteAll { .. } => {
            request_op::Request::RequestDeleteRange(delete(op).unwrap_or_default())
        }
        Op::Nested(request) => request_op::Request::RequestTxn(txn(request)),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare(compare: &Compare) -> pb::Compare {
    let (key, target, union) = match compare {
        Compare::Modified { key, is } => (key, CompareTarget::Mod, TargetUnion::ModRevision(*is)),
        Compare::Value { key, is } => (key, CompareTarget::Value, TargetUnion::Value(is.as_bytes().to_vec().into())),
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.as_bytes().to_vec().into(),
        target_union: Some(union),
        ..Default::default()
    }
}

fn txn(request: &Request) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: request.compares.iter().map(compare).collect(),
        success: request.success.iter().map(txn_op).collect(),
        failure: request.failure.iter().map(txn_op).collect(),
    }
}

/// In the way that etcd's API has for it.
pub fn ask(request: &Request) -> Ask {
    if let ([], [op]) = (&request.compares[..], &request.success[..]) {
        match op {
            Op::Get { .. } | Op::List { .. } | Op::Past { .. } => {
                return Ask::Range(range(op, request.is_serializable));
            }
            Op::Put { .. } => return Ask::Put(put(op).unwrap_or_default()),
            Op::Delete { .. } | Op::DeleteAll { .. } => return Ask::Delete(delete(op).unwrap_or_default()),
            Op::Nested(_) => {}
        }
    }
    Ask::Txn(txn(request))
}

fn txn_results(answer: &pb::TxnResponse) -> Vec<OpAnswer> {
    let result = |response: &pb::ResponseOp| match &response.response {
        Some(response_op::Response::ResponseRange(range)) => OpAnswer::Got(pairs(&range.kvs)),
        Some(response_op::Response::ResponsePut(put)) => OpAnswer::Put { previous: put.prev_kv.as_ref().map(pair) },
        Some(response_op::Response::ResponseDeleteRange(delete)) => OpAnswer::Deleted(pairs(&delete.prev_kvs)),
        Some(response_op::Response::ResponseTxn(txn)) => {
            OpAnswer::Nested { succeeded: txn.succeeded, results: txn_results(txn) }
        }
        None => panic!("an answer without an answer"),
    };
    answer.responses.iter().map(result).collect()
}

pub fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// What the answer says of the request.
pub fn outcome(answer: &Answer) -> history::Outcome {
    let answered = |header: &Option<pb::ResponseHeader>, succeeded, results| {
        let revision = revision(header.as_ref());
        history::Outcome::Answered(history::Answer { revision, succeeded, results })
    };
    match answer {
        Answer::Range(range) => answered(&range.header, true, vec![OpAnswer::Got(pairs(&range.kvs))]),
        Answer::Txn(txn) | Answer::Written(Outcome::Txn(txn)) => answered(&txn.header, txn.succeeded, txn_results(txn)),
        Answer::Written(Outcome::Put(put)) => {
            answered(&put.header, true, vec![OpAnswer::Put { previous: put.prev_kv.as_ref().map(pair) }])
        }
        Answer::Written(Outcome::DeleteRange(delete)) => {
            assert_eq!(delete.prev_kvs.len() as i64, delete.deleted, "as many are returned as were deleted");
            answered(&delete.header, true, vec![OpAnswer::Deleted(pairs(&delete.prev_kvs))])
        }
        Answer::Failed(error) => failed(error),
        Answer::Broken => history::Outcome::Unknown("the connection broke".to_owned()),
        Answer::Written(_) | Answer::Kept { .. } | Answer::Members { .. } | Answer::Moved => {
            panic!("nobody asked for {answer:?}")
        }
    }
}

fn failed(error: &RequestError) -> history::Outcome {
    let refusal = match error {
        RequestError::Mvcc(MvccError::Compacted { .. }) => Refusal::Compacted,
        RequestError::Mvcc(MvccError::FutureRevision { .. }) => Refusal::Future,
        RequestError::Mvcc(MvccError::LeaseNotFound(_)) | RequestError::Lease(LeaseError::NotFound) => Refusal::NoLease,
        RequestError::NotSupportedForLearner | RequestError::TooManyRequests | RequestError::Check(_) => {
            Refusal::Other(error.to_string())
        }
        other => return history::Outcome::Unknown(other.to_string()),
    };
    history::Outcome::Refused(refusal)
}
