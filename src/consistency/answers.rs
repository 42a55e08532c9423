//! Says what this member holds: to peers that compare, and, as HashKV, to whoever asks.

use crate::actors::snapshotter::LookUpCompactionHash;
use crate::cast::{Cast, RequestError};
use crate::ids::Revision;
use crate::mvcc::HashKv;
use crate::peer::handlers::Hashes;
use crate::state::{HASH_SCHEME, HashPoint};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::SpanContext;
use castd_proto::castdpb::{
    PeerHashKvRequest, PeerHashKvResponse, PeerStateHashRequest, PeerStateHashResponse, StateHashPoint,
};
use castd_proto::etcdserverpb as pb;
use tokio::sync::oneshot;
use tonic::Status;

/// Cheap to clone.
#[derive(Clone)]
pub struct HashAnswers {
    cast: Cast,
    clock: Clock,
    metrics: Metrics,
}

impl HashAnswers {
    pub fn new(cast: Cast, clock: Clock, metrics: Metrics) -> Self {
        HashAnswers { cast, clock, metrics }
    }

    /// The hash of the history up to `revision`, 0 for the current one, computed as etcd computes it. At the revision of one
    /// of the last compactions it is that of before, which members agree on whatever they have deleted since.
    ///
    /// # Errors
    /// What reading at that revision gives.
    pub async fn hash_kv(&self, revision: i64, span: SpanContext) -> Result<pb::HashKvResponse, RequestError> {
        let compacted = self.compaction_hash(revision, span).await?;
        let view = self.cast.own_view();
        let current = view.mvcc.revision().0;
        let hashed = match compacted {
            Some(hashed) => hashed,
            None => {
                let started = self.clock.now();
                let hashing = tokio::task::spawn_blocking(move || view.mvcc.hash_kv(revision));
                let hashed = hashing.await.map_err(|_| RequestError::Stopped)??;
                self.metrics.mvcc.hash_rev.observe(self.clock.now().saturating_sub(started).as_secs_f64());
                hashed
            }
        };
        Ok(pb::HashKvResponse {
            header: Some(self.cast.header(current)),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            hash_revision: hashed.hash_revision,
        })
    }

    /// What the compaction at `revision` found, if it is one of the last.
    async fn compaction_hash(&self, revision: i64, span: SpanContext) -> Result<Option<HashKv>, RequestError> {
        if revision <= 0 {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        let query = LookUpCompactionHash { revision: Revision(revision), reply, span };
        self.cast.own_snapshotter().do_send(query);
        answer.await.map_err(|_| RequestError::Stopped)
    }
}

/// The points that were asked for; without any, all.
fn chosen(points: impl Iterator<Item = HashPoint>, indexes: &[u64]) -> Vec<StateHashPoint> {
    let chosen = points.filter(|point| indexes.is_empty() || indexes.contains(&point.index));
    chosen.map(|point| StateHashPoint { applied_index: point.index, hash: point.hash.0 }).collect()
}

#[tonic::async_trait]
impl Hashes for HashAnswers {
    async fn state_hash(&self, request: PeerStateHashRequest) -> Result<PeerStateHashResponse, Status> {
        let points = chosen(self.cast.own_view().hash_points(), &request.indexes);
        Ok(PeerStateHashResponse { points, scheme: HASH_SCHEME })
    }

    async fn hash_kv(&self, request: PeerHashKvRequest) -> Result<PeerHashKvResponse, Status> {
        let answer = HashAnswers::hash_kv(self, request.revision, SpanContext::default()).await?;
        Ok(PeerHashKvResponse { answer: Some(answer) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateHash;

    #[test]
    fn what_is_asked_for_is_answered_as_far_as_it_is_known() {
        let points = || [3, 5, 9].into_iter().map(|index| HashPoint { index, hash: StateHash(index * 10) });
        let indexes = |asked: &[u64]| {
            let chosen = chosen(points(), asked);
            assert!(chosen.iter().all(|point| point.hash == point.applied_index * 10));
            chosen.iter().map(|point| point.applied_index).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&[]), [3, 5, 9]);
        assert_eq!(indexes(&[9, 4, 3]), [3, 9]);
        assert_eq!(indexes(&[4]), [] as [u64; 0]);
    }
}
