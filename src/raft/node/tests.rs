//! A member of three whose peers are not there.

mod several;

use super::*;
use crate::ids::RequestId;
use crate::raft::log::Recovered;
use crate::raft::terms::TermIndex;
use raft::eraftpb::ConfState;

const TIMEOUT: Duration = Duration::from_secs(5);

fn lonely() -> Node {
    with_members(ConfState { voters: vec![1, 2, 3], ..ConfState::default() })
}

fn with_members(conf_state: ConfState) -> Node {
    let settings = Settings {
        id: MemberId(1),
        election_ticks: 100,
        heartbeat_ticks: 10,
        pre_vote: true,
        request_timeout: TIMEOUT,
        catchup_entries: 5_000,
        seed: 1,
        boot: 1,
    };
    let recovered = Recovered {
        fresh: false,
        hard_state: HardState::default(),
        conf_state: ConfState::default(),
        terms: TermIndex::new(LogPosition::new(0, 0)),
        entries: Vec::new(),
        pending_install: None,
    };
    let window = Window::new(recovered, conf_state);
    let log = slog::Logger::root(slog::Discard, slog::o!());
    Node::new(settings, window, LogIndex(0), &log).expect("sound settings")
}

/// It would lead in the same term once more after a crash, with other entries at the places that the learner has.
#[test]
fn a_lone_voter_tells_its_learners_nothing_before_its_term_is_on_disk() {
    let mut node = with_members(ConfState { voters: vec![1], learners: vec![2], ..ConfState::default() });
    let mut effects = Vec::new();
    node.settle(Duration::from_secs(1), &mut effects);
    assert!(node.status().is_leader, "nobody else can be");
    let sent = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Send(_))).count();
    assert_eq!(sent(&effects), 0, "{effects:?}");
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::AppendLog(append) => Some((append.number, append.hard_state.as_ref().map(|it| it.term))),
        _ => None,
    });
    let (number, term) = writes.last().expect("its term and first entry are written");
    assert_eq!(term, Some(1));
    effects.clear();
    node.log_persisted(number, &mut effects);
    node.settle(Duration::from_secs(1), &mut effects);
    assert_ne!(sent(&effects), 0);
}

/// The leader of two goes, and something that it had sent behind that is being written: raft-rs ends a member that leads with
/// entries which are not on disk.
#[test]
fn who_is_left_alone_leads_when_what_it_was_sent_is_on_disk() {
    let mut node = with_members(ConfState { voters: vec![1, 2], ..ConfState::default() });
    let (mut effects, now) = (Vec::new(), Duration::from_secs(1));
    let mut write = |node: &mut Node, index: u64, commit: u64| {
        let (term, entry) = (1, Entry { index, term: 1, ..Entry::default() });
        let (log_term, entries) = (u64::from(index > 1), vec![entry].into());
        let mut append =
            Message { from: 2, to: 1, term, index: index - 1, log_term, entries, commit, ..Message::default() };
        append.set_msg_type(MessageType::MsgAppend);
        node.step(append);
        node.settle(now, &mut effects);
        let written = effects.drain(..).filter_map(|effect| match effect {
            Effect::AppendLog(append) => Some(append.number),
            _ => None,
        });
        written.last().expect("it is written")
    };
    let first = write(&mut node, 1, 1);
    node.log_persisted(first, &mut Vec::new());
    let second = write(&mut node, 2, 1);
    let mut single = raft::eraftpb::ConfChangeSingle { node_id: 2, ..Default::default() };
    single.set_change_type(raft::eraftpb::ConfChangeType::RemoveNode);
    let change = raft::eraftpb::ConfChangeV2 { changes: vec![single].into(), ..Default::default() };
    let conf_state = Some(ConfState { voters: vec![1], ..ConfState::default() });
    node.conf_change_applied(&AppliedConfChange { index: LogIndex(1), change, conf_state }).expect("raft follows");
    node.applied(LogIndex(1));
    assert!(!node.status().is_leader, "its log is being written");
    for _ in 0..1_000 {
        node.tick(now);
    }
    assert!(!node.status().is_leader, "however long that takes");
    node.log_persisted(second, &mut Vec::new());
    assert!(node.status().is_leader, "nobody else can be");
}

