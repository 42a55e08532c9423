//! Maintenance.Downgrade: looking whether the cluster may go back by a release, beginning it, ending it.
//!
//! The job is replicated, and that is all there is to it (see [`crate::membership::downgrade`]): whoever begins one is told
//! so in the log.

use crate::api::grpc::{Admitted, Edge};
use crate::cast::RequestError;
use crate::membership::downgrade::{self, DowngradeError, Release};
use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::downgrade_request::DowngradeAction;
use slog::{info, warn};

/// # Errors
/// As [`downgrade::check`], for all but an end: that always succeeds, as since etcd 3.6.
pub async fn answer(
    edge: &Edge,
    admitted: &Admitted,
    asked: &pb::DowngradeRequest,
) -> Result<pb::DowngradeResponse, RequestError> {
    let action = DowngradeAction::try_from(asked.action).map_err(|_| RequestError::UnknownAction)?;
    match action {
        DowngradeAction::Validate => {
            validate(edge, admitted, &asked.version).await?;
        }
        DowngradeAction::Enable => {
            let target = validate(edge, admitted, &asked.version).await?.to_string();
            replicate(edge, admitted, pb::DowngradeInfo { enabled: true, target_version: target.clone() }).await?;
            warn!(edge.log, "a downgrade is enabled, but castd's data has one format, which no other release reads: \
                keep running castd, and end this with `etcdctl downgrade cancel`"; "target-version" => target);
        }
        DowngradeAction::Cancel => match replicate(edge, admitted, pb::DowngradeInfo::default()).await {
            Ok(()) => info!(edge.log, "the downgrade is cancelled"),
            Err(error) => warn!(edge.log, "failed to cancel downgrade"; "error" => %error),
        },
    }
    let view = edge.cast.local_view(&admitted.permit);
    let version = view.cluster_version.as_deref().map(downgrade::short).unwrap_or_default();
    Ok(pb::DowngradeResponse { header: Some(edge.cast.header(view.mvcc.revision().0)), version })
}

async fn validate(edge: &Edge, admitted: &Admitted, version: &str) -> Result<Release, RequestError> {
    let target = Release::parse(version)?;
    if edge.cast.local_view(&admitted.permit).cluster_version.is_none() {
        return Err(DowngradeError::NoClusterVersion.into());
    }
    let view = edge.cast.linearizable_view(&admitted.permit, admitted.span()).await?;
    downgrade::check(view.cluster_version.as_deref(), view.downgrade.as_deref(), target)?;
    Ok(target)
}

async fn replicate(edge: &Edge, admitted: &Admitted, info: pb::DowngradeInfo) -> Result<(), RequestError> {
    edge.cast.replicate(&admitted.permit, Op::Downgrade(info), admitted.span()).await.map(drop)
}
