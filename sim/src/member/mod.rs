//! One member: the cores of all its actors, thin shells around them, the mail between these, and a disk that outlives them.
//!
//! ```text
//!   Member ── disk, clock: survive a crash
//!      └─ Running ── RaftNode, LogWriter, Applier, WatchHub, LeaseKeeper, PeerLinks, Snapshotter, Compactor: one mailbox each
//!                 └─ edge: requests of clients that are under way
//! ```
//! As in actix, a mailbox is a queue in the order of sending; an actor takes some of its mail in a turn, and when turns come is
//! the world's business. What a shell does in `src/actors` with threads, channels and logs is done here without; the order of
//! what it tells whom is the same.

mod applier;
mod compactor;
pub mod edge;
mod lease_keeper;
mod log_writer;
pub mod mail;
pub mod peer_links;
mod raft_node;
mod running;
mod snapshotter;
pub mod watch_hub;

use self::applier::Applier;
use self::compactor::Compactor;
use self::edge::{Edge, News, Ticket};
use self::lease_keeper::LeaseKeeper;
use self::log_writer::LogWriter;
use self::mail::{Actor, Job, Mail, Out, ToPeerLinks};
use self::peer_links::PeerLinks;
use self::raft_node::RaftNode;
pub use self::running::{Actors, Running};
use self::snapshotter::Snapshotter;
use self::watch_hub::{Streams, WatchHub};
use crate::check::Checks;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::disk::{Disk, DiskError, Gone, Lost, Storage};
use crate::planted::{self, Bug};
use crate::seed::Plan;
use crate::trace::{Line, Trace};
use castd::cast::Identity;
use castd::config::AutoCompaction;
use castd::ids::{ClusterId, LogIndex, MemberId};
use castd::lease;
use castd::peer::roster::{Connections, Roster};
use castd::raft::log::LogError;
use castd::raft::node::{self, Node, Status, TICK};
use castd::recovery;
use castd::snapshot::policy::{PolicySettings, SnapshotPolicy};
use castd::state::{StateError, View};
use castd::watch::{Hub, Limits};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// Small, so that a simulated client can be slow.
const WATCH_LIMITS: Limits = Limits {
    stream_bytes_max: 6_000,
    stream_bytes_min: 2_000,
    pressure_bytes: 10_000,
    watchers_per_stream_max: 16,
    reads_max: 2,
    chunk_revisions: 20,
    delivery_bytes_max: 2_000,
    recent_revisions: 30,
    recent_bytes: 4_000,
};

/// What is the same for all members.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster: ClusterId,
    pub election_timeout: Duration,
    pub request_timeout: Duration,
    pub snapshot_count: u64,
    pub catchup_entries: u64,
    pub auto_compaction: AutoCompaction,
    pub is_reconfig_strict: bool,
    pub pre_vote: bool,
    pub turn: Duration,
    pub fsync: Duration,
    pub seed: u64,
}

impl Settings {
    pub fn new(plan: &Plan) -> Self {
        Settings {
            cluster: ClusterId(0xca57),
            election_timeout: plan.election_timeout(),
            request_timeout: plan.request_timeout,
            snapshot_count: plan.snapshot_count,
            catchup_entries: plan.catchup_entries,
            auto_compaction: plan.auto_compaction,
            is_reconfig_strict: plan.is_reconfig_strict,
            pre_vote: plan.pre_vote,
            turn: plan.turn,
            fsync: plan.fsync,
            seed: plan.seed,
        }
    }

    pub fn identity(&self, member: MemberId) -> Identity {
        Identity { cluster: self.cluster, member }
    }
}

/// Why a member has to end.
#[derive(Debug)]
pub struct Fatal(pub String);

impl Fatal {
    pub fn new(error: impl Display) -> Self {
        Fatal(error.to_string())
    }
}

macro_rules! fatal_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Fatal {
            fn from(error: $error) -> Self {
                Fatal::new(error)
            }
        })*
    };
}

fatal_from! { DiskError, LogError, StateError, Gone, castd_backend_api::BackendError }

/// What actors share: each value is written by one of them.
pub struct Shared {
    pub view: Arc<View>,
    pub status: Status,
    pub roster: Arc<Roster>,
    pub connections: Connections,
    pub streams: Streams,
}

/// What an actor has around it during a turn.
pub struct Around<'a> {
    pub place: usize,
    pub id: MemberId,
    pub boot: u64,
    /// By this process's clock.
    pub now: Duration,
    pub true_now: Duration,
    pub unix_seconds: i64,
    pub settings: &'a Settings,
    pub shared: &'a mut Shared,
    pub disk: &'a mut Disk,
    /// Its disk takes so many times as long as usual.
    pub disk_factor: u32,
    /// For so much longer; then what is under way is soon done.
    pub disk_slow_for: Duration,
    pub dice: &'a mut Dice,
    pub out: &'a mut Vec<Out>,
    pub checks: &'a mut Checks,
    pub trace: &'a mut Trace,
}