#[test]
fn reads_that_nobody_answers_are_told_of_every_half_second_and_then_fail() {
    let mut node = lonely();
    let mut effects = Vec::new();
    let mut now = Duration::from_secs(60);
    let asked_at = now;
    node.read_index(now, RequestId(1));
    node.read_index(now, RequestId(2));
    let mut told = Vec::new();
    let mut failed = Vec::new();
    while now < asked_at + TIMEOUT + Duration::from_secs(1) {
        now += TICK;
        node.tick(now);
        node.settle(now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::ReadsLate { .. } => told.push(now - asked_at),
                Effect::Failed(request, error) => failed.push((request, error)),
                _ => {}
            }
        }
    }
    assert_eq!(failed, [(RequestId(1), RaftError::Timeout), (RequestId(2), RaftError::Timeout)]);
    let expected: Vec<Duration> = (1..10).map(|times| READ_RETRY * times).collect();
    assert_eq!(told, expected, "once for all reads, and no more after they have failed");
}

#[test]
fn a_read_is_answered_by_a_leader_that_is_further_away_than_a_retry() {
    const ROUND_TRIP: Duration = Duration::from_millis(700);
    let mut node = with_members(ConfState { voters: vec![1, 2], ..ConfState::default() });
    let (mut effects, mut now) = (Vec::new(), Duration::from_secs(60));
    let (from, to, term) = (2, 1, 1);
    let message = |kind: MessageType| {
        let mut message = Message { from, to, term, ..Message::default() };
        message.set_msg_type(kind);
        message
    };
    node.step(message(MessageType::MsgHeartbeat));
    node.read_index(now, RequestId(1));
    let (asked_at, mut answers, mut is_ready) = (now, Vec::new(), false);
    while !is_ready && now < asked_at + TIMEOUT {
        now += TICK;
        node.step(message(MessageType::MsgHeartbeat));
        node.tick(now);
        for (_, answer) in answers.extract_if(.., |(due, _)| *due <= now) {
            node.step(answer);
        }
        node.settle(now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::AppendLog(append) => node.log_persisted(append.number, &mut Vec::new()),
                Effect::Send(sent) => {
                    let asked = sent.into_iter().filter(|sent| sent.get_msg_type() == MessageType::MsgReadIndex);
                    answers.extend(asked.map(|asked| {
                        let answer = message(MessageType::MsgReadIndexResp);
                        (now + ROUND_TRIP, Message { entries: asked.entries, ..answer })
                    }));
                }
                Effect::ReadsReady(reads) => is_ready = reads == [RequestId(1)],
                _ => {}
            }
        }
    }
    assert!(is_ready, "each answer came after its question had been given up");
}

/// A change is applied while raft takes over a snapshot that is newer, and in which it has been undone.
#[test]
fn a_change_that_a_snapshot_has_overtaken_changes_nothing() {
    let mut node = lonely();
    let (mut effects, now) = (Vec::new(), Duration::from_secs(60));
    let mut single = raft::eraftpb::ConfChangeSingle { node_id: 4, ..Default::default() };
    single.set_change_type(raft::eraftpb::ConfChangeType::AddNode);
    let change = raft::eraftpb::ConfChangeV2 { changes: vec![single].into(), ..Default::default() };
    let conf_state = |voters: &[u64]| ConfState { voters: voters.to_vec(), ..ConfState::default() };
    let added = |index| AppliedConfChange {
        index: LogIndex(index),
        change: change.clone(),
        conf_state: Some(conf_state(&[1, 2, 3, 4])),
    };
    let mut message = Message { from: 2, to: 1, term: 7, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (100, 6);
    metadata.set_conf_state(conf_state(&[1, 2, 3]));
    node.step(message);
    let voters = |node: &Node| sorted(node.raft.raft.prs().conf().to_conf_state()).voters;
    node.conf_change_applied(&added(50)).expect("nothing is to be done");
    assert_eq!(voters(&node), [1, 2, 3]);
    node.settle(now, &mut effects);
    node.conf_change_applied(&added(51)).expect("nothing is to be done");
    assert_eq!(voters(&node), [1, 2, 3]);
    let replaces = effects.iter().find_map(|effect| match effect {
        Effect::ReplaceLog(replace) => Some(replace.number),
        _ => None,
    });
    node.log_persisted(replaces.expect("the log begins anew"), &mut effects);
    // Behind it they count, and have to come to what the table says.
    node.install_finished(LogPosition::new(100, 6));
    node.conf_change_applied(&added(101)).expect("raft follows");
    assert_eq!(voters(&node), [1, 2, 3, 4]);
    let other = AppliedConfChange { conf_state: Some(conf_state(&[1, 2])), ..added(102) };
    assert!(matches!(node.conf_change_applied(&other), Err(ConfChangeError::OtherMembers { .. })));
}
