//! v3lockpb.Lock: a lock for clients that bring no recipe of their own.
//!
//! ```text
//!   Lock ──join──▶ queue under `name/` ──first──▶ the key that Unlock deletes
//! ```
//! It is the lock of etcd's clients (`etcdctl lock`), key for key, run by the member in the caller's name. The lock is held as
//! long as the lease lives, which keeping alive is the caller's business, also while it waits.

use crate::api::grpc::session::{Caller, Waiter, uncoded};
use crate::api::grpc::{Edge, deadline, mismatch, span};
use crate::ids::LeaseId;
use crate::mvcc::check;
use crate::queue::{Queue, QueueError};
use crate::state::Outcome;
use bytes::Bytes;
use castd_proto::Rpc;
use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb::DeleteRangeRequest;
use castd_proto::v3lockpb as pb;
use castd_proto::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Lock for Edge {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let patience = deadline::patience(request.metadata());
        self.unary(Rpc::Lock, request, |mut admitted, lock| async move {
            admitted.describe("lock", |request| span::queue(request, &lock.name, lock.lease));
            let (caller, queue) = (Caller::new(self, &admitted), Queue::new(&lock.name));
            self.wait(patience, async {
                let waiter = Waiter::join(caller, queue, LeaseId(lock.lease), Bytes::new()).await?;
                let header = waiter.wait().await?.ok_or(QueueError::SessionExpired)?;
                Ok(pb::LockResponse { header: Some(header), key: waiter.keep().key })
            })
            .await
        })
        .await
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Response<pb::UnlockResponse>, Status> {
        self.unary(Rpc::LockUnlock, request, |mut admitted, unlock| async move {
            let delete = DeleteRangeRequest { key: unlock.key, ..Default::default() };
            admitted.describe("unlock", |request| span::delete_range(request, &delete));
            check::delete_range(&delete).map_err(|error| uncoded(error.into()))?;
            let deleting = self.cast.replicate(&admitted.permit, Op::DeleteRange(delete), admitted.span());
            match deleting.await.map_err(uncoded)? {
                Outcome::DeleteRange(mut answer) => {
                    self.fill(&mut answer.header);
                    Ok(pb::UnlockResponse { header: answer.header })
                }
                other => mismatch("delete range", &other),
            }
        })
        .await
    }
}
