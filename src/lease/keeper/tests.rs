//! The keeper over hours of a clock that is only told.

use super::*;
use castd_backend_api::WriteBatch;
use proptest::prelude::*;

const TERM: Term = Term(3);

struct Keeper {
    core: LeaseKeeper,
    now: Duration,
    requests: u64,
}

impl Keeper {
    fn leading() -> Self {
        let core = LeaseKeeper::new(&LeaseTable::default(), Duration::from_secs(1));
        let mut keeper = Self { core, now: Duration::ZERO, requests: 0 };
        keeper.step(Input::LeaderChanged { leading: Some(TERM) });
        keeper.keep_alive(0, true);
        keeper
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(self.now, input, &mut effects);
        self.core.check_invariants();
        effects
    }

    fn grant(&mut self, lease: i64, ttl_secs: i64) {
        assert_eq!(self.step(Input::Granted { grant: granted(lease), ttl_secs }), []);
    }

    fn keep_alive(&mut self, lease: i64, confirmed: bool) -> (KeepAliveId, Vec<Effect>) {
        self.requests += 1;
        let request = KeepAliveId(self.requests);
        let confirmed = self.core.leading.filter(|_| confirmed);
        let confirmed = confirmed.map(|term| Confirmation { term, asked_at: self.now });
        (request, self.step(Input::KeepAlive { request, lease: LeaseId(lease), confirmed }))
    }

    /// Ticks twice a second for `secs` and collects what happens.
    fn pass(&mut self, secs: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..secs * 2 {
            self.now += Duration::from_millis(500);
            effects.extend(self.step(Input::Tick));
        }
        effects
    }
}

fn granted(lease: i64) -> Grant {
    Grant { lease: LeaseId(lease), index: LogIndex(1) }
}

fn expired(leases: &[i64]) -> Effect {
    Effect::Expired { leases: leases.iter().map(|lease| granted(*lease)).collect(), term: TERM }
}

fn answers(request: KeepAliveId, answer: Answer) -> Vec<Effect> {
    vec![Effect::Answer { request, answer }]
}

#[test]
fn a_lease_nobody_keeps_alive_is_reported_once() {
    let mut keeper = Keeper::leading();
    keeper.grant(-7, 5);
    assert_eq!(keeper.pass(4), []);
    assert_eq!(keeper.pass(2), [expired(&[-7])]);
    assert_eq!(keeper.step(Input::Revoked { lease: LeaseId(-7) }), []);
    assert_eq!(keeper.pass(60), []);
    assert!(keeper.core.is_empty());
}

#[test]
fn a_lease_kept_alive_lives() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 5);
    for _ in 0..100 {
        assert_eq!(keeper.pass(4), []);
        let (request, effects) = keeper.keep_alive(1, true);
        assert_eq!(effects, answers(request, Answer::Renewed { ttl_secs: 5 }));
    }
    assert_eq!(keeper.core.due.len(), 1);
    assert_eq!(keeper.pass(5), [expired(&[1])]);
}

/// A new leader gives it the time of an election on top; who keeps it alive then has asked for no more than its time.
#[test]
fn a_lease_kept_alive_at_once_by_a_new_leader_ends_no_later_than_any_other() {
    let core = LeaseKeeper::new(&LeaseTable::default(), Duration::from_secs(1));
    let mut keeper = Keeper { core, now: Duration::ZERO, requests: 0 };
    keeper.grant(1, 5);
    keeper.step(Input::LeaderChanged { leading: Some(TERM) });
    let (request, effects) = keeper.keep_alive(1, true);
    assert_eq!(effects, answers(request, Answer::Renewed { ttl_secs: 5 }));
    keeper.core.check_invariants();
    assert_eq!(keeper.pass(5), [expired(&[1])]);
}

#[test]
fn an_expired_lease_cannot_be_kept_alive_and_its_end_is_the_answer() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 5);
    keeper.now += Duration::from_secs(5);
    let (first, effects) = keeper.keep_alive(1, true);
    assert_eq!(effects, [expired(&[1])], "before the tick that would have found it");
    let (second, effects) = keeper.keep_alive(1, true);
    assert_eq!(effects, []);
    let gone = |request| Effect::Answer { request, answer: Answer::Gone };
    assert_eq!(keeper.step(Input::Revoked { lease: LeaseId(1) }), [gone(first), gone(second)]);
}

