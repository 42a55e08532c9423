//! Maintenance.MoveLeader: another voter is to lead.

use crate::api::grpc::{Admitted, Edge};
use crate::cast::RequestError;
use crate::handover::{self, Patience};
use crate::ids::MemberId;

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
    if edge.cast.status().leader == Some(target) {
        return Ok(());
    }
    let (election_timeout, all) = (edge.settings.election_timeout, edge.settings.request_timeout);
    let patience = Patience { election_timeout, all };
    handover::move_to(&edge.cast, target, patience, admitted.span(), edge.clock, &edge.log).await
}
