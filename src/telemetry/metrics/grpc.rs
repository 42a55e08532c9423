//! What go-grpc-prometheus counts for etcd: every RPC by its service, method, type and outcome.
//!
//! All of them exist from the start, so that a rate over the first request is right. The edge finds an RPC's counters
//! by `Rpc as usize` and an outcome's by its code.

use std::time::Duration;

use castd_proto::{Kind, Rpc};
use prometheus::{DEFAULT_BUCKETS, Histogram, HistogramOpts, IntCounter, Registry};
use tonic::Code;

use super::MetricsLevel;
use super::families::{counters, histograms};

/// gRPC's names for its codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const _: () = assert!(Code::Unauthenticated as usize == CODES.len() - 1);

pub struct GrpcMetrics {
    /// By `Rpc as usize`.
    rpcs: Vec<RpcMetrics>,
}

/// The counters of one RPC.
pub struct RpcMetrics {
    pub started: IntCounter,
    /// Messages, of which a unary call has one each way.
    pub received: IntCounter,
    pub sent: IntCounter,
    /// By `Code as usize`.
    handled: [IntCounter; CODES.len()],
    handling: Option<Histogram>,
}

impl GrpcMetrics {
    pub(super) fn register(registry: &Registry, level: MetricsLevel) -> Self {
        const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
        const WITH_CODE: [&str; 4] = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let started = counters(registry, "grpc_server_started_total", "RPCs started", &LABELS);
        let received = counters(registry, "grpc_server_msg_received_total", "Messages received in RPCs", &LABELS);
        let sent = counters(registry, "grpc_server_msg_sent_total", "Messages sent in RPCs", &LABELS);
        let handled = counters(registry, "grpc_server_handled_total", "RPCs finished, by outcome", &WITH_CODE);
        let handling = (level == MetricsLevel::Extensive).then(|| {
            let opts = HistogramOpts::new("grpc_server_handling_seconds", "How long RPCs took, from start to end");
            histograms(registry, opts.buckets(DEFAULT_BUCKETS.to_vec()), &LABELS)
        });
        let of = |rpc: &Rpc| {
            let labels = [type_name(rpc.streaming()), rpc.service(), rpc.method()];
            let [kind, service, method] = labels;
            RpcMetrics {
                started: started.with_label_values(&labels),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                handled: CODES.map(|code| handled.with_label_values(&[kind, service, method, code])),
                handling: handling.as_ref().map(|handling| handling.with_label_values(&labels)),
            }
        };
        Self { rpcs: Rpc::ALL.iter().map(of).collect() }
    }

    #[must_use]
    pub fn of(&self, rpc: Rpc) -> &RpcMetrics {
        &self.rpcs[rpc as usize]
    }
}

impl RpcMetrics {
    /// The RPC is over. For a stream `took` is how long it was open.
    pub fn handled(&self, code: Code, took: Duration) {
        self.handled[code as usize].inc();
        if let Some(handling) = &self.handling {
            handling.observe(took.as_secs_f64());
        }
    }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unary => "unary",
        Kind::ServerStream => "server_stream",
        Kind::BidiStream => "bidi_stream",
    }
}
