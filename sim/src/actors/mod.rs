//! The second level: the real actix actors of whole members on one thread whose time is paused.
//!
//! ```text
//!   seed ──▶ Script ──▶ members (castd::wiring::start_here) ── lanes ── members      clients, watchers ──▶ History ──▶ judges
//!                            └─ stage: who gets a turn when, who ends
//! ```
//! The level below drives the cores and delivers the mail between them itself. Here mail, mailboxes, batches, reply channels and
//! tasks are those of actix and tokio; the stage decides before each turn of an actor whether it comes now, later, or after a
//! pause, and when slow work that the actors hand over (history for watchers that lag, tidying) is done. The same seed gives the
//! same turns at the same times.
//!
//! A turn is one piece here: what other threads may see between two things that an actor tells in the same turn is chance at the
//! level below. Disks that forget, members that come back, snapshots and changes of the membership are there, too.

mod clients;
mod lane;
mod stage;

use self::clients::{Clients, Watcher};
use self::lane::Lanes;
use self::stage::Stage;
use crate::dice::Dice;
use castd::actors::{applier, auditor, compactor};
use castd::cast::{Cast, Identity, Limits};
use castd::compaction::pace;
use castd::config::AutoCompaction;
use castd::ids::{ClusterId, LogIndex, MemberId};
use castd::lease::LeaseKeeper;
use castd::peer::PeerSettings;
use castd::quota::Quota;
use castd::raft::log::MemoryLog;
use castd::raft::node::{self, Node, TICK};
use castd::recovery;
use castd::snapshot::SnapshotStore;
use castd::snapshot::policy::{PolicySettings, SnapshotPolicy};
use castd::storage::{self, DataDir, StorageKind};
use castd::telemetry::clock::Clock;
use castd::telemetry::metrics::{Metrics, MetricsLevel};
use castd::watch::{self, Hub};
use castd::wiring::{self, Cores, Rehearsal, Rehearsed, Surroundings};
use castd_judge::check;
use castd_judge::history::{History, Outcome};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// Whatever a client asks is answered by then, or it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The actors that a script may end.
const ENDING: [&str; 6] = ["RaftNode", "LogWriter", "Applier", "WatchHub", "LeaseKeeper", "PeerLinks"];

/// Which actor ends, of which member, at which of its turns.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub place: usize,
    pub actor: &'static str,
    pub turn: u64,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its mail.
    Gone,
    /// It is there, and gets no turn any more: nobody can live with that, and a script has to fail.
    Stuck,
    /// In the way of a bug; only for a process that expects it.
    Panic,
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub struct Script {
    pub seed: u64,
    pub members: usize,
    /// Thousandths of the turns that come after whoever else is ready, and after a pause.
    pub later: u32,
    pub pauses: u32,
    pub pause_max: Duration,
    /// Thousandths of the letters between members that get lost.
    pub loss: u32,
    pub delay_max: Duration,
    /// Clients that ask one thing after another, and how often.
    pub sessions: usize,
    pub requests: usize,
    /// Puts, and keepalives, that are all asked at once.
    pub flood: usize,
    pub has_late_watchers: bool,
    pub ending: Option<Ending>,
    /// What a watcher may have queued before it lags, and what the hub keeps in memory and reads at once.
    pub watch_bytes: usize,
    pub recent_revisions: usize,
    pub chunk_revisions: i64,
    /// The log's disk fails: the process ends.
    pub is_disk_broken: bool,
    /// Prints each turn.
    pub is_traced: bool,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "script", 0);
        let members = if dice.chance(400) { 1 } else { 3 };
        let ending = dice.chance(300).then(|| Ending {
            place: dice.index(members),
            actor: ENDING[dice.index(ENDING.len())],
            turn: dice.between(0, 60),
            end: End::Gone,
        });
        Script {
            seed,
            members,
            later: *dice.pick(&[0, 100, 500]),
            pauses: *dice.pick(&[0, 20, 100]),
            pause_max: Duration::from_millis(*dice.pick(&[1, 5, 40])),
            loss: if members == 1 { 0 } else { *dice.pick(&[0, 0, 20, 100]) },
            delay_max: Duration::from_millis(*dice.pick(&[1, 5, 20])),
            sessions: dice.between(1, 12) as usize,
            requests: dice.between(10, 60) as usize,
            flood: *dice.pick(&[100, 400, 2_000]),
            has_late_watchers: dice.chance(400),
            ending,
            watch_bytes: *dice.pick(&[1 << 20, 64 << 10, 4 << 10]),
            recent_revisions: *dice.pick(&[1_024, 50]),
            chunk_revisions: *dice.pick(&[1_000, 20]),
            is_disk_broken: false,
            is_traced: false,
        }
    }
}

/// What came of a script.
#[derive(Clone, Debug, Default)]
pub struct Played {
    pub turns: u64,
    pub trace_hash: u64,
    pub answered: usize,
    pub unknown: usize,
    pub revisions: usize,
    pub events: usize,
    pub kept: usize,
    /// Slow work that was done for actors.
    pub errands: u64,
    pub has_ended: bool,
    pub virtual_time: Duration,
}

