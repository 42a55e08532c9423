//! etcdserverpb.Watch: one stream each way, any number of watchers on it.
//!
//! ```text
//!   requests ──▶ WatchStream ──OpenWatch, CancelWatch, …──▶ WatchHub
//!   frames  ◀── WatchStream ◀──────────queue of replies──── WatchHub
//! ```
//! Requests are only read while the client takes its replies, so a client that asks and never reads is held by its own
//! flow control. Replies are turned into bytes here, on the threads of the edge: events that many watchers get are encoded
//! once and copied from then on, which is why this service is written out and not the generated one. What a key was
//! before is also looked up here, in the newest view.

use crate::actors::watch_hub::{
    CancelWatch, OpenStream, OpenWatch, OpenedStream, RefuseWatch, RequestProgress, StreamDrained, WatchHub,
};
use crate::api::grpc::long_call::LongCall;
use crate::api::grpc::{Edge, span};
use crate::cast::RequestError;
use crate::mvcc::MvccError;
use crate::watch::{CREDIT_BYTES, Frame, HeaderIds, NewWatch, Reply, ReplyBody};
use actix::Addr;
use castd_proto::Rpc;
use castd_proto::etcdserverpb::WatchRequest;
use castd_proto::etcdserverpb::watch_request::RequestUnion;
use futures_util::Stream;
use prost::Message as _;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Requests read in one go before replies get their turn.
const REQUESTS_PER_TURN: usize = 16;
/// Replies in the queue above which no requests are read.
const QUEUED_REPLIES_MAX: usize = 128;

/// The service, as tonic wants it.
#[derive(Clone)]
pub struct WatchService {
    edge: Edge,
    receive_bytes_max: usize,
    send_bytes_max: usize,
}

impl WatchService {
    pub fn new(edge: Edge, receive_bytes_max: usize, send_bytes_max: usize) -> Self {
        Self { edge, receive_bytes_max, send_bytes_max }
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl<B> Service<http::Request<B>> for WatchService
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != Rpc::Watch.path() {
            return Box::pin(async { Ok(Status::unimplemented("").into_http()) });
        }
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(WatchCodec)
                .max_decoding_message_size(service.receive_bytes_max)
                .max_encoding_message_size(service.send_bytes_max);
            Ok(grpc.streaming(Opening(service), request).await)
        })
    }
}

struct Opening(WatchService);

impl StreamingService<WatchRequest> for Opening {
    type Response = Frame;
    type ResponseStream = WatchStream;
    type Future = BoxFuture<Response<WatchStream>, Status>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let WatchService { edge, receive_bytes_max, .. } = self.0.clone();
        Box::pin(async move {
            let (metadata, _, requests) = request.into_parts();
            let mut call = LongCall::begin(&edge, Rpc::Watch, &metadata)?;
            let hub = edge.cast.watch_hub(&call.admitted.permit).clone();
            let (sender, replies) = mpsc::unbounded_channel();
            let Ok(stream) = hub.send(OpenStream { replies: sender, span: call.admitted.span() }).await else {
                return Err(call.fail(RequestError::Stopped));
            };
            Ok(Response::new(WatchStream {
                call,
                hub,
                stream,
                requests: Some(requests),
                replies,
                frames: VecDeque::new(),
                fragment_bytes: receive_bytes_max,
                unreported_bytes: 0,
            }))
        })
    }
}

/// One client stream, as long as it is open.
pub struct WatchStream {
    call: LongCall,
    hub: Addr<WatchHub>,
    stream: OpenedStream,
    /// `None` once the client has closed its half, which does not end the other.
    requests: Option<Streaming<WatchRequest>>,
    replies: mpsc::UnboundedReceiver<Reply>,
    /// Of the reply that is being sent.
    frames: VecDeque<Frame>,
    fragment_bytes: usize,
    /// Sent, and not yet told to the hub.
    unreported_bytes: usize,
}

