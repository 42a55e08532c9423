//! Links, packets, snapshots and questions between members.

use super::{Event, World};
use crate::member::edge::{Origin, PeerAnswer, PeerAsk, Ticket};
use crate::member::mail::{Outgoing, ToPeerLinks, ToRaftNode, ToSnapshotter};
use crate::member::{Fatal, peer_links};
use crate::network::{self, Packet, Way};
use crate::trace::Line;
use castd::ids::MemberId;
use castd::peer::guard::Refusal;
use castd::peer::wire::to_wire;
use castd::snapshot::outbound::Parcel;
use castd_proto::castdpb::{PeerEnvelope, PeerLane, SnapshotOffer};
use std::time::Duration;

impl World {
    /// A member tries to open a link.
    pub(super) fn dial(&mut self, place: usize, peer: MemberId, attempt: u64, urls: &[String]) {
        let (boot, own) = (self.members[place].boots, self.members[place].id);
        let running = self.members[place].running.as_ref();
        if running.is_none_or(|running| !running.actors.peer_links.is_dialling(peer, attempt)) {
            return;
        }
        let there = network::place_of(urls).filter(|to| {
            let member = self.members.get(*to);
            member.is_some_and(|member| member.running.is_some() && member.paused_until <= self.now)
        });
        let Some(to) = there.filter(|to| !self.network.is_broken((place, *to))) else {
            // Refused at once, or no answer within the time for it.
            let limit = if self.dice.chance(500) { self.settings.election_timeout / 2 } else { self.plan.transit };
            let after = self.dice.time(Duration::from_micros(100), limit);
            return self.put(after, Event::DialFailed { place, boot, peer, attempt });
        };
        let url = self.members[place].url.clone();
        let first = peer_links::introduction(self.settings.identity(own), peer, url);
        let mut admitted = Err(Refusal::UnknownSender);
        self.act(to, |_, around| {
            admitted = peer_links::admit(&first, around);
            Ok(())
        });
        match admitted {
            Ok(_) => {
                let to_boot = self.members[to].boots;
                self.network.open((place, to), attempt, boot, to_boot);
                self.trace.note(self.now, Some(own), Line::LinkOpens { to: peer.0 });
                self.checks.summary.count("a link was opened");
                self.tell(place, ToPeerLinks::Opened { peer, attempt });
            }
            Err(refusal) => self.tell_refused(place, peer, attempt, refusal),
        }
    }

    fn tell(&mut self, place: usize, mail: ToPeerLinks) {
        self.act(place, |_, around| {
            around.mail(mail);
            Ok(())
        });
    }

    fn tell_refused(&mut self, place: usize, peer: MemberId, attempt: u64, refusal: Refusal) {
        let why = match refusal {
            Refusal::OtherCluster => "OtherCluster",
            Refusal::OtherVersion => "OtherVersion",
            Refusal::OtherReceiver => "OtherReceiver",
            Refusal::UnknownSender => "UnknownSender",
            Refusal::RemovedSender => "RemovedSender",
            Refusal::Malformed(_) => "Malformed",
        };
        assert!(!matches!(refusal, Refusal::Malformed(_)), "a working member was refused: {refusal}");
        self.trace.note(self.now, Some(self.members[place].id), Line::LinkRefused { to: peer.0, why });
        self.checks.summary.count("a link was refused");
        self.tell(place, ToPeerLinks::Refused { peer, attempt, refusal });
    }

    pub(super) fn tell_closed(&mut self, place: usize, peer: MemberId, attempt: u64) {
        self.tell(place, ToPeerLinks::Closed { peer, attempt });
    }

    pub(super) fn send(
        &mut self,
        place: usize,
        to: MemberId,
        attempt: u64,
        lane: PeerLane,
        envelope: Box<PeerEnvelope>,
    ) {
        let Some(receiver) = self.place_of_member(to) else { return };
        let way = (place, receiver);
        let Some(connection) = self.network.connection(way).filter(|it| it.attempt == attempt) else { return };
        let packet = Packet { way, attempt, to_boot: connection.to_boot, lane, envelope };
        let mut arrivals = self.network.send(self.now, &packet, &mut self.network_dice);
        let Some(last) = arrivals.pop() else { return };
        for at in arrivals {
            let envelope = packet.envelope.clone();
            self.queue.put(at, Event::Packet(Packet { envelope, ..packet }));
        }
        self.queue.put(last, Event::Packet(packet));
    }

    pub(super) fn arrive(&mut self, packet: Packet) {
        let Packet { way, attempt, to_boot, envelope, .. } = packet;
        let (from, to) = way;
        // What was on its way when its sender ended arrives all the same; what was for another life of the receiver does not,
        // unless somebody in between has kept it.
        let is_for_this_life = self.is_running(to, to_boot);
        if self.network.is_cut(way) || self.members[to].running.is_none() || !(is_for_this_life || self.plan.strays) {
            self.network.lost += 1;
            return;
        }
        if !is_for_this_life {
            self.checks.summary.count("a packet was for another life");
        }
        // Another one may be in its place by now.
        let sender = MemberId(envelope.identity.as_ref().map_or(0, |identity| identity.from));
        self.trace.note(self.now, Some(self.members[to].id), Line::Arrives { from: sender.0 });
        let mut taken = Ok(());
        self.act(to, |_, around| {
            taken = peer_links::take_in(*envelope, sender, around);
            Ok(())
        });
        let open = self.network.connection(way).filter(|it| it.attempt == attempt);
        if let (Err(refusal), Some(connection)) = (taken, open) {
            self.network.close(way, attempt);
            let peer = self.members[to].id;
            if self.is_running(from, connection.from_boot) {
                self.tell_refused(from, peer, attempt, refusal);
                self.tell_closed(from, peer, attempt);
            }
        }
    }

