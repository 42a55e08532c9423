//! grpc.health.v1.Health, as etcd answers it: one service, the server as a whole, named by the empty string.

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::health as pb;
use castd_proto::health::health_check_response::ServingStatus;
use castd_proto::health::health_server::Health;
use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Health for Edge {
    type WatchStream = BoxStream<'static, Result<pb::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        self.unary(Rpc::HealthCheck, request, |_, check| async move {
            if check.service.is_empty() {
                Ok(answer(ServingStatus::Serving))
            } else {
                Err(RequestError::UnknownHealthService)
            }
        })
        .await
    }

    /// The status never changes while the server runs, so the stream says it once and stays open.
    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.server_stream(Rpc::HealthWatch, request, |_, check| async move {
            let status = if check.service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
            Ok(stream::iter([Ok(answer(status))]).chain(stream::pending()).boxed())
        })
        .await
    }
}

fn answer(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into() }
}
