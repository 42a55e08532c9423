//! Queues over a real store, where leases are a set of numbers.

use super::*;
use crate::ids::{LeaseId, Revision};
use crate::mvcc::{Changes, Event, EventKind, Leases, Store};
use crate::watch::{KeyRange, Selector};
use castd_backend_memory::Memory;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which key belongs to which lease.
#[derive(Default)]
struct Table {
    alive: Vec<LeaseId>,
    keys: BTreeMap<Bytes, LeaseId>,
}

impl Leases for Table {
    fn exists(&self, lease: LeaseId) -> bool {
        self.alive.contains(&lease)
    }
    fn owner(&self, key: &[u8]) -> Option<LeaseId> {
        self.keys.get(key).copied()
    }
    fn attach(&mut self, lease: LeaseId, key: &Bytes) {
        self.keys.insert(key.clone(), lease);
    }
    fn detach(&mut self, _: LeaseId, key: &[u8]) {
        self.keys.remove(key);
    }
}

struct World {
    store: Store,
    leases: Table,
    changes: Vec<Changes>,
}

impl World {
    fn with_leases(leases: impl IntoIterator<Item = i64>) -> Self {
        let store = Store::open(Arc::new(Memory::new())).expect("an empty backend is sound");
        let leases = Table { alive: leases.into_iter().map(LeaseId).collect(), ..Table::default() };
        World { store, leases, changes: Vec::new() }
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, MvccError> {
        let mut slice = self.store.begin();
        let answer = slice.txn(txn, &mut self.leases);
        self.changes.extend(slice.take_changes());
        slice.commit().expect("memory can be written");
        answer
    }

    fn delete(&mut self, key: &[u8]) {
        let delete = DeleteRangeRequest { key: Bytes::copy_from_slice(key), ..Default::default() };
        let request =
            TxnRequest { success: vec![operation(Request::RequestDeleteRange(delete))], ..Default::default() };
        self.txn(&request).expect("a deletion succeeds");
    }

    /// As when nobody has kept it alive.
    fn expire(&mut self, lease: i64) {
        self.leases.alive.retain(|alive| alive.0 != lease);
        let keys: Vec<Bytes> =
            self.leases.keys.iter().filter(|(_, of)| of.0 == lease).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.delete(key));
    }

    fn join(&mut self, queue: &Queue, lease: i64, value: &'static str) -> Joined {
        let answer = self.txn(&queue.join(LeaseId(lease), value.into())).expect("there is such a lease");
        queue.joined(LeaseId(lease), &answer).expect("an answer to joining")
    }

    fn turn(&self, queue: &Queue, place: &Place) -> Turn {
        queue.turn(place, &self.store.view()).expect("memory can be read")
    }

    fn events(&mut self) -> Vec<(Revision, Event)> {
        let changes = std::mem::take(&mut self.changes);
        let events = |change: Changes| change.events.into_iter().map(move |event| (change.revision, event));
        changes.into_iter().flat_map(events).collect()
    }

    fn look(&self, following: &mut Following) -> Option<News> {
        let view = self.store.view();
        following.find(following.queue().first(&view).expect("memory can be read"), view.revision())
    }
}

#[test]
fn keys_are_those_of_etcds_own_recipe() {
    let queue = Queue::new(b"ledger");
    assert_eq!(queue.key(LeaseId(0x5843_a1f6)), "ledger/5843a1f6");
    assert_eq!(queue.key(LeaseId(-255)), "ledger/-ff");
    assert_eq!(queue.key(LeaseId(i64::MIN)), "ledger/-8000000000000000");
    assert_eq!(Queue::new(b"").key(LeaseId(1)), "/1");
    assert_eq!(Queue::new(b"\xff\xff").key(LeaseId(1)), &b"\xff\xff/1"[..]);
}

