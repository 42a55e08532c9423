//! What is wrong with a request before anybody looks at the store. Pure functions for the edge.
//!
//! The order of the checks is etcd's, because a client sees the first that fails. So is the rule against changing a key
//! twice in one txn, with its gaps: a deletion without an upper limit is not seen, nor is a put of one nested txn that a
//! later one deletes.

use std::collections::HashSet;

use castd_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

use super::{RequestError, index::Span, spans::Spans};

pub fn range(request: &RangeRequest) -> Result<(), RequestError> {
    if request.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(RequestError::InvalidSortOption);
    }
    Ok(())
}

pub(super) fn has_revision_filter(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

pub fn put(request: &PutRequest) -> Result<(), RequestError> {
    if request.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(RequestError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RequestError::LeaseProvided);
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), RequestError> {
    if request.key.is_empty() { Err(RequestError::EmptyKey) } else { Ok(()) }
}

/// `ops_max` is `--max-txn-ops`. A nested txn has what the one around it left of that, and so the nesting is bounded too.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), RequestError> {
    check_ops(request, ops_max)?;
    check_duplicates(&request.success)?;
    check_duplicates(&request.failure)?;
    Ok(())
}

/// Whether the txn can be answered from a view: reads only, none of them nested.
pub fn read_only(request: &TxnRequest) -> bool {
    operations(request).all(|operation| matches!(operation.request, Some(Request::RequestRange(_))))
}

/// Whether every read of the txn settles for this member's own state. A txn of comparisons alone does, as in etcd.
pub fn serializable(request: &TxnRequest) -> bool {
    operations(request)
        .all(|operation| matches!(&operation.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

fn check_ops(request: &TxnRequest, ops_max: usize) -> Result<(), RequestError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = ops_max.checked_sub(ops).ok_or(RequestError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(RequestError::EmptyKey);
    }
    operations(request).try_for_each(|operation| match &operation.request {
        Some(Request::RequestRange(it)) => range(it),
        Some(Request::RequestPut(it)) => put(it),
        Some(Request::RequestDeleteRange(it)) => delete_range(it),
        Some(Request::RequestTxn(it)) => check_ops(it, left),
        None => Err(RequestError::KeyNotFound),
    })
}

/// What one branch would put and delete.
#[derive(Default)]
struct Effects<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Spans<'a>,
}

fn check_duplicates(operations: &[RequestOp]) -> Result<Effects<'_>, RequestError> {
    let mut effects = Effects::default();
    for operation in operations {
        if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
            let span = Span::new(&delete.key, &delete.range_end);
            // etcd compares with the end as it stands, one zero byte, which no key is below.
            if !matches!(span, Span::Many(_, None)) {
                effects.deletes.add(span);
            }
        }
    }
    for operation in operations {
        if let Some(Request::RequestTxn(txn)) = &operation.request {
            let success = check_duplicates(&txn.success)?;
            let failure = check_duplicates(&txn.failure)?;
            // Only one of the branches will run, so they may put the same keys.
            for key in success.puts.union(&failure.puts) {
                effects.put(key)?;
            }
            effects.deletes.merge(success.deletes);
            effects.deletes.merge(failure.deletes);
        }
    }
    for operation in operations {
        if let Some(Request::RequestPut(put)) = &operation.request {
            effects.put(&put.key)?;
        }
    }
    Ok(effects)
}

