//! One port for everything that a client speaks: gRPC, HTTP/1.1, and HTTP/2 that is not gRPC.
//!
//! ```text
//!                    ┌─ first bytes are HTTP/2's ─▶ hyper ─┬─ application/grpc ─▶ Routes ─▶ tonic's services
//!   accept ─▶ sniff ─┤                                     └─ anything else ──┐
//!                    └─ anything else ──────────────────────▶ actix-http ──▶ HttpApp (actix-web, own threads)
//! ```
//! Client port and peer port are the same code with other [`Routes`] and another [`HttpApp`].
//!
//! HTTP/2 is served by hyper directly and not by `tonic::transport::Server`, and gRPC is dispatched by [`Routes`] and
//! not by axum's router: per request that is 50 thousand instructions instead of 59 (callgrind, a unary echo), and the
//! same port can then hand other HTTP/2 requests to actix-web.
//!
//! It knows nothing of TLS, of keys, or of who may do what.

mod authority;
mod bridge;
mod drain;
mod gather;
mod handshake;
mod hang_up;
mod http2;
mod http_threads;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

pub use hang_up::HangUp;
pub use routes::{Routes, Within};
pub use socket::{ListenError, bind};

use crate::api::http::HttpApp;
use bridge::Bridge;
use drain::Drain;
use handshake::{Handshakes, Protocol};
use http_threads::HttpThreads;
use slog::{Logger, debug, o, warn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The first pause after the system had no file descriptor or no memory for a connection; each further one is twice as long.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Debug)]
pub enum ListenOn {
    Address(SocketAddr),
    /// Already bound and listening: by [`bind`], by systemd, or by a test.
    Socket(std::net::TcpListener),
}

#[derive(Debug)]
pub struct ListenSettings {
    /// Names threads and log lines: `client`, `peer`, `metrics`.
    pub name: &'static str,
    pub listen: Vec<ListenOn>,
    /// `--socket-reuse-port`. SO_REUSEADDR is always on, as in Go: without it a restart would wait for TIME_WAIT.
    pub reuse_port: bool,
    /// Connections served at once; further ones wait in the kernel's queue.
    pub connections_max: usize,
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
    /// The largest body of a request that is not gRPC. For gRPC see `max_decoding_message_size` of each service.
    pub request_body_bytes_max: usize,
    /// Requests over HTTP/2 that are not gRPC, in flight at once; further ones are answered 503.
    pub bridged_requests_max: usize,
    /// Threads that run the [`HttpApp`].
    pub http_threads: usize,
}

impl ListenSettings {
    pub fn new(name: &'static str, listen: Vec<ListenOn>) -> ListenSettings {
        ListenSettings {
            name,
            listen,
            reuse_port: false,
            connections_max: 1 << 20,
            handshakes_max: 10_000,
            handshake_timeout: Duration::from_secs(10),
            streams_max: u32::MAX,
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            request_body_bytes_max: 2 << 20,
            bridged_requests_max: 16_384,
            http_threads: 1,
        }
    }
}

/// A running port. Dropped without [`EdgeServer::stop`], it closes at once.
pub struct EdgeServer {
    local_addresses: Vec<SocketAddr>,
    drain: Drain,
    acceptors: JoinSet<()>,
    threads: HttpThreads,
    log: Logger,
}

/// What all connections of a port share.
struct Shared {
    drain: Drain,
    /// One permit for each connection.
    connections: Arc<Semaphore>,
    handshakes: Handshakes,
    http2: http2::Http2,
    bridge: Bridge,
    log: Logger,
}

impl EdgeServer {
    /// Binds what is not yet bound and starts to serve. Runs on the caller's tokio runtime, and HTTP on its own threads.
    pub async fn start(
        mut settings: ListenSettings,
        routes: Routes,
        http: HttpApp,
        log: Logger,
    ) -> Result<EdgeServer, ListenError> {
        let log = log.new(o!("port" => settings.name));
        let mut listeners = Vec::new();
        for listen in std::mem::take(&mut settings.listen) {
            let listener = match listen {
                ListenOn::Address(address) => bind(address, settings.reuse_port)?,
                ListenOn::Socket(listener) => listener,
            };
            listeners.push(socket::into_tokio(listener)?);
        }
        let local_addresses = listeners.iter().map(|(address, _)| *address).collect();
        let drain = Drain::default();
        let threads = HttpThreads::start(&settings, &http, &drain).await.map_err(ListenError::Threads)?;
        let shared = Arc::new(Shared {
            connections: Arc::new(Semaphore::new(settings.connections_max.clamp(1, Semaphore::MAX_PERMITS))),
            handshakes: Handshakes::new(settings.handshakes_max, settings.handshake_timeout),
            http2: http2::Http2::new(&settings, routes),
            bridge: Bridge::new(threads.sender(), settings.bridged_requests_max),
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
    pub fn local_addrs(&self) -> &[SocketAddr] {
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
        threads.join().await;
    }
}

impl Shared {
    /// Accepts until the port drains; ends when the last connection has. Dropping this future closes the connections.
    async fn accept(self: Arc<Self>, listener: TcpListener) {
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

    async fn serve(&self, stream: TcpStream, remote: SocketAddr) {
        if let Err(error) = socket::prepare(&stream) {
            return debug!(self.log, "a connection ended at once"; "remote" => %remote, "error" => %error);
        }
        let sniffed = tokio::select! {
            () = self.drain.begun() => return,
            sniffed = self.handshakes.sniff(stream) => sniffed,
        };
        match sniffed {
            Ok(Protocol::Http2(stream)) => {
                if let Err(error) = self.http2.serve(stream, remote, &self.bridge, &self.drain).await {
                    debug!(self.log, "an HTTP/2 connection failed"; "remote" => %remote, "error" => %error);
                }
            }
            Ok(Protocol::Http1(stream)) => {
                if let Err(error) = self.bridge.sender().connection(stream, remote).await {
                    debug!(self.log, "an HTTP/1.1 connection failed"; "remote" => %remote, "error" => %error);
                }
            }
            Err(error) => debug!(self.log, "a connection showed no protocol"; "remote" => %remote, "error" => %error),
        }
    }
}
