//! Takes HTTP/2 requests that are not gRPC to the actix-web application, and its answers back.
//!
//! ```text
//!   hyper's stream (tokio worker) ──BridgedRequest──▶ HTTP thread ─▶ HttpApp
//!                 ◀──────BridgedResponse, then chunks of its body──────┘
//! ```
//! hyper and actix use two releases of the `http` crate, so heads are converted field by field. Bodies are streamed both
//! ways, a few chunks at a time, since a watch may last for days; who does not read leaves the other to HTTP/2's flow
//! control. How much of a body is read, and for how long, is the application's business.

use super::connection::Remote;
use super::http_threads::{Job, JobSender, respond};
use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::PayloadError;
use actix_http::{BoxedPayloadStream, Payload, Request as ActixRequest, header as actix_header};
use actix_service::Service;
use actix_web::dev::ServiceResponse;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{ALLOW, CONTENT_LENGTH, DATE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

/// Chunks of a body that may wait for a slow reader.
const CHUNKS_MAX: usize = 4;
/// What is read, and thrown away, of a body that the application did not want: clients such as curl 7.88 take an answer for
/// broken when they are told to stop sending.
const UNWANTED_BYTES_MAX: usize = 32 << 20;
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an answer waits for the end of a body that nobody reads: curl 7.88 hangs when it has all of the answer before it
/// has sent its request.
const ANSWER_WAITS_MAX: Duration = Duration::from_millis(500);

/// Chunks of a request's body; an error if the client has reset its stream.
type RequestChunks = mpsc::Receiver<Result<Bytes, PayloadError>>;

pub(super) struct BridgedRequest {
    head: request::Parts,
    /// None if the request has no body.
    body: Option<RequestChunks>,
    remote: Remote,
    /// Closed when the client has reset the stream; the application's work is then dropped.
    reply: oneshot::Sender<BridgedResponse>,
}

struct BridgedResponse {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: BridgedBody,
}

enum BridgedBody {
    Whole(Bytes),
    Stream { length: Option<u64>, chunks: mpsc::Receiver<Result<Frame<Bytes>, BodyError>> },
}

#[derive(Debug, thiserror::Error)]
#[error("the body of the response ended early: {0}")]
struct BodyError(String);

#[derive(Clone)]
pub(super) struct Bridge {
    sender: JobSender,
    permits: Arc<Semaphore>,
}

impl Bridge {
    pub(super) fn new(sender: JobSender, requests_max: usize) -> Bridge {
        let permits = Arc::new(Semaphore::new(requests_max.clamp(1, Semaphore::MAX_PERMITS)));
        Bridge { sender, permits }
    }

    pub(super) fn sender(&self) -> &JobSender {
        &self.sender
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, remote: Remote) -> Response<Body> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests");
        };
        let (head, body) = request.into_parts();
        if head.method == Method::CONNECT {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return refused;
        }
        let (body, pumping) = (!body.is_end_stream())
            .then(|| {
                let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
                (chunks, tokio::spawn(pump_request(body, sender)))
            })
            .unzip();
        let is_head = head.method == Method::HEAD;
        let (reply, answer) = oneshot::channel();
        let bridged = Box::new(BridgedRequest { head, body, remote, reply });
        if self.sender.send(Job::Request(bridged)).is_err() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "server stopped");
        }
        let Ok(answer) = answer.await else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the request cannot be handled");
        };
        if let (BridgedBody::Whole(_), Some(pumping)) = (&answer.body, pumping) {
            let _ = tokio::time::timeout(ANSWER_WAITS_MAX, pumping).await;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        for (name, value) in answer.headers {
            headers.append(name, value);
        }
        set_date(headers);
        let length = match &answer.body {
            BridgedBody::Whole(bytes) => Some(bytes.len() as u64),
            BridgedBody::Stream { length, .. } => *length,
        };
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        if !is_head {
            *response.body_mut() = match answer.body {
                BridgedBody::Whole(bytes) => Body::new(Full::new(bytes)),
                // The permit lasts as long as the answer does.
                BridgedBody::Stream { chunks, .. } => {
                    let chunks = ReceiverStream::new(chunks).map(move |chunk| {
                        let _ = &permit;
                        chunk
                    });
                    Body::new(StreamBody::new(chunks))
                }
            };
        }
        response
    }
}

/// What the bridge itself answers, as etcd's HTTP library writes errors.
fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(format!("{text}\n")))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set_date(headers);
    response
}

