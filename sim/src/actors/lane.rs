//! The way from one member to another, in the place of PeerLink and TCP: two lanes, each in order, with delays and losses.

use super::Script;
use crate::dice::Dice;
use actix::{Actor, Context, Handler, Recipient};
use castd::actors::peer_link::{Carry, Redial, Retire};
use castd::actors::peer_links::{BeginsLink, Link, LinkChanged};
use castd::actors::raft_node::{Forwarded, PeerUnreachable, Step};
use castd::ids::MemberId;
use castd::peer::lane_of;
use castd::peer::service::Receivers;
use castd::telemetry::clock::Clock;
use castd_proto::castdpb::PeerLane;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

#[derive(Clone)]
pub struct Lanes {
    seed: u64,
    delay_max: Duration,
    loss: u32,
    clock: Clock,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    receivers: BTreeMap<MemberId, Receivers>,
    is_calm: bool,
}

/// What a member sends to another one: the urgent lane, and the bulk lane.
struct LaneLink {
    outboxes: [mpsc::UnboundedSender<Carry>; 2],
}

impl Lanes {
    pub fn new(script: &Script, clock: Clock) -> Self {
        let Script { seed, delay_max, loss, .. } = *script;
        Lanes { seed, delay_max, loss, clock, shared: Arc::default() }
    }

    pub fn enter(&self, member: MemberId, receivers: Receivers) {
        self.shared.lock().receivers.insert(member, receivers);
    }

    /// From now on everything arrives, soon.
    pub fn calm(&self) {
        self.shared.lock().is_calm = true;
    }

    pub fn links_of(&self, from: MemberId) -> BeginsLink {
        let lanes = self.clone();
        Arc::new(move |to, link_changed: Recipient<LinkChanged>, unreachable| {
            link_changed.do_send(LinkChanged { peer: to, connected_since: Some(lanes.clock.now()) });
            let outboxes = [PeerLane::Urgent, PeerLane::Bulk].map(|lane| lanes.open(from, to, lane, &unreachable));
            let link = LaneLink { outboxes }.start();
            Link { carry: link.clone().recipient(), redial: link.clone().recipient(), retire: link.recipient() }
        })
    }

    fn open(
        &self,
        from: MemberId,
        to: MemberId,
        lane: PeerLane,
        unreachable: &Recipient<PeerUnreachable>,
    ) -> mpsc::UnboundedSender<Carry> {
        let (sender, mut letters) = mpsc::unbounded_channel::<Carry>();
        let (lanes, unreachable) = (self.clone(), unreachable.clone());
        let mut dice = Dice::new(self.seed, "lane", from.0 << 16 | to.0 << 8 | lane as u64);
        actix::spawn(async move {
            while let Some(Carry { messages, requests }) = letters.recv().await {
                let is_calm = lanes.shared.lock().is_calm;
                if !is_calm {
                    tokio::time::sleep(dice.time(Duration::ZERO, lanes.delay_max)).await;
                    if dice.chance(lanes.loss) {
                        unreachable.do_send(PeerUnreachable { peer: to });
                        continue;
                    }
                }
                let Some(receivers) = lanes.shared.lock().receivers.get(&to).cloned() else { continue };
                if !messages.is_empty() {
                    receivers.step.do_send(Step { messages, room: None });
                }
                if !requests.is_empty() {
                    receivers.forwarded.do_send(Forwarded { from, requests, room: None });
                }
            }
        });
        sender
    }
}

impl Actor for LaneLink {
    type Context = Context<Self>;
}

impl Handler<Carry> for LaneLink {
    type Result = ();

    fn handle(&mut self, carry: Carry, _: &mut Self::Context) {
        let Carry { messages, requests } = carry;
        let (urgent, bulk): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| lane_of(message) == PeerLane::Urgent);
        let letters = [Carry { messages: urgent, requests: Vec::new() }, Carry { messages: bulk, requests }];
        for (outbox, letter) in self.outboxes.iter().zip(letters) {
            if !letter.messages.is_empty() || !letter.requests.is_empty() {
                // Closed only when the whole stage is.
                let _ = outbox.send(letter);
            }
        }
    }
}

impl Handler<Redial> for LaneLink {
    type Result = ();

    fn handle(&mut self, _: Redial, _: &mut Self::Context) {}
}

impl Handler<Retire> for LaneLink {
    type Result = ();

    fn handle(&mut self, _: Retire, _: &mut Self::Context) {}
}
