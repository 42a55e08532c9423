//! Distributed tracing: what a collector hears of one request on its way through the cast.
//!
//! ```text
//!   case ──traceparent──▶ castd ──OTLP──▶ Collector (here) ──▶ one trace, drawn as a tree
//! ```
//! A server sends all it has when it stops. So a case stops it first, and what the collector does not have then was
//! never recorded.

use crate::harness::grpc::{put, put_op, range, watch};
use crate::harness::{Api, Backend, Server, Setup, for_each_backend, run_castd};
use castd_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, TxnRequest, WatchCancelRequest,
    WatchProgressRequest, WatchRequest, WatchResponse, request_op::Request as Op, watch_request::RequestUnion,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

for_each_backend!(castd: a_put_is_one_trace_from_the_edge_to_the_watchers);

#[test]
fn each_request_is_described_as_etcd_describes_it() {
    run_castd(Backend::Memory, each_request_is_described);
}

#[test]
fn lease_requests_reach_the_keeper() {
    run_castd(Backend::Memory, lease_requests);
}

#[test]
fn without_a_parent_the_rate_decides() {
    run_castd(Backend::Memory, the_rate_decides);
}

/// The span of the client that asked, in every trace.
const CLIENT_SPAN: [u8; 8] = [0xc1; 8];

/// Receives spans as Jaeger or Tempo would.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("exports").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Starts a server that samples `per_million` of the requests without a parent, and the collector it sends to.
async fn start(setup: Setup, per_million: u32) -> (Server, Collector) {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = TraceServiceServer::new(collector.clone());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let server = setup
        .flag("--enable-distributed-tracing")
        .flag(format!("--distributed-tracing-address={address}"))
        .flag("--distributed-tracing-service-name=lighthouse")
        .flag("--distributed-tracing-instance-id=lamp-1")
        .flag(format!("--distributed-tracing-sampling-rate={per_million}"))
        .start();
    (server, collector)
}

/// `message` as a client sends it that traces, in the trace of that number.
fn sampled<T>(trace: u8, message: T) -> Request<T> {
    with_parent(trace, true, message)
}

fn with_parent<T>(trace: u8, is_sampled: bool, message: T) -> Request<T> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let flags = u8::from(is_sampled);
    let traceparent = format!("00-{}-{}-{flags:02x}", hex(&[trace; 16]), hex(&CLIENT_SPAN));
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("a header value"));
    request
}

impl Collector {
    fn spans(&self) -> Vec<Span> {
        let exports = self.0.lock().expect("exports");
        let resources = exports.iter().flat_map(|export| &export.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The numbers of the traces that spans came for.
    fn traces(&self) -> BTreeSet<u8> {
        self.spans().iter().map(|span| span.trace_id[0]).collect()
    }

    fn trace(&self, number: u8) -> Trace {
        Trace(self.spans().into_iter().filter(|span| span.trace_id == [number; 16]).collect())
    }

    /// The resource, which all spans share.
    fn resource(&self) -> BTreeSet<String> {
        let exports = self.0.lock().expect("exports");
        let resources = exports.iter().flat_map(|export| &export.resource_spans);
        resources.flat_map(|one| &one.resource).flat_map(|resource| &resource.attributes).map(shown).collect()
    }
}

fn shown(attribute: &KeyValue) -> String {
    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref()).expect("attributes have a value");
    let value = match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(yes) => yes.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{} is {other:?}", attribute.key),
    };
    format!("{}={value}", attribute.key)
}

struct Trace(Vec<Span>);

impl Trace {
    /// One line a span, indented below what caused it, with etcd's attributes.
    #[track_caller]
    fn looks_like(&self, expected: &[&str]) {
        let mut lines = Vec::new();
        self.draw(&CLIENT_SPAN, "", &mut lines);
        assert_eq!(lines, expected);
        assert_eq!(lines.len(), self.0.len(), "spans without a parent: {:#?}", self.0);
    }

    fn draw(&self, parent: &[u8], indent: &str, lines: &mut Vec<String>) {
        let mut children: Vec<&Span> = self.0.iter().filter(|span| span.parent_span_id == parent).collect();
        children.sort_by_key(|span| span.start_time_unix_nano);
        for span in children {
            let attributes = span.attributes.iter().filter(|attribute| !attribute.key.starts_with("rpc."));
            let attributes: String = attributes.map(|attribute| format!(" {}", shown(attribute))).collect();
            lines.push(format!("{indent}{}{attributes}", span.name));
            self.draw(&span.span_id, &format!("{indent}  "), lines);
        }
    }