#[test]
fn an_unknown_lease_is_gone_only_after_leadership_is_confirmed() {
    let mut keeper = Keeper::leading();
    let (request, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, answers(request, Answer::Unconfirmed), "its grant may not be applied here yet");
    let (request, effects) = keeper.keep_alive(1, true);
    assert_eq!(effects, answers(request, Answer::Gone));
}

#[test]
fn leadership_is_confirmed_anew_when_another_one_may_have_been_elected() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 60);
    let renewed = Answer::Renewed { ttl_secs: 60 };
    keeper.now += Duration::from_secs(1);
    let (request, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, answers(request, renewed), "an election time-out is what the next leader adds");
    keeper.now += Duration::from_millis(1);
    let (request, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, answers(request, Answer::Unconfirmed));
    let (request, effects) = keeper.keep_alive(1, true);
    assert_eq!(effects, answers(request, renewed));
    // What was asked long ago counts for whoever asked it, and for nobody else.
    let asked = Confirmation { term: TERM, asked_at: keeper.now };
    keeper.now += Duration::from_secs(5);
    let late = Input::KeepAlive { request: KeepAliveId(8), lease: LeaseId(1), confirmed: Some(asked) };
    assert_eq!(keeper.step(late), answers(KeepAliveId(8), renewed));
    let (request, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, answers(request, Answer::Unconfirmed));
}

#[test]
fn a_storm_is_revoked_in_portions_and_completely() {
    let mut keeper = Keeper::leading();
    let leases = 5_000;
    (1..=leases).for_each(|lease| keeper.grant(lease, 5));
    let mut effects: VecDeque<Effect> = keeper.pass(5).into();
    let mut under_way: BTreeSet<Grant> = BTreeSet::new();
    let mut revoked = 0;
    while let Some(effect) = effects.pop_front() {
        let Effect::Expired { leases, .. } = effect else { panic!("unexpected {effect:?}") };
        under_way.extend(leases);
        assert!(under_way.len() <= REVOKES_MAX);
        if let Some(Grant { lease, .. }) = under_way.pop_first() {
            revoked += 1;
            effects.extend(keeper.step(Input::Revoked { lease }));
        }
    }
    while let Some(Grant { lease, .. }) = under_way.pop_first() {
        revoked += 1;
        keeper.step(Input::Revoked { lease });
    }
    assert_eq!(revoked, leases);
    assert!(keeper.core.is_empty());
}

#[test]
fn a_revoke_that_got_lost_is_sent_again() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 5);
    assert_eq!(keeper.pass(5), [expired(&[1])]);
    assert_eq!(keeper.pass(3), [expired(&[1])]);
}

#[test]
fn long_leases_are_checkpointed_unless_somebody_keeps_them_alive() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 300);
    keeper.grant(2, 1_000);
    keeper.grant(3, 1_000);
    keeper.pass(100);
    keeper.keep_alive(3, true);
    let checkpoint = |leases: &[(i64, i64)]| Effect::Checkpoint {
        remaining_secs: leases.iter().map(|(lease, left)| (granted(*lease), *left)).collect(),
        term: TERM,
    };
    assert_eq!(keeper.pass(200), [expired(&[1]), checkpoint(&[(2, 700)])]);
    keeper.step(Input::Revoked { lease: LeaseId(1) });
    assert_eq!(keeper.pass(100), [checkpoint(&[(3, 700)])]);
}

#[test]
fn keeping_a_checkpointed_lease_alive_waits_until_the_log_says_so() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 1_000);
    keeper.pass(300);
    keeper.step(Input::Checkpointed { lease: LeaseId(1), remaining_secs: 700 });
    let (first, effects) = keeper.keep_alive(1, true);
    assert_eq!(effects, [Effect::Checkpoint { remaining_secs: vec![(granted(1), 0)], term: TERM }]);
    let (second, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, []);
    let renewed = |request| Effect::Answer { request, answer: Answer::Renewed { ttl_secs: 1_000 } };
    let effects = keeper.step(Input::Checkpointed { lease: LeaseId(1), remaining_secs: 0 });
    assert_eq!(effects, [renewed(first), renewed(second)]);
    let (third, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, [renewed(third)]);
}

