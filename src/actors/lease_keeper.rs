//! tmp
use crate::actors::Tick;
use crate::actors::raft_node::*;
use crate::state::LeaseChange;
use actix::{Actor, Context, Handler, Message};
use std::time::Duration;
#[derive(Message)]
#[rtype(result = "()")]
pub struct LeasesChanged { pub changes: Vec<LeaseChange>, pub now: Duration }
pub struct LeaseKeeper;
impl LeaseKeeper { #[allow(clippy::too_many_arguments)] pub fn new(_: crate::lease::LeaseKeeper, _: actix::Recipient<LeasesExpired>, _: actix::Recipient<LeasesCheckpointed>, _: Duration, _: crate::telemetry::clock::Clock, _: crate::telemetry::metrics::Metrics, _: slog::Logger) -> Self { LeaseKeeper } }
impl Actor for LeaseKeeper { type Context = Context<Self>; }
impl Handler<Tick> for LeaseKeeper { type Result = (); fn handle(&mut self, _: Tick, _: &mut Self::Context) {} }
impl Handler<LeasesChanged> for LeaseKeeper { type Result = (); fn handle(&mut self, _: LeasesChanged, _: &mut Self::Context) {} }
impl Handler<LeaderChanged> for LeaseKeeper { type Result = (); fn handle(&mut self, _: LeaderChanged, _: &mut Self::Context) {} }
