//! Who answers the single calls between members: a place for each, empty until somebody takes it.
//!
//! The caller was checked before a handler is asked: it is a member of this cluster, and meant this one.

use crate::ids::MemberId;
use castd_proto::castdpb::{
    PeerHashKvRequest, PeerHashKvResponse, PeerKeepAliveRequest, PeerKeepAliveResponse, PeerPromoteRequest,
    PeerPromoteResponse, PeerStateHashRequest, PeerStateHashResponse, PeerTimeLeftRequest, PeerTimeLeftResponse,
    SnapshotOffer, SnapshotPart, SnapshotReceipt,
};
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tonic::Status;

/// What comes after the offer.
pub type SnapshotParts = BoxStream<'static, Result<SnapshotPart, Status>>;

/// Takes snapshots in.
#[tonic::async_trait]
pub trait ReceivesSnapshots: Send + Sync + 'static {
    /// The offer's message is a MsgSnapshot of `from` to this member, and well formed.
    async fn receive(
        &self,
        from: MemberId,
        offer: SnapshotOffer,
        parts: SnapshotParts,
    ) -> Result<SnapshotReceipt, Status>;
}

/// Answers for leases, as the leader.
#[tonic::async_trait]
pub trait KeepsLeases: Send + Sync + 'static {
    async fn keep_alive(&self, request: PeerKeepAliveRequest) -> Result<PeerKeepAliveResponse, Status>;
    async fn time_left(&self, request: PeerTimeLeftRequest) -> Result<PeerTimeLeftResponse, Status>;
}

/// Promotes learners, as the leader.
#[tonic::async_trait]
pub trait Promotes: Send + Sync + 'static {
    async fn promote(&self, request: PeerPromoteRequest) -> Result<PeerPromoteResponse, Status>;
}

/// Says what this member holds.
#[tonic::async_trait]
pub trait Hashes: Send + Sync + 'static {
    async fn state_hash(&self, request: PeerStateHashRequest) -> Result<PeerStateHashResponse, Status>;
    async fn hash_kv(&self, request: PeerHashKvRequest) -> Result<PeerHashKvResponse, Status>;
}

/// Whoever is there. What nobody answers is Unavailable.
#[derive(Clone, Default)]
pub struct Handlers {
    pub snapshots: Option<Arc<dyn ReceivesSnapshots>>,
    pub leases: Option<Arc<dyn KeepsLeases>>,
    pub promotion: Option<Arc<dyn Promotes>>,
    pub hashes: Option<Arc<dyn Hashes>>,
}
