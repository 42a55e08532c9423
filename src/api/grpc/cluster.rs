//! etcdserverpb.Cluster: who belongs to the cluster, and changing that.
//!
//! ```text
//!   handler ──checks──▶ RaftNode (one change at a time) ──▶ log ──▶ Applier ──▶ the members after the change
//!      ▲                                                               │
//!      └────────────── overtaken by another change: again ─────────────┘
//! ```
//! The rules are in `membership/checks.rs` and `membership/members.rs`.

use crate::api::grpc::leader_calls::Promotion;
use crate::api::grpc::{Edge, mismatch};
use crate::api::permit::Permit;
use crate::api::status::Wire;
use crate::cast::RequestError;
use crate::ids::MemberId;
use crate::membership::checks::{self, Outlook};
use crate::membership::{MembershipError, members::Members};
use crate::raft::node::MemberProgress;
use crate::state::{Outcome, View};
use crate::telemetry::trace::SpanContext;
use castd_proto::Rpc;
use castd_proto::castdpb::{MembershipChange, membership_change::Kind};
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::cluster_server::Cluster;
use std::time::UNIX_EPOCH;
use tonic::{Request, Response, Status};

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
        self.unary(Rpc::ClusterMemberAdd, request, |admitted, add| async move {
            let urls = checks::peer_urls(&add.peer_urls)?;
            let unix_seconds = self.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
            let is_learner = add.is_learner;
            let (member, members) = self
                .change_membership(&admitted.permit, admitted.span(), Kind::Add, |view| {
                    self.look(&view.members, |outlook| outlook.may_add(is_learner))?;
                    let id = checks::new_id(&view.members, &urls, unix_seconds);
                    let peer_urls = urls.iter().map(ToString::to_string).collect();
                    Ok(pb::Member { id: id.0, peer_urls, is_learner, ..Default::default() })
                })
                .await?;
            let header = Some(self.cast.header(NO_REVISION));
            Ok(pb::MemberAddResponse { header, member: Some(member), members })
        })
        .await
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.unary(Rpc::ClusterMemberRemove, request, |admitted, remove| async move {
            let (_, members) = self
                .change_membership(&admitted.permit, admitted.span(), Kind::Remove, |view| {
                    self.look(&view.members, |outlook| outlook.may_remove(MemberId(remove.id)))?;
                    Ok(pb::Member { id: remove.id, ..Default::default() })
                })
                .await?;
            Ok(pb::MemberRemoveResponse { header: Some(self.cast.header(NO_REVISION)), members })
        })
        .await
    }

    /// The URLs are taken as they are given, as in etcd.
    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.unary(Rpc::ClusterMemberUpdate, request, |admitted, update| async move {
            let member = pb::Member { id: update.id, peer_urls: update.peer_urls, ..Default::default() };
            let check = |_: &View| Ok(member.clone());
            let (_, members) = self.change_membership(&admitted.permit, admitted.span(), Kind::Update, check).await?;
            Ok(pb::MemberUpdateResponse { header: Some(self.cast.header(NO_REVISION)), members })
        })
        .await
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.unary(Rpc::ClusterMemberPromote, request, |admitted, promote| async move {
            let call = Promotion { member: MemberId(promote.id), span: admitted.span() };
            let members = self.ask_leader(&call).await?;
            Ok(pb::MemberPromoteResponse { header: Some(self.cast.header(NO_REVISION)), members })
        })
        .await
    }
}

impl Edge {
    /// # Errors
    /// [`RequestError::NotLeader`] if this member does not lead: it cannot know how far the learner is.
    pub(super) async fn promote_here(
        &self,
        permit: &Permit,
        id: MemberId,
        span: SpanContext,
    ) -> Result<Vec<pb::Member>, RequestError> {
        let promoted = self.promote_as_leader(permit, id, span).await;
        let metrics = &self.metrics.server;
        match &promoted {
            Ok(_) => metrics.learner_promote_successes.inc(),
            // The leader counts it.
            Err(RequestError::NotLeader) => {}
            Err(error) => {
                let reason = Wire::from(error).message;
                metrics.learner_promote_failures.with_label_values(&[reason.as_str()]).inc();
            }
        }
        promoted
    }

    async fn promote_as_leader(
        &self,
        permit: &Permit,
        id: MemberId,
        span: SpanContext,
    ) -> Result<Vec<pb::Member>, RequestError> {
        let progress = match self.cast.progress_of(permit, id, span.clone()).await? {
            MemberProgress::NotLeader => return Err(RequestError::NotLeader),
            MemberProgress::NoMember => None,
            MemberProgress::At(progress) => Some(progress),
        };
        let (_, members) = self
            .change_membership(permit, span, Kind::Promote, |view| {
                self.look(&view.members, |outlook| outlook.may_promote(progress))?;
                Ok(pb::Member { id: id.0, ..Default::default() })
            })
            .await?;
        Ok(members)
    }

    /// Asks what this member sees of the cluster.
    fn look<T>(&self, members: &Members, ask: impl FnOnce(&Outlook) -> T) -> T {
        let now = self.clock.now();
        let connected_for = |member| Some(now.saturating_sub(self.cast.connected_since(member)?));
        let local = self.cast.identity().member;
        ask(&Outlook { members, local, is_strict: self.settings.is_reconfig_strict, connected_for: &connected_for })
    }

    /// Proposes what `check` makes of the membership as it is, and again when another change came first. Each time round
    /// somebody's change went through. Answers the member that `check` named, and the members after the change.
    async fn change_membership(
        &self,
        permit: &Permit,
        span: SpanContext,
        kind: Kind,
        check: impl Fn(&View) -> Result<pb::Member, MembershipError>,
    ) -> Result<(pb::Member, Vec<pb::Member>), RequestError> {
        loop {
            let (change, member) = self.checked_change(&self.cast.local_view(permit), kind, &check)?;
            match self.cast.change_membership(permit, &change, span.clone()).await? {
                Outcome::Members(members) => return Ok((member, members)),
                Outcome::MembershipOvertaken => {}
                other => mismatch("change of the membership", &other),
            }
        }
    }

    fn checked_change(
        &self,
        view: &View,
        kind: Kind,
        check: impl Fn(&View) -> Result<pb::Member, MembershipError>,
    ) -> Result<(MembershipChange, pb::Member), RequestError> {
        let member = check(view).inspect_err(|error| {
            slog::warn!(self.log, "rejecting member {} request", kind.as_str_name().to_lowercase(); "error" => %error);
        })?;
        let change = MembershipChange {
            kind: kind.into(),
            member: Some(member.clone()),
            learners_max: self.settings.learners_max,
            checked_index: view.applied.0,
            ..Default::default()
        };
        Ok((change, member))
    }
}
