//! What waits on one lane of one connection: bounded, and gathered into envelopes.
//!
//! ```text
//!   PeerLink ─push─▶ [ outbox ] ─Envelopes (a stream)─▶ tonic ─▶ peer
//! ```
//! An outbox lives as long as its connection; what it holds when that breaks is gone. Raft repeats what matters.

use crate::peer::ENVELOPE_BYTES;
use crate::peer::flight::Flight;
use crate::peer::wire::{forwarded_to_wire, message_bytes, to_wire};
use crate::raft::forwarded::ForwardedProposal;
use crate::telemetry::clock::Clock;
use castd_proto::castdpb::{PeerEnvelope, PeerIdentity, PeerLane};
use futures_util::Stream;
use parking_lot::Mutex;
use prometheus::IntCounter;
use prost::Message as _;
use raft::eraftpb::Message;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// What may wait on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub messages: usize,
    pub bytes: usize,
}

impl Limits {
    pub fn of(lane: PeerLane) -> Limits {
        match lane {
            PeerLane::Urgent => Limits { messages: 4_096, bytes: 4 << 20 },
            // Entries share their bytes with raft's window of recent ones.
            PeerLane::Bulk => Limits { messages: 16_384, bytes: 128 << 20 },
        }
    }
}

/// One thing to carry.
#[derive(Debug)]
pub enum Item {
    Message(Message),
    Forwarded(ForwardedProposal),
    /// Nothing but a stamp.
    Probe,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Message(message) => message_bytes(message),
            Item::Forwarded(forwarded) => 64 + forwarded.data.len(),
            Item::Probe => 0,
        }
    }
}

#[derive(Debug, Default)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// The way in.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: mpsc::UnboundedSender<(usize, Item)>,
    load: Arc<Load>,
    limits: Limits,
}

impl Outbox {
    /// Whether there was room. One item alone always has it.
    #[must_use]
    pub fn push(&self, item: Item) -> bool {
        let bytes = item.bytes();
        let (messages, waiting) = (self.load.messages.load(Ordering::Relaxed), self.load.bytes.load(Ordering::Relaxed));
        if messages >= self.limits.messages || (messages > 0 && waiting + bytes > self.limits.bytes) {
            return false;
        }
        self.load.messages.fetch_add(1, Ordering::Relaxed);
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sender.send((bytes, item)).is_ok()
    }
}

/// The way out: a stream of envelopes, each as full as what waits allows.
pub struct Envelopes {
    receiver: mpsc::UnboundedReceiver<(usize, Item)>,
    load: Arc<Load>,
    flight: Arc<Mutex<Flight>>,
    /// The first envelope, until it has been sent.
    hello: Option<PeerEnvelope>,
    identity: PeerIdentity,
    lane: PeerLane,
    clock: Clock,
    sent_bytes: IntCounter,
    /// Did not fit into the envelope before.
    left_over: Option<(usize, Item)>,
}

/// Both ends, for one connection. The first envelope introduces this member, reached at `own_urls`.
pub fn outbox(
    identity: PeerIdentity,
    own_urls: Vec<String>,
    lane: PeerLane,
    flight: Arc<Mutex<Flight>>,
    clock: Clock,
    sent_bytes: IntCounter,
) -> (Outbox, Envelopes) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let load = Arc::<Load>::default();
    let outbox = Outbox { sender, load: Arc::clone(&load), limits: Limits::of(lane) };
    let hello = PeerEnvelope {
        identity: Some(identity.clone()),
        lane: lane.into(),
        peer_urls: own_urls,
        ..PeerEnvelope::default()
    };
    let hello = Some(hello);
    (outbox, Envelopes { receiver, load, flight, hello, identity, lane, clock, sent_bytes, left_over: None })
}

impl Envelopes {
    fn finish(&self, mut envelope: PeerEnvelope) -> PeerEnvelope {
        let bytes = envelope.encoded_len();
        envelope.sent_at_nanos = self.flight.lock().sent(self.clock.now(), bytes);
        self.sent_bytes.inc_by(bytes as u64);
        envelope
    }

    fn take(&mut self, bytes: usize, item: Item, envelope: &mut PeerEnvelope) {
        self.load.messages.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        match item {
            Item::Message(message) => envelope.messages.push(to_wire(message)),
            Item::Forwarded(forwarded) => envelope.forwarded.push(forwarded_to_wire(forwarded)),
            Item::Probe => {}
        }
    }
}

