//! Starts the actors and hands out addresses: the architecture as code. The only file that does.
//!
//! ```text
//!   Core (what boot found on disk) ──▶ start ──▶ Cast (for the edge) + Inbound (for the peer port) + Running (to stop it)
//! ```
//!
//! Every mailbox is made first and every actor after that, so that each gets the addresses it needs in its constructor.
//! Placement, clock and stores are arguments: the same actors run spread over threads or all on one.

use crate::actors::MAILBOX_CAPACITY;
use crate::actors::applier::{self, Applier};
use crate::actors::auditor::{self, Auditor};
use crate::actors::compactor::{self, Compactor};
use crate::actors::errands::{Errands, RunsErrands};
use crate::actors::lease_keeper::LeaseKeeper;
use crate::actors::log_writer::LogWriter;
use crate::actors::peer_links::{self, BeginsLink, PeerIntroduced, PeerLinks};
use crate::actors::raft_node::{self, RaftNode};
use crate::actors::snapshotter::{self, SendSnapshot, Snapshotter};
use crate::actors::ticker::{Listener, Ticker};
use crate::actors::watch_hub::WatchHub;
use crate::cast::{Addresses, Cast, Identity, Limits, PeerAccess, Published};
use crate::consistency::ask::Asker;
use crate::ids::MemberId;
use crate::lease::LeaseKeeper as LeaseCore;
use crate::peer::PeerSettings;
use crate::peer::calls::PeerCalls;
use crate::peer::courier::{Courier, PAUSE_AFTER_FAILURE};
use crate::peer::handlers::ReceivesSnapshots;
use crate::peer::reception::Reception;
use crate::peer::roster::{Connections, Roster};
use crate::peer::service::{Inbound, Receivers};
use crate::raft::log::LogStore;
use crate::raft::node::{Node, TICK};
use crate::snapshot::SnapshotStore;
use crate::snapshot::policy::SnapshotPolicy;
use crate::state::Machine;
use crate::storage::{DataDir, StorageKind};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::watch::Hub;
use actix::dev::ContextFut;
use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Addr, Arbiter, Context, System};
use slog::{Logger, o};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often leases are looked at (etcd: every 500 ms).
const LEASE_TICK: Duration = Duration::from_millis(500);
/// How often periodic progress notices are looked at.
const WATCH_TICK: Duration = Duration::from_millis(100);
/// How often a member looks whether it has to go.
const LINK_TICK: Duration = Duration::from_millis(500);
const HOUSEKEEPING_TICK: Duration = Duration::from_secs(1);

/// What the actors own, as the start has found or made it.
pub struct Cores {
    pub node: Node,
    pub log_store: Box<dyn LogStore>,
    pub machine: Machine,
    pub hub: Hub,
    pub leases: LeaseCore,
    pub snapshots: SnapshotStore,
    pub snapshot_policy: SnapshotPolicy,
    /// Where a store that takes the place of the present one comes from.
    pub data_dir: Arc<DataDir>,
}

/// What all of them are told.
#[derive(Clone)]
pub struct Surroundings {
    pub clock: Clock,
    pub metrics: Metrics,
    pub log: Logger,
    pub identity: Identity,
    pub limits: Limits,
    pub applier: applier::Settings,
    pub peers: PeerSettings,
    /// Members that are known before the log tells of any.
    pub others: Vec<(MemberId, Vec<String>)>,
    pub compactor: compactor::Settings,
    pub auditor: auditor::Settings,
    pub request_timeout: Duration,
}

/// What [`start`] hands out.
pub struct Started {
    pub cast: Cast,
    pub running: Running,
    /// Where the peer port brings what it receives.
    pub inbound: Arc<Inbound>,
    /// Who takes snapshots in that come by it.
    pub reception: Arc<dyn ReceivesSnapshots>,
    /// Given when this member was removed from the cluster.
    pub removed: CancellationToken,
}

