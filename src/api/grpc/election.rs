//! v3electionpb.Election: who leads, for clients that bring no recipe of their own.
//!
//! ```text
//!   Campaign ──join──▶ queue under `name/` ──first──▶ LeaderKey ──▶ Proclaim, Resign
//!                              └────────────────────▶ Leader, Observe
//! ```
//! The leader is the first of the queue, as for locks, and its key holds what it proclaims. Everything a leader does later
//! compares the revision at which its key was created, so that a former leader changes nothing.

use crate::api::grpc::session::{Caller, Session, Waiter, uncoded};
use crate::api::grpc::{Admitted, Edge, deadline, observe, span};
use crate::cast::RequestError;
use crate::ids::{LeaseId, Revision};
use crate::mvcc::check;
use crate::queue::{Place, Queue, QueueError};
use castd_proto::Rpc;
use castd_proto::etcdserverpb::{TxnRequest, TxnResponse};
use castd_proto::v3electionpb as pb;
use castd_proto::v3electionpb::election_server::Election;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Election for Edge {
    type ObserveStream = BoxStream<'static, Result<pb::LeaderResponse, Status>>;

    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        let patience = deadline::patience(request.metadata());
        self.unary(Rpc::ElectionCampaign, request, |mut admitted, campaign| async move {
            admitted.describe("campaign", |request| span::queue(request, &campaign.name, campaign.lease));
            let (caller, queue) = (Caller::new(self, &admitted), Queue::new(&campaign.name));
            self.wait(patience, async {
                let waiter =
                    Waiter::join(caller.clone(), queue, LeaseId(campaign.lease), campaign.value.clone()).await?;
                if waiter.found().is_some_and(|found| *found != campaign.value)
                    && !caller.txn(waiter.place().put(campaign.value.clone())).await?.succeeded
                {
                    return Err(QueueError::NotLeader.into());
                }
                waiter.wait().await?.ok_or(QueueError::NotLeader)?;
                let (header, lease) = (waiter.header(), waiter.session().lease.0);
                let place = waiter.keep();
                let leader = pb::LeaderKey { name: campaign.name, key: place.key, rev: place.created.0, lease };
                Ok(pb::CampaignResponse { header: Some(header), leader: Some(leader) })
            })
            .await
        })
        .await
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        self.unary(Rpc::ElectionProclaim, request, |mut admitted, proclaim| async move {
            let mut place = place_of(proclaim.leader, &mut admitted, "proclaim")?;
            let session = Session::open(Caller::new(self, &admitted), place.lease).await.map_err(uncoded)?;
            place.lease = session.lease;
            let answer = self.checked(&session.caller, place.put(proclaim.value)).await.map_err(uncoded)?;
            if !answer.succeeded {
                return Err(QueueError::NotLeader.into());
            }
            session.keep();
            Ok(pb::ProclaimResponse { header: answer.header })
        })
        .await
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        self.unary(Rpc::ElectionLeader, request, |admitted, leader| async move {
            let (caller, queue) = (Caller::new(self, &admitted), Queue::new(&leader.name));
            let first = queue.clone();
            let look = caller.look(&queue, move |view| Ok(first.first(&view.mvcc)?));
            let (kv, revision) = look.await.map_err(uncoded)?;
            let kv = kv.ok_or(QueueError::NoLeader)?;
            Ok(pb::LeaderResponse { header: Some(caller.header(revision)), kv: Some(kv) })
        })
        .await
    }

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        observe::open(self, request)
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        self.unary(Rpc::ElectionResign, request, |mut admitted, resign| async move {
            let place = place_of(resign.leader, &mut admitted, "resign")?;
            let answer = self.checked(&Caller::new(self, &admitted), place.leave()).await.map_err(uncoded)?;
            // Whoever does not lead any more has nothing to resign from, which is as good.
            Ok(pb::ResignResponse { header: answer.header })
        })
        .await
    }
}

/// The place in the queue that a leader's key stands for, noted in the call's trace.
fn place_of(leader: Option<pb::LeaderKey>, admitted: &mut Admitted, asked: &'static str) -> Result<Place, QueueError> {
    let leader = leader.ok_or(QueueError::LeaderMissing)?;
    admitted.describe(asked, |request| span::queue(request, &leader.name, leader.lease));
    Ok(Place { key: leader.key, created: Revision(leader.rev), lease: LeaseId(leader.lease) })
}

impl Edge {
    /// Replicates a txn about a key that the client has named.
    async fn checked(&self, caller: &Caller, txn: TxnRequest) -> Result<TxnResponse, RequestError> {
        check::txn(&txn, self.cast.limits().txn_ops_max)?;
        caller.txn(txn).await
    }
}
