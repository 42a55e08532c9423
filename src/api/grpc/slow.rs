//! The log lines that a slow call leaves: what people grep for when etcd is slow, in etcd's words.
//!
//! | line | when |
//! |---|---|
//! | `request stats` | longer than `--warning-unary-request-duration` |
//! | `apply request took too long`, `read-only …` | a read, longer than `--warning-apply-duration`; of writes the Applier says it |
//! | `trace[…]` | longer than 100 ms, with its steps |
//!
//! Nothing here runs for a call that is fast. Values and secrets are never shown (`telemetry::request_text`).

use crate::api::call_notes::{self, Asked, CallNotes};
use crate::api::grpc::Edge;
use crate::cast::RequestError;
use crate::telemetry::log::timestamp;
use crate::telemetry::metrics::RequestKind;
use crate::telemetry::request_text;
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::{self as pb, response_op::Response};
use castd_proto::{Kind, Rpc};
use prost::Message as _;
use std::any::Any;
use std::time::Duration;

/// etcd's `traceThreshold`.
pub(super) const TRACED: Duration = Duration::from_millis(100);

/// A call that is over.
pub(super) struct Finished<'a> {
    pub rpc: Rpc,
    pub took: Duration,
    pub request_bytes: usize,
    /// The answer and its size.
    pub answer: Result<(&'a dyn Any, usize), &'a RequestError>,
}

/// What metrics call a call; `None` for those that they do not time.
pub(super) fn kind_of(rpc: Rpc) -> Option<RequestKind> {
    Some(match rpc {
        Rpc::KvRange => RequestKind::Range,
        Rpc::KvPut => RequestKind::Put,
        Rpc::KvDeleteRange => RequestKind::DeleteRange,
        Rpc::KvTxn if call_notes::read(CallNotes::is_read_only) == Some(true) => RequestKind::ReadonlyTxn,
        Rpc::KvTxn => RequestKind::Txn,
        Rpc::KvCompact => RequestKind::Compaction,
        Rpc::LeaseGrant => RequestKind::LeaseGrant,
        Rpc::LeaseRevoke => RequestKind::LeaseRevoke,
        Rpc::MaintenanceAlarm => RequestKind::Alarm,
        Rpc::Authenticate => RequestKind::Authenticate,
        Rpc::AuthEnable => RequestKind::AuthEnable,
        Rpc::AuthDisable => RequestKind::AuthDisable,
        Rpc::AuthStatus => RequestKind::AuthStatus,
        Rpc::AuthUserAdd => RequestKind::AuthUserAdd,
        Rpc::AuthUserDelete => RequestKind::AuthUserDelete,
        Rpc::AuthUserGet => RequestKind::AuthUserGet,
        Rpc::AuthUserList => RequestKind::AuthUserList,
        Rpc::AuthUserChangePassword => RequestKind::AuthUserChangePassword,
        Rpc::AuthUserGrantRole => RequestKind::AuthUserGrantRole,
        Rpc::AuthUserRevokeRole => RequestKind::AuthUserRevokeRole,
        Rpc::AuthRoleAdd => RequestKind::AuthRoleAdd,
        Rpc::AuthRoleDelete => RequestKind::AuthRoleDelete,
        Rpc::AuthRoleGet => RequestKind::AuthRoleGet,
        Rpc::AuthRoleList => RequestKind::AuthRoleList,
        Rpc::AuthRoleGrantPermission => RequestKind::AuthRoleGrantPermission,
        Rpc::AuthRoleRevokePermission => RequestKind::AuthRoleRevokePermission,
        _ => return None,
    })
}

/// What etcd's `request stats` count of a request and its answer; -1 where it does not look.
struct Counts {
    requests: i64,
    request_bytes: i64,
    responses: i64,
    response_bytes: i64,
}

impl Counts {
    fn of(call: &Finished<'_>, asked: Option<&Op>) -> Self {
        let (requests, request_bytes) = match (call.rpc, asked) {
            (Rpc::KvRange | Rpc::KvDeleteRange, _) => (0, call.request_bytes),
            (Rpc::KvPut, _) => (1, call.request_bytes),
            (Rpc::KvTxn, Some(Op::Txn(txn))) => {
                let chosen = match answer::<pb::TxnResponse>(call) {
                    Some(answer) if answer.succeeded => &txn.success,
                    Some(_) => &txn.failure,
                    None => &Vec::new(),
                };
                (chosen.len(), chosen.iter().map(pb::RequestOp::encoded_len).sum())
            }
            (Rpc::KvTxn, _) => (0, call.request_bytes),
            _ => return Counts { requests: -1, request_bytes: -1, responses: -1, response_bytes: -1 },
        };
        let responses = answer::<pb::RangeResponse>(call).map(|answer| answer.count);
        let deleted = answer::<pb::DeleteRangeResponse>(call).map(|answer| answer.deleted);
        let response_bytes = call.answer.map_or(0, |(_, bytes)| bytes as i64);
        let responses = responses.or(deleted).unwrap_or_default();
        Counts { requests: requests as i64, request_bytes: request_bytes as i64, responses, response_bytes }
    }
}

