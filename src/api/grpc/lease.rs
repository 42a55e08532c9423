//! etcdserverpb.Lease: grant, revoke, keep alive, time to live, list.
//!
//! ```text
//!   grant, revoke ──▶ the log            keep alive, time to live ──▶ LeaseKeeper, the leader's clock
//! ```
//! A renewal is not replicated: the leader's word is enough, once it is sure that it still leads.

use crate::actors::lease_keeper::{KeepAlive, ListLeases, LookUpTimeLeft};
use crate::api::grpc::leader_calls::{Renewal, TimeLeftCall};
use crate::api::grpc::long_call::LongCall;
use crate::api::grpc::{Edge, mismatch, span};
use crate::api::permit::Permit;
use crate::cast::RequestError;
use crate::ids::LeaseId;
use crate::lease::{Answer, Confirmation, LeaseError, TTL_SECS_MAX, TimeLeft, ttl_secs_min};
use crate::quota::cost;
use crate::raft::node::RaftError;
use crate::state::Outcome;
use crate::telemetry::trace::SpanContext;
use castd_proto::Rpc;
use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::lease_server::Lease;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, FuturesOrdered, StreamExt};
use prost::Message as _;
use std::future::poll_fn;
use std::time::UNIX_EPOCH;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

/// Renewals of one stream that may be at the LeaseKeeper at once.
const UNDER_WAY_MAX: usize = 256;
/// TimeToLive of a lease that does not exist.
const NO_LEASE_TTL: i64 = -1;

#[tonic::async_trait]
impl Lease for Edge {
    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.unary(Rpc::LeaseGrant, request, |mut admitted, grant| async move {
            let permit = admitted.permit.clone();
            self.grant(&permit, grant, |grant| {
                admitted.describe("lease_grant", |request| span::lease_grant(request, grant));
                admitted.span()
            })
            .await
        })
        .await
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.unary(Rpc::LeaseRevoke, request, |mut admitted, revoke| async move {
            admitted.describe("lease_revoke", |request| span::lease(request, revoke.id));
            match self.cast.replicate(&admitted.permit, Op::LeaseRevoke(revoke), admitted.span()).await? {
                Outcome::LeaseRevoke(mut answer) => {
                    self.fill(&mut answer.header);
                    Ok(answer)
                }
                other => mismatch("lease revoke", &other),
            }
        })
        .await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let call = LongCall::begin(self, Rpc::LeaseKeepAlive, &metadata)?;
        let answers = stream::unfold(
            KeepAlives { call, requests, under_way: FuturesOrdered::new(), is_read: false },
            KeepAlives::next,
        );
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.unary(Rpc::LeaseTimeToLive, request, |admitted, query| async move {
            let mut answer = self.ask_leader(&TimeLeftCall { query, span: admitted.span() }).await?;
            self.fill(&mut answer.header);
            Ok(answer)
        })
        .await
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.unary(Rpc::LeaseLeases, request, |admitted, _| async move {
            let keeper = self.cast.lease_keeper(&admitted.permit);
            let ids = keeper.send(ListLeases { span: admitted.span() }).await.map_err(|_| RequestError::Stopped)?;
            // The keeper knows the order, the view what there is: it hears of a revoke a moment after watchers do.
            let view = self.cast.local_view(&admitted.permit);
            let leases = ids.into_iter().filter(|lease| view.leases.get(*lease).is_some());
            Ok(pb::LeaseLeasesResponse {
                header: Some(self.cast.header(view.mvcc.revision().0)),
                leases: leases.map(|lease| pb::LeaseStatus { id: lease.0 }).collect(),
            })
        })
        .await
    }
}

