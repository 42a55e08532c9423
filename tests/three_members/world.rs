//! The members, what is between them, and the order in which things happen.

use crate::clients::{Asked, History};
use crate::member::{Member, Running, ToApplier, ToLog, ToNode};
use crate::network::{Faults, Load, Network, Packet};
use bytes::Bytes;
use castd::ids::{MemberId, RequestId, Revision};
use castd::raft::forwarded::ForwardedProposal;
use castd::raft::node::{Effect, Proposal, RaftError, TICK};
use castd::raft::terms::LogPosition;
use castd::state::{Outcome, StateHash};
use castd_backend_api::Backend;
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb as pb;
use prost::Message as _;
use raft::eraftpb::{ConfState, EntryType, MessageType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MEMBERS: [MemberId; 3] = [MemberId(11), MemberId(12), MemberId(13)];
const KEYS: u32 = 12;
/// Things that happen in one step.
const EVENTS: usize = 24;
/// Steps between two changes of what is broken.
const WEATHER: u64 = 150;
/// Members report where they are so many positions back; less is kept of the log.
const POSITIONS_KEPT: usize = 4;

/// What a run did, to be sure that it did something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub acknowledged: u64,
    pub acknowledged_by_followers: u64,
    pub reads_by_followers: u64,
    pub failed: u64,
    pub repeated: u64,
    pub leaders: u64,
    pub crashes: u64,
    pub writes_lost: u64,
    pub packets_lost: u64,
    pub packets_repeated: u64,
    pub fetches: u64,
    pub snapshots: u64,
    pub hashes_compared: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.acknowledged += other.acknowledged;
        self.acknowledged_by_followers += other.acknowledged_by_followers;
        self.reads_by_followers += other.reads_by_followers;
        self.failed += other.failed;
        self.repeated += other.repeated;
        self.leaders += other.leaders;
        self.crashes += other.crashes;
        self.writes_lost += other.writes_lost;
        self.packets_lost += other.packets_lost;
        self.packets_repeated += other.packets_repeated;
        self.fetches += other.fetches;
        self.snapshots += other.snapshots;
        self.hashes_compared += other.hashes_compared;
    }
}

/// A mistake planted on purpose, to see that the judgement finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// Every LogWriter says "persisted" when it has written, before its fsync.
    AnswersBeforeSync,
    /// What is forwarded again gets another tag.
    ForgetsTags,
    /// A read is answered from whatever the member has.
    ReadsWithoutAsking,
    /// A member leaves one write out.
    SkipsAnEntry,
}

pub struct World {
    mistake: Mistake,
    rng: StdRng,
    now: Duration,
    steps: u64,
    members: Vec<Member>,
    network: Network,
    next_request: u64,
    next_value: u64,
    history: History,
    /// What the state was after each entry, as the first member that got there had it.
    hashes: BTreeMap<u64, StateHash>,
    /// Forwarded once already.
    forwarded: BTreeSet<(MemberId, u64, u64)>,
    leaders: BTreeSet<u64>,
    trace: Vec<String>,
    summary: Summary,
}

impl World {
    pub fn new(seed: u64, mistake: Mistake) -> Self {
        let mut world = World {
            mistake,
            rng: StdRng::seed_from_u64(seed),
            now: Duration::from_secs(1),
            steps: 0,
            members: MEMBERS.map(|id| Member::found(id, &MEMBERS)).into(),
            network: Network::default(),
            next_request: 0,
            next_value: 0,
            history: History::default(),
            hashes: BTreeMap::new(),
            forwarded: BTreeSet::new(),
            leaders: BTreeSet::new(),
            trace: Vec::new(),
            summary: Summary::default(),
        };
        for place in 0..MEMBERS.len() {
            world.boot(place);
        }
        world
    }

    fn note(&mut self, place: usize, line: &str) {
        let id = MEMBERS[place];
        self.trace.push(format!("{:>9.4} {id} {line}", self.now.as_secs_f64()));
    }

    fn place(id: MemberId) -> usize {
        MEMBERS.iter().position(|member| *member == id).expect("there are no others")
    }

    fn running(&mut self, place: usize) -> Option<&mut Running> {
        self.members[place].running.as_mut()
    }

    fn boot(&mut self, place: usize) {
        self.members[place].boot();
        self.members[place].next_tick = self.now;
        self.note(place, "boots");
        self.tell_links();
        self.settle(place);
    }