/// Which actors share a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// RaftNode, the Applier and the links to peers share a thread, the LogWriter has its own, and all others share one.
    /// Apart, RaftNode and the Applier cost a fifth more CPU for a put of a lone client: two more wake-ups across threads.
    /// So do the links, for a linearizable read: each message to a peer would wake one more thread, at both ends of the way.
    /// The Compactor is with RaftNode: it has next to nothing to do, and its tick wakes nobody who is not woken by RaftNode's.
    Spread,
    /// All on the System's own thread.
    OneThread,
}

/// When an actor gets the turn that it is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    /// After whoever else is ready.
    Later,
    After(Duration),
    /// The actor ends here, with its mail.
    Never,
}

/// Decides in the place of the machine which actor gets its turn when; so every interleaving is a matter of a seed.
pub trait Turns: Send + Sync {
    /// Asked once before each turn of the actor of that type: a turn that was put off comes without another question.
    fn next(&self, actor: &'static str) -> Turn;
}

/// What takes the place of threads and sockets where a cast runs on its caller's thread.
pub struct Rehearsal {
    pub turns: Arc<dyn Turns>,
    pub errands: Arc<dyn RunsErrands>,
    pub begins_link: BeginsLink,
}

/// What [`start_here`] hands out.
pub struct Rehearsed {
    pub cast: Cast,
    /// Where what peers send is brought.
    pub receivers: Receivers,
    _ticker: Ticker,
}

/// The running cast. Dropping it stops the clock; the actors end with their System.
pub struct Running {
    system: System,
    thread: Option<std::thread::JoinHandle<()>>,
    _ticker: Ticker,
}

impl Running {
    /// Ends all actors, unless that is done, and waits for their threads. What they own is closed in order.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.system.stop();
            let _ = thread.join();
        }
    }
}

/// One actor's mailbox, before there is an actor.
struct Mailbox<A: Actor> {
    address: Addr<A>,
    receiver: AddressReceiver<A>,
}

impl<A: Actor<Context = Context<A>> + Send> Mailbox<A> {
    fn new() -> Self {
        let (sender, receiver) = channel(MAILBOX_CAPACITY);
        Mailbox { address: Addr::new(sender), receiver }
    }

    fn run(self, place: &Place, actor: A) {
        let receiver = self.receiver;
        let turns = place.turns.clone();
        place.arbiter.spawn_fn(move || match turns {
            None => {
                Context::with_receiver(receiver).run(actor);
            }
            Some(turns) => {
                actix::spawn(in_turn(turns, Context::with_receiver(receiver).into_future(actor)));
            }
        });
    }
}

