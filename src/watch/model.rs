//! The hub against a naive model: clients that compare every reply with the history as a list.
//!
//! A client checks each reply the moment it takes it out of its queue: the events must be exactly those of the history
//! since the last ones it got. So order, uniqueness, completeness, whole transactions and filters are one comparison.

use super::*;
use crate::ids::Revision;
use crate::mvcc::RowKey;
use bytes::Bytes;
use castd_proto::etcdserverpb::WatchResponse;
use castd_proto::mvccpb::KeyValue;
use proptest::prelude::*;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const KEYS: [&str; 6] = ["a", "ab", "abc", "b", "ba", "c"];
const STREAMS: u64 = 3;

const LIMITS: Limits = Limits {
    stream_bytes_max: 1_500,
    stream_bytes_min: 600,
    pressure_bytes: 1_500,
    watchers_per_stream_max: 8,
    reads_max: 2,
    chunk_revisions: 4,
    delivery_bytes_max: 300,
    recent_revisions: 6,
    recent_bytes: 2_000,
};

#[derive(Clone, Debug)]
enum Op {
    Write { revisions: Vec<Vec<(usize, bool, usize)>> },
    Replace { revisions: Vec<Vec<(usize, bool, usize)>> },
    Compact { back: i64 },
    Open { stream: u64, watch: NewWatch },
    OpenAt { stream: u64, back: i64, watch: NewWatch },
    Cancel { stream: u64, watch_id: i64, denied: bool },
    Progress { stream: u64 },
    Drain { stream: u64, replies: usize },
    Read { which: usize, revisions: i64 },
    Reopen { stream: u64 },
    Tick { seconds: u64 },
}

fn watch() -> impl Strategy<Value = NewWatch> {
    let key = prop::sample::select(KEYS.as_slice());
    let selector = prop_oneof![
        key.clone().prop_map(|key| Selector::Key(Bytes::from(key))),
        key.clone().prop_map(|key| Selector::Range(KeyRange { start: Bytes::from(key), end: None })),
        (key.clone(), prop::sample::select(["ac", "b", "bb", "d"].as_slice())).prop_map(|(start, end)| {
            Selector::Range(KeyRange { start: Bytes::from(start), end: Some(Bytes::from(end)) })
        }),
    ];
    let watch_id = prop_oneof![4 => Just(0_i64), 1 => 1..4_i64];
    (selector, watch_id, any::<[bool; 4]>(), 0..8_u8).prop_map(|(selector, watch_id, flags, filters)| NewWatch {
        watch_id,
        selector,
        start_revision: None,
        filters: Filters { no_put: filters == 1, no_delete: filters == 2 },
        prev_kv: flags[0],
        fragment: flags[1],
        progress_notify: flags[2],
    })
}

fn op() -> impl Strategy<Value = Op> {
    let stream = 0..STREAMS;
    let change = (0..KEYS.len(), prop::bool::weighted(0.3), 0..80_usize);
    let revisions = prop::collection::vec(prop::collection::vec(change, 1..4), 1..5);
    prop_oneof![
        8 => revisions.clone().prop_map(|revisions| Op::Write { revisions }),
        1 => revisions.prop_map(|revisions| Op::Replace { revisions }),
        1 => (0..12_i64).prop_map(|back| Op::Compact { back }),
        3 => (stream.clone(), watch()).prop_map(|(stream, watch)| Op::Open { stream, watch }),
        4 => (stream.clone(), -4..30_i64, watch())
            .prop_map(|(stream, back, watch)| Op::OpenAt { stream, back, watch }),
        1 => (stream.clone(), 0..6_i64, any::<bool>())
            .prop_map(|(stream, watch_id, denied)| Op::Cancel { stream, watch_id, denied }),
        2 => stream.clone().prop_map(|stream| Op::Progress { stream }),
        6 => (stream.clone(), 1..12_usize).prop_map(|(stream, replies)| Op::Drain { stream, replies }),
        6 => (any::<usize>(), 1..6_i64).prop_map(|(which, revisions)| Op::Read { which, revisions }),
        1 => stream.prop_map(|stream| Op::Reopen { stream }),
        1 => (0..15_u64).prop_map(|seconds| Op::Tick { seconds }),
    ]
}