    /// The only span of that name.
    #[track_caller]
    fn the(&self, name: &str) -> &Span {
        let found: Vec<&Span> = self.0.iter().filter(|span| span.name == name).collect();
        let [span] = found.as_slice() else { panic!("{} spans are named {name}", found.len()) };
        span
    }

    /// What gRPC's span says of the call, and whether that counts as a failure of the server.
    #[track_caller]
    fn call(&self, service: &str, method: &str, code: Code, failed: bool) {
        let span = self.the(&format!("{service}/{method}"));
        assert_eq!(span.kind(), SpanKind::Server);
        let attributes: BTreeSet<String> = span.attributes.iter().map(shown).collect();
        let expected = [
            "rpc.system=grpc".to_owned(),
            format!("rpc.service={service}"),
            format!("rpc.method={method}"),
            format!("rpc.grpc.status_code={}", code as i32),
        ];
        assert_eq!(attributes, BTreeSet::from(expected));
        assert_eq!(has_failed(span), failed);
    }
}

fn has_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// A Watch stream opened within a trace.
struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watching {
    async fn open(api: &Api, trace: u8) -> Watching {
        let (requests, receiver) = mpsc::channel(16);
        let opened = api.watch.clone().watch(sampled(trace, ReceiverStream::new(receiver))).await;
        Watching { requests, answers: opened.expect("a stream opens").into_inner() }
    }

    async fn ask(&mut self, request: RequestUnion) -> WatchResponse {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.expect("the stream is open");
        self.next().await
    }

    async fn next(&mut self) -> WatchResponse {
        self.answers.message().await.expect("the stream goes on").expect("it has not ended")
    }
}

async fn a_put_is_one_trace_from_the_edge_to_the_watchers(setup: Setup) {
    let began = nanos(SystemTime::now());
    let (mut server, collector) = start(setup, 0).await;
    let api = server.api();
    let mut watching = Watching::open(&api, 1).await;
    let created = watching.ask(RequestUnion::CreateRequest(watch("lamp", ""))).await;
    assert!(created.created, "{created:?}");

    api.kv.clone().put(sampled(2, put("lamp", "on"))).await.expect("put");
    assert_eq!(watching.next().await.events.len(), 1);
    // Not sampled: neither by the rate, nor by the client that traces, nor because others are.
    api.put("lamp", "off").await;
    api.kv.clone().put(with_parent(3, false, put("lamp", "on"))).await.expect("put");
    assert_eq!(watching.next().await.events.len(), 1);
    assert_eq!(watching.next().await.events.len(), 1);
    watching.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let canceled = watching.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: created.watch_id })).await;
    assert!(canceled.canceled, "{canceled:?}");
    let refused = watching.ask(RequestUnion::CreateRequest(watch("lamp", "chandelier"))).await;
    assert!(refused.canceled, "{refused:?}");
    drop(watching);
    server.stop();
    let ended = nanos(SystemTime::now());

    assert_eq!(collector.traces(), BTreeSet::from([1, 2]));
    let (watched, trace) = (collector.trace(1), collector.trace(2));
    trace.looks_like(&[
        "etcdserverpb.KV/Put",
        "  put key=lamp",
        "    RaftNode",
        "      LogWriter",
        "      Applier",
        "        WatchHub",
    ]);
    trace.call("etcdserverpb.KV", "Put", Code::Ok, false);
    watched.looks_like(&[
        "etcdserverpb.Watch/Watch",
        "  WatchHub",
        "  watch key=lamp range_end= start_rev=0 progress_notify=false prev_kv=false fragment=false",
        "    WatchHub",
        "  WatchHub",
        "  WatchHub",
        "  watch key=lamp range_end=chandelier start_rev=0 progress_notify=false prev_kv=false fragment=false",
        "    WatchHub",
    ]);
    assert_eq!(
        collector.resource(),
        BTreeSet::from(["service.name=lighthouse", "service.instance.id=lamp-1"].map(Into::into))
    );

    for span in trace.0.iter().chain(&watched.0) {
        assert!(began <= span.start_time_unix_nano, "{span:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(span.end_time_unix_nano <= ended, "{span:?}");
    }
    // Each did its part before the next began, and the client was answered when the last had done its.
    let [call, request, raft_node, log_writer, applier] =
        ["etcdserverpb.KV/Put", "put", "RaftNode", "LogWriter", "Applier"].map(|name| trace.the(name));
    let starts = [call, request, raft_node, log_writer, applier].map(|span| span.start_time_unix_nano);
    assert!(starts.is_sorted(), "{starts:?}");
    let ends = [log_writer, raft_node, applier, request, call].map(|span| span.end_time_unix_nano);
    assert!(ends.is_sorted(), "{ends:?}");
    assert!(raft_node.end_time_unix_nano <= applier.start_time_unix_nano);
    assert!(applier.end_time_unix_nano <= trace.the("WatchHub").start_time_unix_nano);
}

