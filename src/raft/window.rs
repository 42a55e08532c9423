//! What raft-rs reads of the log: recent entries in memory, and the terms of all of them.
//!
//! ```text
//!   truncated            start                     last
//!      │  on disk only     │  in memory              │
//!   ───┼───────────────────┼─────────────────────────┤   entries
//!      ╞═════════════════════════════════════════════╡   terms
//! ```
//! raft-rs reads synchronously and takes an error for the end of the world, so entries enter the window *before*
//! `advance_append_async`, which drops them from raft's own memory, and not when the disk has them. A follower so far
//! behind that it needs entries from the disk is served in three steps:
//!
//! ```text
//!   raft: entries() ─▶ LogTemporarilyUnavailable ─▶ take_fetch_requests() ─▶ LogWriter reads
//!   offer_fetched(low, entries) ─▶ contexts ─▶ RawNode::on_entries_fetched(each) ─▶ raft: entries() ─▶ drop_fetched()
//! ```
//! The window does no I/O and decides nothing: how far it may shrink, and where the log is cut, it is told.

use super::log::Recovered;
use super::terms::{LogPosition, TermIndex};
use ::protobuf::Message as _;
use ::raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use ::raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// Entries that raft needs and that are only on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    pub low: u64,
    /// Exclusive. In the log when raft asked.
    pub high: u64,
    pub bytes_max: u64,
}

/// Raft wants to send a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The member it is for. More may want one; they share it.
    pub to: u64,
    /// The snapshot has to contain this entry.
    pub index_min: u64,
}

pub struct Window {
    terms: TermIndex,
    /// Entries `start ..= terms.last_index()`.
    entries: VecDeque<Entry>,
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    /// Names the snapshot that can be sent; the rows travel on their own.
    snapshot: Option<Snapshot>,
    /// What raft asked for while it could only look.
    wanted: RefCell<Wanted>,
    fetched: Vec<Entry>,
}

#[derive(Default)]
struct Wanted {
    snapshot: Option<SnapshotRequest>,
    fetches: BTreeMap<u64, Fetch>,
}

struct Fetch {
    request: FetchRequest,
    taken: bool,
    /// On whose behalf, by their printed form: raft asks again and again while it waits.
    contexts: BTreeMap<String, GetEntriesContext>,
}

impl Window {
    /// What [`super::log::LogStore::load`] found. `conf_state` is the membership as of the applied index, from the state
    /// machine: the log knows only the older one it was cut at.
    ///
    /// # Panics
    /// If the recovered entries are not the end of the recovered log.
    pub fn new(recovered: Recovered, conf_state: ConfState) -> Self {
        let Recovered { hard_state, terms, entries, .. } = recovered;
        let bytes = entries.iter().map(memory_bytes).sum();
        let end = entries.last().map_or(terms.last_index(), |entry| entry.index);
        assert_eq!(end, terms.last_index(), "the recovered entries are not the end of the log");
        Self {
            terms,
            entries: entries.into(),
            bytes,
            hard_state,
            conf_state,
            snapshot: None,
            wanted: RefCell::default(),
            fetched: Vec::new(),
        }
    }