fn answer<'a, A: 'static>(call: &Finished<'a>) -> Option<&'a A> {
    call.answer.ok()?.0.downcast_ref()
}

/// The request as text, without the name around it.
fn content(op: Option<&Op>, asked: &Asked) -> String {
    match (op, asked) {
        (_, Asked::Range(range)) => request_text::range(range),
        (_, Asked::ReadOnlyTxn(txn)) | (Some(Op::Txn(txn)), _) => request_text::txn(txn),
        (Some(Op::Put(put)), _) => request_text::put(put),
        (Some(Op::DeleteRange(delete)), _) => request_text::delete_range(delete),
        _ => String::new(),
    }
}

impl Edge {
    /// Writes the lines that `call` is worth.
    #[cold]
    pub(super) fn tell_slow(&self, call: &Finished<'_>) {
        let (asked, agreed, remote) =
            call_notes::read(|notes| (notes.asked(), notes.agreed(), notes.remote.to_string())).unwrap_or_default();
        let proposed = match &asked {
            Asked::Proposed(data) => RaftRequest::decode(data.clone()).ok().and_then(|request| request.op),
            Asked::ReadOnlyTxn(txn) => Some(Op::Txn(txn.clone())),
            Asked::Range(_) | Asked::Other => None,
        };
        let text = content(proposed.as_ref(), &asked);
        if call.took > self.settings.slow_read {
            self.tell_slow_read(call, &asked, &text);
        }
        if call.took > TRACED {
            self.trace(call, proposed.as_ref(), &asked, agreed);
        }
        if call.took > self.settings.slow_request && call.rpc.streaming() == Kind::Unary {
            let counts = Counts::of(call, proposed.as_ref());
            let started = self.clock.wall().checked_sub(call.took).unwrap_or_else(|| self.clock.wall());
            slog::warn!(self.log, "request stats";
                "start time" => timestamp(started), "time spent" => ?call.took,
                "remote" => if remote.is_empty() { "No remote client info." } else { &remote },
                "response type" => call.rpc.path(),
                "request count" => counts.requests, "request size" => counts.request_bytes,
                "response count" => counts.responses, "response size" => counts.response_bytes,
                "request content" => text);
        }
    }

    fn tell_slow_read(&self, call: &Finished<'_>, asked: &Asked, text: &str) {
        let bytes = call.answer.map_or(0, |(_, bytes)| bytes);
        let (prefix, response) = match asked {
            Asked::Range(_) => {
                let answer = answer::<pb::RangeResponse>(call);
                let response = answer.map(|answer| format!("range_response_count:{} size:{bytes}", answer.kvs.len()));
                ("read-only range ", response)
            }
            Asked::ReadOnlyTxn(_) => {
                let response = answer::<pb::TxnResponse>(call).map(|answer| {
                    let counts = answer.responses.iter().filter_map(|response| match &response.response {
                        Some(Response::ResponseRange(range)) => {
                            Some(format!("range_response_count:{}", range.kvs.len()))
                        }
                        _ => None,
                    });
                    format!("responses:<{}> size:{bytes}", counts.collect::<Vec<_>>().join(" "))
                });
                ("read-only txn ", response)
            }
            Asked::Proposed(_) | Asked::Other => return,
        };
        self.metrics.server.slow_apply.inc();
        slog::warn!(self.log, "apply request took too long"; "took" => ?call.took,
            "expected-duration" => ?self.settings.slow_read, "prefix" => prefix, "request" => text,
            "response" => response.unwrap_or_default(), "error" => call.answer.err().map(ToString::to_string));
    }

    /// The steps of a slow request, as far as the edge sees them.
    fn trace(&self, call: &Finished<'_>, proposed: Option<&Op>, asked: &Asked, agreed: Option<Duration>) {
        let now = self.clock.now();
        let key = |key: &[u8]| key.escape_ascii().to_string();
        let (name, detail) = match (asked, proposed) {
            (Asked::Range(range), _) => {
                ("range", format!("range_begin:{}; range_end:{}; ", key(&range.key), key(&range.range_end)))
            }
            (Asked::ReadOnlyTxn(_), _) => ("transaction", "read_only:true; ".to_owned()),
            (_, Some(Op::Txn(_))) => ("transaction", "read_only:false; ".to_owned()),
            (_, Some(Op::Put(put))) => ("put", format!("key:{}; req_size:{}; ", key(&put.key), call.request_bytes)),
            (_, Some(Op::DeleteRange(delete))) => {
                ("delete_range", format!("key:{}; range_end:{}; ", key(&delete.key), key(&delete.range_end)))
            }
            (_, Some(Op::Compact(compact))) => ("compact", format!("revision:{}; ", compact.revision)),
            _ => return,
        };
        let number = self.clock.wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let started = now.saturating_sub(call.took);
        let steps = match (proposed, agreed) {
            (None | Some(Op::Txn(_)), Some(agreed)) => {
                let (agreement, read) = (agreed.saturating_sub(started), now.saturating_sub(agreed));
                vec![
                    ("agreement among raft nodes before linearized reading", agreement),
                    ("range keys and read their values", read),
                ]
            }
            _ => vec![("process raft request", call.took)],
        };
        let worth = TRACED / (steps.len() as u32 + 1);
        let steps: Vec<String> = steps
            .into_iter()
            .filter(|(_, took)| *took > worth)
            .map(|(step, took)| format!("trace[{number}] '{step}'  (duration: {took:?})"))
            .collect();
        let wall = self.clock.wall();
        slog::info!(self.log, "trace[{number}] {name}"; "detail" => format!("{{{detail}}}"), "duration" => ?call.took,
            "start" => timestamp(wall.checked_sub(call.took).unwrap_or(wall)), "end" => timestamp(wall),
            "step_count" => steps.len(), "steps" => slog::Serde(steps.clone()));
    }
}