impl<'a> Effects<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), RequestError> {
        if self.deletes.contains(key) || !self.puts.insert(key) { Err(RequestError::DuplicateKey) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::check, *};
    use castd_proto::etcdserverpb::Compare;

    fn put_of(key: &'static str) -> RequestOp {
        RequestOp { request: Some(Request::RequestPut(PutRequest { key: key.into(), ..Default::default() })) }
    }

    fn delete_of(key: &'static str, range_end: &'static str) -> RequestOp {
        let request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestDeleteRange(request)) }
    }

    fn range_of(key: &'static str, serializable: bool) -> RequestOp {
        let request = RangeRequest { key: key.into(), serializable, ..Default::default() };
        RequestOp { request: Some(Request::RequestRange(request)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: Vec::new(), success, failure })) }
    }

    fn checked(success: Vec<RequestOp>) -> Result<(), RequestError> {
        let txn = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
        let mirrored = TxnRequest { failure: txn.success.clone(), ..Default::default() };
        assert_eq!(check::txn(&txn, 128), check::txn(&mirrored, 128));
        check::txn(&txn, 128)
    }

    #[test]
    fn a_key_is_changed_once_in_a_txn() {
        use RequestError::DuplicateKey;
        assert_eq!(checked(vec![put_of("a"), put_of("a")]), Err(DuplicateKey));
        assert_eq!(checked(vec![put_of("a"), put_of("b")]), Ok(()));
        assert_eq!(checked(vec![put_of("a"), delete_of("a", "")]), Err(DuplicateKey));
        assert_eq!(checked(vec![delete_of("a", "c"), put_of("b")]), Err(DuplicateKey));
        assert_eq!(checked(vec![delete_of("a", "c"), put_of("c")]), Ok(()));
        assert_eq!(checked(vec![delete_of("a", "c"), delete_of("b", "d")]), Ok(()));
        assert_eq!(checked(vec![range_of("a", false), put_of("a")]), Ok(()));
        assert_eq!(checked(vec![delete_of("a", "\0"), put_of("b")]), Ok(()), "a deletion without limit is not seen");
        assert_eq!(checked(vec![delete_of("c", "a"), put_of("b")]), Ok(()), "an empty range deletes nothing");
    }

    #[test]
    fn nested_txns_count_against_the_one_around_them() {
        use RequestError::DuplicateKey;
        assert_eq!(checked(vec![nested(vec![put_of("a")], vec![put_of("a")])]), Ok(()));
        assert_eq!(checked(vec![nested(vec![put_of("a")], vec![]), put_of("a")]), Err(DuplicateKey));
        assert_eq!(checked(vec![put_of("a"), nested(vec![], vec![put_of("a")])]), Err(DuplicateKey));
        assert_eq!(
            checked(vec![nested(vec![put_of("a")], vec![]), nested(vec![], vec![put_of("a")])]),
            Err(DuplicateKey)
        );
        assert_eq!(checked(vec![nested(vec![delete_of("a", "z")], vec![]), put_of("b")]), Err(DuplicateKey));
        assert_eq!(checked(vec![nested(vec![put_of("b")], vec![]), delete_of("a", "z")]), Err(DuplicateKey));
        assert_eq!(
            checked(vec![nested(vec![delete_of("a", "z")], vec![]), nested(vec![put_of("b")], vec![])]),
            Err(DuplicateKey)
        );
        let later = vec![nested(vec![put_of("b")], vec![]), nested(vec![delete_of("a", "z")], vec![])];
        assert_eq!(checked(later), Ok(()), "a later sibling's deletion is not seen");
        let deep = vec![nested(vec![nested(vec![nested(vec![put_of("a")], vec![])], vec![])], vec![]), put_of("a")];
        assert_eq!(checked(deep), Err(DuplicateKey));
    }

    #[test]
    fn nesting_uses_up_the_operations() {
        let many = |count: usize| (0..count).map(|_| range_of("a", false)).collect::<Vec<_>>();
        assert_eq!(checked(many(128)), Ok(()));
        assert_eq!(checked(many(129)), Err(RequestError::TooManyOps));
        assert_eq!(checked(vec![nested(many(127), vec![])]), Ok(()));
        assert_eq!(checked(vec![nested(vec![], many(128))]), Err(RequestError::TooManyOps));
        let siblings = vec![nested(many(126), vec![]), nested(many(126), vec![])];
        assert_eq!(checked(siblings), Ok(()), "siblings do not share");
        let mut compares =
            TxnRequest { compare: vec![Compare { key: "a".into(), ..Default::default() }; 3], ..Default::default() };
        assert_eq!(check::txn(&compares, 3), Ok(()));
        assert_eq!(check::txn(&compares, 2), Err(RequestError::TooManyOps));
        compares.compare[1].key.clear();
        assert_eq!(check::txn(&compares, 3), Err(RequestError::EmptyKey));
        assert_eq!(check::txn(&compares, 2), Err(RequestError::TooManyOps), "counted first");
    }

    #[test]
    fn every_operation_is_checked_as_if_it_stood_alone() {
        assert_eq!(checked(vec![RequestOp { request: None }]), Err(RequestError::KeyNotFound));
        assert_eq!(checked(vec![put_of("")]), Err(RequestError::EmptyKey));
        assert_eq!(checked(vec![delete_of("", "a")]), Err(RequestError::EmptyKey));
        assert_eq!(checked(vec![nested(vec![range_of("", true)], vec![])]), Err(RequestError::EmptyKey));
        let sorted = RangeRequest { key: "a".into(), sort_order: 3, ..Default::default() };
        assert_eq!(check::range(&sorted), Err(RequestError::InvalidSortOption));
        let sorted = RangeRequest { key: "a".into(), sort_target: -1, ..Default::default() };
        assert_eq!(check::range(&sorted), Err(RequestError::InvalidSortOption));
        let ignoring = PutRequest { key: "a".into(), value: "v".into(), ignore_value: true, ..Default::default() };
        assert_eq!(check::put(&ignoring), Err(RequestError::ValueProvided));
        let ignoring = PutRequest { key: "a".into(), lease: 1, ignore_lease: true, ..Default::default() };
        assert_eq!(check::put(&ignoring), Err(RequestError::LeaseProvided));
        assert_eq!(check::put(&PutRequest { key: "a".into(), ignore_value: true, ..Default::default() }), Ok(()));
    }

    #[test]
    fn a_txn_of_reads_needs_no_log() {
        let txn = |success, failure| TxnRequest { compare: Vec::new(), success, failure };
        assert!(read_only(&txn(vec![], vec![])));
        assert!(serializable(&txn(vec![], vec![])));
        assert!(read_only(&txn(vec![range_of("a", true)], vec![range_of("b", false)])));
        assert!(!serializable(&txn(vec![range_of("a", true)], vec![range_of("b", false)])));
        assert!(serializable(&txn(vec![range_of("a", true)], vec![range_of("b", true)])));
        assert!(!read_only(&txn(vec![range_of("a", true)], vec![put_of("b")])));
        assert!(!read_only(&txn(vec![nested(vec![], vec![])], vec![])), "a nested txn always goes through the log");
    }
}
