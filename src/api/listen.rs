//! One port for everything that a client speaks: gRPC, HTTP/1.1, and HTTP/2 that is not gRPC.
//!
//! ```text
//!                    ┌─ first bytes are HTTP/2's ─▶ hyper ─┬─ application/grpc ─▶ Routes ─▶ tonic's services
//!   accept ─▶ sniff ─┤                                     └─ anything else ──┐
//!                    └─ anything else ──────────────────────▶ actix-http ──▶ HttpApp (actix-web, own threads)
//! ```
//! Client port, peer port and the listeners of `--listen-client-http-urls` and `--listen-metrics-urls` are the same code
//! with other [`Traffic`]; each may listen on several addresses and paths.
//!
//! HTTP/2 is served by hyper directly and not by `tonic::transport::Server`, and gRPC is dispatched by [`Routes`] and
//! not by axum's router: per request that is 50 thousand instructions instead of 59 (callgrind, a unary echo), and the
//! same port can then hand other HTTP/2 requests to actix-web.
//!
//! It knows nothing of TLS, of keys, or of who may do what.

mod authority;
mod bridge;
mod connection;
mod drain;
mod gather;
mod handshake;
mod hang_up;
mod http2;
mod http_threads;
mod inbound;
mod routes;
mod socket;
#[cfg(test)]
mod tests;
mod unix;
mod waiting;

pub use connection::{Listener, LocalAddress, Remote};
pub use hang_up::HangUp;
pub use inbound::Inbound;
pub use routes::{Routes, Within};
pub use socket::{ListenError, bind, bind_path};

use crate::api::http::HttpApp;
use bridge::Bridge;
use connection::{Acceptor, Socket};
use drain::Drain;
use handshake::{Handshakes, Protocol};
use http_threads::HttpThreads;
use slog::{Logger, debug, o, warn};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The first pause after the system had no file descriptor or no memory for a connection; each further one is twice as long.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a port answers. What it does not, it refuses as etcd's port of that kind does.
pub enum Traffic {
    GrpcAndHttp(Routes, HttpApp),
    /// HTTP/1.1 is hung up on, and HTTP/2 that is not gRPC is answered 415.
    Grpc(Routes),
    /// All of it goes to the application, requests of gRPC too.
    Http(HttpApp),
}

/// As etcd's log calls it.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Traffic::GrpcAndHttp(..) => "grpc+http",
            Traffic::Grpc(_) => "grpc",
            Traffic::Http(_) => "http",
        })
    }
}

#[derive(Debug)]
pub struct ListenSettings {
    /// Names threads and log lines: `client`, `peer`, `metrics`.
    pub name: &'static str,
    /// By [`bind`] or [`bind_path`].
    pub listen: Vec<Listener>,
    /// A permit for each connection; further ones wait in the kernel's queue. Ports may share one set.
    pub connections: Arc<Semaphore>,
    /// Connections that have not yet shown which protocol they speak; one more closes the oldest of them.
    pub handshakes_max: usize,
    /// For a connection to show its protocol, and for an HTTP/1.1 request to show its head.
    pub handshake_timeout: Duration,
    /// `--max-concurrent-streams`, for each HTTP/2 connection.
    pub streams_max: u32,
    /// `--grpc-keepalive-interval`; zero turns pings off.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`; zero turns pings off.
    pub keepalive_timeout: Duration,
    /// How long an HTTP/1.1 connection may be idle.
    pub idle_timeout: Duration,
    /// The largest body of an HTTP request.
    pub request_body_bytes_max: usize,
    /// The largest message of gRPC that may wait for its end here. No service may take larger ones: what is announced as
    /// longer goes through to it uncounted, to be refused.
    pub message_bytes_max: usize,
    /// Requests over HTTP/2 that are not gRPC, in flight at once; further ones are answered 503.
    pub bridged_requests_max: usize,
    /// Threads that run the [`HttpApp`].
    pub http_threads: usize,
}

impl ListenSettings {
    pub fn new(name: &'static str, listen: Vec<Listener>) -> ListenSettings {
        ListenSettings {
            name,
            listen,
            connections: Arc::new(Semaphore::new(1 << 20)),
            handshakes_max: 10_000,
            handshake_timeout: Duration::from_secs(10),
            streams_max: u32::MAX,
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            request_body_bytes_max: 2 << 20,
            message_bytes_max: 2 << 20,
            bridged_requests_max: 16_384,
            http_threads: 1,
        }
    }
}

/// A running port. Dropped without [`EdgeServer::stop`], it closes at once.
pub struct EdgeServer {
    local_addresses: Vec<LocalAddress>,
    drain: Drain,
    acceptors: JoinSet<()>,
    threads: Option<HttpThreads>,
    log: Logger,
}

/// What all connections of a port share.
struct Shared {
    drain: Drain,
    /// One permit for each connection.
    connections: Arc<Semaphore>,
    handshakes: Handshakes,
    http2: http2::Http2,
    /// To the application, if the port has one.
    bridge: Option<Bridge>,
    log: Logger,
}

