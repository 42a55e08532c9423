//! A member of three whose peers are not there.

mod several;

use super::*;
use crate::ids::RequestId;
use crate::raft::log::Recovered;
use crate::raft::terms::TermIndex;

const TIMEOUT: Duration = Duration::from_secs(5);

fn lonely() -> Node {
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
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
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
