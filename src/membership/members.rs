//! The members of the cluster as the applied log knows them: the one source of truth for who belongs to it.
//!
//! [`Members::check`] holds the rules that every member applies alike, at the same place of the log. What depends on what
//! one member sees at the moment (who is connected, who is in sync) is in [`super::checks`]. This does not talk to raft.

use super::MembershipError;
use crate::ids::{LogIndex, MemberId};
use crate::planted::{self, Bug};
use castd_proto::castdpb::{MemberAttributes, MembershipChange, membership_change::Kind};
use castd_proto::etcdserverpb::Member;
use std::collections::{BTreeMap, BTreeSet};

/// Members by id, and the ids that were removed and never come back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    /// Of the last change; what members say about themselves is none.
    changed_at: LogIndex,
}

/// What a change did to the table, for the rows on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberRow {
    Set(Member),
    Removed(MemberId),
}

impl Members {
    /// From rows on disk.
    pub fn restore(rows: impl IntoIterator<Item = MemberRow>, changed_at: LogIndex) -> Self {
        let mut members = Members { changed_at, ..Members::default() };
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

    /// Whether a new member may have this id.
    pub fn is_free(&self, id: MemberId) -> bool {
        id.0 != 0 && !self.removed.contains(&id) && !self.members.contains_key(&id)
    }

    /// Index of the entry that changed the membership last.
    pub fn changed_at(&self) -> LogIndex {
        self.changed_at
    }

    /// Ascending by id, as etcd lists them.
    pub fn list(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.list().filter(|member| !member.is_learner)
    }

    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.list().filter(|member| member.is_learner)
    }

