//! One call through the gateway: JSON objects in, JSON out, and a gRPC call to the member's own services between them.
//!
//! ```text
//!   chunks of the body ──▶ objects ──▶ decode ──▶ gRPC frames ──▶ Routes ──▶ the service, as for any gRPC client
//!   Answer: one body, or lines ◀── encode ◀── messages ◀────────────────────────┘
//! ```
//! It runs on the edge's runtime and not on the HTTP thread, so that a large answer being written as JSON holds up nobody.
//! Each way holds a few chunks at most: who does not read is not read from. Dropped, the call is cancelled.

use super::Gateway;
use super::decode::decode;
use super::encode::{EncodeError, encode};
use super::headers::Caller;
use super::objects::{ObjectError, Objects};
use super::schema::Schema;
use crate::api::listen::{Remote, Within};
use crate::api::status::{http_status, received_too_large};
use bytes::{Buf as _, BufMut as _, Bytes};
use castd_proto::{Kind, Rpc};
use futures_util::{Stream, stream};
use http::uri::PathAndQuery;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Extensions, Request, Status, Streaming};

/// For a client to send the one object of a call that does not take a stream of them.
const BODY_MAX: Duration = Duration::from_secs(60);
/// Chunks of the request that wait to be read, and lines of the answer that wait for the client.
const CHUNKS_MAX: usize = 4;
const LINES_MAX: usize = 2;
/// Text or message above which converting it gets a thread of its own.
const LARGE_BYTES: usize = 256 << 10;

/// A piece of the request's body, or what became of the rest.
pub type Chunk = Result<Bytes, BodyBroken>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request body ended early")]
pub struct BodyBroken;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Of the gRPC answer, for `Grpc-Metadata-…` headers.
    pub metadata: Vec<(String, String)>,
    /// For `WWW-Authenticate`.
    pub challenge: Option<String>,
    pub body: AnswerBody,
}

#[derive(Debug)]
pub enum AnswerBody {
    Whole(Bytes),
    /// Each with its line break.
    Lines(mpsc::Receiver<Bytes>),
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: i32,
    message: &'a str,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    error: ErrorBody<'a>,
}

fn error_body(status: &Status) -> ErrorBody<'_> {
    ErrorBody { code: status.code() as i32, message: status.message() }
}

fn to_bytes(value: &impl Serialize) -> Bytes {
    // Numbers and text, which always have a JSON.
    serde_json::to_vec(value).unwrap_or_default().into()
}

impl Answer {
    /// Nothing was answered before.
    pub fn error(status: &Status, rpc: Option<Rpc>) -> Answer {
        let body = match rpc.map(Rpc::streaming) {
            None | Some(Kind::Unary) => to_bytes(&error_body(status)),
            Some(Kind::ServerStream | Kind::BidiStream) => error_line(status),
        };
        Answer {
            status: http_status(status.code()),
            metadata: Vec::new(),
            challenge: (status.code() == Code::Unauthenticated).then(|| status.message().to_owned()),
            body: AnswerBody::Whole(body),
        }
    }
}

fn error_line(status: &Status) -> Bytes {
    let mut line = to_bytes(&ErrorLine { error: error_body(status) }).to_vec();
    line.push(b'\n');
    line.into()
}

/// A call under way. Dropping it cancels it.
pub struct Running {
    pub answer: oneshot::Receiver<Answer>,
    /// To be kept as long as lines are read.
    pub task: AbortOnDropHandle<()>,
}

/// Begins the call; the sender takes its request's body.
pub fn start(gateway: &Gateway, rpc: Rpc, caller: Caller, remote: Remote) -> (mpsc::Sender<Chunk>, Running) {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    let (reply, answer) = oneshot::channel();
    let objects = Objects::new(gateway.object_bytes_max(), gateway.budget.clone());
    let body = Body { chunks, objects, message_bytes_max: gateway.message_bytes_max };
    let call = Call { gateway: gateway.clone(), rpc, metadata: caller.metadata, remote };
    let task = gateway.runtime.spawn(call.run(body, caller.timeout, reply));
    (sender, Running { answer, task: AbortOnDropHandle::new(task) })
}

/// The objects that are still to come.
struct Body {
    chunks: mpsc::Receiver<Chunk>,
    objects: Objects,
    message_bytes_max: usize,
}

