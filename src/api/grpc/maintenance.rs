//! etcdserverpb.Maintenance: Status, HashKV and alarms. The rest comes in a later release and says so.

use crate::api::grpc::{Edge, alarm};
use crate::cast::RequestError;
use crate::config::{ETCD_VERSION, STORAGE_VERSION};
use castd_proto::Rpc;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::maintenance_server::Maintenance;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

const NOT_YET_DEFRAGMENT: &str = "castd does not have Defragment yet; its backends give space back by themselves";
const NOT_YET_HASH: &str = "castd does not have Hash yet; use HashKV";
const NOT_YET_SNAPSHOT: &str = "castd cannot stream a snapshot yet";
const NOT_YET_MOVE_LEADER: &str = "castd cannot move leadership yet";
const NOT_YET_DOWNGRADE: &str = "castd does not have downgrades yet";

#[tonic::async_trait]
impl Maintenance for Edge {
    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    /// What this member knows by itself: works without a leader.
    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.unary(Rpc::MaintenanceStatus, request, |admitted, _| async move {
            let (view, status) = (self.cast.local_view(&admitted.permit), self.cast.status());
            let size = view.size();
            let mut errors =
                if status.leader.is_none() { vec!["etcdserver: no leader".to_owned()] } else { Vec::new() };
            errors.extend(alarm::told(&view.alarms));
            Ok(pb::StatusResponse {
                header: Some(self.cast.header(view.mvcc.revision().0)),
                version: ETCD_VERSION.to_owned(),
                db_size: size.db_size as i64,
                db_size_in_use: size.in_use as i64,
                leader: status.leader.map_or(0, |leader| leader.0),
                raft_index: status.committed.0,
                raft_term: status.term.0,
                raft_applied_index: view.applied.0,
                errors,
                is_learner: view.members.get(self.cast.identity().member).is_some_and(|member| member.is_learner),
                storage_version: STORAGE_VERSION.to_owned(),
                db_size_quota: self.cast.limits().quota.reported(),
                downgrade_info: Some(pb::DowngradeInfo::default()),
            })
        })
        .await
    }

    /// The hash of the history up to a revision, computed as etcd computes it.
    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.unary(Rpc::MaintenanceHashKv, request, |admitted, hash| async move {
            let view = self.cast.local_view(&admitted.permit);
            let revision = view.mvcc.revision().0;
            let hashing = tokio::task::spawn_blocking(move || view.mvcc.hash_kv(hash.revision));
            let hashed = hashing.await.map_err(|_| RequestError::Stopped)??;
            Ok(pb::HashKvResponse {
                header: Some(self.cast.header(revision)),
                hash: hashed.hash,
                compact_revision: hashed.compact_revision,
                hash_revision: hashed.hash_revision,
            })
        })
        .await
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.unary(Rpc::MaintenanceAlarm, request, |admitted, request| async move {
            alarm::alarm(self, &admitted, request).await
        })
        .await
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.unary(Rpc::MaintenanceDefragment, request, |_, _| async { Err(RequestError::NotYet(NOT_YET_DEFRAGMENT)) })
            .await
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.unary(Rpc::MaintenanceHash, request, |_, _| async { Err(RequestError::NotYet(NOT_YET_HASH)) }).await
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.server_stream(Rpc::MaintenanceSnapshot, request, |_, _| async {
            Err(RequestError::NotYet(NOT_YET_SNAPSHOT))
        })
        .await
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.unary(Rpc::MaintenanceMoveLeader, request, |_, _| async { Err(RequestError::NotYet(NOT_YET_MOVE_LEADER)) })
            .await
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.unary(Rpc::MaintenanceDowngrade, request, |_, _| async { Err(RequestError::NotYet(NOT_YET_DOWNGRADE)) })
            .await
    }
}
