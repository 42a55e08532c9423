//! The core itself: where each watcher is, and what moves it from one place to another.

mod history;
mod places;

use super::catch_up::{CatchUpBatch, Cohort, Waiting};
use super::interests::{DeliveryLimits, Interests, Place};
use super::ranges::next_random;
use super::recent::Recent;
use super::reply::{NO_WATCH_ID, Reply, ReplyBody};
use super::stream::{CREDIT_BYTES, StreamId, Streams};
use super::{Changes, Delivery, Filters, NewWatch, Refusal, Selector};
use crate::ids::Revision;
use crate::planted::{self, Bug};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// What the hub is told.
#[derive(Debug)]
pub enum Input {
    /// Before anything else about a stream.
    OpenStream {
        stream: StreamId,
    },
    /// Forget the stream and all its watchers.
    CloseStream {
        stream: StreamId,
    },
    OpenWatch {
        stream: StreamId,
        watch: NewWatch,
    },
    /// The edge found a create request wanting; the refusal takes its turn among the stream's replies.
    RefuseWatch {
        stream: StreamId,
        refusal: Refusal,
    },
    /// `reason` is empty if the client asked, else what it is to be told.
    CancelWatch {
        stream: StreamId,
        watch_id: i64,
        reason: String,
    },
    RequestProgress {
        stream: StreamId,
    },
    /// Replies that were charged with so many bytes went out to the client.
    StreamDrained {
        stream: StreamId,
        bytes: usize,
    },
    /// Consecutive revisions, each whole.
    StoreChanged {
        changes: Arc<[Changes]>,
    },
    /// The store was replaced as a whole, by a snapshot: what happened in between has to be read from it.
    StoreReplaced {
        revision: Revision,
        compacted: Revision,
    },
    /// History below `revision` is gone.
    Compacted {
        revision: Revision,
    },
    CaughtUp(CatchUpBatch),
    /// Time passes.
    Tick,
}

/// What the hub wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    Reply {
        stream: StreamId,
        reply: Reply,
    },
    /// Read history and sift it, elsewhere, then hand the batch back. Each cohort must be answered.
    CatchUp(Arc<Cohort>),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What a stream may have queued.
    pub stream_bytes_max: usize,
    /// What it may have queued once all streams together have more than `pressure_bytes` above that. Several times
    /// [`CREDIT_BYTES`], or what the edge has not given back yet would look like a stream that is half full.
    pub stream_bytes_min: usize,
    pub pressure_bytes: usize,
    pub watchers_per_stream_max: usize,
    /// Reads of history at the same time.
    pub reads_max: usize,
    /// Revisions in one read, and in one response.
    pub chunk_revisions: i64,
    /// Responses with events of more than one revision stay below it.
    pub delivery_bytes_max: usize,
    /// What is kept of the newest changes.
    pub recent_revisions: usize,
    pub recent_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_bytes_max: 1 << 20,
            stream_bytes_min: 4 * CREDIT_BYTES,
            pressure_bytes: 32 << 20,
            watchers_per_stream_max: 1_000_000,
            reads_max: 4,
            chunk_revisions: 1_000,
            delivery_bytes_max: 8 << 20,
            recent_revisions: 1_024,
            recent_bytes: 4 << 20,
        }
    }
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that are not in sync.
    pub lagging: usize,
}

enum State {
    InSync(Place),
    /// For its turn to be read for.
    Waiting {
        next: Revision,
    },
    /// Its cohort is on its way.
    Reading,
    /// For its stream to take more.
    Parked {
        next: Revision,
    },
}

struct Watcher {
    serial: u64,
    stream: StreamId,
    watch_id: i64,
    selector: Selector,
    filters: Filters,
    prev_kv: bool,
    fragment: bool,
    /// No event since the last look at progress.
    quiet: bool,
    /// As the client asked for it; 0 if it did not.
    start: Revision,
    state: State,
}

