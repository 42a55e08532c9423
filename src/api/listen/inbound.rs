//! The body of a gRPC request, handed on message by message: half a message waits here, where it is counted.
//!
//! ```text
//!   hyper ──DATA──▶ Inbound ─┬─ up to the end of a message ─▶ tonic
//!                            └─ the beginning of the next ──▶ held ──▶ Charge
//! ```
//! tonic makes room for a message when it is announced: a client that announced two megabytes ten thousand times, and
//! sent a quarter of each, took six gigabytes (`tests/it/hostile/floods.rs`). Here it costs what has come, and what waits
//! on all connections together has a limit; whoever is evicted gets `etcdserver: too many requests`. Calls that have not
//! said anything yet are counted in the same way.
//!
//! A message that comes in one piece, as small ones do, passes through untouched and uncounted. It does not look into
//! messages, and one that is announced as too long passes through for tonic to refuse.

use super::waiting::{CALL_BYTES, Charge, Waiting};
use crate::api::status::Wire;
use crate::cast::RequestError;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;

/// One byte that says whether it is compressed, four of length.
const HEAD_BYTES: usize = 5;

/// Where in its messages a body is.
struct Framing {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Of the message whose head has come.
    missing: usize,
    message_bytes_max: usize,
    /// One was too long: nothing behind it is a message.
    lost: bool,
}

impl Framing {
    /// How many of these bytes are up to the end of a message.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let (mut at, mut complete) = (0, 0);
        while at < bytes.len() && !self.lost {
            if self.missing == 0 {
                let more = (HEAD_BYTES - self.head_bytes).min(bytes.len() - at);
                self.head[self.head_bytes..self.head_bytes + more].copy_from_slice(&bytes[at..at + more]);
                self.head_bytes += more;
                at += more;
                if self.head_bytes < HEAD_BYTES {
                    break;
                }
                let [_, length @ ..] = self.head;
                self.missing = u32::from_be_bytes(length) as usize;
                self.lost = self.missing > self.message_bytes_max;
            }
            let more = self.missing.min(bytes.len() - at);
            self.missing -= more;
            at += more;
            if self.missing == 0 {
                self.head_bytes = 0;
                complete = at;
            }
        }
        if self.lost { bytes.len() } else { complete }
    }

    fn is_between_messages(&self) -> bool {
        self.lost || self.head_bytes == 0
    }
}

/// See the module.
pub struct Inbound {
    inner: Incoming,
    framing: Framing,
    /// The beginning of a message.
    held: BytesMut,
    charge: Charge,
    /// The first message is complete.
    has_spoken: bool,
    /// What ended the body, to be said behind what was held.
    last: Option<Option<Result<Frame<Bytes>, Status>>>,
}

impl Inbound {
    pub(super) fn new(inner: Incoming, waiting: &Arc<Waiting>, message_bytes_max: usize) -> Inbound {
        let framing = Framing { head: [0; HEAD_BYTES], head_bytes: 0, missing: 0, message_bytes_max, lost: false };
        let charge = Charge::new(waiting);
        Inbound { inner, framing, held: BytesMut::new(), charge, has_spoken: false, last: None }
    }

    /// What can be handed on now that these bytes have come. The rest is held.
    fn take_in(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let complete = self.framing.follow(&bytes);
        if complete == 0 {
            if !self.framing.is_between_messages() {
                self.hold(&bytes);
            }
            return None;
        }
        self.has_spoken = true;
        let rest = bytes.split_off(complete);
        let whole = if self.held.is_empty() {
            bytes
        } else {
            self.held.extend_from_slice(&bytes);
            std::mem::take(&mut self.held).freeze()
        };
        if !self.charge.is_nothing() {
            self.charge.release();
        }
        if !rest.is_empty() {
            self.hold(&rest);
        }
        Some(whole)
    }

    fn hold(&mut self, bytes: &[u8]) {
        let before = self.held.capacity();
        self.held.extend_from_slice(bytes);
        self.charge.add(self.held.capacity().saturating_sub(before));
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(last) = this.last.take() {
            return Poll::Ready(last);
        }
        loop {
            if this.charge.is_evicted() {
                this.held = BytesMut::new();
                this.charge.release();
                let Wire { code, message } = Wire::from(&RequestError::TooManyRequests);
                return Poll::Ready(Some(Err(Status::new(code, message))));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                if !this.has_spoken && this.charge.is_nothing() {
                    this.charge.add(CALL_BYTES);
                }
                this.charge.wake_when_evicted(cx);
                // Between the look above and the waker now there may have been an eviction.
                if this.charge.is_evicted() {
                    continue;
                }
                return Poll::Pending;
            };
            let last = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => match this.take_in(bytes) {
                        Some(whole) => return Poll::Ready(Some(Ok(Frame::data(whole)))),
                        None => continue,
                    },
                    Err(trailers) => Some(Ok(trailers)),
                },
                Some(Err(error)) => Some(Err(Status::from_error(Box::new(error)))),
                None => None,
            };
            this.charge.release();
            if this.held.is_empty() {
                return Poll::Ready(last);
            }
            // Half a message and then the end: for tonic to say what is wrong with it.
            this.last = Some(last);
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.held).freeze()))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.last.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn framing() -> Framing {
        Framing { head: [0; HEAD_BYTES], head_bytes: 0, missing: 0, message_bytes_max: 1_000, lost: false }
    }

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend((bytes as u32).to_be_bytes());
        message.resize(HEAD_BYTES + bytes, b'm');
        message
    }

    proptest! {
        #[test]
        fn however_messages_are_cut_their_ends_are_found(
            lengths in vec(0usize..40, 1..8),
            pieces in vec(1usize..20, 1..8),
        ) {
            let messages: Vec<Vec<u8>> = lengths.into_iter().map(message).collect();
            let ends: Vec<usize> =
                messages.iter().scan(0, |end, message| { *end += message.len(); Some(*end) }).collect();
            let bytes = messages.concat();
            let mut framing = framing();
            let mut at = 0;
            for piece in pieces.iter().cycle() {
                let end = (at + piece).min(bytes.len());
                let complete = framing.follow(&bytes[at..end]);
                // The last end within this piece.
                let expected = ends.iter().filter(|e| (at + 1..=end).contains(*e)).max().map_or(0, |e| e - at);
                prop_assert_eq!(complete, expected);
                prop_assert_eq!(framing.is_between_messages(), ends.contains(&end));
                at = end;
                if at == bytes.len() {
                    break;
                }
            }
        }
    }

    #[test]
    fn what_is_announced_as_too_long_is_not_held() {
        let mut framing = framing();
        assert_eq!(framing.follow(&[0, 0xff, 0xff]), 0);
        assert_eq!(framing.follow(&[0xff, 0xff, b'x']), 3);
        assert_eq!(framing.follow(&[b'x'; 10]), 10);
    }
}
