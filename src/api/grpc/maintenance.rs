//! etcdserverpb.Maintenance: what an operator asks of one member.
//!
//! ```text
//!   Status, Hash, HashKV ──▶ the view        Snapshot, Defragment, HashKV of a compaction ──▶ Snapshotter
//!   MoveLeader ──▶ RaftNode                  Downgrade, Alarm ──▶ the log
//! ```

mod downgrade;
mod leadership;
mod snapshot;

pub use snapshot::SNAPSHOTS_MAX;

use crate::actors::snapshotter::Defragment;
use crate::api::grpc::{Edge, ServerStream, alarm};
use crate::cast::RequestError;
use crate::config::{ETCD_VERSION, STORAGE_VERSION};
use crate::ids::MemberId;
use crate::mvcc::MvccError;
use crate::state;
use castd_proto::Rpc;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::maintenance_server::Maintenance;
use slog::info;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Maintenance for Edge {
    type SnapshotStream = ServerStream<pb::SnapshotResponse>;

    /// What this member knows by itself: works without a leader.
    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.unary(Rpc::MaintenanceStatus, request, |admitted, _| async move {
            let (view, status) = (self.cast.local_view(&admitted.permit), self.cast.status());
            let size = view.size();
            let downgrade = view.downgrade.clone();
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
                downgrade_info: Some(pb::DowngradeInfo {
                    enabled: downgrade.is_some(),
                    target_version: downgrade.unwrap_or_default(),
                }),
            })
        })
        .await
    }

    /// The hash of the history up to a revision, computed as etcd computes it. At the revision of one of the last
    /// compactions it is that of before, which members agree on whatever they have deleted since.
    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.unary(Rpc::MaintenanceHashKv, request, |admitted, hash| async move {
            self.hashes.hash_kv(hash.revision, admitted.span()).await
        })
        .await
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.unary(Rpc::MaintenanceAlarm, request, |admitted, request| async move {
            alarm::alarm(self, &admitted, request).await
        })
        .await
    }

    /// Blocks nobody. Goes on when the client goes away: what was asked for is worth doing.
    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.unary(Rpc::MaintenanceDefragment, request, |admitted, _| async move {
            info!(self.log, "starting defragment");
            let (reply, done) = oneshot::channel();
            self.cast.snapshotter(&admitted.permit).do_send(Defragment { reply, span: admitted.span() });
            let done = async {
                if self.settings.stops_serving_on_defragment {
                    // Health tells of the run, not of the client.
                    let pause = self.serving.pause();
                    let running = tokio::spawn(async move {
                        let done = done.await;
                        drop(pause);
                        done.ok()
                    });
                    running.await.ok().flatten()
                } else {
                    done.await.ok()
                }
            };
            // It may take minutes, and a member that stops does not wait for it.
            let done = tokio::select! {
                done = done => done,
                () = self.stopping.cancelled() => None,
            };
            done.ok_or(RequestError::Stopped)?;
            info!(self.log, "finished defragment");
            Ok(pb::DefragmentResponse { header: None })
        })
        .await
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.unary(Rpc::MaintenanceHash, request, |admitted, _| async move {
            let view = self.cast.local_view(&admitted.permit);
            let revision = view.mvcc.revision().0;
            let started = self.clock.now();
            let hashing = tokio::task::spawn_blocking(move || state::hash(&view));
            let hash = hashing.await.map_err(|_| RequestError::Stopped)?.map_err(MvccError::from)?;
            self.metrics.mvcc.hash.observe(self.clock.now().saturating_sub(started).as_secs_f64());
            Ok(pb::HashResponse { header: Some(self.cast.header(revision)), hash })
        })
        .await
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.server_stream(Rpc::MaintenanceSnapshot, request, |admitted, _| snapshot::open(self, admitted)).await
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.unary(Rpc::MaintenanceMoveLeader, request, |admitted, asked| async move {
            leadership::move_to(self, &admitted, MemberId(asked.target_id)).await?;
            Ok(pb::MoveLeaderResponse { header: None })
        })
        .await
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.unary(Rpc::MaintenanceDowngrade, request, |admitted, asked| async move {
            downgrade::answer(self, &admitted, &asked).await
        })
        .await
    }
}
