//! What takes several members: their nodes on one thread, with a network that is instant and a disk that is never slow.

use super::super::*;
use crate::ids::RequestId;
use crate::raft::log::MemoryLog;
use crate::recovery;
use castd_backend_memory::Memory;
use castd_proto::castdpb::RaftRequest;
use prost::Message as _;
use raft::eraftpb::EntryType;
use std::sync::Arc;

const MEMBERS: [MemberId; 3] = [MemberId(1), MemberId(2), MemberId(3)];
/// Election time-outs are at most 14 ticks here.
const TICKS_MAX: usize = 200;

struct Cluster {
    nodes: Vec<Node>,
    /// On their way.
    messages: VecDeque<Message>,
    /// Members that are cut off.
    away: Vec<MemberId>,
    now: Duration,
    failed: Vec<(RequestId, RaftError)>,
    committed: Vec<RequestId>,
}

impl Cluster {
    fn new() -> Self {
        let members: Vec<_> = MEMBERS.iter().map(|id| recovery::initial_member(*id, &[])).collect();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let nodes = MEMBERS.map(|id| {
            let mut log = MemoryLog::new();
            recovery::begin(&mut log, &members).expect("a working disk");
            let recovered = recovery::recover(&mut log, Arc::new(Memory::new())).expect("a first log");
            let settings = Settings {
                id,
                election_ticks: 10,
                heartbeat_ticks: 1,
                pre_vote: true,
                request_timeout: Duration::from_secs(7),
                catchup_entries: 5_000,
                seed: 7,
                boot: 1,
            };
            Node::new(settings, recovered.window, LogIndex(0), &logger).expect("raft takes it")
        });
        let (messages, away, failed, committed) = Default::default();
        let mut cluster = Cluster { nodes: nodes.into(), messages, away, now: Duration::ZERO, failed, committed };
        cluster.tick_until("somebody leads", |cluster| cluster.leader().is_some());
        cluster
    }

    fn node(&mut self, id: MemberId) -> &mut Node {
        let place = MEMBERS.iter().position(|member| *member == id).expect("one of them");
        &mut self.nodes[place]
    }

    /// Whom a majority follows.
    fn leader(&self) -> Option<MemberId> {
        let leads = |id: &MemberId| {
            let followers = self.nodes.iter().filter(|node| node.status().leader == Some(*id)).count();
            let itself = self.nodes.iter().any(|node| node.settings.id == *id && node.status().is_leader);
            itself && followers >= 2
        };
        MEMBERS.into_iter().find(leads)
    }

    /// Everybody does what there is to do, until nothing is.
    fn settle(&mut self) {
        loop {
            for place in 0..self.nodes.len() {
                let mut effects = Vec::new();
                self.nodes[place].settle(self.now, &mut effects);
                self.carry_out(place, effects);
            }
            let Some(message) = self.messages.pop_front() else { return };
            if ![message.from, message.to].iter().any(|id| self.away.contains(&MemberId(*id))) {
                self.node(MemberId(message.to)).step(message);
            }
        }
    }

    fn carry_out(&mut self, place: usize, effects: Vec<Effect>) {
        for effect in effects {
            let mut more = Vec::new();
            match effect {
                Effect::Send(messages) => self.messages.extend(messages),
                Effect::AppendLog(write) => self.nodes[place].log_persisted(write.number, &mut more),
                Effect::EntriesCommitted(slice) => {
                    // The conf changes of the first log say what the window knows from the start.
                    self.committed.extend(slice.iter().filter_map(|committed| committed.request));
                    let last = slice.last().expect("slices are not empty").entry.index;
                    self.nodes[place].applied(LogIndex(last));
                }
                Effect::Failed(request, error) => self.failed.push((request, error)),
                Effect::ReadsReady(_) | Effect::ReadsLate { .. } | Effect::StatusChanged(_) => {}
                Effect::Forward { to, requests } => {
                    let (now, from) = (self.now, self.nodes[place].settings.id);
                    self.node(to).forwarded(now, from, requests);
                }
                other => panic!("nobody is behind, and no disk is slow: {other:?}"),
            }
            self.carry_out(place, more);
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.tick(now));
        self.settle();
    }