impl Stream for WatchStream {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.call.is_over() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = this.call.poll_end(context) {
            return Poll::Ready(Some(Err(status)));
        }
        if let Err(status) = this.read_requests(context) {
            return Poll::Ready(Some(Err(status)));
        }
        loop {
            if let Some(frame) = this.frames.pop_front() {
                this.call.sent(frame.encoded_len());
                return Poll::Ready(Some(Ok(frame)));
            }
            let Some(reply) = ready!(this.replies.poll_recv(context)) else {
                return Poll::Ready(Some(Err(this.call.fail(RequestError::Stopped))));
            };
            if let Err(status) = this.take(&reply) {
                return Poll::Ready(Some(Err(status)));
            }
        }
    }
}

impl WatchStream {
    fn read_requests(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        for _ in 0..REQUESTS_PER_TURN {
            if self.replies.len() >= QUEUED_REPLIES_MAX {
                // There is something to send, so this is asked again.
                return Ok(());
            }
            let Some(requests) = &mut self.requests else { return Ok(()) };
            match Pin::new(requests).poll_next(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(Err(status))) => return Err(self.call.fail_to_receive(status)),
                Poll::Ready(Some(Ok(request))) => {
                    self.call.received(request.encoded_len());
                    self.pass_on(request);
                }
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    fn pass_on(&self, request: WatchRequest) {
        let (stream, admitted) = (self.stream.id, &self.call.admitted);
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let mut request = admitted.request("watch");
                span::watch(&mut request, &create);
                let span = request.context();
                match NewWatch::from_request(&create) {
                    Ok(watch) => self.hub.do_send(OpenWatch { stream, watch, span }),
                    Err(refusal) => self.hub.do_send(RefuseWatch { stream, refusal, span }),
                }
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.hub.do_send(CancelWatch { stream, watch_id: cancel.watch_id, span: admitted.span() });
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.hub.do_send(RequestProgress { stream, span: admitted.span() });
            }
            // A request of a later release, or none: etcd ignores it.
            None => {}
        }
    }

    fn take(&mut self, reply: &Reply) -> Result<(), Status> {
        let edge = &self.call.edge;
        let started = edge.clock.now();
        let header = edge.cast.header(0);
        let ids = HeaderIds { cluster_id: header.cluster_id, member_id: header.member_id, raft_term: header.raft_term };
        let mut view = None;
        let frames = reply.frames(ids, self.fragment_bytes, |event| {
            let view = view.get_or_insert_with(|| edge.cast.local_view(&self.call.admitted.permit));
            view.mvcc.previous(event)
        });
        let took = edge.clock.now().saturating_sub(started).as_secs_f64();
        let metrics = &edge.metrics.watch;
        match &reply.body {
            ReplyBody::Events { delivery, .. } => {
                let events = delivery.events().len();
                metrics.pending_events.sub(events as i64);
                metrics.events.inc_by(events as u64);
                metrics.send_events.observe(took);
                metrics.send_per_event.observe(took / events as f64);
            }
            ReplyBody::Progress => metrics.send_progress.observe(took),
            ReplyBody::Created | ReplyBody::Refused(_) | ReplyBody::Canceled { .. } | ReplyBody::Compacted { .. } => {
                metrics.send_control.observe(took)
            }
        }
        match frames {
            Ok(frames) => self.frames.extend(frames),
            Err(error) => return Err(self.call.fail(RequestError::from(MvccError::from(error)))),
        }
        self.unreported_bytes += reply.charged_bytes();
        if self.unreported_bytes >= CREDIT_BYTES {
            let bytes = std::mem::take(&mut self.unreported_bytes);
            self.hub.do_send(StreamDrained { stream: self.stream.id, bytes });
        }
        Ok(())
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.replies.close();
        while let Ok(reply) = self.replies.try_recv() {
            self.call.edge.metrics.watch.pending_events.sub(reply.events() as i64);
        }
    }
}

/// Requests as prost reads them, replies as [`Frame`] writes them.
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<WatchRequest, WatchRequest>::default().decoder()
    }
}

struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(frame.encoded_len());
        frame.encode(buffer);
        Ok(())
    }
}
