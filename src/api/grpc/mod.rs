//! etcd's gRPC services, one file each.
//!
//! ```text
//!   tonic ──request──▶ Edge::unary ──Permit──▶ handler ──▶ Cast ──▶ one actor
//! ```
//!
//! [`Edge`] is what all handlers share: what has to happen before and after each call stands here once.

mod alarm;
mod auth;
mod cluster;
mod deadline;
mod election;
mod health;
mod kv;
mod leader_calls;
mod lease;
mod lock;
mod long_call;
mod maintenance;
mod observe;
mod own_watch;
mod range_stream;
mod session;
mod slow;
mod span;
mod watch;

pub use health::Serving;
pub use maintenance::SNAPSHOTS_MAX;

use crate::api::grpc::span::ServerSpan;
use crate::api::listen::Routes;
use crate::api::permit::{Caller, Permit, answers_as_learner, authorize};
use crate::cast::{Cast, RequestError};
use crate::consistency::answers::HashAnswers;
use crate::state::Outcome;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::{Metrics, RpcMetrics};
use crate::telemetry::trace::{Span, SpanContext, Tracer};
use castd_proto::{Kind, Rpc, etcdserverpb as pb, health as health_pb, v3electionpb, v3lockpb};
use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use prost::Message;
use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// etcd receives messages of `--max-request-bytes` and this much more; the raft limit then gives the better error.
const RECEIVE_OVERHEAD_BYTES: usize = 512 * 1024;
/// etcd's limit for what it sends.
const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// Settings of the edge that no actor cares about.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// A stream with `hasleader` ends when no leader was seen for three of them.
    pub election_timeout: Duration,
    /// What only the leader knows is asked for that long.
    pub request_timeout: Duration,
    /// `--strict-reconfig-check`.
    pub is_reconfig_strict: bool,
    /// `--max-learners`.
    pub learners_max: u32,
    /// The gate `StopGRPCServiceOnDefrag`.
    pub stops_serving_on_defragment: bool,
    /// `--warning-unary-request-duration`.
    pub slow_request: Duration,
    /// `--warning-apply-duration`, also for reads.
    pub slow_read: Duration,
}

impl EdgeSettings {
    /// A call that took longer is worth a line of some kind.
    fn slowest_quiet(&self) -> Duration {
        self.slow_request.min(self.slow_read).min(slow::TRACED)
    }
}

/// What all handlers share.
#[derive(Clone)]
pub struct Edge {
    pub cast: Cast,
    pub hashes: HashAnswers,
    pub tracer: Tracer,
    pub metrics: Metrics,
    pub settings: EdgeSettings,
    /// What the health service says.
    pub serving: Serving,
    /// Places for clients that take a snapshot, [`SNAPSHOTS_MAX`].
    pub snapshots: Arc<Semaphore>,
    pub clock: Clock,
    /// Cancelled when the member stops: streams end then, other calls finish.
    pub stopping: CancellationToken,
    pub log: slog::Logger,
}

/// A call that may go on: the permit, and where its messages belong in which trace.
pub struct Admitted {
    pub permit: Permit,
    call: SpanContext,
    /// What etcd calls the request, beside the span of the call as gRPC has it. Not every call has one.
    request: Span,
}

impl Admitted {
    /// What messages to the cast carry.
    pub fn span(&self) -> SpanContext {
        if self.request.is_recording() { self.request.context() } else { self.call.clone() }
    }

    /// A span for one of many requests on a stream.
    pub fn request(&self, name: &'static str) -> Span {
        self.call.child(name)
    }

    /// Begins the request's span, which lasts as long as `self`. Costs nothing when the call is not sampled.
    pub fn describe(&mut self, name: &'static str, attributes: impl FnOnce(&mut Span)) {
        if self.call.is_sampled() {
            self.request = self.call.child(name);
            attributes(&mut self.request);
        }
    }
}

/// What a call with many answers answers with.
pub type ServerStream<A> = BoxStream<'static, Result<A, Status>>;

