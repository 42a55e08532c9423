//! Queueing up on behalf of a client, and leaving the queue when the client does.
//!
//! ```text
//!   Lock, Campaign ──▶ Session ──join: Txn──▶ Waiter ──wait──▶ first, or gone
//!                                               │  ▲ │
//!              OwnWatch on two keys: the one before, and the own
//! ```
//! What was taken in a client's name is given back when its value here is dropped, whatever the reason: an error, a reset
//! stream, a lost connection, a deadline. Only [`Waiter::keep`] prevents that, and a member that stops: it leaves places
//! as they are, so that whoever comes back with the same lease finds the old one.

use crate::api::grpc::own_watch::OwnWatch;
use crate::api::grpc::{Admitted, Edge, mismatch};
use crate::api::permit::Permit;
use crate::cast::RequestError;
use crate::ids::{LeaseId, Revision};
use crate::queue::{Joined, Place, Queue, Turn};
use crate::state::{Outcome, View};
use crate::telemetry::trace::SpanContext;
use crate::watch::{Filters, Selector};
use bytes::Bytes;
use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb as pb;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Of a lease that the client did not bring (etcd's `defaultSessionTTL`).
const TTL_SECS: i64 = 60;
/// Queues that are longer are looked through on a thread of their own.
const SHORT_QUEUE: i64 = 10_000;
/// What is given back while the member has too much to do, or no leader, is tried again so often …
const GIVING_BACK_TRIES: u32 = 50;
/// … at such intervals. The lease takes care of the rest.
const GIVING_BACK_EVERY: Duration = Duration::from_millis(100);

/// In whose name.
#[derive(Clone)]
pub struct Caller {
    edge: Edge,
    permit: Permit,
    span: SpanContext,
    /// Things are given back from wherever the value is dropped.
    runtime: Handle,
}

/// The lease that a place in a queue lives by. One that was granted here is revoked when it is dropped.
pub struct Session {
    pub caller: Caller,
    pub lease: LeaseId,
    is_granted_here: bool,
}

/// A place in a queue. It is given up when it is dropped.
pub struct Waiter {
    session: Session,
    queue: Queue,
    joined: Joined,
    /// Of the answer to joining.
    header: pb::ResponseHeader,
    is_kept: bool,
}

impl Caller {
    pub fn new(edge: &Edge, admitted: &Admitted) -> Self {
        Self { edge: edge.clone(), permit: admitted.permit.clone(), span: admitted.span(), runtime: Handle::current() }
    }

    /// Replicates a txn of ours.
    pub async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, RequestError> {
        match self.edge.cast.replicate(&self.permit, Op::Txn(txn), self.span.clone()).await? {
            Outcome::Txn(mut answer) => {
                self.edge.fill(&mut answer.header);
                Ok(answer)
            }
            other => mismatch("txn", &other),
        }
    }

    pub fn header(&self, revision: Revision) -> pb::ResponseHeader {
        self.edge.cast.header(revision.0)
    }

    /// Reads something off the newest state.
    pub async fn look<T, F>(&self, queue: &Queue, read: F) -> Result<(T, Revision), RequestError>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T, RequestError> + Send + 'static,
    {
        let view: Arc<View> = self.edge.cast.linearizable_view(&self.permit, self.span.clone()).await?;
        let revision = view.mvcc.revision();
        // The view goes before anybody waits for anything: it would keep compaction from deleting.
        let found = if queue.len(&view.mvcc) <= SHORT_QUEUE {
            read(&view)?
        } else {
            tokio::task::spawn_blocking(move || read(&view)).await.map_err(|_| RequestError::Stopped)??
        };
        Ok((found, revision))
    }

    pub async fn watch(
        &self,
        selectors: impl IntoIterator<Item = Selector>,
        from: Revision,
        filters: Filters,
    ) -> Result<OwnWatch, RequestError> {
        OwnWatch::open(&self.edge, &self.permit, self.span.clone(), selectors, from, filters).await
    }

    /// In the background, and without anybody to tell how it went.
    fn give_back(&self, op: Op) {
        if self.edge.stopping.is_cancelled() {
            return;
        }
        let Caller { edge, permit, span, runtime } = self.clone();
        runtime.spawn(async move {
            for _ in 0..GIVING_BACK_TRIES {
                match edge.cast.replicate(&permit, op.clone(), span.clone()).await {
                    Err(RequestError::TooManyRequests | RequestError::NoLeader | RequestError::Raft(_)) => {
                        tokio::time::sleep(GIVING_BACK_EVERY).await;
                    }
                    _ => return,
                }
            }
        });
    }
}

impl Session {
    /// `lease` is the client's; 0 if it has none. One that does not exist is found out when something is put with it.
    pub async fn open(caller: Caller, lease: LeaseId) -> Result<Self, RequestError> {
        if lease.0 != 0 {
            return Ok(Self { caller, lease, is_granted_here: false });
        }
        let grant = pb::LeaseGrantRequest { id: 0, ttl: TTL_SECS };
        let granted = caller.edge.grant(&caller.permit, grant, |_| caller.span.clone()).await?;
        Ok(Self { lease: LeaseId(granted.id), is_granted_here: true, caller })
    }

    /// The client has it now.
    pub fn keep(mut self) {
        self.is_granted_here = false;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_granted_here {
            self.caller.give_back(Op::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease.0 }));
        }
    }
}

