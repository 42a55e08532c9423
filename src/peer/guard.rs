//! Decides whether what came from a peer may reach raft.
//!
//! ```text
//!   envelope ─▶ whose is it? (cluster, version, receiver, sender) ─▶ each message: may a peer say this, and can it be true?
//! ```
//! raft-rs trusts its messages: an index that cannot be ends the process, an empty read index is a panic. So everything is
//! refused here that a working peer would never send, without regard to raft's state. What depends on that state (a
//! commit index above our log, say) is `raft::node`'s to drop.
//!
//! A sender whom our log does not know is let in if it says where it is reached: a member that was away while others
//! joined learns of them from the new leader, so it has to listen to it. It proved to be of our cluster, and an id that was
//! removed never gets in.

use crate::cast::Identity;
use crate::config::ETCD_VERSION;
use crate::ids::MemberId;
use crate::peer::roster::Roster;
use crate::peer::wire;
use castd_proto::castdpb::{ForwardedRequest, PeerEntry, PeerEnvelope, PeerIdentity, PeerMessage, SnapshotOffer};
use raft::eraftpb::MessageType;

/// Terms and indexes beyond this are nonsense, and raft adds to them without looking.
const NUMBER_MAX: u64 = 1 << 62;
/// Of a heartbeat, an entry or a read: ours have 24 bytes.
const CONTEXT_BYTES_MAX: usize = 1 << 10;
/// Raft gathers at most 1 MiB of entries in a message, and an entry has some bytes of its own.
const ENTRIES_MAX: usize = 1 << 18;
const MESSAGES_MAX: usize = 1 << 14;
const FORWARDED_MAX: usize = 1 << 14;
const URLS_MAX: usize = 64;
const URL_BYTES_MAX: usize = 1 << 12;

/// Why something was not let in. What the peer is told stands in `api::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("it belongs to another cluster")]
    OtherCluster,
    #[error("its major version is another one")]
    OtherVersion,
    #[error("it is meant for another member")]
    OtherReceiver,
    #[error("its sender is unknown")]
    UnknownSender,
    #[error("its sender was removed from the cluster")]
    RemovedSender,
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
}

/// Who may come in.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub own: Identity,
}

impl Guard {
    /// Whose it is. `may_be_new` where a sender may introduce itself.
    ///
    /// # Errors
    /// When it is not for us, or not from a member.
    pub fn sender(
        &self,
        identity: Option<&PeerIdentity>,
        roster: &Roster,
        may_be_new: bool,
    ) -> Result<MemberId, Refusal> {
        let identity = identity.ok_or(Refusal::Malformed("it names no sender"))?;
        let from = MemberId(identity.from);
        if identity.cluster_id != self.own.cluster.0 {
            return Err(Refusal::OtherCluster);
        }
        if major(&identity.server_version).is_none_or(|theirs| Some(theirs) != major(ETCD_VERSION)) {
            return Err(Refusal::OtherVersion);
        }
        if identity.to != self.own.member.0 {
            return Err(Refusal::OtherReceiver);
        }
        if roster.is_removed(from) {
            return Err(Refusal::RemovedSender);
        }
        if from.0 == 0 || from == self.own.member {
            return Err(Refusal::UnknownSender);
        }
        if roster.knows(from) || may_be_new { Ok(from) } else { Err(Refusal::UnknownSender) }
    }

    /// An envelope of a stream that `from` opened, as far as its sender and its shape go; `None` for the first.
    ///
    /// # Errors
    /// As [`Guard::sender`], and when another member speaks in a stream that is not its own.
    pub fn envelope(
        &self,
        envelope: &PeerEnvelope,
        from: Option<MemberId>,
        roster: &Roster,
    ) -> Result<MemberId, Refusal> {
        let introduces_itself = !envelope.peer_urls.is_empty() || from.is_some();
        let sender = self.sender(envelope.identity.as_ref(), roster, introduces_itself)?;
        if from.is_some_and(|from| from != sender) {
            return Err(Refusal::Malformed("its sender is not the one who opened the stream"));
        }
        let urls = &envelope.peer_urls;
        if urls.len() > URLS_MAX || urls.iter().any(|url| url.len() > URL_BYTES_MAX) {
            return Err(Refusal::Malformed("too many URLs"));
        }
        if envelope.messages.len() > MESSAGES_MAX || envelope.forwarded.len() > FORWARDED_MAX {
            return Err(Refusal::Malformed("too many messages"));
        }
        Ok(sender)
    }

