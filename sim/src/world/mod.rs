//! A world: members, what is between them, clients, faults, and the order in which things happen to them.
//!
//! ```text
//!   plan ──▶ World ──▶ one event after the other, in virtual time ──▶ faults end ──▶ what has to come to pass then ──▶ verdict
//! ```
//! - `carry`: what a member wants done is done.
//! - `between`: links, packets, snapshots and questions between members.
//! - `mischief`: faults begin and end.
//! - `finish`: all is mended; liveness, convergence, judgement.

mod between;
mod carry;
mod finish;
mod mischief;

use self::mischief::Ongoing;
use crate::check::Checks;
use crate::clients::{Client, Desk, Move};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::member::edge::{Answer, Ask, Call, News, PeerAnswer, PeerAsk, Ticket};
use crate::member::mail::{Actor, Job, Out, Outgoing};
use crate::member::watch_hub::Shown;
use crate::member::{Fatal, Fate, Member, Settings, Turn};
use crate::network::{self, Network, Packet, Way, Weather};
use crate::queue::Queue;
use crate::seed::Plan;
use crate::summary::Summary;
use crate::trace::{Line, Trace};
use castd::ids::MemberId;
use castd::snapshot::outbound::Parcel;
use castd::watch::StreamId;
use castd_judge::history::History;
use castd_proto::etcdserverpb::WatchCreateRequest;
use std::collections::BTreeMap;
use std::time::Duration;

/// An actor tells what it has to tell in two parts, so that others can act between them, so many times of a thousand.
const SPLIT: u32 = 30;
/// More events than that in one world are a world that does not end.
const EVENTS_MAX: u64 = 20_000_000;

/// Something that is due.
enum Event {
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
    /// A store writes to its disk by itself.
    WriteBack {
        place: usize,
    },
}

/// What a run came to.
pub struct Run {
    pub summary: Summary,
    pub trace_hash: u64,
    pub trace_lines: u64,
}

pub struct World {
    plan: Plan,
    settings: Settings,
    now: Duration,
    queue: Queue<Event>,
    members: Vec<Member>,
    network: Network,
    clients: Vec<Client>,
    history: History,
    checks: Checks,
    trace: Trace,
    dice: Dice,
    network_dice: Dice,
    disk_dice: Dice,
    ongoing: BTreeMap<usize, Ongoing>,
    /// Streams of clients, as members know them.
    streams: BTreeMap<(usize, u64), (usize, u64, StreamId)>,
    next_stream: u64,
    /// Nothing of a stream overtakes what went before it.
    shown_last: BTreeMap<(usize, u64), Duration>,
    newest: i64,
    answered: u64,
    events: u64,
    is_stopping: bool,
    watch_until: i64,
    moves: Vec<Move>,
}

impl World {
    pub fn new(plan: Plan, is_printed: bool) -> Self {
        let settings = Settings::new(&plan);
        let mut dice = Dice::new(plan.seed, "world", 0);
        let clock_dice = &mut Dice::new(plan.seed, "clocks", 0);
        let mut clock =
            || Clock::new(clock_dice.between(0, 2 * plan.clock_error.unsigned_abs()) as i64 - plan.clock_error);
        let ids: Vec<(MemberId, String)> =
            (0..plan.storages.len()).map(|place| (MemberId(place as u64 + 11), network::url(place, 0))).collect();
        let members: Vec<Member> = ids
            .iter()
            .zip(&plan.storages)
            .map(|((id, url), storage)| Member::found(*id, url.clone(), *storage, clock(), &ids))
            .collect();
        let Plan { loss, duplication, transit, reorders, .. } = plan;
        let network = Network::new(Weather { loss, duplication, transit, reorders });
        let clients = Client::all(&plan);
        let mut queue = Queue::default();
        for place in 0..members.len() {
            queue.put(dice.time(Duration::ZERO, Duration::from_millis(50)), Event::Boot { place });
            queue.put(Duration::from_millis(300), Event::WriteBack { place });
        }
        for client in 0..clients.len() {
            queue.put(dice.time(Duration::ZERO, Duration::from_millis(300)), Event::Wake { client });
        }
        for (fault, begins) in plan.faults.iter().enumerate() {
            queue.put(begins.at, Event::FaultBegins { fault });
        }
        World {
            settings,
            now: Duration::ZERO,
            queue,
            members,
            network,
            clients,
            history: History::default(),
            checks: Checks::default(),
            trace: Trace::new(is_printed),
            dice,
            network_dice: Dice::new(plan.seed, "network", 0),
            disk_dice: Dice::new(plan.seed, "disk", 0),
            ongoing: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            shown_last: BTreeMap::new(),
            newest: 1,
            answered: 0,
            events: 0,
            is_stopping: false,
            watch_until: i64::MAX,
            moves: Vec::new(),
            plan,
        }
    }

