//! The two gRPC clients: the etcd-client crate, and the plain stubs of `castd_proto` for what that cannot say.

use super::server::Server;
use castd_proto::etcdserverpb::{
    self, Compare, DeleteRangeRequest, PutRequest, PutResponse, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    cluster_client::ClusterClient,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
    request_op,
    watch_client::WatchClient,
    watch_request::RequestUnion,
};
use castd_proto::mvccpb::{Event, KeyValue, event::EventType};
use castd_proto::v3electionpb::election_client::ElectionClient;
use castd_proto::v3lockpb::lock_client::LockClient;
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// For anything a server should answer at once.
const PATIENCE: Duration = Duration::from_secs(30);
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Plain stubs on one connection, which is made again when the server was away.
#[derive(Clone)]
pub struct Api {
    pub channel: Channel,
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub lock: LockClient<Channel>,
    pub election: ElectionClient<Channel>,
}

impl Server {
    /// Must be called within a runtime.
    pub fn api(&self) -> Api {
        let endpoint = Endpoint::from_shared(self.setup.client_url()).expect("an endpoint");
        let channel = endpoint.connect_timeout(PATIENCE).connect_lazy();
        Api {
            kv: KvClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel.clone()),
            channel,
        }
    }

    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.setup.client_url()], None).await.expect("the client connects")
    }
}

/// The code and the text of what etcd-client calls an error.
pub trait AsStatus {
    fn status(&self) -> (Code, &str);
}

impl AsStatus for Status {
    fn status(&self) -> (Code, &str) {
        (self.code(), self.message())
    }
}

impl AsStatus for etcd_client::Error {
    fn status(&self) -> (Code, &str) {
        match self {
            etcd_client::Error::GRpcStatus(status) => (status.code(), status.message()),
            other => panic!("not a status: {other}"),
        }
    }
}

/// The request was answered with exactly that error.
#[track_caller]
pub fn refused<T: Debug, E: AsStatus>(outcome: Result<T, E>, code: Code, text: &str) {
    match outcome {
        Ok(answer) => panic!("expected {code:?} {text:?}, got {answer:?}"),
        Err(error) => assert_eq!(error.status(), (code, text)),
    }
}

/// The texts of etcd's errors that are needed more than once.
pub mod text {
    pub const EMPTY_KEY: &str = "etcdserver: key is not provided";
    pub const KEY_NOT_FOUND: &str = "etcdserver: key not found";
    pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    pub const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
    pub const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
    pub const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
    pub const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
    pub const TOO_LARGE: &str = "etcdserver: request is too large";
}

impl Api {
    /// The revision of a put that must succeed.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        self.put_with(put(key, value)).await.expect("a put succeeds").header.expect("puts have a header").revision
    }

    pub async fn put_with(&self, request: PutRequest) -> Result<PutResponse, Status> {
        self.kv.clone().put(request).await.map(tonic::Response::into_inner)
    }

    pub async fn range(&self, request: RangeRequest) -> Result<etcdserverpb::RangeResponse, Status> {
        self.kv.clone().range(request).await.map(tonic::Response::into_inner)
    }

    /// How many keys there are with that prefix, which must not end in the last byte there is.
    pub async fn count(&self, prefix: &str) -> i64 {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("not empty") += 1;
        let request = RangeRequest { range_end: end.into(), count_only: true, ..range(prefix, "") };
        self.range(request).await.expect("a range succeeds").count
    }

    /// Waits until there are so many.
    pub async fn wait_for_count(&self, prefix: &str, count: i64) {
        let matches = async || (self.count(prefix).await == count).then_some(());
        super::wait_for(&format!("{count} keys under {prefix}"), PATIENCE, matches).await;
    }

    /// The pair of that key, if there is one.
    pub async fn get(&self, key: &str) -> Option<KeyValue> {
        self.range(range(key, "")).await.expect("a range succeeds").kvs.pop()
    }

    pub async fn delete(&self, key: &str, end: &str) -> Result<etcdserverpb::DeleteRangeResponse, Status> {
        let request =
            DeleteRangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() };
        self.kv.clone().delete_range(request).await.map(tonic::Response::into_inner)
    }

    pub async fn txn(
        &self,
        compare: Vec<Compare>,
        success: Vec<RequestOp>,
        failure: Vec<RequestOp>,
    ) -> Result<TxnResponse, Status> {
        self.kv.clone().txn(TxnRequest { compare, success, failure }).await.map(tonic::Response::into_inner)
    }

    pub async fn compact(&self, revision: i64, physical: bool) -> Result<ResponseHeader, Status> {
        let request = etcdserverpb::CompactionRequest { revision, physical };
        self.kv.clone().compact(request).await.map(|answer| answer.into_inner().header.expect("a header"))
    }

    pub async fn revision(&self) -> i64 {
        self.range(range("?", "")).await.expect("a range succeeds").header.expect("a header").revision
    }

    pub async fn hash_kv(&self, revision: i64) -> Result<etcdserverpb::HashKvResponse, Status> {
        let request = etcdserverpb::HashKvRequest { revision };
        self.maintenance.clone().hash_kv(request).await.map(tonic::Response::into_inner)
    }

    pub async fn grant(&self, id: i64, ttl: i64) -> Result<etcdserverpb::LeaseGrantResponse, Status> {
        let request = etcdserverpb::LeaseGrantRequest { id, ttl };
        self.lease.clone().lease_grant(request).await.map(tonic::Response::into_inner)
    }

    pub async fn revoke(&self, id: i64) -> Result<etcdserverpb::LeaseRevokeResponse, Status> {
        let request = etcdserverpb::LeaseRevokeRequest { id };
        self.lease.clone().lease_revoke(request).await.map(tonic::Response::into_inner)
    }

    /// With its keys, sorted.
    pub async fn time_to_live(&self, id: i64) -> etcdserverpb::LeaseTimeToLiveResponse {
        let request = etcdserverpb::LeaseTimeToLiveRequest { id, keys: true };
        let mut answer =
            self.lease.clone().lease_time_to_live(request).await.expect("TimeToLive succeeds").into_inner();
        answer.keys.sort();
        answer
    }

    /// The ids of all leases, sorted.
    pub async fn leases(&self) -> Vec<i64> {
        let request = etcdserverpb::LeaseLeasesRequest {};
        let answer = self.lease.clone().lease_leases(request).await.expect("Leases succeeds").into_inner();
        let mut ids: Vec<_> = answer.leases.iter().map(|lease| lease.id).collect();
        ids.sort_unstable();
        ids
    }

    pub fn watch_stream(&self) -> WatchStream {
        let (requests, receiver) = mpsc::channel(1_024);
        let mut watch = self.watch.clone();
        let opening = tokio::spawn(async move { watch.watch(ReceiverStream::new(receiver)).await });
        WatchStream { requests, responses: Responses::Opening(opening) }
    }
}