    /// Each member hears of its links as PeerLinks would tell it.
    fn tell_links(&mut self) {
        let now = self.now;
        for (place, from) in MEMBERS.into_iter().enumerate() {
            for (other, to) in MEMBERS.into_iter().enumerate().filter(|(_, to)| *to != from) {
                let is_open = self.members[other].running.is_some()
                    && [(from, to), (to, from)].iter().all(|(a, b)| !self.network.is_cut(*a, *b));
                if let Some(running) = self.running(place) {
                    running.node.link_changed(to, is_open.then_some(now));
                }
            }
        }
    }

    /// A moment in which a number of things happen.
    pub fn step(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(WEATHER) {
            self.change_weather();
        }
        self.now += Duration::from_micros(self.rng.random_range(100..1_500));
        for _ in 0..EVENTS {
            self.event(true);
        }
        for place in 0..MEMBERS.len() {
            self.pass_time(place);
        }
    }

    fn event(&mut self, with_clients: bool) {
        let place = self.rng.random_range(0..MEMBERS.len());
        match self.rng.random_range(0..100) {
            0..6 if with_clients => self.client(place),
            0..42 => self.deliver(),
            42..56 => self.write_log(place),
            56..64 => self.members[place].sync_log(),
            64..80 => self.apply(place),
            80..96 => self.tell_node(place),
            96 | 97 => self.members[place].backend.flush().expect("a working disk"),
            98 => self.cut_log(place),
            _ => self.offer_snapshot(place),
        }
        if self.rng.random_bool(0.7) {
            self.settle(place);
        }
    }

    fn pass_time(&mut self, place: usize) {
        let now = self.now;
        if self.members[place].running.is_none() && self.members[place].up_at <= now {
            self.boot(place);
        }
        if self.members[place].next_tick <= now {
            self.members[place].next_tick = now + TICK;
            if let Some(running) = self.running(place) {
                running.node.tick(now);
            }
            self.settle(place);
        }
    }

    /// Something breaks, or is mended.
    fn change_weather(&mut self) {
        let mut faults = Faults::default();
        let pairs: Vec<(MemberId, MemberId)> = MEMBERS
            .into_iter()
            .flat_map(|a| MEMBERS.into_iter().map(move |b| (a, b)))
            .filter(|(a, b)| a != b)
            .collect();
        match self.rng.random_range(0..10) {
            0..3 => {}
            3 | 4 => (faults.lost, faults.repeated) = (self.rng.random_range(0..200), self.rng.random_range(0..200)),
            // In one direction.
            5 => faults.cuts = [pairs[self.rng.random_range(0..pairs.len())]].into(),
            // One member from the others, or only to them.
            6 | 7 => {
                let alone = MEMBERS[self.rng.random_range(0..MEMBERS.len())];
                let both = self.rng.random_bool(0.7);
                let cuts = pairs.iter().filter(|(from, to)| *from == alone || (both && *to == alone));
                faults.cuts = cuts.copied().collect();
            }
            8 => {
                let place = self.rng.random_range(0..MEMBERS.len());
                self.crash(place);
            }
            _ => {
                for place in 0..MEMBERS.len() {
                    if self.rng.random_bool(0.8) {
                        self.crash(place);
                    }
                }
            }
        }
        self.trace.push(format!("{:>9.4} {faults:?}", self.now.as_secs_f64()));
        self.network.faults = faults;
        self.tell_links();
    }

    /// The power goes: memory is lost, and some of what was written and not synced.
    fn crash(&mut self, place: usize) {
        let member = &mut self.members[place];
        if member.running.take().is_none() {
            return;
        }
        self.summary.crashes += 1;
        let unsynced = member.disk.unsynced();
        let keep = self.rng.random_range(0..=unsynced);
        member.disk.crash(keep);
        let batches = member.backend.unsynced();
        member.backend.crash(self.rng.random_range(0..=batches));
        member.up_at = self.now + Duration::from_millis(self.rng.random_range(0..120));
        self.summary.writes_lost += (unsynced - keep) as u64;
        self.note(place, &format!("crashes, kept {keep} of {unsynced} writes"));
    }

