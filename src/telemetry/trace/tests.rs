//! Through the wire: a collector in this process receives what the exporter sends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind as WireKind;
use opentelemetry_proto::tonic::trace::v1::{Span as WireSpan, status::StatusCode};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.lock().expect("requests").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn listen(runtime: &tokio::runtime::Runtime) -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = TraceServiceServer::new(collector.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        (collector, address)
    }

    fn spans(&self) -> HashMap<String, WireSpan> {
        let requests = self.0.lock().expect("requests");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
        spans.map(|span| (span.name.clone(), span.clone())).collect()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn start(address: SocketAddr, sampling_rate_per_million: u32) -> Tracing {
    let settings = TraceSettings {
        enabled: true,
        address: address.to_string(),
        instance_id: "member-1".to_owned(),
        sampling_rate_per_million,
        ..TraceSettings::default()
    };
    Tracing::start(&settings, &Logger::root(slog::Discard, slog::o!())).expect("tracing")
}

fn headers(traceparent: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), HeaderValue::from_static(traceparent))])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_sampled_request_is_one_trace_across_its_hops() {
    let runtime = runtime();
    let (collector, address) = Collector::listen(&runtime);
    let tracing = start(address, 0);
    let tracer = tracing.tracer();

    let mut edge = tracer.root("KV/Put", &headers(SAMPLED));
    edge.attribute("key", "foo");
    let mut raft = edge.context().child("RaftNode");
    raft.error("lost leader");
    let start_time = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
    raft.context().record("LogWriter", start_time, start_time + Duration::from_millis(3));
    let on_the_wire = raft.context().traceparent().expect("sampled");
    drop(tracer.resume(&on_the_wire).child("Applier"));
    drop(raft);
    drop(edge);
    tracing.shutdown();

    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{:?}", spans.keys());
    for span in spans.values() {
        assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    }
    let (edge, raft) = (&spans["KV/Put"], &spans["RaftNode"]);
    assert_eq!(hex(&edge.parent_span_id), "b7ad6b7169203331");
    assert_eq!(edge.kind(), WireKind::Server);
    assert_eq!(edge.attributes[0].key, "key");
    assert_eq!(
        edge.attributes[0].value.as_ref().and_then(|value| value.value.clone()),
        Some(AnyValue::StringValue("foo".to_owned()))
    );
    assert_eq!(raft.parent_span_id, edge.span_id);
    assert_eq!(raft.kind(), WireKind::Internal);
    let status = raft.status.as_ref().expect("a status");
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "lost leader"));
    assert_eq!(spans["Applier"].parent_span_id, raft.span_id);
    let writer = &spans["LogWriter"];
    assert_eq!(writer.parent_span_id, raft.span_id);
    assert_eq!(writer.start_time_unix_nano, 1_700_000_000_000_000_001);
    assert_eq!(writer.end_time_unix_nano - writer.start_time_unix_nano, 3_000_000);

    let requests = collector.0.lock().expect("requests");
    let resource = requests[0].resource_spans[0].resource.as_ref().expect("a resource");
    let mut keys: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["service.instance.id", "service.name"]);
}

#[test]
fn what_nobody_samples_leaves_no_trace() {
    let runtime = runtime();
    let (collector, address) = Collector::listen(&runtime);
    // Rate 0: a request without a parent is never sampled; a parent's own decision holds in both directions.
    let tracing = start(address, 0);
    let tracer = tracing.tracer();
    assert!(!tracer.root("no parent", &HeaderMap::new()).is_recording());
    assert!(!tracer.root("garbage", &headers("00-zz-yy-01")).is_recording());
    assert!(!tracer.resume(UNSAMPLED).is_sampled());
    tracing.shutdown();
    // Rate 1: without a parent always, but not against the parent's will.
    let tracing = start(address, MILLION);
    let tracer = tracing.tracer();
    let unsampled = tracer.root("unsampled parent", &headers(UNSAMPLED));
    assert!(!unsampled.is_recording() && !unsampled.context().is_sampled());
    assert!(!unsampled.context().child("hop").is_recording());
    unsampled.context().record("batch", UNIX_EPOCH, UNIX_EPOCH);
    let mut outgoing = HeaderMap::new();
    unsampled.context().inject(&mut outgoing);
    assert!(outgoing.is_empty());
    drop(tracer.root("sampled by rate", &HeaderMap::new()));
    tracing.shutdown();
    assert_eq!(collector.spans().into_keys().collect::<Vec<_>>(), ["sampled by rate"]);
}

#[test]
fn a_context_crosses_to_another_member_in_headers() {
    let runtime = runtime();
    let (collector, address) = Collector::listen(&runtime);
    let tracing = start(address, MILLION);
    let tracer = tracing.tracer();
    let follower = tracer.root("follower", &HeaderMap::new());
    let mut forwarded = HeaderMap::new();
    follower.context().inject(&mut forwarded);
    drop(tracer.root("leader", &forwarded));
    drop(follower);
    tracing.shutdown();
    let spans = collector.spans();
    assert_eq!(spans["leader"].parent_span_id, spans["follower"].span_id);
}

#[test]
fn tracing_that_is_off_records_nothing_and_a_wrong_rate_is_refused() {
    let logger = Logger::root(slog::Discard, slog::o!());
    let off = Tracing::start(&TraceSettings::default(), &logger).expect("tracing");
    assert!(!off.tracer().root("KV/Put", &headers(SAMPLED)).is_recording());
    off.shutdown();
    let wrong = TraceSettings { sampling_rate_per_million: MILLION + 1, ..TraceSettings::default() };
    assert!(matches!(Tracing::start(&wrong, &logger), Err(TraceError::SamplingRate(_))));
    let nowhere = TraceSettings { enabled: true, address: "a b".to_owned(), ..TraceSettings::default() };
    assert!(matches!(Tracing::start(&nowhere, &logger), Err(TraceError::Address { .. })));
}