#[test]
fn who_comes_first_goes_first_and_each_waits_for_the_one_before() {
    let mut world = World::with_leases([1, 2, 3]);
    let queue = Queue::new(b"q");
    let first = world.join(&queue, 3, "");
    assert!(first.is_first && first.found.is_none());
    let second = world.join(&queue, 1, "");
    let third = world.join(&queue, 2, "");
    assert!(!second.is_first && !third.is_first);
    assert_eq!(world.turn(&queue, &first.place), Turn::First);
    assert_eq!(world.turn(&queue, &second.place), Turn::After("q/3".into()));
    assert_eq!(world.turn(&queue, &third.place), Turn::After("q/1".into()));
    // Whoever leaves the middle of the queue lets nobody in.
    world.txn(&second.place.leave()).expect("left");
    assert_eq!(world.turn(&queue, &third.place), Turn::After("q/3".into()));
    world.txn(&first.place.leave()).expect("left");
    assert_eq!(world.turn(&queue, &third.place), Turn::First);
}

#[test]
fn neighbours_of_the_prefix_do_not_wait_in_it() {
    let mut world = World::with_leases([1, 2]);
    for name in [&b"q"[..], b"q/x", b"q0", b"p"] {
        assert!(world.join(&Queue::new(name), 1, "").is_first || name == b"q", "{name:?}");
    }
    // `q/x/1` lies below `q/` and so is in the queue of `q` too, as with etcd.
    let joined = world.join(&Queue::new(b"q"), 2, "");
    assert_eq!(world.turn(&Queue::new(b"q"), &joined.place), Turn::After("q/x/1".into()));
}

#[test]
fn joining_again_with_the_same_lease_finds_the_old_place() {
    let mut world = World::with_leases([1, 2]);
    let queue = Queue::new(b"q");
    let holder = world.join(&queue, 1, "a");
    let waiting = world.join(&queue, 2, "b");
    let again = world.join(&queue, 1, "c");
    assert_eq!((again.place, again.found, again.is_first), (holder.place, Some("a".into()), true));
    let again = world.join(&queue, 2, "b");
    assert_eq!((again.place, again.found, again.is_first), (waiting.place, Some("b".into()), false));
}

#[test]
fn a_session_that_ran_out_never_gets_its_turn() {
    let mut world = World::with_leases([1, 2, 3]);
    let queue = Queue::new(b"q");
    let holder = world.join(&queue, 1, "");
    let waiting = world.join(&queue, 2, "");
    let behind = world.join(&queue, 3, "");
    world.expire(2);
    assert_eq!(world.turn(&queue, &waiting.place), Turn::Lost);
    world.txn(&holder.place.leave()).expect("left");
    assert_eq!(world.turn(&queue, &waiting.place), Turn::Lost, "nobody is before it, and it is not there");
    assert_eq!(world.turn(&queue, &behind.place), Turn::First);
    assert!(matches!(world.txn(&queue.join(LeaseId(2), Bytes::new())), Err(MvccError::LeaseNotFound(_))));
}

#[test]
fn a_key_that_came_later_is_not_the_place_that_was_lost() {
    let mut world = World::with_leases([1]);
    let queue = Queue::new(b"q");
    let old = world.join(&queue, 1, "").place;
    world.expire(1);
    world.leases.alive.push(LeaseId(1));
    let new = world.join(&queue, 1, "").place;
    assert_eq!(old.key, new.key);
    assert_eq!(world.turn(&queue, &old), Turn::Lost);
    // What the former owner does late does not touch the new one.
    assert!(!world.txn(&old.leave()).expect("done").succeeded);
    assert!(!world.txn(&old.put("late".into())).expect("done").succeeded);
    assert_eq!(world.turn(&queue, &new), Turn::First);
}

#[test]
fn a_key_that_has_lost_its_lease_is_no_place() {
    let mut world = World::with_leases([1, 2]);
    let queue = Queue::new(b"q");
    world.join(&queue, 1, "");
    let place = world.join(&queue, 2, "").place;
    let put = PutRequest { key: place.key.clone(), ..Default::default() };
    let request = TxnRequest { success: vec![operation(Request::RequestPut(put))], ..Default::default() };
    world.txn(&request).expect("put");
    assert_eq!(world.turn(&queue, &place), Turn::Lost, "it would outlive its session");
}