impl Around<'_> {
    pub fn mail(&mut self, mail: impl Into<Mail>) {
        self.out.push(Out::Mail(mail.into()));
    }

    /// The edge hears of it, on a thread of its own.
    pub fn edge(&mut self, ticket: Ticket, news: News) {
        let after = self.dice.latency(self.settings.turn);
        self.out.push(Out::Edge { after, ticket, news });
    }

    /// How long so many writes take.
    pub fn disk_time(&mut self, writes: u32) -> Duration {
        let usual = self.dice.latency(self.settings.fsync) * writes;
        (usual * self.disk_factor).min(self.disk_slow_for + usual)
    }

    pub fn note(&mut self, line: Line) {
        self.trace.note(self.true_now, Some(self.id), line);
    }
}

/// What has become of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It belongs to the cluster, or wants to.
    Belongs,
    /// It has ended because it was removed.
    Departed,
}

pub struct Member {
    pub id: MemberId,
    pub url: String,
    pub disk: Disk,
    pub clock: Clock,
    pub fate: Fate,
    pub boots: u64,
    pub running: Option<Running>,
    /// Nothing happens in the process before.
    pub paused_until: Duration,
    /// Its disk takes so many times as long, until then.
    pub slow_disk: (u32, Duration),
    /// Its disk does not answer before.
    pub stuck_until: Option<Duration>,
    /// Known before the log tells of any.
    others: Vec<(MemberId, Vec<String>)>,
}

impl Member {
    pub fn found(
        id: MemberId,
        url: String,
        storage: Storage,
        clock: Clock,
        all: &[(MemberId, String)],
        plan: &Plan,
    ) -> Self {
        let mut disk = Disk::new(storage, plan.files_of(id));
        let members: Vec<_> =
            all.iter().map(|(id, url)| recovery::initial_member(*id, std::slice::from_ref(url))).collect();
        disk.begin(|log| recovery::begin(log, &members)).expect("a working disk");
        Member::new(id, url, disk, clock, Vec::new())
    }

    /// One that was added to a running cluster.
    pub fn join(
        id: MemberId,
        url: String,
        storage: Storage,
        clock: Clock,
        others: Vec<(MemberId, Vec<String>)>,
        plan: &Plan,
    ) -> Self {
        let mut disk = Disk::new(storage, plan.files_of(id));
        disk.begin(|log| recovery::begin_joining(log)).expect("a working disk");
        Member::new(id, url, disk, clock, others)
    }

    fn new(id: MemberId, url: String, disk: Disk, clock: Clock, others: Vec<(MemberId, Vec<String>)>) -> Self {
        Member {
            id,
            url,
            disk,
            clock,
            fate: Fate::Belongs,
            boots: 0,
            running: None,
            paused_until: Duration::ZERO,
            slow_disk: (1, Duration::ZERO),
            stuck_until: None,
            others,
        }
    }

    /// The power goes: memory is lost, and some of what was written and not synced.
    pub fn crash(&mut self, dice: &mut Dice) -> Lost {
        self.running = None;
        self.paused_until = Duration::ZERO;
        self.disk.crash(dice)
    }

    /// The process ends, the machine goes on.
    pub fn kill(&mut self) {
        self.running = None;
        self.paused_until = Duration::ZERO;
        self.disk.restart();
    }

