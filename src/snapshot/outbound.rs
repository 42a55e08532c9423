//! Which snapshot goes to which member, and when: the Snapshotter's core for members that lag.
//!
//! ```text
//!   raft wants one ──wanted──▶ Prepare ──prepared──▶ offered ──MsgSnapshot: send──▶ under way ──ended──▶ the next that waits
//!                                                       └──nobody used it for a while──▶ withdrawn
//! ```
//! All who lag share the one that is offered. While it is offered or under way, the log behind it is held: whoever installs
//! it goes on from there. Pure: no disk, no clock, no network.

use super::Outgoing;
use crate::ids::{LogIndex, MemberId};
use crate::raft::terms::LogPosition;
use crate::raft::window::has_member;
use crate::state::conf_state_from_row;
use castd_proto::castdpb::SnapshotHeader;
use raft::eraftpb::Message;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Transfers under way at the same time. Further members wait: two at full speed are done sooner than ten at a fifth.
const TRANSFERS_MAX: usize = 2;
/// An offer that nobody has used for so long is withdrawn, and the log behind it may be cut. Whoever has got it takes entries
/// at once, before it has installed it.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// After a snapshot could not be written, the next try waits.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What to do because raft wants a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is being done, or is not to be tried again yet.
    Wait,
    /// Say again which one is offered: it will do.
    OfferAgain,
    /// Find one, or write one; then call [`Outbound::prepared`] or [`Outbound::not_prepared`].
    Prepare,
}

/// A snapshot that can be sent, wherever its bytes are.
pub trait Sendable: Clone {
    fn header(&self) -> &SnapshotHeader;
}

impl Sendable for Outgoing {
    fn header(&self) -> &SnapshotHeader {
        Outgoing::header(self)
    }
}

fn position_of(snapshot: &impl Sendable) -> LogPosition {
    LogPosition::new(snapshot.header().index, snapshot.header().term)
}

/// A snapshot on its way to a member.
#[derive(Clone, Debug)]
pub struct Parcel<S = Outgoing> {
    pub to: MemberId,
    /// The MsgSnapshot that names it.
    pub message: Message,
    pub snapshot: S,
}

#[derive(Debug)]
struct Offered<S> {
    snapshot: S,
    used_at: Duration,
}

#[derive(Debug)]
pub struct Outbound<S = Outgoing> {
    offered: Option<Offered<S>>,
    is_preparing: bool,
    not_before: Duration,
    /// With what each gets.
    under_way: BTreeMap<MemberId, LogIndex>,
    waiting: VecDeque<Parcel<S>>,
}

impl<S> Default for Outbound<S> {
    fn default() -> Self {
        let (under_way, waiting) = Default::default();
        Outbound { offered: None, is_preparing: false, not_before: Duration::ZERO, under_way, waiting }
    }
}

impl<S: Sendable> Outbound<S> {
    /// Raft needs one for `to` that contains entry `index_min`. It asks again and again until it has one.
    pub fn wanted(&mut self, now: Duration, to: MemberId, index_min: LogIndex) -> Wanted {
        if self.is_preparing {
            return Wanted::Wait;
        }
        if let Some(offered) = &mut self.offered
            && will_do(&offered.snapshot, to, index_min)
        {
            offered.used_at = now;
            return Wanted::OfferAgain;
        }
        if now < self.not_before {
            return Wanted::Wait;
        }
        self.is_preparing = true;
        Wanted::Prepare
    }

    pub fn prepared(&mut self, now: Duration, snapshot: S) {
        self.is_preparing = false;
        self.offered = Some(Offered { snapshot, used_at: now });
    }

    pub fn not_prepared(&mut self, now: Duration) {
        self.is_preparing = false;
        self.not_before = now + RETRY_AFTER;
    }

    /// Raft has said that the offered snapshot goes to a member.
    ///
    /// # Errors
    /// Gives the receiver back if the snapshot is not offered any more.
    pub fn send(&mut self, now: Duration, message: Message) -> Result<Option<Parcel<S>>, MemberId> {
        let (to, metadata) = (MemberId(message.to), message.get_snapshot().get_metadata());
        let is_meant = |offered: &&mut Offered<S>| {
            let header = offered.snapshot.header();
            (header.index, header.term) == (metadata.index, metadata.term)
        };
        let Some(offered) = self.offered.as_mut().filter(is_meant) else { return Err(to) };
        offered.used_at = now;
        let parcel = Parcel { to, snapshot: offered.snapshot.clone(), message };
        self.waiting.retain(|waiting| waiting.to != to);
        self.waiting.push_back(parcel);
        Ok(self.next())
    }

    /// The transfer to `to` is over, well or not. Answers the next to begin.
    pub fn ended(&mut self, now: Duration, to: MemberId) -> Option<Parcel<S>> {
        let sent = self.under_way.remove(&to);
        if let Some(offered) = &mut self.offered
            && sent == Some(position_of(&offered.snapshot).index)
        {
            offered.used_at = now;
        }
        self.next()
    }

    fn next(&mut self) -> Option<Parcel<S>> {
        if self.under_way.len() >= TRANSFERS_MAX {
            return None;
        }
        let place = self.waiting.iter().position(|parcel| !self.under_way.contains_key(&parcel.to))?;
        let parcel = self.waiting.remove(place)?;
        self.under_way.insert(parcel.to, position_of(&parcel.snapshot).index);
        Some(parcel)
    }

