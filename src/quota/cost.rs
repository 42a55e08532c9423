//! What a write is taken to need before anybody knows what it comes to. The numbers are etcd's.

use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};

/// Of a lease.
pub const LEASE_GRANT: u64 = 64;
/// What a pair costs beside its key and its value.
const PAIR_OVERHEAD: u64 = 256;

pub fn put(request: &PutRequest) -> u64 {
    PAIR_OVERHEAD + (request.key.len() + request.value.len()) as u64
}

/// The dearer of both branches: which of them runs is not known yet.
pub fn txn(request: &TxnRequest) -> u64 {
    branch(&request.success).max(branch(&request.failure))
}

fn branch(operations: &[RequestOp]) -> u64 {
    let costs = operations.iter().map(|operation| match &operation.request {
        Some(Request::RequestPut(it)) => put(it),
        Some(Request::RequestTxn(it)) => txn(it),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    });
    costs.sum()
}

/// 0 for what has to work when there is no room.
pub fn of(op: &Op) -> u64 {
    match op {
        Op::Put(request) => put(request),
        Op::Txn(request) => txn(request),
        Op::LeaseGrant(_) => LEASE_GRANT,
        Op::DeleteRange(_)
        | Op::Compact(_)
        | Op::LeaseRevoke(_)
        | Op::LeaseCheckpoint(_)
        | Op::LeaseExpire(_)
        | Op::Alarm(_)
        | Op::SpaceShortage(_)
        | Op::SpaceRegained(_)
        | Op::MemberAttributes(_)
        | Op::ClusterVersion(_)
        | Op::Downgrade(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_proto::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest};

    fn put_of(value_bytes: usize) -> RequestOp {
        let put = PutRequest { key: "key".into(), value: vec![0; value_bytes].into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: Vec::new(), success, failure })) }
    }

    #[test]
    fn a_txn_costs_what_its_dearer_branch_puts_with_all_that_is_nested() {
        let deletion = RequestOp { request: Some(Request::RequestDeleteRange(DeleteRangeRequest::default())) };
        let of_branches = |success, failure| txn(&TxnRequest { compare: Vec::new(), success, failure });
        assert_eq!(of_branches(vec![deletion.clone()], vec![]), 0);
        assert_eq!(of_branches(vec![put_of(10), put_of(20), deletion], vec![put_of(40)]), 2 * 259 + 30);
        assert_eq!(of_branches(vec![put_of(10)], vec![put_of(11)]), 259 + 11);
        let deep = nested(vec![nested(vec![put_of(1)], vec![put_of(500)])], vec![put_of(2)]);
        assert_eq!(of_branches(vec![], vec![deep, put_of(0)]), 2 * 259 + 500);
        assert_eq!(of(&Op::LeaseGrant(LeaseGrantRequest::default())), 64);
        assert_eq!(of(&Op::Put(PutRequest { key: "k".into(), ..Default::default() })), 257);
    }
}
