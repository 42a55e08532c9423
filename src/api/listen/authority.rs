//! Lets clients in whose `:authority` is not one, without touching anything else they say.
//!
//! etcdctl 3.4 dials `passthrough:///http://127.0.0.1:2379` for its maintenance calls, and gRPC for Go makes that
//! `:authority: http://127.0.0.1:2379`; early 3.5 sends `#initially=[127.0.0.1:2379]`. etcd does not look at it, and
//! neither do we, but h2 resets such a stream before anybody is asked, and has no switch. So between the socket and h2:
//!
//! ```text
//!   socket ──▶ frames ─┬─ HEADERS ─▶ repair: literal `:authority`, not valid ─▶ other bytes of the same length ─┬─▶ h2
//!                      └─ anything else, untouched ─────────────────────────────────────────────────────────────┘
//! ```
//! A frame is repaired where it was read to, in the reader's buffer. Only the beginning of a header, or of a HEADERS
//! frame, is held back until the rest of it has come: at most [`HEADERS_BYTES_MAX`] and a header.
//!
//! It does not follow header blocks into CONTINUATION frames, does not decode what is indexed (h2 has seen it before,
//! repaired), and reports nothing: what it cannot repair, h2 refuses.

mod hpack;
mod huffman;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const TYPE_HEADERS: u8 = 1;
/// The payload of the largest HEADERS frame that is looked into. No client sends a larger one unless told that it may.
const HEADERS_BYTES_MAX: usize = 16 << 10;

/// The server's side of an HTTP/2 connection, from its preface on.
pub(super) struct AnyAuthority<S> {
    stream: S,
    /// The reader gets as many bytes as they come, up to the next frame.
    untouched: usize,
    held: Held,
}

/// The beginning of a frame, kept until all of it is there, then given to the reader.
#[derive(Default)]
struct Held {
    /// As long as the frame will be, or its header; empty if nothing is held.
    bytes: Vec<u8>,
    read: usize,
    given: usize,
}

/// What to do with bytes that begin with a frame.
enum Step {
    /// Pass on so many.
    Pass(usize),
    /// Look into so many: a HEADERS frame.
    Repair(usize),
    /// Come back with so many.
    Await(usize),
}

impl Step {
    fn at(frame: &[u8]) -> Step {
        let Some(&[high, middle, low, kind, ..]) = frame.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Step::Await(FRAME_HEADER_BYTES);
        };
        let payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let whole = FRAME_HEADER_BYTES + payload;
        if kind != TYPE_HEADERS || payload > HEADERS_BYTES_MAX {
            Step::Pass(whole)
        } else if whole <= frame.len() {
            Step::Repair(whole)
        } else {
            Step::Await(whole)
        }
    }
}

impl<S> AnyAuthority<S> {
    pub(super) fn new(stream: S) -> AnyAuthority<S> {
        AnyAuthority { stream, untouched: PREFACE_BYTES, held: Held::default() }
    }