pub struct Hub {
    limits: Limits,
    /// Every change up to here has been seen.
    revision: Revision,
    compacted: Revision,
    streams: Streams,
    watchers: Vec<Option<Watcher>>,
    free: Vec<u32>,
    next_serial: u64,
    interests: Interests,
    waiting: Waiting,
    /// Parked watchers of all streams, by their next revision.
    parked: BTreeSet<(Revision, u32)>,
    /// In-sync watchers whose start revision has not been reached.
    future: BTreeSet<(Revision, u32)>,
    reading: BTreeMap<u64, Arc<Cohort>>,
    next_cohort: u64,
    recent: Recent,
    progress_interval: Duration,
    progress_due: BTreeSet<(Duration, StreamId)>,
    random: u64,
    lagging: usize,
}

impl Hub {
    /// `revision` and `compacted` are those of the store at the start. The seed decides the jitter of progress reports.
    pub fn new(
        limits: Limits,
        progress_interval: Duration,
        seed: u64,
        revision: Revision,
        compacted: Revision,
    ) -> Self {
        assert!(limits.stream_bytes_min <= limits.stream_bytes_max);
        assert!(limits.reads_max > 0);
        assert!(limits.chunk_revisions > 0);
        Self {
            limits,
            revision,
            compacted,
            streams: Streams::new(limits),
            watchers: Vec::new(),
            free: Vec::new(),
            next_serial: 0,
            interests: Interests::new(seed),
            waiting: Waiting::default(),
            parked: BTreeSet::new(),
            future: BTreeSet::new(),
            reading: BTreeMap::new(),
            next_cohort: 0,
            recent: Recent::new(limits.recent_revisions, limits.recent_bytes),
            progress_interval,
            progress_due: BTreeSet::new(),
            random: seed,
            lagging: 0,
        }
    }

    pub fn stats(&self) -> Stats {
        Stats { streams: self.streams.len(), watchers: self.watchers.len() - self.free.len(), lagging: self.lagging }
    }

