//! All ports of a member: bound before it touches the disk, opened when it can answer, closed in order.
//!
//! ```text
//!   Config ──bind──▶ BoundPorts ──open──▶ Ports ──stop
//!
//!   --listen-client-urls        gRPC and HTTP; gRPC alone if there are ↓
//!   --listen-client-http-urls   HTTP
//!   --listen-metrics-urls       /metrics and health
//!   --listen-peer-urls          other members
//! ```
//! A port in use has to be noticed before anything is written, and etcd's log names each step; what is answered on them
//! is decided in `api/`.

use crate::api::http::HttpApp;
use crate::api::listen::{
    EdgeServer, ListenError, ListenSettings, Listener, LocalAddress, Routes, Traffic, bind, bind_path,
};
use crate::config::Config;
use crate::membership::urls::{Url, UrlSet};
use crate::process::DESCRIPTORS_RESERVED;
use slog::{Logger, info, warn};
use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot resolve {url}: {source}")]
    Resolve { url: String, source: std::io::Error },
    /// etcd's text; the numbers stand beside it in the log.
    #[error("file descriptor limit of etcd process is too low; please set higher")]
    TooFewDescriptors { limit: u64 },
    #[error("the peer port ended while starting: {0}")]
    Ended(String),
}

/// What the ports answer.
pub struct Served {
    pub routes: Routes,
    pub peer_routes: Routes,
    pub client_http: HttpApp,
    pub metrics_http: HttpApp,
    pub peer_http: HttpApp,
}

/// Bound and listening: clients wait in the kernel's queue.
pub struct BoundPorts {
    client: Vec<Listener>,
    http: Vec<Listener>,
    metrics: Vec<Listener>,
    peer: Vec<Listener>,
    /// Descriptors for connections.
    connections: usize,
}

impl BoundPorts {
    /// `descriptors` is the limit of this process.
    ///
    /// # Errors
    /// When an address cannot be had, or there are too few descriptors to serve anybody.
    pub fn bind(config: &Config, descriptors: u64) -> Result<BoundPorts, PortsError> {
        let spare = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
        if spare == 0 {
            return Err(PortsError::TooFewDescriptors { limit: descriptors });
        }
        let reuse_port = config.socket_reuse_port;
        let peer = bind_all(&config.listen_peer_urls, reuse_port)?;
        Ok(BoundPorts {
            client: bind_all(&config.listen_client_urls, reuse_port)?,
            http: bind_all(&config.listen_client_http_urls, reuse_port)?,
            metrics: bind_all(&config.listen_metrics_urls, reuse_port)?,
            peer,
            connections: usize::try_from(spare).unwrap_or(usize::MAX),
        })
    }

    /// Peers and probes are answered at once, clients when `ready` is over; peers on a runtime of their own.
    ///
    /// # Errors
    /// That of `ready`, and when the system has no thread left.
    pub async fn open<E: From<PortsError>>(
        self,
        config: &Config,
        served: Served,
        ready: impl Future<Output = Result<(), E>>,
        peer_runtime: &Runtime,
        log: &Logger,
    ) -> Result<Ports, E> {
        let Served { routes, peer_routes, client_http, metrics_http, peer_http } = served;
        // Clients must not be able to take the last descriptor from the storage, the peers or the probes.
        let share = |of_eight: usize| {
            let permits = (self.connections / 8 * of_eight).clamp(1, Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(permits))
        };
        let (clients, probes, peers) = (share(6), share(1), share(1));
        let settings = |name, listeners, connections: &Arc<Semaphore>| ListenSettings {
            connections: Arc::clone(connections),
            streams_max: config.max_concurrent_streams,
            keepalive_interval: config.grpc_keepalive_interval.unwrap_or_default(),
            keepalive_timeout: config.grpc_keepalive_timeout.unwrap_or_default(),
            request_body_bytes_max: config.max_request_bytes as usize + 512 * 1024,
            message_bytes_max: config.max_request_bytes as usize + 512 * 1024,
            ..ListenSettings::new(name, listeners)
        };

        let peer = ListenSettings {
            message_bytes_max: crate::peer::frame_bytes_max(config),
            // A peer sends something twice a second, or answers when it is asked whether it is there.
            keepalive_interval: config.peer_read_timeout,
            keepalive_timeout: config.peer_read_timeout,
            ..settings("peer", self.peer, &peers)
        };
        let (traffic, peer_log) = (Traffic::GrpcAndHttp(peer_routes, peer_http), log.clone());
        let started = peer_runtime.spawn(async move { start(peer, traffic, &peer_log).await });
        let peer = started.await.map_err(|ended| PortsError::Ended(ended.to_string()))??;
        for url in &config.listen_peer_urls {
            info!(log, "serving peer traffic"; "address" => %url);
        }
        let mut metrics = None;
        if !self.metrics.is_empty() {
            let settings = settings("metrics", self.metrics, &probes);
            metrics = Some(start(settings, Traffic::Http(metrics_http), log).await?);
            for url in &config.listen_metrics_urls {
                info!(log, "serving metrics"; "address" => %url);
            }
        }
        ready.await?;
        let (traffic, separate) = if self.http.is_empty() {
            (Traffic::GrpcAndHttp(routes, client_http), None)
        } else {
            (Traffic::Grpc(routes), Some(Traffic::Http(client_http)))
        };
        let client = open_to_clients(settings("client", self.client, &clients), traffic, log).await?;
        let http = match separate {
            Some(traffic) => Some(open_to_clients(settings("http", self.http, &clients), traffic, log).await?),
            None => None,
        };
        Ok(Ports { client, http, metrics, peer, log: log.clone() })
    }
}

