//! What can be due.

use crate::member::edge::{Answer, Ask, Call, News, PeerAnswer, PeerAsk, Ticket};
use crate::member::mail::{Actor, Job, Out, Outgoing};
use crate::member::watch_hub::Shown;
use crate::network::{Packet, Way};
use castd::ids::MemberId;
use castd::snapshot::outbound::Parcel;
use castd::watch::StreamId;
use castd_proto::etcdserverpb::WatchCreateRequest;

/// Something that is due.
pub(super) enum Event {
    Turn {
        place: usize,
        boot: u64,
        actor: Actor,
    },
    /// The rest of what an actor tells.
    Rest {
        place: usize,
        boot: u64,
        actor: Actor,
        outs: Vec<Out>,
    },
    Done {
        place: usize,
        boot: u64,
        job: Job,
    },
    Tick {
        place: usize,
        boot: u64,
    },
    Edge {
        place: usize,
        boot: u64,
        ticket: Ticket,
        news: News,
    },
    Pump {
        place: usize,
        boot: u64,
        stream: StreamId,
    },
    Boot {
        place: usize,
    },
    Dial {
        place: usize,
        boot: u64,
        peer: MemberId,
        attempt: u64,
        urls: Vec<String>,
    },
    /// Nobody was there.
    DialFailed {
        place: usize,
        boot: u64,
        peer: MemberId,
        attempt: u64,
    },
    Packet(Packet),
    /// That a connection is broken is noticed, if it still is, or in any case.
    Notice {
        way: Way,
        attempt: u64,
        only_if_cut: bool,
    },
    Carried {
        place: usize,
        boot: u64,
        parcel: Box<Parcel<Outgoing>>,
        is_again: bool,
    },
    PeerAsked {
        place: usize,
        from: usize,
        boot: u64,
        ticket: Ticket,
        ask: PeerAsk,
    },
    PeerAnswered {
        place: usize,
        boot: u64,
        ticket: Ticket,
        answer: PeerAnswer,
    },
    Asked {
        place: usize,
        call: Call,
        ask: Ask,
    },
    Answered {
        call: Call,
        answer: Answer,
    },
    GiveUp {
        call: Call,
    },
    Wake {
        client: usize,
    },
    Watch {
        place: usize,
        client: usize,
        session: u64,
        create: Box<WatchCreateRequest>,
        fragment_bytes: usize,
    },
    AskProgress {
        place: usize,
        client: usize,
        session: u64,
    },
    Unwatch {
        place: usize,
        client: usize,
        session: u64,
    },
    Shown {
        client: usize,
        session: u64,
        shown: Vec<Shown>,
    },
    FaultBegins {
        fault: usize,
    },
    FaultEnds {
        fault: usize,
    },
    /// A cut that comes and goes.
    Flap {
        fault: usize,
        is_cut: bool,
    },
    /// Somebody looks after a member whose disk is damaged.
    Operator {
        lost: MemberId,
    },
    /// A store writes to its disk by itself.
    WriteBack {
        place: usize,
    },
}

impl Event {
    /// The member in whose process it happens.
    pub(super) fn place(&self) -> Option<usize> {
        match self {
            Event::Turn { place, .. }
            | Event::Rest { place, .. }
            | Event::Done { place, .. }
            | Event::Tick { place, .. }
            | Event::Edge { place, .. }
            | Event::Pump { place, .. }
            | Event::Dial { place, .. }
            | Event::DialFailed { place, .. }
            | Event::PeerAsked { place, .. }
            | Event::PeerAnswered { place, .. }
            | Event::Asked { place, .. }
            | Event::Watch { place, .. }
            | Event::AskProgress { place, .. }
            | Event::Unwatch { place, .. } => Some(*place),
            Event::Packet(packet) => Some(packet.way.1),
            _ => None,
        }
    }
}
