//! What takes several members: their nodes on one thread, with a network that is instant and a disk that is never slow.

use super::super::*;
use crate::ids::RequestId;
use crate::raft::log::MemoryLog;
use crate::raft::tag::TAG_WINDOW;
use crate::recovery;
use castd_backend_memory::Memory;
use castd_proto::castdpb::RaftRequest;
use prost::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, EntryType};
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
    /// Of each member, what a committed entry held.
    applied: Vec<Vec<RequestId>>,
    /// Whose disk does not answer, and what it owes.
    stuck: Option<(MemberId, Vec<u64>)>,
    is_told_stuck: bool,
    forwarded: Vec<(MemberId, u64)>,
    ready: Vec<RequestId>,
    /// Who has told a leader that it has the log up to there.
    answers: Vec<(MemberId, u64)>,
    /// So many of the next ones are lost instead.
    answers_to_lose: usize,
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
        let (messages, away, failed, committed, stuck, is_told_stuck, forwarded, ready) = Default::default();
        let (nodes, applied, now) = (nodes.into(), vec![Vec::new(); MEMBERS.len()], Duration::ZERO);
        let (answers, answers_to_lose) = Default::default();
        let mut cluster = Cluster {
            nodes,
            messages,
            away,
            now,
            failed,
            committed,
            applied,
            stuck,
            is_told_stuck,
            forwarded,
            ready,
            answers,
            answers_to_lose,
        };
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
            if message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject {
                if self.answers_to_lose > 0 {
                    self.answers_to_lose -= 1;
                    continue;
                }
                self.answers.push((MemberId(message.from), message.index));
            }
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
                Effect::AppendLog(write) => match &mut self.stuck {
                    Some((id, owed)) if *id == MEMBERS[place] => owed.push(write.number),
                    _ => self.nodes[place].log_persisted(write.number, &mut more),
                },
                Effect::DiskStuck { .. } => self.is_told_stuck = true,
                Effect::EntriesCommitted(slice) => {
                    // The conf changes of the first log say what the window knows from the start.
                    self.committed.extend(slice.iter().filter_map(|committed| committed.request));
                    let requests = slice.iter().filter(|it| !it.entry.data.is_empty() && it.entry.index > 3);
                    let requests = requests.map(|it| RaftRequest::decode(it.entry.data.clone()).expect("ours").id);
                    self.applied[place].extend(requests.map(RequestId));
                    let last = slice.last().expect("slices are not empty").entry.index;
                    self.nodes[place].applied(LogIndex(last));
                }
                Effect::Failed(request, error) => self.failed.push((request, error)),
                Effect::ReadsReady(requests) => self.ready.extend(requests),
                Effect::ReadsLate { .. } | Effect::StatusChanged(_) => {}
                Effect::Forward { to, requests } => {
                    let (now, from) = (self.now, self.nodes[place].settings.id);
                    self.forwarded.extend(requests.iter().map(|request| (to, request.sequence)));
                    if !self.away.contains(&to) && !self.away.contains(&from) {
                        self.node(to).forwarded(now, from, requests);
                    }
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

    /// Whether its leader knows that this member has everything.
    fn is_known_complete(&mut self, leader: MemberId, member: MemberId) -> bool {
        match self.node(leader).progress_of(member) {
            MemberProgress::At(progress) => progress.matched == progress.leader_matched,
            other => panic!("{other:?}"),
        }
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
fn a_follower_says_once_that_it_has_an_entry() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    cluster.settle();
    cluster.answers.clear();
    for number in 1..=5 {
        cluster.propose(leader, number);
        cluster.settle();
    }
    assert!(cluster.applied.iter().all(|applied| applied.len() == 5), "everybody knows what is committed");
    let mut answers = cluster.answers.clone();
    answers.sort();
    answers.dedup();
    assert_eq!((answers.len(), cluster.answers.len()), (10, 10), "{:?}", cluster.answers);
}

#[test]
fn an_answer_that_was_lost_is_given_again_when_the_leader_asks() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    cluster.settle();
    cluster.answers_to_lose = 1;
    let written = cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(cluster.committed, [written], "the other one's was enough");
    let others = MEMBERS.into_iter().filter(|id| *id != leader).collect::<Vec<_>>();
    let behind: Vec<_> = others.iter().copied().filter(|id| !cluster.is_known_complete(leader, *id)).collect();
    assert_eq!(behind.len(), 1, "told of the commit it did not answer");
    for _ in 0..3 {
        cluster.tick();
    }
    assert!(cluster.is_known_complete(leader, behind[0]));
    // Now one is all there is.
    let (away, left) = (others[0], others[1]);
    cluster.away.push(away);
    cluster.answers_to_lose = 1;
    let second = cluster.propose(leader, 2);
    cluster.settle();
    assert_eq!(cluster.committed, [written]);
    for _ in 0..3 {
        cluster.tick();
    }
    assert_eq!(cluster.committed, [written, second]);
    assert!(cluster.is_known_complete(leader, left));
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

#[test]
fn a_follower_is_answered_when_it_has_applied_what_it_asked_for_itself() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let followers: Vec<MemberId> = MEMBERS.into_iter().filter(|id| *id != leader).collect();
    let asked: Vec<RequestId> =
        (0..20).map(|number| cluster.propose(followers[number % 2], number as u64 + 1)).collect();
    cluster.tick_until("all are answered", |cluster| cluster.committed.len() == 20);
    let mut answered = cluster.committed.clone();
    answered.sort();
    assert_eq!(answered, asked);
    assert!(cluster.forwarded.iter().all(|(to, _)| *to == leader) && cluster.forwarded.len() == 20, "each went once");
    cluster.tick_until("everybody has them", |cluster| cluster.applied.iter().all(|applied| applied.len() == 20));
}