    fn tick_until(&mut self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        self.settle();
        for _ in 0..TICKS_MAX {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("{what}, but not within {TICKS_MAX} ticks");
    }

    fn propose(&mut self, at: MemberId, request: u64) -> RequestId {
        let (now, request) = (self.now, RequestId(request));
        let data = RaftRequest { id: request.0, ..Default::default() }.encode_to_vec().into();
        self.node(at).propose(now, Proposal { request, kind: EntryType::EntryNormal, data });
        request
    }
}

#[test]
fn leadership_goes_to_the_voter_it_is_given_to_without_an_election_time_out() {
    let mut cluster = Cluster::new();
    for _ in 0..4 {
        let leader = cluster.leader().expect("somebody leads");
        let target = MEMBERS.into_iter().find(|id| *id != leader).expect("another");
        cluster.node(leader).transfer_leader(Some(target));
        cluster.settle();
        assert_eq!(cluster.leader(), Some(target), "at once");
        let written = cluster.propose(target, cluster.now.as_nanos() as u64 + target.0);
        cluster.settle();
        assert!(cluster.committed.contains(&written));
    }
}

#[test]
fn what_is_asked_while_leadership_moves_waits_and_is_done_when_it_does_not_move() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let target = MEMBERS.into_iter().find(|id| *id != leader).expect("another");
    cluster.away.push(target);
    cluster.node(leader).transfer_leader(Some(target));
    cluster.settle();
    let request = cluster.propose(leader, 1);
    cluster.settle();
    assert!(cluster.committed.is_empty() && cluster.failed.is_empty(), "it waits");
    cluster.tick_until("it is done once raft has given the transfer up", |cluster| !cluster.committed.is_empty());
    assert_eq!((cluster.committed.as_slice(), cluster.leader()), ([request].as_slice(), Some(leader)));
    assert!(cluster.failed.is_empty());
}

#[test]
fn only_a_leader_gives_leadership_away_and_only_to_a_member() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let other = MEMBERS.into_iter().find(|id| *id != leader).expect("another");
    cluster.node(other).transfer_leader(Some(other));
    for target in [leader, MemberId(99)] {
        cluster.node(leader).transfer_leader(Some(target));
    }
    cluster.settle();
    assert_eq!(cluster.leader(), Some(leader));
    let request = cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(cluster.committed, [request], "nothing is held up");
}

/// raft-rs would look for its own progress, and there is none.
#[test]
fn a_leader_that_was_removed_may_still_hear_from_its_disk_and_from_others() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let now = cluster.now;
    cluster.propose(leader, 1);
    let mut effects = Vec::new();
    cluster.node(leader).settle(now, &mut effects);
    let under_way = effects.iter().find_map(|effect| match effect {
        Effect::AppendLog(write) => Some(write.number),
        _ => None,
    });
    let mut removal = raft::eraftpb::ConfChangeSingle { node_id: leader.0, ..Default::default() };
    removal.set_change_type(raft::eraftpb::ConfChangeType::RemoveNode);
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(removal);
    for member in MEMBERS {
        cluster.node(member).conf_change_applied(&change).expect("two are left");
    }
    cluster.node(leader).log_persisted(under_way.expect("on its way to the disk"), &mut Vec::new());
    assert!(!cluster.node(leader).status().is_leader);
    // What it had sent is answered, and it is told to be quiet.
    effects.retain(|effect| matches!(effect, Effect::Send(_)));
    let place = MEMBERS.iter().position(|member| *member == leader).expect("one of them");
    cluster.carry_out(place, effects);
    cluster.tick_until("another leads", |cluster| cluster.leader().is_some_and(|other| other != leader));
}
