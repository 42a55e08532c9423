//! What a seed decides: how many members on which storage, what clients do, and what goes wrong (swarm testing: each seed has
//! a subset of everything, and so gets further with what it has).

use crate::dice::Dice;
use crate::disk::Storage;
use crate::faults::{self, Fault, FaultKind};
use castd::config::AutoCompaction;
use castd::ids::MemberId;
use castd::raft::node::TICK;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One of so many seeds takes long: leases of minutes, which are checkpointed, and little else.
const LONG_EVERY: u64 = 100;
/// So many of a thousand worlds have the log of servers.
const REAL_LOGS: u32 = 600;

/// What some seeds concentrate on: situations in which several rare things have to come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// Many of them, kept alive at leaders that do not know that they have been replaced.
    Leases,
    /// Reads at members to which the leader's word is long on its way.
    Reads,
    /// Members that come back with entries of their own, get a snapshot in their place, and end in the middle of that.
    Snapshots,
    /// Members that end in the middle of a write, above all of a vote, and are back at once.
    Crashes,
}

impl Focus {
    /// Of a hundred seeds, forty have none.
    fn of(seed: u64) -> Option<Focus> {
        match Dice::new(seed, "focus", 0).below(100) {
            0..15 => Some(Focus::Leases),
            15..25 => Some(Focus::Reads),
            25..45 => Some(Focus::Snapshots),
            45..60 => Some(Focus::Crashes),
            _ => None,
        }
    }

    /// These come, and some of those.
    fn kinds(self) -> (&'static [FaultKind], &'static [FaultKind]) {
        use FaultKind::*;
        match self {
            Focus::Leases => (&[LeaderSleeps], &[LeaderAlone, StuckDisk, DateJump, ClockRate, Pause, Flapping, Crash]),
            Focus::Reads => (&[SlowWay], &[Delay, LinkBreaks, SlowDisk, LeaderSleeps, Loss]),
            Focus::Snapshots => {
                (&[LeaderForsaken, CrashAtInstall], &[OneWay, Split, LeaderAlone, CrashAtStep, StalledWatcher])
            }
            Focus::Crashes => {
                (&[CrashAtVote, CrashBusy], &[CrashAtCandidacy, CrashSeveral, CrashAtStep, LeaderAlone, Split, Kill])
            }
        }
    }
}

/// How often each kind of request is made, relative to the others.
#[derive(Clone, Debug)]
pub struct Mix {
    pub put: u64,
    pub get: u64,
    pub past: u64,
    pub delete: u64,
    pub txn: u64,
    pub nested: u64,
    pub serializable: u64,
}

