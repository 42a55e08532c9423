//! Opens one HTTP/2 connection to a peer: URL, addresses, TCP, HTTP/2.
//!
//! hyper's connection is used as it is, without tonic's channel around it: that one would dial again by itself, and whoever
//! uses a connection here wants to know when it has ended. Redirects are not followed, and nothing is pooled.

use crate::membership::urls::{Scheme, Url};
use castd_proto::castdpb::peer_link_client::PeerLinkClient;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::Service;

/// Of one TCP connection; further addresses of the same name are tried after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// As the peer port's, so that a value of the usual size is one frame.
const FRAME_BYTES_MAX: u32 = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("TLS towards peers is not served yet")]
    Tls,
    #[error("unix sockets are not served yet")]
    Unix,
    #[error("cannot make a request of {0}")]
    BadUrl(String),
    #[error("lookup {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("dial tcp {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("no HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
}

/// An open connection, as tonic's generated client wants it.
#[derive(Clone)]
pub struct Connection(SendRequest<Body>);

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub type Client = PeerLinkClient<Connection>;

/// An open connection and where it leads.
#[derive(Clone)]
pub struct Dialled {
    connection: Connection,
    origin: Uri,
}

impl Dialled {
    pub fn client(&self) -> Client {
        PeerLinkClient::with_origin(self.connection.clone(), self.origin.clone())
    }

    pub fn is_closed(&self) -> bool {
        self.connection.0.is_closed()
    }
}

/// Opens a connection, which lives on the caller's runtime until the task that is returned is aborted or nobody uses the
/// connection any more.
///
/// # Errors
/// When the URL is of a kind that is not served yet, or nobody takes the connection in time.
pub async fn dial(url: &Url, timeout: Duration) -> Result<(Dialled, JoinHandle<()>), DialError> {
    tokio::time::timeout(timeout, open(url, timeout)).await.unwrap_or(Err(DialError::TooSlow(timeout)))
}

async fn open(url: &Url, timeout: Duration) -> Result<(Dialled, JoinHandle<()>), DialError> {
    match url.scheme() {
        Scheme::Http => {}
        Scheme::Https | Scheme::Unixs => return Err(DialError::Tls),
        Scheme::Unix => return Err(DialError::Unix),
    }
    let origin: Uri = url.as_str().parse().map_err(|_| DialError::BadUrl(url.to_string()))?;
    let stream = connect(url, timeout.min(CONNECT_TIMEOUT)).await?;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.max_frame_size(FRAME_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // How it ended is seen by whoever has a stream on it.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((Dialled { connection: Connection(sender), origin }, driver))
}

pub(super) async fn connect(url: &Url, timeout: Duration) -> Result<TcpStream, DialError> {
    let mut last = DialError::NoAddress(url.to_string());
    for address in addresses(url).await? {
        match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Without these the connection is worse, not useless.
                let _ = stream.set_nodelay(true);
                let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                return Ok(stream);
            }
            Ok(Err(source)) => last = DialError::Connect { address, source },
            Err(_) => last = DialError::Connect { address, source: io::ErrorKind::TimedOut.into() },
        }
    }
    Err(last)
}

async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, DialError> {
    let port = url.port().ok_or_else(|| DialError::BadUrl(url.to_string()))?;
    match tokio::net::lookup_host((url.host(), port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        // A bare system may have no /etc/hosts.
        Err(_) if url.host() == "localhost" => {
            Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()])
        }
        Err(source) => Err(DialError::Lookup { host: url.host().to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[tokio::test]
    async fn what_is_not_served_yet_says_so() {
        let error = |text: &'static str| async move {
            match dial(&url(text), Duration::from_secs(1)).await {
                Ok(_) => "connected".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(error("https://localhost:2380").await, "TLS towards peers is not served yet");
        assert_eq!(error("unix:///run/peer").await, "unix sockets are not served yet");
    }

    #[tokio::test]
    async fn names_and_addresses_of_both_kinds_are_dialled() {
        for (text, expected) in [("http://127.0.0.1:1", "127.0.0.1:1"), ("http://[::1]:1", "[::1]:1")] {
            assert_eq!(addresses(&url(text)).await.expect("no lookup"), [expected.parse().expect("an address")]);
        }
        let found = addresses(&url("http://localhost:7")).await.expect("this machine");
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }
}
