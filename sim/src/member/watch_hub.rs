//! The shell of WatchHub, and the queues between it and the clients that watch.
//!
//! ```text
//!   WatchHub ──Reply──▶ a stream's queue ──pump──▶ responses, to the client
//!       ▲──────────────────StreamDrained─────┘        (nothing is taken while the client takes nothing)
//! ```

use super::mail::{Job, Out, ToWatchHub};
use super::{Around, Fatal};
use castd::cast::Identity;
use castd::ids::Revision;
use castd::mvcc::MvccError;
use castd::watch::{
    CREDIT_BYTES, CatchUpBatch, Cohort, Effect, HeaderIds, Hub, Input, Reply, ReplyBody, Source, StreamId,
};
use castd_proto::etcdserverpb::WatchResponse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Responses that are made at once.
const PUMPED_AT_ONCE: usize = 16;

/// What a client sees of its watch.
#[derive(Clone, Debug)]
pub enum Shown {
    Response(Box<WatchResponse>),
    /// The stream has ended, and nobody says why.
    Ended,
}

/// One client's stream.
#[derive(Debug)]
pub struct Stream {
    pub client: usize,
    /// Tells the streams of a client apart.
    pub session: u64,
    pub fragment_bytes: usize,
    /// The client takes nothing until then, by true time.
    pub stalled_until: Duration,
    queue: VecDeque<Reply>,
    is_pumped: bool,
    /// Gone out, and not given back.
    drained_bytes: usize,
}

impl Stream {
    pub fn new(client: usize, session: u64, fragment_bytes: usize) -> Self {
        let queue = VecDeque::new();
        Stream {
            client,
            session,
            fragment_bytes,
            stalled_until: Duration::ZERO,
            queue,
            is_pumped: false,
            drained_bytes: 0,
        }
    }
}

pub struct WatchHub {
    pub hub: Hub,
    effects: Vec<Effect>,
}

impl WatchHub {
    pub fn new(hub: Hub) -> Self {
        WatchHub { hub, effects: Vec::new() }
    }

    pub fn handle(&mut self, mail: ToWatchHub, around: &mut Around<'_>) {
        match mail {
            ToWatchHub::OpenStream { stream } => self.step(Input::OpenStream { stream }, around),
            ToWatchHub::CloseStream { stream } => {
                around.shared.streams.remove(&stream);
                self.step(Input::CloseStream { stream }, around);
            }
            ToWatchHub::OpenWatch { stream, watch } => self.step(Input::OpenWatch { stream, watch }, around),
            ToWatchHub::CancelWatch { stream, watch_id } => {
                self.step(Input::CancelWatch { stream, watch_id, reason: String::new() }, around);
            }
            ToWatchHub::RequestProgress { stream } => self.step(Input::RequestProgress { stream }, around),
            ToWatchHub::StreamDrained { stream, bytes } => self.step(Input::StreamDrained { stream, bytes }, around),
            ToWatchHub::StoreChanged { changes, compacted } => {
                self.step(Input::StoreChanged { changes }, around);
                if let Some(revision) = compacted {
                    self.step(Input::Compacted { revision }, around);
                }
            }
            ToWatchHub::StoreReplaced { revision, compacted } => {
                self.step(Input::StoreReplaced { revision, compacted }, around);
            }
            ToWatchHub::CaughtUp { batch } => self.step(Input::CaughtUp(batch), around),
            ToWatchHub::Tick { .. } => self.step(Input::Tick, around),
        }
    }

    fn step(&mut self, input: Input, around: &mut Around<'_>) {
        self.hub.step(around.now, input, &mut self.effects);
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Reply { stream, reply } => push(stream, reply, around),
                Effect::CatchUp(cohort) => {
                    around.checks.summary.count("history was read for watchers");
                    let after = around.disk_time(1);
                    around.out.push(Out::Later { after, job: Job::CatchUp { cohort } });
                }
            }
        }
    }
}

/// What a cohort has missed.
pub fn catch_up(cohort: &Cohort, around: &Around<'_>) -> Result<CatchUpBatch, Fatal> {
    let mvcc = &around.shared.view.mvcc;
    Ok(match &cohort.source {
        Source::Memory(slices) => cohort.sift(slices, cohort.to),
        Source::Storage => match mvcc.changes(cohort.from, cohort.to, cohort.revisions_max()) {
            Ok(read) => cohort.sift(&[read.changes.into()], Revision(read.next.0 - 1)),
            Err(MvccError::Compacted { compacted, .. }) => cohort.compacted(compacted),
            Err(error) => return Err(Fatal::new(error)),
        },
    })
}

fn push(id: StreamId, reply: Reply, around: &mut Around<'_>) {
    // A client that has gone; its stream is about to be closed.
    let Some(stream) = around.shared.streams.get_mut(&id) else { return };
    stream.queue.push_back(reply);
    if !std::mem::replace(&mut stream.is_pumped, true) {
        let after = stream.stalled_until.saturating_sub(around.true_now) + around.dice.latency(around.settings.turn);
        around.out.push(Out::Pump { after, stream: id });
    }
}

/// The edge's task for a stream runs.
pub fn pump(id: StreamId, around: &mut Around<'_>) -> Result<(), Fatal> {
    let ids = header_ids(around.settings.identity(around.id), around.shared.status.term.0);
    let Some(stream) = around.shared.streams.get_mut(&id) else { return Ok(()) };
    stream.is_pumped = false;
    if stream.stalled_until > around.true_now {
        stream.is_pumped = true;
        let after = stream.stalled_until - around.true_now;
        around.out.push(Out::Pump { after, stream: id });
        return Ok(());
    }
    let (client, session, fragment_bytes) = (stream.client, stream.session, stream.fragment_bytes);
    let mut shown = Vec::new();
    for _ in 0..PUMPED_AT_ONCE {
        let Some(reply) = stream.queue.pop_front() else { break };
        stream.drained_bytes += reply.charged_bytes();
        let is_compacted = matches!(reply.body, ReplyBody::Compacted { .. });
        let mvcc = &around.shared.view.mvcc;
        let frames = reply.frames(ids, fragment_bytes, |event| mvcc.previous(event)).map_err(Fatal::new)?;
        for frame in frames {
            shown.push(Shown::Response(Box::new(frame.to_message().map_err(Fatal::new)?)));
        }
        if is_compacted {
            around.checks.summary.count("a watch was ended by compaction");
        }
    }
    let is_empty = stream.queue.is_empty();
    let bytes =
        if is_empty || stream.drained_bytes >= CREDIT_BYTES { std::mem::take(&mut stream.drained_bytes) } else { 0 };
    stream.is_pumped = !is_empty;
    if !is_empty {
        let after = around.dice.latency(around.settings.turn);
        around.out.push(Out::Pump { after, stream: id });
    }
    if bytes > 0 {
        around.mail(ToWatchHub::StreamDrained { stream: id, bytes });
    }
    around.out.push(Out::Show { client, session, shown });
    Ok(())
}

fn header_ids(identity: Identity, raft_term: u64) -> HeaderIds {
    HeaderIds { cluster_id: identity.cluster.0, member_id: identity.member.0, raft_term }
}

pub type Streams = BTreeMap<StreamId, Stream>;