/// The life of an actor, with somebody else's idea of when it gets its turns.
async fn in_turn<A: Actor<Context = Context<A>>>(turns: Arc<dyn Turns>, life: ContextFut<A, Context<A>>) {
    let mut life = Box::pin(life);
    let mut wait: Option<Pin<Box<tokio::time::Sleep>>> = None;
    let mut has_waited = false;
    std::future::poll_fn(move |context| {
        loop {
            if let Some(sleep) = &mut wait {
                std::task::ready!(sleep.as_mut().poll(context));
                (wait, has_waited) = (None, true);
            }
            let turn = if has_waited { Turn::Now } else { turns.next(std::any::type_name::<A>()) };
            match turn {
                Turn::Now => {
                    has_waited = false;
                    return life.as_mut().poll(context);
                }
                Turn::Later => {
                    has_waited = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Turn::After(pause) => wait = Some(Box::pin(tokio::time::sleep(pause))),
                Turn::Never => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// Starts the cast on threads of its own.
///
/// # Errors
/// When the system has no thread left.
pub fn start(cores: Cores, around: Surroundings, placement: Placement) -> std::io::Result<Started> {
    let (system, arbiters, thread) = threads(placement)?;
    let assembled = assemble(cores, around, &arbiters, Errands::OnThreads, None);
    let ticker = Ticker::start(assembled.clock, assembled.listeners)?;
    let Assembled { cast, inbound, reception, removed, .. } = assembled;
    let running = Running { system, thread: Some(thread), _ticker: ticker };
    Ok(Started { cast, running, inbound: Arc::new(inbound), reception: Arc::new(reception), removed })
}

/// Starts the cast on the caller's thread, which has to be that of an actix System: for tests that decide about time, turns and
/// the way to the peers themselves. The actors and what they say to each other are the same.
pub fn start_here(cores: Cores, around: Surroundings, rehearsal: Rehearsal) -> Rehearsed {
    let own = System::current().arbiter().clone();
    let place = Place { arbiter: own, turns: Some(rehearsal.turns) };
    let arbiters = Arbiters { raft_node: place.clone(), log_writer: place.clone(), others: place };
    let assembled = assemble(cores, around, &arbiters, Errands::By(rehearsal.errands), Some(rehearsal.begins_link));
    let ticker = Ticker::start_here(assembled.clock, assembled.listeners);
    Rehearsed { cast: assembled.cast, receivers: assembled.receivers, _ticker: ticker }
}

/// The actors at work, before anybody tells them the time.
struct Assembled {
    cast: Cast,
    clock: Clock,
    listeners: Vec<Listener>,
    inbound: Inbound,
    receivers: Receivers,
    reception: Reception,
    removed: CancellationToken,
}

fn assemble(
    cores: Cores,
    around: Surroundings,
    arbiters: &Arbiters,
    errands: Errands,
    begins_link: Option<BeginsLink>,
) -> Assembled {
    let Surroundings { clock, metrics, log, identity, limits, request_timeout, peers, others, .. } = around;
    let view = Published::new(cores.machine.view());
    let status = Published::new(cores.node.status());
    let roster = Published::new(Roster::new(Arc::clone(cores.machine.members())));
    let connections = Published::new(Connections::default());
    let removed = CancellationToken::new();

    let raft_node = Mailbox::<RaftNode>::new();
    let log_writer = Mailbox::<LogWriter>::new();
    let applier = Mailbox::<Applier>::new();
    let watch_hub = Mailbox::<WatchHub>::new();
    let lease_keeper = Mailbox::<LeaseKeeper>::new();
    let peer_links = Mailbox::<PeerLinks>::new();
    let snapshotter = Mailbox::<Snapshotter>::new();
    let compactor = Mailbox::<Compactor>::new();
    let auditor = Mailbox::<Auditor>::new();

    let addresses = Addresses {
        raft_node: raft_node.address.clone(),
        watch_hub: watch_hub.address.clone(),
        lease_keeper: lease_keeper.address.clone(),
        snapshotter: snapshotter.address.clone(),
    };
    let listeners = vec![
        Listener { recipient: raft_node.address.clone().recipient(), every: TICK },
        Listener { recipient: applier.address.clone().recipient(), every: TICK },
        Listener { recipient: compactor.address.clone().recipient(), every: TICK },
        Listener { recipient: lease_keeper.address.clone().recipient(), every: LEASE_TICK },
        Listener { recipient: watch_hub.address.clone().recipient(), every: WATCH_TICK },
        Listener { recipient: peer_links.address.clone().recipient(), every: LINK_TICK },
        Listener { recipient: snapshotter.address.clone().recipient(), every: HOUSEKEEPING_TICK },
        Listener { recipient: auditor.address.clone().recipient(), every: HOUSEKEEPING_TICK },
    ];

    let raft_links = raft_node::Links {
        log_writer: log_writer.address.clone().recipient(),
        replace_log: log_writer.address.clone().recipient(),
        fetch_log: log_writer.address.clone().recipient(),
        applier: applier.address.clone().recipient(),
        install_snapshot: applier.address.clone().recipient(),
        snapshot_wanted: snapshotter.address.clone().recipient(),
        peer_links: peer_links.address.clone().recipient(),
        forward: peer_links.address.clone().recipient(),
        leader_changed: vec![lease_keeper.address.clone().recipient(), compactor.address.clone().recipient()],
    };
    let applier_links = applier::Links {
        applied: raft_node.address.clone().recipient(),
        conf_change_applied: raft_node.address.clone().recipient(),
        membership_changed: peer_links.address.clone().recipient(),
        store_changed: watch_hub.address.clone().recipient(),
        leases_changed: lease_keeper.address.clone().recipient(),
        backend_durable: snapshotter.address.clone().recipient(),
        compaction_scheduled: snapshotter.address.clone().recipient(),
        compaction_finished: snapshotter.address.clone().recipient(),
        propose: raft_node.address.clone().recipient(),
        history_compacted: compactor.address.clone().recipient(),
        piece_deleted: compactor.address.clone().recipient(),
        store_replaced: watch_hub.address.clone().recipient(),
        leases_replaced: lease_keeper.address.clone().recipient(),
        clear_pending_install: log_writer.address.clone().recipient(),
        snapshot_installed: vec![raft_node.address.clone().recipient(), snapshotter.address.clone().recipient()],
        data_dir: Arc::clone(&cores.data_dir),
    };
    let courier = Courier {
        own: identity,
        roster: roster.clone(),
        status: status.clone(),
        open_timeout: peers.open_timeout(),
        silence_max: peers.read_timeout,
        pause_after_failure: PAUSE_AFTER_FAILURE,
        clock,
        metrics: metrics.clone(),
        log: log.new(o!("part" => "courier")),
    };
    let snapshotter_links = snapshotter::Links {
        truncate_log: log_writer.address.clone().recipient(),
        log_cut: raft_node.address.clone().recipient(),
        snapshot_offered: raft_node.address.clone().recipient(),
        snapshot_withdrawn: raft_node.address.clone().recipient(),
        snapshot_sent: raft_node.address.clone().recipient(),
        courier: Arc::new(courier),
        data_dir: Arc::clone(&cores.data_dir),
        view: view.clone(),
        purger: cores.log_store.purger(),
        errands: errands.clone(),
    };
    let compactor_links = compactor::Links {
        propose: raft_node.address.clone().recipient(),
        applier: applier.address.clone().recipient(),
    };

    log_writer.run(
        &arbiters.log_writer,
        LogWriter::new(
            cores.log_store,
            raft_node.address.clone().recipient(),
            raft_node.address.clone().recipient(),
            snapshotter.address.clone().recipient(),
            clock,
            metrics.clone(),
            log.new(o!("actor" => "LogWriter")),
        ),
    );
    applier.run(
        &arbiters.raft_node,
        Applier::new(
            cores.machine,
            applier_links,
            view.clone(),
            around.applier,
            clock,
            metrics.clone(),
            log.new(o!("actor" => "Applier")),
        ),
    );
    compactor.run(
        &arbiters.raft_node,
        Compactor::new(
            around.compactor,
            compactor_links,
            view.clone(),
            clock,
            metrics.clone(),
            log.new(o!("actor" => "Compactor")),
        ),
    );
    lease_keeper.run(
        &arbiters.others,
        LeaseKeeper::new(
            cores.leases,
            raft_node.address.clone().recipient(),
            raft_node.address.clone().recipient(),
            request_timeout,
            clock,
            metrics.clone(),
            log.new(o!("actor" => "LeaseKeeper")),
        ),
    );
    watch_hub.run(
        &arbiters.others,
        WatchHub::new(cores.hub, view.clone(), errands, clock, metrics.clone(), log.new(o!("actor" => "WatchHub"))),
    );
    let receivers = Receivers {
        step: raft_node.address.clone().recipient(),
        forwarded: raft_node.address.clone().recipient(),
        introduced: peer_links.address.clone().recipient(),
    };
    let inbound = Inbound::new(
        identity,
        roster.clone(),
        receivers.clone(),
        clock,
        metrics.clone(),
        log.new(o!("part" => "peers")),
    );
    let reception = Reception::new(
        identity,
        cores.snapshots.clone(),
        status.clone(),
        raft_node.address.clone().recipient(),
        cores.data_dir.kind() != StorageKind::Memory,
        clock,
        metrics.clone(),
        log.new(o!("part" => "peers")),
    );
    let send_snapshot = snapshotter.address.clone();
    let calls = PeerCalls::new(identity, roster.clone(), peers.open_timeout());
    let auditor_links = auditor::Links {
        propose: raft_node.address.clone().recipient(),
        read_index: raft_node.address.clone().recipient(),
        list_compaction_hashes: snapshotter.address.clone().recipient(),
        peers: Asker::new(calls.clone(), around.auditor.patience),
        view: view.clone(),
        status: status.clone(),
    };
    auditor.run(&arbiters.others, Auditor::new(around.auditor, auditor_links, log.new(o!("actor" => "Auditor"))));
    let link_links = peer_links::Links {
        unreachable: raft_node.address.clone().recipient(),
        link_changed: raft_node.address.clone().recipient(),
        snapshots: Some(Arc::new(move |message| send_snapshot.do_send(SendSnapshot { message }))),
        begins_link,
        roster,
        connections: connections.clone(),
        removed: removed.clone(),
    };
    for (peer, urls) in others {
        peer_links.address.do_send(PeerIntroduced { peer, urls });
    }
    peer_links.run(
        &arbiters.raft_node,
        PeerLinks::new(peers, link_links, clock, metrics.clone(), log.new(o!("actor" => "PeerLinks"))),
    );
    snapshotter.run(
        &arbiters.others,
        Snapshotter::new(
            cores.snapshots,
            cores.snapshot_policy,
            identity.cluster,
            snapshotter_links,
            clock,
            metrics.clone(),
            log.new(o!("actor" => "Snapshotter")),
        ),
    );
    raft_node.run(
        &arbiters.raft_node,
        RaftNode::new(cores.node, raft_links, clock, status.clone(), metrics, log.new(o!("actor" => "RaftNode"))),
    );

    let cast = Cast::new(addresses, view, status, PeerAccess { connections, calls }, identity, limits);
    Assembled { cast, clock, listeners, inbound, receivers, reception, removed }
}

/// Where an actor runs.
#[derive(Clone)]
struct Place {
    arbiter: actix::ArbiterHandle,
    /// `None` where the machine decides.
    turns: Option<Arc<dyn Turns>>,
}

struct Arbiters {
    raft_node: Place,
    log_writer: Place,
    others: Place,
}

/// An actix System on a thread of its own, and its arbiters. Arbiters can only be made on that thread.
fn threads(placement: Placement) -> std::io::Result<(System, Arbiters, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("cast".into()).spawn(move || {
        let runner = System::new();
        let system = System::current();
        let own = system.arbiter().clone();
        let mut spread = Vec::new();
        let mut arbiter = || match placement {
            Placement::Spread => {
                let arbiter = Arbiter::new();
                let handle = arbiter.handle();
                spread.push(arbiter);
                handle
            }
            Placement::OneThread => own.clone(),
        };
        let mut place = || Place { arbiter: arbiter(), turns: None };
        let (raft_node, log_writer) = (place(), place());
        let arbiters = Arbiters { raft_node, log_writer, others: Place { arbiter: own.clone(), turns: None } };
        let _ = sender.send((system, arbiters));
        // Ends with System::stop; the code it returns is ours and means nothing.
        let _ = runner.run();
        // The System tells its arbiters to stop and waits for none of them. But what their actors own, first of all the
        // log and its lock, is to be closed when `Running::stop` returns.
        for arbiter in spread {
            let _ = arbiter.join();
        }
    })?;
    let (system, arbiters) =
        receiver.recv().map_err(|_| std::io::Error::other("the thread of the actors ended while starting"))?;
    Ok((system, arbiters, thread))
}
