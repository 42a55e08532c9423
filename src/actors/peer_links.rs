//! The links to the other members: one child actor for each, as the applied log lists them.
//!
//! ```text
//!   Applier ──MembershipChanged──▶ PeerLinks ──starts, Redial, ends──▶ PeerLink (one for each peer) ┄┄▶ peer
//!   RaftNode ──Send, Forward─────────▶ └──Carry─────────────────────────▶ │
//!                                      ▲────────LinkChanged, LinkRefused──┘
//! ```
//!
//! It publishes two tables: who there is (for the guard on the peer port) and since when each is reached. It decides
//! nothing about raft. What arrives from peers does not come through here; see `peer::service`.

use crate::actors::Tick;
use crate::actors::peer_link::{Carry, PeerLink, Redial, Retire};
use crate::actors::raft_node::PeerUnreachable;
use crate::cast::Published;
use crate::ids::MemberId;
use crate::membership::members::Members;
use crate::peer::PeerSettings;
use crate::peer::guard::Refusal;
use crate::peer::roster::{Connections, Roster};
use crate::raft::forwarded::ForwardedProposal;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, Recipient};
use raft::eraftpb::{self, MessageType};
use slog::{Logger, info, warn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A member that was removed tells the others how far it has come before it goes.
const DEPARTS_AFTER: Duration = Duration::from_secs(1);

/// Command: carry these raft messages to the members that they name. May drop any of them: raft repeats what matters.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Send {
    pub messages: Vec<eraftpb::Message>,
}

/// Command: bring these requests to the leader. May drop any of them: whoever forwards repeats what is not answered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Forward {
    pub to: MemberId,
    pub requests: Vec<ForwardedProposal>,
}

/// Event, from the Applier: the members as of now. Sent at the start and after each change.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct MembershipChanged {
    pub members: Arc<Members>,
}

/// Event, from the peer port: a member of this cluster opened a stream and said where it is reached.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PeerIntroduced {
    pub peer: MemberId,
    pub urls: Vec<String>,
}

/// Event, from PeerLink, and passed on: the peer is reached since then, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinkChanged {
    pub peer: MemberId,
    pub connected_since: Option<Duration>,
}

/// Event, from PeerLink: the peer does not let this member in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LinkRefused {
    pub peer: MemberId,
    pub refusal: Refusal,
}

/// Takes a MsgSnapshot on its way: whoever streams snapshots. It tells raft what became of it.
pub type SnapshotCourier = Arc<dyn Fn(eraftpb::Message) + core::marker::Send + Sync>;

/// A link, as PeerLinks knows it.
pub struct Link {
    pub carry: Recipient<Carry>,
    pub redial: Recipient<Redial>,
    pub retire: Recipient<Retire>,
}

/// Begins the link to a peer, in the place of a [`PeerLink`]: where members share a thread, nobody has to dial.
pub type BeginsLink =
    Arc<dyn Fn(MemberId, Recipient<LinkChanged>, Recipient<PeerUnreachable>) -> Link + core::marker::Send + Sync>;

/// What PeerLinks has to do with others.
pub struct Links {
    pub unreachable: Recipient<PeerUnreachable>,
    pub link_changed: Recipient<LinkChanged>,
    pub snapshots: Option<SnapshotCourier>,
    /// `None` for links by TCP.
    pub begins_link: Option<BeginsLink>,
    pub roster: Published<Roster>,
    pub connections: Published<Connections>,
    /// Given when this member was removed from the cluster.
    pub removed: CancellationToken,
}

pub struct PeerLinks {
    settings: Arc<PeerSettings>,
    links: Links,
    roster: Roster,
    connections: Connections,
    children: BTreeMap<MemberId, Child>,
    /// When this member is to end, because it was removed.
    departs_at: Option<Duration>,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

struct Child {
    link: Link,
    urls: Vec<String>,
}

impl PeerLinks {
    pub fn new(settings: PeerSettings, links: Links, clock: Clock, metrics: Metrics, log: Logger) -> Self {
        PeerLinks {
            settings: Arc::new(settings),
            links,
            roster: Roster::default(),
            connections: Connections::default(),
            children: BTreeMap::new(),
            departs_at: None,
            clock,
            metrics,
            log,
        }
    }

    fn own(&self) -> MemberId {
        self.settings.identity.member
    }

    /// Makes the children those of the roster.
    fn follow_roster(&mut self, own_address: &Addr<PeerLinks>) {
        self.links.roster.store(self.roster.clone());
        let wanted = self.roster.peers(self.own());
        let gone: Vec<MemberId> = self.children.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for peer in gone {
            self.end(peer);
        }
        for (peer, urls) in wanted {
            match self.children.get_mut(&peer) {
                Some(child) if child.urls == urls => {}
                Some(child) => {
                    info!(self.log, "updated remote peer"; "local-member-id" => %self.settings.identity.member,
                        "remote-peer-id" => %peer, "updated-remote-peer-urls" => slog::Serde(urls.clone()));
                    child.urls.clone_from(&urls);
                    child.link.redial.do_send(Redial { urls });
                }
                None => self.begin(peer, urls, own_address),
            }
        }
    }

