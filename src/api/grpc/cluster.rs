//! etcdserverpb.Cluster: who belongs to the cluster.
//!
//! Changing the membership comes in a later release; until then those calls say so.

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

const NOT_YET: &str = "castd cannot change its membership yet";
/// Cluster answers carry no revision.
const NO_REVISION: i64 = 0;

#[tonic::async_trait]
impl Cluster for Edge {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.unary(Rpc::ClusterMemberList, request, |admitted, list| async move {
            let view = if list.linearizable {
                self.cast.linearizable_view(&admitted.permit, admitted.span()).await?
            } else {
                self.cast.local_view(&admitted.permit)
            };
            let members = view.members.list().cloned().collect();
            Ok(pb::MemberListResponse { header: Some(self.cast.header(NO_REVISION)), members })
        })
        .await
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.unary(Rpc::ClusterMemberAdd, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.unary(Rpc::ClusterMemberRemove, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.unary(Rpc::ClusterMemberUpdate, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.unary(Rpc::ClusterMemberPromote, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }
}
