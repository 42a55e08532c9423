//! Tells clients what happens to the keys they watch.
//!
//! ```text
//!   edge ──OpenStream, OpenWatch, CancelWatch, …──▶ WatchHub ──Reply──▶ the stream's queue ──▶ edge
//!   Applier ──StoreChanged, StoreReplaced──▶ WatchHub ──a cohort──▶ a thread that reads history ──CaughtUp──▶ WatchHub
//! ```
//! The core is [`crate::watch::Hub`]. This shell puts its replies into the queues of the streams (unbounded channels: the
//! core counts credits and stops in time) and reads history for it on threads that may wait for a disk.

use crate::actors::Tick;
use crate::actors::errands::Errands;
use crate::cast::Published;
use crate::ids::{CountedMap, Revision};
use crate::mvcc::{Changes, MvccError};
use crate::process;
use crate::state::View;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Span, SpanContext};
use crate::watch::{CatchUpBatch, Cohort, Effect, Hub, Input, NewWatch, Refusal, Reply, Source, StreamId};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult};
use slog::Logger;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Command: send replies of a new stream to `replies`. Answers the stream's name, for everything that follows.
#[derive(Debug, Message)]
#[rtype(result = "OpenedStream")]
pub struct OpenStream {
    pub replies: mpsc::UnboundedSender<Reply>,
    pub span: SpanContext,
}

/// Command: forget the stream and its watchers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseStream {
    pub stream: StreamId,
}

/// A stream that the hub knows until this is dropped: by whoever asked for it, or, if that one has gone in the meantime,
/// unread.
#[derive(Debug)]
pub struct OpenedStream {
    pub id: StreamId,
    hub: Addr<WatchHub>,
}

impl Drop for OpenedStream {
    fn drop(&mut self) {
        self.hub.do_send(CloseStream { stream: self.id });
    }
}

/// Command: begin to watch. Answered on the stream.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OpenWatch {
    pub stream: StreamId,
    pub watch: NewWatch,
    pub span: SpanContext,
}

/// Command: tell the client why it may not watch what it asked for, when its turn comes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RefuseWatch {
    pub stream: StreamId,
    pub refusal: Refusal,
    pub span: SpanContext,
}

/// Command: end one watch. Answered on the stream, unless there is no such watch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CancelWatch {
    pub stream: StreamId,
    pub watch_id: i64,
    pub span: SpanContext,
}

/// Query: how far has the stream been told everything? Answered on the stream, or not at all if it lags.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RequestProgress {
    pub stream: StreamId,
    pub span: SpanContext,
}

/// Event, from the edge: replies that were charged with so many bytes have gone out to the client.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StreamDrained {
    pub stream: StreamId,
    pub bytes: usize,
}

/// Event, from the Applier: what a slice changed. Sent after the view that shows it was published, and before anybody is
/// told that it happened.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StoreChanged {
    /// One for each revision, ascending.
    pub changes: Arc<[Changes]>,
    /// The store was compacted up to here.
    pub compacted: Option<Revision>,
    pub view: Arc<View>,
    /// The sampled requests among those behind the changes.
    pub spans: Vec<SpanContext>,
}

/// Event, from the Applier: another store is in the place of the old one, and published. What happened in between is to be
/// read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct StoreReplaced {
    pub revision: Revision,
    /// History below is gone.
    pub compacted: Revision,
}

/// To itself, from a thread that has read history.
#[derive(Message)]
#[rtype(result = "()")]
struct CaughtUp {
    batch: CatchUpBatch,
}

pub struct WatchHub {
    hub: Hub,
    streams: CountedMap<StreamId, mpsc::UnboundedSender<Reply>>,
    next_stream: u64,
    effects: Vec<Effect>,
    published: Published<View>,
    errands: Errands,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl WatchHub {
    pub fn new(
        hub: Hub,
        published: Published<View>,
        errands: Errands,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        let (streams, next_stream, effects) = Default::default();
        WatchHub { hub, streams, next_stream, effects, published, errands, clock, metrics, log }
    }

    fn step(&mut self, input: Input, context: &mut Context<Self>) {
        self.hub.step(self.clock.now(), input, &mut self.effects);
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Reply { stream, reply } => {
                    if let Some(replies) = self.streams.get(&stream) {
                        let (pending, events) = (&self.metrics.watch.pending_events, reply.events() as i64);
                        pending.add(events);
                        if replies.send(reply).is_err() {
                            // The client has gone; its stream is about to be closed.
                            pending.sub(events);
                        }
                    }
                }
                Effect::CatchUp(cohort) => {
                    let (published, hub, log) = (self.published.clone(), context.address(), self.log.clone());
                    self.errands.short(move || catch_up(&cohort, &published, &hub, &log));
                }
            }
        }
    }
}