/// Clients, by what they do.
#[derive(Clone, Debug)]
pub struct Clients {
    pub keys: usize,
    pub leases: usize,
    pub watchers: usize,
    pub changes_members: bool,
    pub compacts: bool,
    /// Between two requests of one client.
    pub pause: Duration,
    /// What is not answered within is given up.
    pub patience: Duration,
    /// Of each client at the keys.
    pub operations: u64,
    /// Different ones; few make conflicts.
    pub distinct_keys: u64,
    /// Some values are that long, and sometimes much longer.
    pub value_bytes: u64,
    /// In seconds.
    pub ttl: RangeInclusive<u64>,
    /// A lease is kept alive so often at most.
    pub keepalives: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub focus: Option<Focus>,
    /// Logs are in files of so many bytes, as servers have them; or in a model.
    pub log_file_bytes: Option<u64>,
    /// One for each founding member.
    pub storages: Vec<Storage>,
    pub election_ticks: usize,
    pub pre_vote: bool,
    pub request_timeout: Duration,
    pub snapshot_count: u64,
    pub catchup_entries: u64,
    pub auto_compaction: AutoCompaction,
    pub is_reconfig_strict: bool,
    /// How late an actor gets to its mail, a packet to its receiver, and a write to its disk.
    pub turn: Duration,
    pub transit: Duration,
    pub fsync: Duration,
    /// Thousandths of packets that get lost, or come twice, all the time.
    pub loss: u32,
    pub duplication: u32,
    /// Packets of one connection may overtake each other.
    pub reorders: bool,
    /// What is on its way outlives its connection, as if a machine in between had kept it.
    pub strays: bool,
    /// Clocks are wrong by up to so many parts of a million.
    pub clock_error: i64,
    pub mix: Mix,
    pub clients: Clients,
    pub faults: Vec<Fault>,
    /// Faults come until then.
    pub faults_end: Duration,
    /// Left out, by the shrinker: faults by their place, and requests by client and number.
    pub without_operations: BTreeSet<(usize, u64)>,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, "plan", 0);
        let members = *dice.pick(&[1, 3, 3, 3, 3, 5]);
        let storages = (0..members)
            .map(|_| *dice.pick(&[Storage::Trusted, Storage::Trusted, Storage::Doubted, Storage::Memory]))
            .collect();
        let log_file_bytes = Some(*dice.pick(&[4, 16, 64]) << 10).filter(|_| dice.chance(REAL_LOGS));
        let election_ticks = *dice.pick(&[10, 10, 15, 20]);
        let election = TICK * election_ticks as u32;
        let is_long = dice.below(LONG_EVERY) == 0;
        let faults_end = Duration::from_secs(if is_long { 900 } else { dice.between(6, 14) });
        let kinds: Vec<FaultKind> = FaultKind::ALL
            .iter()
            .copied()
            .filter(|kind| is_possible(*kind, members, log_file_bytes.is_some()))
            .filter(|kind| dice.chance(if kind.is_of_disk() { 450 } else { 350 }))
            .collect();
        let focus = Focus::of(seed).filter(|_| members > 1 && !is_long);
        let kinds = focus.map_or(kinds, |focus| focused(focus, &mut Dice::new(seed, "focus", 1)));
        let pause = if is_long { Duration::from_secs(30) } else { dice.time(election, election * 12) };
        let start = Duration::from_millis(500);
        let faults = faults::schedule(&mut Dice::new(seed, "faults", 0), &kinds, start, faults_end, pause, election);
        let mut clients = Clients {
            keys: dice.between(2, 9) as usize,
            leases: if is_long { 4 } else { dice.below(4) as usize },
            watchers: dice.below(5) as usize,
            changes_members: dice.chance(400),
            compacts: dice.chance(600),
            pause: if is_long {
                Duration::from_secs(3)
            } else {
                *dice.pick(&[Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(60)])
            },
            patience: *dice.pick(&[Duration::from_millis(400), Duration::from_secs(1), Duration::from_secs(3)]),
            operations: dice.between(100, 500),
            distinct_keys: dice.between(2, 16),
            value_bytes: if dice.chance(40) { 60_000 } else { *dice.pick(&[30, 30, 30, 2_000]) },
            ttl: if is_long { 301..=400 } else { 1..=3 },
            keepalives: 4,
        };
        // Who may go at any time cannot be spared for another one whose disk goes for good.
        clients.changes_members &= !kinds.iter().any(|kind| kind.is_damage());
        let plan = Plan {
            seed,
            focus,
            log_file_bytes,
            storages,
            election_ticks,
            pre_vote: !dice.chance(100),
            request_timeout: *dice.pick(&[Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)]),
            snapshot_count: *dice.pick(&[10, 30, 100, 1_000]),
            catchup_entries: *dice.pick(&[1, 10, 50, 500]),
            auto_compaction: if dice.chance(250) {
                AutoCompaction::Periodic(Duration::from_millis(dice.between(300, 3_000)))
            } else {
                AutoCompaction::Off
            },
            is_reconfig_strict: dice.chance(300),
            turn: *dice.pick(&[1, 5, 20, 200, 1_000].map(Duration::from_micros)),
            transit: *dice.pick(&[50, 200, 500, 2_000].map(Duration::from_micros)),
            fsync: *dice.pick(&[50, 200, 1_000, 5_000].map(Duration::from_micros)),
            loss: if dice.chance(200) { dice.between(1, 100) as u32 } else { 0 },
            duplication: if dice.chance(300) { dice.between(1, 200) as u32 } else { 0 },
            reorders: dice.chance(300),
            strays: dice.chance(500),
            clock_error: *dice.pick(&[0, 1_000, 100_000]),
            mix: Mix {
                put: dice.between(1, 10),
                get: dice.between(1, 10),
                past: dice.below(4),
                delete: dice.below(4),
                txn: dice.below(8),
                nested: dice.below(3),
                serializable: dice.below(3),
            },
            clients,
            faults,
            faults_end,
            without_operations: BTreeSet::new(),
        };
        plan.focused(&mut Dice::new(seed, "focus", 2))
    }

    fn focused(mut self, dice: &mut Dice) -> Self {
        let clients = &mut self.clients;
        match self.focus {
            None => {}
            Some(Focus::Leases) => {
                (clients.leases, clients.ttl, clients.keepalives) = (6, 2..=3, 12);
                // They wait for whoever sleeps.
                clients.patience = Duration::from_secs(3);
                self.turn = Duration::from_micros(*dice.pick(&[20, 200, 1_000]));
            }
            Some(Focus::Crashes) => {
                self.pre_vote = dice.chance(300);
                self.fsync = Duration::from_micros(*dice.pick(&[200, 1_000, 5_000]));
            }
            Some(Focus::Reads) => {
                (clients.keys, clients.distinct_keys) = (8, dice.between(2, 4));
                clients.patience = clients.patience.max(Duration::from_secs(1));
                (self.mix.get, self.pre_vote) = (10, true);
            }
            Some(Focus::Snapshots) => {
                clients.watchers = 4;
                clients.pause = clients.pause.max(Duration::from_millis(20));
                (self.snapshot_count, self.catchup_entries) = (*dice.pick(&[3, 5, 10, 30]), *dice.pick(&[1, 1, 5]));
            }
        }
        self
    }

    /// For the disk of the member `id`.
    pub fn files_of(&self, id: MemberId) -> Option<(u64, Dice)> {
        self.log_file_bytes.map(|bytes| (bytes, Dice::new(self.seed, "files", id.0)))
    }

    pub fn election_timeout(&self) -> Duration {
        TICK * self.election_ticks as u32
    }
}

fn focused(focus: Focus, dice: &mut Dice) -> Vec<FaultKind> {
    let (all, some) = focus.kinds();
    // Those that it is about come more often than the others.
    let often = all.iter().flat_map(|kind| [*kind; 3]);
    often.chain(some.iter().copied().filter(|_| dice.chance(500))).collect()
}

fn is_possible(kind: FaultKind, members: usize, has_files: bool) -> bool {
    if kind.is_of_disk() {
        return has_files && (members > 2 || !kind.is_damage());
    }
    use FaultKind::*;
    let is_between_members = matches!(
        kind,
        Bridge
            | Delay
            | Duplication
            | Flapping
            | LeaderAlone
            | LeaderForsaken
            | LinkBreaks
            | Loss
            | OneWay
            | SlowWay
            | Split
    );
    members > 1 || !is_between_members
}