    /// Takes the entries of a Ready in, over the ones it replaces. To be called before `advance_append_async`.
    ///
    /// # Panics
    /// If they leave a hole, or reach below the window: raft never replaces what is committed.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index >= self.start(),
            "entry {} is below the window, which starts at {}",
            first.index,
            self.start()
        );
        while self.entries.back().is_some_and(|entry| entry.index >= first.index) {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, memory_bytes);
        }
        for entry in entries {
            if let Err(reason) = self.terms.push(entry.index, entry.term) {
                panic!("{reason}");
            }
            self.bytes += memory_bytes(entry);
            self.entries.push_back(entry.clone());
        }
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Before raft starts: everything the state machine has applied is committed, whatever the last synced hard state says.
    ///
    /// # Panics
    /// If the state machine is ahead of the log.
    pub fn raise_commit(&mut self, applied: u64) {
        assert!(applied <= self.terms.last_index(), "applied {applied}, log ends at {}", self.terms.last_index());
        self.hard_state.commit = self.hard_state.commit.max(applied);
    }

    /// What nobody has begun to read from the disk is forgotten: it may be for a member that is gone, and for all others
    /// raft asks again.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
        self.wanted.get_mut().fetches.retain(|_, fetch| fetch.taken);
    }

    /// Forgets the entries up to `index`; they can be had from the disk. To be bounded by what is applied, what is durable
    /// and what the slowest follower within the catch-up limit has.
    pub fn shrink_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, memory_bytes);
        }
        // An overwritten burst should not hold its memory for good.
        if self.entries.capacity() > 4096 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Forgets entries up to `index` until the others take no more than `bytes_max`.
    pub fn shrink_to_bytes(&mut self, bytes_max: usize, index: u64) {
        while self.bytes > bytes_max && self.start() <= index {
            self.shrink_to(self.start());
        }
    }

    /// The log is being cut: who needs an entry up to `upto` gets a snapshot from now on.
    ///
    /// # Panics
    /// If `upto` is above the truncated position and not in the log.
    pub fn cut(&mut self, upto: LogPosition) {
        if upto.index <= self.terms.truncated().index {
            return;
        }
        if let Err(reason) = self.terms.cut(upto) {
            panic!("{reason}");
        }
        self.shrink_to(upto.index.0);
    }

    /// A snapshot from the leader takes the place of the log.
    pub fn restore(&mut self, position: LogPosition, conf_state: ConfState) {
        self.terms = TermIndex::new(position);
        self.entries.clear();
        self.bytes = 0;
        self.hard_state.commit = self.hard_state.commit.max(position.index.0);
        self.conf_state = conf_state;
        self.snapshot = None;
        self.fetched = Vec::new();
        *self.wanted.get_mut() = Wanted::default();
    }

    /// Says which snapshot raft may send from now on, by its metadata.
    pub fn offer_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// The offered snapshot is no longer there.
    pub fn withdraw_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// What raft would have sent a snapshot for, had there been one. Asked once; raft itself asks again.
    pub fn take_snapshot_request(&mut self) -> Option<SnapshotRequest> {
        self.wanted.get_mut().snapshot.take()
    }

    /// What to read from the disk, each request once until [`Window::offer_fetched`] has answered it.
    pub fn take_fetch_requests(&mut self) -> Vec<FetchRequest> {
        let fetches = self.wanted.get_mut().fetches.values_mut().filter(|fetch| !fetch.taken);
        fetches
            .map(|fetch| {
                fetch.taken = true;
                fetch.request
            })
            .collect()
    }

    /// Answers the request that began at `low`, with nothing if the entries are gone. The contexts are for
    /// `RawNode::on_entries_fetched`, which reads the entries; then call [`Window::drop_fetched`].
    pub fn offer_fetched(&mut self, low: u64, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        self.fetched = entries;
        let fetch = self.wanted.get_mut().fetches.remove(&low);
        fetch.map(|fetch| fetch.contexts.into_values().collect()).unwrap_or_default()
    }

    pub fn drop_fetched(&mut self) {
        self.fetched = Vec::new();
    }

    /// Memory of the entries in the window.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries in the window.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Index of the first entry in the window, or of the next one to come.
    pub fn start(&self) -> u64 {
        self.terms.last_index() + 1 - self.entries.len() as u64
    }

    pub fn terms(&self) -> &TermIndex {
        &self.terms
    }

    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The entries `low .. high` of the window without copying; empty unless all of them are in it.
    pub fn range(&self, low: u64, high: u64) -> impl ExactSizeIterator<Item = &Entry> + Clone {
        let start = self.start();
        let inside = start <= low && low <= high && high <= self.terms.last_index() + 1;
        let (from, to) = if inside { ((low - start) as usize, (high - start) as usize) } else { (0, 0) };
        self.entries.range(from..to)
    }

    fn request(&self, low: u64, high: u64, bytes_max: u64, context: GetEntriesContext) {
        let mut wanted = self.wanted.borrow_mut();
        let request = FetchRequest { low, high, bytes_max };
        let fetch = wanted.fetches.entry(low).or_insert(Fetch { request, taken: false, contexts: BTreeMap::new() });
        fetch.contexts.insert(format!("{context:?}"), context);
    }
}

