//! What is on its way between members: delivered in any order, or never, or twice.

use castd::ids::MemberId;
use castd::raft::forwarded::ForwardedProposal;
use castd::raft::terms::LogPosition;
use castd_backend_api::WriteBatch;
use raft::eraftpb::Message;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

/// The rows of a snapshot, and where it was taken.
#[derive(Clone)]
pub struct Rows {
    pub position: LogPosition,
    pub rows: WriteBatch,
}

#[derive(Clone)]
pub enum Load {
    Raft(Message),
    Snapshot(Message, Rows),
    Forwarded(Vec<ForwardedProposal>),
}

#[derive(Clone)]
pub struct Packet {
    pub from: MemberId,
    pub to: MemberId,
    pub load: Load,
}

/// What is broken at the moment.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Faults {
    /// Of a thousand packets, so many are lost,
    pub lost: u32,
    /// and so many are delivered again later.
    pub repeated: u32,
    /// Nothing gets from the first to the second.
    pub cuts: BTreeSet<(MemberId, MemberId)>,
}

#[derive(Default)]
pub struct Network {
    packets: Vec<Packet>,
    pub faults: Faults,
    pub lost: u64,
    pub repeated: u64,
}

/// More are lost: queues are bounded.
const PACKETS_MAX: usize = 2_000;

impl Network {
    pub fn send(&mut self, packet: Packet) {
        if self.packets.len() >= PACKETS_MAX {
            self.packets.swap_remove(0);
            self.lost += 1;
        }
        self.packets.push(packet);
    }

    pub fn waiting(&self) -> usize {
        self.packets.len()
    }

    pub fn is_cut(&self, from: MemberId, to: MemberId) -> bool {
        self.faults.cuts.contains(&(from, to))
    }

    /// One that arrives, mostly among the oldest; or one that is lost.
    pub fn next(&mut self, rng: &mut StdRng) -> Option<(Packet, bool)> {
        if self.packets.is_empty() {
            return None;
        }
        let spread = if rng.random_bool(0.1) { self.packets.len() } else { self.packets.len().min(4) };
        let packet = self.packets.remove(rng.random_range(0..spread));
        let is_lost = self.is_cut(packet.from, packet.to) || rng.random_range(0..1_000) < self.faults.lost;
        if is_lost {
            self.lost += 1;
        } else if rng.random_range(0..1_000) < self.faults.repeated {
            self.repeated += 1;
            self.packets.push(packet.clone());
        }
        Some((packet, !is_lost))
    }
}
