//! The members of the cluster as the applied log knows them: the one source of truth for who belongs to it.
//!
//! It does not decide whether a change is allowed, and does not talk to raft.

use crate::ids::MemberId;
use castd_proto::castdpb::{MemberAttributes, MembershipChange, membership_change::Kind};
use castd_proto::etcdserverpb::Member;
use std::collections::{BTreeMap, BTreeSet};

/// Members by id, and the ids that were removed and never come back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

/// What a change did to the table, for the rows on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberRow {
    Set(Member),
    Removed(MemberId),
}

impl Members {
    /// From rows on disk.
    pub fn restore(rows: impl IntoIterator<Item = MemberRow>) -> Self {
        let mut members = Members::default();
        for row in rows {
            members.put(row);
        }
        members
    }

    fn put(&mut self, row: MemberRow) {
        match row {
            MemberRow::Set(member) => {
                self.members.insert(MemberId(member.id), member);
            }
            MemberRow::Removed(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
        }
    }

    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// Ascending by id, as etcd lists them.
    pub fn list(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// All rows as they stand.
    pub fn rows(&self) -> impl Iterator<Item = MemberRow> + '_ {
        let set = self.members.values().cloned().map(MemberRow::Set);
        set.chain(self.removed.iter().copied().map(MemberRow::Removed))
    }

    /// Applies a committed membership change. `None` if it changes nothing: its member is missing, was removed for good,
    /// or is there already.
    pub fn change(&mut self, change: &MembershipChange) -> Option<MemberRow> {
        let given = change.member.as_ref()?;
        let id = MemberId(given.id);
        if self.is_removed(id) {
            return None;
        }
        let row = match change.kind() {
            Kind::Add if self.members.contains_key(&id) => return None,
            Kind::Add => MemberRow::Set(given.clone()),
            Kind::Remove => {
                self.members.get(&id)?;
                MemberRow::Removed(id)
            }
            Kind::Update => {
                MemberRow::Set(Member { peer_urls: given.peer_urls.clone(), ..self.members.get(&id)?.clone() })
            }
            Kind::Promote => MemberRow::Set(Member { is_learner: false, ..self.members.get(&id)?.clone() }),
        };
        self.put(row.clone());
        Some(row)
    }

    /// What a started member said about itself.
    pub fn describe(&mut self, attributes: &MemberAttributes) -> Option<MemberRow> {
        let member = self.members.get(&MemberId(attributes.member_id))?.clone();
        let row = MemberRow::Set(Member {
            name: attributes.name.clone(),
            client_urls: attributes.client_urls.clone(),
            ..member
        });
        self.put(row.clone());
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: Kind, id: u64, is_learner: bool) -> MembershipChange {
        let member = Member { id, is_learner, peer_urls: vec![format!("http://{id}")], ..Default::default() };
        MembershipChange { kind: kind.into(), member: Some(member), ..Default::default() }
    }

    #[test]
    fn a_removed_id_never_comes_back() {
        let mut members = Members::default();
        assert!(members.change(&change(Kind::Add, 7, false)).is_some());
        assert!(members.change(&change(Kind::Remove, 7, false)).is_some());
        assert_eq!(members.change(&change(Kind::Add, 7, false)), None);
        let restored = Members::restore(members.rows());
        assert_eq!(restored, members);
        assert!(restored.is_removed(MemberId(7)));
    }

    #[test]
    fn an_update_changes_the_peer_urls_and_nothing_else() {
        let mut members = Members::default();
        members.change(&change(Kind::Add, 7, true));
        let update = Member { id: 7, peer_urls: vec!["http://new".into()], ..Default::default() };
        members.change(&MembershipChange { kind: Kind::Update.into(), member: Some(update), ..Default::default() });
        let member = members.get(MemberId(7)).cloned().unwrap_or_default();
        assert_eq!(member.peer_urls, ["http://new"]);
        assert!(member.is_learner, "an update must not promote");
    }
}
