//! What a call that stays open needs beside its answers: the reasons to end it, and its place in the metrics.
//!
//! ```text
//!   member stops ─────────────────────────────┐
//!   `hasleader`, and none for three elections ┴▶ LongCall::poll_end ──▶ the stream's last item
//! ```

use crate::api::grpc::span::ServerSpan;
use crate::api::grpc::{Admitted, Edge};
use crate::api::status::EtcdError;
use crate::cast::RequestError;
use castd_proto::Rpc;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// Election time-outs without a leader after which a call ends that asked for one (etcd's `maxNoLeaderCnt`).
const LOOKS_WITHOUT_LEADER_MAX: u32 = 3;

struct LeaderLooks {
    interval: Interval,
    without: u32,
}

pub struct LongCall {
    pub edge: Edge,
    pub admitted: Admitted,
    rpc: Rpc,
    started: Duration,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Only if the client asked for it.
    leader: Option<LeaderLooks>,
    span: ServerSpan,
    /// How it ended, and the reason, if it was not the client who went away.
    ended: Option<(Code, String)>,
}

impl LongCall {
    /// # Errors
    /// As [`Edge::admit`].
    pub fn begin(edge: &Edge, rpc: Rpc, metadata: &MetadataMap) -> Result<Self, Status> {
        let started = edge.clock.now();
        let span = ServerSpan::start(&edge.tracer, rpc, metadata);
        let admitted = match edge.admit(rpc, metadata, &span) {
            Ok(admitted) => admitted,
            Err(error) => {
                let status = Status::from(error);
                edge.metrics.grpc.of(rpc).handled(status.code(), Duration::ZERO);
                span.end(status.code(), status.message());
                return Err(status);
            }
        };
        let leader = metadata.get("hasleader").is_some_and(|value| value == "true").then(|| {
            let mut interval = interval(edge.settings.election_timeout.max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            LeaderLooks { interval, without: 0 }
        });
        let stopping = Box::pin(edge.stopping.clone().cancelled_owned());
        Ok(Self { edge: edge.clone(), admitted, rpc, started, stopping, leader, span, ended: None })
    }

    /// Ready when the call has to end, with the reason.
    pub fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if self.stopping.as_mut().poll(context).is_ready() {
            return Poll::Ready(self.fail(RequestError::Stopped));
        }
        while let Some(looks) = &mut self.leader
            && looks.interval.poll_tick(context).is_ready()
        {
            looks.without = if self.edge.cast.status().leader.is_some() { 0 } else { looks.without + 1 };
            if looks.without > LOOKS_WITHOUT_LEADER_MAX {
                return Poll::Ready(self.fail(RequestError::NoLeader));
            }
        }
        Poll::Pending
    }

    pub fn received(&self, bytes: usize) {
        self.edge.received(self.edge.metrics.grpc.of(self.rpc), bytes);
    }

    pub fn sent(&self, bytes: usize) {
        self.edge.sent(self.edge.metrics.grpc.of(self.rpc), bytes);
    }

    /// As [`LongCall::fail`], for a client whose requests cannot be read. One that hung up is no failure.
    pub fn fail_to_receive(&mut self, status: Status) -> Status {
        if status.code() != Code::Cancelled {
            let api = if self.rpc == Rpc::Watch { "watch" } else { "lease-keepalive" };
            let message = if self.rpc == Rpc::Watch {
                "failed to receive watch request from gRPC stream"
            } else {
                "failed to receive lease keepalive request from gRPC stream"
            };
            slog::warn!(self.edge.log, "{}", message; "error" => status.message());
            self.edge.metrics.network.server_stream_failures.with_label_values(&["receive", api]).inc();
        }
        self.fail(status)
    }

    /// Notes how the call ends; answers what the client is told.
    pub fn fail(&mut self, error: impl Into<Status>) -> Status {
        let status = error.into();
        self.ended = Some((status.code(), status.message().to_owned()));
        status
    }

    /// The client has no more to ask and has all its answers.
    pub fn complete(&mut self) {
        self.ended = Some((Code::Ok, String::new()));
    }

    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }
}

impl Drop for LongCall {
    fn drop(&mut self) {
        let (code, reason) = self.ended.take().unwrap_or((EtcdError::WatchCanceled.code(), String::new()));
        let took = self.edge.clock.now().saturating_sub(self.started);
        self.edge.metrics.grpc.of(self.rpc).handled(code, took);
        std::mem::take(&mut self.span).end(code, &reason);
    }
}