    fn begin(&mut self, peer: MemberId, urls: Vec<String>, own_address: &Addr<PeerLinks>) {
        info!(self.log, "added remote peer"; "local-member-id" => %self.own(), "remote-peer-id" => %peer,
            "remote-peer-urls" => slog::Serde(urls.clone()));
        let (own, remote) = (self.own().to_string(), peer.to_string());
        self.metrics.network.known_peers.with_label_values(&[&own, &remote]).set(1);
        let link = match &self.links.begins_link {
            Some(begins) => begins(peer, own_address.clone().recipient(), self.links.unreachable.clone()),
            None => self.dial(peer, urls.clone(), own_address),
        };
        self.children.insert(peer, Child { link, urls });
    }

    fn dial(&self, peer: MemberId, urls: Vec<String>, own_address: &Addr<PeerLinks>) -> Link {
        let link = PeerLink::new(
            peer,
            urls,
            Arc::clone(&self.settings),
            own_address.clone().recipient(),
            own_address.clone().recipient(),
            self.links.unreachable.clone(),
            self.clock,
            &self.metrics,
            self.log.clone(),
        );
        let link = link.start();
        Link { carry: link.clone().recipient(), redial: link.clone().recipient(), retire: link.recipient() }
    }

    fn end(&mut self, peer: MemberId) {
        let Some(child) = self.children.remove(&peer) else { return };
        child.link.retire.do_send(Retire);
        info!(self.log, "removed remote peer"; "local-member-id" => %self.own(), "removed-remote-peer-id" => %peer);
        self.metrics.network.forget_peer(&self.own().to_string(), &peer.to_string());
        if self.connections.0.remove(&peer).is_some() {
            self.links.connections.store(self.connections.clone());
        }
    }

    /// To whom a message goes; `None` if it goes nowhere by a link.
    fn receiver(&self, message: &eraftpb::Message) -> Option<MemberId> {
        // raft-rs sends a read that came to the wrong leader on to the right one, in its asker's name. The asker asks again.
        (message.from == self.own().0).then_some(MemberId(message.to))
    }
}

impl Actor for PeerLinks {
    type Context = Context<Self>;
}

impl Handler<Send> for PeerLinks {
    type Result = ();

    fn handle(&mut self, send: Send, _: &mut Self::Context) {
        let mut letters: Vec<(MemberId, Vec<eraftpb::Message>)> = Vec::new();
        for message in send.messages {
            let Some(to) = self.receiver(&message) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                match &self.links.snapshots {
                    Some(courier) => courier(message),
                    None => warn!(self.log, "nobody carries snapshots yet"; "remote-peer-id" => %to),
                }
                continue;
            }
            match letters.iter_mut().find(|(peer, _)| *peer == to) {
                Some((_, letter)) => letter.push(message),
                None => letters.push((to, vec![message])),
            }
        }
        for (to, messages) in letters {
            match self.children.get(&to) {
                Some(child) => child.link.carry.do_send(Carry { messages, requests: Vec::new() }),
                // Not applied yet, or gone already.
                None => self.links.unreachable.do_send(PeerUnreachable { peer: to }),
            }
        }
    }
}

impl Handler<Forward> for PeerLinks {
    type Result = ();

    fn handle(&mut self, forward: Forward, _: &mut Self::Context) {
        if let Some(child) = self.children.get(&forward.to) {
            child.link.carry.do_send(Carry { messages: Vec::new(), requests: forward.requests });
        }
    }
}

impl Handler<MembershipChanged> for PeerLinks {
    type Result = ();

    fn handle(&mut self, changed: MembershipChanged, context: &mut Self::Context) {
        if changed.members.is_removed(self.own()) && self.departs_at.is_none() {
            self.departs_at = Some(self.clock.now() + DEPARTS_AFTER);
        }
        self.roster.update(changed.members);
        self.follow_roster(&context.address());
    }
}

impl Handler<PeerIntroduced> for PeerLinks {
    type Result = ();

    fn handle(&mut self, introduced: PeerIntroduced, context: &mut Self::Context) {
        if introduced.peer != self.own() && self.roster.introduce(introduced.peer, introduced.urls, self.clock.now()) {
            self.follow_roster(&context.address());
        }
    }
}

impl Handler<LinkChanged> for PeerLinks {
    type Result = ();

    fn handle(&mut self, changed: LinkChanged, _: &mut Self::Context) {
        self.links.link_changed.do_send(changed);
        match changed.connected_since {
            // A child that has ended may still have had something to say.
            Some(since) if self.children.contains_key(&changed.peer) => {
                self.connections.0.insert(changed.peer, since);
            }
            _ => {
                self.connections.0.remove(&changed.peer);
            }
        }
        self.links.connections.store(self.connections.clone());
    }
}

impl Handler<LinkRefused> for PeerLinks {
    type Result = ();

    fn handle(&mut self, refused: LinkRefused, _: &mut Self::Context) {
        if refused.refusal == Refusal::RemovedSender && self.departs_at.is_none() {
            self.departs_at = Some(self.clock.now());
        }
    }
}

impl Handler<Tick> for PeerLinks {
    type Result = ();

    fn handle(&mut self, tick: Tick, _: &mut Self::Context) {
        if self.departs_at.is_some_and(|at| tick.now >= at) {
            self.links.removed.cancel();
        }
    }
}
