//! The shells of PeerLinks and of its links, and the peer port: who is reached, what waits on a lane, who may come in.
//!
//! A link is opened by the world around, which knows who is up and what is cut; what a link carries goes through the outbox,
//! over the wire and through the guard, as on a real one.

use super::mail::{Out, ToPeerLinks, ToRaftNode, ToSnapshotter};
use super::{Around, Fatal};
use crate::summary::raft_name;
use crate::trace::Line;
use castd::cast::Identity;
use castd::ids::MemberId;
use castd::peer::flight::Flight;
use castd::peer::guard::{Guard, Refusal};
use castd::peer::outbox::{Envelopes, Item, Outbox, outbox};
use castd::peer::wire::{forwarded_from_wire, from_wire};
use castd::peer::{identity_to, lane_of};
use castd::telemetry::clock::Clock;
use castd_proto::castdpb::{PeerEnvelope, PeerLane, SnapshotOffer};
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use prometheus::IntCounter;
use raft::eraftpb::MessageType;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A member that was removed tells the others how far it has come before it goes.
const DEPARTS_AFTER: Duration = Duration::from_secs(1);

struct Lane {
    outbox: Outbox,
    envelopes: Envelopes,
}

struct Child {
    urls: Vec<String>,
    /// Of opening the link; what an earlier one had to say does not count.
    attempt: u64,
    /// Urgent and bulk, while it is open.
    lanes: Option<[Lane; 2]>,
}

pub struct PeerLinks {
    children: BTreeMap<MemberId, Child>,
    next_attempt: u64,
    departs_at: Option<Duration>,
    /// Stamps are for round trips, which nobody measures here.
    clock: Clock,
    sent_bytes: IntCounter,
}

impl PeerLinks {
    pub fn new(boot: u64) -> Result<Self, Fatal> {
        let sent_bytes = IntCounter::new("sent", "sent").map_err(Fatal::new)?;
        let (children, departs_at) = Default::default();
        // Never the same as in another life.
        let next_attempt = boot << 32;
        Ok(PeerLinks { children, next_attempt, departs_at, clock: Clock::start(), sent_bytes })
    }

    /// Whether this attempt to reach `peer` is the one that counts: others are given up.
    pub fn is_dialling(&self, peer: MemberId, attempt: u64) -> bool {
        self.children.get(&peer).is_some_and(|child| child.attempt == attempt && child.lanes.is_none())
    }

    pub fn handle(&mut self, mail: ToPeerLinks, around: &mut Around<'_>) {
        match mail {
            ToPeerLinks::Send { messages } => self.send(messages, around),
            ToPeerLinks::Forward { to, requests } => {
                around.note(Line::Forwards { to: to.0, requests: requests.len() });
                for request in requests {
                    self.push(to, PeerLane::Bulk, Item::Forwarded(request), around);
                }
                self.flush(to, around);
            }
            ToPeerLinks::MembershipChanged { members } => {
                if members.is_removed(around.id) && self.departs_at.is_none() {
                    self.departs_at = Some(around.now + DEPARTS_AFTER);
                }
                Arc::make_mut(&mut around.shared.roster).update(members);
                self.follow_roster(around);
            }
            ToPeerLinks::PeerIntroduced { peer, urls } => {
                let now = around.now;
                if peer != around.id && Arc::make_mut(&mut around.shared.roster).introduce(peer, urls, now) {
                    self.follow_roster(around);
                }
            }
            ToPeerLinks::Opened { peer, attempt } => self.opened(peer, attempt, around),
            ToPeerLinks::Closed { peer, attempt } => self.closed(peer, attempt, around),
            ToPeerLinks::Refused { peer, attempt, refusal } => {
                if refusal == Refusal::RemovedSender && self.departs_at.is_none() {
                    self.departs_at = Some(around.now);
                }
                if self.children.get(&peer).is_some_and(|child| child.attempt == attempt) {
                    self.dial(peer, around.settings.election_timeout / 2, around);
                }
            }
            ToPeerLinks::Tick { now } => {
                self.probe(around);
                if self.departs_at.is_some_and(|at| now >= at) {
                    around.out.push(Out::Depart);
                }
            }
        }
    }

