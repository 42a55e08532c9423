//! The member, its disk, its clients, and the order in which things happen to them.

use crate::backend::ForgetfulBackend;
use bytes::Bytes;
use castd::cast::RequestError;
use castd::ids::{LogIndex, MemberId, RequestId, Revision};
use castd::raft::conf_change::AppliedConfChange;
use castd::raft::log::{LogStore, LogWrite, MemoryLog};
use castd::raft::node::{AppendLog, CommittedEntry, Effect, Node, Proposal, Settings, TICK};
use castd::raft::terms::LogPosition;
use castd::recovery::{self, RecoveryError};
use castd::state::{Machine, Outcome, membership_entry};
use castd_backend_api::Backend;
use castd_proto::castdpb::{MembershipChange, RaftRequest, membership_change::Kind, raft_request::Op};
use castd_proto::etcdserverpb as pb;
use prost::Message as _;
use raft::eraftpb::EntryType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const MEMBER: MemberId = MemberId(0x8e9e_05c5_2164_694d);
const KEYS: u32 = 12;
/// Ids below this one are learners'.
const LEARNERS: u64 = 12;

/// What a run did, to be sure that it did something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub acknowledged: u64,
    pub reads: u64,
    pub crashes: u64,
    pub entries_lost: u64,
    pub batches_lost: u64,
    pub log_cuts: u64,
    pub compactions: u64,
    pub membership_changes: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.entries_lost += other.entries_lost;
        self.batches_lost += other.batches_lost;
        self.log_cuts += other.log_cuts;
        self.compactions += other.compactions;
        self.membership_changes += other.membership_changes;
    }
}

/// Mail to RaftNode.
enum Mail {
    LogPersisted(u64),
    Applied(LogIndex),
    /// And the configuration that it has to lead to.
    ConfChange(AppliedConfChange),
    LogCut(LogPosition),
}

/// What lives in memory and dies with a crash.
struct Running {
    node: Node,
    machine: Machine,
    to_log_writer: VecDeque<AppendLog>,
    /// Written to the log, not synced.
    written: Option<u64>,
    to_applier: VecDeque<Vec<CommittedEntry>>,
    to_node: VecDeque<Mail>,
    asked: HashMap<RequestId, Asked>,
}

/// A request under way.
enum Asked {
    Write { put: Option<(Bytes, Bytes)> },
    Membership(MembershipChange),
    Read { key: Bytes, newest_acknowledged: i64 },
}

/// A mistake planted on purpose, to see that the judgement finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// The LogWriter says "persisted" when it has written, before its fsync.
    AnswersBeforeSync,
}

pub struct World {
    mistake: Mistake,
    rng: StdRng,
    now: Duration,
    boots: u64,
    next_request: u64,
    next_value: u64,
    log: Option<MemoryLog>,
    backend: Arc<ForgetfulBackend>,
    running: Option<Running>,
    /// Acknowledged puts: revision → key, value.
    acknowledged: BTreeMap<i64, (Bytes, Bytes)>,
    newest_acknowledged: i64,
    compacted: i64,
    /// Members whose removal was acknowledged.
    removed: BTreeSet<MemberId>,
    trace: Vec<String>,
    summary: Summary,
}

impl World {
    pub fn new(seed: u64, mistake: Mistake) -> Self {
        let mut world = World {
            mistake,
            rng: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            boots: 0,
            next_request: 0,
            next_value: 0,
            log: Some(MemoryLog::new()),
            backend: Arc::default(),
            running: None,
            acknowledged: BTreeMap::new(),
            newest_acknowledged: 1,
            compacted: 0,
            removed: BTreeSet::new(),
            trace: Vec::new(),
            summary: Summary::default(),
        };
        let member = recovery::initial_member(MEMBER, &["http://localhost:2380".to_owned()]);
        recovery::begin(world.disk(), &[member]).expect("a working disk");
        world.boot();
        world
    }

    fn disk(&mut self) -> &mut MemoryLog {
        self.log.as_mut().expect("the log is always there")
    }

    fn note(&mut self, line: String) {
        self.trace.push(format!("{:>9.3} {line}", self.now.as_secs_f64()));
    }