impl Edge {
    /// Grants a lease: with an id of our choice, if the one asked for is 0. `span` is told which.
    pub(super) async fn grant(
        &self,
        permit: &Permit,
        mut grant: pb::LeaseGrantRequest,
        mut span: impl FnMut(&pb::LeaseGrantRequest) -> SpanContext,
    ) -> Result<pb::LeaseGrantResponse, RequestError> {
        if grant.ttl > TTL_SECS_MAX {
            let error = LeaseError::TtlTooLarge.into();
            return Err(self.cast.refusal(permit, cost::LEASE_GRANT, error).await);
        }
        grant.ttl = grant.ttl.max(ttl_secs_min(self.settings.election_timeout));
        let chosen_here = grant.id == 0;
        loop {
            if chosen_here {
                grant.id = self.new_lease_id(permit);
            }
            match self.cast.replicate(permit, Op::LeaseGrant(grant), span(&grant)).await {
                Ok(Outcome::LeaseGrant(mut answer)) => {
                    self.fill(&mut answer.header);
                    return Ok(answer);
                }
                Ok(other) => mismatch("lease grant", &other),
                Err(RequestError::Lease(LeaseError::Exists)) if chosen_here => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A positive id as etcd makes them: the member in the upper bits, time below. Two grants at the same moment may get the
    /// same one; the second is then refused and tried again.
    fn new_lease_id(&self, permit: &Permit) -> i64 {
        let wall_nanos = self.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let member = self.cast.identity().member.0 << 48;
        let view = self.cast.local_view(permit);
        let mut time = wall_nanos >> 4;
        loop {
            let id = ((member | time & (u64::MAX >> 16)) & (u64::MAX >> 1)) as i64;
            if id != 0 && view.leases.get(LeaseId(id)).is_none() {
                return id;
            }
            time = time.wrapping_add(1);
        }
    }

    /// The state machine fills in the revision, the member that answers the rest.
    pub(super) fn fill(&self, header: &mut Option<pb::ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.cast.header(revision));
    }

    /// # Errors
    /// [`RequestError::NotLeader`]; the leader's clock alone knows.
    pub(super) async fn time_to_live_here(
        &self,
        permit: &Permit,
        query: &pb::LeaseTimeToLiveRequest,
        span: SpanContext,
    ) -> Result<pb::LeaseTimeToLiveResponse, RequestError> {
        if !self.cast.status().is_leader {
            return Err(RequestError::NotLeader);
        }
        let view = self.cast.linearizable_view(permit, span.clone()).await?;
        let mut answer = pb::LeaseTimeToLiveResponse {
            header: Some(self.cast.header(view.mvcc.revision().0)),
            id: query.id,
            ttl: NO_LEASE_TTL,
            ..Default::default()
        };
        let lease = LeaseId(query.id);
        let asked = self.cast.lease_keeper(permit).send(LookUpTimeLeft { lease, span });
        match asked.await.map_err(|_| RequestError::Stopped)? {
            TimeLeft::Known { ttl_secs, remaining_secs } => {
                answer.ttl = remaining_secs;
                answer.granted_ttl = ttl_secs;
                if query.keys
                    && let Some(lease) = view.leases.get(lease)
                {
                    answer.keys = lease.keys.iter().cloned().collect();
                }
            }
            TimeLeft::Unknown => {}
            TimeLeft::NotLeader => return Err(RequestError::NotLeader),
        }
        Ok(answer)
    }

    /// Answers the TTL: 0 if there is no such lease.
    ///
    /// # Errors
    /// [`RequestError::NotLeader`]; the leader's word alone counts.
    pub(super) async fn keep_alive_here(
        &self,
        permit: &Permit,
        lease: LeaseId,
        span: SpanContext,
    ) -> Result<i64, RequestError> {
        match self.ask_to_keep_alive(permit, lease, None, span.clone()).await? {
            Answer::Renewed { ttl_secs } => return Ok(ttl_secs),
            Answer::Gone => return Ok(0),
            Answer::NotLeader => return Err(RequestError::NotLeader),
            Answer::Unconfirmed => {}
        }
        let asked = Confirmation { term: self.cast.status().term, asked_at: self.clock.now() };
        self.cast.linearizable_view(permit, span.clone()).await?;
        match self.ask_to_keep_alive(permit, lease, Some(asked), span).await? {
            Answer::Renewed { ttl_secs } => Ok(ttl_secs),
            Answer::Gone => Ok(0),
            Answer::NotLeader | Answer::Unconfirmed => Err(RequestError::NotLeader),
        }
    }

    async fn ask_to_keep_alive(
        &self,
        permit: &Permit,
        lease: LeaseId,
        confirmed: Option<Confirmation>,
        span: SpanContext,
    ) -> Result<Answer, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.cast.lease_keeper(permit).do_send(KeepAlive { lease, confirmed, reply, span });
        answer.await.map_err(|_| RaftError::Timeout.into())
    }
}

/// A stream of renewals: several are under way at a time, each is answered in its turn.
struct KeepAlives {
    call: LongCall,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    under_way: FuturesOrdered<BoxFuture<'static, Result<pb::LeaseKeepAliveResponse, RequestError>>>,
    /// The client has no more to ask.
    is_read: bool,
}

impl KeepAlives {
    async fn next(mut self) -> Option<(Result<pb::LeaseKeepAliveResponse, Status>, Self)> {
        if self.call.is_over() {
            return None;
        }
        let answer = self.answer().await?;
        Some((answer, self))
    }

    /// `None` when the client has no more to ask and has all its answers.
    async fn answer(&mut self) -> Option<Result<pb::LeaseKeepAliveResponse, Status>> {
        loop {
            if self.is_read && self.under_way.is_empty() {
                self.call.complete();
                return None;
            }
            let may_read = !self.is_read && self.under_way.len() < UNDER_WAY_MAX;
            tokio::select! {
                biased;
                status = poll_fn(|context| self.call.poll_end(context)) => return Some(Err(status)),
                Some(answer) = self.under_way.next() => {
                    return Some(match answer {
                        Ok(answer) => {
                            self.call.sent(answer.encoded_len());
                            Ok(answer)
                        }
                        Err(error) => Err(self.call.fail(error)),
                    });
                }
                request = self.requests.message(), if may_read => match request {
                    Ok(Some(request)) => {
                        self.call.received(request.encoded_len());
                        self.begin(LeaseId(request.id));
                    }
                    Ok(None) => self.is_read = true,
                    Err(status) => return Some(Err(self.call.fail_to_receive(status))),
                },
            }
        }
    }

    fn begin(&mut self, lease: LeaseId) {
        let edge = self.call.edge.clone();
        let permit = &self.call.admitted.permit;
        // Taken before the renewal, so that its revision is not later than that.
        let header = edge.cast.header(edge.cast.local_view(permit).mvcc.revision().0);
        let mut renewal = self.call.admitted.request("lease_renew");
        span::lease(&mut renewal, lease.0);
        let renewed = async move {
            let ttl = edge.ask_leader(&Renewal { lease, span: renewal.context() }).await?;
            Ok(pb::LeaseKeepAliveResponse { header: Some(header), id: lease.0, ttl })
        };
        self.under_way.push_back(renewed.boxed());
    }
}