    fn follow_roster(&mut self, around: &mut Around<'_>) {
        let wanted = around.shared.roster.peers(around.id);
        let gone: Vec<MemberId> = self.children.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for peer in gone {
            if let Some(child) = self.children.remove(&peer) {
                around.out.push(Out::HangUp { peer, attempt: child.attempt });
            }
            around.shared.connections.0.remove(&peer);
        }
        for (peer, urls) in wanted {
            match self.children.get_mut(&peer) {
                Some(child) if child.urls == urls => {}
                Some(child) => {
                    around.out.push(Out::HangUp { peer, attempt: child.attempt });
                    child.urls = urls;
                    if child.lanes.take().is_some() {
                        around.mail(ToRaftNode::PeerUnreachable { peer });
                        self.link_changed(peer, None, around);
                    }
                    self.dial(peer, Duration::ZERO, around);
                }
                None => {
                    self.children.insert(peer, Child { urls, attempt: 0, lanes: None });
                    self.dial(peer, Duration::ZERO, around);
                }
            }
        }
    }

    fn dial(&mut self, peer: MemberId, after: Duration, around: &mut Around<'_>) {
        let Some(child) = self.children.get_mut(&peer) else { return };
        self.next_attempt += 1;
        child.attempt = self.next_attempt;
        let (attempt, urls) = (child.attempt, child.urls.clone());
        around.out.push(Out::Dial { peer, attempt, after, urls });
    }

    fn opened(&mut self, peer: MemberId, attempt: u64, around: &mut Around<'_>) {
        let own = around.settings.identity(around.id);
        let lane = |lane| {
            let flight = Arc::new(Mutex::new(Flight::new(Duration::from_secs(1), Duration::ZERO)));
            let identity = identity_to(own, peer);
            let (outbox, mut envelopes) =
                outbox(identity, Vec::new(), lane, flight, self.clock, self.sent_bytes.clone());
            // It has introduced itself with the first one already.
            let introduction = next(&mut envelopes);
            debug_assert!(introduction.is_some());
            Lane { outbox, envelopes }
        };
        let Some(child) = self.children.get_mut(&peer).filter(|child| child.attempt == attempt) else {
            around.out.push(Out::HangUp { peer, attempt });
            return;
        };
        child.lanes = Some([lane(PeerLane::Urgent), lane(PeerLane::Bulk)]);
        self.link_changed(peer, Some(around.now), around);
    }

    fn closed(&mut self, peer: MemberId, attempt: u64, around: &mut Around<'_>) {
        let Some(child) = self.children.get_mut(&peer).filter(|child| child.attempt == attempt) else { return };
        if child.lanes.take().is_some() {
            around.mail(ToRaftNode::PeerUnreachable { peer });
            self.link_changed(peer, None, around);
        }
        let pause = around.dice.time(Duration::from_millis(1), around.settings.election_timeout / 2);
        self.dial(peer, pause, around);
    }

    /// An idle lane is asked whether it is there.
    fn probe(&mut self, around: &mut Around<'_>) {
        let peers: Vec<MemberId> = self.children.keys().copied().collect();
        for peer in peers {
            let Some(lanes) = self.children.get(&peer).and_then(|child| child.lanes.as_ref()) else { continue };
            for lane in lanes {
                // A full lane says enough.
                let _ = lane.outbox.push(Item::Probe);
            }
            self.flush(peer, around);
        }
    }

    fn link_changed(&self, peer: MemberId, connected_since: Option<Duration>, around: &mut Around<'_>) {
        around.mail(ToRaftNode::LinkChanged { peer, connected_since });
        match connected_since {
            Some(since) => drop(around.shared.connections.0.insert(peer, since)),
            None => drop(around.shared.connections.0.remove(&peer)),
        }
    }

    fn send(&mut self, messages: Vec<raft::eraftpb::Message>, around: &mut Around<'_>) {
        let mut receivers = Vec::new();
        for message in messages {
            // raft-rs sends a read that came to the wrong leader on to the right one, in its asker's name.
            if message.from != around.id.0 {
                continue;
            }
            let to = MemberId(message.to);
            if message.get_msg_type() == MessageType::MsgSnapshot {
                around.mail(ToSnapshotter::SendSnapshot { message });
                continue;
            }
            let kind = message.get_msg_type();
            around.checks.summary.raft_message(kind);
            around.checks.sent(around.id, &message);
            around.note(Line::Message {
                to: to.0,
                kind: raft_name(kind),
                term: message.term,
                index: message.index,
                log_term: message.log_term,
                entries: message.entries.len(),
                reject: message.reject,
            });
            if !receivers.contains(&to) {
                receivers.push(to);
            }
            let lane = lane_of(&message);
            if !self.push(to, lane, Item::Message(message), around) && lane == PeerLane::Bulk {
                around.mail(ToRaftNode::PeerUnreachable { peer: to });
            }
        }
        receivers.into_iter().for_each(|to| self.flush(to, around));
    }

