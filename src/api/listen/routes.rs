//! Which gRPC service answers a request.
//!
//! A request names its service in the path (`/etcdserverpb.KV/Put`), so a table of at most a dozen names is all that is
//! needed: tonic's own `Routes` goes through axum's router, which for each request matches a tree, keeps the path's
//! parameters and boxes the service once more.
//!
//! Requests come from hyper, or from within: the JSON gateway calls the same services, with a body of its own making.

use super::connection::Remote;
use super::inbound::Inbound;
use crate::api::call_notes;
use crate::api::status::received_too_large;
use http::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

const TOO_LARGE_START: &str = "Error, decoded message length too large: found ";
const TOO_LARGE_MIDDLE: &str = " bytes, the limit is: ";
const TOO_LARGE_END: &str = " bytes";

pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// A service for requests with bodies of type `B`, as tonic generates it.
pub trait Serves<B>:
    Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = BoxFuture<Response<Body>, Infallible>>
{
}

impl<B, S> Serves<B> for S where
    S: Service<
            Request<B>,
            Response = Response<Body>,
            Error = Infallible,
            Future = BoxFuture<Response<Body>, Infallible>,
        >
{
}

/// What tonic generates takes any body and is always ready.
trait GrpcService: Send + Sync {
    fn answer(&self, request: Request<Inbound>) -> Answer;
    fn answer_within(&self, request: Request<Body>) -> Answer;
}

impl<S: Serves<Inbound> + Serves<Body> + Clone + Send + Sync> GrpcService for S {
    fn answer(&self, request: Request<Inbound>) -> Answer {
        self.clone().call(request)
    }

    fn answer_within(&self, request: Request<Body>) -> Answer {
        self.clone().call(request)
    }
}

/// gRPC services by name. Begin with the default, which has none; put the service first that is called most.
#[derive(Clone, Default)]
pub struct Routes {
    services: Vec<(&'static str, Arc<dyn GrpcService>)>,
}

impl Routes {
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Routes
    where
        S: Serves<Inbound> + Serves<Body> + NamedService + Clone + Send + Sync + 'static,
    {
        self.services.push((S::NAME, Arc::new(service)));
        self
    }

    pub(super) fn answer(&self, request: Request<Inbound>, remote: Remote) -> Answer {
        self.dispatch(request, remote, |service, request| service.answer(request))
    }

    /// For calls from within this process, on behalf of a client at `remote`.
    pub fn within(&self, remote: Remote) -> Within {
        Within { routes: self.clone(), remote }
    }

    fn dispatch<B>(
        &self,
        request: Request<B>,
        remote: Remote,
        answer: impl FnOnce(&dyn GrpcService, Request<B>) -> Answer,
    ) -> Answer {
        let path = request.uri().path();
        let Some((name, _)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
            return refuse(format!("malformed method name: {path:?}"));
        };
        match self.services.iter().find(|(known, _)| *known == name) {
            Some((_, service)) => {
                let answer = answer(service.as_ref(), request);
                Box::pin(call_notes::with_notes(remote, async move { answer.await.map(in_grpc_gos_words) }))
            }
            None => refuse(format!("unknown service {name}")),
        }
    }
}

/// [`Routes`] for one client, as a service whose clients are in this process.
#[derive(Clone)]
pub struct Within {
    routes: Routes,
    remote: Remote,
}

impl Service<Request<Body>> for Within {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        self.routes.dispatch(request, self.remote, |service, request| service.answer_within(request))
    }
}

/// tonic's answer to a message over the limit, with the code and text of etcd's gRPC library.
fn in_grpc_gos_words(response: Response<Body>) -> Response<Body> {
    if response.headers().get("grpc-status").is_none_or(|status| status != "11") {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let numbers = status.message().strip_prefix(TOO_LARGE_START).and_then(|rest| {
        let (found, rest) = rest.split_once(TOO_LARGE_MIDDLE)?;
        Some((found, rest.strip_suffix(TOO_LARGE_END)?))
    });
    match numbers {
        Some((found, limit)) => received_too_large(found, limit).into_http(),
        None => response,
    }
}

fn refuse(message: String) -> Answer {
    Box::pin(std::future::ready(Ok(Status::unimplemented(message).into_http())))
}

/// Whether a request is gRPC's; all else on the port is HTTP's.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