#[test]
fn a_new_leader_counts_from_the_checkpoint_or_from_the_start() {
    let mut table = LeaseTable::default();
    let mut batch = WriteBatch::new();
    table.grant(LeaseId(1), 1_000, LogIndex(1), &mut batch).unwrap();
    table.grant(LeaseId(2), 1_000, LogIndex(1), &mut batch).unwrap();
    table.checkpoint(granted(2), 400, &mut batch);
    let core = LeaseKeeper::new(&table, Duration::from_secs(1));
    let mut keeper = Keeper { core, now: Duration::ZERO, requests: 0 };
    assert_eq!(keeper.core.time_left(keeper.now, LeaseId(1)), TimeLeft::NotLeader);
    assert_eq!(keeper.pass(5_000), [], "a follower has no clock");
    keeper.step(Input::LeaderChanged { leading: Some(TERM) });
    let left = |keeper: &Keeper, lease| keeper.core.time_left(keeper.now, LeaseId(lease));
    assert_eq!(left(&keeper, 1), TimeLeft::Known { ttl_secs: 1_000, remaining_secs: 1_001 });
    assert_eq!(left(&keeper, 2), TimeLeft::Known { ttl_secs: 1_000, remaining_secs: 401 });
    assert_eq!(left(&keeper, 3), TimeLeft::Unknown);
    assert_eq!(keeper.core.ids(), [LeaseId(2), LeaseId(1)], "soonest first");
}

#[test]
fn whoever_waits_hears_when_leadership_is_lost() {
    let mut keeper = Keeper::leading();
    keeper.grant(1, 5);
    keeper.pass(5);
    let (request, _) = keeper.keep_alive(1, true);
    assert_eq!(keeper.step(Input::LeaderChanged { leading: None }), answers(request, Answer::NotLeader));
    let (request, effects) = keeper.keep_alive(1, false);
    assert_eq!(effects, answers(request, Answer::NotLeader));
    keeper.step(Input::LeaderChanged { leading: Some(Term(4)) });
    assert_eq!(keeper.pass(5), [], "it has all its time again");
    let stale = Confirmation { term: TERM, asked_at: keeper.now };
    let stale = Input::KeepAlive { request: KeepAliveId(9), lease: LeaseId(1), confirmed: Some(stale) };
    assert_eq!(keeper.step(stale), answers(KeepAliveId(9), Answer::Unconfirmed), "that was in another term");
}

/// Two members, one of which leads, and then the other, while the first may not know it yet.
struct Two {
    old: Keeper,
    new: Keeper,
    /// Since when the new one leads.
    elected: Option<Duration>,
    /// Questions of the old one whether it leads, that those who elect have answered: yes.
    asked: VecDeque<Duration>,
    promised_until: Duration,
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    KeepAlive,
    /// The answer to its oldest question reaches the old leader, which asks on behalf of a client.
    Confirm,
    Elect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..700_u64).prop_map(Step::Pass),
        6 => Just(Step::KeepAlive),
        4 => Just(Step::Confirm),
        1 => Just(Step::Elect),
    ]
}

impl Two {
    const LEASE: i64 = 1;
    const TTL_SECS: i64 = 2;

    fn new() -> Self {
        let follower = || LeaseKeeper::new(&LeaseTable::default(), Duration::from_secs(1));
        let mut old = Keeper { core: follower(), now: Duration::ZERO, requests: 0 };
        let mut new = Keeper { core: follower(), now: Duration::ZERO, requests: 0 };
        old.step(Input::LeaderChanged { leading: Some(TERM) });
        for keeper in [&mut old, &mut new] {
            keeper.grant(Self::LEASE, Self::TTL_SECS);
        }
        Two { old, new, elected: None, asked: VecDeque::new(), promised_until: secs(Self::TTL_SECS) }
    }