impl Storage for Window {
    fn initial_state(&self) -> ::raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> ::raft::Result<Vec<Entry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if low < self.terms.first_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.terms.last_index() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if low >= self.start() {
            return Ok(within(self.range(low, high), bytes_max));
        }
        let skipped = self.fetched.iter().take_while(|entry| entry.index < low).count();
        let fetched = self.fetched.iter().skip(skipped).take_while(|entry| entry.index < high);
        if fetched.clone().next().is_some_and(|entry| entry.index == low) {
            return Ok(within(fetched, bytes_max));
        }
        if !context.can_async() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        self.request(low, high.min(self.start()), bytes_max, context);
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> ::raft::Result<u64> {
        let missing =
            if index < self.terms.first_index() { StorageError::Compacted } else { StorageError::Unavailable };
        self.terms.term(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> ::raft::Result<u64> {
        Ok(self.terms.first_index())
    }

    fn last_index(&self) -> ::raft::Result<u64> {
        Ok(self.terms.last_index())
    }

    /// The offered snapshot, if the log goes on from where it ends, and if it knows who it is for.
    fn snapshot(&self, request_index: u64, to: u64) -> ::raft::Result<Snapshot> {
        let index_min = request_index.max(self.terms.truncated().index.0);
        // raft ignores a snapshot of a cluster that it is not in.
        let is_good = |snapshot: &&Snapshot| {
            let metadata = snapshot.get_metadata();
            metadata.index >= index_min && has_member(metadata.get_conf_state(), to)
        };
        if let Some(snapshot) = self.snapshot.as_ref().filter(is_good) {
            return Ok(snapshot.clone());
        }
        let wanted = &mut self.wanted.borrow_mut().snapshot;
        let before = wanted.map_or(0, |request| request.index_min);
        *wanted = Some(SnapshotRequest { to, index_min: index_min.max(before) });
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// Whether `member` votes or learns in `conf_state`.
pub fn has_member(conf_state: &ConfState, member: u64) -> bool {
    let ConfState { voters, learners, voters_outgoing, .. } = conf_state;
    [voters, learners, voters_outgoing].iter().any(|members| members.contains(&member))
}

/// At least the first, then as many as fit: what raft-rs' `limit_size` leaves, without cloning the rest.
fn within<'a>(entries: impl Iterator<Item = &'a Entry>, bytes_max: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        let first = bytes == 0;
        bytes += u64::from(entry.compute_size());
        first || bytes <= bytes_max
    };
    if bytes_max == u64::MAX {
        return entries.cloned().collect();
    }
    entries.take_while(fits).cloned().collect()
}

fn memory_bytes(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len() + entry.context.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::raft::storage::MemStorage;
    use proptest::prelude::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![index as u8; bytes].into(), ..Entry::default() }
    }

    fn empty_at(position: LogPosition) -> Window {
        let recovered = Recovered {
            fresh: false,
            hard_state: HardState::default(),
            conf_state: ConfState::default(),
            terms: TermIndex::new(position),
            entries: vec![],
            pending_install: None,
        };
        Window::new(recovered, ConfState { voters: vec![1, 2, 3], ..ConfState::default() })
    }

