//! Events on their way to watchers: shared by all who get the same, turned into bytes once.
//!
//! ```text
//!   hub ──Arc<Delivery>──▶ queue of stream 1 ──▶ edge task: encoded() ─┐ the first one encodes,
//!       └─Arc<Delivery>──▶ queue of stream 2 ──▶ edge task: encoded() ─┴ the others share its bytes
//! ```
//! A delivery owns its events, not the batch they came from: one that waits long holds no more memory than it must.

use super::{Event, EventKind};
use crate::ids::Revision;
use bytes::{Bytes, BytesMut};
use castd_proto::mvccpb::{self, KeyValue, event::EventType};
use prost::Message;
use std::ops::Range;
use std::sync::OnceLock;

/// What an event takes beside its key and value, about.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 64;

/// `events` of a WatchResponse: field 11, length delimited.
const EVENTS_TAG: u8 = (11 << 3) | 2;

/// Events of one or more whole revisions, in order, for one response.
#[derive(Debug)]
pub struct Delivery {
    events: Vec<Event>,
    first: Revision,
    last: Revision,
    bytes: usize,
    plain: OnceLock<Encoded>,
    with_previous: OnceLock<Encoded>,
}

/// The `events` field of a WatchResponse as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Encoded {
    bytes: Bytes,
    /// Where each event ends in `bytes`.
    ends: Vec<usize>,
}

impl Delivery {
    /// `events` are those of the revisions `first` to `last`, at least one.
    pub(super) fn new(events: Vec<Event>, first: Revision, last: Revision) -> Self {
        debug_assert!(!events.is_empty());
        debug_assert!(first <= last);
        let bytes = events.iter().map(event_bytes).sum();
        Self { events, first, last, bytes, plain: OnceLock::new(), with_previous: OnceLock::new() }
    }

    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The revision of the first event.
    pub fn first(&self) -> Revision {
        self.first
    }

    /// The revision of the last event.
    pub fn last(&self) -> Revision {
        self.last
    }

    /// About how long it is on the wire, without previous values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn encoded(&self) -> &Encoded {
        self.plain.get_or_init(|| encode(&self.events, std::iter::repeat(None)))
    }

    /// With what each key was before, as far as `read` finds it. Rows are never changed, so any later view will do.
    ///
    /// # Errors
    /// What `read` failed with.
    pub fn encoded_with_previous<E>(
        &self,
        read: impl FnMut(&Event) -> Result<Option<KeyValue>, E>,
    ) -> Result<&Encoded, E> {
        if self.events.iter().all(|event| event.previous.is_none()) {
            return Ok(self.encoded());
        }
        if let Some(encoded) = self.with_previous.get() {
            return Ok(encoded);
        }
        // Two streams may do this at the same time: both find the same.
        let previous = self.events.iter().map(read).collect::<Result<Vec<_>, E>>()?;
        Ok(self.with_previous.get_or_init(|| encode(&self.events, previous)))
    }
}

pub(super) fn event_bytes(event: &Event) -> usize {
    event.kv.key.len() + event.kv.value.len() + EVENT_OVERHEAD_BYTES
}

fn encode(events: &[Event], previous: impl IntoIterator<Item = Option<KeyValue>>) -> Encoded {
    let messages: Vec<mvccpb::Event> = events
        .iter()
        .zip(previous)
        .map(|(event, prev_kv)| mvccpb::Event {
            r#type: match event.kind {
                EventKind::Put => EventType::Put,
                EventKind::Delete => EventType::Delete,
            } as i32,
            kv: Some(event.kv.clone()),
            prev_kv,
        })
        .collect();
    let length = messages.iter().map(|message| message.encoded_len() + 11).sum();
    let mut bytes = BytesMut::with_capacity(length);
    let mut ends = Vec::with_capacity(messages.len());
    for message in &messages {
        bytes.extend_from_slice(&[EVENTS_TAG]);
        // Fails only when the buffer is full, and BytesMut grows.
        let encoded = message.encode_length_delimited(&mut bytes);
        debug_assert!(encoded.is_ok());
        ends.push(bytes.len());
    }
    Encoded { bytes: bytes.freeze(), ends }
}

impl Encoded {
    /// All events.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Cuts between events so that each piece, with `head_bytes` in front, stays below `limit_bytes`. An event that is too
    /// long alone is a piece of its own.
    pub fn pieces(&self, head_bytes: usize, limit_bytes: usize) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut piece: Range<usize> = 0..0;
        for &end in &self.ends {
            if !piece.is_empty() && head_bytes + (end - piece.start) >= limit_bytes {
                pieces.push(self.bytes.slice(piece.clone()));
                piece.start = piece.end;
            }
            piece.end = end;
        }
        pieces.push(self.bytes.slice(piece));
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::RowKey;
    use castd_proto::etcdserverpb::WatchResponse;
    use std::convert::Infallible;

    fn event(revision: i64, value_bytes: usize, previous: Option<RowKey>) -> Event {
        Event {
            kind: EventKind::Put,
            kv: KeyValue {
                key: Bytes::from("key"),
                value: Bytes::from(vec![b'v'; value_bytes]),
                mod_revision: revision,
                ..Default::default()
            },
            previous,
        }
    }

    #[test]
    fn the_bytes_are_the_events_field_of_a_response() {
        let row = RowKey { main: Revision(2), sub: 0, tombstone: false };
        let delivery = Delivery::new(vec![event(3, 1, Some(row)), event(4, 1, None)], Revision(3), Revision(4));
        let response = WatchResponse::decode(delivery.encoded().bytes().clone()).unwrap();
        assert_eq!(response.events.len(), 2);
        assert!(response.events.iter().all(|event| event.prev_kv.is_none()));

        let old = KeyValue { key: Bytes::from("key"), mod_revision: 2, ..Default::default() };
        let encoded =
            delivery.encoded_with_previous(|event| Ok::<_, Infallible>(event.previous.map(|_| old.clone()))).unwrap();
        let response = WatchResponse::decode(encoded.bytes().clone()).unwrap();
        assert_eq!(response.events[0].prev_kv, Some(old));
        assert_eq!(response.events[1].prev_kv, None);
        let again = delivery.encoded_with_previous(|_| Err("read twice")).unwrap();
        assert_eq!(again.bytes().as_ptr(), encoded.bytes().as_ptr(), "the second stream shares the first one's bytes");
    }

    #[test]
    fn pieces_are_cut_between_events_and_none_is_lost() {
        let events: Vec<Event> = [10, 10, 500, 10, 10].into_iter().map(|bytes| event(2, bytes, None)).collect();
        let encoded = Delivery::new(events, Revision(2), Revision(2)).encoded().clone();
        let pieces = encoded.pieces(20, 100);
        assert_eq!(pieces.len(), 3, "two small, one too large alone, two small");
        assert!(pieces[0].len() + 20 < 100);
        assert!(pieces[1].len() > 500);
        assert_eq!(pieces.concat(), encoded.bytes().as_ref());
        assert_eq!(encoded.pieces(20, 10_000), [encoded.bytes().clone()]);
    }
}