async fn start(settings: ListenSettings, traffic: Traffic, log: &Logger) -> Result<EdgeServer, PortsError> {
    Ok(EdgeServer::start(settings, traffic, log.clone()).await?)
}

async fn open_to_clients(settings: ListenSettings, traffic: Traffic, log: &Logger) -> Result<EdgeServer, PortsError> {
    let name = traffic.to_string();
    let port = start(settings, traffic, log).await?;
    for address in port.local_addrs() {
        info!(log, "ready to serve client requests");
        warn!(log, "serving client traffic insecurely; this is strongly discouraged!";
            "traffic" => &name, "address" => %address);
    }
    Ok(port)
}

/// Open ports.
pub struct Ports {
    client: EdgeServer,
    http: Option<EdgeServer>,
    metrics: Option<EdgeServer>,
    peer: EdgeServer,
    log: Logger,
}

impl Ports {
    /// Where clients connect by TCP.
    pub fn client_addresses(&self) -> Vec<SocketAddr> {
        self.client.local_addrs().iter().filter_map(LocalAddress::tcp).collect()
    }

    /// Takes no new connections, lets requests in flight finish for up to `grace`, and closes what is left. Peers are heard
    /// until clients have their answers, which come over them; then `peers` is given, for the streams of the peer port to
    /// end. Whoever watches the member from outside can do so until its clients are gone.
    pub async fn stop(self, grace: Duration, peers: CancellationToken) {
        let Ports { client, http, metrics, peer, log } = self;
        let stop = async |port: Option<EdgeServer>| {
            if let Some(port) = port {
                port.stop(grace).await;
            }
        };
        let addresses: Vec<String> = peer.local_addrs().iter().map(ToString::to_string).collect();
        tokio::join!(client.stop(grace), stop(http));
        for address in &addresses {
            info!(log, "stopping serving peer traffic"; "address" => address);
        }
        peers.cancel();
        peer.stop(grace).await;
        for address in &addresses {
            info!(log, "stopped serving peer traffic"; "address" => address);
        }
        stop(metrics).await;
    }
}

/// Binds every URL once, however often it is named.
fn bind_all(urls: &UrlSet, reuse_port: bool) -> Result<Vec<Listener>, PortsError> {
    let mut seen = BTreeSet::new();
    let once = urls.iter().filter(|url| seen.insert(url.socket_path().unwrap_or_else(|| url.authority().to_owned())));
    once.map(|url| bind_url(url, reuse_port)).collect()
}

/// `localhost` may stand for an IPv4 and an IPv6 address, of which the first is taken, as Go does.
fn bind_url(url: &Url, reuse_port: bool) -> Result<Listener, PortsError> {
    if let Some(path) = url.socket_path() {
        return Ok(bind_path(path.as_ref())?);
    }
    let resolve = |source| PortsError::Resolve { url: url.to_string(), source };
    let port = url.port().ok_or_else(|| resolve(std::io::Error::other("no port")))?;
    let mut addresses: Vec<SocketAddr> = match (url.host(), port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        // A bare system may have no /etc/hosts.
        Err(_) if url.host() == "localhost" => vec![SocketAddr::from(([127, 0, 0, 1], port))],
        Err(error) => return Err(resolve(error)),
    };
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let address = *addresses.first().ok_or_else(|| resolve(std::io::Error::other("no address")))?;
    Ok(bind(address, reuse_port)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_named_twice_is_bound_once() {
        let urls = UrlSet::parse("http://127.0.0.1:0,http://127.0.0.1:0,http://localhost:0").expect("valid");
        assert_eq!(bind_all(&urls, false).expect("free ports").len(), 2);
    }
}