impl Body {
    /// `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(object) = self.objects.next().map_err(|error| self.refusal(error))? {
                return Ok(Some(object));
            }
            match self.chunks.recv().await {
                Some(Ok(chunk)) => self.objects.push(&chunk).map_err(|error| self.refusal(error))?,
                Some(Err(broken)) => return Err(Status::cancelled(broken.to_string())),
                // What has begun and not ended is handed out, too: the codec says best what is wrong with it.
                None => return Ok(self.objects.rest()),
            }
        }
    }

    fn refusal(&self, error: ObjectError) -> Status {
        match error {
            ObjectError::NotAnObject(_) => Status::invalid_argument(error.to_string()),
            ObjectError::TooLarge { .. } => received_too_large(self.objects.held_bytes(), self.message_bytes_max),
            ObjectError::Exhausted => Status::resource_exhausted(error.to_string()),
        }
    }
}

/// Metadata of the answer, its first message, and what follows.
type Opened = (Vec<(String, String)>, Option<Bytes>, Streaming<Bytes>);

struct Call {
    gateway: Gateway,
    rpc: Rpc,
    metadata: MetadataMap,
    remote: Remote,
}

impl Call {
    async fn run(self, body: Body, timeout: Option<Duration>, reply: oneshot::Sender<Answer>) {
        let expired = async {
            match timeout {
                // A sleep of nothing may take a moment.
                Some(Duration::ZERO) => {}
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let mut expired = std::pin::pin!(expired);
        let too_late = || Status::deadline_exceeded("context deadline exceeded");
        if self.rpc.streaming() == Kind::Unary {
            let answer = tokio::select! {
                biased;
                () = &mut expired => Err(too_late()),
                answer = self.unary(body) => answer,
            };
            let answer = answer.unwrap_or_else(|status| Answer::error(&status, Some(self.rpc)));
            // Nobody may wait for it any more.
            let _ = reply.send(answer);
            return;
        }
        let (broken, malformed) = oneshot::channel();
        let malformed = async {
            match malformed.await {
                Ok(status) => status,
                Err(_) => std::future::pending().await,
            }
        };
        let mut malformed = std::pin::pin!(malformed);
        let opened = tokio::select! {
            biased;
            () = &mut expired => Err(too_late()),
            opened = self.open(body, broken) => opened,
            status = &mut malformed => Err(status),
        };
        let (metadata, first, mut messages) = match opened {
            Ok(opened) => opened,
            Err(status) => {
                let _ = reply.send(Answer::error(&status, Some(self.rpc)));
                return;
            }
        };
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        let body = AnswerBody::Lines(receiver);
        if reply.send(Answer { status: 200, metadata, challenge: None, body }).is_err() {
            return;
        }
        let mut next = Ok(first);
        loop {
            let line = match next {
                Ok(None) => return,
                Ok(Some(message)) => self.line(message).await,
                Err(status) => Err(status),
            };
            let line = match line {
                Ok(line) => line,
                Err(status) => {
                    drop(messages);
                    let _ = lines.send(error_line(&status)).await;
                    return;
                }
            };
            next = tokio::select! {
                sent = lines.send(line) => match sent {
                    Ok(()) => Ok(None),
                    // Nobody reads any more.
                    Err(_) => return,
                },
                () = &mut expired => Err(too_late()),
            };
            if next.is_ok() {
                next = tokio::select! {
                    message = messages.message() => message,
                    status = &mut malformed => Err(status),
                    () = &mut expired => Err(too_late()),
                };
            }
        }
    }

    async fn unary(&self, body: Body) -> Result<Answer, Status> {
        let message = self.only_message(body).await?;
        let mut client = self.client();
        let (metadata, message, _) = client.unary(self.request(message), self.path(), Messages).await?.into_parts();
        let json = self.to_json(b"", message, b"").await?;
        Ok(Answer { status: 200, metadata: to_text(&metadata), challenge: None, body: AnswerBody::Whole(json) })
    }

    /// Opens the stream and waits for the first message, since an error before that has an HTTP status of its own.
    /// `broken` hears of an object in the middle of a stream of them that is none.
    async fn open(&self, body: Body, broken: oneshot::Sender<Status>) -> Result<Opened, Status> {
        let mut client = self.client();
        let answer = match self.rpc.streaming() {
            Kind::Unary | Kind::ServerStream => {
                let message = self.only_message(body).await?;
                client.server_streaming(self.request(message), self.path(), Messages).await?
            }
            Kind::BidiStream => {
                client.streaming(self.request(messages(body, self.rpc, broken)), self.path(), Messages).await?
            }
        };
        let (metadata, mut messages, _) = answer.into_parts();
        let first = messages.message().await?;
        Ok((to_text(&metadata), first, messages))
    }

    fn client(&self) -> tonic::client::Grpc<Within> {
        tonic::client::Grpc::new(self.gateway.routes.within(self.remote)).max_decoding_message_size(usize::MAX)
    }

    fn path(&self) -> PathAndQuery {
        PathAndQuery::from_static(self.rpc.path())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Extensions::default(), message)
    }

    /// The first object of the body; an empty body is an empty message, and what follows the object is nobody's.
    async fn only_message(&self, mut body: Body) -> Result<Bytes, Status> {
        let object = tokio::time::timeout(BODY_MAX, body.next()).await;
        match object.map_err(|_| Status::deadline_exceeded("the request body came too slowly"))?? {
            Some(object) => to_message(self.rpc, object).await,
            None => Ok(Bytes::new()),
        }
    }

    async fn line(&self, message: Bytes) -> Result<Bytes, Status> {
        self.to_json(b"{\"result\":", message, b"}\n").await
    }

    async fn to_json(&self, before: &'static [u8], message: Bytes, after: &'static [u8]) -> Result<Bytes, Status> {
        let rpc = self.rpc;
        let is_large = message.len() > LARGE_BYTES;
        let convert = move || {
            let mut json = Vec::with_capacity(message.len() * 3 / 2 + 64);
            json.extend_from_slice(before);
            encode(Schema::get().answer(rpc), &message, &mut json)?;
            json.extend_from_slice(after);
            Ok(Bytes::from(json))
        };
        let json: Result<Bytes, EncodeError> = off_thread(is_large, convert).await?;
        json.map_err(|error| Status::internal(error.to_string()))
    }
}

/// The messages of a stream of objects. It ends at one that is malformed, of which `broken` is told.
fn messages(body: Body, rpc: Rpc, broken: oneshot::Sender<Status>) -> impl Stream<Item = Bytes> + Send {
    stream::unfold((body, broken), move |(mut body, broken)| async move {
        let message = match body.next().await {
            Ok(None) => return None,
            Ok(Some(object)) => to_message(rpc, object).await,
            Err(status) => Err(status),
        };
        match message {
            Ok(message) => Some((message, (body, broken))),
            Err(status) => {
                // The call may have ended for another reason.
                let _ = broken.send(status);
                None
            }
        }
    })
}

async fn to_message(rpc: Rpc, object: Bytes) -> Result<Bytes, Status> {
    let is_large = object.len() > LARGE_BYTES;
    let convert = move || {
        let mut message = Vec::with_capacity(object.len());
        decode(Schema::get().request(rpc), &object, &mut message)?;
        Ok(Bytes::from(message))
    };
    let message: Result<Bytes, serde_json::Error> = off_thread(is_large, convert).await?;
    message.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Runs what takes long beside the threads that everybody needs.
async fn off_thread<T: Send + 'static>(is_large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    if !is_large {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

/// Metadata of the answer as text. gRPC's own is not forwarded, but for the content type, as in etcd.
fn to_text(metadata: &MetadataMap) -> Vec<(String, String)> {
    let entries = metadata.iter().filter_map(|entry| match entry {
        KeyAndValueRef::Ascii(name, value) => Some((name.as_str(), value.to_str().ok()?)),
        KeyAndValueRef::Binary(name, value) => {
            Some((name.as_str(), std::str::from_utf8(value.as_encoded_bytes()).ok()?))
        }
    });
    let entries = entries.filter(|(name, _)| !name.starts_with("grpc-"));
    entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Messages as they are: the JSON codec has made them, or will read them.
#[derive(Clone, Copy, Default)]
struct Messages;

impl Codec for Messages {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Messages;
    type Decoder = Messages;

    fn encoder(&mut self) -> Messages {
        Messages
    }

    fn decoder(&mut self) -> Messages {
        Messages
    }
}

impl Encoder for Messages {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Messages {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
