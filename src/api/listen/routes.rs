//! Which gRPC service answers a request.
//!
//! A request names its service in the path (`/etcdserverpb.KV/Put`), so a table of at most a dozen names is all that is
//! needed: tonic's own `Routes` goes through axum's router, which for each request matches a tree, keeps the path's
//! parameters and boxes the service once more.

use crate::api::call_notes;
use http::{Request, Response};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

const TOO_LARGE_START: &str = "Error, decoded message length too large: found ";
const TOO_LARGE_MIDDLE: &str = " bytes, the limit is: ";
const TOO_LARGE_END: &str = " bytes";

pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

trait GrpcService: Send + Sync {
    fn answer(&self, request: Request<Incoming>) -> Answer;
}

impl<S> GrpcService for S
where
    S: Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future = BoxFuture<Response<Body>, Infallible>,
        > + Clone
        + Send
        + Sync,
{
    fn answer(&self, request: Request<Incoming>) -> Answer {
        // What tonic generates is always ready.
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
        S: Service<
                Request<Incoming>,
                Response = Response<Body>,
                Error = Infallible,
                Future = BoxFuture<Response<Body>, Infallible>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.services.push((S::NAME, Arc::new(service)));
        self
    }

    pub(super) fn answer(&self, request: Request<Incoming>, remote: SocketAddr) -> Answer {
        let path = request.uri().path();
        let Some((name, _)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
            return refuse(format!("malformed method name: {path:?}"));
        };
        match self.services.iter().find(|(known, _)| *known == name) {
            Some((_, service)) => {
                let answer = service.answer(request);
                Box::pin(call_notes::with_notes(remote, async move { answer.await.map(in_grpc_gos_words) }))
            }
            None => refuse(format!("unknown service {name}")),
        }
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
        Some((found, limit)) => {
            Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
                .into_http()
        }
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
