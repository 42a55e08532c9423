//! Raft's messages on the wire, field by field: bytes from the network never reach rust-protobuf's decoder
//! (RUSTSEC-2024-0437).
//!
//! A message that was converted is well formed, not yet sensible: that is the business of [`super::guard`].

use crate::raft::forwarded::ForwardedProposal;
use crate::state::{conf_state_from_row, conf_state_row};
use castd_proto::castdpb::{
    ForwardedRequest, PeerEntry, PeerEntryType, PeerMessage, PeerMessageType, PeerSnapshotMeta,
};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

/// A number that no release we know uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("message type {0} is not known")]
    MessageType(i32),
    #[error("entry type {0} is not known")]
    EntryType(i32),
}

/// Pairs of the same thing in both worlds, as two functions without `_` in the first of them.
macro_rules! pairs {
    ($to:ident, $from:ident: $raft:ident, $peer:ident { $($variant:ident = $other:ident,)* }) => {
        fn $to(value: $raft) -> $peer {
            match value { $($raft::$variant => $peer::$other,)* }
        }

        fn $from(value: $peer) -> $raft {
            match value { $($peer::$other => $raft::$variant,)* }
        }
    };
}

pairs! { entry_type_to, entry_type_from: EntryType, PeerEntryType {
    EntryNormal = EntryNormal,
    EntryConfChange = EntryConfChange,
    EntryConfChangeV2 = EntryConfChangeV2,
} }

pairs! { message_type_to, message_type_from: MessageType, PeerMessageType {
    MsgHup = MsgHup,
    MsgBeat = MsgBeat,
    MsgPropose = MsgPropose,
    MsgAppend = MsgAppend,
    MsgAppendResponse = MsgAppendResponse,
    MsgRequestVote = MsgRequestVote,
    MsgRequestVoteResponse = MsgRequestVoteResponse,
    MsgSnapshot = MsgSnapshot,
    MsgHeartbeat = MsgHeartbeat,
    MsgHeartbeatResponse = MsgHeartbeatResponse,
    MsgUnreachable = MsgUnreachable,
    MsgSnapStatus = MsgSnapStatus,
    MsgCheckQuorum = MsgCheckQuorum,
    MsgTransferLeader = MsgTransferLeader,
    MsgTimeoutNow = MsgTimeoutNow,
    MsgReadIndex = MsgReadIndex,
    MsgReadIndexResp = MsgReadIndexResp,
    MsgRequestPreVote = MsgRequestPreVote,
    MsgRequestPreVoteResponse = MsgRequestPreVoteResponse,
} }

/// For the wire. A snapshot is only named: its rows travel otherwise.
pub fn to_wire(mut message: Message) -> PeerMessage {
    let msg_type = message_type_to(message.get_msg_type()).into();
    let entries = message.take_entries().into_iter().map(entry_to_wire).collect();
    let snapshot = message.snapshot.as_ref().map(|snapshot| {
        let metadata = snapshot.get_metadata();
        PeerSnapshotMeta {
            conf_state: Some(conf_state_row(metadata.get_conf_state())),
            index: metadata.index,
            term: metadata.term,
        }
    });
    PeerMessage {
        msg_type,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries,
        commit: message.commit,
        snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        request_snapshot: message.request_snapshot,
        commit_term: message.commit_term,
        priority: message.priority,
    }
}

fn entry_to_wire(entry: Entry) -> PeerEntry {
    PeerEntry {
        entry_type: entry_type_to(entry.get_entry_type()).into(),
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
    }
}

/// From the wire.
///
/// # Errors
/// When it uses numbers of a later release.
pub fn from_wire(wire: PeerMessage) -> Result<Message, WireError> {
    let mut message = Message {
        to: wire.to,
        from: wire.from,
        term: wire.term,
        log_term: wire.log_term,
        index: wire.index,
        commit: wire.commit,
        commit_term: wire.commit_term,
        reject: wire.reject,
        reject_hint: wire.reject_hint,
        context: wire.context,
        request_snapshot: wire.request_snapshot,
        priority: wire.priority,
        ..Message::default()
    };
    message.set_msg_type(message_type(wire.msg_type)?);
    let entries = wire.entries.into_iter().map(entry_from_wire).collect::<Result<Vec<Entry>, WireError>>()?;
    message.set_entries(entries.into());
    if let Some(meta) = wire.snapshot {
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = meta.index;
        metadata.term = meta.term;
        if let Some(row) = meta.conf_state {
            metadata.set_conf_state(conf_state_from_row(row));
        }
    }
    Ok(message)
}

fn entry_from_wire(wire: PeerEntry) -> Result<Entry, WireError> {
    let mut entry =
        Entry { term: wire.term, index: wire.index, data: wire.data, context: wire.context, ..Entry::default() };
    entry.set_entry_type(entry_type(wire.entry_type)?);
    Ok(entry)
}

pub fn message_type(number: i32) -> Result<MessageType, WireError> {
    PeerMessageType::try_from(number).map(message_type_from).map_err(|_| WireError::MessageType(number))
}

