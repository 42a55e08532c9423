//! v3lockpb.Lock.
//!
//! Comes in a later release. Locks by lease and Txn work, see `examples/`.

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::v3lockpb as pb;
use castd_proto::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

const NOT_YET: &str = "castd does not have the lock service yet; use a lease and a Txn";

#[tonic::async_trait]
impl Lock for Edge {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        self.unary(Rpc::Lock, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Response<pb::UnlockResponse>, Status> {
        self.unary(Rpc::LockUnlock, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }
}