async fn each_request_is_described(setup: Setup) {
    let (mut server, collector) = start(setup, 0).await;
    let mut kv = server.api().kv;
    let keys = |key: &str, end: &str| (key.to_owned().into(), end.to_owned().into());
    kv.put(sampled(1, put("a", "1"))).await.expect("put");
    kv.range(sampled(2, RangeRequest { limit: 3, keys_only: true, ..range("a", "z") })).await.expect("read");
    kv.range(sampled(3, RangeRequest { revision: 2, serializable: true, count_only: true, ..range("a", "") }))
        .await
        .expect("read");
    let mut chunks = kv.range_stream(sampled(4, range("a", "z"))).await.expect("a stream opens").into_inner();
    while chunks.message().await.expect("a chunk").is_some() {}
    let absent = Compare { key: "b".to_owned().into(), ..Default::default() };
    let mut success = vec![put_op("b", "2"), put_op("c", "3")];
    if let Some(Op::RequestPut(first)) = &mut success[0].request {
        first.lease = 77;
    }
    let txn = TxnRequest { compare: vec![absent], success, failure: Vec::new() };
    let (key, range_end) = keys("b", "d");
    server.api().grant(77, 600).await.expect("granted");
    kv.txn(sampled(5, txn)).await.expect("decided");
    kv.txn(sampled(6, TxnRequest::default())).await.expect("decided");
    kv.delete_range(sampled(7, DeleteRangeRequest { key, range_end, ..Default::default() })).await.expect("deleted");
    kv.compact(sampled(8, CompactionRequest { revision: 3, physical: true })).await.expect("compacted");
    // What is refused at the edge goes no further; what the state machine refuses has gone all the way.
    kv.put(sampled(9, PutRequest::default())).await.expect_err("a put without a key");
    kv.put(sampled(10, PutRequest { lease: 404, ..put("a", "1") })).await.expect_err("a put with no such lease");
    server.api().maintenance.defragment(sampled(11, Default::default())).await.expect("done");
    server.stop();

    assert_eq!(collector.traces(), (1..=11).collect());
    let lines = |number| collector.trace(number);
    lines(2).looks_like(&[
        "etcdserverpb.KV/Range",
        "  range range_begin=a range_end=z rev=0 limit=3 count_only=false keys_only=true",
        "    RaftNode",
    ]);
    let read = lines(2);
    let [inner, outer] = ["RaftNode", "etcdserverpb.KV/Range"].map(|name| read.the(name).end_time_unix_nano);
    assert!(inner <= outer);
    lines(3).looks_like(&[
        "etcdserverpb.KV/Range",
        "  range range_begin=a range_end= rev=2 limit=0 count_only=true keys_only=false",
    ]);
    lines(4).looks_like(&[
        "etcdserverpb.KV/RangeStream",
        "  range_streaming range_begin=a range_end=z rev=0 limit=0 count_only=false keys_only=false",
        "    RaftNode",
    ]);
    lines(5).looks_like(&[
        "etcdserverpb.KV/Txn",
        "  txn compare_first_key=b success_first_key=b success_first_type=put success_first_lease=77 compare_len=1 \
         success_len=2 failure_len=0 read_only=false",
        "    RaftNode",
        "      LogWriter",
        "      Applier",
        "        WatchHub",
    ]);
    lines(6).looks_like(&[
        "etcdserverpb.KV/Txn",
        "  txn compare_first_key= success_first_key= success_first_type= success_first_lease=0 compare_len=0 \
         success_len=0 failure_len=0 read_only=true",
    ]);
    let written = ["    RaftNode", "      LogWriter", "      Applier", "        WatchHub"];
    lines(7).looks_like(&[&["etcdserverpb.KV/DeleteRange", "  delete_range key=b range_end=d"], &written[..]].concat());
    lines(8).looks_like(&[&["etcdserverpb.KV/Compact", "  compact rev=3 is_physical=true"], &written[..]].concat());
    lines(9).looks_like(&["etcdserverpb.KV/Put"]);
    lines(9).call("etcdserverpb.KV", "Put", Code::InvalidArgument, false);
    lines(10).looks_like(&[&["etcdserverpb.KV/Put", "  put key=a"], &written[..3]].concat());
    lines(10).call("etcdserverpb.KV", "Put", Code::NotFound, false);
    assert!(has_failed(lines(10).the("Applier")) && !has_failed(lines(1).the("Applier")));
    lines(11).looks_like(&["etcdserverpb.Maintenance/Defragment", "  Snapshotter"]);
}