    fn client(&mut self, place: usize) {
        let (now, newest) = (self.now, self.history.newest);
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let key = Bytes::from(format!("key{:02}", self.rng.random_range(0..KEYS)));
        let reads = self.rng.random_bool(0.3);
        let local = self.mistake == Mistake::ReadsWithoutAsking;
        self.next_value += 1;
        let value = Bytes::from(format!("value{}", self.next_value));
        let Some(running) = self.running(place) else { return };
        if reads {
            running.asked.insert(request, Asked::Read { key, newest });
            if local {
                self.answer_read(place, request);
            } else {
                running.node.read_index(now, request);
            }
            return;
        }
        let put = pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        let data = RaftRequest { op: Some(Op::Put(put)), ..Default::default() }.encode_to_vec().into();
        running.asked.insert(request, Asked::Put { key, value, newest });
        running.node.propose(now, Proposal { request, kind: EntryType::EntryNormal, data });
    }

    fn settle(&mut self, place: usize) {
        let now = self.now;
        let mut effects = Vec::new();
        if let Some(running) = self.running(place) {
            running.node.settle(now, &mut effects);
        }
        self.carry_out(place, effects);
    }

    fn carry_out(&mut self, place: usize, effects: Vec<Effect>) {
        let from = MEMBERS[place];
        for effect in effects {
            match effect {
                Effect::Send(messages) => messages.into_iter().for_each(|message| self.send(place, message)),
                Effect::Forward { to, requests } => {
                    let requests = self.tagged(from, requests);
                    self.network.send(Packet { from, to, load: Load::Forwarded(requests) });
                }
                Effect::AppendLog(append) => self.mail_log(place, ToLog::Append(append)),
                Effect::ReplaceLog(replace) => self.mail_log(place, ToLog::Replace(replace)),
                Effect::FetchLog { low, high, bytes_max } => {
                    self.mail_log(place, ToLog::Fetch { low, high, bytes_max })
                }
                Effect::EntriesCommitted(slice) => self.mail_applier(place, ToApplier::Slice(slice)),
                Effect::InstallSnapshot { position } => self.mail_applier(place, ToApplier::Install(position)),
                Effect::SnapshotWanted { .. } => self.offer_snapshot(place),
                Effect::ReadsReady(requests) => {
                    requests.into_iter().for_each(|request| self.answer_read(place, request));
                }
                Effect::Failed(request, error) => {
                    let asked = self.running(place).and_then(|running| running.asked.remove(&request));
                    assert!(asked.is_some(), "{request} failed, which nobody waits for");
                    assert_ne!(error, RaftError::ProposalDropped, "raft refused what it should have been kept from");
                    self.summary.failed += 1;
                    self.note(place, &format!("request {request} failed: {error}"));
                }
                Effect::StatusChanged(status) => {
                    if status.is_leader && self.leaders.insert(status.term.0) {
                        self.summary.leaders += 1;
                        self.note(place, &format!("leads in term {}", status.term));
                    }
                }
                Effect::ReadsLate { .. } => {}
                Effect::DiskStuck { is_leader } => self.note(place, &format!("has a stuck disk, leads: {is_leader}")),
            }
        }
    }

    fn mail_log(&mut self, place: usize, mail: ToLog) {
        if let Some(running) = self.running(place) {
            running.to_log.push_back(mail);
        }
    }

    fn mail_applier(&mut self, place: usize, mail: ToApplier) {
        if let Some(running) = self.running(place) {
            running.to_applier.push_back(mail);
        }
    }