/// Reads what a cohort has missed. Holds a view for one chunk only, so that a client far behind does not keep compaction
/// from deleting.
fn catch_up(cohort: &Cohort, published: &Published<View>, hub: &Addr<WatchHub>, log: &Logger) {
    let batch = match &cohort.source {
        Source::Memory(slices) => cohort.sift(slices, cohort.to),
        Source::Storage => match published.load().mvcc.changes(cohort.from, cohort.to, cohort.revisions_max()) {
            Ok(read) => cohort.sift(&[read.changes.into()], Revision(read.next.0 - 1)),
            Err(MvccError::Compacted { compacted, .. }) => cohort.compacted(compacted),
            Err(error) => process::fatal(log, &format!("history could not be read for watchers: {error}")),
        },
    };
    hub.do_send(CaughtUp { batch });
}

impl Actor for WatchHub {
    type Context = Context<Self>;
}

impl Handler<OpenStream> for WatchHub {
    type Result = MessageResult<OpenStream>;

    fn handle(&mut self, open: OpenStream, context: &mut Self::Context) -> Self::Result {
        let _span = open.span.child("WatchHub");
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        self.streams.insert(stream, open.replies);
        self.step(Input::OpenStream { stream }, context);
        MessageResult(OpenedStream { id: stream, hub: context.address() })
    }
}

impl Handler<CloseStream> for WatchHub {
    type Result = ();

    fn handle(&mut self, close: CloseStream, context: &mut Self::Context) {
        self.streams.remove(&close.stream);
        self.step(Input::CloseStream { stream: close.stream }, context);
    }
}

impl Handler<OpenWatch> for WatchHub {
    type Result = ();

    fn handle(&mut self, open: OpenWatch, context: &mut Self::Context) {
        let _span = open.span.child("WatchHub");
        self.step(Input::OpenWatch { stream: open.stream, watch: open.watch }, context);
    }
}

impl Handler<RefuseWatch> for WatchHub {
    type Result = ();

    fn handle(&mut self, refuse: RefuseWatch, context: &mut Self::Context) {
        let _span = refuse.span.child("WatchHub");
        self.step(Input::RefuseWatch { stream: refuse.stream, refusal: refuse.refusal }, context);
    }
}

impl Handler<CancelWatch> for WatchHub {
    type Result = ();

    fn handle(&mut self, cancel: CancelWatch, context: &mut Self::Context) {
        let CancelWatch { stream, watch_id, span } = cancel;
        let _span = span.child("WatchHub");
        self.step(Input::CancelWatch { stream, watch_id, reason: String::new() }, context);
    }
}

impl Handler<RequestProgress> for WatchHub {
    type Result = ();

    fn handle(&mut self, request: RequestProgress, context: &mut Self::Context) {
        let _span = request.span.child("WatchHub");
        self.step(Input::RequestProgress { stream: request.stream }, context);
    }
}

impl Handler<StreamDrained> for WatchHub {
    type Result = ();

    fn handle(&mut self, drained: StreamDrained, context: &mut Self::Context) {
        self.step(Input::StreamDrained { stream: drained.stream, bytes: drained.bytes }, context);
    }
}

impl Handler<StoreChanged> for WatchHub {
    type Result = ();

    fn handle(&mut self, changed: StoreChanged, context: &mut Self::Context) {
        let _spans: Vec<Span> = changed.spans.iter().map(|span| span.child("WatchHub")).collect();
        self.step(Input::StoreChanged { changes: changed.changes }, context);
        if let Some(revision) = changed.compacted {
            self.step(Input::Compacted { revision }, context);
        }
    }
}

impl Handler<StoreReplaced> for WatchHub {
    type Result = ();

    fn handle(&mut self, replaced: StoreReplaced, context: &mut Self::Context) {
        let StoreReplaced { revision, compacted } = replaced;
        self.step(Input::StoreReplaced { revision, compacted }, context);
    }
}

impl Handler<CaughtUp> for WatchHub {
    type Result = ();

    fn handle(&mut self, caught_up: CaughtUp, context: &mut Self::Context) {
        self.step(Input::CaughtUp(caught_up.batch), context);
    }
}

impl Handler<Tick> for WatchHub {
    type Result = ();

    fn handle(&mut self, _: Tick, context: &mut Self::Context) {
        self.step(Input::Tick, context);
        let stats = self.hub.stats();
        self.metrics.watch.streams.set(stats.streams as i64);
        self.metrics.watch.watchers.set(stats.watchers as i64);
        self.metrics.watch.slow_watchers.set(stats.lagging as i64);
    }
}
