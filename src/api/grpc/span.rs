//! What traces say of calls and requests: names and attributes as etcd and OpenTelemetry have them.
//!
//! ```text
//!   etcdserverpb.KV/Put          the call: rpc.system, rpc.service, rpc.method, rpc.grpc.status_code
//!     └─ put                     the request: key
//!          └─ RaftNode           and on through the cast: telemetry/trace.rs
//! ```
//! On a stream each request is a span, and the call is one from the opening to the end. Nothing here computes anything
//! for a call that is not sampled.

use crate::mvcc::check;
use crate::telemetry::trace::{Span, SpanContext, Tracer};
use castd_proto::Rpc;
use castd_proto::etcdserverpb::{self as pb, request_op};
use tonic::Code;
use tonic::metadata::MetadataMap;

/// The span of one call, which may belong to a client's trace.
#[derive(Default)]
pub struct ServerSpan(Span);

impl ServerSpan {
    pub fn start(tracer: &Tracer, rpc: Rpc, metadata: &MetadataMap) -> Self {
        let mut span = tracer.root(rpc.path().trim_start_matches('/'), metadata.as_ref());
        if span.is_recording() {
            span.attribute("rpc.system", "grpc");
            span.attribute("rpc.service", rpc.service());
            span.attribute("rpc.method", rpc.method());
        }
        Self(span)
    }

    pub fn context(&self) -> SpanContext {
        self.0.context()
    }

    pub fn end(self, code: Code, message: &str) {
        let mut span = self.0;
        if span.is_recording() {
            span.attribute("rpc.grpc.status_code", i64::from(code as i32));
            if is_servers_fault(code) {
                span.error(message.to_owned());
            }
        }
    }
}

/// The codes that make the span of a server one that failed; others say that the client asked for something wrong.
fn is_servers_fault(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

/// Keys are bytes; traces are text.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

pub fn range(span: &mut Span, range: &pb::RangeRequest) {
    span.attribute("range_begin", text(&range.key));
    span.attribute("range_end", text(&range.range_end));
    span.attribute("rev", range.revision);
    span.attribute("limit", range.limit);
    span.attribute("count_only", range.count_only);
    span.attribute("keys_only", range.keys_only);
}

pub fn put(span: &mut Span, put: &pb::PutRequest) {
    span.attribute("key", text(&put.key));
}

/// etcd says nothing here; what is deleted is what people look for.
pub fn delete_range(span: &mut Span, delete: &pb::DeleteRangeRequest) {
    span.attribute("key", text(&delete.key));
    span.attribute("range_end", text(&delete.range_end));
}

pub fn txn(span: &mut Span, txn: &pb::TxnRequest) {
    use request_op::Request;
    let (key, kind, lease) = match txn.success.first().and_then(|op| op.request.as_ref()) {
        Some(Request::RequestRange(range)) => (text(&range.key), "range", 0),
        Some(Request::RequestPut(put)) => (text(&put.key), "put", put.lease),
        Some(Request::RequestDeleteRange(delete)) => (text(&delete.key), "delete_range", 0),
        Some(Request::RequestTxn(_)) => (String::new(), "txn", 0),
        None => (String::new(), "", 0),
    };
    span.attribute("compare_first_key", txn.compare.first().map_or_else(String::new, |first| text(&first.key)));
    span.attribute("success_first_key", key);
    span.attribute("success_first_type", kind);
    span.attribute("success_first_lease", lease);
    span.attribute("compare_len", txn.compare.len() as i64);
    span.attribute("success_len", txn.success.len() as i64);
    span.attribute("failure_len", txn.failure.len() as i64);
    span.attribute("read_only", check::read_only(txn));
}

pub fn compact(span: &mut Span, compact: &pb::CompactionRequest) {
    span.attribute("rev", compact.revision);
    span.attribute("is_physical", compact.physical);
}

pub fn lease_grant(span: &mut Span, grant: &pb::LeaseGrantRequest) {
    span.attribute("id", grant.id);
    span.attribute("ttl", grant.ttl);
}

/// Of a revocation or a renewal.
pub fn lease(span: &mut Span, id: i64) {
    span.attribute("id", id);
}

/// Of whoever queues up, for a lock or for leadership.
pub fn queue(span: &mut Span, name: &[u8], lease: i64) {
    span.attribute("name", text(name));
    span.attribute("lease", lease);
}

pub fn watch(span: &mut Span, create: &pb::WatchCreateRequest) {
    if span.is_recording() {
        span.attribute("key", text(&create.key));
        span.attribute("range_end", text(&create.range_end));
        span.attribute("start_rev", create.start_revision);
        span.attribute("progress_notify", create.progress_notify);
        span.attribute("prev_kv", create.prev_kv);
        span.attribute("fragment", create.fragment);
    }
}
