//! v3electionpb.Election.
//!
//! Comes in a later release.

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::v3electionpb as pb;
use castd_proto::v3electionpb::election_server::Election;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

const NOT_YET: &str = "castd does not have the election service yet; use a lease and a Txn";

#[tonic::async_trait]
impl Election for Edge {
    type ObserveStream = BoxStream<'static, Result<pb::LeaderResponse, Status>>;

    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        self.unary(Rpc::ElectionCampaign, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        self.unary(Rpc::ElectionProclaim, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        self.unary(Rpc::ElectionLeader, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.server_stream(Rpc::ElectionObserve, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        self.unary(Rpc::ElectionResign, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }
}