/// A watcher as its client sees it.
struct Seen {
    watch: NewWatch,
    /// Everything before it has been received or was not asked for.
    next: Revision,
    /// Since the last tick at which progress might have been sent.
    live: bool,
}

#[derive(Default)]
struct Client {
    id: u64,
    queue: VecDeque<Reply>,
    queued_bytes: usize,
    /// Create requests that have not been answered, in order.
    asked: VecDeque<NewWatch>,
    watchers: BTreeMap<i64, Seen>,
    progress_replies: usize,
}

struct World {
    hub: Hub,
    now: Duration,
    history: Vec<Changes>,
    rows: BTreeMap<RowKey, KeyValue>,
    live: BTreeMap<Bytes, (RowKey, KeyValue)>,
    revision: Revision,
    compacted: Revision,
    reads: Vec<Arc<Cohort>>,
    clients: Vec<Client>,
    next_stream: u64,
}

fn selects(selector: &Selector, key: &[u8]) -> bool {
    match selector {
        Selector::Key(it) => it.as_ref() == key,
        Selector::Range(range) => {
            range.start.as_ref() <= key && range.end.as_ref().is_none_or(|end| key < end.as_ref())
        }
    }
}

impl World {
    fn new() -> Self {
        let hub = Hub::new(LIMITS, Duration::from_secs(10), 5, Revision(1), Revision(-1));
        let mut world = Self {
            hub,
            now: Duration::ZERO,
            history: Vec::new(),
            rows: BTreeMap::new(),
            live: BTreeMap::new(),
            revision: Revision(1),
            compacted: Revision(-1),
            reads: Vec::new(),
            clients: Vec::new(),
            next_stream: 0,
        };
        for _ in 0..STREAMS {
            world.clients.push(Client::default());
        }
        for stream in 0..STREAMS {
            world.reopen(stream);
        }
        world
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.hub.step(self.now, input, &mut effects);
        self.hub.check_invariants();
        for effect in effects {
            match effect {
                Effect::CatchUp(cohort) => {
                    assert!(!cohort.members.is_empty());
                    assert!(cohort.from <= cohort.to && cohort.to <= self.revision);
                    self.reads.push(cohort);
                    assert!(self.reads.len() <= LIMITS.reads_max);
                }
                Effect::Reply { stream, reply } => {
                    let client = self.clients.iter_mut().find(|client| client.id == stream.0).expect("an open stream");
                    if matches!(reply.body, ReplyBody::Events { .. } | ReplyBody::Progress) {
                        assert!(client.queued_bytes < LIMITS.stream_bytes_max, "a full stream is given no more");
                    }
                    client.queued_bytes += reply.charged_bytes();
                    client.queue.push_back(reply);
                }
            }
        }
    }

    fn reopen(&mut self, stream: u64) {
        let old = StreamId(self.clients[stream as usize].id);
        self.step(Input::CloseStream { stream: old });
        self.next_stream += 1;
        let id = self.next_stream;
        self.clients[stream as usize] = Client { id, ..Client::default() };
        self.step(Input::OpenStream { stream: StreamId(id) });
    }