impl Stream for Envelopes {
    type Item = PeerEnvelope;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PeerEnvelope>> {
        let this = self.get_mut();
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(this.finish(hello)));
        }
        let first = match this.left_over.take() {
            Some(first) => first,
            None => match ready!(this.receiver.poll_recv(context)) {
                Some(first) => first,
                None => return Poll::Ready(None),
            },
        };
        let mut envelope =
            PeerEnvelope { identity: Some(this.identity.clone()), lane: this.lane.into(), ..PeerEnvelope::default() };
        let mut gathered = first.0;
        this.take(first.0, first.1, &mut envelope);
        while let Ok((bytes, item)) = this.receiver.try_recv() {
            if gathered + bytes > ENVELOPE_BYTES {
                this.left_over = Some((bytes, item));
                break;
            }
            gathered += bytes;
            this.take(bytes, item, &mut envelope);
        }
        Poll::Ready(Some(this.finish(envelope)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _};
    use raft::eraftpb::Entry;
    use std::time::Duration;

    fn pair(lane: PeerLane) -> (Outbox, Envelopes) {
        let clock = Clock::start();
        let flight = Arc::new(Mutex::new(Flight::new(Duration::from_secs(1), clock.now())));
        let counter = IntCounter::new("sent", "sent").expect("a name");
        outbox(PeerIdentity::default(), vec!["http://h:1".to_owned()], lane, flight, clock, counter)
    }

    fn message(bytes: usize) -> Item {
        let mut message = Message::default();
        message.set_entries(vec![Entry { data: vec![7; bytes].into(), ..Entry::default() }].into());
        Item::Message(message)
    }

    fn next(envelopes: &mut Envelopes) -> Option<PeerEnvelope> {
        envelopes.next().now_or_never().flatten()
    }

    #[test]
    fn the_first_envelope_introduces_and_the_rest_carries_what_waits() {
        let (outbox, mut envelopes) = pair(PeerLane::Urgent);
        let forwarded =
            ForwardedProposal { boot: 1, sequence: 2, kind: raft::eraftpb::EntryType::EntryNormal, data: "d".into() };
        assert!(outbox.push(message(10)) && outbox.push(Item::Forwarded(forwarded)) && outbox.push(message(10)));
        let hello = next(&mut envelopes).expect("at once");
        assert_eq!((hello.peer_urls.len(), hello.messages.len()), (1, 0));
        assert_ne!(hello.sent_at_nanos, 0, "it is to be answered");
        let all = next(&mut envelopes).expect("what waited");
        assert_eq!((all.peer_urls.len(), all.messages.len(), all.forwarded.len()), (0, 2, 1));
        assert_eq!(next(&mut envelopes), None);
    }

    #[test]
    fn large_messages_travel_alone_and_nothing_is_lost_or_reordered() {
        let (outbox, mut envelopes) = pair(PeerLane::Bulk);
        let sizes = [10, 20, ENVELOPE_BYTES, 30, 40];
        assert!(sizes.iter().all(|bytes| outbox.push(message(*bytes))));
        next(&mut envelopes).expect("the introduction");
        let mut carried = Vec::new();
        while let Some(envelope) = next(&mut envelopes) {
            carried.push(envelope.messages.iter().map(|it| it.entries[0].data.len()).collect::<Vec<_>>());
        }
        assert_eq!(carried, [vec![10, 20], vec![ENVELOPE_BYTES], vec![30, 40]]);
    }

    #[test]
    fn a_full_lane_refuses_until_something_has_left() {
        let (outbox, mut envelopes) = pair(PeerLane::Urgent);
        let pushed = (0..10_000).take_while(|_| outbox.push(message(10))).count();
        assert_eq!(pushed, Limits::of(PeerLane::Urgent).messages);
        next(&mut envelopes).expect("the introduction");
        assert!(!outbox.push(message(10)));
        next(&mut envelopes).expect("what waited");
        assert!(outbox.push(message(10)));
    }

    #[test]
    fn a_lane_is_full_of_bytes_too_but_one_message_always_fits() {
        let (outbox, _envelopes) = pair(PeerLane::Urgent);
        assert!(outbox.push(message(5 << 20)));
        assert!(!outbox.push(message(0)));
    }

    #[test]
    fn a_closed_lane_takes_nothing() {
        let (outbox, envelopes) = pair(PeerLane::Urgent);
        drop(envelopes);
        assert!(!outbox.push(message(10)));
    }
}