    /// Answers whether the offer was withdrawn just now.
    pub fn withdraw_unused(&mut self, now: Duration) -> bool {
        let is_in_use = !self.under_way.is_empty() || !self.waiting.is_empty();
        let is_unused = |offered: &mut Offered<S>| now >= offered.used_at + UNUSED_MAX;
        !is_in_use && self.offered.take_if(is_unused).is_some()
    }

    /// What is offered, if anything is.
    pub fn offered(&self) -> Option<&S> {
        self.offered.as_ref().map(|offered| &offered.snapshot)
    }

    /// The log is not to be cut above this.
    pub fn held(&self) -> Option<LogIndex> {
        let offered = self.offered.iter().map(|offered| position_of(&offered.snapshot).index);
        let waiting = self.waiting.iter().map(|parcel| position_of(&parcel.snapshot).index);
        offered.chain(waiting).chain(self.under_way.values().copied()).min()
    }
}

/// Whether `snapshot` reaches far enough, and knows its receiver: raft ignores one of a cluster that it is not in.
pub fn will_do(snapshot: &impl Sendable, to: MemberId, index_min: LogIndex) -> bool {
    let header = snapshot.header();
    let conf_state = header.conf_state.clone().map(conf_state_from_row).unwrap_or_default();
    header.index >= index_min.0 && has_member(&conf_state, to.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Exporting;
    use castd_proto::castdpb::ConfStateRow;
    use raft::eraftpb::MessageType;

    fn outgoing(index: u64, voters: &[u64]) -> Outgoing {
        let dir = tempfile::tempdir().expect("a directory");
        let conf_state = Some(ConfStateRow { voters: voters.to_vec(), ..Default::default() });
        let header = SnapshotHeader { format: 1, index, term: 2, conf_state, ..Default::default() };
        Exporting::begin(dir.path(), &header).and_then(|exporting| exporting.finish(header)).expect("written")
    }

    fn message(to: u64, index: u64) -> Message {
        let mut message = Message { to, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.mut_snapshot().mut_metadata().index = index;
        message.mut_snapshot().mut_metadata().term = 2;
        message
    }

    const fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn one_is_prepared_at_a_time_and_shared_by_all_it_will_do_for() {
        let mut outbound = Outbound::default();
        assert_eq!(outbound.wanted(at(1), MemberId(2), LogIndex(10)), Wanted::Prepare);
        assert_eq!(outbound.wanted(at(1), MemberId(3), LogIndex(10)), Wanted::Wait);
        outbound.prepared(at(2), outgoing(12, &[1, 2, 3]));
        for to in [2, 3] {
            assert_eq!(outbound.wanted(at(2), MemberId(to), LogIndex(12)), Wanted::OfferAgain);
        }
        assert_eq!(outbound.wanted(at(2), MemberId(4), LogIndex(12)), Wanted::Prepare, "it joined later");
        outbound.not_prepared(at(3));
        assert_eq!(outbound.wanted(at(4), MemberId(4), LogIndex(12)), Wanted::Wait);
        assert_eq!(outbound.wanted(at(13), MemberId(2), LogIndex(13)), Wanted::Prepare, "it does not reach far enough");
    }

    #[test]
    fn two_go_at_a_time_and_the_others_in_their_turn() {
        let mut outbound = Outbound::default();
        outbound.prepared(at(0), outgoing(12, &[1, 2, 3, 4, 5]));
        let to = |parcel: Option<Parcel>| parcel.map(|parcel| parcel.to.0);
        assert_eq!(to(outbound.send(at(1), message(2, 12)).expect("offered")), Some(2));
        assert_eq!(to(outbound.send(at(1), message(3, 12)).expect("offered")), Some(3));
        for member in [4, 5, 4, 2] {
            assert_eq!(to(outbound.send(at(1), message(member, 12)).expect("offered")), None);
        }
        assert_eq!(to(outbound.ended(at(2), MemberId(3))), Some(5));
        assert_eq!(to(outbound.ended(at(2), MemberId(5))), Some(4));
        assert_eq!(to(outbound.ended(at(2), MemberId(2))), Some(2), "asked for again meanwhile");
        assert_eq!(outbound.send(at(3), message(3, 11)).map(to), Err(MemberId(3)), "another one");
    }

    #[test]
    fn the_log_is_held_until_nobody_needs_what_is_behind_the_snapshot() {
        let mut outbound = Outbound::default();
        assert_eq!(outbound.held(), None);
        outbound.prepared(at(0), outgoing(12, &[1, 2]));
        assert!(outbound.send(at(1), message(2, 12)).expect("offered").is_some());
        outbound.prepared(at(2), outgoing(20, &[1, 2]));
        assert_eq!(outbound.held(), Some(LogIndex(12)));
        assert!(!outbound.withdraw_unused(at(100)), "one is still under way");
        outbound.ended(at(100), MemberId(2));
        assert_eq!(outbound.held(), Some(LogIndex(20)));
        assert!(outbound.withdraw_unused(at(100)), "nobody has used the second");
        assert_eq!((outbound.held(), outbound.offered().is_none()), (None, true));

        outbound.prepared(at(200), outgoing(30, &[1, 2]));
        assert!(outbound.send(at(201), message(2, 30)).expect("offered").is_some());
        outbound.ended(at(260), MemberId(2));
        assert!(!outbound.withdraw_unused(at(269)), "whoever has got it needs the log for a while");
        assert!(outbound.withdraw_unused(at(270)));
    }
}