    fn write(&mut self, revisions: Vec<Vec<(usize, bool, usize)>>) -> Arc<[Changes]> {
        let mut written = Vec::new();
        for changes in revisions {
            self.revision = Revision(self.revision.0 + 1);
            let mut events: Vec<Event> = Vec::new();
            for (key, delete, value_bytes) in changes {
                let key = Bytes::from(KEYS[key]);
                let previous = self.live.get(&key).cloned();
                if events.iter().any(|event| event.kv.key == key) || (delete && previous.is_none()) {
                    continue;
                }
                let row = RowKey { main: self.revision, sub: events.len() as u32, tombstone: false };
                let mut kv = KeyValue { key: key.clone(), mod_revision: self.revision.0, ..Default::default() };
                if delete {
                    self.live.remove(&key);
                } else {
                    kv.version = previous.as_ref().map_or(1, |(_, kv)| kv.version + 1);
                    kv.create_revision = previous.as_ref().map_or(self.revision.0, |(_, kv)| kv.create_revision);
                    kv.value = Bytes::from(vec![b'v'; value_bytes]);
                    self.live.insert(key, (row, kv.clone()));
                    self.rows.insert(row, kv.clone());
                }
                let kind = if delete { EventKind::Delete } else { EventKind::Put };
                events.push(Event { kind, kv, previous: previous.map(|(row, _)| row) });
            }
            if events.is_empty() {
                self.revision = Revision(self.revision.0 - 1);
                continue;
            }
            written.push(Changes { revision: self.revision, events });
        }
        self.history.extend(written.iter().cloned());
        written.into()
    }

    fn read(&mut self, which: usize, revisions: i64) {
        if self.reads.is_empty() {
            return;
        }
        let cohort = self.reads.remove(which % self.reads.len());
        let batch = match &cohort.source {
            Source::Memory(slices) => cohort.sift(slices, cohort.to),
            Source::Storage if cohort.from < self.compacted => cohort.compacted(self.compacted),
            Source::Storage => {
                let through = cohort.to.min(Revision(cohort.from.0 + revisions - 1));
                let read: Arc<[Changes]> = self
                    .history
                    .iter()
                    .filter(|changes| (cohort.from..=through).contains(&changes.revision))
                    .cloned()
                    .collect();
                cohort.sift(&[read], through)
            }
        };
        self.step(Input::CaughtUp(batch));
    }

    /// What a watcher that has everything before `next` must get next, up to `through`.
    fn expected(&self, watch: &NewWatch, next: Revision, through: Revision) -> Vec<&Event> {
        self.history
            .iter()
            .filter(|changes| (next..=through).contains(&changes.revision))
            .flat_map(|changes| &changes.events)
            .filter(|event| selects(&watch.selector, &event.kv.key) && !watch.filters.drop_event(event.kind))
            .collect()
    }

    fn drain(&mut self, stream: u64, replies: usize) {
        let mut client = std::mem::take(&mut self.clients[stream as usize]);
        let mut bytes = 0;
        for _ in 0..replies {
            let Some(reply) = client.queue.pop_front() else { break };
            bytes += reply.charged_bytes();
            self.receive(&mut client, reply);
        }
        client.queued_bytes -= bytes;
        let id = StreamId(client.id);
        self.clients[stream as usize] = client;
        self.step(Input::StreamDrained { stream: id, bytes });
    }

    fn receive(&self, client: &mut Client, reply: Reply) {
        let id = reply.watch_id;
        match &reply.body {
            ReplyBody::Created => {
                let watch = client.asked.pop_front().expect("somebody asked");
                assert!(watch.watch_id == 0 || watch.watch_id == id);
                let next = watch.start_revision.unwrap_or(Revision(reply.revision.0 + 1));
                let replaced = client.watchers.insert(id, Seen { watch, next, live: true });
                assert!(replaced.is_none_or(|seen| !seen.live), "ids of living watchers are not used again");
            }
            ReplyBody::Refused(refusal) => {
                let watch = client.asked.pop_front().expect("somebody asked");
                assert_eq!(id, -1);
                match refusal {
                    Refusal::DuplicateId => assert!(client.watchers.contains_key(&watch.watch_id)),
                    Refusal::TooManyWatchers => {}
                    other => panic!("unexpected refusal {other:?}"),
                }
            }
            ReplyBody::Events { delivery, prev_kv, .. } => {
                let seen = client.watchers.get_mut(&id).expect("created before");
                assert!(seen.live, "nothing after the end");
                // Live, it is that of the last event; history carries that of the store.
                assert!(delivery.last() <= reply.revision && reply.revision <= self.revision);
                let expected = self.expected(&seen.watch, seen.next, delivery.last());
                assert_eq!(delivery.events().iter().collect::<Vec<_>>(), expected);
                assert_eq!(delivery.events()[0].kv.mod_revision, delivery.first().0);
                seen.next = Revision(delivery.last().0 + 1);
                assert_eq!(*prev_kv, seen.watch.prev_kv);
                self.check_wire(&reply, delivery, *prev_kv);
            }
            ReplyBody::Progress => {
                client.progress_replies += 1;
                for (_, seen) in client.watchers.iter_mut().filter(|(it, seen)| (id == -1 || **it == id) && seen.live) {
                    assert!(
                        self.expected(&seen.watch, seen.next, reply.revision).is_empty(),
                        "progress came too early"
                    );
                    assert!(seen.watch.start_revision.is_none_or(|start| start <= reply.revision));
                    seen.next = seen.next.max(Revision(reply.revision.0 + 1));
                }
            }
            ReplyBody::Compacted { compacted } => {
                let seen = client.watchers.get_mut(&id).expect("created before");
                assert!(seen.live);
                assert!(seen.next < *compacted, "nothing it needed was lost");
                assert_eq!(reply.revision, Revision(0));
                seen.live = false;
            }
            ReplyBody::Canceled { .. } => {
                let seen = client.watchers.get_mut(&id).expect("created before");
                seen.live = false;
            }
        }
    }