    /// Whether it is on its way.
    fn push(&self, to: MemberId, lane: PeerLane, item: Item, around: &mut Around<'_>) -> bool {
        let lanes = self.children.get(&to).and_then(|child| child.lanes.as_ref());
        let is_taken = lanes.is_some_and(|lanes| lanes[lane_index(lane)].outbox.push(item));
        if !is_taken {
            around.checks.summary.count("a lane took no more");
        }
        is_taken
    }

    /// What waits leaves, in envelopes.
    fn flush(&mut self, to: MemberId, around: &mut Around<'_>) {
        let Some(child) = self.children.get_mut(&to) else { return };
        let (attempt, Some(lanes)) = (child.attempt, &mut child.lanes) else { return };
        for (lane, Lane { envelopes, .. }) in [PeerLane::Urgent, PeerLane::Bulk].into_iter().zip(lanes) {
            while let Some(envelope) = next(envelopes) {
                let envelope = Box::new(PeerEnvelope { sent_at_nanos: 0, ..envelope });
                around.out.push(Out::Envelope { to, attempt, lane, envelope });
            }
        }
    }
}

fn lane_index(lane: PeerLane) -> usize {
    usize::from(lane == PeerLane::Bulk)
}

fn next(envelopes: &mut Envelopes) -> Option<PeerEnvelope> {
    envelopes.next().now_or_never().flatten()
}

/// What `own` says first on each lane to `to`.
pub fn introduction(own: Identity, to: MemberId, own_url: String) -> PeerEnvelope {
    PeerEnvelope { identity: Some(identity_to(own, to)), peer_urls: vec![own_url], ..PeerEnvelope::default() }
}

/// The peer port: somebody opens a link.
///
/// # Errors
/// When the guard does not let it in.
pub fn admit(first: &PeerEnvelope, around: &mut Around<'_>) -> Result<MemberId, Refusal> {
    let guard = Guard { own: around.settings.identity(around.id) };
    let from = guard.envelope(first, None, &around.shared.roster)?;
    around.mail(ToPeerLinks::PeerIntroduced { peer: from, urls: first.peer_urls.clone() });
    Ok(from)
}

/// The peer port: an envelope of `from`.
///
/// # Errors
/// When the guard does not let it in: the link is closed.
pub fn take_in(envelope: PeerEnvelope, from: MemberId, around: &mut Around<'_>) -> Result<(), Refusal> {
    let guard = Guard { own: around.settings.identity(around.id) };
    guard.envelope(&envelope, Some(from), &around.shared.roster)?;
    let unknown = |_| Refusal::Malformed("an unknown number");
    let mut messages = Vec::with_capacity(envelope.messages.len());
    for message in envelope.messages {
        guard.message(&message, from)?;
        messages.push(from_wire(message).map_err(unknown)?);
    }
    let mut requests = Vec::with_capacity(envelope.forwarded.len());
    for request in envelope.forwarded {
        guard.forwarded(&request)?;
        requests.push(forwarded_from_wire(request).map_err(unknown)?);
    }
    if !messages.is_empty() {
        around.mail(ToRaftNode::Step { messages });
    }
    if !requests.is_empty() {
        around.mail(ToRaftNode::Forwarded { from, requests });
    }
    Ok(())
}

/// For a question of another member, outside of the link.
///
/// # Errors
/// When it is not a member.
pub fn admit_caller(from: Identity, around: &Around<'_>) -> Result<MemberId, Refusal> {
    let guard = Guard { own: around.settings.identity(around.id) };
    guard.sender(Some(&identity_to(from, around.id)), &around.shared.roster, false)
}

/// The peer port: another member offers a snapshot.
///
/// # Errors
/// When the guard does not let it in.
pub fn admit_snapshot(offer: &SnapshotOffer, from: Identity, around: &Around<'_>) -> Result<(), Refusal> {
    let from = admit_caller(from, around)?;
    Guard { own: around.settings.identity(around.id) }.snapshot(offer, from)
}