/// One Watch stream.
pub struct WatchStream {
    pub requests: mpsc::Sender<WatchRequest>,
    responses: Responses,
}

/// etcd sends the head of a stream with the first message of it, so opening one is not waited for.
enum Responses {
    Opening(JoinHandle<Result<tonic::Response<Streaming<WatchResponse>>, Status>>),
    Open(Box<Streaming<WatchResponse>>),
}

impl WatchStream {
    pub async fn send(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.expect("the stream is open");
    }

    /// Asks for a watcher and returns the answer to that.
    pub async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        let created = self.next().await;
        assert!(created.created, "{created:?}");
        assert!(created.events.is_empty(), "{created:?}");
        created
    }

    pub async fn cancel(&mut self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(etcdserverpb::WatchCancelRequest { watch_id })).await;
    }

    pub async fn ask_progress(&mut self) {
        self.send(RequestUnion::ProgressRequest(etcdserverpb::WatchProgressRequest {})).await;
    }

    pub async fn next(&mut self) -> WatchResponse {
        self.try_next().await.expect("the stream goes on")
    }

    pub async fn try_next(&mut self) -> Result<WatchResponse, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.message()).await;
        answer.expect("a watch response arrives in time")
    }

    async fn message(&mut self) -> Result<WatchResponse, Status> {
        if let Responses::Opening(opening) = &mut self.responses {
            self.responses = Responses::Open(Box::new(opening.await.expect("opening does not panic")?.into_inner()));
        }
        match &mut self.responses {
            Responses::Opening(_) => unreachable!("opened above"),
            Responses::Open(stream) => stream.message().await.map(|message| message.expect("the stream has not ended")),
        }
    }

    /// That many events, from as many responses as it takes.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled && !response.created, "{response:?}");
            events.extend(response.events);
        }
        assert_eq!(events.len(), count, "{:?}", events.iter().map(shown).collect::<Vec<_>>());
        events
    }
}

/// An event as `PUT key=value @revision` or `DELETE key @revision`.
pub fn shown(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("events have a pair");
    let key = String::from_utf8_lossy(&kv.key);
    match event.r#type() {
        EventType::Put => format!("PUT {key}={} @{}", String::from_utf8_lossy(&kv.value), kv.mod_revision),
        EventType::Delete => format!("DELETE {key} @{}", kv.mod_revision),
    }
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

pub fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

pub fn watch(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

pub fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put(key, value))) }
}

pub fn range_op(key: &str, end: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestRange(range(key, end))) }
}

pub fn delete_op(key: &str, end: &str) -> RequestOp {
    let request =
        DeleteRangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(request)) }
}

pub fn txn_op(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestTxn(TxnRequest { compare, success, failure })) }
}

pub fn compare(key: &str, end: &str, result: CompareResult, given: TargetUnion) -> Compare {
    let target = match given {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        target_union: Some(given),
    }
}
