//! Watches the clock for every lease and reports the ones that ran out.
//!
//! ```text
//!   edge ──KeepAlive, LookUpTimeLeft, ListLeases──▶ LeaseKeeper ──LeasesExpired, LeasesCheckpointed──▶ RaftNode
//!   Applier ──LeasesChanged, LeasesReplaced──▶ LeaseKeeper ◀──LeaderChanged── RaftNode
//! ```
//! The core is [`crate::lease::LeaseKeeper`]. It never deletes a key: a revoke goes through the log, so every member drops
//! the keys at one index.

use crate::actors::Tick;
use crate::actors::raft_node::{LeaderChanged, LeasesCheckpointed, LeasesExpired};
use crate::ids::{CountedMap, LeaseId};
use crate::lease::{self, Answer, Confirmation, Effect, Input, KeepAliveId, LeaseTable, TimeLeft};
use crate::state::LeaseChange;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Span, SpanContext};
use actix::{Actor, Context, Handler, Message, MessageResult, Recipient};
use slog::Logger;
use std::time::Duration;
use tokio::sync::oneshot;

/// Command: give the lease its full time to live again.
///
/// The answer may wait for the log. `reply` is dropped without one if that takes longer than a request may.
#[derive(Message)]
#[rtype(result = "()")]
pub struct KeepAlive {
    pub lease: LeaseId,
    /// The read index that has succeeded since the client asked, if one has.
    pub confirmed: Option<Confirmation>,
    pub reply: oneshot::Sender<Answer>,
    pub span: SpanContext,
}

/// Query: how long does the lease still live?
#[derive(Debug, Message)]
#[rtype(result = "TimeLeft")]
pub struct LookUpTimeLeft {
    pub lease: LeaseId,
    pub span: SpanContext,
}

/// Query: which leases are there? On the leader, those that expire soonest come first.
#[derive(Debug, Message)]
#[rtype(result = "Vec<LeaseId>")]
pub struct ListLeases {
    pub span: SpanContext,
}

/// Event, from the Applier: what a slice did to leases, in order. Sent before the [`Applied`] that covers it, so whoever
/// waited for a read index finds it here.
///
/// [`Applied`]: crate::actors::raft_node::Applied
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeasesChanged {
    pub changes: Vec<LeaseChange>,
    pub now: Duration,
    /// The sampled requests among those behind the changes.
    pub spans: Vec<SpanContext>,
}

/// Event, from the Applier: a snapshot was installed, and these are the leases in it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LeasesReplaced {
    pub leases: LeaseTable,
    pub now: Duration,
}

struct Waiting {
    reply: oneshot::Sender<Answer>,
    until: Duration,
    span: Span,
}

pub struct LeaseKeeper {
    core: lease::LeaseKeeper,
    effects: Vec<Effect>,
    waiting: CountedMap<KeepAliveId, Waiting>,
    next_request: u64,
    expired: Recipient<LeasesExpired>,
    checkpointed: Recipient<LeasesCheckpointed>,
    request_timeout: Duration,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

impl LeaseKeeper {
    pub fn new(
        core: lease::LeaseKeeper,
        expired: Recipient<LeasesExpired>,
        checkpointed: Recipient<LeasesCheckpointed>,
        request_timeout: Duration,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        LeaseKeeper {
            core,
            effects: Vec::new(),
            waiting: CountedMap::default(),
            next_request: 0,
            expired,
            checkpointed,
            request_timeout,
            clock,
            metrics,
            log,
        }
    }

    fn step(&mut self, now: Duration, input: Input) {
        self.core.step(now, input, &mut self.effects);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Answer { request, answer } => {
                    if matches!(answer, Answer::Renewed { .. }) {
                        self.metrics.lease.renewed.inc();
                    }
                    if let Some(Waiting { reply, span, .. }) = self.waiting.remove(&request) {
                        drop(span);
                        // The client may have gone; then nobody needs the answer.
                        let _ = reply.send(answer);
                    }
                }
                Effect::Expired { leases, term } => {
                    slog::debug!(self.log, "leases expired"; "leases" => leases.len());
                    self.expired.do_send(LeasesExpired { leases, term, span: SpanContext::default() });
                }
                Effect::Checkpoint { remaining_secs, term } => {
                    self.checkpointed.do_send(LeasesCheckpointed {
                        remaining_secs,
                        term,
                        span: SpanContext::default(),
                    });
                }
            }
        }
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;
}

impl Handler<KeepAlive> for LeaseKeeper {
    type Result = ();

    fn handle(&mut self, keep_alive: KeepAlive, _: &mut Self::Context) {
        let now = self.clock.now();
        let KeepAlive { lease, confirmed, reply, span } = keep_alive;
        self.next_request += 1;
        let request = KeepAliveId(self.next_request);
        let waiting = Waiting { reply, until: now + self.request_timeout, span: span.child("LeaseKeeper") };
        self.waiting.insert(request, waiting);
        self.step(now, Input::KeepAlive { request, lease, confirmed });
    }
}

impl Handler<LookUpTimeLeft> for LeaseKeeper {
    type Result = MessageResult<LookUpTimeLeft>;

    fn handle(&mut self, query: LookUpTimeLeft, _: &mut Self::Context) -> Self::Result {
        let _span = query.span.child("LeaseKeeper");
        MessageResult(self.core.time_left(self.clock.now(), query.lease))
    }
}

impl Handler<ListLeases> for LeaseKeeper {
    type Result = MessageResult<ListLeases>;

    fn handle(&mut self, query: ListLeases, _: &mut Self::Context) -> Self::Result {
        let _span = query.span.child("LeaseKeeper");
        MessageResult(self.core.ids())
    }
}

impl Handler<LeasesChanged> for LeaseKeeper {
    type Result = ();

    fn handle(&mut self, changed: LeasesChanged, _: &mut Self::Context) {
        let _spans: Vec<Span> = changed.spans.iter().map(|span| span.child("LeaseKeeper")).collect();
        for change in changed.changes {
            let input = match change {
                LeaseChange::Granted { grant, ttl_secs } => {
                    self.metrics.lease.granted.inc();
                    self.metrics.lease.ttl.observe(ttl_secs as f64);
                    Input::Granted { grant, ttl_secs }
                }
                LeaseChange::Revoked { lease } => {
                    self.metrics.lease.revoked.inc();
                    Input::Revoked { lease }
                }
                LeaseChange::Checkpointed { lease, remaining_secs } => Input::Checkpointed { lease, remaining_secs },
            };
            self.step(changed.now, input);
        }
    }
}

impl Handler<LeasesReplaced> for LeaseKeeper {
    type Result = ();

    fn handle(&mut self, replaced: LeasesReplaced, _: &mut Self::Context) {
        self.core.replace(replaced.now, &replaced.leases, &mut self.effects);
        self.carry_out();
    }
}

impl Handler<LeaderChanged> for LeaseKeeper {
    type Result = ();

    fn handle(&mut self, changed: LeaderChanged, _: &mut Self::Context) {
        let leading = changed.status.is_leader.then_some(changed.status.term);
        self.step(changed.now, Input::LeaderChanged { leading });
    }
}

impl Handler<Tick> for LeaseKeeper {
    type Result = ();

    fn handle(&mut self, tick: Tick, _: &mut Self::Context) {
        self.step(tick.now, Input::Tick);
        self.waiting.retain(|_, waiting| waiting.until > tick.now && !waiting.reply.is_closed());
    }
}
