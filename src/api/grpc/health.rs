//! grpc.health.v1.Health, as etcd answers it: one service, the server as a whole, named by the empty string.

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::health as pb;
use castd_proto::health::health_check_response::ServingStatus;
use castd_proto::health::health_server::Health;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Whether health says that the server serves. Clones are handles to the same one.
#[derive(Clone)]
pub struct Serving(Arc<watch::Sender<usize>>);

impl Default for Serving {
    fn default() -> Self {
        Serving(Arc::new(watch::Sender::new(0)))
    }
}

impl Serving {
    /// It does not, until the last of these is dropped.
    pub fn pause(&self) -> Pause {
        self.0.send_modify(|pauses| *pauses += 1);
        Pause(self.clone())
    }

    fn status(pauses: usize) -> ServingStatus {
        if pauses == 0 { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

/// A reason not to serve.
#[must_use = "dropping it ends the pause"]
pub struct Pause(Serving);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.0.send_modify(|pauses| *pauses -= 1);
    }
}

#[tonic::async_trait]
impl Health for Edge {
    type WatchStream = BoxStream<'static, Result<pb::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        self.unary(Rpc::HealthCheck, request, |_, check| async move {
            if check.service.is_empty() {
                Ok(answer(Serving::status(*self.serving.0.borrow())))
            } else {
                Err(RequestError::UnknownHealthService)
            }
        })
        .await
    }

    /// The status now and each time that it changes, until the member stops.
    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.server_stream(Rpc::HealthWatch, request, |_, check| async move {
            let stopping = self.stopping.clone();
            if check.service.is_empty() {
                Ok(statuses(self.serving.0.subscribe(), stopping).boxed())
            } else {
                let unknown = stream::iter([Ok(answer(ServingStatus::ServiceUnknown))]);
                let end = stream::once(async move {
                    stopping.cancelled().await;
                    Err(RequestError::Stopped.into())
                });
                Ok(unknown.chain(end).boxed())
            }
        })
        .await
    }
}

/// A pause that ends before the client has heard of it may be left out.
fn statuses(
    pauses: watch::Receiver<usize>,
    stopping: CancellationToken,
) -> impl stream::Stream<Item = Result<pb::HealthCheckResponse, Status>> {
    stream::unfold(Some((pauses, None)), move |state| {
        let stopping = stopping.clone();
        async move {
            let (mut pauses, mut told) = state?;
            loop {
                let status = Serving::status(*pauses.borrow_and_update());
                if told != Some(status) {
                    told = Some(status);
                    return Some((Ok(answer(status)), Some((pauses, told))));
                }
                tokio::select! {
                    changed = pauses.changed() => changed.ok()?,
                    () = stopping.cancelled() => return Some((Err(RequestError::Stopped.into()), None)),
                }
            }
        }
    })
}

fn answer(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn who_watches_is_told_of_pauses_and_of_the_end() {
        let (serving, stopping) = (Serving::default(), CancellationToken::new());
        let mut watched = Box::pin(statuses(serving.0.subscribe(), stopping.clone()));
        let mut next = || watched.next().now_or_never().map(|item| item.map(|item| item.map(|told| told.status())));
        let told = |next: Option<Option<Result<ServingStatus, Status>>>| next.flatten().and_then(Result::ok);
        assert_eq!(told(next()), Some(ServingStatus::Serving));
        assert!(next().is_none(), "nothing has changed");
        let (first, second) = (serving.pause(), serving.pause());
        assert_eq!(told(next()), Some(ServingStatus::NotServing));
        drop(first);
        assert!(next().is_none(), "one pause is left");
        drop(second);
        assert_eq!(told(next()), Some(ServingStatus::Serving));
        stopping.cancel();
        assert!(next().flatten().expect("the last").is_err());
        assert!(next().flatten().is_none());
    }
}
