//! Transactions: compare, check, execute.
//!
//! ```text
//!   choose ──▶ Path: which branch, of the txn and of the nested ones on the way, all against the state before the first write
//!   check  ──▶ can every operation on that path be done?      — an error here leaves nothing behind
//!   execute ─▶ the operations in order, each seeing what the ones before it wrote
//! ```

use std::{cmp::Ordering, collections::BTreeSet, ops::ControlFlow};

use castd_proto::etcdserverpb::{
    Compare, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};

use crate::ids::{LeaseId, Revision};

use super::{
    Answer, Leases, MvccError, OpCounts, Slice, StoreError,
    index::{Span, Version, Walk},
    read::{Reader, Rows},
    slice::header,
    spans::Spans,
};

/// Which branch of a txn runs.
#[derive(Debug)]
pub(super) struct Path {
    succeeded: bool,
    /// Of the txns nested in that branch, in order.
    nested: Vec<Path>,
    /// Comparisons made to find that branch.
    compared: u64,
}

impl Path {
    /// Comparisons made, in nested txns, too.
    pub(super) fn compared(&self) -> u64 {
        self.compared + self.nested.iter().map(Path::compared).sum::<u64>()
    }
}

fn branch<'r>(request: &'r TxnRequest, path: &Path) -> &'r [RequestOp] {
    if path.succeeded { &request.success } else { &request.failure }
}

pub(super) fn choose<R: Rows>(reader: &Reader<'_, R>, request: &TxnRequest) -> Result<Path, StoreError> {
    let (mut succeeded, mut compared) = (true, 0);
    for compare in &request.compare {
        compared += 1;
        if !holds(reader, compare)? {
            succeeded = false;
            break;
        }
    }
    let mut path = Path { succeeded, nested: Vec::new(), compared };
    for operation in branch(request, &path) {
        if let Some(Request::RequestTxn(nested)) = &operation.request {
            let nested = choose(reader, nested)?;
            path.nested.push(nested);
        }
    }
    Ok(path)
}

/// A comparison of a range holds if it holds for every key. A key that is not there counts as zeros, and never holds when
/// values are compared.
fn holds<R: Rows>(reader: &Reader<'_, R>, compare: &Compare) -> Result<bool, StoreError> {
    let mut found = false;
    let mut outcome = Ok(true);
    let mut visit = |version: Version| {
        found = true;
        outcome = holds_for(reader, compare, version);
        if matches!(outcome, Ok(true)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match Span::new(&compare.key, &compare.range_end) {
        Span::One(key) => {
            let _ = reader.tree.live_at(key, reader.current).map(&mut visit);
        }
        Span::Many(from, to) => {
            let walk = Walk { from, to, descending: false, live_only: true };
            reader
                .tree
                .walk(walk, &mut |entry| entry.live_at(reader.current).map_or(ControlFlow::Continue(()), &mut visit));
        }
    }
    if found {
        outcome
    } else if compare.target == CompareTarget::Value as i32 {
        Ok(false)
    } else {
        Ok(fits(compare, number(compare, Version { main: 0, create: 0, version: 0, sub: 0, bytes: 0 }, 0)))
    }
}

fn holds_for<R: Rows>(reader: &Reader<'_, R>, compare: &Compare, version: Version) -> Result<bool, StoreError> {
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let pair: castd_proto::mvccpb::KeyValue = reader.pair(version)?;
            match &compare.target_union {
                Some(TargetUnion::Value(value)) => pair.value.cmp(value),
                _ => pair.value.as_ref().cmp(&[]),
            }
        }
        Ok(CompareTarget::Lease) => {
            let pair: castd_proto::mvccpb::KeyValue = reader.pair(version)?;
            number(compare, version, pair.lease)
        }
        _ => number(compare, version, 0),
    };
    Ok(fits(compare, ordering))
}

/// The actual number against the given one; the wrong member of the union counts as 0.
fn number(compare: &Compare, version: Version, lease: i64) -> Ordering {
    let given = compare.target_union.as_ref();
    let (actual, given) = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            (version.version, given.and_then(|it| if let TargetUnion::Version(it) = it { Some(*it) } else { None }))
        }
        Ok(CompareTarget::Create) => (
            version.create,
            given.and_then(|it| if let TargetUnion::CreateRevision(it) = it { Some(*it) } else { None }),
        ),
        Ok(CompareTarget::Mod) => {
            (version.main, given.and_then(|it| if let TargetUnion::ModRevision(it) = it { Some(*it) } else { None }))
        }
        Ok(CompareTarget::Lease) => {
            (lease, given.and_then(|it| if let TargetUnion::Lease(it) = it { Some(*it) } else { None }))
        }
        Ok(CompareTarget::Value) | Err(_) => return Ordering::Equal,
    };
    actual.cmp(&given.unwrap_or_default())
}

fn fits(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // As in etcd, which has no such answer either.
        Err(_) => true,
    }
}

pub(super) fn check_lease(leases: &dyn Leases, request: &PutRequest) -> Result<(), MvccError> {
    let lease = LeaseId(request.lease);
    if lease.0 == 0 || leases.exists(lease) { Ok(()) } else { Err(MvccError::LeaseNotFound(lease)) }
}

/// Whether everything on the path can be done. Without `leases`, only reads can.
pub(super) fn check<R: Rows>(
    reader: &Reader<'_, R>,
    request: &TxnRequest,
    leases: Option<&dyn Leases>,
    path: &Path,
) -> Result<(), MvccError> {
    // What earlier operations did to a key matters only to those that keep something of it.
    let mut outlook = keeps_something(request, path).then(Outlook::default);
    check_branch(reader, request, leases, path, &mut outlook)
}

