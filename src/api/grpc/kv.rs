//! etcdserverpb.KV: range, put, delete, txn, compact.
//!
//! Writes go through raft; reads wait for a read index unless they are serializable, and then read the published view
//! without queueing behind any write.

use crate::api::call_notes::{self, Asked};
use crate::api::grpc::{Admitted, Edge, mismatch, range_stream, span};
use crate::cast::{Cast, RequestError};
use crate::mvcc::check;
use crate::quota::cost;
use crate::state::{Outcome, View};
use castd_proto::Rpc;
use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::kv_server::Kv;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Reads of more rows than this run on a thread of their own, so that small requests do not wait for them.
const SMALL_READ_ROWS: i64 = 1_000;

#[tonic::async_trait]
impl Kv for Edge {
    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.unary(Rpc::KvRange, request, |mut admitted, range| async move {
            check::range(&range)?;
            admitted.describe("range", |request| span::range(request, &range));
            call_notes::note_asked(|| Asked::Range(range.clone()));
            let view = view_for(&self.cast, &admitted, range.serializable).await?;
            let agreed = self.clock.now();
            call_notes::note_agreement(agreed);
            self.metrics.mvcc.range.inc();
            let answer = read_range(view, range, &self.cast).await;
            self.metrics.requests.ranged(answer.is_ok(), self.clock.now().saturating_sub(agreed));
            answer
        })
        .await
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.server_stream(Rpc::KvRangeStream, request, |mut admitted, range| async move {
            check::range(&range)?;
            check_streamable(&range)?;
            admitted.describe("range_streaming", |request| span::range(request, &range));
            let view = view_for(&self.cast, &admitted, range.serializable).await?;
            range_stream::open(admitted, view, range, self.cast.clone())
        })
        .await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.unary(Rpc::KvPut, request, |mut admitted, put| async move {
            if let Err(error) = check::put(&put) {
                return Err(self.cast.refusal(&admitted.permit, cost::put(&put), error.into()).await);
            }
            admitted.describe("put", |request| span::put(request, &put));
            match self.cast.replicate(&admitted.permit, Op::Put(put), admitted.span()).await? {
                Outcome::Put(mut answer) => {
                    fill(&self.cast, &mut answer.header);
                    Ok(answer)
                }
                other => mismatch("put", &other),
            }
        })
        .await
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.unary(Rpc::KvDeleteRange, request, |mut admitted, delete| async move {
            check::delete_range(&delete)?;
            admitted.describe("delete_range", |request| span::delete_range(request, &delete));
            match self.cast.replicate(&admitted.permit, Op::DeleteRange(delete), admitted.span()).await? {
                Outcome::DeleteRange(mut answer) => {
                    fill(&self.cast, &mut answer.header);
                    Ok(answer)
                }
                other => mismatch("delete range", &other),
            }
        })
        .await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.unary(Rpc::KvTxn, request, |mut admitted, txn| async move {
            if let Err(error) = check::txn(&txn, self.cast.limits().txn_ops_max) {
                return Err(self.cast.refusal(&admitted.permit, cost::txn(&txn), error.into()).await);
            }
            admitted.describe("txn", |request| span::txn(request, &txn));
            let mut answer = if check::read_only(&txn) {
                let view = view_for(&self.cast, &admitted, check::serializable(&txn)).await?;
                call_notes::note_agreement(self.clock.now());
                let answered = view.mvcc.txn(&txn);
                call_notes::note_asked(|| Asked::ReadOnlyTxn(txn));
                let (answer, counts) = answered?;
                self.metrics.mvcc.range.inc_by(counts.ranges);
                self.metrics.mvcc.txn.inc_by(counts.txns);
                answer
            } else {
                match self.cast.replicate(&admitted.permit, Op::Txn(txn), admitted.span()).await? {
                    Outcome::Txn(answer) => answer,
                    other => mismatch("txn", &other),
                }
            };
            fill(&self.cast, &mut answer.header);
            Ok(answer)
        })
        .await
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.unary(Rpc::KvCompact, request, |mut admitted, compact| async move {
            admitted.describe("compact", |request| span::compact(request, &compact));
            match self.cast.replicate(&admitted.permit, Op::Compact(compact), admitted.span()).await? {
                Outcome::Compact(mut answer) => {
                    fill(&self.cast, &mut answer.header);
                    Ok(answer)
                }
                other => mismatch("compact", &other),
            }
        })
        .await
    }
}

/// The state machine fills in the revision, the member that answers the rest.
fn fill(cast: &Cast, header: &mut Option<pb::ResponseHeader>) {
    let revision = header.as_ref().map_or(0, |header| header.revision);
    *header = Some(cast.header(revision));
}

async fn view_for(cast: &Cast, admitted: &Admitted, serializable: bool) -> Result<Arc<View>, RequestError> {
    if serializable {
        return Ok(cast.local_view(&admitted.permit));
    }
    if cast.is_learner() {
        return Err(RequestError::NotSupportedForLearner);
    }
    cast.linearizable_view(&admitted.permit, admitted.span()).await
}

async fn read_range(view: Arc<View>, range: pb::RangeRequest, cast: &Cast) -> Result<pb::RangeResponse, RequestError> {
    let revision = view.mvcc.revision().0;
    let outcome = if is_small(&view, &range) {
        view.mvcc.range(&range)?
    } else {
        let read = tokio::task::spawn_blocking(move || view.mvcc.range(&range));
        read.await.map_err(|_| RequestError::Stopped)??
    };
    Ok(pb::RangeResponse {
        header: Some(cast.header(revision)),
        kvs: outcome.kvs,
        more: outcome.more,
        count: outcome.count,
    })
}

/// Counting costs the logarithm of the range, reading all of it.
fn is_small(view: &View, range: &pb::RangeRequest) -> bool {
    range.range_end.is_empty()
        || (range.count_only && range.revision <= 0)
        || view.mvcc.count(&range.key, &range.range_end) <= SMALL_READ_ROWS
}

/// A stream comes in key order: what would have to be sorted or filtered first cannot be streamed.
fn check_streamable(range: &pb::RangeRequest) -> Result<(), RequestError> {
    use pb::range_request::{SortOrder, SortTarget};
    let in_key_order = match range.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => range.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !in_key_order {
        return Err(RequestError::RangeStreamUnsupported("custom sort orders"));
    }
    let filters =
        [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision];
    if filters.iter().any(|filter| *filter != 0) {
        return Err(RequestError::RangeStreamUnsupported("revision filters"));
    }
    Ok(())
}