    /// A raft message of a stream that `from` opened.
    ///
    /// # Errors
    /// When no working peer would say it.
    pub fn message(&self, message: &PeerMessage, from: MemberId) -> Result<(), Refusal> {
        let fault = |text| Err(Refusal::Malformed(text));
        let Ok(kind) = wire::message_type(message.msg_type) else { return fault("an unknown message type") };
        let PeerMessage { term, log_term, index, commit, commit_term, reject_hint, request_snapshot, .. } = *message;
        let numbers = [term, log_term, index, commit, commit_term, reject_hint, request_snapshot];
        let is_read = matches!(kind, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp);
        match kind {
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgCheckQuorum
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgTransferLeader => {
                return fault("a message that only a member itself may send to its raft");
            }
            MessageType::MsgSnapshot => return fault("a snapshot outside of SendSnapshot"),
            MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgTimeoutNow
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse => {}
        }
        self.addressed(message, from)?;
        if numbers.iter().any(|number| *number > NUMBER_MAX) {
            return fault("a number that is too large");
        }
        // raft-rs takes term 0 for "local", and dies of forwarding a read index with another one.
        if (term == 0) != (kind == MessageType::MsgReadIndex) {
            return fault("a term that this message does not have");
        }
        if message.context.len() > CONTEXT_BYTES_MAX {
            return fault("a context that is too long");
        }
        if message.snapshot.is_some() {
            return fault("a snapshot in a message that has none");
        }
        if is_read {
            return match message.entries.as_slice() {
                [read] if !read.data.is_empty() && read.data.len() <= CONTEXT_BYTES_MAX => Ok(()),
                _ => fault("a read index without its context"),
            };
        }
        if kind == MessageType::MsgAppend {
            return entries_after(message);
        }
        if !message.entries.is_empty() {
            return fault("entries in a message that has none");
        }
        Ok(())
    }

    /// A snapshot that `from` offers.
    ///
    /// # Errors
    /// When no working peer would offer it.
    pub fn snapshot(&self, offer: &SnapshotOffer, from: MemberId) -> Result<(), Refusal> {
        let fault = |text| Err(Refusal::Malformed(text));
        let Some(message) = &offer.message else { return fault("a snapshot without its message") };
        let Some(meta) = &message.snapshot else { return fault("a snapshot that is not named") };
        if wire::message_type(message.msg_type) != Ok(MessageType::MsgSnapshot) {
            return fault("a snapshot with another message");
        }
        self.addressed(message, from)?;
        let numbers = [message.term, message.index, message.commit, meta.index, meta.term, offer.bytes];
        if numbers.iter().any(|number| *number > NUMBER_MAX) {
            return fault("a number that is too large");
        }
        if meta.index == 0 || meta.term == 0 || meta.term > message.term || !message.entries.is_empty() {
            return fault("a snapshot that cannot be");
        }
        if meta.conf_state.as_ref().is_none_or(|conf_state| conf_state.voters.is_empty()) {
            return fault("a snapshot of a cluster without voters");
        }
        if offer.bytes == 0 || offer.sha256.len() != 32 {
            return fault("a snapshot without length or checksum");
        }
        Ok(())
    }

    fn addressed(&self, message: &PeerMessage, from: MemberId) -> Result<(), Refusal> {
        if message.to != self.own.member.0 {
            return Err(Refusal::Malformed("a message for another member"));
        }
        if message.from != from.0 {
            return Err(Refusal::Malformed("a message of another member"));
        }
        Ok(())
    }

    /// # Errors
    /// When no working peer would forward it.
    pub fn forwarded(&self, request: &ForwardedRequest) -> Result<(), Refusal> {
        if request.data.is_empty() {
            return Err(Refusal::Malformed("a forwarded request without data"));
        }
        Ok(())
    }
}