    fn ask_old(&mut self, confirmed: Option<Confirmation>) {
        self.old.requests += 1;
        let request = KeepAliveId(self.old.requests);
        let effects = self.old.step(Input::KeepAlive { request, lease: LeaseId(Self::LEASE), confirmed });
        // A question that is asked when another one leads is never answered with yes.
        if effects == answers(request, Answer::Unconfirmed) && self.elected.is_none() {
            self.asked.push_back(self.old.now);
        }
        if effects == answers(request, Answer::Renewed { ttl_secs: Self::TTL_SECS }) {
            // Clients may count from when they asked.
            let asked_at = confirmed.map_or(self.old.now, |confirmed| confirmed.asked_at);
            self.promised_until = self.promised_until.max(asked_at + secs(Self::TTL_SECS));
        }
    }

    fn pass(&mut self, millis: u64) -> Option<Duration> {
        for _ in 0..millis {
            self.old.now += Duration::from_millis(1);
            self.new.now = self.old.now;
            if self.new.step(Input::Tick).iter().any(|effect| matches!(effect, Effect::Expired { .. })) {
                return Some(self.new.now);
            }
        }
        None
    }
}

proptest! {
    /// However long a leader goes on without knowing of the next one, and however late its mail comes.
    #[test]
    fn the_next_leader_ends_no_lease_before_what_the_one_before_has_promised(steps in prop::collection::vec(step(), 1..60)) {
        let mut two = Two::new();
        let mut ended = None;
        for step in steps.into_iter().chain([Step::Elect, Step::Pass(10_000)]) {
            match step {
                Step::Pass(millis) => ended = ended.or(two.pass(millis)),
                Step::KeepAlive => two.ask_old(None),
                Step::Confirm => {
                    let asked_at = two.asked.pop_front();
                    two.ask_old(asked_at.map(|asked_at| Confirmation { term: TERM, asked_at }));
                }
                Step::Elect if two.elected.is_none() => {
                    two.elected = Some(two.new.now);
                    two.new.step(Input::LeaderChanged { leading: Some(Term(TERM.0 + 1)) });
                }
                Step::Elect => {}
            }
        }
        let (ended, elected) = (ended.expect("nobody kept it alive there"), two.elected.expect("at last"));
        prop_assert!(ended >= two.promised_until, "it ended at {ended:?}, promised was {:?}", two.promised_until);
        prop_assert!(ended <= elected + secs(Two::TTL_SECS) + Duration::from_millis(1_001), "{ended:?}, {elected:?}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Grant(i64, i64),
    Revoke(i64),
    KeepAlive(i64),
    Pass(u64),
    /// The oldest proposal is applied, or lost.
    Log(bool),
    LoseLeadership,
}

fn op() -> impl Strategy<Value = Op> {
    let id = prop_oneof![prop::sample::select([i64::MIN, -1, 1, 2, i64::MAX].as_slice()), any::<i64>()];
    prop_oneof![
        3 => (id.clone(), prop_oneof![2..20_i64, 200..2_000_i64]).prop_map(|(id, ttl)| Op::Grant(id, ttl)),
        1 => id.clone().prop_map(Op::Revoke),
        5 => id.prop_map(Op::KeepAlive),
        5 => prop_oneof![1..4_u64, 100..400_u64].prop_map(Op::Pass),
        5 => prop::bool::weighted(0.8).prop_map(Op::Log),
        1 => Just(Op::LoseLeadership),
    ]
}

/// On its way through the log.
enum Proposal {
    Grant(i64, i64),
    Revoke(i64),
    OfKeeper(Effect),
}

struct Promise {
    granted: LogIndex,
    ttl_secs: i64,
    /// Nobody may revoke it before.
    until: Duration,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// The promise of a lease: it lives for its time after each acknowledged keep alive, whatever gets lost and whoever
    /// leads; and once nobody keeps it alive, it ends.
    #[test]
    fn no_lease_ends_early_and_none_lives_for_ever(ops in prop::collection::vec(op(), 1..150)) {
        let mut keeper = Keeper::leading();
        let mut term = TERM;
        let mut log: VecDeque<Proposal> = VecDeque::new();
        let mut index = 0;
        let mut promises: BTreeMap<i64, Promise> = BTreeMap::new();
        let mut asked: BTreeMap<KeepAliveId, i64> = BTreeMap::new();
        let mut ops = VecDeque::from(ops);
        let mut rounds_to_settle = 400;
        loop {
            let op = match ops.pop_front() {
                Some(op) => op,
                None if !log.is_empty() => Op::Log(true),
                None if rounds_to_settle == 0 => break,
                None => {
                    rounds_to_settle -= 1;
                    Op::Pass(10)
                }
            };
            let mut effects = Vec::new();
            match op {
                Op::Grant(lease, ttl_secs) => log.push_back(Proposal::Grant(lease, ttl_secs)),
                Op::Revoke(lease) => log.push_back(Proposal::Revoke(lease)),
                Op::KeepAlive(lease) => {
                    let (request, answered) = keeper.keep_alive(lease, true);
                    asked.insert(request, lease);
                    effects = answered;
                }
                Op::Pass(secs) => effects = keeper.pass(secs),
                Op::LoseLeadership => {
                    effects = keeper.step(Input::LeaderChanged { leading: None });
                    term = Term(term.0 + 1);
                    effects.extend(keeper.step(Input::LeaderChanged { leading: Some(term) }));
                }
                Op::Log(kept) => match log.pop_front().filter(|_| kept) {
                    Some(Proposal::Grant(lease, ttl_secs)) if !promises.contains_key(&lease) => {
                        index += 1;
                        let grant = Grant { lease: LeaseId(lease), index: LogIndex(index) };
                        prop_assert_eq!(keeper.step(Input::Granted { grant, ttl_secs }), []);
                        let until = keeper.now + secs(ttl_secs);
                        promises.insert(lease, Promise { granted: grant.index, ttl_secs, until });
                    }
                    Some(Proposal::Revoke(lease)) => {
                        promises.remove(&lease);
                        effects = keeper.step(Input::Revoked { lease: LeaseId(lease) });
                    }
                    Some(Proposal::OfKeeper(Effect::Expired { leases, term: of })) if of == term => {
                        for Grant { lease, index } in leases {
                            if promises.get(&lease.0).is_some_and(|promise| promise.granted == index) {
                                let promise = promises.remove(&lease.0).expect("it is there");
                                prop_assert!(keeper.now >= promise.until, "{lease} was revoked early");
                                effects.extend(keeper.step(Input::Revoked { lease }));
                            }
                        }
                    }
                    Some(Proposal::OfKeeper(Effect::Checkpoint { remaining_secs, term: of })) if of == term => {
                        for (Grant { lease, index }, remaining_secs) in remaining_secs {
                            if promises.get(&lease.0).is_some_and(|promise| promise.granted == index) {
                                effects.extend(keeper.step(Input::Checkpointed { lease, remaining_secs }));
                            }
                        }
                    }
                    _ => {}
                },
            }
            for effect in effects {
                match effect {
                    Effect::Answer { request, answer } => {
                        let lease = asked.remove(&request).expect("answered once");
                        match answer {
                            Answer::Renewed { ttl_secs } => {
                                let promise = promises.get_mut(&lease).expect("there is such a lease");
                                prop_assert_eq!(ttl_secs, promise.ttl_secs);
                                promise.until = keeper.now + secs(ttl_secs);
                            }
                            Answer::Gone => prop_assert!(!promises.contains_key(&lease)),
                            Answer::NotLeader => {}
                            Answer::Unconfirmed => prop_assert!(false, "it was confirmed"),
                        }
                    }
                    effect => log.push_back(Proposal::OfKeeper(effect)),
                }
            }
            prop_assert!(keeper.core.revoking.len() <= REVOKES_MAX);
            prop_assert_eq!(keeper.core.len(), promises.len());
        }
        prop_assert!(promises.is_empty(), "nobody has kept a lease alive for an hour");
        prop_assert!(asked.is_empty(), "everybody got an answer");
        prop_assert!(keeper.core.due.is_empty() && keeper.core.checkpoints_due.is_empty());
        prop_assert!(keeper.core.revoking.is_empty() && keeper.core.resetting.is_empty());
    }
}