    fn check_wire(&self, reply: &Reply, delivery: &Delivery, prev_kv: bool) {
        let ids = HeaderIds { cluster_id: 1, member_id: 1, raft_term: 1 };
        let read = |event: &Event| {
            let row = event.previous.and_then(|row| self.rows.get(&row));
            Ok::<_, Infallible>(row.cloned())
        };
        let Ok(frames) = reply.frames(ids, 150, read);
        let mut sent = Vec::new();
        for frame in &frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            sent.extend(WatchResponse::decode(bytes.as_slice()).unwrap().events);
        }
        assert_eq!(sent.len(), delivery.events().len());
        for (sent, event) in sent.iter().zip(delivery.events()) {
            assert_eq!(sent.kv.as_ref(), Some(&event.kv));
            let before = event.previous.and_then(|row| self.rows.get(&row));
            assert_eq!(sent.prev_kv.as_ref(), before.filter(|_| prev_kv));
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Write { revisions } => {
                let changes = self.write(revisions);
                self.step(Input::StoreChanged { changes });
            }
            Op::Replace { revisions } => {
                self.write(revisions);
                let (revision, compacted) = (self.revision, self.compacted);
                self.step(Input::StoreReplaced { revision, compacted });
            }
            Op::Compact { back } => {
                let revision = Revision(self.revision.0 - back);
                if revision > self.compacted && revision > Revision(0) {
                    self.compacted = revision;
                    self.step(Input::Compacted { revision });
                }
            }
            Op::OpenAt { stream, back, watch } => {
                let start_revision = Some(Revision((self.revision.0 - back).max(1)));
                self.apply(Op::Open { stream, watch: NewWatch { start_revision, ..watch } });
            }
            Op::Open { stream, watch } => {
                let client = &mut self.clients[stream as usize];
                client.asked.push_back(watch.clone());
                let stream = StreamId(client.id);
                self.step(Input::OpenWatch { stream, watch });
            }
            Op::Cancel { stream, watch_id, denied } => {
                let reason = if denied { "etcdserver: permission denied".to_owned() } else { String::new() };
                let stream = StreamId(self.clients[stream as usize].id);
                self.step(Input::CancelWatch { stream, watch_id, reason });
            }
            Op::Progress { stream } => {
                let stream = StreamId(self.clients[stream as usize].id);
                self.step(Input::RequestProgress { stream });
            }
            Op::Drain { stream, replies } => self.drain(stream, replies),
            Op::Read { which, revisions } => self.read(which, revisions),
            Op::Reopen { stream } => self.reopen(stream),
            Op::Tick { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.step(Input::Tick);
            }
        }
    }

    /// Lets everything happen that is still to happen, then nothing may be missing.
    fn settle(&mut self) {
        let mut rounds = 0;
        while !self.reads.is_empty() || self.clients.iter().any(|client| !client.queue.is_empty()) {
            rounds += 1;
            assert!(rounds < 1_000, "it never comes to rest");
            self.read(0, 3);
            for stream in 0..STREAMS {
                self.drain(stream, 3);
            }
        }
        for client in &self.clients {
            assert!(client.asked.is_empty());
            for seen in client.watchers.values().filter(|seen| seen.live) {
                assert_eq!(self.expected(&seen.watch, seen.next, self.revision), Vec::<&Event>::new());
            }
        }
        let alive = self.clients.iter().flat_map(|client| client.watchers.values()).filter(|seen| seen.live).count();
        let stats = self.hub.stats();
        assert_eq!((stats.watchers, stats.lagging), (alive, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_event_is_lost_doubled_or_out_of_order(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.settle();
        for stream in 0..STREAMS {
            world.reopen(stream);
        }
        assert_eq!(world.hub.stats().watchers, 0);
    }
}

fn key(key: &'static str) -> NewWatch {
    NewWatch {
        watch_id: 0,
        selector: Selector::Key(Bytes::from(key)),
        start_revision: None,
        filters: Filters::default(),
        prev_kv: false,
        fragment: false,
        progress_notify: false,
    }
}

fn put(key: usize) -> Op {
    Op::Write { revisions: vec![vec![(key, false, 10)]] }
}

#[test]
fn ids_count_from_zero_and_skip_those_in_use() {
    let mut world = World::new();
    for watch_id in [0, 2, 0, 0, 2] {
        world.apply(Op::Open { stream: 0, watch: NewWatch { watch_id, ..key("a") } });
    }
    let ids: Vec<i64> = world.clients[0].queue.iter().map(|reply| reply.watch_id).collect();
    assert_eq!(ids, [0, 2, 1, 3, -1]);
    world.settle();
    world.apply(Op::Cancel { stream: 0, watch_id: 1, denied: false });
    world.apply(Op::Cancel { stream: 0, watch_id: 2, denied: false });
    world.settle();
    world.apply(Op::Open { stream: 0, watch: key("a") });
    world.apply(Op::Open { stream: 0, watch: NewWatch { watch_id: 2, ..key("a") } });
    let ids: Vec<i64> = world.clients[0].queue.iter().map(|reply| reply.watch_id).collect();
    assert_eq!(ids, [4, 2], "a freed id is only used again when it is asked for");
}

#[test]
fn a_compacted_watcher_is_told_once_and_its_cancel_is_answered_once() {
    let mut world = World::new();
    (0..5).for_each(|_| world.apply(put(0)));
    world.apply(Op::Compact { back: 1 });
    let revision = world.compacted;
    for start in [revision.0 - 1, revision.0, revision.0 + 1] {
        let watch = NewWatch { start_revision: Some(Revision(start)), ..key("a") };
        world.apply(Op::Open { stream: 0, watch });
    }
    let compacted: Vec<i64> = world.clients[0]
        .queue
        .iter()
        .filter(|reply| matches!(reply.body, ReplyBody::Compacted { .. }))
        .map(|reply| reply.watch_id)
        .collect();
    assert_eq!(compacted, [0], "the compacted revision itself is served");
    world.settle();
    world.apply(Op::Cancel { stream: 0, watch_id: 0, denied: false });
    world.apply(Op::Cancel { stream: 0, watch_id: 0, denied: false });
    world.apply(Op::Cancel { stream: 0, watch_id: 9, denied: false });
    assert_eq!(world.clients[0].queue.len(), 1);
    world.settle();
}

#[test]
fn two_thousand_lagging_watchers_are_gone_after_compaction() {
    let limits = Limits { reads_max: 1, ..Limits::default() };
    let mut hub = Hub::new(limits, Duration::from_secs(600), 1, Revision(100), Revision(-1));
    let mut effects = Vec::new();
    let stream = StreamId(1);
    hub.step(Duration::ZERO, Input::OpenStream { stream }, &mut effects);
    for _ in 0..2_000 {
        let watch = NewWatch { start_revision: Some(Revision(5)), ..key("a") };
        hub.step(Duration::ZERO, Input::OpenWatch { stream, watch }, &mut effects);
    }
    hub.step(Duration::ZERO, Input::Compacted { revision: Revision(50) }, &mut effects);
    let read = effects.iter().find_map(|effect| match effect {
        Effect::CatchUp(cohort) => Some(cohort.compacted(Revision(50))),
        Effect::Reply { .. } => None,
    });
    hub.step(Duration::ZERO, Input::CaughtUp(read.unwrap()), &mut effects);
    assert_eq!(hub.stats(), Stats { streams: 1, ..Stats::default() });
    let told = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Reply { reply: Reply { body: ReplyBody::Compacted { .. }, .. }, .. }))
        .count();
    assert_eq!(told, 2_000);
}

