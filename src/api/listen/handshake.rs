//! Finds out what a connection speaks, from its first bytes, without letting it wait for ever.
//!
//! HTTP/2 with prior knowledge begins with 24 fixed bytes; no HTTP/1.1 request does. The bytes are read, not peeked at:
//! a client that sends three of them and stops would otherwise keep the socket readable and a core busy. What was read is
//! given back by [`Rewound`].

use super::connection::Socket;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) enum Protocol {
    Http1(Rewound<Socket>),
    Http2(Rewound<Socket>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("nothing came within {0:?}")]
    TooSlow(Duration),
    #[error("too many others were waiting")]
    Evicted,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Those who have not shown their protocol yet, the oldest first.
#[derive(Default)]
struct Waiting {
    next: u64,
    tokens: BTreeMap<u64, CancellationToken>,
}

pub(super) struct Handshakes {
    limit: usize,
    timeout: Duration,
    waiting: Mutex<Waiting>,
}

/// A place among the waiting, given up on drop.
struct Place<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    evicted: CancellationToken,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.handshakes.waiting.lock().tokens.remove(&self.number);
    }
}

impl Handshakes {
    pub(super) fn new(limit: usize, timeout: Duration) -> Handshakes {
        Handshakes { limit: limit.max(1), timeout, waiting: Mutex::default() }
    }

    /// Somebody who opens connections and says nothing loses the oldest of them; an honest client is done in a round trip.
    fn enter(&self) -> Place<'_> {
        let mut waiting = self.waiting.lock();
        while waiting.tokens.len() >= self.limit {
            if let Some((_, oldest)) = waiting.tokens.pop_first() {
                oldest.cancel();
            }
        }
        let number = waiting.next;
        waiting.next += 1;
        let evicted = CancellationToken::new();
        waiting.tokens.insert(number, evicted.clone());
        Place { handshakes: self, number, evicted }
    }

    pub(super) async fn sniff(&self, stream: Socket) -> Result<Protocol, HandshakeError> {
        let place = self.enter();
        tokio::select! {
            biased;
            () = place.evicted.cancelled() => Err(HandshakeError::Evicted),
            sniffed = tokio::time::timeout(self.timeout, sniff(stream)) => match sniffed {
                Ok(sniffed) => Ok(sniffed?),
                Err(_) => Err(HandshakeError::TooSlow(self.timeout)),
            },
        }
    }
}

async fn sniff(mut stream: Socket) -> io::Result<Protocol> {
    let mut prefix = Prefix::default();
    loop {
        let read = stream.read(&mut prefix.bytes[prefix.end..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        prefix.end += read;
        if !PREFACE.starts_with(&prefix.bytes[..prefix.end]) {
            return Ok(Protocol::Http1(Rewound { prefix, stream }));
        }
        if prefix.end == PREFACE.len() {
            return Ok(Protocol::Http2(Rewound { prefix, stream }));
        }
    }
}

/// Bytes `start..end` were read from the stream and not yet by its user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prefix {
    bytes: [u8; PREFACE.len()],
    start: usize,
    end: usize,
}

/// A stream that gives its first bytes once more.
pub(super) struct Rewound<S> {
    pub(super) prefix: Prefix,
    pub(super) stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Prefix { bytes, start, end } = self.prefix;
        if start < end && buffer.remaining() > 0 {
            let given = (end - start).min(buffer.remaining());
            buffer.put_slice(&bytes[start..start + given]);
            self.prefix.start += given;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
