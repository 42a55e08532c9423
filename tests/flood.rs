//! A leader under a flood of proposals keeps its heartbeat: ticks are mail, and mail is handled in order.
//!
//! RaftNode runs as the real actor; the log, the Applier and the one peer are probes that answer at once.

use actix::{Actor, Addr, Arbiter, Context, Handler, Recipient, System};
use castd::actors::applier::{EntriesCommitted, InstallSnapshot};
use castd::actors::log_writer::{AppendLog, FetchLog, ReplaceLog};
use castd::actors::peer_links::{Forward, Send};
use castd::actors::raft_node::{Applied, Links, LogPersisted, Propose, RaftNode, SnapshotWanted, Step};
use castd::actors::ticker::{Listener, Ticker};
use castd::cast::{Published, Reply};
use castd::ids::{LogIndex, MemberId};
use castd::raft::log::{Install, LogStore, MemoryLog};
use castd::raft::node::{Node, Settings, TICK};
use castd::raft::terms::LogPosition;
use castd::raft::window::Window;
use castd::state::Outcome;
use castd::telemetry::clock::Clock;
use castd::telemetry::metrics::{Metrics, MetricsLevel};
use castd::telemetry::trace::SpanContext;
use raft::eraftpb::{ConfState, EntryType, HardState, Message, MessageType};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

const LEADER: u64 = 1;
const PEER: u64 = 2;
const FLOOD: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_millis(100);
const UNDER_WAY_MAX: usize = 20_000;

/// Answers whatever raft asks of a peer, and notes when a heartbeat came.
struct Peer {
    leader: Recipient<Step>,
    clock: Clock,
    heartbeats: Arc<Mutex<Vec<Duration>>>,
}

impl Actor for Peer {
    type Context = Context<Self>;
}

impl Handler<Send> for Peer {
    type Result = ();

    fn handle(&mut self, send: Send, _: &mut Self::Context) {
        for message in send.messages {
            let answer = match message.get_msg_type() {
                MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
                MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
                MessageType::MsgAppend => MessageType::MsgAppendResponse,
                MessageType::MsgHeartbeat => {
                    self.heartbeats.lock().expect("no panic").push(self.clock.now());
                    MessageType::MsgHeartbeatResponse
                }
                _ => continue,
            };
            let mut response = Message { from: PEER, to: LEADER, term: message.term, ..Default::default() };
            response.set_msg_type(answer);
            response.index = message.index + message.entries.len() as u64;
            self.leader.do_send(Step { messages: vec![response], room: None });
        }
    }
}

impl Handler<Forward> for Peer {
    type Result = ();

    fn handle(&mut self, _: Forward, _: &mut Self::Context) {
        panic!("the peer never leads");
    }
}

struct InstantLog(Recipient<LogPersisted>);

impl Actor for InstantLog {
    type Context = Context<Self>;
}

impl Handler<AppendLog> for InstantLog {
    type Result = ();

    fn handle(&mut self, append: AppendLog, _: &mut Self::Context) {
        self.0.do_send(LogPersisted { number: append.write.number });
    }
}

impl Handler<FetchLog> for InstantLog {
    type Result = ();

    fn handle(&mut self, _: FetchLog, _: &mut Self::Context) {
        panic!("the peer is never behind");
    }
}

/// Nobody lags here.
struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<ReplaceLog> for Nobody {
    type Result = ();

    fn handle(&mut self, _: ReplaceLog, _: &mut Self::Context) {}
}

impl Handler<InstallSnapshot> for Nobody {
    type Result = ();

    fn handle(&mut self, _: InstallSnapshot, _: &mut Self::Context) {}
}

impl Handler<SnapshotWanted> for Nobody {
    type Result = ();

    fn handle(&mut self, _: SnapshotWanted, _: &mut Self::Context) {}
}

struct InstantApplier {
    raft_node: Recipient<Applied>,
    applied: Arc<AtomicUsize>,
}

impl Actor for InstantApplier {
    type Context = Context<Self>;
}

impl Handler<EntriesCommitted> for InstantApplier {
    type Result = ();

    fn handle(&mut self, slice: EntriesCommitted, _: &mut Self::Context) {
        let index = slice.entries.last().expect("a slice is never empty").index;
        for waiter in slice.waiters.into_iter().flatten() {
            self.applied.fetch_add(1, Ordering::Relaxed);
            waiter.reply.send(Ok(Outcome::Done));
        }
        self.raft_node.do_send(Applied { index: LogIndex(index) });
    }
}

