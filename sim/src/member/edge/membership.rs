//! Changes of the membership, as far as one member can check them before they are proposed.

use super::{Ask, Ticket};
use crate::member::Around;
use crate::member::mail::{ToRaftNode, Waiter};
use castd::cast::RequestError;
use castd::ids::LogIndex;
use castd::membership::MembershipError;
use castd::membership::checks::{self, Outlook};
use castd::state::membership_entry;
use castd_proto::castdpb::{MembershipChange, membership_change::Kind};
use castd_proto::etcdserverpb as pb;
use raft::eraftpb::EntryType;
use std::sync::Arc;

/// `--max-learners`.
const LEARNERS_MAX: u32 = 2;

pub(super) fn propose_change(kind: Kind, member: pb::Member, ticket: Ticket, around: &mut Around<'_>) {
    let LogIndex(checked_index) = around.shared.view.applied;
    let change = MembershipChange {
        kind: kind.into(),
        member: Some(member),
        learners_max: LEARNERS_MAX,
        checked_index,
        ..Default::default()
    };
    let data = membership_entry(&change).into();
    around.mail(ToRaftNode::Propose { data, kind: EntryType::EntryConfChange, waiter: Waiter::Edge(ticket) });
}

/// What a change comes to, if it may be proposed as far as this member can see.
pub(super) fn checked_member(ask: &Ask, around: &Around<'_>) -> Result<(Kind, pb::Member), RequestError> {
    Ok(match ask {
        Ask::AddMember { peer_url, is_learner } => {
            let urls = checks::peer_urls(std::slice::from_ref(peer_url))?;
            with_outlook(around, |outlook| outlook.may_add(*is_learner))?;
            let id = checks::new_id(&around.shared.view.members, &urls, around.unix_seconds);
            let peer_urls = urls.iter().map(ToString::to_string).collect();
            (Kind::Add, pb::Member { id: id.0, peer_urls, is_learner: *is_learner, ..Default::default() })
        }
        Ask::RemoveMember { id } => {
            with_outlook(around, |outlook| outlook.may_remove(*id))?;
            (Kind::Remove, pb::Member { id: id.0, ..Default::default() })
        }
        Ask::UpdateMember { id, peer_url } => {
            (Kind::Update, pb::Member { id: id.0, peer_urls: vec![peer_url.clone()], ..Default::default() })
        }
        _ => return Err(MembershipError::NotFound.into()),
    })
}

pub(super) fn with_outlook<T>(around: &Around<'_>, ask: impl FnOnce(&Outlook<'_>) -> T) -> T {
    let connections = &around.shared.connections;
    let connected_for = |member| Some(around.now.saturating_sub(connections.since(member)?));
    let members = Arc::clone(&around.shared.view.members);
    ask(&Outlook {
        members: &members,
        local: around.id,
        is_strict: around.settings.is_reconfig_strict,
        connected_for: &connected_for,
    })
}