impl Waiter {
    /// Goes on when the client leaves meanwhile: what is on its way through the log must be known to be given back.
    pub async fn join(caller: Caller, queue: Queue, lease: LeaseId, value: Bytes) -> Result<Self, RequestError> {
        let joining = tokio::spawn(async move {
            let session = Session::open(caller, lease).await?;
            let answer = session.caller.txn(queue.join(session.lease, value)).await?;
            let header = answer.header.unwrap_or_default();
            let Some(joined) = queue.joined(session.lease, &answer) else {
                mismatch("request for a place", &Outcome::Txn(answer));
            };
            // A place that is first already belongs to somebody: the same client, with the lock in its hands.
            let is_kept = joined.is_first && joined.found.is_some();
            Ok(Self { session, queue, joined, header, is_kept })
        });
        joining.await.map_err(|_| RequestError::Stopped)?
    }

    pub fn place(&self) -> &Place {
        &self.joined.place
    }

    /// What the key held, if it was there before.
    pub fn found(&self) -> Option<&Bytes> {
        self.joined.found.as_ref()
    }

    /// Of the answer to joining.
    pub fn header(&self) -> pb::ResponseHeader {
        self.header
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Waits to be first. Answers the header of the read that has shown it, `None` if the place is lost.
    pub async fn wait(&self) -> Result<Option<pb::ResponseHeader>, RequestError> {
        if self.joined.is_first {
            return Ok(Some(self.header));
        }
        let caller = &self.session.caller;
        loop {
            let (queue, place) = (self.queue.clone(), self.place().clone());
            let turn = move |view: &View| Ok(queue.turn(&place, &view.mvcc)?);
            let before = match caller.look(&self.queue, turn).await? {
                (Turn::First, revision) => return Ok(Some(caller.header(revision))),
                (Turn::Lost, _) => return Ok(None),
                (Turn::After(before), revision) => (before, Revision(revision.0 + 1)),
            };
            let keys = [before.0, self.place().key.clone()].map(Selector::Key);
            let deletions = Filters { no_put: true, no_delete: false };
            let mut watch = caller.watch(keys, before.1, deletions).await?;
            // One of the two went, or history did: the newest state knows.
            watch.next().await?;
        }
    }

    /// The client has the place now.
    pub fn keep(mut self) -> Place {
        self.is_kept = true;
        // The lease outlives the value with the place.
        self.session.is_granted_here = false;
        self.joined.place.clone()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A lease of ours takes the key with it.
        if !self.is_kept && !self.session.is_granted_here {
            self.session.caller.give_back(Op::Txn(self.place().leave()));
        }
    }
}

impl Edge {
    /// Waits as long as the caller does, and no longer than the member runs.
    pub(super) async fn wait<T>(
        &self,
        patience: Option<Duration>,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        let out_of_patience = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.stopping.cancelled() => Err(RequestError::Stopped),
            () = out_of_patience => Err(RequestError::DeadlineExceeded),
        };
        outcome.map_err(uncoded)
    }
}

/// etcd's own client stands behind its lock and election services, and loses the codes of what it is told.
pub fn uncoded(error: RequestError) -> RequestError {
    RequestError::Uncoded(Box::new(error))
}