    /// A connection that is broken is noticed by the one that has dialled.
    pub(super) fn notice(&mut self, way: Way, attempt: u64, only_if_cut: bool) {
        self.network.noticing.remove(&way);
        if only_if_cut && !self.network.is_broken(way) {
            return;
        }
        let Some(connection) = self.network.connection(way) else { return };
        if !self.network.close(way, attempt) || !self.is_running(way.0, connection.from_boot) {
            return;
        }
        let peer = self.members[way.1].id;
        self.trace.note(self.now, Some(self.members[way.0].id), Line::LinkCloses { to: peer.0 });
        self.checks.summary.count("a link was lost");
        self.tell_closed(way.0, peer, attempt);
    }

    /// Those who talk over a cut notice it after a while.
    pub(super) fn let_cuts_be_noticed(&mut self) {
        let broken: Vec<_> = self.network.connections().filter(|(way, _)| self.network.is_broken(*way)).collect();
        for (way, connection) in broken {
            if self.network.noticing.insert(way) {
                let silence = self.settings.election_timeout.max(Duration::from_secs(1));
                let after = self.dice.time(Duration::from_millis(1), silence);
                self.put(after, Event::Notice { way, attempt: connection.attempt, only_if_cut: true });
            }
        }
    }

    /// A snapshot has been on its way for as long as it takes.
    pub(super) fn carried(&mut self, place: usize, boot: u64, parcel: Parcel<Outgoing>, is_again: bool) {
        let to = parcel.to;
        let ok = self.is_running(place, boot) && self.hand_over(place, &parcel);
        let index = parcel.snapshot.file.position.index.0;
        self.trace.note(self.now, Some(self.members[place].id), Line::SnapshotCarried { to: to.0, index, ok });
        if is_again {
            return;
        }
        // Its end may be lost on the way back; and what was thought to be lost may arrive later.
        let is_known = ok && !self.network_dice.chance(50);
        if self.network_dice.chance(100) {
            let after = self.network_dice.latency(self.plan.transit * 200);
            self.put(after, Event::Carried { place, boot, parcel: Box::new(parcel), is_again: true });
        }
        if self.is_running(place, boot) {
            self.act(place, |_, around| {
                around.mail(ToSnapshotter::Carried { to, ok: is_known });
                Ok(())
            });
        }
    }

    /// The receiver takes it in, if it is there and needs it.
    fn hand_over(&mut self, place: usize, parcel: &Parcel<Outgoing>) -> bool {
        let Some(to) = self.place_of_member(parcel.to) else { return false };
        let is_there = self.members[to].running.is_some() && self.members[to].paused_until <= self.now;
        if !is_there || self.network.is_broken((place, to)) {
            return false;
        }
        let own = self.settings.identity(self.members[place].id);
        let offer = SnapshotOffer {
            identity: Some(castd::peer::identity_to(own, parcel.to)),
            message: Some(to_wire(parcel.message.clone())),
            bytes: parcel.snapshot.file.bytes.len() as u64,
            sha256: vec![0; 32].into(),
        };
        let (message, file) = (parcel.message.clone(), parcel.snapshot.file.clone());
        let mut is_taken = false;
        self.act(to, |_, around| {
            let admitted = peer_links::admit_snapshot(&offer, own, around);
            let status = around.shared.status;
            if admitted.is_err() || message.term < status.term.0 {
                return Ok(());
            }
            if status.committed < file.position.index {
                let name = castd::snapshot::file_name(file.position);
                if around.disk.find_snapshot(&name).is_none_or(|found| found.bytes != file.bytes) {
                    around.disk.receive_snapshot(file.bytes.clone()).map_err(Fatal::from)?;
                }
            }
            is_taken = true;
            around.mail(ToRaftNode::Step { messages: vec![message] });
            Ok(())
        });
        is_taken
    }

    pub(super) fn peer_asked(&mut self, place: usize, from: usize, boot: u64, ticket: Ticket, ask: PeerAsk) {
        if self.members[place].running.is_none() {
            return;
        }
        let caller = self.settings.identity(self.members[from].id);
        let mut is_admitted = false;
        self.act(place, |actors, around| {
            is_admitted = peer_links::admit_caller(caller, around).is_ok();
            if is_admitted {
                let origin = Origin::Peer { from: caller.member, boot, ticket };
                actors.edge.start_for_peer(origin, ask, around);
            }
            Ok(())
        });
        if !is_admitted && !self.network.is_cut((place, from)) {
            let after = self.dice.latency(self.plan.transit);
            self.put(after, Event::PeerAnswered { place: from, boot, ticket, answer: PeerAnswer::MayChange });
        }
    }
}
