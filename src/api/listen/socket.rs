//! Sockets: how they are bound, prepared, and what their errors mean.
//!
//! Texts of errors are etcd's (that is, Go's): operators and tools look for `bind: address already in use`.

use super::connection::Listener;
use super::unix::{self, UnixError};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;

/// Connections that the kernel keeps for us until we accept them; it takes less if `net.core.somaxconn` is lower.
const BACKLOG: i32 = 4_096;
/// As etcd: a peer that is gone without a word is noticed after a few minutes, with no traffic from HTTP/2 or HTTP/1.1.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen tcp {address}: {step}: {}", as_go_says(.source))]
    Socket { address: SocketAddr, step: &'static str, source: io::Error },
    #[error("listen unix {}: {source}", path.display())]
    Unix { path: PathBuf, source: UnixError },
    #[error("cannot take over a listening socket: {0}")]
    Adopt(#[source] io::Error),
    #[error("cannot start the HTTP threads: {0}")]
    Threads(#[source] io::Error),
}

/// `address already in use` for Rust's `Address already in use (os error 98)`.
pub(super) fn as_go_says(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error") {
        text.truncate(end);
    }
    match text.chars().next() {
        Some(first) if error.raw_os_error().is_some() => {
            let rest = text.split_off(first.len_utf8());
            first.to_lowercase().chain(rest.chars()).collect()
        }
        _ => text,
    }
}

/// Binds and listens. Separate from [`super::EdgeServer::start`] because a port in use has to be noticed before anything
/// is read or written in the data directory.
///
/// SO_REUSEADDR is always on, as in Go, with or without `--socket-reuse-address`: without it a restart would wait for
/// TIME_WAIT. `reuse_port` is `--socket-reuse-port`.
///
/// # Errors
/// With etcd's text, which names the address and the step.
pub fn bind(address: SocketAddr, reuse_port: bool) -> Result<Listener, ListenError> {
    let failed = |step| move |source| ListenError::Socket { address, step, source };
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(failed("socket"))?;
    socket.set_reuse_address(true).map_err(failed("setsockopt"))?;
    if reuse_port {
        socket.set_reuse_port(true).map_err(failed("setsockopt"))?;
    }
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, as in Go.
        socket.set_only_v6(false).map_err(failed("setsockopt"))?;
    }
    socket.bind(&address.into()).map_err(failed("bind"))?;
    socket.listen(BACKLOG).map_err(failed("listen"))?;
    Ok(Listener::Tcp(socket.into()))
}

/// As [`bind`], on a path.
///
/// # Errors
/// As [`bind`]; and when the path is taken by anything but a socket that nobody listens on.
pub fn bind_path(path: &Path) -> Result<Listener, ListenError> {
    Ok(Listener::Unix(unix::bind(path, BACKLOG)?))
}

/// What every accepted connection needs: answers leave at once, and dead peers are noticed.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE))
}

/// Whether `accept` failed for the connection at hand only. All else (EMFILE, ENFILE, ENOBUFS, ENOMEM) concerns the
/// next one as well, and trying again at once would only burn a core.
pub(super) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(listener: &Listener) -> SocketAddr {
        match listener {
            Listener::Tcp(listener) => listener.local_addr().unwrap(),
            Listener::Unix(_) => panic!("no address"),
        }
    }

    #[test]
    fn a_port_in_use_is_named_as_etcd_names_it() {
        let first = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = address_of(&first);
        let error = bind(address, false).unwrap_err();
        assert_eq!(error.to_string(), format!("listen tcp {address}: bind: address already in use"));
    }

    #[test]
    fn two_listeners_share_a_port_when_both_ask_for_it() {
        let first = bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        bind(address_of(&first), true).unwrap();
        assert!(bind(address_of(&first), false).is_err());
    }

    #[test]
    fn only_errors_of_one_connection_are_passed_over() {
        let code = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(concerns_one_connection(&code(rustix::io::Errno::CONNABORTED)));
        assert!(!concerns_one_connection(&code(rustix::io::Errno::MFILE)));
        assert!(!concerns_one_connection(&code(rustix::io::Errno::NOBUFS)));
    }
}