/// The answer of a port for gRPC only to all else, as etcd's gRPC library gives it.
pub(super) fn not_grpc(headers: &http::HeaderMap) -> Response<Body> {
    let given = headers.get(http::header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let text = format!("invalid gRPC request content-type {:?}", given.unwrap_or_default());
    let mut response = Status::invalid_argument(text).into_http();
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// HTTP asks every origin server with a clock for it. Nothing here depends on it.
#[allow(clippy::disallowed_methods)]
fn set_date(headers: &mut http::HeaderMap) {
    let now = actix_header::HttpDate::from(SystemTime::now());
    if let Ok(value) = HeaderValue::try_from(now.to_string()) {
        headers.insert(DATE, value);
    }
}

/// On the HTTP thread: one request through the application, its answer back to the stream.
pub(super) async fn run<A>(app: &A, bridged: BridgedRequest)
where
    A: Service<ActixRequest, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
{
    let BridgedRequest { head, body, remote, mut reply } = bridged;
    // Dropping `reply` unanswered is answered by the bridge.
    let Some(request) = into_actix(&head, body, remote) else { return };
    let response = tokio::select! {
        response = respond(app, request) => response,
        () = reply.closed() => return,
    };
    let (head, body) = response.into_parts();
    let Ok(status) = StatusCode::from_u16(head.status().as_u16()) else { return };
    let mut headers = Vec::with_capacity(head.headers().len());
    for (name, value) in head.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.push((name, value));
        }
    }
    let length = match body.size() {
        BodySize::None => Some(0),
        BodySize::Sized(length) => Some(length),
        BodySize::Stream => None,
    };
    match body.try_into_bytes() {
        Ok(bytes) => {
            let _ = reply.send(BridgedResponse { status, headers, body: BridgedBody::Whole(bytes) });
        }
        Err(body) => {
            let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
            let body_bridged = BridgedBody::Stream { length, chunks };
            if reply.send(BridgedResponse { status, headers, body: body_bridged }).is_ok() {
                pump(body, sender).await;
            }
        }
    }
}

/// Sends the request's body chunk by chunk, until it ends or nobody listens any more.
async fn pump_request(mut body: Incoming, sender: mpsc::Sender<Result<Bytes, PayloadError>>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => {
                // Whether it ended in time is the client's loss.
                let _ = tokio::time::timeout(UNWANTED_TIME_MAX, throw_away(body)).await;
                return;
            }
        };
        let (chunk, last) = match frame {
            None => return,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => (Ok(bytes), false),
                // Trailers, which HTTP/1.1's side does not hand out either.
                Err(_) => continue,
            },
            Some(Err(_)) => (Err(PayloadError::Incomplete(None)), true),
        };
        // That nobody listens any more is seen above.
        let _ = sender.send(chunk).await;
        if last {
            return;
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut thrown = 0;
    while thrown < UNWANTED_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        thrown += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// The same for the body of the response.
async fn pump(body: BoxBody, sender: mpsc::Sender<Result<Frame<Bytes>, BodyError>>) {
    let mut body = pin!(body);
    loop {
        let chunk = tokio::select! {
            chunk = poll_fn(|cx| body.as_mut().poll_next(cx)) => chunk,
            () = sender.closed() => return,
        };
        let (chunk, last) = match chunk {
            None => return,
            Some(Ok(bytes)) => (Ok(Frame::data(bytes)), false),
            Some(Err(error)) => (Err(BodyError(error.to_string())), true),
        };
        if sender.send(chunk).await.is_err() || last {
            return;
        }
    }
}

/// None if the other release of `http` does not take what this one took.
fn into_actix(head: &request::Parts, body: Option<RequestChunks>, remote: Remote) -> Option<ActixRequest> {
    let payload = match body {
        None => Payload::None,
        Some(chunks) => Payload::from(Box::pin(ReceiverStream::new(chunks)) as BoxedPayloadStream),
    };
    let mut request = ActixRequest::with_payload(payload);
    let actix_head = request.head_mut();
    actix_head.method = actix_http::Method::from_bytes(head.method.as_str().as_bytes()).ok()?;
    actix_head.uri = head.uri.to_string().parse().ok()?;
    actix_head.version = actix_http::Version::HTTP_2;
    actix_head.peer_addr = remote.tcp();
    for (name, value) in &head.headers {
        let name = actix_header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let value = actix_header::HeaderValue::from_bytes(value.as_bytes()).ok()?;
        actix_head.headers.append(name, value);
    }
    if !head.headers.contains_key(HOST)
        && let Some(authority) = head.uri.authority()
    {
        let value = actix_header::HeaderValue::from_str(authority.as_str()).ok()?;
        actix_head.headers.insert(actix_header::HOST, value);
    }
    Some(request)
}