    /// What holds between two steps: each watcher is in one place, and all who count it agree.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check_invariants(&self) {
        let mut counts: BTreeMap<StreamId, [usize; 4]> = BTreeMap::new();
        let (mut waiting, mut parked, mut lagging) = (0, 0, 0);
        let reading: BTreeSet<(u32, u64)> =
            self.reading.values().flat_map(|cohort| cohort.watchers()).map(|it| (it.slot, it.serial)).collect();
        for (slot, watcher) in (0..).zip(&self.watchers) {
            let Some(watcher) = watcher else { continue };
            let [alive, lags, future, is_parked] = counts.entry(watcher.stream).or_default();
            *alive += 1;
            match watcher.state {
                State::InSync(place) => {
                    assert_eq!(self.interests.watcher_at(place), Some(slot), "a watcher is not where it says");
                    let is_to_come = watcher.start > self.revision;
                    assert_eq!(self.future.contains(&(watcher.start, slot)), is_to_come, "start {}", watcher.start);
                    *future += usize::from(is_to_come);
                    continue;
                }
                State::Waiting { next } => {
                    assert!(self.waiting.contains(next, slot), "a watcher waits and is not waited for");
                    assert!((self.compacted..=self.revision).contains(&next), "a watcher waits for {next}");
                    waiting += 1;
                }
                State::Parked { next } => {
                    assert!(self.parked.contains(&(next, slot)), "a watcher is parked nowhere");
                    assert!((self.compacted..=self.revision).contains(&next), "a watcher is parked at {next}");
                    parked += 1;
                    *is_parked += 1;
                }
                State::Reading => assert!(reading.contains(&(slot, watcher.serial)), "nobody reads for a watcher"),
            }
            *lags += 1;
            lagging += 1;
        }
        assert_eq!((waiting, parked, lagging), (self.waiting.len(), self.parked.len(), self.lagging));
        assert!(self.reading.len() <= self.limits.reads_max);
        for (id, [alive, lags, future, parked]) in counts {
            let found = self.streams.get(id).map(|it| [it.alive, it.lagging, it.future, it.parked.len()]);
            assert_eq!(found, Some([alive, lags, future, parked]), "a stream's counts");
        }
    }

    /// `now` is the time since an arbitrary start and never goes back.
    pub fn step(&mut self, now: Duration, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::OpenStream { stream } => self.open_stream(now, stream),
            Input::CloseStream { stream } => self.close_stream(stream),
            Input::OpenWatch { stream, watch } => self.open_watch(stream, watch, effects),
            Input::RefuseWatch { stream, refusal } => self.refuse(stream, refusal, effects),
            Input::CancelWatch { stream, watch_id, reason } => self.cancel_watch(stream, watch_id, reason, effects),
            Input::RequestProgress { stream } => self.request_progress(stream, effects),
            Input::StreamDrained { stream, bytes } => self.stream_drained(stream, bytes, effects),
            Input::StoreChanged { changes } => self.store_changed(changes, effects),
            Input::StoreReplaced { revision, compacted } => self.store_replaced(revision, compacted, effects),
            Input::Compacted { revision } => self.compacted(revision, effects),
            Input::CaughtUp(batch) => self.caught_up(batch, effects),
            Input::Tick => self.tick(now, effects),
        }
        self.start_reads(effects);
    }

    // ---- What clients want ----

    fn open_stream(&mut self, now: Duration, stream: StreamId) {
        let tenth = self.progress_interval.as_nanos() as u64 / 10;
        let jitter = if tenth == 0 { 0 } else { next_random(&mut self.random) % tenth };
        let period = self.progress_interval + Duration::from_nanos(jitter);
        self.streams.open(stream, period, now + period);
        self.progress_due.insert((now + period, stream));
    }

    fn close_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let due = (stream.progress_due, id);
        let watchers = std::mem::take(&mut stream.watchers);
        for slot in watchers.into_values().flatten() {
            self.remove(slot);
        }
        self.progress_due.remove(&due);
        self.streams.close(id);
    }

    fn open_watch(&mut self, id: StreamId, new: NewWatch, effects: &mut Vec<Effect>) {
        let revision = self.revision;
        // A request that was under way when its stream closed.
        let Some(stream) = self.streams.get_mut(id) else { return };
        if new.watch_id != 0 && stream.watchers.contains_key(&new.watch_id) {
            return self.refuse(id, Refusal::DuplicateId, effects);
        }
        if stream.alive >= self.limits.watchers_per_stream_max {
            return self.refuse(id, Refusal::TooManyWatchers, effects);
        }
        let watch_id = match new.watch_id {
            0 => {
                while stream.watchers.contains_key(&stream.next_watch_id) {
                    stream.next_watch_id += 1;
                }
                stream.next_watch_id += 1;
                stream.next_watch_id - 1
            }
            given => given,
        };
        if new.progress_notify {
            stream.notified.insert(watch_id);
        }
        stream.alive += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            (self.watchers.len() - 1) as u32
        });
        stream.watchers.insert(watch_id, Some(slot));
        self.next_serial += 1;
        let start = new.start_revision.unwrap_or(Revision(0));
        let next = if start == Revision(0) { after(revision) } else { start };
        self.watchers[slot as usize] = Some(Watcher {
            serial: self.next_serial,
            stream: id,
            watch_id,
            selector: new.selector,
            filters: new.filters,
            prev_kv: new.prev_kv,
            fragment: new.fragment,
            quiet: true,
            start,
            state: State::Reading,
        });
        self.count_lagging(id, true);
        self.streams.push(id, Reply { watch_id, revision, body: ReplyBody::Created }, effects);
        if next > revision {
            let is_early = planted::is_on(Bug::FutureWatchHearsOld);
            self.bring_in_sync(slot, if is_early { after(revision) } else { next });
        } else {
            self.fall_behind(slot, next, effects);
        }
    }

    fn refuse(&mut self, stream: StreamId, refusal: Refusal, effects: &mut Vec<Effect>) {
        let body = ReplyBody::Refused(refusal);
        self.streams.push(stream, Reply { watch_id: NO_WATCH_ID, revision: self.revision, body }, effects);
    }

    fn cancel_watch(&mut self, id: StreamId, watch_id: i64, reason: String, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        match stream.watchers.remove(&watch_id) {
            None => return,
            Some(None) if !reason.is_empty() => {
                stream.watchers.insert(watch_id, None);
                return;
            }
            Some(None) => {}
            Some(Some(slot)) => {
                if !reason.is_empty() {
                    stream.watchers.insert(watch_id, None);
                }
                self.remove(slot);
            }
        }
        let body = ReplyBody::Canceled { reason };
        self.streams.push(id, Reply { watch_id, revision: self.revision, body }, effects);
    }

    /// Answers only if the answer is true now. One that came later would be as true, but clients do not expect it.
    fn request_progress(&mut self, id: StreamId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get(id) else { return };
        let is_early = planted::is_on(Bug::ProgressTooEarly);
        let is_true = stream.lagging == 0 && stream.future == 0 || is_early;
        if stream.alive > 0 && is_true && self.streams.has_room(id) {
            let reply = Reply { watch_id: NO_WATCH_ID, revision: self.revision, body: ReplyBody::Progress };
            self.streams.push(id, reply, effects);
        }
    }

    fn stream_drained(&mut self, id: StreamId, bytes: usize, effects: &mut Vec<Effect>) {
        self.streams.drained(id, bytes);
        if !self.streams.has_recovered(id) {
            return;
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        for slot in std::mem::take(&mut stream.parked) {
            let Some(Watcher { state: State::Parked { next }, .. }) = self.watchers[slot as usize] else { continue };
            self.parked.remove(&(next, slot));
            self.fall_behind(slot, next, effects);
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(&(due, id)) = self.progress_due.first()
            && due <= now
        {
            self.progress_due.pop_first();
            let Some(stream) = self.streams.get_mut(id) else { continue };
            stream.progress_due = now + stream.progress_period;
            self.progress_due.insert((stream.progress_due, id));
            let slots: Vec<u32> = stream
                .notified
                .iter()
                .filter_map(|watch_id| stream.watchers.get(watch_id).copied().flatten())
                .collect();
            for slot in slots {
                let Some(watcher) = self.watchers[slot as usize].as_mut() else { continue };
                let in_sync = matches!(watcher.state, State::InSync(_)) && watcher.start <= self.revision;
                let quiet = std::mem::replace(&mut watcher.quiet, true);
                if quiet && in_sync && self.streams.has_room(id) {
                    let watch_id = watcher.watch_id;
                    let reply = Reply { watch_id, revision: self.revision, body: ReplyBody::Progress };
                    self.streams.push(id, reply, effects);
                }
            }
        }
    }
}

/// Breaks, and sends nothing, if the stream is full.
/// `revision` is the header's: that of the last event, or, where history is caught up with, that of the store, as in etcd.
fn send(
    watcher: &mut Watcher,
    delivery: &Arc<Delivery>,
    revision: Revision,
    streams: &mut Streams,
    effects: &mut Vec<Effect>,
) -> ControlFlow<()> {
    if !streams.has_room(watcher.stream) {
        return ControlFlow::Break(());
    }
    watcher.quiet = false;
    let body = ReplyBody::Events { delivery: delivery.clone(), prev_kv: watcher.prev_kv, fragment: watcher.fragment };
    streams.push(watcher.stream, Reply { watch_id: watcher.watch_id, revision, body }, effects);
    ControlFlow::Continue(())
}

fn delivery_limits(limits: &Limits) -> DeliveryLimits {
    DeliveryLimits { bytes_max: limits.delivery_bytes_max, revisions_max: limits.chunk_revisions as usize }
}

fn after(revision: Revision) -> Revision {
    Revision(revision.0.saturating_add(1))
}

fn before(revision: Revision) -> Revision {
    Revision(revision.0.saturating_sub(1))
}