fn keeps_something(request: &TxnRequest, path: &Path) -> bool {
    let mut nested = path.nested.iter();
    branch(request, path).iter().any(|operation| match &operation.request {
        Some(Request::RequestPut(put)) => put.ignore_value || put.ignore_lease,
        Some(Request::RequestTxn(txn)) => nested.next().is_some_and(|path| keeps_something(txn, path)),
        _ => false,
    })
}

/// Which keys the operations so far have written or deleted.
#[derive(Default)]
struct Outlook<'r> {
    written: BTreeSet<&'r [u8]>,
    deleted: Spans<'r>,
}

impl<'r> Outlook<'r> {
    fn delete(&mut self, span: Span<'r>) {
        match span {
            Span::One(key) => {
                self.written.remove(key);
            }
            Span::Many(from, to) => {
                self.written.retain(|key| *key < from || to.is_some_and(|to| to <= *key));
            }
        }
        self.deleted.add(span);
    }

    fn exists<R: Rows>(&self, reader: &Reader<'_, R>, key: &[u8]) -> bool {
        self.written.contains(key) || !self.deleted.contains(key) && reader.exists(key)
    }
}

fn check_branch<'r, R: Rows>(
    reader: &Reader<'_, R>,
    request: &'r TxnRequest,
    leases: Option<&dyn Leases>,
    path: &Path,
    outlook: &mut Option<Outlook<'r>>,
) -> Result<(), MvccError> {
    let mut nested = path.nested.iter();
    for operation in branch(request, path) {
        match &operation.request {
            Some(Request::RequestRange(range)) => check_revision(reader, range)?,
            Some(Request::RequestPut(put)) => {
                let Some(leases) = leases else { return Err(MvccError::KeyNotFound) };
                check_lease(leases, put)?;
                if let Some(outlook) = outlook {
                    if (put.ignore_value || put.ignore_lease) && !outlook.exists(reader, &put.key) {
                        return Err(MvccError::KeyNotFound);
                    }
                    outlook.written.insert(&put.key);
                }
            }
            Some(Request::RequestDeleteRange(delete)) => {
                if let Some(outlook) = outlook {
                    outlook.delete(Span::new(&delete.key, &delete.range_end));
                }
            }
            Some(Request::RequestTxn(txn)) => {
                let path = nested.next().ok_or(MvccError::KeyNotFound)?;
                check_branch(reader, txn, leases, path, outlook)?;
            }
            None => return Err(MvccError::KeyNotFound),
        }
    }
    Ok(())
}

/// Unlike outside of a txn, a negative revision is not the current one if it is below the compacted one.
fn check_revision<R: Rows>(reader: &Reader<'_, R>, range: &RangeRequest) -> Result<(), MvccError> {
    match range.revision {
        0 => Ok(()),
        revision if revision > reader.current => Err(reader.future(revision)),
        revision if revision < reader.compacted => Err(reader.compacted(revision)),
        _ => Ok(()),
    }
}

pub(super) fn execute(
    slice: &mut Slice<'_>,
    request: &TxnRequest,
    leases: &mut dyn Leases,
    path: &Path,
) -> Result<TxnResponse, MvccError> {
    let mut nested = path.nested.iter();
    let mut responses = Vec::with_capacity(branch(request, path).len());
    for operation in branch(request, path) {
        let response = match &operation.request {
            Some(Request::RequestRange(_)) if slice.answer() == Answer::Unwanted => continue,
            Some(Request::RequestRange(range)) => {
                slice.count_range();
                Response::ResponseRange(range_response(&slice.reader(), range)?)
            }
            Some(Request::RequestPut(put)) => {
                let prev_kv = slice.put_checked(put, leases)?;
                Response::ResponsePut(PutResponse { header: header(Revision(slice.request_revision())), prev_kv })
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let mut response = slice.delete_range_checked(delete, leases)?;
                response.header = header(Revision(slice.request_revision()));
                Response::ResponseDeleteRange(response)
            }
            Some(Request::RequestTxn(txn)) => {
                let path = nested.next().ok_or(MvccError::KeyNotFound)?;
                Response::ResponseTxn(execute(slice, txn, leases, path)?)
            }
            None => return Err(MvccError::KeyNotFound),
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: path.succeeded, responses })
}

/// A txn of reads on a published view.
pub(super) fn execute_reads<R: Rows>(
    reader: &Reader<'_, R>,
    request: &TxnRequest,
) -> Result<(TxnResponse, OpCounts), MvccError> {
    let path = choose(reader, request)?;
    check(reader, request, None, &path)?;
    let mut responses = Vec::with_capacity(branch(request, &path).len());
    for operation in branch(request, &path) {
        let Some(Request::RequestRange(range)) = &operation.request else { return Err(MvccError::KeyNotFound) };
        let response = Response::ResponseRange(range_response(reader, range)?);
        responses.push(ResponseOp { response: Some(response) });
    }
    let mut counts = OpCounts { ranges: path.compared() + responses.len() as u64, ..OpCounts::default() };
    counts.end_txn(0);
    let response = TxnResponse { header: header(Revision(reader.current)), succeeded: path.succeeded, responses };
    Ok((response, counts))
}

fn range_response<R: Rows>(reader: &Reader<'_, R>, range: &RangeRequest) -> Result<RangeResponse, MvccError> {
    let outcome = reader.range(range)?;
    let header = header(Revision(reader.current));
    Ok(RangeResponse { header, kvs: outcome.kvs, more: outcome.more, count: outcome.count })
}
