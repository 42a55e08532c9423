//! A cluster as its members describe it to one that wants to join, and who of `--initial-cluster` is who in it.

use super::urls::{ClusterMap, Url, UrlSet, same_places};
use crate::ids::{ClusterId, MemberId};
use castd_proto::etcdserverpb::Member;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Printed as etcd prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    pub id: ClusterId,
    pub members: Vec<Member>,
}

/// Why `--initial-cluster` does not describe the cluster that is there; in etcd's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    #[error("member count is unequal")]
    Count,
    #[error("PeerURLs: no match found for existing member ({id}, [{urls}]), last resolver error ({reason})")]
    NoMatch { id: MemberId, urls: String, reason: String },
}

impl RemoteCluster {
    /// The id of each member by the name that `listed` has for it. Members are told apart by their URLs; names may differ.
    ///
    /// # Errors
    /// When one of either side is not among the other's.
    pub fn name_members(
        &self,
        listed: &ClusterMap,
        resolve: &mut dyn FnMut(&str) -> Result<IpAddr, String>,
    ) -> Result<BTreeMap<String, MemberId>, MatchError> {
        if self.members.len() != listed.len() {
            return Err(MatchError::Count);
        }
        let mut names = BTreeMap::new();
        for member in &self.members {
            let urls: Result<Vec<Url>, _> = member.peer_urls.iter().map(|url| Url::parse(url)).collect();
            let mut reason = urls.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let urls = UrlSet::from(urls.unwrap_or_default());
            let found = listed.iter().filter(|(name, _)| !names.contains_key(*name)).find(|(_, listed)| {
                let same = same_places(&urls, listed, resolve);
                same.inspect_err(|why| reason.clone_from(why)).is_ok()
            });
            let Some((name, _)) = found else {
                let (id, urls) = (MemberId(member.id), member.peer_urls.join(" "));
                return Err(MatchError::NoMatch { id, urls, reason });
            };
            names.insert(name.to_owned(), MemberId(member.id));
        }
        Ok(names)
    }

    /// Whether `member`, who is to found this cluster, has already run in it.
    pub fn has_started(&self, member: MemberId) -> bool {
        self.members.iter().any(|known| known.id == member.0 && !known.client_urls.is_empty())
    }
}

impl fmt::Display for RemoteCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ClusterID:{} Members:[", self.id)?;
        for (place, member) in self.members.iter().enumerate() {
            let Member { id, name, peer_urls, client_urls, is_learner } = member;
            let (id, peer_urls, client_urls) = (MemberId(*id), peer_urls.join(" "), client_urls.join(" "));
            let space = if place == 0 { "" } else { " " };
            write!(
                f,
                "{space}&{{ID:{id} RaftAttributes:{{PeerURLs:[{peer_urls}] IsLearner:{is_learner}}} \
                 Attributes:{{Name:{name} ClientURLs:[{client_urls}]}}}}"
            )?;
        }
        write!(f, "] RemovedMemberIDs:[]}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member { id, peer_urls: vec![url.to_owned()], ..Member::default() }
    }

    fn names(listed: &str, members: &[(u64, &str)]) -> Result<Vec<(String, u64)>, String> {
        let remote =
            RemoteCluster { id: ClusterId(1), members: members.iter().map(|(id, url)| member(*id, url)).collect() };
        let mut dns = |host: &str| match host {
            "node1" => Ok(IpAddr::from([10, 0, 0, 1])),
            _ => Err(format!("lookup {host}: no such host")),
        };
        let listed = ClusterMap::parse(listed).expect("valid");
        let named = remote.name_members(&listed, &mut dns).map_err(|error| error.to_string())?;
        Ok(named.into_iter().map(|(name, id)| (name, id.0)).collect())
    }

    #[test]
    fn members_are_told_apart_by_their_urls() {
        let there = [(5, "http://10.0.0.1:1"), (6, "http://10.0.0.2:1")];
        let ids = |a, b| Ok(vec![("a".to_owned(), a), ("b".to_owned(), b)]);
        assert_eq!(names("a=http://10.0.0.1:1,b=http://10.0.0.2:1", &there), ids(5, 6));
        assert_eq!(names("b=http://node1:1,a=http://10.0.0.2:1", &there), ids(6, 5));
    }

    #[test]
    fn a_list_that_does_not_describe_the_cluster_is_refused_in_etcds_words() {
        let there = [(5, "http://10.0.0.1:1"), (0x1a, "http://10.0.0.2:1")];
        assert_eq!(names("a=http://10.0.0.1:1", &there), Err("member count is unequal".to_owned()));
        let text = "PeerURLs: no match found for existing member (1a, [http://10.0.0.2:1]), last resolver error \
                    (resolved urls: \"http://10.0.0.2:1\" != \"http://10.0.0.3:1\")";
        assert_eq!(names("a=http://10.0.0.1:1,b=http://10.0.0.3:1", &there), Err(text.to_owned()));
        // Nobody is two members.
        let twice = [(5, "http://10.0.0.1:1"), (6, "http://10.0.0.1:1")];
        assert!(names("a=http://10.0.0.1:1,b=http://10.0.0.2:1", &twice).is_err());
    }

    #[test]
    fn a_cluster_is_printed_as_etcd_prints_it() {
        let started =
            Member { name: "m1".to_owned(), client_urls: vec!["http://c:1".to_owned()], ..member(0x1a, "http://p:1") };
        let remote = RemoteCluster { id: ClusterId(0xcd), members: vec![started, member(2, "http://q:1")] };
        assert_eq!(
            remote.to_string(),
            "{ClusterID:cd Members:[&{ID:1a RaftAttributes:{PeerURLs:[http://p:1] IsLearner:false} \
             Attributes:{Name:m1 ClientURLs:[http://c:1]}} &{ID:2 RaftAttributes:{PeerURLs:[http://q:1] IsLearner:false} \
             Attributes:{Name: ClientURLs:[]}}] RemovedMemberIDs:[]}"
        );
        assert!(remote.has_started(MemberId(0x1a)) && !remote.has_started(MemberId(2)));
    }
}