/// Counts the answers of such a call, and how it ends.
struct Counted<A> {
    edge: Edge,
    rpc: Rpc,
    started: Duration,
    answers: ServerStream<A>,
    span: ServerSpan,
    /// `None` until there is nothing more to say: dropped then, the client has gone away.
    ended: Option<(Code, String)>,
}

impl<A: Message> Stream for Counted<A> {
    type Item = Result<A, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.answers.as_mut().poll_next(context));
        match &item {
            Some(Ok(answer)) => self.edge.sent(self.edge.metrics.grpc.of(self.rpc), answer.encoded_len()),
            Some(Err(status)) => self.ended = Some((status.code(), status.message().to_owned())),
            None => self.ended = self.ended.take().or(Some((Code::Ok, String::new()))),
        }
        Poll::Ready(item)
    }
}

impl<A> Drop for Counted<A> {
    fn drop(&mut self) {
        let (code, reason) = self.ended.take().unwrap_or((Code::Cancelled, String::new()));
        let took = self.edge.clock.now().saturating_sub(self.started);
        self.edge.metrics.grpc.of(self.rpc).handled(code, took);
        std::mem::take(&mut self.span).end(code, &reason);
    }
}

impl Edge {
    /// Everything that has to hold before a handler runs (etcd's interceptors, in their order), and what is counted of
    /// every call.
    pub fn admit(&self, rpc: Rpc, metadata: &MetadataMap, call: &ServerSpan) -> Result<Admitted, RequestError> {
        let calls = self.metrics.grpc.of(rpc);
        calls.started.inc();
        if !answers_as_learner(rpc) && self.cast.is_learner() {
            return Err(RequestError::NotSupportedForLearner);
        }
        let version = client_api_version(metadata)?;
        match rpc.streaming() {
            Kind::Unary => self.metrics.clients.unary(version),
            Kind::ServerStream | Kind::BidiStream => self.metrics.clients.stream(version),
        }
        let has_leader = || self.cast.status().leader.is_some();
        if metadata.get("hasleader").is_some_and(|value| value == "true") && !has_leader() {
            return Err(RequestError::NoLeader);
        }
        let permit = authorize(&Caller::Anonymous, rpc)?;
        Ok(Admitted { permit, call: call.context(), request: Span::default() })
    }

    /// Runs one unary call.
    pub async fn unary<Q, A, H, F>(&self, rpc: Rpc, request: Request<Q>, handler: H) -> Result<Response<A>, Status>
    where
        Q: Message,
        A: Message + 'static,
        H: FnOnce(Admitted, Q) -> F,
        F: Future<Output = Result<A, RequestError>>,
    {
        let started = self.clock.now();
        let calls = self.metrics.grpc.of(rpc);
        let (metadata, _, message) = request.into_parts();
        let request_bytes = message.encoded_len();
        self.received(calls, request_bytes);
        let span = ServerSpan::start(&self.tracer, rpc, &metadata);
        let admitted = self.admit(rpc, &metadata, &span);
        let was_admitted = admitted.is_ok();
        let answer = match admitted {
            Ok(admitted) => handler(admitted, message).await,
            Err(error) => Err(error),
        };
        let took = self.clock.now().saturating_sub(started);
        // A request that could not be meant is not one that was served.
        if was_admitted && !matches!(answer, Err(RequestError::Check(_))) {
            self.count_served(rpc, answer.is_ok(), took);
        }
        if took > self.settings.slowest_quiet() && !waits_for_others(rpc) {
            let answer = answer.as_ref().map(|answer| (answer as &dyn Any, answer.encoded_len()));
            self.tell_slow(&slow::Finished { rpc, took, request_bytes, answer });
        }
        match answer {
            Ok(answer) => {
                self.sent(calls, answer.encoded_len());
                calls.handled(Code::Ok, took);
                span.end(Code::Ok, "");
                Ok(Response::new(answer))
            }
            Err(error) => Err(self.refuse(rpc, took, span, error)),
        }
    }

