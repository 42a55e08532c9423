//! Maintenance.MoveLeader: another voter is to lead.
//!
//! ```text
//!   edge ──TransferLeadership──▶ RaftNode        edge looks at the published status until the other one leads
//! ```

use crate::actors::raft_node::TransferLeadership;
use crate::api::grpc::{Admitted, Edge};
use crate::cast::RequestError;
use crate::ids::MemberId;
use slog::info;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The status is looked at as often as raft's clock ticks.
const LOOK_EVERY: Duration = crate::raft::node::TICK;
/// As long as etcd's clients wait by default; raft gives a transfer up after an election time-out.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns when this member has seen `target` lead, at once if it does.
///
/// # Errors
/// When this member does not lead, `target` is not a voter, or it does not lead in time.
pub async fn move_to(edge: &Edge, admitted: &Admitted, target: MemberId) -> Result<(), RequestError> {
    if !edge.cast.status().is_leader {
        return Err(RequestError::NotLeader);
    }
    let view = edge.cast.local_view(&admitted.permit);
    if view.members.get(target).is_none_or(|member| member.is_learner) {
        return Err(RequestError::BadLeaderTransferee);
    }
    let has_moved = || edge.cast.status().leader == Some(target);
    if has_moved() {
        return Ok(());
    }
    info!(edge.log, "leadership transfer starting";
        "current-leader-member-id" => %edge.cast.identity().member, "transferee-member-id" => %target);
    let raft_node = edge.cast.raft_node(&admitted.permit);
    let command = TransferLeadership { target: Some(target), span: admitted.span() };
    raft_node.send(command).await.map_err(|_| RequestError::Stopped)?;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let moved = async {
        while !has_moved() {
            looks.tick().await;
        }
    };
    let give_up = PATIENCE + edge.settings.election_timeout * 2;
    timeout(give_up, moved).await.map_err(|_| RequestError::LeaderTransferTimeout)?;
    info!(edge.log, "leadership transfer finished"; "transferee-member-id" => %target);
    Ok(())
}