fn two_voters(log: &slog::Logger) -> Node {
    let conf_state = ConfState { voters: vec![LEADER, PEER], ..Default::default() };
    let mut store = MemoryLog::new();
    let begin = Install {
        position: LogPosition::new(0, 0),
        conf_state: conf_state.clone(),
        hard_state: HardState::default(),
        pending: None,
    };
    store.replace(&begin).expect("memory works");
    let window = Window::new(store.load(LogIndex(0)).expect("memory works"), conf_state);
    let settings = Settings {
        id: MemberId(LEADER),
        election_ticks: 100,
        heartbeat_ticks: 10,
        pre_vote: true,
        request_timeout: Duration::from_secs(7),
        catchup_entries: 5_000,
        seed: 1,
        boot: 1,
    };
    Node::new(settings, window, LogIndex(0), log).expect("raft takes two voters")
}

#[test]
fn a_leader_keeps_its_heartbeat_under_a_flood_of_proposals() {
    let clock = Clock::start();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let heartbeats = Arc::new(Mutex::new(Vec::new()));
    let applied = Arc::new(AtomicUsize::new(0));
    let status = Published::new(two_voters(&log).status());

    let runner = System::new();
    let (node, seen, beats, done) = (two_voters(&log), status.clone(), Arc::clone(&heartbeats), Arc::clone(&applied));
    let (raft_node, ticker): (Addr<RaftNode>, Ticker) = runner.block_on(async move {
        let node_log = log.clone();
        let metrics = Metrics::new(MetricsLevel::Basic);
        let (sender, receiver) = actix::dev::channel::channel(16);
        let raft_node = Addr::<RaftNode>::new(sender);
        let nobody = Nobody::start_in_arbiter(&Arbiter::new().handle(), |_| Nobody);
        let instant_log = InstantLog::start_in_arbiter(&Arbiter::new().handle(), {
            let raft_node = raft_node.clone().recipient();
            move |_| InstantLog(raft_node)
        });
        let peer = Peer::start_in_arbiter(&Arbiter::new().handle(), {
            let leader = raft_node.clone().recipient();
            move |_| Peer { leader, clock, heartbeats: beats }
        });
        let links = Links {
            log_writer: instant_log.clone().recipient(),
            replace_log: nobody.clone().recipient(),
            fetch_log: instant_log.recipient(),
            install_snapshot: nobody.clone().recipient(),
            snapshot_wanted: nobody.recipient(),
            applier: InstantApplier::start_in_arbiter(&Arbiter::new().handle(), {
                let raft_node = raft_node.clone().recipient();
                move |_| InstantApplier { raft_node, applied: done }
            })
            .recipient(),
            peer_links: peer.clone().recipient(),
            forward: peer.recipient(),
            leader_changed: Vec::new(),
        };
        Arbiter::new().spawn_fn(move || {
            let actor = RaftNode::new(node, links, clock, seen, metrics, node_log);
            Context::with_receiver(receiver).run(actor);
        });
        let listener = Listener { recipient: raft_node.clone().recipient(), every: TICK };
        (raft_node, Ticker::start(clock, vec![listener]).expect("a thread"))
    });

    while !status.load().is_leader {
        assert!(clock.now() < Duration::from_secs(20), "nobody was elected");
        std::thread::yield_now();
    }
    heartbeats.lock().expect("no panic").clear();
    let started = clock.now();
    let mut sent = 0;
    while clock.now() < started + FLOOD {
        if sent - applied.load(Ordering::Relaxed) < UNDER_WAY_MAX {
            let reply = Reply::internal(oneshot::channel().0);
            let data = vec![b'x'; 64].into();
            raft_node.do_send(Propose { data, kind: EntryType::EntryNormal, reply, span: SpanContext::default() });
            sent += 1;
        } else {
            std::thread::yield_now();
        }
    }
    drop(ticker);
    System::current().stop();

    let beats = heartbeats.lock().expect("no panic").clone();
    let mut last = started;
    let mut longest_gap = Duration::ZERO;
    for beat in beats.iter().copied().chain([started + FLOOD]) {
        longest_gap = longest_gap.max(beat.saturating_sub(last));
        last = beat;
    }
    let applied = applied.load(Ordering::Relaxed);
    println!("{applied} proposals, {} heartbeats, longest gap {longest_gap:?}", beats.len());
    assert!(applied >= 50_000, "that was no flood: {applied} proposals in {FLOOD:?}");
    let expected = (FLOOD.as_millis() / HEARTBEAT.as_millis()) as usize;
    assert!(beats.len() >= expected / 2, "{} heartbeats of {expected}", beats.len());
    assert!(longest_gap < Duration::from_millis(900), "followers would have started an election after {longest_gap:?}");
}