fn entry_type(number: i32) -> Result<EntryType, WireError> {
    PeerEntryType::try_from(number).map(entry_type_from).map_err(|_| WireError::EntryType(number))
}

pub fn forwarded_to_wire(forwarded: ForwardedProposal) -> ForwardedRequest {
    let ForwardedProposal { boot, sequence, kind, data } = forwarded;
    ForwardedRequest { boot, sequence, entry_type: entry_type_to(kind).into(), data }
}

/// # Errors
/// When it uses numbers of a later release.
pub fn forwarded_from_wire(wire: ForwardedRequest) -> Result<ForwardedProposal, WireError> {
    let ForwardedRequest { boot, sequence, entry_type: kind, data } = wire;
    Ok(ForwardedProposal { boot, sequence, kind: entry_type(kind)?, data })
}

/// What a message takes in memory and on the wire, near enough for limits.
pub fn message_bytes(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| 32 + entry.data.len() + entry.context.len()).sum::<usize>();
    64 + message.context.len() + entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_proto::castdpb::PeerEnvelope;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message as _;
    use raft::eraftpb::ConfState;

    fn bytes() -> impl Strategy<Value = bytes::Bytes> {
        vec(any::<u8>(), 0..20).prop_map(bytes::Bytes::from)
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (0..3_i32, any::<u64>(), any::<u64>(), bytes(), bytes());
        vec(entry, 0..5).prop_map(|entries| {
            let entry = |(kind, term, index, data, context)| {
                let mut entry = Entry { term, index, data, context, ..Entry::default() };
                entry.set_entry_type(entry_type(kind).expect("one of three"));
                entry
            };
            entries.into_iter().map(entry).collect()
        })
    }

    fn snapshot() -> impl Strategy<Value = Option<(u64, u64, ConfState)>> {
        let ids = || vec(any::<u64>(), 0..3);
        let conf_state =
            (ids(), ids(), ids(), ids(), any::<bool>()).prop_map(|(voters, learners, out, next, leave)| {
                let (voters_outgoing, learners_next, auto_leave) = (out, next, leave);
                ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() }
            });
        proptest::option::of((any::<u64>(), any::<u64>(), conf_state))
    }

    prop_compose! {
        fn messages()(
            kind in 0..19_i32,
            numbers in any::<[u64; 9]>(),
            reject in any::<bool>(),
            priority in any::<i64>(),
            context in bytes(),
            entries in entries(),
            snapshot in snapshot(),
        ) -> Message {
            let [to, from, term, log_term, index, commit, commit_term, reject_hint, request_snapshot] = numbers;
            let mut message = Message {
                to, from, term, log_term, index, commit, commit_term, reject, reject_hint, request_snapshot, priority,
                context,
                ..Message::default()
            };
            message.set_msg_type(message_type(kind).expect("one of nineteen"));
            message.set_entries(entries.into());
            if let Some((index, term, conf_state)) = snapshot {
                let metadata = message.mut_snapshot().mut_metadata();
                metadata.index = index;
                metadata.term = term;
                metadata.set_conf_state(conf_state);
            }
            message
        }
    }

    proptest! {
        #[test]
        fn a_message_comes_out_as_it_went_in(message in messages()) {
            let bytes = to_wire(message.clone()).encode_to_vec();
            let wire = PeerMessage::decode(bytes.as_slice()).expect("what we wrote");
            prop_assert_eq!(from_wire(wire), Ok(message));
        }

        #[test]
        fn a_forwarded_request_comes_out_as_it_went_in(boot: u64, sequence: u64, kind in 0..3_i32, data in bytes()) {
            let forwarded = ForwardedProposal { boot, sequence, kind: entry_type(kind).expect("one of three"), data };
            let wire = forwarded_to_wire(forwarded.clone());
            prop_assert_eq!(forwarded_from_wire(wire), Ok(forwarded));
        }

        #[test]
        fn garbage_is_an_error_or_a_message_and_never_a_panic(
            garbage in vec(any::<u8>(), 0..200),
            message in messages(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let messages = vec![to_wire(message)];
            let mut damaged = PeerEnvelope { messages, ..PeerEnvelope::default() }.encode_to_vec();
            for (place, byte) in damage {
                let place = place.index(damaged.len());
                damaged[place] = byte;
            }
            for bytes in [garbage, damaged] {
                let Ok(envelope) = PeerEnvelope::decode(bytes.as_slice()) else { continue };
                envelope.messages.into_iter().for_each(|message| drop(from_wire(message)));
                envelope.forwarded.into_iter().for_each(|forwarded| drop(forwarded_from_wire(forwarded)));
            }
        }
    }

    #[test]
    fn numbers_of_a_later_release_are_named() {
        let wire = PeerMessage { msg_type: 19, ..PeerMessage::default() };
        assert_eq!(from_wire(wire), Err(WireError::MessageType(19)));
        let entries = vec![PeerEntry { entry_type: 3, ..PeerEntry::default() }];
        assert_eq!(from_wire(PeerMessage { entries, ..PeerMessage::default() }), Err(WireError::EntryType(3)));
    }
}