#[test]
fn progress_is_reported_to_quiet_watchers_that_asked_for_it() {
    let mut world = World::new();
    world.apply(Op::Open { stream: 0, watch: NewWatch { progress_notify: true, ..key("a") } });
    world.apply(Op::Open { stream: 0, watch: key("a") });
    world.settle();
    world.apply(put(0));
    world.apply(Op::Tick { seconds: 12 });
    world.settle();
    assert_eq!(world.clients[0].progress_replies, 0, "it had an event since the last tick");
    world.apply(Op::Tick { seconds: 12 });
    world.settle();
    assert_eq!(world.clients[0].progress_replies, 1);
}

#[test]
fn requested_progress_waits_for_nobody() {
    let mut world = World::new();
    world.apply(Op::Progress { stream: 0 });
    assert!(world.clients[0].queue.is_empty(), "a stream without watchers gets none");
    world.apply(Op::Open { stream: 0, watch: key("a") });
    world.apply(Op::Progress { stream: 0 });
    world.settle();
    assert_eq!(world.clients[0].progress_replies, 1);
    let ahead = NewWatch { start_revision: Some(Revision(3)), ..key("b") };
    world.apply(Op::Open { stream: 0, watch: ahead });
    world.apply(Op::Progress { stream: 0 });
    world.settle();
    assert_eq!(world.clients[0].progress_replies, 1, "one watcher's start has not been reached");
    (0..2).for_each(|_| world.apply(put(5)));
    world.apply(Op::Progress { stream: 0 });
    world.settle();
    assert_eq!(world.clients[0].progress_replies, 2);
}