#[test]
fn what_a_leader_that_died_was_asked_for_is_asked_of_the_next_one_under_the_same_tag() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let follower = MEMBERS.into_iter().find(|id| *id != leader).expect("another");
    cluster.away.push(leader);
    let asked = cluster.propose(follower, 1);
    cluster.tick_until("it is answered", |cluster| cluster.committed == [asked]);
    let (sent_to, sequences): (Vec<MemberId>, Vec<u64>) = cluster.forwarded.iter().copied().unzip();
    assert_eq!(sent_to.first(), Some(&leader));
    assert!(sequences.iter().all(|sequence| *sequence == 1), "{sequences:?}");
    assert!(cluster.failed.is_empty());
}

#[test]
fn what_is_under_way_never_spans_more_than_is_remembered() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let follower = MEMBERS.into_iter().find(|id| *id != leader).expect("another");
    cluster.away.push(leader);
    for number in 0..2 * TAG_WINDOW {
        cluster.propose(follower, number + 1);
    }
    cluster.settle();
    let highest = |cluster: &Cluster| cluster.forwarded.iter().map(|(_, sequence)| *sequence).max();
    assert_eq!(highest(&cluster), Some(TAG_WINDOW));
    cluster.tick_until("all are answered", |cluster| cluster.committed.len() as u64 == 2 * TAG_WINDOW);
}

#[test]
fn a_leader_that_cannot_write_hands_over_and_does_not_come_back_before_it_can() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    cluster.stuck = Some((leader, Vec::new()));
    cluster.propose(leader, 1);
    cluster.tick_until("another one leads", |cluster| cluster.leader().is_some_and(|id| id != leader));
    assert!(cluster.is_told_stuck);
    let next = cluster.leader().expect("somebody leads");
    // The others fail one after the other; it must not be elected, and has nobody's vote to give.
    cluster.away = vec![next];
    for _ in 0..TICKS_MAX {
        cluster.tick();
        assert!(!cluster.node(leader).status().is_leader);
    }
    assert_eq!(cluster.leader(), None, "two are left, and one of them cannot write");
    assert_eq!(cluster.node(leader).status().leader, None, "it does not take who is gone for its leader");
    let (_, owed) = cluster.stuck.take().expect("stuck until now");
    let mut effects = Vec::new();
    let last = *owed.last().expect("it was asked to write");
    cluster.node(leader).log_persisted(last, &mut effects);
    let place = MEMBERS.iter().position(|id| *id == leader).expect("one of them");
    cluster.carry_out(place, effects);
    cluster.tick_until("the two elect one", |cluster| cluster.leader().is_some());
}

