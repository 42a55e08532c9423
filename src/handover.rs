//! Leadership moves: because an operator says so, or because the leader stops.
//!
//! ```text
//!   TransferLeadership ──▶ RaftNode ──▶ … ──▶ the published status says who leads
//! ```
//! A leader that just went would cost the cluster an election time-out. Raft gives a transfer up after one; a leader that
//! stops then tries the next best member.

use crate::actors::raft_node::TransferLeadership;
use crate::cast::{Cast, RequestError};
use crate::ids::MemberId;
use crate::membership::MembershipError;
use crate::raft::node::TICK;
use crate::telemetry::clock::Clock;
use crate::telemetry::trace::SpanContext;
use slog::{Logger, info, warn};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long leadership may take to move, and to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub election_timeout: Duration,
    pub all: Duration,
}

/// Returns when this member has seen `target` lead.
///
/// # Errors
/// When it does not in time.
pub async fn move_to(
    cast: &Cast,
    target: MemberId,
    patience: Patience,
    span: SpanContext,
    clock: Clock,
    log: &Logger,
) -> Result<(), RequestError> {
    let started = clock.now();
    say_starting(cast, target, log);
    let command = TransferLeadership { target: Some(target), span };
    cast.own_raft_node().send(command).await.map_err(|_| RequestError::Stopped)?;
    let moved = leads(cast, |leader| leader == target);
    timeout(patience.all, moved).await.map_err(|_| RequestError::LeaderTransferTimeout)?;
    say_finished(cast, target, clock.now().saturating_sub(started), log);
    Ok(())
}

/// Gives leadership away if there is any and somebody to take it, with etcd's lines.
pub async fn hand_over(cast: &Cast, patience: Patience, clock: Clock, log: &Logger) {
    let (status, local) = (cast.status(), cast.identity().member);
    let leader = status.leader.map_or_else(|| "0".to_owned(), |leader| leader.to_string());
    let skipped = if !status.is_leader {
        "skipped leadership transfer; local server is not leader"
    } else if cast.own_view().members.voters().count() == 1 {
        "skipped leadership transfer for single voting member cluster"
    } else {
        let given = timeout(patience.all, give_away(cast, patience, clock, log)).await;
        if let Err(error) = given.unwrap_or(Err(RequestError::LeaderTransferTimeout)) {
            warn!(log, "leadership transfer failed"; "local-member-id" => %local,
                "error" => crate::api::status::Wire::from(&error).message);
        }
        return;
    };
    info!(log, "{skipped}"; "local-member-id" => %local, "current-leader-member-id" => leader);
}

async fn give_away(cast: &Cast, patience: Patience, clock: Clock, log: &Logger) -> Result<(), RequestError> {
    let started = clock.now();
    let mut tried = None;
    while cast.status().is_leader {
        let command = TransferLeadership { target: None, span: SpanContext::default() };
        let answer = cast.own_raft_node().send(command).await.map_err(|_| RequestError::Stopped)?;
        let successor = answer.ok_or(RequestError::Membership(MembershipError::Unhealthy))?;
        if tried != Some(successor) {
            say_starting(cast, successor, log);
            tried = Some(successor);
        }
        let moved = leads(cast, |leader| leader != cast.identity().member);
        if let Ok(leader) = timeout(patience.election_timeout, moved).await {
            say_finished(cast, leader, clock.now().saturating_sub(started), log);
        }
    }
    Ok(())
}

/// Returns when somebody leads whom `is_wanted` wants.
async fn leads(cast: &Cast, is_wanted: impl Fn(MemberId) -> bool) -> MemberId {
    let mut looks = interval(TICK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(leader) = cast.status().leader
            && is_wanted(leader)
        {
            return leader;
        }
        looks.tick().await;
    }
}

fn say_starting(cast: &Cast, target: MemberId, log: &Logger) {
    let local = cast.identity().member;
    info!(log, "leadership transfer starting"; "local-member-id" => %local, "current-leader-member-id" => %local,
        "transferee-member-id" => %target);
}

fn say_finished(cast: &Cast, leader: MemberId, took: Duration, log: &Logger) {
    let local = cast.identity().member;
    info!(log, "leadership transfer finished"; "local-member-id" => %local, "old-leader-member-id" => %local,
        "new-leader-member-id" => %leader, "took" => ?took);
}