#[test]
fn answers_to_other_questions_are_not_taken_for_a_place() {
    let queue = Queue::new(b"q");
    assert_eq!(queue.joined(LeaseId(1), &TxnResponse::default()), None);
    let mut world = World::with_leases([1]);
    let answer = world.txn(&queue.join(LeaseId(1), Bytes::new())).expect("joined");
    let cut = TxnResponse { responses: answer.responses[..1].to_vec(), ..answer };
    assert_eq!(queue.joined(LeaseId(1), &cut), None);
}

#[test]
fn an_observer_hears_every_value_of_every_leader() {
    let mut world = World::with_leases([1, 2, 3]);
    let queue = Queue::new(b"e");
    let mut following = Following::new(queue.clone());
    assert_eq!(world.look(&mut following), None);
    let everybody = KeyRange { start: "e/".into(), end: Some("e0".into()) };
    assert_eq!(following.selector(), Selector::Range(everybody));

    let one = world.join(&queue, 1, "a").place;
    let (revision, event) = world.events().remove(0);
    let Heard::Elected(news) = following.hear(&event, Revision(99)) else { panic!("{event:?}") };
    assert_eq!((news.kv.value, news.revision), ("a".into(), revision));
    assert_eq!(following.selector(), Selector::Key("e/1".into()));
    assert_eq!(world.look(&mut following), None, "it was told");

    let two = world.join(&queue, 2, "b").place;
    world.txn(&one.put("a2".into())).expect("proclaimed");
    world.txn(&one.leave()).expect("left");
    let heard: Vec<Heard> = world.events().iter().map(|(at, event)| following.hear(event, *at)).collect();
    let [Heard::Nothing, Heard::Proclaimed(news), Heard::Gone] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(news.kv.value, "a2");

    // The next one put its value before the first one went.
    let news = world.look(&mut following).expect("somebody else leads");
    assert_eq!((&news.kv.key, &news.kv.value), (&two.key, &Bytes::from("b")));
    assert_eq!(news.revision, world.store.revision());
    world.txn(&two.put("b2".into())).expect("proclaimed");
    // What compaction has swallowed is found by looking again.
    assert_eq!(world.look(&mut following).expect("a new value").kv.value, "b2");
    world.delete(&two.key);
    assert_eq!(world.look(&mut following), None);
    assert!(matches!(following.selector(), Selector::Range(_)));
}

#[test]
fn deletions_while_nobody_leads_are_no_news() {
    let mut world = World::with_leases([1]);
    let queue = Queue::new(b"e");
    let place = world.join(&queue, 1, "a").place;
    world.delete(&place.key);
    let gone = world.events().pop().expect("a deletion").1;
    assert_eq!(gone.kind, EventKind::Delete);
    assert_eq!(Following::new(queue).hear(&gone, Revision(3)), Heard::Nothing);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever order people come, go and die in: at most one is first, it is the one who has waited longest, and all
    /// others wait for the one right before them.
    #[test]
    fn there_is_one_first_and_one_behind_each_other(steps in proptest::collection::vec((0..3u8, 1..9i64), 1..60)) {
        let mut world = World::with_leases(1..9);
        let queue = Queue::new(b"q");
        let mut line: Vec<Place> = Vec::new();
        let mut gone: Vec<Place> = Vec::new();
        for (step, lease) in steps {
            let at = line.iter().position(|place| place.lease.0 == lease);
            match (step, at) {
                (0, None) => {
                    let joined = world.join(&queue, lease, "");
                    prop_assert_eq!(joined.is_first, line.is_empty());
                    line.push(joined.place);
                }
                (0, Some(at)) => prop_assert_eq!(&world.join(&queue, lease, "").place, &line[at]),
                (1, Some(at)) => {
                    world.txn(&line[at].leave()).expect("left");
                    gone.push(line.remove(at));
                }
                (_, Some(at)) => {
                    world.expire(lease);
                    world.leases.alive.push(LeaseId(lease));
                    gone.push(line.remove(at));
                }
                (_, None) => {}
            }
            for (index, place) in line.iter().enumerate() {
                let before = index.checked_sub(1).map(|before| line[before].key.clone());
                prop_assert_eq!(world.turn(&queue, place), before.map_or(Turn::First, Turn::After));
            }
            for place in &gone {
                prop_assert_eq!(world.turn(&queue, place), Turn::Lost);
            }
        }
    }
}