#[test]
fn a_leader_that_cannot_write_and_has_nobody_to_hand_over_to_steps_down() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    cluster.stuck = Some((leader, Vec::new()));
    cluster.propose(leader, 1);
    // They hear it and cannot take over: it would lead on for ever.
    let ticks = 2 * cluster.node(leader).settings.election_ticks + 2;
    for _ in 0..ticks {
        cluster.messages.retain(|message| message.get_msg_type() != MessageType::MsgTimeoutNow);
        cluster.now += TICK;
        let now = cluster.now;
        cluster.node(leader).tick(now);
        let mut effects = Vec::new();
        cluster.node(leader).settle(now, &mut effects);
    }
    assert!(!cluster.node(leader).status().is_leader);
}

#[test]
fn a_leader_that_is_removed_hands_over() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let mut change = raft::eraftpb::ConfChange { node_id: leader.0, ..Default::default() };
    change.set_change_type(raft::eraftpb::ConfChangeType::RemoveNode);
    let change = raft::eraftpb::ConfChangeV2 { changes: vec![single(&change)].into(), ..Default::default() };
    for place in 0..MEMBERS.len() {
        cluster.nodes[place].conf_change_applied(&applied(change.clone())).expect("raft takes it");
    }
    cluster.tick_until("another one leads", |cluster| {
        cluster.nodes.iter().any(|node| node.status().is_leader && node.id() != leader)
    });
    assert!(cluster.now < TICK * 60, "without an election time-out more");
}

fn applied(change: ConfChangeV2) -> AppliedConfChange {
    let voters = MEMBERS.iter().map(|member| member.0).filter(|id| *id != change.get_changes()[0].node_id).collect();
    let conf_state = Some(ConfState { voters, ..ConfState::default() });
    AppliedConfChange { index: LogIndex(1), change, conf_state }
}

fn single(change: &raft::eraftpb::ConfChange) -> raft::eraftpb::ConfChangeSingle {
    let mut single = raft::eraftpb::ConfChangeSingle { node_id: change.node_id, ..Default::default() };
    single.set_change_type(change.get_change_type());
    single
}

#[test]
fn a_follower_reads_what_was_acknowledged_before_it_asked() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader().expect("somebody leads");
    let follower = MEMBERS.into_iter().find(|id| *id != leader).expect("another");
    let written = cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(cluster.committed, [written]);
    let now = cluster.now;
    cluster.node(follower).read_index(now, RequestId(2));
    cluster.tick_until("it is answered", |cluster| cluster.ready == [RequestId(2)]);
    let place = MEMBERS.iter().position(|id| *id == follower).expect("one of them");
    assert_eq!(cluster.applied[place], [written]);
}

#[test]
fn appends_that_only_tell_of_a_commit_are_merged_and_none_with_entries_is() {
    let append = |to: u64, index: u64, entries: u64, commit: u64| {
        let entries = (1..=entries).map(|ahead| Entry { index: index + ahead, term: 1, ..Entry::default() });
        let mut message = Message { to, index, commit, term: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.set_entries(entries.collect::<Vec<_>>().into());
        message
    };
    let shown = |messages: Vec<Message>| -> Vec<(u64, u64, usize, u64)> {
        messages.into_iter().map(|it| (it.to, it.index, it.entries.len(), it.commit)).collect()
    };
    let merged = merge_appends(vec![
        append(2, 5, 3, 4),
        append(3, 5, 0, 4),
        append(2, 8, 0, 6),
        append(3, 5, 2, 5),
        append(3, 7, 1, 5),
        // After a rejection: not behind what goes before.
        append(2, 3, 5, 6),
        append(2, 9, 0, 7),
    ]);
    let expected = [(2, 5, 3, 6), (3, 5, 2, 5), (3, 7, 1, 5), (2, 3, 5, 6), (2, 9, 0, 7)];
    assert_eq!(shown(merged), expected);
    assert!(has_gap(&Message { index: 9, ..append(2, 3, 5, 6) }) && !has_gap(&append(2, 3, 5, 6)));
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
        cluster.node(member).conf_change_applied(&applied(change.clone())).expect("two are left");
    }
    cluster.node(leader).log_persisted(under_way.expect("on its way to the disk"), &mut Vec::new());
    assert!(!cluster.node(leader).status().is_leader);
    // What it had sent is answered, and it is told to be quiet.
    effects.retain(|effect| matches!(effect, Effect::Send(_)));
    let place = MEMBERS.iter().position(|member| *member == leader).expect("one of them");
    cluster.carry_out(place, effects);
    cluster.tick_until("another leads", |cluster| cluster.leader().is_some_and(|other| other != leader));
}
