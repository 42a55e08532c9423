//! The answering end of the links: what the peer port serves beside HTTP.
//!
//! ```text
//!   stream ─▶ guard ─▶ room ─▶ Step, Forwarded ─▶ RaftNode ─▶ acknowledged
//! ```
//! What waits for RaftNode takes room, which is bounded for each stream. A bulk stream is not read on until there is some:
//! its sender's queue fills up, and drops. On an urgent stream a message without room is dropped here; it would be old.
//!
//! It knows nothing of connections or ports; see `api::listen`.

mod inbound;

pub use self::inbound::{Inbound, InboundRoom, Receivers};

use crate::api::status::peer_call_not_served;
use crate::ids::MemberId;
use crate::peer::guard::Refusal;
use crate::peer::handlers::{Handlers, SnapshotParts};
use castd_proto::castdpb::peer_link_server::{PeerLink, PeerLinkServer};
use castd_proto::castdpb::{
    PeerAck, PeerEnvelope, PeerHashKvRequest, PeerHashKvResponse, PeerIdentity, PeerKeepAliveRequest,
    PeerKeepAliveResponse, PeerPromoteRequest, PeerPromoteResponse, PeerStateHashRequest, PeerStateHashResponse,
    PeerTimeLeftRequest, PeerTimeLeftResponse, SnapshotPart, SnapshotReceipt, snapshot_part::Part,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Acknowledgements that wait for a sender who does not read them.
const ACKS_MAX: usize = 16;

#[derive(Clone)]
pub struct PeerService {
    inbound: Arc<Inbound>,
    handlers: Handlers,
    /// Streams end when this is given.
    stopping: CancellationToken,
}

impl PeerService {
    /// As tonic serves it.
    pub fn server(
        inbound: Arc<Inbound>,
        handlers: Handlers,
        stopping: CancellationToken,
        frame_bytes_max: usize,
    ) -> PeerLinkServer<PeerService> {
        PeerLinkServer::new(PeerService { inbound, handlers, stopping }).max_decoding_message_size(frame_bytes_max)
    }

    fn caller(&self, identity: Option<&PeerIdentity>) -> Result<MemberId, Status> {
        self.inbound.caller(identity).map_err(Status::from)
    }
}

#[tonic::async_trait]
impl PeerLink for PeerService {
    type StreamStream = ReceiverStream<Result<PeerAck, Status>>;

    async fn stream(&self, request: Request<Streaming<PeerEnvelope>>) -> Result<Response<Self::StreamStream>, Status> {
        let (acks, answers) = mpsc::channel(ACKS_MAX);
        let (inbound, stopping) = (Arc::clone(&self.inbound), self.stopping.clone());
        tokio::spawn(async move {
            let read = inbound.read(request.into_inner(), &acks);
            let ended = stopping.run_until_cancelled(read).await;
            if let Some(Err(status)) = ended {
                // The sender may have gone; then nobody needs the reason.
                let _ = acks.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<SnapshotReceipt>, Status> {
        let mut parts = request.into_inner();
        let Some(SnapshotPart { part: Some(Part::Offer(offer)) }) = parts.message().await? else {
            return Err(Refusal::Malformed("a snapshot begins with its offer").into());
        };
        let from = self.caller(offer.identity.as_ref())?;
        self.inbound.check_snapshot(&offer, from)?;
        let receiver = self.handlers.snapshots.as_ref().ok_or_else(|| peer_call_not_served("SendSnapshot"))?;
        let parts: SnapshotParts = Box::pin(parts);
        let answer = self.stopping.run_until_cancelled(receiver.receive(from, offer, parts)).await;
        answer.unwrap_or_else(|| Err(Status::unavailable("the member is shutting down"))).map(Response::new)
    }

    async fn keep_alive(
        &self,
        request: Request<PeerKeepAliveRequest>,
    ) -> Result<Response<PeerKeepAliveResponse>, Status> {
        let request = request.into_inner();
        self.caller(request.identity.as_ref())?;
        let leases = self.handlers.leases.as_ref().ok_or_else(|| peer_call_not_served("KeepAlive"))?;
        leases.keep_alive(request).await.map(Response::new)
    }

    async fn time_left(&self, request: Request<PeerTimeLeftRequest>) -> Result<Response<PeerTimeLeftResponse>, Status> {
        let request = request.into_inner();
        self.caller(request.identity.as_ref())?;
        let leases = self.handlers.leases.as_ref().ok_or_else(|| peer_call_not_served("TimeLeft"))?;
        leases.time_left(request).await.map(Response::new)
    }

    async fn promote(&self, request: Request<PeerPromoteRequest>) -> Result<Response<PeerPromoteResponse>, Status> {
        let request = request.into_inner();
        self.caller(request.identity.as_ref())?;
        let promotion = self.handlers.promotion.as_ref().ok_or_else(|| peer_call_not_served("Promote"))?;
        promotion.promote(request).await.map(Response::new)
    }

    async fn state_hash(
        &self,
        request: Request<PeerStateHashRequest>,
    ) -> Result<Response<PeerStateHashResponse>, Status> {
        let request = request.into_inner();
        self.caller(request.identity.as_ref())?;
        let hashes = self.handlers.hashes.as_ref().ok_or_else(|| peer_call_not_served("StateHash"))?;
        hashes.state_hash(request).await.map(Response::new)
    }

    async fn hash_kv(&self, request: Request<PeerHashKvRequest>) -> Result<Response<PeerHashKvResponse>, Status> {
        let request = request.into_inner();
        self.caller(request.identity.as_ref())?;
        let hashes = self.handlers.hashes.as_ref().ok_or_else(|| peer_call_not_served("HashKv"))?;
        hashes.hash_kv(request).await.map(Response::new)
    }
}
