//! Writes of one flush gathered into one system call.
//!
//! ```text
//!   h2: HEADERS, DATA, trailers ──poll_write──▶ held ──poll_flush──▶ one write to the socket
//! ```
//!
//! h2 gives the socket what it has whenever a DATA frame of more than 256 bytes is in its buffer, if the socket can take
//! vectors, and of more than 1,024 if it cannot. So an answer with one value went out in two system calls and two packets:
//! head and value, then trailers. Here the stream says that it takes no vectors, holds small writes until the flush, and
//! writes large ones together with what is held.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Held until the flush; what is longer goes out at once, with what is held before it.
const HELD_BYTES_MAX: usize = 4 << 10;

pub(super) struct Gather<S> {
    inner: S,
    held: VecDeque<u8>,
}

impl<S> Gather<S> {
    pub(super) fn new(inner: S) -> Self {
        Gather { inner, held: VecDeque::new() }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn poll_release(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, self.held.make_contiguous()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.held.len() + bytes.len() <= HELD_BYTES_MAX {
            this.held.extend(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            let held = this.held.make_contiguous();
            let both = [IoSlice::new(held), IoSlice::new(bytes)];
            let held_bytes = both[0].len();
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(context, &both))?;
            this.held.drain(..written.min(held_bytes));
            // The caller may only be told of its own bytes.
            if written > held_bytes {
                return Poll::Ready(Ok(written - held_bytes));
            }
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    /// Takes a few bytes at a time, and counts how often it was asked.
    struct Narrow {
        width: usize,
        taken: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.width);
            self.taken.extend(&bytes[..taken]);
            self.calls += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn small_writes_of_one_flush_are_one_call() {
        let mut gather = Gather::new(Narrow { width: usize::MAX, taken: Vec::new(), calls: 0 });
        run(async {
            for part in [&b"head"[..], b"value", b"trailers"] {
                gather.write_all(part).await.expect("written");
            }
            gather.flush().await.expect("flushed");
        });
        assert_eq!((gather.inner.taken.as_slice(), gather.inner.calls), (&b"headvaluetrailers"[..], 1));
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order(
            parts in prop::collection::vec(0_usize..9_000, 1..20),
            width in 1_usize..7_000,
        ) {
            let mut gather = Gather::new(Narrow { width, taken: Vec::new(), calls: 0 });
            let mut expected = Vec::new();
            run(async {
                for (number, length) in parts.into_iter().enumerate() {
                    let part: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
                    gather.write_all(&part).await.expect("written");
                    expected.extend(part);
                }
                gather.flush().await.expect("flushed");
            });
            prop_assert!(gather.inner.taken == expected);
        }
    }
}