    /// Starts from what is on disk.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn boot(&mut self, turn: Turn<'_>) -> Result<(), Fatal> {
        self.boots += 1;
        let Turn { true_now, settings, .. } = turn;
        let started = self.clock.at(true_now);
        let loaded = self.disk.load()?;
        turn.checks.summary.add_count("log writes lost in a crash", self.disk.take_writes_lost());
        if loaded.pending_install.is_some() {
            turn.checks.summary.count("a boot with a pending install");
        }
        let rebuilt = self.disk.rebuilt;
        let recovery::Recovered { machine, window } = self.disk.open_state()?;
        turn.checks.summary.add_count("a boot that rebuilt the state", self.disk.rebuilt - rebuilt);
        let unix_nanos = u128::from(self.clock.unix_seconds(true_now).unsigned_abs()) * 1_000_000_000;
        let raft_settings = node::Settings {
            id: self.id,
            election_ticks: (settings.election_timeout.as_nanos() / TICK.as_nanos()) as usize,
            heartbeat_ticks: 1,
            pre_vote: settings.pre_vote,
            request_timeout: settings.request_timeout,
            catchup_entries: settings.catchup_entries,
            seed: settings.seed ^ self.boots,
            // Of the date, which may have jumped: but never to the same nanosecond.
            boot: (unix_nanos as u64).wrapping_add(started.subsec_nanos().into()).wrapping_add(self.boots << 48),
        };
        let applied = machine.applied();
        let truncated = window.terms().truncated().index;
        let line = Line::Boots { boot: self.boots, applied: applied.0, last: window.terms().last_index() };
        turn.trace.note(true_now, Some(self.id), line);
        turn.checks.booted(turn.place, self.boots, &machine);
        let newest = self.disk.snapshots().first().map_or(LogIndex(0), |file| file.position.index);
        let policy = PolicySettings {
            snapshot_count: settings.snapshot_count,
            catchup_entries: settings.catchup_entries,
            keeps_snapshot: self.disk.storage.keeps_snapshot(),
            is_durable: self.disk.storage.is_durable(),
        };
        let leases =
            if planted::is_on(Bug::LeasesNotLoaded) { lease::LeaseTable::default() } else { machine.view().leases };
        let leases = lease::LeaseKeeper::new(&leases, settings.election_timeout);
        let compacted = machine.view().mvcc.compact_revision();
        let hub = Hub::new(WATCH_LIMITS, Duration::from_secs(2), self.id.0, machine.revision(), compacted);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = Node::new(raft_settings, window, applied, &logger).map_err(Fatal::new)?;
        let shared = Shared {
            view: Arc::new(machine.view()),
            status: node.status(),
            roster: Arc::new(Roster::new(Arc::clone(machine.members()))),
            connections: Connections::default(),
            streams: Streams::default(),
        };
        let actors = Actors {
            raft_node: RaftNode::new(node),
            log_writer: LogWriter::default(),
            applier: Applier::new(machine),
            watch_hub: WatchHub::new(hub),
            lease_keeper: LeaseKeeper::new(leases),
            peer_links: PeerLinks::new(self.boots)?,
            snapshotter: Snapshotter::new(SnapshotPolicy::new(policy, truncated, newest)),
            compactor: Compactor::new(settings.auto_compaction),
            edge: Edge::default(),
        };
        self.running = Some(Running::new(self.boots, started, actors, shared));
        let others = self.others.clone();
        self.act(turn, |actors, around| {
            for (peer, urls) in others {
                around.mail(ToPeerLinks::PeerIntroduced { peer, urls });
            }
            actors.applier.started(around)?;
            actors.raft_node.close_batch(around);
            actors.edge.publish(around);
            Ok(())
        })
    }

    /// Lets the actors of the running process do something; nothing if there is none.
    ///
    /// # Errors
    /// When the member has to end.
    pub fn act(
        &mut self,
        turn: Turn<'_>,
        act: impl FnOnce(&mut Actors, &mut Around<'_>) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Turn { place, true_now, settings, dice, out, checks, trace } = turn;
        let mut around = Around {
            place,
            id: self.id,
            boot: running.boot,
            now: self.clock.at(true_now).saturating_sub(running.started),
            true_now,
            unix_seconds: self.clock.unix_seconds(true_now),
            settings,
            shared: &mut running.shared,
            disk: &mut self.disk,
            disk_factor: if true_now < self.slow_disk.1 { self.slow_disk.0 } else { 1 },
            disk_slow_for: self.slow_disk.1.saturating_sub(true_now),
            dice,
            out,
            checks,
            trace,
        };
        act(&mut running.actors, &mut around)
    }

    /// An actor takes some of its mail.
    ///
    /// # Errors
    /// When the member has to end.
    pub fn turn(&mut self, turn: Turn<'_>, actor: Actor) -> Result<(), Fatal> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let (mails, is_empty) = running.take_mail(actor, turn.dice);
        let line = Line::Turn { actor: actor.name(), mail: mails.len() };
        turn.trace.note(turn.true_now, Some(self.id), line);
        self.act(turn, |actors, around| {
            for mail in mails {
                around.checks.summary.mail(mail.name());
                actors.handle(mail, around)?;
            }
            if is_empty {
                actors.close_batch(actor, around)?;
            }
            Ok(())
        })
    }

    /// Work that took its time is done.
    ///
    /// # Errors
    /// When the member has to end.
    pub fn done(&mut self, turn: Turn<'_>, job: Job) -> Result<(), Fatal> {
        turn.trace.note(turn.true_now, Some(self.id), Line::Job { what: job.name() });
        self.act(turn, |actors, around| actors.done(job, around))
    }

    /// The clock has gone on: who is due is told, and when the clock is to be looked at again.
    pub fn tick(&mut self, turn: Turn<'_>) -> Duration {
        let next = self.clock.true_span(TICK);
        if let Some(running) = &mut self.running {
            let now = self.clock.at(turn.true_now).saturating_sub(running.started);
            running.tick(now, turn.out);
        }
        next
    }
}

/// What a member is given to do something.
pub struct Turn<'a> {
    pub place: usize,
    pub true_now: Duration,
    pub settings: &'a Settings,
    pub dice: &'a mut Dice,
    pub out: &'a mut Vec<Out>,
    pub checks: &'a mut Checks,
    pub trace: &'a mut Trace,
}
