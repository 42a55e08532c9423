//! TCP and unix sockets as one: what a port listens on, accepts and reads from.
//!
//! ```text
//!   Listener (bound) ──into_acceptor──▶ Acceptor ──accept──▶ Socket, Remote
//! ```
//! An enum and not a trait object: a read through it costs one comparison, and nothing is allocated.

use super::socket::{self, ListenError};
use super::unix::{SocketFile, UnixSocket};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Bound and listening, not yet served.
#[derive(Debug)]
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(UnixSocket),
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Listener {
        Listener::Tcp(listener)
    }
}

/// Where a port listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl LocalAddress {
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            LocalAddress::Tcp(address) => Some(*address),
            LocalAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddress::Tcp(address) => address.fmt(f),
            LocalAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    Tcp(SocketAddr),
    /// Clients of a unix socket have no address.
    Unix,
}

impl Remote {
    pub fn tcp(self) -> Option<SocketAddr> {
        match self {
            Remote::Tcp(address) => Some(address),
            Remote::Unix => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Tcp(address) => address.fmt(f),
            // As Go prints it.
            Remote::Unix => f.write_str("@"),
        }
    }
}

/// A listener on the current runtime. Dropped, its port is free and its socket file gone.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl Listener {
    pub(super) fn into_acceptor(self) -> Result<(LocalAddress, Acceptor), ListenError> {
        match self {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true).map_err(ListenError::Adopt)?;
                let address = listener.local_addr().map_err(ListenError::Adopt)?;
                let listener = TcpListener::from_std(listener).map_err(ListenError::Adopt)?;
                Ok((LocalAddress::Tcp(address), Acceptor::Tcp(listener)))
            }
            Listener::Unix(UnixSocket { listener, file }) => {
                listener.set_nonblocking(true).map_err(ListenError::Adopt)?;
                let listener = UnixListener::from_std(listener).map_err(ListenError::Adopt)?;
                Ok((LocalAddress::Unix(file.path().to_owned()), Acceptor::Unix { listener, _file: file }))
            }
        }
    }
}

impl Acceptor {
    pub(super) async fn accept(&self) -> io::Result<(Socket, Remote)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Remote::Tcp(remote)))
            }
            Acceptor::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), Remote::Unix))
            }
        }
    }
}

/// An accepted connection.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A [`Socket`] without a runtime, on its way from one to another.
pub(super) enum DetachedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// What every accepted connection needs: answers leave at once, and dead peers are noticed.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => socket::prepare(stream),
            Socket::Unix(_) => Ok(()),
        }
    }

    pub(super) fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Socket::Tcp(stream) => stream.into_std().map(DetachedSocket::Tcp),
            Socket::Unix(stream) => stream.into_std().map(DetachedSocket::Unix),
        }
    }
}

impl DetachedSocket {
    pub(super) fn attach(self) -> io::Result<Socket> {
        match self {
            DetachedSocket::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
            DetachedSocket::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

macro_rules! with_stream {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket.get_mut() {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