    /// A start from what is on disk.
    fn boot(&mut self) {
        self.boots += 1;
        let backend: Arc<dyn Backend> = self.backend.clone();
        let log = self.log.as_mut().expect("the log is always there");
        let recovered = match recovery::recover(log, backend) {
            // The log was lost further back than the backend: what it holds was never promised.
            Err(RecoveryError::BackendAhead { .. }) => {
                self.backend.wipe();
                recovery::recover(log, self.backend.clone()).expect("an empty backend fits a log that was never cut")
            }
            other => other.expect("a member always comes back"),
        };
        let settings = Settings {
            id: MEMBER,
            election_ticks: 100,
            heartbeat_ticks: 10,
            pre_vote: true,
            request_timeout: Duration::from_secs(7),
            catchup_entries: 50,
            seed: 7,
            boot: self.boots,
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let applied = recovered.machine.applied();
        let node = Node::new(settings, recovered.window, applied, &logger).expect("raft takes what was recovered");
        self.note(format!("boot {} at index {applied}, revision {}", self.boots, recovered.machine.revision()));
        self.running = Some(Running {
            node,
            machine: recovered.machine,
            to_log_writer: VecDeque::new(),
            written: None,
            to_applier: VecDeque::new(),
            to_node: VecDeque::new(),
            asked: HashMap::new(),
        });
        self.settle();
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("booted")
    }

    /// One thing happens.
    pub fn step(&mut self) {
        self.now += Duration::from_micros(self.rng.random_range(1..400));
        match self.rng.random_range(0..100) {
            0..30 => self.client(),
            30..33 => {
                self.now += TICK;
                let now = self.now;
                self.running().node.tick(now);
            }
            33..50 => self.write_log(),
            50..62 => self.sync_log(),
            62..78 => self.apply(),
            78..94 => self.deliver(),
            94 | 95 => self.flush_backend(),
            96 => self.cut_log(),
            97 => self.delete_compacted(),
            _ => {
                if self.rng.random_bool(0.3) {
                    self.crash();
                }
            }
        }
        if self.rng.random_bool(0.7) {
            self.settle();
        }
    }

    fn client(&mut self) {
        let key = Bytes::from(format!("key{:02}", self.rng.random_range(0..KEYS)));
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let now = self.now;
        let (op, put) = match self.rng.random_range(0..21) {
            20 => return self.change_membership(request),
            0..4 => {
                let asked = Asked::Read { key, newest_acknowledged: self.newest_acknowledged };
                self.running().asked.insert(request, asked);
                self.running().node.read_index(now, request);
                return;
            }
            4..6 => (Op::DeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }), None),
            6 => {
                let revision = self.newest_acknowledged - self.rng.random_range(0..20);
                (Op::Compact(pb::CompactionRequest { revision, physical: false }), None)
            }
            _ => {
                self.next_value += 1;
                let value = Bytes::from(format!("value{}", self.next_value));
                let put = pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
                (Op::Put(put), Some((key, value)))
            }
        };
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        self.running().asked.insert(request, Asked::Write { put });
        self.running().node.propose(now, Proposal { request, kind: EntryType::EntryNormal, data });
    }

    /// Learners come, go and move; the others never answer, and the one that votes goes on alone.
    fn change_membership(&mut self, request: RequestId) {
        let id = self.rng.random_range(1..LEARNERS);
        let kind = [Kind::Add, Kind::Add, Kind::Remove, Kind::Update][self.rng.random_range(0..4)];
        let peer_urls = vec![format!("http://{}", self.rng.random_range(1..2 * LEARNERS))];
        let member = pb::Member { id, peer_urls, is_learner: true, ..Default::default() };
        let checked_index = self.running().machine.applied().0;
        let change = MembershipChange {
            kind: kind.into(),
            member: Some(member),
            learners_max: 3,
            checked_index,
            ..Default::default()
        };
        let data = membership_entry(&change).into();
        let now = self.now;
        self.running().asked.insert(request, Asked::Membership(change));
        self.running().node.propose(now, Proposal { request, kind: EntryType::EntryConfChange, data });
    }

    fn settle(&mut self) {
        let now = self.now;
        let mut effects = Vec::new();
        self.running().node.settle(now, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::AppendLog(write) => {
                    self.note(format!("append {} with {} entries", write.number, write.entries.len()));
                    self.running().to_log_writer.push_back(write);
                }
                Effect::EntriesCommitted(entries) => self.running().to_applier.push_back(entries),
                Effect::ReadsReady(requests) => requests.into_iter().for_each(|request| self.answer_read(request)),
                Effect::Failed(request, error) => {
                    self.running().asked.remove(&request);
                    self.note(format!("request {request} failed: {error}"));
                }
                Effect::StatusChanged(status) => {
                    self.note(format!(
                        "term {}, leader {}, commit {}",
                        status.term, status.is_leader, status.committed
                    ));
                }
                Effect::Send(messages) => {
                    assert!(
                        messages.iter().all(|message| message.to < LEARNERS),
                        "there are only learners to write to"
                    );
                }
                Effect::ReadsLate { .. } => {}
                Effect::FetchLog { .. } | Effect::SnapshotWanted { .. } => panic!("learners never ask for anything"),
                Effect::Forward { .. } => panic!("nobody else can lead"),
                Effect::ReplaceLog(_) | Effect::InstallSnapshot { .. } => {
                    panic!("there is nobody to get a snapshot from")
                }
                Effect::DiskStuck { .. } => {}
            }
        }
    }

    /// The LogWriter writes what is queued.
    fn write_log(&mut self) {
        let writes: Vec<AppendLog> = self.running().to_log_writer.drain(..).collect();
        let Some(last) = writes.last().map(|write| write.number) else { return };
        let writes: Vec<LogWrite> = writes
            .into_iter()
            .map(|write| LogWrite { entries: write.entries, hard_state: write.hard_state, must_sync: false })
            .collect();
        self.disk().append_many(&writes).expect("a working disk");
        if self.mistake == Mistake::AnswersBeforeSync {
            self.running().to_node.push_back(Mail::LogPersisted(last));
        } else {
            self.running().written = Some(last);
        }
    }

    /// Its fsync returns.
    fn sync_log(&mut self) {
        let Some(number) = self.running().written.take() else { return };
        self.disk().sync().expect("a working disk");
        self.running().to_node.push_back(Mail::LogPersisted(number));
    }

    fn apply(&mut self) {
        let Some(slice) = self.running().to_applier.pop_front() else { return };
        let (entries, requests): (Vec<_>, Vec<_>) = slice.into_iter().map(|c| (c.entry, c.request)).unzip();
        let revision_before = self.running().machine.revision();
        let applied = self.running().machine.apply(&entries).expect("the backend works");
        let running = self.running();
        let (index, revision) = (running.machine.applied(), running.machine.revision());
        let raft_changes = applied.membership.iter().filter_map(|changed| changed.raft.clone());
        running.to_node.extend(raft_changes.map(Mail::ConfChange));
        running.to_node.push_back(Mail::Applied(index));
        assert!(revision >= revision_before, "the revision went back");
        self.note(format!("applied up to {index}, revision {revision}"));
        if let Some(compacted) = applied.compacted {
            self.compacted = self.compacted.max(compacted.0);
            self.summary.compactions += 1;
        }
        for (request, outcome) in requests.into_iter().zip(applied.outcomes) {
            let asked = request.and_then(|request| self.running().asked.remove(&request));
            if let Some(Asked::Membership(change)) = &asked {
                self.membership_changed(change, &outcome);
            }
            let (Some(Asked::Write { put }), Ok(outcome)) = (asked, outcome) else { continue };
            self.summary.acknowledged += 1;
            let header = match outcome {
                Outcome::Put(answer) => answer.header,
                Outcome::DeleteRange(answer) => answer.header,
                Outcome::Compact(answer) => answer.header,
                other => panic!("nobody asked for {other:?}"),
            };
            let revision = header.expect("a header").revision;
            self.newest_acknowledged = self.newest_acknowledged.max(revision);
            if let Some(put) = put {
                let before = self.acknowledged.insert(revision, put);
                assert_eq!(before, None, "revision {revision} was acknowledged twice");
            }
        }
    }

    fn membership_changed(&mut self, change: &MembershipChange, outcome: &Result<Outcome, RequestError>) {
        let id = MemberId(change.member.as_ref().expect("given").id);
        match outcome {
            Ok(Outcome::Members(_)) => {
                self.summary.membership_changes += 1;
                if change.kind() == Kind::Remove {
                    assert!(self.removed.insert(id), "{id} was removed twice");
                }
            }
            Ok(Outcome::MembershipOvertaken) | Err(RequestError::Membership(_)) => {}
            other => panic!("raft swallowed a change of the membership: {other:?}"),
        }
        let members = &self.running().machine.view().members;
        assert!(members.voters().map(|member| member.id).eq([MEMBER.0]));
    }

    fn deliver(&mut self) {
        let mut effects = Vec::new();
        match self.running().to_node.pop_front() {
            Some(Mail::LogPersisted(number)) => self.running().node.log_persisted(number, &mut effects),
            Some(Mail::Applied(index)) => self.running().node.applied(index),
            Some(Mail::ConfChange(applied)) => {
                self.running().node.conf_change_applied(&applied).expect("raft has the members of the table");
            }
            Some(Mail::LogCut(position)) => self.running().node.log_cut(position),
            None => {}
        }
        self.carry_out(effects);
    }

    fn answer_read(&mut self, request: RequestId) {
        let Some(Asked::Read { key, newest_acknowledged }) = self.running().asked.remove(&request) else { return };
        self.summary.reads += 1;
        let view = self.running().machine.view();
        let revision = view.mvcc.revision().0;
        assert!(revision >= newest_acknowledged, "a read at {revision} missed revision {newest_acknowledged}");
        let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let read = view.mvcc.range(&range).expect("a read of the present works");
        if let Some(kv) = read.kvs.first()
            && let Some((acknowledged_key, value)) = self.acknowledged.get(&kv.mod_revision)
        {
            assert_eq!((acknowledged_key, value), (&kv.key, &kv.value), "read something else than was acknowledged");
        }
    }

    fn flush_backend(&mut self) {
        self.backend.flush().expect("a working disk");
    }

    /// Cuts where the Snapshotter would: below what the backend has durably.
    fn cut_log(&mut self) {
        let durable = self.running().machine.durable_index().expect("a working disk");
        let view = self.running().machine.view();
        // Only positions that a view was seen at have a known term.
        if durable == view.applied && durable.0 > 0 {
            let position = LogPosition { index: view.applied, term: view.term };
            self.running().to_node.push_back(Mail::LogCut(position));
            self.disk().truncate(position, &view.conf_state).expect("a working disk");
            self.summary.log_cuts += 1;
            self.note(format!("cut the log at {durable}"));
        }
    }

    fn delete_compacted(&mut self) {
        self.running().machine.delete_compacted(10).expect("a working disk");
    }

    /// The power goes: memory is lost, and some of what was written and not synced.
    fn crash(&mut self) {
        self.summary.crashes += 1;
        self.running = None;
        let unsynced = self.disk().unsynced();
        let keep = self.rng.random_range(0..=unsynced);
        self.disk().crash(keep);
        let batches = self.backend.unsynced();
        let keep_batches = self.rng.random_range(0..=batches);
        self.backend.crash(keep_batches);
        self.summary.entries_lost += (unsynced - keep) as u64;
        self.summary.batches_lost += (batches - keep_batches) as u64;
        self.note(format!("crash: kept {keep} of {unsynced} writes, {keep_batches} of {batches} batches"));
        self.boot();
    }

    /// Lets everything under way come to its end, then checks what clients rely on.
    pub fn finish(mut self) -> (Summary, Vec<String>) {
        for _ in 0..200 {
            self.write_log();
            self.sync_log();
            self.deliver();
            self.settle();
            self.apply();
            self.deliver();
        }
        let machine = &self.running.as_ref().expect("booted").machine;
        assert!(machine.revision().0 >= self.newest_acknowledged, "the revision went back over a crash");
        let view = machine.view();
        for id in &self.removed {
            assert!(view.members.is_removed(*id) && view.members.get(*id).is_none(), "{id} came back");
        }
        let from = self.compacted.max(1);
        let mut history = BTreeMap::new();
        let mut at = Revision(from);
        while at <= view.mvcc.revision() {
            let caught_up = view.mvcc.changes(at, view.mvcc.revision(), 100).expect("nothing here is compacted");
            at = caught_up.next;
            for change in caught_up.changes {
                for event in change.events {
                    history.insert(change.revision.0, (event.kv.key, event.kv.value));
                }
            }
        }
        for (revision, put) in self.acknowledged.range(from + 1..) {
            assert_eq!(history.get(revision), Some(put), "the acknowledged write at revision {revision} is gone");
        }
        (self.summary, self.trace)
    }
}
