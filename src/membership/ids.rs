//! Member and cluster ids, computed as etcd computes them: clients print them and operators compare them.
//!
//! ```text
//!   member id  = first 8 bytes (big endian) of SHA-1( sorted peer URLs, no separator ‖ salt )
//!   cluster id = first 8 bytes (big endian) of SHA-1( member ids ascending, 8 bytes big endian each )
//! ```
//! The salt is the cluster token for members of the first configuration, and the decimal Unix time for members added
//! later. The cluster id belongs to the first configuration: it never changes when members come and go. The name of a
//! member is no part of either.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::urls::{ClusterMap, UrlSet};
use crate::ids::{ClusterId, MemberId};

/// The id of a member of the first configuration.
pub fn initial_member_id(peer_urls: &UrlSet, cluster_token: &str) -> MemberId {
    MemberId(hash(peer_urls, cluster_token))
}

/// The id of a member added to a running cluster, by whoever takes the request. `unix_seconds` is the wall clock: the
/// same URLs get another id each second, so a removed member's id is not met again.
pub fn added_member_id(peer_urls: &UrlSet, unix_seconds: i64) -> MemberId {
    MemberId(hash(peer_urls, &unix_seconds.to_string()))
}

/// The id of a cluster that starts with these members, in any order.
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let mut digest = Sha1::new();
    for member in sorted {
        digest.update(member.0.to_be_bytes());
    }
    ClusterId(first_eight_bytes(digest))
}

/// What a first start with this `--initial-cluster` and token calls everyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialIds {
    pub cluster: ClusterId,
    /// By member name.
    pub members: BTreeMap<String, MemberId>,
}

pub fn initial_ids(cluster: &ClusterMap, cluster_token: &str) -> InitialIds {
    let members: BTreeMap<String, MemberId> =
        cluster.iter().map(|(name, urls)| (name.to_owned(), initial_member_id(urls, cluster_token))).collect();
    let all: Vec<MemberId> = members.values().copied().collect();
    InitialIds { cluster: cluster_id(&all), members }
}

fn hash(peer_urls: &UrlSet, salt: &str) -> u64 {
    let mut texts = peer_urls.texts();
    texts.sort_unstable();
    let mut digest = Sha1::new();
    for text in texts {
        digest.update(text.as_bytes());
    }
    digest.update(salt.as_bytes());
    first_eight_bytes(digest)
}

fn first_eight_bytes(digest: Sha1) -> u64 {
    digest.finalize().iter().take(8).fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(initial_cluster: &str, token: &str) -> InitialIds {
        initial_ids(&ClusterMap::parse(initial_cluster).expect("a valid cluster"), token)
    }

    #[test]
    fn a_default_member_has_the_ids_every_etcd_user_has_seen() {
        let ids = ids("default=http://localhost:2380", "etcd-cluster");
        assert_eq!(ids.members["default"].to_string(), "8e9e05c52164694d");
        assert_eq!(ids.members["default"].0, 10_276_657_743_932_975_437);
        assert_eq!(ids.cluster.to_string(), "cdf818194e3a8c32");
        assert_eq!(ids.cluster.0, 14_841_639_068_965_178_418);
    }

    #[test]
    fn three_members_have_the_ids_of_etcds_own_tutorial() {
        let ids = ids(
            "infra3=http://127.0.0.1:32380,infra1=http://127.0.0.1:12380,infra2=http://127.0.0.1:22380",
            "etcd-cluster-1",
        );
        assert_eq!(ids.members["infra1"].to_string(), "8211f1d0f64f3269");
        assert_eq!(ids.members["infra2"].to_string(), "91bc3c398fb3c146");
        assert_eq!(ids.members["infra3"].to_string(), "fd422379fda50e48");
        assert_eq!(ids.cluster.to_string(), "ef37ad9dc622a7c4");
        assert_eq!(ids.cluster.0, 17_237_436_991_929_493_444);
    }

    #[test]
    fn the_order_in_which_urls_and_members_are_given_does_not_matter_and_names_do_not_either() {
        let one = ids("a=http://h:2,a=http://h:1,b=http://i:1", "t");
        let other = ids("y=http://i:1,x=http://h:1,x=http://h:2", "t");
        assert_eq!(one.cluster, other.cluster);
        assert_eq!(one.members["a"], other.members["x"]);
        assert_ne!(one.cluster, ids("a=http://h:2,a=http://h:1,b=http://i:1", "u").cluster);
    }

    #[test]
    fn a_member_added_later_is_salted_with_the_second_it_was_added_in() {
        let urls = UrlSet::parse("http://10.0.1.13:2380").expect("valid");
        assert_ne!(added_member_id(&urls, 1_700_000_000), added_member_id(&urls, 1_700_000_001));
        assert_eq!(added_member_id(&urls, 1_700_000_000), initial_member_id(&urls, "1700000000"));
    }
}
