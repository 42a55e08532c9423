//! tmp
use crate::actors::Tick;
use crate::ids::Revision;
use crate::mvcc::Changes;
use crate::state::View;
use crate::telemetry::trace::SpanContext;
use actix::{Actor, Context, Handler, Message};
use std::sync::Arc;
#[derive(Message)]
#[rtype(result = "()")]
pub struct StoreChanged { pub changes: Arc<[Changes]>, pub compacted: Option<Revision>, pub view: Arc<View>, pub spans: Vec<SpanContext> }
pub struct WatchHub;
impl WatchHub { pub fn new(_: crate::watch::Hub, _: crate::cast::Published<View>, _: crate::telemetry::clock::Clock, _: crate::telemetry::metrics::Metrics, _: slog::Logger) -> Self { WatchHub } }
impl Actor for WatchHub { type Context = Context<Self>; }
impl Handler<Tick> for WatchHub { type Result = (); fn handle(&mut self, _: Tick, _: &mut Self::Context) {} }
impl Handler<StoreChanged> for WatchHub { type Result = (); fn handle(&mut self, _: StoreChanged, _: &mut Self::Context) {} }
