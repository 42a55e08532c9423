//! What only the leader knows: asked of it by the other members, and answered by this one when it leads.
//!
//! ```text
//!   handler ─▶ does this member lead? ─yes─▶ its own actors
//!                 └─no─▶ PeerLink.KeepAlive, .TimeLeft, .Promote of whoever leads ─▶ the same handler, over there
//! ```
//! A renewal is the leader's word and nobody else's, and how far a learner has come only the leader sees. An election in
//! between is waited out: the question is repeated until somebody answers it, or the request has taken too long.

use crate::api::grpc::Edge;
use crate::api::permit::{Caller, authorize};
use crate::cast::RequestError;
use crate::ids::{LeaseId, MemberId};
use crate::peer::dial::Client;
use crate::peer::handlers::{KeepsLeases, Promotes};
use crate::raft::node::{RaftError, TICK};
use crate::telemetry::trace::SpanContext;
use castd_proto::Rpc;
use castd_proto::castdpb::{
    PeerIdentity, PeerKeepAliveRequest, PeerKeepAliveResponse, PeerPromoteRequest, PeerPromoteResponse,
    PeerTimeLeftRequest, PeerTimeLeftResponse,
};
use castd_proto::etcdserverpb as pb;
use std::error::Error as _;
use std::time::Duration;
use tonic::{Code, Request, Status};

/// Who leads may change at any moment, but not be asked all the time.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A question for the leader: what to ask of this member, and what of another one.
pub(super) trait LeaderCall: Sync {
    type Answer: Send;

    /// [`RequestError::NotLeader`] if this member does not lead.
    fn ask_here(&self, edge: &Edge) -> impl Future<Output = Result<Self::Answer, RequestError>> + Send;