    fn send(&mut self, place: usize, message: raft::eraftpb::Message) {
        let (from, to) = (MEMBERS[place], MemberId(message.to));
        assert_eq!(message.from, from.0, "nobody speaks in another's name");
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return self.network.send(Packet { from, to, load: Load::Raft(message) });
        }
        let index = message.get_snapshot().get_metadata().index;
        let offered = self.running(place).and_then(|running| running.offered.clone());
        match offered.filter(|rows| rows.position.index.0 == index) {
            Some(rows) => self.network.send(Packet { from, to, load: Load::Snapshot(message, rows) }),
            None => self.report_snapshot(from, to, false),
        }
    }

    fn report_snapshot(&mut self, from: MemberId, to: MemberId, is_delivered: bool) {
        if let Some(running) = self.running(Self::place(from)) {
            running.node.snapshot_sent(to, is_delivered);
        }
    }

    /// Counts repetitions, and spoils them if that is the mistake.
    fn tagged(&mut self, from: MemberId, mut requests: Vec<ForwardedProposal>) -> Vec<ForwardedProposal> {
        for request in &mut requests {
            if !self.forwarded.insert((from, request.boot, request.sequence)) {
                self.summary.repeated += 1;
                if self.mistake == Mistake::ForgetsTags {
                    request.boot += 1_000_000;
                    request.sequence = self.summary.repeated;
                }
            }
        }
        requests
    }

    fn deliver(&mut self) {
        let Some((Packet { from, to, load }, arrives)) = self.network.next(&mut self.rng) else { return };
        let (now, place) = (self.now, Self::place(to));
        if !arrives || self.members[place].running.is_none() {
            match load {
                Load::Snapshot(..) => self.report_snapshot(from, to, false),
                Load::Raft(message) if message.get_msg_type() == MessageType::MsgAppend => {
                    if let Some(running) = self.running(Self::place(from)) {
                        running.node.unreachable(to);
                    }
                }
                Load::Raft(_) | Load::Forwarded(_) => {}
            }
            return;
        }
        match load {
            Load::Raft(message) => {
                if let Some(running) = self.running(place) {
                    running.node.step(message);
                }
            }
            Load::Forwarded(requests) => {
                if let Some(running) = self.running(place) {
                    running.node.forwarded(now, from, requests);
                }
            }
            Load::Snapshot(message, rows) => {
                self.members[place].keep(rows);
                if let Some(running) = self.running(place) {
                    running.node.snapshot_received(message);
                }
                self.report_snapshot(from, to, true);
            }
        }
        self.settle(place);
    }

    fn write_log(&mut self, place: usize) {
        let fetched = self.members[place].write_log(self.mistake == Mistake::AnswersBeforeSync);
        self.summary.fetches += u64::from(fetched > 0);
    }

    fn apply(&mut self, place: usize) {
        let Some(mail) = self.running(place).and_then(|running| running.to_applier.pop_front()) else { return };
        let slice = match mail {
            ToApplier::Slice(slice) => slice,
            ToApplier::Install(position) => {
                self.members[place].install(position);
                self.summary.snapshots += 1;
                self.note(place, &format!("installed a snapshot at {}", position.index));
                return self.remember_state(place, None);
            }
        };
        let (mut entries, requests): (Vec<_>, Vec<_>) = slice.into_iter().map(|c| (c.entry, c.request)).unzip();
        if self.mistake == Mistake::SkipsAnEntry && place == 1 && self.steps > 200 {
            entries
                .iter_mut()
                .filter(|entry| entry.index.is_multiple_of(50))
                .for_each(|entry| entry.data = Bytes::new());
        }
        let Some(running) = self.running(place) else { return };
        let is_leader = running.node.status().is_leader;
        let applied = running.machine.apply(&entries).expect("the backend works");
        let last = entries.last().expect("slices are not empty");
        running.positions.push_back(LogPosition::new(last.index, last.term));
        let index = running.machine.applied();
        for changed in applied.membership.iter().filter_map(|changed| changed.raft.as_ref()) {
            running.node.conf_change_applied(changed).expect("the founders only");
        }
        running.to_node.push_back(ToNode::Applied(index));
        let revision = running.machine.revision();
        self.note(place, &format!("applied up to {index}, revision {revision}"));
        for (request, outcome) in requests.into_iter().zip(applied.outcomes) {
            let running = self.running(place).expect("it runs");
            let Some(asked) = request.and_then(|request| running.asked.remove(&request)) else { continue };
            let Asked::Put { key, value, newest } = asked else { panic!("reads are not in the log") };
            // A snapshot came between: what the write gave is not known.
            let Ok(outcome) = outcome else { continue };
            let Outcome::Put(answer) = outcome else { panic!("nobody asked for {outcome:?}") };
            self.summary.acknowledged += 1;
            self.summary.acknowledged_by_followers += u64::from(!is_leader);
            self.history.acknowledge(answer.header.expect("a header").revision, key, value, newest);
        }
        self.remember_state(place, Some(index.0));
    }

    /// Who has applied the same has the same.
    fn remember_state(&mut self, place: usize, index: Option<u64>) {
        let Some(view) = self.running(place).map(|running| running.machine.view()) else { return };
        assert!(index.is_none_or(|index| view.applied.0 == index));
        let before = self.hashes.insert(view.applied.0, view.state_hash);
        if let Some(before) = before {
            self.summary.hashes_compared += 1;
            assert_eq!(before, view.state_hash, "two members differ at index {}", view.applied);
        }
    }

    fn tell_node(&mut self, place: usize) {
        let mut effects = Vec::new();
        let Some(running) = self.running(place) else { return };
        match running.to_node.pop_front() {
            Some(ToNode::LogPersisted(number)) => running.node.log_persisted(number, &mut effects),
            Some(ToNode::LogFetched(low, entries)) => running.node.log_fetched(low, entries),
            Some(ToNode::Applied(index)) => running.node.applied(index),
            Some(ToNode::Installed(position)) => running.node.install_finished(position),
            Some(ToNode::LogCut(position)) => running.node.log_cut(position),
            None => {}
        }
        self.carry_out(place, effects);
    }

    fn answer_read(&mut self, place: usize, request: RequestId) {
        let Some(running) = self.running(place) else { return };
        let Some(Asked::Read { key, newest }) = running.asked.remove(&request) else { return };
        let (is_leader, view) = (running.node.status().is_leader, running.machine.view());
        let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let found = view.mvcc.range(&range).expect("a read of the present works").kvs.pop();
        let found = found.map(|kv| (kv.mod_revision, kv.key, kv.value));
        self.history.read(view.mvcc.revision().0, found, newest);
        self.summary.reads_by_followers += u64::from(!is_leader);
    }

    fn cut_log(&mut self, place: usize) {
        if let Some(cut) = self.members[place].cut_log(POSITIONS_KEPT) {
            self.note(place, &format!("cut its log at {}", cut.index));
        }
    }

    fn offer_snapshot(&mut self, place: usize) {
        let Some(rows) = self.members[place].rows() else { return };
        let Some(running) = self.running(place) else { return };
        if rows.position.index.0 == 0 {
            return;
        }
        let voters = running.machine.view().conf_state.voters;
        running.node.snapshot_offered(rows.position, ConfState { voters, ..ConfState::default() });
        running.offered = Some(rows);
    }

    /// Everything is mended. What waits is answered, every member serves and has what the others have.
    pub fn finish(mut self) -> (Summary, Vec<String>) {
        self.network.faults = Faults::default();
        self.members.iter_mut().for_each(|member| member.up_at = Duration::ZERO);
        self.tell_links();
        let is_quiet = |world: &World| {
            let mut running = world.members.iter().filter_map(|member| member.running.as_ref());
            let first = running.next().map(|running| running.machine.applied());
            first.is_some_and(|first| first.0 > 0 && running.all(|running| running.machine.applied() == first))
                && world.members.iter().all(|member| member.running.as_ref().is_some_and(|it| it.asked.is_empty()))
        };
        // One write and one read through each, once all are up.
        self.go_on("all members are up", |world| world.members.iter().all(|member| member.running.is_some()));
        let acknowledged = self.summary.acknowledged;
        self.go_on("what waited is answered", is_quiet);
        for place in 0..MEMBERS.len() {
            for _ in 0..10 {
                self.client(place);
            }
            self.go_on("each member serves", is_quiet);
        }
        assert!(self.summary.acknowledged > acknowledged, "nothing was written after all was mended");

        (self.summary.packets_lost, self.summary.packets_repeated) = (self.network.lost, self.network.repeated);
        for member in &self.members {
            let view = member.running.as_ref().expect("it is up").machine.view();
            let mut history = BTreeMap::new();
            let mut at = Revision(2);
            while at <= view.mvcc.revision() {
                let caught_up = view.mvcc.changes(at, view.mvcc.revision(), 100).expect("nothing is compacted");
                at = caught_up.next;
                for change in caught_up.changes {
                    for event in change.events {
                        history.insert(change.revision.0, (event.kv.key, event.kv.value));
                    }
                }
            }
            self.history.judge(&history);
        }
        (self.summary, self.trace)
    }

    fn go_on(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.now += Duration::from_micros(500);
            for _ in 0..EVENTS {
                self.event(false);
            }
            for place in 0..MEMBERS.len() {
                self.pass_time(place);
            }
        }
        for member in &self.members {
            let running = member.running.as_ref().map(|it| {
                (
                    it.node.status(),
                    it.machine.applied(),
                    it.asked.len(),
                    it.to_log.len(),
                    it.written,
                    it.to_applier.len(),
                    it.to_node.len(),
                )
            });
            eprintln!("{} {running:?}", member.id);
        }
        eprintln!("packets {}", self.network.waiting());
        self.trace.iter().rev().take(60).rev().for_each(|line| eprintln!("{line}"));
        panic!("in vain: {what}");
    }
}