    /// Opens a call that answers one request with many messages. It is over when the stream is dropped.
    pub async fn server_stream<Q, A, H, F>(
        &self,
        rpc: Rpc,
        request: Request<Q>,
        handler: H,
    ) -> Result<Response<ServerStream<A>>, Status>
    where
        Q: Message,
        A: Message + 'static,
        H: FnOnce(Admitted, Q) -> F,
        F: Future<Output = Result<ServerStream<A>, RequestError>>,
    {
        let started = self.clock.now();
        let (metadata, _, message) = request.into_parts();
        self.received(self.metrics.grpc.of(rpc), message.encoded_len());
        let span = ServerSpan::start(&self.tracer, rpc, &metadata);
        let opened = match self.admit(rpc, &metadata, &span) {
            Ok(admitted) => handler(admitted, message).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(answers) => {
                Ok(Response::new(Counted { edge: self.clone(), rpc, started, answers, span, ended: None }.boxed()))
            }
            Err(error) => Err(self.refuse(rpc, self.clock.now().saturating_sub(started), span, error)),
        }
    }

    fn received(&self, calls: &RpcMetrics, bytes: usize) {
        calls.received.inc();
        self.metrics.network.client_received_bytes.inc_by(bytes as u64);
    }

    fn sent(&self, calls: &RpcMetrics, bytes: usize) {
        calls.sent.inc();
        self.metrics.network.client_sent_bytes.inc_by(bytes as u64);
    }

    fn refuse(&self, rpc: Rpc, took: Duration, span: ServerSpan, error: RequestError) -> Status {
        let status = Status::from(error);
        self.metrics.grpc.of(rpc).handled(status.code(), took);
        span.end(status.code(), status.message());
        status
    }

    fn count_served(&self, rpc: Rpc, success: bool, took: Duration) {
        if let Some(kind) = slow::kind_of(rpc) {
            self.metrics.requests.served(kind, success, took);
        }
    }

    /// The largest message that is received.
    pub fn receive_bytes_max(&self) -> usize {
        self.cast.limits().request_bytes_max + RECEIVE_OVERHEAD_BYTES
    }

    /// Every service that a client can call, on one set of routes.
    pub fn routes(&self) -> Routes {
        let receive_bytes_max = self.receive_bytes_max();
        macro_rules! service {
            ($server:path) => {
                <$server>::new(self.clone())
                    .max_decoding_message_size(receive_bytes_max)
                    .max_encoding_message_size(SEND_BYTES_MAX)
            };
        }
        Routes::default()
            .add_service(service!(pb::kv_server::KvServer<Edge>))
            .add_service(watch::WatchService::new(self.clone(), receive_bytes_max, SEND_BYTES_MAX))
            .add_service(service!(pb::lease_server::LeaseServer<Edge>))
            .add_service(service!(pb::cluster_server::ClusterServer<Edge>))
            .add_service(service!(pb::maintenance_server::MaintenanceServer<Edge>))
            .add_service(service!(pb::auth_server::AuthServer<Edge>))
            .add_service(service!(v3lockpb::lock_server::LockServer<Edge>))
            .add_service(service!(v3electionpb::election_server::ElectionServer<Edge>))
            .add_service(service!(health_pb::health_server::HealthServer<Edge>))
    }
}

/// The state machine answers each kind of request with its own kind of outcome; anything else is a bug of ours.
fn mismatch(asked: &str, got: &Outcome) -> ! {
    panic!("a {asked} was answered with {got:?}")
}

/// What takes long by its nature: until another client lets go.
fn waits_for_others(rpc: Rpc) -> bool {
    matches!(rpc, Rpc::Lock | Rpc::ElectionCampaign)
}

/// The client's API version, a label of one metric.
fn client_api_version(metadata: &MetadataMap) -> Result<Option<&str>, RequestError> {
    let Some(value) = metadata.get("client-api-version") else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| RequestError::InvalidClientApiVersion)
}
