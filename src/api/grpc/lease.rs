//! tmp
//!
//! tmp

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::lease_server::Lease;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

const NOT_YET: &str = "x";

#[tonic::async_trait]
impl Lease for Edge {
    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.unary(Rpc::LeaseGrant, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.unary(Rpc::LeaseRevoke, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn lease_time_to_live(&self, request: Request<pb::LeaseTimeToLiveRequest>) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.unary(Rpc::LeaseTimeToLive, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn lease_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.unary(Rpc::LeaseLeases, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn lease_keep_alive(&self, _: Request<tonic::Streaming<pb::LeaseKeepAliveRequest>>) -> Result<Response<Self::LeaseKeepAliveStream>, Status> { Err(RequestError::NotYet(NOT_YET).into()) }
}