#[test]
fn a_stalled_stream_holds_little_and_slows_nobody() {
    let mut hub = Hub::new(Limits::default(), Duration::from_secs(600), 1, Revision(1), Revision(-1));
    let mut effects = Vec::new();
    let streams = 1_000;
    for stream in (0..=streams).map(StreamId) {
        hub.step(Duration::ZERO, Input::OpenStream { stream }, &mut effects);
        hub.step(Duration::ZERO, Input::OpenWatch { stream, watch: key("a") }, &mut effects);
    }
    let (mut healthy, mut stalled) = (0, 0);
    for revision in 2..5_000 {
        let kv = KeyValue { key: Bytes::from("a"), value: Bytes::from(vec![0; 100]), ..Default::default() };
        let event = Event { kind: EventKind::Put, kv, previous: None };
        let changes = [Changes { revision: Revision(revision), events: vec![event] }].into();
        effects.clear();
        hub.step(Duration::ZERO, Input::StoreChanged { changes }, &mut effects);
        let mut drained = 0;
        for effect in &effects {
            let Effect::Reply { stream, reply } = effect else { continue };
            if stream.0 == 0 {
                healthy += 1;
                drained += reply.charged_bytes();
            } else {
                stalled += 1;
            }
        }
        hub.step(Duration::ZERO, Input::StreamDrained { stream: StreamId(0), bytes: drained }, &mut effects);
    }
    assert_eq!(healthy, 4_998);
    assert!(stalled < streams as usize * 400, "{stalled} replies are queued");
    assert_eq!(hub.stats().lagging, streams as usize);
}
