//! The link to one peer: two lanes out, and what is known of the peer's being there.
//!
//! ```text
//!   PeerLinks ──Carry──▶ PeerLink ──push──▶ outbox of the urgent lane, or of the bulk lane ┄┄▶ peer
//!                          ▲ └──PeerUnreachable──▶ RaftNode
//!                          └── Heard (its lanes' tasks: opened, closed)
//! ```
//!
//! What finds no open lane, or no room on it, is dropped. Raft is told of entries that were: it would wait for answers. The
//! algorithm of a lane is [`crate::peer::lane`], that of its limits [`crate::peer::outbox`].

use crate::actors::peer_links::{LinkChanged, LinkRefused};
use crate::actors::raft_node::PeerUnreachable;
use crate::ids::MemberId;
use crate::membership::urls::Url;
use crate::peer::guard::Refusal;
use crate::peer::lane::{Closed, Event, LaneMetrics, LaneTask};
use crate::peer::outbox::{Item, Outbox};
use crate::peer::quiet::Quiet;
use crate::peer::roster::parsed;
use crate::peer::{PeerSettings, lane_of};
use crate::raft::forwarded::ForwardedProposal;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, Recipient};
use castd_proto::castdpb::PeerLane;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use raft::eraftpb;
use slog::{Logger, info, warn};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Command: these are for your peer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Carry {
    pub messages: Vec<eraftpb::Message>,
    pub requests: Vec<ForwardedProposal>,
}

/// Command: the peer is reached at these URLs from now on. What is open stays so: a member is told of its new address before it
/// is there, and has to be heard until then (etcd keeps its streams, too).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Redial {
    pub urls: Vec<String>,
}

/// Command: the peer is no longer a member; close all connections and end.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Retire;

/// From a lane's task, told to itself.
#[derive(Message)]
#[rtype(result = "()")]
struct Heard {
    lane: PeerLane,
    generation: u64,
    event: Event,
}

/// One of the two: first the urgent one, then the bulk one.
struct Lane {
    /// Of the task: what an ended one had to say does not count.
    generation: u64,
    outbox: Option<Outbox>,
    /// Ends with it.
    task: Option<AbortOnDropHandle<()>>,
}

struct LinkMetrics {
    sent_failures: IntCounter,
    active: IntGauge,
    disconnected: IntCounter,
    lane: LaneMetrics,
}

pub struct PeerLink {
    peer: MemberId,
    /// Shared with the tasks of the lanes.
    urls: Arc<Mutex<Vec<Url>>>,
    settings: Arc<PeerSettings>,
    link_changed: Recipient<LinkChanged>,
    link_refused: Recipient<LinkRefused>,
    unreachable: Recipient<PeerUnreachable>,
    lanes: [Lane; 2],
    is_active: bool,
    quiet: Quiet<Subject>,
    clock: Clock,
    metrics: LinkMetrics,
    log: Logger,
}

/// What a line may be about.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Refused(Refusal),
    Unreachable,
    LaneOpened(i32),
    LaneLost(i32),
    Full(i32),
}

impl PeerLink {
    #[allow(clippy::too_many_arguments, reason = "made in one place")]
    pub fn new(
        peer: MemberId,
        urls: Vec<String>,
        settings: Arc<PeerSettings>,
        link_changed: Recipient<LinkChanged>,
        link_refused: Recipient<LinkRefused>,
        unreachable: Recipient<PeerUnreachable>,
        clock: Clock,
        metrics: &Metrics,
        log: Logger,
    ) -> Self {
        let (own, to) = (settings.identity.member.to_string(), peer.to_string());
        let network = &metrics.network;
        let metrics = LinkMetrics {
            sent_failures: network.peer_sent_failures.with_label_values(&[&to]),
            active: network.active_peers.with_label_values(&[&own, &to]),
            disconnected: network.disconnected_peers.with_label_values(&[&own, &to]),
            lane: LaneMetrics {
                sent_bytes: network.peer_sent_bytes.with_label_values(&[&to]),
                round_trip: network.peer_round_trip_time.with_label_values(&[&to]),
            },
        };
        let lane = || Lane { generation: 0, outbox: None, task: None };
        let lanes = [lane(), lane()];
        PeerLink {
            peer,
            urls: Arc::new(Mutex::new(parsed(&urls))),
            settings,
            link_changed,
            link_refused,
            unreachable,
            lanes,
            is_active: false,
            quiet: Quiet::default(),
            clock,
            metrics,
            log,
        }
    }

