//! tmp
//!
//! tmp

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::watch_server::Watch;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

const NOT_YET: &str = "x";

#[tonic::async_trait]
impl Watch for Edge {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;
    async fn watch(&self, _: Request<tonic::Streaming<pb::WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> { Err(RequestError::NotYet(NOT_YET).into()) }
}
