//! Who there is, and since when we reach them: the two tables that PeerLinks publishes.

use crate::ids::MemberId;
use crate::membership::members::Members;
use crate::membership::urls::Url;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Members that introduced themselves and that our log does not know: at most so many, or whoever invents ids fills us.
const INTRODUCED_MAX: usize = 16;

/// The members that this member's applied log knows, and those that said who they are since.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: Arc<Members>,
    introduced: BTreeMap<MemberId, Vec<String>>,
}

impl Roster {
    pub fn new(members: Arc<Members>) -> Self {
        Roster { members, introduced: BTreeMap::new() }
    }

    pub fn knows(&self, id: MemberId) -> bool {
        self.members.get(id).is_some() || self.introduced.contains_key(&id)
    }

    /// Removed ids never come back.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.members.is_removed(id)
    }

    /// The log has told more.
    pub fn update(&mut self, members: Arc<Members>) {
        self.members = members;
        let members = &self.members;
        self.introduced.retain(|id, _| members.get(*id).is_none() && !members.is_removed(*id));
    }

    /// A member of the cluster says where it is reached. Answers whether that is news.
    pub fn introduce(&mut self, id: MemberId, urls: Vec<String>) -> bool {
        let is_known = self.members.get(id).is_some() || self.members.is_removed(id);
        if is_known || self.introduced.get(&id) == Some(&urls) {
            return false;
        }
        if self.introduced.len() >= INTRODUCED_MAX && !self.introduced.contains_key(&id) {
            self.introduced.pop_first();
        }
        self.introduced.insert(id, urls);
        true
    }

    /// All to whom there is to be a link, with their URLs.
    pub fn peers(&self, own: MemberId) -> BTreeMap<MemberId, Vec<String>> {
        let listed = self.members.list().map(|member| (MemberId(member.id), member.peer_urls.clone()));
        let introduced = self.introduced.iter().map(|(id, urls)| (*id, urls.clone()));
        introduced.chain(listed).filter(|(id, _)| *id != own).collect()
    }

    pub fn urls(&self, id: MemberId) -> Option<Vec<Url>> {
        let texts = self.members.get(id).map(|member| &member.peer_urls).or_else(|| self.introduced.get(&id))?;
        Some(parsed(texts))
    }
}

/// What can be dialled of `texts`. They were checked before they entered the log; those of a stranger were not.
pub fn parsed(texts: &[String]) -> Vec<Url> {
    texts.iter().filter_map(|text| Url::parse(text).ok()).collect()
}

/// Since when each peer has been reached, without a break, by the process's monotonic clock. Who is not reached is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections(pub BTreeMap<MemberId, Duration>);

impl Connections {
    pub fn since(&self, id: MemberId) -> Option<Duration> {
        self.0.get(&id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogIndex;
    use crate::membership::members::MemberRow;
    use castd_proto::etcdserverpb::Member;

    fn members(known: &[u64], removed: &[u64]) -> Arc<Members> {
        let known = known.iter().map(|id| {
            let peer_urls = vec![format!("http://m{id}:1")];
            MemberRow::Set(Member { id: *id, peer_urls, ..Member::default() })
        });
        let removed = removed.iter().map(|id| MemberRow::Removed(MemberId(*id)));
        Arc::new(Members::restore(known.chain(removed), LogIndex(9)))
    }

    fn urls(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn what_the_log_says_counts_more_than_what_a_member_says() {
        let mut roster = Roster::new(members(&[1, 2], &[3]));
        assert!(!roster.introduce(MemberId(2), urls("http://elsewhere:1")), "known");
        assert!(!roster.introduce(MemberId(3), urls("http://m3:1")), "removed");
        assert!(roster.introduce(MemberId(4), urls("http://m4:1")));
        assert!(!roster.introduce(MemberId(4), urls("http://m4:1")), "said before");
        assert!(roster.introduce(MemberId(4), urls("http://m4:2")), "moved");
        assert!(roster.knows(MemberId(4)));
        assert_eq!(roster.peers(MemberId(1)).into_keys().collect::<Vec<_>>(), [MemberId(2), MemberId(4)]);

        roster.update(members(&[1, 4], &[2, 3]));
        assert_eq!(roster.peers(MemberId(1)), BTreeMap::from([(MemberId(4), urls("http://m4:1"))]));
        roster.update(members(&[1], &[2, 3, 4]));
        assert!(!roster.knows(MemberId(4)) && roster.is_removed(MemberId(4)));
    }

    #[test]
    fn whoever_invents_members_fills_nothing() {
        let mut roster = Roster::new(members(&[1], &[]));
        for id in 100..1_000 {
            assert!(roster.introduce(MemberId(id), urls("http://h:1")));
        }
        assert_eq!(roster.peers(MemberId(1)).len(), INTRODUCED_MAX);
    }
}
