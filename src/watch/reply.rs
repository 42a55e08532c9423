//! What a stream is told, and how that looks on the wire.

use super::{Delivery, Event, Refusal};
use crate::ids::Revision;
use bytes::{BufMut, Bytes};
use castd_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use castd_proto::mvccpb::KeyValue;
use prost::Message;
use std::sync::Arc;

/// What a reply takes in a queue beside its events, about.
const REPLY_OVERHEAD_BYTES: usize = 128;

/// In answers that belong to no watcher: a failed create, progress of a whole stream.
pub(super) const NO_WATCH_ID: i64 = -1;

#[derive(Clone, Debug)]
pub struct Reply {
    pub watch_id: i64,
    /// Of the header. 0 when a watcher is cancelled because what it needs is compacted.
    pub revision: Revision,
    pub body: ReplyBody,
}

#[derive(Clone, Debug)]
pub enum ReplyBody {
    Created,
    Refused(Refusal),
    /// With an empty reason if the client asked for it.
    Canceled {
        reason: String,
    },
    Compacted {
        compacted: Revision,
    },
    /// Every event up to the reply's revision has been sent, for this watcher, or with watch id -1 for this stream.
    Progress,
    Events {
        delivery: Arc<Delivery>,
        prev_kv: bool,
        fragment: bool,
    },
}

/// The part of a response header that is the same for all replies.
#[derive(Clone, Copy, Debug)]
pub struct HeaderIds {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

/// One WatchResponse, its events encoded already.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Without events.
    pub head: WatchResponse,
    pub events: Bytes,
}

impl Reply {
    /// How many events it tells of.
    pub fn events(&self) -> usize {
        match &self.body {
            ReplyBody::Events { delivery, .. } => delivery.events().len(),
            _ => 0,
        }
    }

    /// What the reply counts against its stream's window. The edge gives back the same number once it is sent.
    pub fn charged_bytes(&self) -> usize {
        REPLY_OVERHEAD_BYTES
            + match &self.body {
                ReplyBody::Events { delivery, .. } => delivery.bytes(),
                _ => 0,
            }
    }

    /// The responses to send, back to back. A response of `fragment_bytes` or more is cut if the watcher allows it.
    ///
    /// # Errors
    /// What `read_previous` failed with (see [`Delivery::encoded_with_previous`]).
    pub fn frames<E>(
        &self,
        ids: HeaderIds,
        fragment_bytes: usize,
        read_previous: impl FnMut(&Event) -> Result<Option<KeyValue>, E>,
    ) -> Result<Vec<Frame>, E> {
        let mut head = WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: ids.cluster_id,
                member_id: ids.member_id,
                raft_term: ids.raft_term,
                revision: self.revision.0,
            }),
            watch_id: self.watch_id,
            ..Default::default()
        };
        match &self.body {
            ReplyBody::Created => head.created = true,
            ReplyBody::Refused(refusal) => {
                (head.created, head.canceled) = (true, true);
                head.cancel_reason = refusal.reason();
            }
            ReplyBody::Canceled { reason } => {
                head.canceled = true;
                head.cancel_reason = reason.clone();
            }
            ReplyBody::Compacted { compacted } => {
                head.canceled = true;
                head.compact_revision = compacted.0;
            }
            ReplyBody::Progress => {}
            ReplyBody::Events { delivery, prev_kv, fragment } => {
                let encoded =
                    if *prev_kv { delivery.encoded_with_previous(read_previous)? } else { delivery.encoded() };
                let limit_bytes = if *fragment { fragment_bytes } else { usize::MAX };
                // Two bytes are the fragment mark itself.
                let pieces = encoded.pieces(head.encoded_len() + 2, limit_bytes);
                let last = pieces.len() - 1;
                let frame = |(number, events)| Frame {
                    head: WatchResponse { fragment: number < last, ..head.clone() },
                    events,
                };
                return Ok(pieces.into_iter().enumerate().map(frame).collect());
            }
        }
        Ok(vec![Frame { head, events: Bytes::new() }])
    }
}

impl Frame {
    pub fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.len()
    }

    /// Writes the message. `events` has the highest field number, so this is what prost would write for the whole.
    pub fn encode(&self, buffer: &mut impl BufMut) {
        self.head.encode_raw(buffer);
        buffer.put_slice(&self.events);
    }

    /// The message as everybody knows it.
    ///
    /// # Errors
    /// Never for a frame made by [`Reply::frames`].
    pub fn to_message(&self) -> Result<WatchResponse, prost::DecodeError> {
        let events = WatchResponse::decode(self.events.clone())?.events;
        Ok(WatchResponse { events, ..self.head.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::EventKind;
    use std::convert::Infallible;

    const IDS: HeaderIds = HeaderIds { cluster_id: 1, member_id: 2, raft_term: 3 };

    fn messages(body: ReplyBody, fragment_bytes: usize) -> Vec<WatchResponse> {
        let reply = Reply { watch_id: 7, revision: Revision(9), body };
        let frames = reply.frames(IDS, fragment_bytes, |_| Ok::<_, Infallible>(None)).unwrap();
        frames
            .iter()
            .map(|frame| {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                assert_eq!(bytes.len(), frame.encoded_len());
                let message = WatchResponse::decode(bytes.as_slice()).unwrap();
                assert_eq!(message, frame.to_message().unwrap());
                assert_eq!(message.encode_to_vec(), bytes);
                message
            })
            .collect()
    }

    fn events(count: usize, fragment: bool) -> ReplyBody {
        let kv = KeyValue { key: Bytes::from("k"), value: Bytes::from(vec![0; 100]), ..Default::default() };
        let event = Event { kind: EventKind::Put, kv, previous: None };
        let delivery = Arc::new(Delivery::new(vec![event; count], Revision(9), Revision(9)));
        ReplyBody::Events { delivery, prev_kv: false, fragment }
    }

    #[test]
    fn each_answer_has_the_marks_clients_look_for() {
        let refused = &messages(ReplyBody::Refused(Refusal::EmptyRange), 100)[0];
        assert!(refused.created && refused.canceled);
        assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
        assert_eq!(refused.compact_revision, 0);
        let compacted = &messages(ReplyBody::Compacted { compacted: Revision(5) }, 100)[0];
        assert!(compacted.canceled && !compacted.created);
        assert_eq!((compacted.compact_revision, compacted.cancel_reason.as_str()), (5, ""));
        let progress = &messages(ReplyBody::Progress, 100)[0];
        assert_eq!((progress.watch_id, progress.header.unwrap().revision), (7, 9));
        assert!(!progress.created && !progress.canceled && progress.events.is_empty());
    }

    #[test]
    fn every_piece_but_the_last_is_marked_as_a_fragment() {
        let pieces = messages(events(10, true), 400);
        assert!(pieces.len() > 1);
        let (last, others) = pieces.split_last().unwrap();
        assert!(others.iter().all(|piece| piece.fragment && piece.encoded_len() < 400));
        assert!(!last.fragment);
        assert_eq!(pieces.iter().map(|piece| piece.events.len()).sum::<usize>(), 10);
    }

    #[test]
    fn nothing_is_cut_without_leave_or_need() {
        assert_eq!(messages(events(10, false), 400).len(), 1);
        assert_eq!(messages(events(1, true), 10).len(), 1, "one event is never split");
        assert_eq!(messages(events(2, true), 10_000).len(), 1);
    }
}