    fn lane(&mut self, lane: PeerLane) -> &mut Lane {
        let [urgent, bulk] = &mut self.lanes;
        match lane {
            PeerLane::Urgent => urgent,
            PeerLane::Bulk => bulk,
        }
    }

    /// Begins anew: a connection that is open is closed.
    fn dial(&mut self, lane: PeerLane, context: &mut Context<Self>) {
        let task = LaneTask {
            peer: self.peer,
            lane,
            urls: Arc::clone(&self.urls),
            settings: Arc::clone(&self.settings),
            clock: self.clock,
            metrics: self.metrics.lane.clone(),
        };
        let own = context.address();
        let state = self.lane(lane);
        state.generation += 1;
        state.outbox = None;
        let generation = state.generation;
        let tell = move |event| own.do_send(Heard { lane, generation, event });
        state.task = Some(AbortOnDropHandle::new(actix::spawn(async move {
            task.run(tell).await;
        })));
    }

    /// Whether it is on its way.
    fn push(&mut self, lane: PeerLane, item: Item) -> bool {
        let outbox = self.lane(lane).outbox.as_ref();
        let (is_open, is_taken) = (outbox.is_some(), outbox.is_some_and(|outbox| outbox.push(item)));
        if is_taken {
            return true;
        }
        self.metrics.sent_failures.inc();
        if is_open && self.quiet.may_say(Subject::Full(lane.into()), self.clock.now()) {
            warn!(self.log, "dropped internal Raft message since sending buffer is full";
                "lane" => lane.as_str_name(), "local-member-id" => %self.settings.identity.member,
                "remote-peer-id" => %self.peer, "remote-peer-active" => self.is_active);
        }
        false
    }

    fn opened(&mut self, lane: PeerLane, outbox: Outbox) {
        self.lane(lane).outbox = Some(outbox);
        if self.quiet.may_say(Subject::LaneOpened(lane.into()), self.clock.now()) {
            info!(self.log, "established TCP streaming connection with remote peer";
                "lane" => lane.as_str_name(), "local-member-id" => %self.settings.identity.member,
                "remote-peer-id" => %self.peer);
        }
        if lane == PeerLane::Urgent && !self.is_active {
            self.is_active = true;
            self.metrics.active.set(1);
            info!(self.log, "peer became active"; "peer-id" => %self.peer);
            let connected_since = Some(self.clock.now());
            self.link_changed.do_send(LinkChanged { peer: self.peer, connected_since });
        }
    }

    fn closed(&mut self, lane: PeerLane, reason: &Closed, was_open: bool, url: &str) {
        let now = self.clock.now();
        self.lane(lane).outbox = None;
        if was_open {
            // Its outbox went with it.
            self.tell_unreachable(lane);
            if self.quiet.may_say(Subject::LaneLost(lane.into()), now) {
                warn!(self.log, "lost TCP streaming connection with remote peer"; "lane" => lane.as_str_name(),
                    "local-member-id" => %self.settings.identity.member, "remote-peer-id" => %self.peer,
                    "error" => %reason);
            }
        }
        if lane == PeerLane::Urgent {
            self.became_inactive(reason);
        }
        if let Closed::Refused(refusal) = reason {
            self.tell_refused(*refusal);
            self.link_refused.do_send(LinkRefused { peer: self.peer, refusal: *refusal });
        } else if !was_open && self.quiet.may_say(Subject::Unreachable, now) {
            warn!(self.log, "failed to reach the peer URL"; "address" => url, "remote-member-id" => %self.peer,
                "error" => %reason);
        }
    }