    /// All rows as they stand.
    pub fn rows(&self) -> impl Iterator<Item = MemberRow> + '_ {
        let set = self.members.values().cloned().map(MemberRow::Set);
        set.chain(self.removed.iter().copied().map(MemberRow::Removed))
    }

    /// Whether a committed change may be applied: etcd's checks, in etcd's order.
    ///
    /// # Errors
    /// The first that fails.
    pub fn check(&self, change: &MembershipChange) -> Result<(), MembershipError> {
        let given = change.member.as_ref().ok_or(MembershipError::NotFound)?;
        let id = MemberId(given.id);
        if self.is_removed(id) {
            return Err(MembershipError::Removed);
        }
        let known = || self.get(id).ok_or(MembershipError::NotFound);
        match change.kind() {
            Kind::Add => {
                if self.get(id).is_some() {
                    return Err(MembershipError::IdExists);
                }
                self.check_peer_urls(given)?;
                if given.is_learner && self.learners().count() >= change.learners_max as usize {
                    return Err(MembershipError::TooManyLearners);
                }
            }
            Kind::Remove => {
                if !known()?.is_learner && self.voters().nth(1).is_none() {
                    return Err(MembershipError::LastVoter);
                }
            }
            Kind::Update => {
                known()?;
                self.check_peer_urls(given)?;
            }
            Kind::Promote => {
                if !known()?.is_learner {
                    return Err(MembershipError::NotLearner);
                }
            }
        }
        Ok(())
    }

    /// No two members may be reached at the same URL.
    fn check_peer_urls(&self, given: &Member) -> Result<(), MembershipError> {
        let mut others = self.list().filter(|other| other.id != given.id).flat_map(|other| &other.peer_urls);
        if others.any(|url| given.peer_urls.contains(url)) {
            return Err(MembershipError::PeerUrlExists);
        }
        Ok(())
    }

    /// Applies the change of the entry at `index`, which [`Members::check`] has let through. Answers the member as it is
    /// now, or as it was when it was removed. Each kind of change touches only what it is for: an update never promotes.
    ///
    /// # Errors
    /// As [`Members::check`]; nothing is changed then.
    pub fn change(&mut self, index: LogIndex, change: &MembershipChange) -> Result<Changed, MembershipError> {
        self.check(change)?;
        let given = change.member.clone().ok_or(MembershipError::NotFound)?;
        let id = MemberId(given.id);
        let known = self.get(id).cloned();
        let member = match (change.kind(), known) {
            (Kind::Add, _) => given,
            (Kind::Remove, Some(known)) => known,
            (Kind::Update, Some(known)) if planted::is_on(Bug::UpdatePromotes) => {
                Member { peer_urls: given.peer_urls, is_learner: false, ..known }
            }
            (Kind::Update, Some(known)) => Member { peer_urls: given.peer_urls, ..known },
            (Kind::Promote, Some(known)) => Member { is_learner: false, ..known },
            (Kind::Remove | Kind::Update | Kind::Promote, None) => return Err(MembershipError::NotFound),
        };
        let row = match change.kind() {
            Kind::Remove => MemberRow::Removed(id),
            Kind::Add | Kind::Update | Kind::Promote => MemberRow::Set(member.clone()),
        };
        self.put(row.clone());
        self.changed_at = index;
        Ok(Changed { kind: change.kind(), member, row })
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

/// A change that was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    pub kind: Kind,
    pub member: Member,
    pub row: MemberRow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(kind: Kind, id: u64, is_learner: bool) -> MembershipChange {
        let member = Member { id, is_learner, peer_urls: vec![format!("http://{id}")], ..Default::default() };
        MembershipChange { kind: kind.into(), member: Some(member), learners_max: 1, ..Default::default() }
    }

    fn update(id: u64, urls: &[&str]) -> MembershipChange {
        let peer_urls = urls.iter().map(ToString::to_string).collect();
        let member = Member { id, peer_urls, ..Default::default() };
        MembershipChange { kind: Kind::Update.into(), member: Some(member), ..Default::default() }
    }

    /// Voters 1 and 2, learner 3; 9 was removed.
    fn members() -> Members {
        let mut members = Members::default();
        for (index, change) in [
            change(Kind::Add, 1, false),
            change(Kind::Add, 2, false),
            change(Kind::Add, 3, true),
            change(Kind::Add, 9, false),
            change(Kind::Remove, 9, false),
        ]
        .into_iter()
        .enumerate()
        {
            members.change(LogIndex(index as u64 + 1), &change).expect("allowed");
        }
        members
    }

    #[test]
    fn what_may_not_be_applied_is_refused_in_etcds_order() {
        use MembershipError::*;
        let with_url = |change: MembershipChange, url: &str| {
            let member = change.member.clone().map(|member| Member { peer_urls: vec![url.into()], ..member });
            MembershipChange { member, ..change }
        };
        let two_learners = MembershipChange { learners_max: 2, ..change(Kind::Add, 4, true) };
        for (name, change, expected) in [
            ("a new voter", change(Kind::Add, 4, false), Ok(())),
            ("a removed id", change(Kind::Add, 9, false), Err(Removed)),
            ("a removed id, by each other way", change(Kind::Remove, 9, false), Err(Removed)),
            ("a removed id, by each other way", update(9, &["http://9"]), Err(Removed)),
            ("a removed id, by each other way", change(Kind::Promote, 9, false), Err(Removed)),
            ("an id that is there, before its URL", change(Kind::Add, 2, false), Err(IdExists)),
            ("a URL of another", with_url(change(Kind::Add, 4, false), "http://2"), Err(PeerUrlExists)),
            ("a URL before too many learners", with_url(change(Kind::Add, 4, true), "http://2"), Err(PeerUrlExists)),
            ("one learner too many", change(Kind::Add, 4, true), Err(TooManyLearners)),
            ("as many as the proposer allows", two_learners, Ok(())),
            ("no such member", change(Kind::Remove, 4, false), Err(NotFound)),
            ("no such member", update(4, &["http://2"]), Err(NotFound)),
            ("no such member", change(Kind::Promote, 4, false), Err(NotFound)),
            ("a URL of another", update(1, &["http://new", "http://3"]), Err(PeerUrlExists)),
            ("its own URL", update(1, &["http://new", "http://1"]), Ok(())),
            ("a voter cannot be promoted", change(Kind::Promote, 1, false), Err(NotLearner)),
            ("a learner can", change(Kind::Promote, 3, false), Ok(())),
            ("a voter of two", change(Kind::Remove, 1, false), Ok(())),
            ("a learner", change(Kind::Remove, 3, false), Ok(())),
            ("nobody", MembershipChange::default(), Err(NotFound)),
        ] {
            assert_eq!(members().check(&change), expected, "{name}");
            let mut after = members();
            let changed = after.change(LogIndex(6), &change);
            assert_eq!(changed.map(|_| ()), expected, "{name}");
            assert_eq!(after == members(), expected.is_err(), "{name}: a refusal changes nothing");
        }
    }

    #[test]
    fn the_last_voter_stays() {
        let mut members = members();
        members.change(LogIndex(6), &change(Kind::Remove, 2, false)).expect("one voter is left");
        assert_eq!(members.check(&change(Kind::Remove, 1, false)), Err(MembershipError::LastVoter));
    }

    #[test]
    fn a_removed_id_never_comes_back() {
        let members = members();
        let restored = Members::restore(members.rows(), members.changed_at());
        assert_eq!(restored, members);
        assert!(restored.is_removed(MemberId(9)) && !restored.is_free(MemberId(9)));
        assert!(restored.is_free(MemberId(4)) && !restored.is_free(MemberId(0)));
    }

    #[test]
    fn an_update_changes_the_peer_urls_and_nothing_else() {
        let mut members = members();
        let attributes = MemberAttributes { member_id: 3, name: "n".into(), client_urls: vec!["http://c".into()] };
        members.describe(&attributes).expect("it is there");
        members.change(LogIndex(6), &update(3, &["http://new"])).expect("allowed");
        let member = members.get(MemberId(3)).cloned().unwrap_or_default();
        assert_eq!(member.peer_urls, ["http://new"]);
        assert!(member.is_learner, "an update must not promote");
        assert_eq!((member.name.as_str(), member.client_urls.as_slice()), ("n", &["http://c".to_owned()][..]));
    }

    proptest! {
        /// Whatever is proposed: there is always a voter, no URL has two owners, the dead stay dead, and only a promotion
        /// makes a voter of a learner.
        #[test]
        fn no_sequence_of_changes_breaks_the_table(steps in prop::collection::vec((0..4_usize, 1..6_u64, any::<bool>(), 1..6_u64), 1..60)) {
            let mut members = Members::default();
            members.change(LogIndex(1), &change(Kind::Add, 1, false)).expect("the first");
            let mut removed = BTreeSet::new();
            for (kind, id, is_learner, url) in steps {
                let kind = [Kind::Add, Kind::Remove, Kind::Update, Kind::Promote][kind];
                let mut change = change(kind, id, is_learner);
                change.member.as_mut().expect("given").peer_urls = vec![format!("http://{url}")];
                let before = members.clone();
                if members.change(LogIndex(2), &change).is_ok() && kind == Kind::Remove {
                    removed.insert(MemberId(id));
                }
                prop_assert!(members.voters().next().is_some());
                let mut urls: Vec<_> = members.list().flat_map(|member| &member.peer_urls).collect();
                urls.sort();
                prop_assert!(urls.windows(2).all(|pair| pair[0] != pair[1]), "{urls:?}");
                prop_assert!(removed.iter().all(|id| members.is_removed(*id) && members.get(*id).is_none()));
                for learner in before.learners().filter(|_| kind != Kind::Promote) {
                    prop_assert!(members.get(MemberId(learner.id)).is_none_or(|member| member.is_learner));
                }
            }
        }
    }
}