/// Entries follow on the index before them, one by one, and their terms never fall.
fn entries_after(append: &PeerMessage) -> Result<(), Refusal> {
    let fault = |text| Err(Refusal::Malformed(text));
    if append.entries.len() > ENTRIES_MAX {
        return fault("too many entries");
    }
    if append.log_term > append.term || (append.index == 0) != (append.log_term == 0) {
        return fault("entries after an entry that cannot be");
    }
    let (mut index, mut term) = (append.index, append.log_term);
    for PeerEntry { index: next, term: entry_term, context, .. } in &append.entries {
        if *next != index + 1 {
            return fault("entries with a gap");
        }
        if *entry_term < term.max(1) || *entry_term > append.term {
            return fault("an entry of a term that cannot be");
        }
        if context.len() > CONTEXT_BYTES_MAX {
            return fault("an entry with a context that is too long");
        }
        (index, term) = (*next, *entry_term);
    }
    Ok(())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, LogIndex};
    use crate::membership::members::{MemberRow, Members};
    use castd_proto::castdpb::{ConfStateRow, PeerMessageType as Type, PeerSnapshotMeta};
    use castd_proto::etcdserverpb::Member;
    use std::sync::Arc;

    const US: MemberId = MemberId(1);
    const PEER: MemberId = MemberId(2);
    const REMOVED: MemberId = MemberId(3);
    const STRANGER: MemberId = MemberId(4);
    const GUARD: Guard = Guard { own: Identity { cluster: ClusterId(7), member: US } };

    fn roster() -> Roster {
        let known = |id: MemberId| MemberRow::Set(Member { id: id.0, ..Member::default() });
        let members = Members::restore([known(US), known(PEER), MemberRow::Removed(REMOVED)], LogIndex(9));
        Roster::new(Arc::new(members))
    }

    fn identity(from: MemberId) -> PeerIdentity {
        PeerIdentity { cluster_id: 7, from: from.0, to: US.0, server_version: "3.6.0".to_owned() }
    }

    #[test]
    fn whoever_is_not_a_member_of_ours_is_told_why() {
        let of = |change: fn(&mut PeerIdentity)| {
            let mut identity = identity(PEER);
            change(&mut identity);
            GUARD.sender(Some(&identity), &roster(), false)
        };
        assert_eq!(of(|_| {}), Ok(PEER));
        assert_eq!(of(|it| it.cluster_id = 8), Err(Refusal::OtherCluster));
        assert_eq!(of(|it| it.server_version = "4.0.0".to_owned()), Err(Refusal::OtherVersion));
        assert_eq!(of(|it| it.server_version = String::new()), Err(Refusal::OtherVersion));
        assert_eq!(of(|it| it.to = 2), Err(Refusal::OtherReceiver));
        assert_eq!(of(|it| it.from = REMOVED.0), Err(Refusal::RemovedSender));
        assert_eq!(of(|it| it.from = STRANGER.0), Err(Refusal::UnknownSender));
        assert_eq!(of(|it| it.from = US.0), Err(Refusal::UnknownSender));
        assert_eq!(of(|it| it.from = 0), Err(Refusal::UnknownSender));
        // A removed member of another cluster is nobody's business but its own cluster's.
        assert_eq!(of(|it| (it.from, it.cluster_id) = (REMOVED.0, 8)), Err(Refusal::OtherCluster));
        assert!(matches!(GUARD.sender(None, &roster(), true), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_stranger_may_introduce_itself_and_a_removed_member_may_not() {
        let urls = vec!["http://h:1".to_owned()];
        let hello = |from, urls: &[String]| {
            let peer_urls = urls.to_vec();
            let envelope = PeerEnvelope { identity: Some(identity(from)), peer_urls, ..PeerEnvelope::default() };
            GUARD.envelope(&envelope, None, &roster())
        };
        assert_eq!(hello(STRANGER, &urls), Ok(STRANGER));
        assert_eq!(hello(STRANGER, &[]), Err(Refusal::UnknownSender));
        assert_eq!(hello(PEER, &[]), Ok(PEER));
        assert_eq!(hello(REMOVED, &urls), Err(Refusal::RemovedSender));
        assert!(matches!(hello(PEER, &vec![String::new(); 65]), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn nobody_speaks_in_a_stream_that_another_has_opened() {
        let envelope = PeerEnvelope { identity: Some(identity(PEER)), ..PeerEnvelope::default() };
        assert_eq!(GUARD.envelope(&envelope, Some(PEER), &roster()), Ok(PEER));
        assert!(matches!(GUARD.envelope(&envelope, Some(STRANGER), &roster()), Err(Refusal::Malformed(_))));
    }

    fn message(kind: Type) -> PeerMessage {
        PeerMessage { msg_type: kind.into(), to: US.0, from: PEER.0, term: 5, ..PeerMessage::default() }
    }

    fn entry(index: u64, term: u64) -> PeerEntry {
        PeerEntry { index, term, ..PeerEntry::default() }
    }

    /// Entries 11 and 12 after 10.
    fn append() -> PeerMessage {
        PeerMessage { index: 10, log_term: 3, entries: vec![entry(11, 3), entry(12, 5)], ..message(Type::MsgAppend) }
    }

    fn read() -> PeerMessage {
        let entries = vec![PeerEntry { data: "context".into(), ..PeerEntry::default() }];
        PeerMessage { term: 0, entries, ..message(Type::MsgReadIndex) }
    }

    #[test]
    fn what_raft_says_to_itself_is_never_taken_from_a_peer() {
        for kind in 0..40 {
            let taken = GUARD.message(&PeerMessage { msg_type: kind, ..message(Type::MsgAppend) }, PEER).is_ok();
            let expected = [3, 4, 5, 6, 8, 9, 14, 17, 18].contains(&kind);
            assert_eq!(taken, expected, "type {kind}");
        }
        assert_eq!(GUARD.message(&read(), PEER), Ok(()));
    }

    #[test]
    fn what_a_working_peer_says_is_let_in() {
        let answer = PeerMessage { term: 5, msg_type: Type::MsgReadIndexResp.into(), ..read() };
        let first = PeerMessage { index: 0, log_term: 0, entries: vec![entry(1, 1)], ..append() };
        let nothing_new = PeerMessage { entries: vec![], ..append() };
        for message in [append(), first, nothing_new, read(), answer] {
            assert_eq!(GUARD.message(&message, PEER), Ok(()), "{message:?}");
        }
    }

    #[test]
    fn a_snapshot_is_named_and_measured_or_kept_out() {
        let meta = PeerSnapshotMeta {
            conf_state: Some(ConfStateRow { voters: vec![1], ..ConfStateRow::default() }),
            index: 10,
            term: 3,
        };
        let message = PeerMessage { snapshot: Some(meta), ..message(Type::MsgSnapshot) };
        let sound = SnapshotOffer { message: Some(message), bytes: 7, sha256: vec![0; 32].into(), identity: None };
        assert_eq!(GUARD.snapshot(&sound, PEER), Ok(()));
        let changed = |change: fn(&mut SnapshotOffer, &mut PeerMessage)| {
            let mut offer = sound.clone();
            let mut message = offer.message.take().expect("it has one");
            change(&mut offer, &mut message);
            offer.message = Some(message);
            GUARD.snapshot(&offer, PEER)
        };
        let faults: [fn(&mut SnapshotOffer, &mut PeerMessage); 9] = [
            |offer, _| offer.bytes = 0,
            |offer, _| offer.bytes = u64::MAX,
            |offer, _| offer.sha256 = "short".into(),
            |_, message| message.snapshot = None,
            |_, message| message.snapshot = Some(PeerSnapshotMeta { index: 10, term: 3, conf_state: None }),
            |_, message| message.term = 2,
            |_, message| message.from = STRANGER.0,
            |_, message| message.to = PEER.0,
            |_, message| message.msg_type = Type::MsgAppend.into(),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(matches!(changed(fault), Err(Refusal::Malformed(_))), "fault {number}");
        }
        assert!(GUARD.snapshot(&SnapshotOffer { message: None, ..sound.clone() }, PEER).is_err());
    }

    #[test]
    fn what_no_working_peer_says_is_kept_out() {
        let long = bytes::Bytes::from(vec![0; 1_025]);
        let with_context = PeerEntry { context: long.clone(), ..entry(11, 3) };
        for (fault, message) in [
            ("for another", PeerMessage { to: 3, ..append() }),
            ("of another", PeerMessage { from: 4, ..append() }),
            ("no term", PeerMessage { term: 0, ..append() }),
            ("an index at the end of numbers", PeerMessage { index: u64::MAX, ..message(Type::MsgAppendResponse) }),
            ("a commit there", PeerMessage { commit: u64::MAX, ..message(Type::MsgHeartbeat) }),
            (
                "a snapshot request there",
                PeerMessage { request_snapshot: u64::MAX, ..message(Type::MsgAppendResponse) },
            ),
            ("a read with a term", PeerMessage { term: 5, ..read() }),
            ("a read without context", PeerMessage { entries: vec![], ..read() }),
            ("a read with an empty context", PeerMessage { entries: vec![entry(0, 0)], ..read() }),
            ("a long context", PeerMessage { context: long, ..message(Type::MsgHeartbeat) }),
            ("a long context in an entry", PeerMessage { entries: vec![with_context], ..append() }),
            ("entries in a vote", PeerMessage { entries: vec![entry(1, 1)], ..message(Type::MsgRequestVote) }),
            ("a gap", PeerMessage { entries: vec![entry(11, 3), entry(13, 5)], ..append() }),
            ("a gap before", PeerMessage { entries: vec![entry(12, 3)], ..append() }),
            ("terms that fall", PeerMessage { entries: vec![entry(11, 5), entry(12, 4)], ..append() }),
            ("an entry of the future", PeerMessage { entries: vec![entry(11, 6)], ..append() }),
            ("an entry of no term", PeerMessage { index: 0, log_term: 0, entries: vec![entry(1, 0)], ..append() }),
            ("after an entry of the future", PeerMessage { log_term: 6, entries: vec![], ..append() }),
            ("after nothing, of a term", PeerMessage { index: 0, entries: vec![], ..append() }),
            ("a snapshot", PeerMessage { snapshot: Some(Default::default()), ..message(Type::MsgHeartbeat) }),
        ] {
            assert!(matches!(GUARD.message(&message, PEER), Err(Refusal::Malformed(_))), "{fault}");
        }
    }
}