    /// Repairs what has just been read. Returns how much of it is the reader's; the rest is held back.
    fn look_through(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let passed = self.untouched.min(bytes.len() - at);
            self.untouched -= passed;
            at += passed;
            let rest = &mut bytes[at..];
            if rest.is_empty() {
                return at;
            }
            match Step::at(rest) {
                Step::Pass(whole) => self.untouched = whole,
                Step::Repair(whole) => {
                    hpack::repair(&mut rest[..whole]);
                    self.untouched = whole;
                }
                Step::Await(whole) => {
                    self.held.bytes.extend_from_slice(rest);
                    self.held.bytes.resize(whole, 0);
                    self.held.read = rest.len();
                    return at;
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AnyAuthority<S> {
    /// Reads what is missing of the held frame and not a byte more, so that the next one begins in the reader's buffer.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Held { bytes, read, .. } = &mut self.held;
        while *read < bytes.len() {
            let mut missing = ReadBuf::new(&mut bytes[*read..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut missing))?;
            let came = missing.filled().len();
            if came == 0 {
                // The end, within a frame: for the reader to find out.
                bytes.truncate(*read);
                self.untouched = usize::MAX;
                break;
            }
            *read += came;
            if *read == bytes.len() {
                match Step::at(bytes) {
                    Step::Pass(whole) => self.untouched = whole - bytes.len(),
                    Step::Repair(_) => hpack::repair(bytes),
                    Step::Await(whole) => bytes.resize(whole, 0),
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.held.bytes.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            let given = this.look_through(&mut buffer.filled_mut()[before..]);
            buffer.set_filled(before + given);
            // Nothing given and nothing held is the end of the stream. Nothing given alone must not look like it.
            if given > 0 || this.held.bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        ready!(this.poll_held(cx))?;
        let Held { bytes, given, .. } = &mut this.held;
        let giving = buffer.remaining().min(bytes.len() - *given);
        buffer.put_slice(&bytes[*given..*given + giving]);
        *given += giving;
        if *given == bytes.len() {
            this.held = Held::default();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    /// Gives its pieces one by one; an empty one is a pause.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let Some(mut piece) = self.0.pop_front() else { return Poll::Ready(Ok(())) };
            if piece.is_empty() {
                return Poll::Pending;
            }
            let rest = piece.split_off(buffer.remaining().min(piece.len()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
            Poll::Ready(Ok(()))
        }
    }

    /// All that comes out when `bytes` come in pieces of these sizes, and are read with buffers of those.
    fn read(bytes: &[u8], pieces: &[usize], buffers: &[usize]) -> Vec<u8> {
        let mut rest = bytes;
        let mut queue = VecDeque::new();
        for size in pieces.iter().cycle() {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            queue.push_back(piece.to_vec());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let mut stream = AnyAuthority::new(Pieces(queue));
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        for size in buffers.iter().cycle() {
            let mut space = vec![0; *size];
            let mut buffer = ReadBuf::new(&mut space);
            let polled = Pin::new(&mut stream).poll_read(&mut cx, &mut buffer);
            assert!(stream.held.bytes.capacity() <= 2 * (HEADERS_BYTES_MAX + FRAME_HEADER_BYTES));
            match polled {
                Poll::Pending => assert!(buffer.filled().is_empty()),
                Poll::Ready(answer) => {
                    answer.unwrap();
                    if buffer.filled().is_empty() {
                        break;
                    }
                    out.extend_from_slice(buffer.filled());
                }
            }
        }
        out
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn a_frame() -> impl Strategy<Value = Vec<u8>> {
        let other = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..80));
        let hostile = (any::<u8>(), vec(any::<u8>(), 0..80));
        prop_oneof![
            other.prop_map(|(kind, flags, payload)| frame(kind, flags, &payload)),
            hostile.prop_map(|(flags, payload)| frame(TYPE_HEADERS, flags, &payload)),
            hpack::tests::a_block().prop_map(|(flags, payload, _)| frame(TYPE_HEADERS, flags, &payload)),
            Just(frame(TYPE_HEADERS, 0, &[0x41; HEADERS_BYTES_MAX])),
            Just(frame(TYPE_HEADERS, 0, &[0x41; HEADERS_BYTES_MAX + 1])),
        ]
    }

    proptest! {
        #[test]
        fn however_frames_are_cut_each_is_repaired_once_and_by_itself(
            frames in vec(a_frame(), 0..8),
            pieces in vec(prop_oneof![0usize..12, 0usize..300], 1..12),
            buffers in vec(prop_oneof![1usize..12, 1usize..300], 1..12),
        ) {
            let mut sent = vec![b'p'; PREFACE_BYTES];
            let mut expected = sent.clone();
            for frame in frames {
                sent.extend_from_slice(&frame);
                let mut repaired = frame;
                if repaired[3] == TYPE_HEADERS && repaired.len() <= FRAME_HEADER_BYTES + HEADERS_BYTES_MAX {
                    hpack::repair(&mut repaired);
                }
                expected.extend_from_slice(&repaired);
            }
            let pieces = if pieces.iter().all(|size| *size == 0) { vec![1] } else { pieces };
            prop_assert_eq!(read(&sent, &pieces, &buffers), expected);
        }

        #[test]
        fn a_stream_that_ends_anywhere_is_given_up_to_its_end(
            frame in a_frame(),
            missing in 1usize..100,
            pieces in vec(1usize..40, 1..4),
        ) {
            let mut sent = vec![b'p'; PREFACE_BYTES];
            sent.extend_from_slice(&frame);
            sent.truncate(sent.len() - missing.min(frame.len()));
            prop_assert_eq!(read(&sent, &pieces, &[64]), sent);
        }
    }

    #[test]
    fn a_frame_that_only_announces_much_is_not_waited_for_in_memory() {
        let mut sent = vec![b'p'; PREFACE_BYTES];
        sent.extend_from_slice(&[0xff, 0xff, 0xff, TYPE_HEADERS, 0, 0, 0, 0, 1, 0x41]);
        assert_eq!(read(&sent, &[1], &[7]), sent);
    }
}