struct Player {
    cast: Cast,
    _rehearsed: Rehearsed,
    _data_dir: Arc<DataDir>,
    _directory: TempDir,
}

thread_local! {
    /// What an actor of this thread had to say before it panicked: tokio keeps that to itself.
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Plays the script to its end.
///
/// # Errors
/// What was wrong, in words.
pub fn play(script: &Script) -> Result<Played, String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            SAID.with_borrow_mut(|said| said.push(info.to_string()));
            before(info);
        }));
    });
    SAID.take();
    let runner = actix::System::with_tokio_rt(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().expect("a runtime")
    });
    let played = runner.block_on(on_stage(script.clone()));
    drop(runner);
    match SAID.take().first() {
        Some(said) => Err(format!("seed {}: an actor panicked: {said}", script.seed)),
        None => played.map_err(|wrong| format!("seed {}: {wrong}\n{script:?}", script.seed)),
    }
}

async fn on_stage(script: Script) -> Result<Played, String> {
    let clock = Clock::start();
    let stage = Stage::new(&script, clock);
    let lanes = Lanes::new(&script, clock);
    let history = Rc::new(RefCell::new(History::default()));
    let mut players = Vec::new();
    for place in 0..script.members {
        players.push(enter(&script, place, clock, &stage, &lanes)?);
    }
    let casts: Vec<Cast> = players.iter().map(|player| player.cast.clone()).collect();
    until("somebody leads", || casts.iter().any(|cast| cast.status().is_leader)).await?;

    let mut watchers = Vec::new();
    for cast in &casts {
        watchers.push(Watcher::begin(watchers.len(), cast, &history, clock, &script).await?);
    }
    stage.begin_ending();
    let clients = Clients::new(&script, casts.clone(), clock, Rc::clone(&history));
    let asked = clients.begin();
    if script.has_late_watchers {
        for cast in &casts {
            tokio::time::sleep(Duration::from_millis(5)).await;
            watchers.push(Watcher::begin(watchers.len(), cast, &history, clock, &script).await?);
        }
    }
    for task in asked {
        task.await.map_err(|error| format!("a client failed: {error}"))??;
    }
    stage.calm();
    lanes.calm();
    settle(&script, &stage, &casts, &watchers).await?;
    let history = history.borrow();
    let ended = history.operations.len();
    if ended != clients.asked() {
        return Err(format!("{ended} of {} requests came to an end", clients.asked()));
    }
    judge(&script, &stage, &casts, &history, clients.kept(), clock)
}

/// Starts the cast of one member.
fn enter(script: &Script, place: usize, clock: Clock, stage: &Stage, lanes: &Lanes) -> Result<Player, String> {
    let id = MemberId(place as u64 + 1);
    let identity = Identity { cluster: ClusterId(0xca57), member: id };
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let settings = storage::Settings::new(directory.path().join("data"), StorageKind::Memory);
    let data_dir = Arc::new(DataDir::prepare(settings, &mut |_| {}).map_err(|error| error.to_string())?);
    let backend = data_dir.begin_replacement().map_err(|error| error.to_string())?.backend;
    // Without a URL, so that nobody dials: single questions to another member are refused at once.
    let members: Vec<_> =
        (1..=script.members as u64).map(|member| recovery::initial_member(MemberId(member), &[])).collect();
    let mut log_store = MemoryLog::new();
    recovery::begin(&mut log_store, &members).map_err(|error| error.to_string())?;
    let recovery::Recovered { machine, window } =
        recovery::recover(&mut log_store, backend).map_err(|error| error.to_string())?;
    if script.is_disk_broken {
        log_store.break_disk();
    }
    let raft_settings = node::Settings {
        id,
        election_ticks: (ELECTION_TIMEOUT.as_nanos() / TICK.as_nanos()) as usize,
        heartbeat_ticks: 10,
        pre_vote: true,
        request_timeout: REQUEST_TIMEOUT,
        catchup_entries: 5_000,
        seed: script.seed ^ id.0,
        boot: id.0,
    };
    let policy =
        PolicySettings { snapshot_count: 1_000_000, catchup_entries: 5_000, keeps_snapshot: false, is_durable: false };
    let truncated = window.terms().truncated().index;
    let snapshots = SnapshotStore::open(data_dir.snapshots_path()).map_err(|error| error.to_string())?;
    let compacted = machine.view().mvcc.compact_revision();
    let hub = Hub::new(watch_limits(script), Duration::from_secs(600), script.seed, machine.revision(), compacted);
    let cores = Cores {
        node: Node::new(raft_settings, window, machine.applied(), &log).map_err(|error| error.to_string())?,
        log_store: Box::new(log_store),
        hub,
        leases: LeaseKeeper::new(&machine.view().leases, ELECTION_TIMEOUT),
        machine,
        snapshots,
        snapshot_policy: SnapshotPolicy::new(policy, truncated, LogIndex(0)),
        data_dir: Arc::clone(&data_dir),
    };
    let quota = Quota::new(None);
    let around = Surroundings {
        clock,
        metrics: Metrics::new(MetricsLevel::Basic),
        log,
        identity,
        limits: Limits { request_bytes_max: 1 << 20, txn_ops_max: 128, quota },
        applier: applier::Settings {
            slow_apply: Duration::from_secs(1),
            report_entries: 1_000_000,
            member: id,
            quota,
            auto_disarm: false,
        },
        peers: PeerSettings {
            identity,
            advertised_urls: Vec::new(),
            election_timeout: ELECTION_TIMEOUT,
            read_timeout: REQUEST_TIMEOUT,
            write_timeout: REQUEST_TIMEOUT,
            frame_bytes_max: 1 << 20,
        },
        others: Vec::new(),
        compactor: compactor::Settings {
            keep: AutoCompaction::Off,
            pace: pace::Settings { rows_max: 1_000, sleep: Duration::from_millis(10) },
        },
        auditor: auditor::Settings {
            identity,
            history_every: None,
            compactions_every: None,
            patience: REQUEST_TIMEOUT,
        },
        request_timeout: REQUEST_TIMEOUT,
    };
    let seat = stage.seat(place);
    let rehearsal = Rehearsal { turns: seat.clone(), errands: seat, begins_link: lanes.links_of(id) };
    let rehearsed = wiring::start_here(cores, around, rehearsal);
    lanes.enter(id, rehearsed.receivers.clone());
    Ok(Player { cast: rehearsed.cast.clone(), _rehearsed: rehearsed, _data_dir: data_dir, _directory: directory })
}

