//! One HTTP/2 connection: gRPC goes to the services, everything else to the bridge.

use super::ListenSettings;
use super::authority::AnyAuthority;
use super::bridge::{Bridge, not_grpc};
use super::connection::{Remote, Socket};
use super::drain::Drain;
use super::gather::Gather;
use super::handshake::Rewound;
use super::inbound::Inbound;
use super::routes::{Answer, Routes, is_grpc};
use super::waiting::Waiting;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::body::Body;

/// What a client may send before it is read: enough for a full request at once, and a bound on memory.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A value of the usual size is then one frame.
const FRAME_BYTES_MAX: u32 = 256 << 10;
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// What is kept for a client that does not read, for each stream.
const SEND_BUFFER_BYTES_MAX: usize = 1 << 20;
/// Streams reset before they were handled (CVE-2023-44487), and by us (RUSTSEC-2024-0003), before the connection is closed.
const PENDING_RESETS_MAX: usize = 64;
const LOCAL_RESETS_MAX: usize = 1_024;

pub(super) struct Http2 {
    builder: Builder<TokioExecutor>,
    waiting: Arc<Waiting>,
    message_bytes_max: usize,
    routes: Option<Arc<Routes>>,
}

impl Http2 {
    /// Without `routes`, all is for the bridge.
    pub(super) fn new(settings: &ListenSettings, routes: Option<Routes>) -> Http2 {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .max_concurrent_streams(settings.streams_max)
            // gRPC has no Date; the bridge sets its own.
            .auto_date_header(false);
        if settings.keepalive_interval > Duration::ZERO && settings.keepalive_timeout > Duration::ZERO {
            builder.keep_alive_interval(settings.keepalive_interval).keep_alive_timeout(settings.keepalive_timeout);
        }
        let message_bytes_max = settings.message_bytes_max;
        Http2 { builder, waiting: Arc::default(), message_bytes_max, routes: routes.map(Arc::new) }
    }

    /// Serves until the client leaves or, once the port drains, the last stream has ended.
    pub(super) async fn serve(
        &self,
        stream: Rewound<Socket>,
        remote: Remote,
        bridge: Option<&Bridge>,
        drain: &Drain,
    ) -> hyper::Result<()> {
        let service = Service {
            routes: self.routes.clone(),
            waiting: self.waiting.clone(),
            message_bytes_max: self.message_bytes_max,
            bridge: bridge.cloned(),
            remote,
        };
        let mut connection =
            pin!(self.builder.serve_connection(TokioIo::new(Gather::new(AnyAuthority::new(stream))), service));
        tokio::select! {
            biased;
            ended = &mut connection => return ended,
            () = drain.begun() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

struct Service {
    routes: Option<Arc<Routes>>,
    waiting: Arc<Waiting>,
    message_bytes_max: usize,
    bridge: Option<Bridge>,
    remote: Remote,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        match (&self.routes, &self.bridge) {
            (Some(routes), _) if is_grpc(&request) => {
                let (waiting, bytes_max) = (&self.waiting, self.message_bytes_max);
                routes.answer(request.map(|body| Inbound::new(body, waiting, bytes_max)), self.remote)
            }
            (_, Some(bridge)) => {
                let (bridge, remote) = (bridge.clone(), self.remote);
                Box::pin(async move { Ok(bridge.answer(request, remote).await) })
            }
            (_, None) => Box::pin(std::future::ready(Ok(not_grpc(request.headers())))),
        }
    }
}
