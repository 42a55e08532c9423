//! A world: members, what is between them, clients, faults, and the order in which things happen to them.
//!
//! ```text
//!   plan ──▶ World ──▶ one event after the other, in virtual time ──▶ faults end ──▶ what has to come to pass then ──▶ verdict
//! ```
//! - `event`: what can be due.
//! - `carry`: what a member wants done is done.
//! - `serving`: clients and members hear of each other.
//! - `between`: links, packets, snapshots and questions between members.
//! - `mischief`: faults begin and end.
//! - `operator`: members whose disks are damaged are replaced.
//! - `finish`: all is mended; liveness, convergence, judgement.

mod between;
mod carry;
mod event;
mod finish;
mod mischief;
mod operator;
mod serving;

use self::event::Event;
use self::mischief::Ongoing;
use crate::check::Checks;
use crate::clients::{Client, Move};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::member::edge::News;
use crate::member::mail::{Actor, Job, Out};
use crate::member::{Fatal, Fate, Member, Settings, Turn};
use crate::network::{self, Network, Weather};
use crate::queue::Queue;
use crate::seed::Plan;
use crate::summary::Summary;
use crate::trace::Trace;
use castd::ids::MemberId;
use castd::watch::StreamId;
use castd_judge::history::History;
use std::collections::BTreeMap;
use std::time::Duration;

/// An actor tells what it has to tell in two parts, so that others can act between them, so many times of a thousand.
const SPLIT: u32 = 30;
/// More events than that in one world are a world that does not end.
const EVENTS_MAX: u64 = 20_000_000;

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
    /// Writes whose answers nobody hears.
    unheard: u64,
    events: u64,
    is_stopping: bool,
    watch_until: i64,
    moves: Vec<Move>,
    /// Members whose disks are damaged, and where those are to be reached that take their places.
    lost: BTreeMap<MemberId, String>,
    /// Of the operator's last request.
    operated: u64,
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
            .map(|((id, url), storage)| Member::found(*id, url.clone(), *storage, clock(), &ids, &plan))
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
            unheard: 0,
            events: 0,
            is_stopping: false,
            watch_until: i64::MAX,
            moves: Vec::new(),
            lost: BTreeMap::new(),
            operated: 0,
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
        if let Some(place) = event.place()
            && let Some(member) = self.members.get(place)
            && member.paused_until > at
        {
            let later = member.paused_until;
            return self.queue.put(later, event);
        }
        self.happen(event);
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
            Event::Operator { lost } => self.operate(lost),
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
        let has_failed = acted.is_err();
        if let Err(Fatal(reason)) = acted {
            let disk = &member.disk;
            let is_excused = is_over || disk.fuse.has_failed() || disk.is_damaged();
            assert!(is_excused, "member {} ends: {reason}", member.id);
        }
        if is_over {
            self.crash_at_step(place);
            return None;
        }
        if has_failed {
            self.disk_failed(place);
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
}