async fn lease_requests(setup: Setup) {
    let (mut server, collector) = start(setup, 0).await;
    let mut lease = server.api().lease;
    lease.lease_grant(sampled(1, LeaseGrantRequest { id: 7, ttl: 600 })).await.expect("granted");
    let (requests, receiver) = mpsc::channel(16);
    let opened = lease.lease_keep_alive(sampled(2, ReceiverStream::new(receiver))).await;
    let mut answers = opened.expect("a stream opens").into_inner();
    for (id, ttl) in [(7, 600), (404, 0)] {
        requests.send(LeaseKeepAliveRequest { id }).await.expect("the stream is open");
        let answer = answers.message().await.expect("the stream goes on").expect("an answer");
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    drop(requests);
    assert!(answers.message().await.expect("a good end").is_none());
    lease.lease_time_to_live(sampled(3, LeaseTimeToLiveRequest { id: 7, keys: true })).await.expect("answered");
    lease.lease_leases(sampled(4, LeaseLeasesRequest {})).await.expect("answered");
    server.api().put_with(PutRequest { lease: 7, ..put("lamp", "on") }).await.expect("put");
    lease.lease_revoke(sampled(5, LeaseRevokeRequest { id: 7 })).await.expect("revoked");
    server.stop();

    collector.trace(1).looks_like(&[
        "etcdserverpb.Lease/LeaseGrant",
        "  lease_grant id=7 ttl=600",
        "    RaftNode",
        "      LogWriter",
        "      Applier",
        "        LeaseKeeper",
    ]);
    // The first renewal finds the keeper sure that it leads, or makes it ask once more: not what is tested here.
    let kept = collector.trace(2);
    let renewals = kept.0.iter().filter(|span| span.name == "lease_renew");
    let mut ids: Vec<String> = renewals.flat_map(|span| &span.attributes).map(shown).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["id=404", "id=7"]);
    for renewal in kept.0.iter().filter(|span| span.name == "lease_renew") {
        assert_eq!(renewal.parent_span_id, kept.the("etcdserverpb.Lease/LeaseKeepAlive").span_id);
        assert!(kept.0.iter().any(|span| span.name == "LeaseKeeper" && span.parent_span_id == renewal.span_id));
    }
    kept.call("etcdserverpb.Lease", "LeaseKeepAlive", Code::Ok, false);
    collector.trace(3).looks_like(&["etcdserverpb.Lease/LeaseTimeToLive", "  RaftNode", "  LeaseKeeper"]);
    collector.trace(4).looks_like(&["etcdserverpb.Lease/LeaseLeases", "  LeaseKeeper"]);
    let revoked = collector.trace(5);
    // Keys and the lease itself go at once: watchers and keeper are told side by side.
    assert_eq!(revoked.0.len(), 7);
    for told in ["WatchHub", "LeaseKeeper"] {
        assert_eq!(revoked.the(told).parent_span_id, revoked.the("Applier").span_id);
    }
}

async fn the_rate_decides(setup: Setup) {
    let (mut server, collector) = start(setup, 1_000_000).await;
    let api = server.api();
    api.put("a", "1").await;
    api.kv.clone().put(with_parent(3, false, put("a", "2"))).await.expect("put");
    server.stop();

    let spans = collector.spans();
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    let puts: Vec<_> = roots.iter().filter(|span| span.name == "etcdserverpb.KV/Put").collect();
    assert_eq!(puts.len(), 1, "{roots:?}");
    let of_put = spans.iter().filter(|span| span.trace_id == puts[0].trace_id);
    let names: BTreeSet<&str> = of_put.map(|span| span.name.as_str()).collect();
    let expected = ["etcdserverpb.KV/Put", "put", "RaftNode", "LogWriter", "Applier", "WatchHub"];
    assert_eq!(names, BTreeSet::from(expected));
    assert!(!collector.traces().contains(&3), "the client did not want this one traced");
}