    fn became_inactive(&mut self, reason: &Closed) {
        if !std::mem::take(&mut self.is_active) {
            return;
        }
        self.metrics.active.set(0);
        self.metrics.disconnected.inc();
        warn!(self.log, "peer became inactive (message send to peer failed)"; "peer-id" => %self.peer,
            "error" => %reason);
        self.link_changed.do_send(LinkChanged { peer: self.peer, connected_since: None });
    }

    /// What is lost on the urgent lane is small, and raft repeats it unasked.
    fn tell_unreachable(&self, lane: PeerLane) {
        if lane == PeerLane::Bulk {
            self.unreachable.do_send(PeerUnreachable { peer: self.peer });
        }
    }

    /// In etcd's words.
    fn tell_refused(&mut self, refusal: Refusal) {
        if !self.quiet.may_say(Subject::Refused(refusal), self.clock.now()) {
            return;
        }
        let text = match refusal {
            Refusal::OtherCluster => "request sent was ignored by remote peer due to cluster ID mismatch",
            Refusal::OtherVersion => "request sent was ignored by remote peer due to server version incompatibility",
            Refusal::OtherReceiver | Refusal::UnknownSender | Refusal::RemovedSender | Refusal::Malformed(_) => {
                "request sent was ignored by peer"
            }
        };
        warn!(self.log, "{text}"; "remote-peer-id" => %self.peer,
            "local-member-id" => %self.settings.identity.member,
            "local-member-cluster-id" => %self.settings.identity.cluster, "error" => %refusal);
    }
}

impl Actor for PeerLink {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.dial(PeerLane::Urgent, context);
        self.dial(PeerLane::Bulk, context);
    }
}

impl Handler<Carry> for PeerLink {
    type Result = ();

    fn handle(&mut self, carry: Carry, _: &mut Self::Context) {
        let mut entries_lost = false;
        for message in carry.messages {
            let lane = lane_of(&message);
            entries_lost |= !self.push(lane, Item::Message(message)) && lane == PeerLane::Bulk;
        }
        for request in carry.requests {
            // Repeated by whoever forwards.
            self.push(PeerLane::Bulk, Item::Forwarded(request));
        }
        if entries_lost {
            self.tell_unreachable(PeerLane::Bulk);
        }
    }
}

impl Handler<Heard> for PeerLink {
    type Result = ();

    fn handle(&mut self, heard: Heard, context: &mut Self::Context) {
        let Heard { lane, generation, event } = heard;
        if self.lane(lane).generation != generation {
            return;
        }
        match event {
            Event::Opened(outbox) => self.opened(lane, outbox),
            Event::Closed { reason, was_open, url } => {
                self.closed(lane, &reason, was_open, &url);
                // Whoever does not answer heartbeats does not take entries either; the other lane would only notice later.
                if lane == PeerLane::Urgent && matches!(reason, Closed::Silent(_)) && was_open {
                    let was_open = self.lane(PeerLane::Bulk).outbox.is_some();
                    self.closed(PeerLane::Bulk, &reason, was_open, &url);
                    self.dial(PeerLane::Bulk, context);
                }
            }
        }
    }
}

impl Handler<Redial> for PeerLink {
    type Result = ();

    fn handle(&mut self, redial: Redial, context: &mut Self::Context) {
        *self.urls.lock() = parsed(&redial.urls);
        for lane in [PeerLane::Urgent, PeerLane::Bulk] {
            if self.lane(lane).outbox.is_none() {
                self.dial(lane, context);
            }
        }
    }
}

impl Handler<Retire> for PeerLink {
    type Result = ();

    fn handle(&mut self, _: Retire, context: &mut Self::Context) {
        self.lanes.iter_mut().for_each(|lane| lane.task = None);
        self.metrics.active.set(0);
        info!(self.log, "stopped remote peer"; "remote-peer-id" => %self.peer);
        context.stop();
    }
}
