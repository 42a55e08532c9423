//! Tells whoever streams an answer over HTTP/1.1 that the client has hung up.
//!
//! actix-http goes on serving a client that has closed its half of the connection, as it may only have closed its half; it
//! learns that nobody is there when it writes. A watch may not write for days. So the socket's end of file is noted here,
//! and a stream that has nothing else to wait for takes it as etcd's HTTP server does: the client has gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// Of one connection; in the connection data of its requests.
#[derive(Clone, Debug, Default)]
pub struct HangUp(CancellationToken);

impl HangUp {
    /// Ends when the client has sent its last byte.
    pub fn heard(&self) -> impl Future<Output = ()> + 'static {
        self.0.clone().cancelled_owned()
    }
}

/// A stream whose end is noted.
pub(super) struct Listening<S> {
    stream: S,
    hang_up: HangUp,
}

impl<S> Listening<S> {
    pub(super) fn new(stream: S) -> Self {
        Listening { stream, hang_up: HangUp::default() }
    }

    pub(super) fn hang_up(&self) -> HangUp {
        self.hang_up.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let is_end = match &read {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => room > 0 && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => true,
        };
        if is_end {
            this.hang_up.0.cancel();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
