//! Who there is, and since when we reach them: the two tables that PeerLinks publishes.

use crate::ids::MemberId;
use crate::membership::members::Members;
use crate::membership::urls::Url;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Members that introduced themselves and that our log does not know: at most so many, or whoever invents ids fills us.
const INTRODUCED_MAX: usize = 16;
/// The oldest of them makes room for another one after so long. Each costs two lanes, and lines in the log.
const INTRODUCED_FOR: Duration = Duration::from_secs(30);

/// The members that this member's applied log knows, and those that said who they are since.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: Arc<Members>,
    introduced: BTreeMap<MemberId, Introduced>,
}

#[derive(Clone, Debug)]
struct Introduced {
    urls: Vec<String>,
    at: Duration,
}

impl Roster {
    pub fn new(members: Arc<Members>) -> Self {
        Roster { members, introduced: BTreeMap::new() }
    }

    pub fn knows(&self, id: MemberId) -> bool {
        self.is_member(id) || self.introduced.contains_key(&id)
    }

    /// Our log knows it.
    pub fn is_member(&self, id: MemberId) -> bool {
        self.members.get(id).is_some()
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

    /// A member of the cluster says where it is reached. Answers whether that is news, and there was room for it.
    pub fn introduce(&mut self, id: MemberId, urls: Vec<String>, now: Duration) -> bool {
        let is_known = self.is_member(id) || self.members.is_removed(id);
        if is_known || self.introduced.get(&id).is_some_and(|known| known.urls == urls) {
            return false;
        }
        let replaced = match self.introduced.get(&id) {
            Some(before) => Some((id, before.at)),
            None if self.introduced.len() < INTRODUCED_MAX => None,
            None => self.introduced.iter().map(|(id, oldest)| (*id, oldest.at)).min_by_key(|(_, at)| *at),
        };
        if replaced.is_some_and(|(_, at)| now < at + INTRODUCED_FOR) {
            return false;
        }
        if let Some((replaced, _)) = replaced {
            self.introduced.remove(&replaced);
        }
        self.introduced.insert(id, Introduced { urls, at: now });
        true
    }

    /// All to whom there is to be a link, with their URLs.
    pub fn peers(&self, own: MemberId) -> BTreeMap<MemberId, Vec<String>> {
        let listed = self.members.list().map(|member| (MemberId(member.id), member.peer_urls.clone()));
        let introduced = self.introduced.iter().map(|(id, introduced)| (*id, introduced.urls.clone()));
        introduced.chain(listed).filter(|(id, _)| *id != own).collect()
    }

    pub fn urls(&self, id: MemberId) -> Option<Vec<Url>> {
        let introduced = || self.introduced.get(&id).map(|introduced| &introduced.urls);
        let texts = self.members.get(id).map(|member| &member.peer_urls).or_else(introduced)?;
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

    const START: Duration = Duration::ZERO;

    #[test]
    fn what_the_log_says_counts_more_than_what_a_member_says() {
        let mut roster = Roster::new(members(&[1, 2], &[3]));
        assert!(!roster.introduce(MemberId(2), urls("http://elsewhere:1"), START), "known");
        assert!(!roster.introduce(MemberId(3), urls("http://m3:1"), START), "removed");
        assert!(roster.introduce(MemberId(4), urls("http://m4:1"), START));
        assert!(!roster.introduce(MemberId(4), urls("http://m4:1"), INTRODUCED_FOR), "said before");
        assert!(!roster.introduce(MemberId(4), urls("http://m4:2"), START), "moves too often");
        assert!(roster.introduce(MemberId(4), urls("http://m4:2"), INTRODUCED_FOR), "moved");
        assert!(roster.knows(MemberId(4)) && !roster.is_member(MemberId(4)));
        assert_eq!(roster.peers(MemberId(1)).into_keys().collect::<Vec<_>>(), [MemberId(2), MemberId(4)]);

        roster.update(members(&[1, 4], &[2, 3]));
        assert_eq!(roster.peers(MemberId(1)), BTreeMap::from([(MemberId(4), urls("http://m4:1"))]));
        roster.update(members(&[1], &[2, 3, 4]));
        assert!(!roster.knows(MemberId(4)) && roster.is_removed(MemberId(4)));
    }

    #[test]
    fn whoever_invents_members_fills_nothing_and_others_get_their_turn() {
        let mut roster = Roster::new(members(&[1], &[]));
        let invent = |roster: &mut Roster, ids: std::ops::Range<u64>, now| {
            ids.filter(|id| roster.introduce(MemberId(*id), urls("http://h:1"), now)).count()
        };
        assert_eq!(invent(&mut roster, 100..1_000, START), INTRODUCED_MAX);
        assert_eq!(invent(&mut roster, 1_000..2_000, INTRODUCED_FOR / 2), 0);
        assert_eq!(invent(&mut roster, 2_000..3_000, INTRODUCED_FOR), INTRODUCED_MAX);
        assert!(roster.knows(MemberId(2_000)) && !roster.knows(MemberId(100)));
        assert_eq!(roster.peers(MemberId(1)).len(), INTRODUCED_MAX);
    }
}
