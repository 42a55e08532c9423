//! The streams that watchers live on, and how much each of them may have queued.
//!
//! Credits, as in HTTP/2: what the hub sends counts against a stream until the edge says that it went out. A stream
//! without credit is full; the hub then keeps nothing for it but the place where each of its watchers has to go on. When
//! many streams are full at once the window shrinks for all, so that memory does not grow with their number.

use super::hub::{Effect, Limits};
use super::reply::Reply;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The edge gives credit back in portions of about this size.
pub const CREDIT_BYTES: usize = 16 << 10;

/// One client stream. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

pub(super) struct Stream {
    /// By watch id. `None`: dropped by the hub, the client may still cancel it.
    pub watchers: BTreeMap<i64, Option<u32>>,
    pub next_watch_id: i64,
    pub alive: usize,
    pub lagging: usize,
    /// Watchers whose start revision has not been reached.
    pub future: usize,
    /// Watchers that wait until the stream takes more.
    pub parked: BTreeSet<u32>,
    /// Watch ids of those that want to hear of progress from time to time.
    pub notified: BTreeSet<i64>,
    pub progress_period: Duration,
    pub progress_due: Duration,
    queued_bytes: usize,
}

pub(super) struct Streams {
    streams: HashMap<StreamId, Stream>,
    limits: Limits,
    /// What all streams have queued beyond what each may always have.
    pressure_bytes: usize,
}

impl Streams {
    pub fn new(limits: Limits) -> Self {
        Self { streams: HashMap::new(), limits, pressure_bytes: 0 }
    }

    pub fn open(&mut self, id: StreamId, progress_period: Duration, progress_due: Duration) {
        let stream = Stream {
            watchers: BTreeMap::new(),
            next_watch_id: 0,
            alive: 0,
            lagging: 0,
            future: 0,
            parked: BTreeSet::new(),
            notified: BTreeSet::new(),
            progress_period,
            progress_due,
            queued_bytes: 0,
        };
        self.streams.insert(id, stream);
    }

    pub fn close(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.pressure_bytes -= self.above_floor(stream.queued_bytes);
        }
    }

    pub fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether the stream takes another reply.
    pub fn has_room(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.queued_bytes < self.window_bytes())
    }

    /// Whether enough has gone out that it is worth to go on.
    pub fn has_recovered(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.queued_bytes <= self.window_bytes() / 2)
    }

    /// Puts a reply into the stream's queue, room or not.
    pub fn push(&mut self, id: StreamId, reply: Reply, effects: &mut Vec<Effect>) {
        let floor = self.limits.stream_bytes_min;
        if let Some(stream) = self.streams.get_mut(&id) {
            let before = stream.queued_bytes;
            stream.queued_bytes += reply.charged_bytes();
            self.pressure_bytes += stream.queued_bytes.saturating_sub(floor) - before.saturating_sub(floor);
            effects.push(Effect::Reply { stream: id, reply });
        }
    }

    pub fn drained(&mut self, id: StreamId, bytes: usize) {
        let floor = self.limits.stream_bytes_min;
        if let Some(stream) = self.streams.get_mut(&id) {
            let before = stream.queued_bytes;
            stream.queued_bytes = before.saturating_sub(bytes);
            self.pressure_bytes -= before.saturating_sub(floor) - stream.queued_bytes.saturating_sub(floor);
        }
    }

    fn above_floor(&self, queued_bytes: usize) -> usize {
        queued_bytes.saturating_sub(self.limits.stream_bytes_min)
    }

    fn window_bytes(&self) -> usize {
        if self.pressure_bytes > self.limits.pressure_bytes {
            self.limits.stream_bytes_min
        } else {
            self.limits.stream_bytes_max
        }
    }
}