impl EdgeServer {
    /// Starts to serve. Runs on the caller's tokio runtime, and HTTP on its own threads.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub async fn start(mut settings: ListenSettings, traffic: Traffic, log: Logger) -> Result<EdgeServer, ListenError> {
        let log = log.new(o!("port" => settings.name));
        let mut listeners = Vec::new();
        for listen in std::mem::take(&mut settings.listen) {
            listeners.push(listen.into_acceptor()?);
        }
        let local_addresses = listeners.iter().map(|(address, _)| address.clone()).collect();
        let drain = Drain::default();
        let (routes, http) = match traffic {
            Traffic::GrpcAndHttp(routes, http) => (Some(routes), Some(http)),
            Traffic::Grpc(routes) => (Some(routes), None),
            Traffic::Http(http) => (None, Some(http)),
        };
        let threads = match http {
            Some(http) => Some(HttpThreads::start(&settings, &http, &drain).await.map_err(ListenError::Threads)?),
            None => None,
        };
        let bridge = threads.as_ref().map(|threads| Bridge::new(threads.sender(), settings.bridged_requests_max));
        let shared = Arc::new(Shared {
            connections: settings.connections.clone(),
            handshakes: Handshakes::new(settings.handshakes_max, settings.handshake_timeout),
            http2: http2::Http2::new(&settings, routes),
            bridge,
            drain: drain.clone(),
            log: log.clone(),
        });
        let mut acceptors = JoinSet::new();
        for (_, listener) in listeners {
            acceptors.spawn(shared.clone().accept(listener));
        }
        Ok(EdgeServer { local_addresses, drain, acceptors, threads, log })
    }

    /// In the order of `settings.listen`, with the ports that the system chose.
    pub fn local_addrs(&self) -> &[LocalAddress] {
        &self.local_addresses
    }

    /// Accepts nothing more, lets requests in flight finish for up to `grace`, then closes what is left. Connections are
    /// told at once (GOAWAY, `Connection: close`). Streams such as watches end only if their handlers end them.
    pub async fn stop(mut self, grace: Duration) {
        self.drain.begin();
        let finished = async { while self.acceptors.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, finished).await.is_err() {
            debug!(self.log, "closing connections that are still in use"; "grace" => ?grace);
            self.acceptors.shutdown().await;
        }
        let EdgeServer { threads, .. } = self;
        if let Some(threads) = threads {
            threads.join().await;
        }
    }
}

impl Shared {
    /// Accepts until the port drains; ends when the last connection has. Dropping this future closes the connections.
    async fn accept(self: Arc<Self>, listener: Acceptor) {
        let mut connections = JoinSet::new();
        let mut pause = ACCEPT_PAUSE_MIN;
        let mut draining = std::pin::pin!(self.drain.begun());
        loop {
            while connections.try_join_next().is_some() {}
            let permit = tokio::select! {
                () = &mut draining => break,
                permit = self.connections.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                () = &mut draining => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => {
                    pause = ACCEPT_PAUSE_MIN;
                    let shared = self.clone();
                    connections.spawn(async move {
                        shared.serve(stream, remote).await;
                        drop(permit);
                    });
                }
                // The connection ended before it was accepted. Others are waiting.
                Err(error) if socket::concerns_one_connection(&error) => {
                    debug!(self.log, "a connection ended before it was accepted"; "error" => %error);
                }
                Err(error) => {
                    warn!(self.log, "cannot accept connections"; "error" => %error, "retry-in" => ?pause);
                    tokio::select! {
                        () = &mut draining => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
        // The port is free from here on, not only when the last request has been answered.
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn serve(&self, stream: Socket, remote: Remote) {
        if let Err(error) = stream.prepare() {
            return debug!(self.log, "a connection ended at once"; "remote" => %remote, "error" => %error);
        }
        let sniffed = tokio::select! {
            () = self.drain.begun() => return,
            sniffed = self.handshakes.sniff(stream) => sniffed,
        };
        match sniffed {
            Ok(Protocol::Http2(stream)) => {
                if let Err(error) = self.http2.serve(stream, remote, self.bridge.as_ref(), &self.drain).await {
                    debug!(self.log, "an HTTP/2 connection failed"; "remote" => %remote, "error" => %error);
                }
            }
            Ok(Protocol::Http1(stream)) => {
                let Some(bridge) = &self.bridge else {
                    return debug!(self.log, "HTTP/1.1 on a port for gRPC only"; "remote" => %remote);
                };
                if let Err(error) = bridge.sender().connection(stream, remote).await {
                    debug!(self.log, "an HTTP/1.1 connection failed"; "remote" => %remote, "error" => %error);
                }
            }
            Err(error) => debug!(self.log, "a connection showed no protocol"; "remote" => %remote, "error" => %error),
        }
    }
}