    fn ask_there(
        &self,
        client: Client,
        identity: Option<PeerIdentity>,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

impl Edge {
    /// Asks whoever leads.
    ///
    /// # Errors
    /// What the leader answers; and etcd's errors when nobody leads, or none who does answers in time.
    pub(super) async fn ask_leader<C: LeaderCall>(&self, call: &C) -> Result<C::Answer, RequestError> {
        let started = self.clock.now();
        // Mostly it is this one, and then nothing may be in the way.
        match call.ask_here(self).await {
            Err(RequestError::NotLeader) => {}
            answer => return answer,
        }
        let asked = async {
            loop {
                match self.leader_known().await {
                    own if own == self.cast.identity().member => match call.ask_here(self).await {
                        Err(RequestError::NotLeader) => {}
                        answer => return answer,
                    },
                    other => match self.ask_peer(call, other).await {
                        Err(status) if may_change(&status) => {}
                        Err(status) => return Err(RequestError::of_peer(&status)),
                        Ok(answer) => return Ok(answer),
                    },
                }
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
        };
        let left = self.settings.request_timeout.saturating_sub(self.clock.now().saturating_sub(started));
        let answered = tokio::time::timeout(left, asked).await;
        answered.unwrap_or_else(|_| {
            let has_leader = self.cast.status().leader.is_some();
            Err(if has_leader { RaftError::Timeout.into() } else { RequestError::NoLeader })
        })
    }

    async fn leader_known(&self) -> MemberId {
        loop {
            match self.cast.status().leader {
                Some(leader) => return leader,
                None => tokio::time::sleep(TICK).await,
            }
        }
    }

    async fn ask_peer<C: LeaderCall>(&self, call: &C, leader: MemberId) -> Result<C::Answer, Status> {
        let calls = self.cast.peer_calls();
        let asked = async {
            let client = calls.client(leader).await.map_err(|error| Status::unavailable(error.to_string()))?;
            call.ask_there(client, Some(calls.identity(leader))).await
        };
        // One that does not answer for so long does not lead any more.
        let limit = self.settings.election_timeout.max(Duration::from_secs(1));
        let answer = tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(Status::unavailable("no answer")));
        answer.inspect_err(|status| {
            if status.code() == Code::Unavailable || is_of_transport(status) {
                calls.give_up(leader);
            }
        })
    }
}

/// It was not, or no longer, the leader; or did not answer at all.
fn may_change(status: &Status) -> bool {
    let not_leader = Status::from(RequestError::NotLeader);
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || is_of_transport(status)
        || (status.code(), status.message()) == (not_leader.code(), not_leader.message())
}

/// The connection ended with the question on it: tonic makes up a status, with the reason behind it, which no peer's has.
fn is_of_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// LeaseKeepAlive, answered with the time to live.
pub(super) struct Renewal {
    pub lease: LeaseId,
    pub span: SpanContext,
}

impl LeaderCall for Renewal {
    type Answer = i64;

    async fn ask_here(&self, edge: &Edge) -> Result<i64, RequestError> {
        let permit = authorize(&Caller::Anonymous, Rpc::LeaseKeepAlive)?;
        edge.keep_alive_here(&permit, self.lease, self.span.clone()).await
    }

    async fn ask_there(&self, mut client: Client, identity: Option<PeerIdentity>) -> Result<i64, Status> {
        let request = PeerKeepAliveRequest { identity, lease_id: self.lease.0 };
        Ok(client.keep_alive(Request::new(request)).await?.into_inner().ttl_secs)
    }
}

/// LeaseTimeToLive. The header is for whoever answers the client to fill, but for its revision.
pub(super) struct TimeLeftCall {
    pub query: pb::LeaseTimeToLiveRequest,
    pub span: SpanContext,
}

impl LeaderCall for TimeLeftCall {
    type Answer = pb::LeaseTimeToLiveResponse;

    async fn ask_here(&self, edge: &Edge) -> Result<Self::Answer, RequestError> {
        let permit = authorize(&Caller::Anonymous, Rpc::LeaseTimeToLive)?;
        edge.time_to_live_here(&permit, &self.query, self.span.clone()).await
    }

    async fn ask_there(&self, mut client: Client, identity: Option<PeerIdentity>) -> Result<Self::Answer, Status> {
        let request = PeerTimeLeftRequest { identity, lease_id: self.query.id, keys: self.query.keys };
        let answer = client.time_left(Request::new(request)).await?.into_inner().answer;
        answer.ok_or_else(|| Status::internal("the leader answered without an answer"))
    }
}

/// MemberPromote, answered with the members after it.
pub(super) struct Promotion {
    pub member: MemberId,
    pub span: SpanContext,
}

impl LeaderCall for Promotion {
    type Answer = Vec<pb::Member>;

    async fn ask_here(&self, edge: &Edge) -> Result<Self::Answer, RequestError> {
        let permit = authorize(&Caller::Anonymous, Rpc::ClusterMemberPromote)?;
        edge.promote_here(&permit, self.member, self.span.clone()).await
    }

    async fn ask_there(&self, mut client: Client, identity: Option<PeerIdentity>) -> Result<Self::Answer, Status> {
        let request = PeerPromoteRequest { identity, member_id: self.member.0 };
        Ok(client.promote(Request::new(request)).await?.into_inner().members)
    }
}

#[tonic::async_trait]
impl KeepsLeases for Edge {
    async fn keep_alive(&self, request: PeerKeepAliveRequest) -> Result<PeerKeepAliveResponse, Status> {
        let call = Renewal { lease: LeaseId(request.lease_id), span: SpanContext::default() };
        Ok(PeerKeepAliveResponse { ttl_secs: call.ask_here(self).await? })
    }

    async fn time_left(&self, request: PeerTimeLeftRequest) -> Result<PeerTimeLeftResponse, Status> {
        let query = pb::LeaseTimeToLiveRequest { id: request.lease_id, keys: request.keys };
        let call = TimeLeftCall { query, span: SpanContext::default() };
        Ok(PeerTimeLeftResponse { answer: Some(call.ask_here(self).await?) })
    }
}

#[tonic::async_trait]
impl Promotes for Edge {
    async fn promote(&self, request: PeerPromoteRequest) -> Result<PeerPromoteResponse, Status> {
        let call = Promotion { member: MemberId(request.member_id), span: SpanContext::default() };
        Ok(PeerPromoteResponse { members: call.ask_here(self).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_peer_is_final_and_a_lost_connection_is_not() {
        let answers = [Status::not_found("etcdserver: requested lease not found"), Status::unknown("etcdserver: x")];
        assert!(answers.iter().all(|status| !may_change(status)));
        let lost = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert_eq!((lost.code(), may_change(&lost)), (Code::Unknown, true));
        assert!(
            may_change(&Status::unavailable("etcdserver: no leader")) && may_change(&RequestError::NotLeader.into())
        );
    }
}