    fn filled(entries: u64) -> Window {
        let mut window = empty_at(LogPosition::default());
        window.append(&(1..=entries).map(|index| entry(index, 1, 10)).collect::<Vec<_>>());
        window
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append { back: u64, count: u64, newer: u64, bytes: usize },
        Cut { share: u64 },
        Restore { ahead: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let append = (0u64..5, 1u64..6, 0u64..2, 0usize..300).prop_map(|(back, count, newer, bytes)| Step::Append {
            back,
            count,
            newer,
            bytes,
        });
        let step = prop_oneof![
            8 => append,
            2 => (0u64..100).prop_map(|share| Step::Cut { share }),
            1 => (1u64..9).prop_map(|ahead| Step::Restore { ahead }),
        ];
        prop::collection::vec(step, 1..40)
    }

    fn same<T: PartialEq + std::fmt::Debug>(ours: ::raft::Result<T>, theirs: ::raft::Result<T>) {
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs),
            (Err(ours), Err(theirs)) => assert_eq!(ours, theirs),
            (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn answers_as_the_storage_that_comes_with_raft_does(steps in steps(), limits in prop::collection::vec(0u64..900, 4)) {
            let model = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
            let mut window = empty_at(LogPosition::default());
            for step in steps {
                let (first, last) = (model.first_index().unwrap(), model.last_index().unwrap());
                match step {
                    Step::Append { back, count, newer, bytes } => {
                        let from = (last + 1).saturating_sub(back).max(first);
                        let term = window.terms().term(from - 1).unwrap() + newer;
                        let entries: Vec<_> = (from..from + count).map(|index| entry(index, term, bytes)).collect();
                        window.append(&entries);
                        model.wl().append(&entries).unwrap();
                    }
                    Step::Cut { share } => {
                        let upto = first - 1 + (last + 1 - first) * share / 100;
                        let term = window.terms().term(upto).unwrap();
                        window.cut(LogPosition::new(upto, term));
                        // The model forgets the term of what it cuts at unless a snapshot says it.
                        model.wl().compact(upto + 1).unwrap();
                    }
                    Step::Restore { ahead } => {
                        let position = LogPosition::new(last + ahead, window.terms().last_term() + 1);
                        let mut snapshot = Snapshot::default();
                        snapshot.mut_metadata().index = position.index.0;
                        snapshot.mut_metadata().term = position.term.0;
                        snapshot.mut_metadata().set_conf_state(window.conf_state().clone());
                        model.wl().apply_snapshot(snapshot).unwrap();
                        window.restore(position, window.conf_state().clone());
                    }
                }
                let (first, last) = (model.first_index().unwrap(), model.last_index().unwrap());
                // The model does not know where it was compacted to once everything is; that is why we keep it ourselves.
                if window.terms().last_index() >= window.terms().first_index() {
                    same(window.first_index(), Ok(first));
                }
                same(window.last_index(), Ok(last.max(window.terms().truncated().index.0)));
                if last < first || window.terms().first_index() != first {
                    break;
                }
                for index in first..last + 3 {
                    same(window.term(index), model.term(index));
                }
                let memory: usize = window.range(first, last + 1).map(memory_bytes).sum();
                prop_assert_eq!(memory, window.bytes());
                for low in first.saturating_sub(1)..=last {
                    for limit in limits.iter().copied().map(Some).chain([None]) {
                        let ask = |storage: &dyn Fn(GetEntriesContext) -> ::raft::Result<Vec<Entry>>| {
                            storage(GetEntriesContext::empty(false))
                        };
                        same(
                            ask(&|context| window.entries(low, last + 1, limit, context)),
                            ask(&|context| model.entries(low, last + 1, limit, context)),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn entries_that_left_the_window_are_asked_for_once_and_served_when_they_arrive() {
        let mut window = filled(20);
        window.shrink_to(12);
        assert_eq!((window.start(), window.len()), (13, 8));
        for _ in 0..3 {
            let read = window.entries(5, 21, 1000, GetEntriesContext::empty(true));
            assert_eq!(read, Err(Error::Store(StorageError::LogTemporarilyUnavailable)));
        }
        assert_eq!(window.take_fetch_requests(), [FetchRequest { low: 5, high: 13, bytes_max: 1000 }]);
        window.entries(5, 21, 1000, GetEntriesContext::empty(true)).unwrap_err();
        assert_eq!(window.take_fetch_requests(), []);

        let contexts = window.offer_fetched(5, (5..9).map(|index| entry(index, 1, 10)).collect());
        assert_eq!(contexts.len(), 1);
        let read = window.entries(5, 21, 1000, GetEntriesContext::empty(true)).unwrap();
        assert_eq!(read.iter().map(|entry| entry.index).collect::<Vec<_>>(), [5, 6, 7, 8]);
        window.drop_fetched();
        window.entries(5, 21, 1000, GetEntriesContext::empty(true)).unwrap_err();
        assert_eq!(window.take_fetch_requests().len(), 1);
    }

    #[test]
    fn what_raft_cannot_wait_for_is_an_error_and_what_was_cut_is_compacted() {
        let mut window = filled(20);
        window.shrink_to(12);
        let read = |window: &Window, low, context| window.entries(low, 21, None, context);
        let unavailable = Err(Error::Store(StorageError::Unavailable));
        assert_eq!(read(&window, 5, GetEntriesContext::empty(false)), unavailable);
        window.cut(LogPosition::new(15, 1));
        for low in [1, 5, 15] {
            let compacted = Err(Error::Store(StorageError::Compacted));
            assert_eq!(read(&window, low, GetEntriesContext::empty(true)), compacted);
        }
        assert_eq!(read(&window, 16, GetEntriesContext::empty(false)).unwrap().len(), 5);
        assert_eq!((window.term(15).unwrap(), window.first_index().unwrap()), (1, 16));
        assert_eq!(window.term(14), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(window.term(21), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    fn a_snapshot_is_requested_until_one_is_offered_that_the_log_continues() {
        let mut window = filled(20);
        window.cut(LogPosition::new(10, 1));
        let offer = |index| {
            let mut snapshot = Snapshot::default();
            snapshot.mut_metadata().index = index;
            snapshot.mut_metadata().term = 1;
            snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
            snapshot
        };
        let unavailable = Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        window.offer_snapshot(offer(9));
        assert_eq!(window.snapshot(0, 2), unavailable);
        assert_eq!(window.snapshot(12, 3), unavailable);
        assert_eq!(window.take_snapshot_request(), Some(SnapshotRequest { to: 3, index_min: 12 }));
        assert_eq!(window.take_snapshot_request(), None);
        window.offer_snapshot(offer(12));
        assert_eq!(window.snapshot(12, 3).unwrap().get_metadata().index, 12);
        assert_eq!(window.snapshot(12, 4), unavailable, "it was taken before member 4 was added");
        assert_eq!(window.take_snapshot_request(), Some(SnapshotRequest { to: 4, index_min: 12 }));
        window.withdraw_snapshot();
        assert_eq!(window.snapshot(0, 3), unavailable);
    }

    #[test]
    fn memory_follows_overwrites_and_shrinking() {
        let mut window = filled(20);
        let all = window.bytes();
        window.append(&[entry(11, 2, 10)]);
        assert_eq!((window.bytes(), window.len()), (all * 11 / 20, 11));
        window.shrink_to(11);
        assert_eq!((window.bytes(), window.len(), window.start()), (0, 0, 12));
        window.append(&[entry(12, 2, 10)]);
        assert_eq!(window.entries(12, 13, None, GetEntriesContext::empty(false)).unwrap(), [entry(12, 2, 10)]);
    }

    #[test]
    fn raft_serves_a_follower_that_is_far_behind_from_fetched_entries() {
        use ::raft::eraftpb::{Message, MessageType};
        let mut window = filled(20);
        window.set_hard_state(HardState { term: 1, commit: 20, ..HardState::default() });
        window.shrink_to(20);
        let config = ::raft::Config { id: 1, applied: 20, max_size_per_msg: 100, ..::raft::Config::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = ::raft::RawNode::new(&config, window, &logger).unwrap();
        let from_two = |msg_type, term, set: &dyn Fn(&mut Message)| {
            let mut message = Message { msg_type, from: 2, to: 1, term, ..Message::default() };
            set(&mut message);
            message
        };
        let turn = |node: &mut ::raft::RawNode<Window>| {
            let mut messages = vec![];
            while node.has_ready() {
                let mut ready = node.ready();
                messages.extend(ready.take_messages());
                node.mut_store().append(ready.entries());
                messages.extend(ready.take_persisted_messages());
                let number = ready.number();
                node.advance_append_async(ready);
                node.on_persist_ready(number);
            }
            messages
        };
        node.campaign().unwrap();
        turn(&mut node);
        node.step(from_two(MessageType::MsgRequestVoteResponse, 2, &|_| ())).unwrap();
        assert_eq!(node.raft.state, ::raft::StateRole::Leader);
        turn(&mut node);
        // The follower has entries up to 4 only, which is far below the window.
        let behind = |message: &mut Message| {
            (message.index, message.reject, message.reject_hint, message.log_term) = (20, true, 4, 1);
        };
        node.step(from_two(MessageType::MsgAppendResponse, 2, &behind)).unwrap();
        assert!(turn(&mut node).iter().all(|message| message.get_msg_type() != MessageType::MsgAppend));
        let wanted = node.mut_store().take_fetch_requests();
        assert_eq!(wanted, [FetchRequest { low: 5, high: 21, bytes_max: 100 }]);
        let contexts = node.mut_store().offer_fetched(5, (5..9).map(|index| entry(index, 1, 10)).collect());
        contexts.into_iter().for_each(|context| node.on_entries_fetched(context));
        node.mut_store().drop_fetched();
        let sent =
            turn(&mut node).into_iter().find(|message| message.get_msg_type() == MessageType::MsgAppend).unwrap();
        assert_eq!((sent.index, sent.entries.first().unwrap().index), (4, 5));
    }

    #[test]
    #[should_panic(expected = "below the window")]
    fn committed_entries_are_not_overwritten() {
        let mut window = filled(20);
        window.shrink_to(12);
        window.append(&[entry(12, 2, 10)]);
    }
}