fn watch_limits(script: &Script) -> watch::Limits {
    let Script { watch_bytes, recent_revisions, chunk_revisions, .. } = *script;
    let usual = watch::Limits::default();
    watch::Limits {
        stream_bytes_max: watch_bytes,
        stream_bytes_min: usual.stream_bytes_min.min(watch_bytes),
        recent_revisions,
        chunk_revisions,
        ..usual
    }
}

/// Virtual time costs nothing: whoever waits for longer waits for ever.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    for _ in 0..6_000 {
        if is_so() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("waited in vain until {what}"))
}

/// When nothing disturbs any more, a write goes through, and all members that are whole know and tell everything.
async fn settle(script: &Script, stage: &Stage, casts: &[Cast], watchers: &[Watcher]) -> Result<(), String> {
    let lame = stage.ended();
    let whole: Vec<&Cast> =
        casts.iter().enumerate().filter(|(place, _)| lame != Some(*place)).map(|(_, cast)| cast).collect();
    let Some(asked) = whole.first() else { return Ok(()) };
    let started = stage.now();
    loop {
        match tokio::time::timeout(PATIENCE, clients::closing_word(asked)).await {
            Ok(true) => break,
            Ok(false) if stage.now() < started + PATIENCE => tokio::time::sleep(TICK).await,
            Ok(false) | Err(_) => return Err("no write goes through after all is calm".to_owned()),
        }
    }
    until("all members have applied the same", || {
        let first = whole.first().map(|cast| clients::applied(cast));
        whole.iter().all(|cast| Some(clients::applied(cast)) == first)
    })
    .await?;
    let revision = clients::applied(asked).1;
    for watcher in watchers.iter().filter(|watcher| lame != Some(watcher.place % script.members)) {
        until(&format!("watcher {} was told revision {revision}", watcher.place), || watcher.told() >= revision)
            .await?;
    }
    Ok(())
}

fn judge(
    script: &Script,
    stage: &Stage,
    casts: &[Cast],
    history: &History,
    kept: usize,
    clock: Clock,
) -> Result<Played, String> {
    let (turns, trace_hash) = stage.trace();
    let lame = stage.ended();
    let count = |is: fn(&Outcome) -> bool| history.operations.iter().filter(|it| is(&it.outcome)).count();
    let mut played = Played {
        turns,
        trace_hash,
        answered: count(|outcome| matches!(outcome, Outcome::Answered(_))),
        unknown: count(|outcome| matches!(outcome, Outcome::Unknown(_))),
        kept,
        errands: stage.errands(),
        has_ended: lame.is_some(),
        virtual_time: clock.now(),
        ..Played::default()
    };
    if script.members == 1 && lame.is_none() && played.unknown > 0 {
        return Err(format!("a lone member that is well left {} requests open", played.unknown));
    }
    if script.members == 1 && lame.is_some() {
        // Nobody is left who could say what happened.
        return Ok(played);
    }
    let hashes: Vec<_> = casts.iter().enumerate().filter(|(place, _)| lame != Some(*place)).map(|(_, it)| it).collect();
    if let Some(first) = hashes.first().map(|cast| clients::state_hash(cast))
        && hashes.iter().any(|cast| clients::state_hash(cast) != first)
    {
        return Err("members hold different data".to_owned());
    }
    let log = check::truth::log_of(history)?;
    let (revisions, _) = check::revisions::check(history, &log)?;
    let watches = check::watches::check(history, &log, 0)?;
    played.revisions = revisions.revisions;
    played.events = watches.events;
    Ok(played)
}