    /// Lets everything happen, from the first start to the verdict.
    pub fn run(&mut self) -> Run {
        let until = self.plan.faults_end;
        self.go_on_until(until);
        self.finish();
        let (lost, doubled) = (self.network.lost, self.network.doubled);
        let mut summary = std::mem::take(&mut self.checks.summary);
        summary.seeds = 1;
        summary.answered = self.answered;
        summary.events = self.events;
        summary.add_count("packets were lost", lost);
        summary.add_count("packets came twice", doubled);
        Run { summary, trace_hash: self.trace.hash(), trace_lines: self.trace.lines() }
    }

    /// The newest lines, for whoever reads a failure.
    pub fn tail(&self) -> String {
        self.trace.tail()
    }

    fn go_on_until(&mut self, until: Duration) {
        while self.queue.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// One event.
    fn step(&mut self) {
        let Some((at, event)) = self.queue.take() else { return };
        assert!(at >= self.now, "time goes on");
        self.now = at;
        self.events += 1;
        assert!(self.events < EVENTS_MAX, "the world does not come to its end");
        // A process that stands still does nothing, and finds its mail when it goes on.
        if let Some(place) = self.place_of(&event)
            && let Some(member) = self.members.get(place)
            && member.paused_until > at
        {
            let later = member.paused_until;
            return self.queue.put(later, event);
        }
        self.happen(event);
    }

    /// The member in whose process it happens.
    fn place_of(&self, event: &Event) -> Option<usize> {
        match event {
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

    fn is_running(&self, place: usize, boot: u64) -> bool {
        self.members.get(place).is_some_and(|member| member.running.as_ref().is_some_and(|it| it.boot == boot))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { place, boot, actor } if self.is_running(place, boot) => self.turn(place, actor),
            Event::Rest { place, boot, actor, outs } if self.is_running(place, boot) => {
                self.carry_out(place, outs);
                self.rest(place, actor);
            }
            Event::Done { place, boot, job } if self.is_running(place, boot) => self.done(place, job),
            Event::Tick { place, boot } if self.is_running(place, boot) => self.tick(place),
            Event::Edge { place, boot, ticket, news } if self.is_running(place, boot) => {
                self.act(place, |actors, around| {
                    actors.edge.go_on(ticket, news, around);
                    Ok(())
                });
            }
            Event::Pump { place, boot, stream } if self.is_running(place, boot) => {
                self.act(place, |_, around| crate::member::watch_hub::pump(stream, around));
            }
            Event::Boot { place } => self.boot(place),
            Event::Dial { place, boot, peer, attempt, urls } if self.is_running(place, boot) => {
                self.dial(place, peer, attempt, &urls);
            }
            Event::DialFailed { place, boot, peer, attempt } if self.is_running(place, boot) => {
                self.tell_closed(place, peer, attempt);
            }
            Event::Packet(packet) => self.arrive(packet),
            Event::Notice { way, attempt, only_if_cut } => self.notice(way, attempt, only_if_cut),
            Event::Carried { place, boot, parcel, is_again } => self.carried(place, boot, *parcel, is_again),
            Event::PeerAsked { place, from, boot, ticket, ask } => self.peer_asked(place, from, boot, ticket, ask),
            Event::PeerAnswered { place, boot, ticket, answer } if self.is_running(place, boot) => {
                self.act(place, |actors, around| {
                    actors.edge.go_on(ticket, News::Peer(answer), around);
                    Ok(())
                });
            }
            Event::Asked { place, call, ask } => self.asked(place, call, ask),
            Event::Answered { call, answer } => self.answer(call, Some(answer)),
            Event::GiveUp { call } => self.answer(call, None),
            Event::Wake { client } => self.client(client, |client, desk| client.wake(desk)),
            Event::Watch { place, client, session, create, fragment_bytes } => {
                self.watch(place, client, session, &create, fragment_bytes);
            }
            Event::AskProgress { place, client, session } => self.ask_progress(place, client, session),
            Event::Unwatch { place, client, session } => self.unwatch(place, client, session),
            Event::Shown { client, session, shown } => {
                for shown in shown {
                    self.client(client, |client, desk| client.shown(session, shown, desk));
                }
            }
            Event::FaultBegins { fault } => self.fault_begins(fault),
            Event::FaultEnds { fault } => self.fault_ends(fault),
            Event::Flap { fault, is_cut } => self.flap(fault, is_cut),
            Event::WriteBack { place } => self.write_back(place),
            // Of a process that has ended.
            Event::Turn { .. }
            | Event::Rest { .. }
            | Event::Done { .. }
            | Event::Tick { .. }
            | Event::Edge { .. }
            | Event::Pump { .. }
            | Event::Dial { .. }
            | Event::DialFailed { .. }
            | Event::PeerAnswered { .. } => {}
        }
    }

    fn put(&mut self, after: Duration, event: Event) {
        self.queue.put(self.now + after, event);
    }

    /// Something happens in a member, and what it wants is done. Answers whether it goes on.
    fn with(&mut self, place: usize, act: impl FnOnce(&mut Member, Turn<'_>) -> Result<(), Fatal>) -> Option<Vec<Out>> {
        let mut out = Vec::new();
        let member = &mut self.members[place];
        let steps = member.disk.fuse.steps();
        let turn = Turn {
            place,
            true_now: self.now,
            settings: &self.settings,
            dice: &mut self.dice,
            out: &mut out,
            checks: &mut self.checks,
            trace: &mut self.trace,
        };
        let acted = act(member, turn);
        let is_over = member.disk.fuse.is_blown();
        if let Err(Fatal(reason)) = acted {
            assert!(is_over, "member {} ends: {reason}", member.id);
        }
        if is_over {
            self.crash_at_step(place);
            return None;
        }
        let is_disk_touched = member.disk.fuse.steps() != steps;
        if let Some(running) = &member.running {
            self.checks.look(place, &running.actors, &running.shared, &mut member.disk, is_disk_touched);
        }
        Some(out)
    }

    /// Lets the actors of a member do something outside of their turns.
    fn act(
        &mut self,
        place: usize,
        act: impl FnOnce(&mut crate::member::Actors, &mut crate::member::Around<'_>) -> Result<(), Fatal>,
    ) {
        if let Some(outs) = self.with(place, |member, turn| member.act(turn, act)) {
            self.carry_out(place, outs);
        }
    }

    fn turn(&mut self, place: usize, actor: Actor) {
        let Some(mut outs) = self.with(place, |member, turn| member.turn(turn, actor)) else { return };
        if outs.len() > 1 && self.dice.chance(SPLIT) {
            let rest = outs.split_off(1 + self.dice.index(outs.len() - 1));
            let boot = self.members[place].boots;
            let after = self.dice.latency(self.plan.turn);
            self.put(after, Event::Rest { place, boot, actor, outs: rest });
            return self.carry_out(place, outs);
        }
        self.carry_out(place, outs);
        self.rest(place, actor);
    }

    /// The actor's turn is over; there may be more mail.
    fn rest(&mut self, place: usize, actor: Actor) {
        let Some(running) = &mut self.members[place].running else { return };
        running.rest(actor);
        if running.wake(actor) {
            self.schedule_turn(place, actor);
        }
    }

    fn schedule_turn(&mut self, place: usize, actor: Actor) {
        let boot = self.members[place].boots;
        let after = self.dice.latency(self.plan.turn);
        self.put(after, Event::Turn { place, boot, actor });
    }

    fn done(&mut self, place: usize, job: Job) {
        let is_of_log = matches!(job, Job::SyncLog);
        let member = &self.members[place];
        if let (true, Some(until)) = (is_of_log, member.stuck_until.filter(|until| *until > self.now)) {
            let boot = member.boots;
            return self.queue.put(until, Event::Done { place, boot, job });
        }
        let Some(outs) = self.with(place, |member, turn| member.done(turn, job)) else { return };
        self.carry_out(place, outs);
        if is_of_log && self.members[place].running.as_mut().is_some_and(|running| running.wake(Actor::LogWriter)) {
            self.schedule_turn(place, Actor::LogWriter);
        }
    }

    fn tick(&mut self, place: usize) {
        let mut next = Duration::ZERO;
        let ticked = self.with(place, |member, turn| {
            next = member.tick(turn);
            Ok(())
        });
        if let Some(outs) = ticked {
            self.carry_out(place, outs);
        }
        let boot = self.members[place].boots;
        self.put(next, Event::Tick { place, boot });
    }

    fn boot(&mut self, place: usize) {
        let member = &self.members[place];
        if member.running.is_some() || member.fate == Fate::Departed {
            return;
        }
        let Some(outs) = self.with(place, |member, turn| member.boot(turn)) else { return };
        self.carry_out(place, outs);
        let boot = self.members[place].boots;
        self.put(Duration::ZERO, Event::Tick { place, boot });
    }

    // ---- Clients ----

    /// A client does something, and what it does is done.
    fn client(&mut self, number: usize, act: impl FnOnce(&mut Client, &mut Desk<'_>)) {
        let mut moves = std::mem::take(&mut self.moves);
        let (places, left_places): (Vec<usize>, Vec<usize>) =
            (0..self.members.len()).partition(|place| self.members[*place].fate == Fate::Belongs);
        let Some(client) = self.clients.get_mut(number) else { return };
        let mut desk = Desk {
            now: self.now,
            plan: &self.plan,
            history: &mut self.history,
            moves: &mut moves,
            places: &places,
            next_place: self.members.len(),
            left_places: &left_places,
            is_stopping: self.is_stopping,
            watch_until: self.watch_until,
            newest: &mut self.newest,
            answered: &mut self.answered,
        };
        act(client, &mut desk);
        for made in moves.drain(..) {
            self.make_move(number, made);
        }
        self.moves = moves;
    }

    fn make_move(&mut self, client: usize, made: Move) {
        let late = self.dice.latency(self.plan.transit);
        match made {
            Move::Ask { place, call, ask } => {
                self.checks.summary.asked(ask.name());
                self.trace.note(self.now, None, Line::Asked { client, call: call.number, what: ask.name() });
                self.put(late, Event::Asked { place, call, ask });
            }
            Move::Wake { at } => self.queue.put(at, Event::Wake { client }),
            Move::GiveUp { at, call } => self.queue.put(at, Event::GiveUp { call }),
            Move::Watch { place, session, create, fragment_bytes } => {
                self.checks.summary.asked("Watch");
                self.put(late, Event::Watch { place, client, session, create, fragment_bytes });
            }
            Move::AskProgress { place, session } => self.put(late, Event::AskProgress { place, client, session }),
            Move::Unwatch { place, session } => self.put(late, Event::Unwatch { place, client, session }),
            Move::Start { id, url } => self.start_member(id, url),
        }
    }

    fn asked(&mut self, place: usize, call: Call, ask: Ask) {
        if self.members.get(place).is_none_or(|member| member.running.is_none()) {
            let after = self.dice.latency(self.plan.transit);
            return self.put(after, Event::Answered { call, answer: Answer::Broken });
        }
        self.act(place, |actors, around| {
            actors.edge.start(call, ask, around);
            Ok(())
        });
    }

    /// `None` if it has waited long enough.
    fn answer(&mut self, call: Call, answer: Option<Answer>) {
        let waits = self.clients.get(call.client).is_some_and(|client| client.waits_for(call));
        if !waits {
            return;
        }
        let line = match &answer {
            Some(answer) => Line::Answered { client: call.client, call: call.number, what: answer_name(answer) },
            None => Line::GivenUp { client: call.client, call: call.number },
        };
        self.trace.note(self.now, None, line);
        self.client(call.client, |client, desk| client.answered(call, answer, desk));
    }
}

fn answer_name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Range(_) => "Range",
        Answer::Txn(_) => "Txn",
        Answer::Written(_) => "Written",
        Answer::Kept { .. } => "Kept",
        Answer::Members { .. } => "Members",
        Answer::Moved => "Moved",
        Answer::Failed(_) => "Failed",
        Answer::Broken => "Broken",
    }
}
