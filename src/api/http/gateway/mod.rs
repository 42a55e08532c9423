//! `/v3/…`: every gRPC call of the client port as JSON over HTTP/1.1, HTTP/2 and WebSockets.
//!
//! ```text
//!   headers.rs   headers → metadata, deadline              schema.rs   descriptors → shapes of messages
//!   objects.rs   body → JSON objects ─▶ decode.rs ─▶ message ─┐            │ (used by both)
//!   call.rs      objects → call to the services of gRPC       ▼            ▼
//!   socket.rs    the same over a WebSocket          Routes ─▶ message ─▶ encode.rs ─▶ JSON
//! ```
//! Paths come from [`Rpc::http_paths`], messages from the descriptors, and what a call does from the services themselves, so
//! there is nothing to be written here for a new RPC. Older prefixes of etcd's, `/v3beta/` and `/v3alpha/`, are taken too.
//!
//! It neither checks nor counts anything: the services do, as for any client.

mod call;
#[cfg(test)]
mod codec_tests;
pub(crate) mod decode;
pub(crate) mod encode;
mod headers;
pub(crate) mod objects;
pub(crate) mod schema;
mod socket;
#[cfg(test)]
mod tests;

use crate::api::listen::{HangUp, Remote, Routes};
use crate::api::status::GatewayError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, Resource, web};
use call::{Answer, AnswerBody, BodyBroken, Chunk};
use castd_proto::Rpc;
use futures_util::{StreamExt as _, future, stream};
use headers::Caller;
use objects::Budget;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;

/// etcd's prefixes before 3.4, each once rewritten to the next one.
const OLDER_PREFIXES: [&str; 2] = ["/v3beta/", "/v3alpha/"];
const PREFIX: &str = "/v3/";
/// JSON may take this much more than the message: base64, names, blanks.
const JSON_PER_MESSAGE: usize = 4;
/// For objects that have begun and not ended, of all clients together.
const UNFINISHED_BYTES_MAX: usize = 256 << 20;

/// The way from a path to the services.
#[derive(Clone)]
pub struct Gateway {
    routes: Routes,
    /// Runs the calls.
    runtime: Handle,
    /// As the services take them.
    message_bytes_max: usize,
    budget: Budget,
}

impl Gateway {
    /// Calls run on the runtime that this is called on.
    pub fn new(routes: Routes, message_bytes_max: usize) -> Gateway {
        Gateway { routes, runtime: Handle::current(), message_bytes_max, budget: Budget::new(UNFINISHED_BYTES_MAX) }
    }

    fn object_bytes_max(&self) -> usize {
        self.message_bytes_max.saturating_mul(JSON_PER_MESSAGE)
    }
}

static PATHS: LazyLock<HashMap<&'static str, Rpc>> =
    LazyLock::new(|| Rpc::ALL.iter().flat_map(|rpc| rpc.http_paths().iter().map(|path| (*path, *rpc))).collect());

/// The RPC that a path names, under any prefix.
pub(crate) fn find(path: &str) -> Option<Rpc> {
    PATHS.get(canonical(path).as_ref()).copied()
}

/// `/v3/kv/put` of `/v3beta/kv/put`.
fn canonical(path: &str) -> Cow<'_, str> {
    match OLDER_PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)) {
        Some(rest) => Cow::Owned(format!("{PREFIX}{rest}")),
        None => Cow::Borrowed(path),
    }
}

pub(super) fn configure(services: &mut web::ServiceConfig, gateway: &Gateway) {
    for prefix in OLDER_PREFIXES.iter().chain([&PREFIX]) {
        services.service(resource(prefix, gateway.clone()));
    }
}

fn resource(prefix: &str, gateway: Gateway) -> Resource {
    web::resource(format!("{prefix}{{path:.*}}")).to(move |request: HttpRequest, payload: web::Payload| {
        let gateway = gateway.clone();
        async move { serve(&gateway, &request, payload).await }
    })
}

async fn serve(gateway: &Gateway, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    let Some(rpc) = find(request.path()) else { return refuse(&GatewayError::UnknownPath.into(), None) };
    // Only clients of a unix socket have no address.
    let remote = request.peer_addr().map_or(Remote::Unix, Remote::Tcp);
    if wants_websocket(request.headers()) {
        let caller = match Caller::of_websocket(request.headers()) {
            Ok(caller) => caller,
            Err(status) => return refuse(&status, None),
        };
        let opened =
            socket::serve(request, payload, gateway.object_bytes_max(), || call::start(gateway, rpc, caller, remote));
        return opened.unwrap_or_else(|error| error.error_response());
    }
    if request.method() != Method::POST {
        return refuse(&GatewayError::MethodNotAllowed.into(), None);
    }
    let caller = match Caller::of(request.headers()) {
        Ok(caller) => caller,
        Err(status) => return refuse(&status, Some(rpc)),
    };
    let (chunks, mut running) = call::start(gateway, rpc, caller, remote);
    actix_web::rt::spawn(pump(payload, chunks));
    let Ok(answer) = (&mut running.answer).await else {
        return refuse(&Status::internal("the call ended without an answer"), Some(rpc));
    };
    let (mut response, body) = begin(answer);
    match body {
        AnswerBody::Whole(body) => response.body(body),
        AnswerBody::Lines(lines) => {
            let hang_up = request.conn_data::<HangUp>().cloned();
            let gone = async move {
                match hang_up {
                    Some(hang_up) => hang_up.heard().await,
                    // HTTP/2 drops the answer of a client that has gone.
                    None => future::pending().await,
                }
            };
            let lines = stream::unfold((lines, running), |(mut lines, running)| async move {
                let line = lines.recv().await?;
                Some((Ok::<_, actix_web::Error>(line), (lines, running)))
            });
            response.streaming(Box::pin(lines.take_until(Box::pin(gone))))
        }
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// Hands the body on as it arrives, until it ends or the call wants no more of it.
async fn pump(mut payload: web::Payload, chunks: mpsc::Sender<Chunk>) {
    loop {
        let chunk = tokio::select! {
            chunk = payload.next() => chunk,
            () = chunks.closed() => return,
        };
        let Some(chunk) = chunk else { return };
        let is_last = chunk.is_err();
        if chunks.send(chunk.map_err(|_| BodyBroken)).await.is_err() || is_last {
            return;
        }
    }
}

fn refuse(status: &Status, rpc: Option<Rpc>) -> HttpResponse {
    let (mut response, body) = begin(Answer::error(status, rpc));
    match body {
        AnswerBody::Whole(body) => response.body(body),
        AnswerBody::Lines(_) => response.finish(),
    }
}

/// Everything but the body.
fn begin(answer: Answer) -> (actix_web::HttpResponseBuilder, AnswerBody) {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.insert_header((header::CONTENT_TYPE, "application/json"));
    for (name, value) in &answer.metadata {
        let name = HeaderName::from_bytes(format!("grpc-metadata-{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            response.append_header((name, value));
        }
    }
    if let Some(value) = answer.challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
        response.insert_header((header::WWW_AUTHENTICATE, value));
    }
    (response, answer.body)
}
