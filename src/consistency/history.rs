//! Compares the whole history of members with the leader's, at one revision, as etcd does.
//!
//! The leader hashes its history, asks its peers for theirs up to the same revision, makes sure that it still leads, and
//! hashes again: what a follower has may then be compared with what the leader has, and must not be more. Where a majority
//! of members differs from the leader in the same way, it is the leader that is corrupt; without one it is the peer.

use super::PeerHash;
use super::verdict::{Verdict, judge};
use crate::ids::MemberId;
use crate::mvcc::HashKv;
use std::collections::BTreeSet;

/// The leader's side.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    pub member: MemberId,
    /// Before the others were asked: they were asked for this revision.
    pub before: HashKv,
    pub after: HashKv,
    /// The current one, when `after` was hashed.
    pub revision: i64,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The leader's own history is another one each time.
    Unsteady,
    /// The peer is at a revision that the leader has not reached.
    AheadOfLeader { peer: MemberId, revision: i64 },
    /// The peer has compacted what the leader has not.
    CompactedBeyondLeader { peer: MemberId, compact_revision: i64 },
    /// At the same revision, compacted at the same one.
    OtherHash { peer: MemberId, hash: HashKv },
}

/// What was found, and who is to be reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub findings: Vec<Finding>,
    pub corrupt: BTreeSet<MemberId>,
}

/// Compares what `peers` answered; `members` there are in all.
pub fn compare(own: Own, peers: &[(MemberId, PeerHash)], members: usize) -> Compared {
    let mut compared = Compared::default();
    let Own { before, after, .. } = own;
    let is_same_moment =
        before.hash_revision == after.hash_revision && before.compact_revision == after.compact_revision;
    if is_same_moment && before.hash != after.hash {
        compared.findings.push(Finding::Unsteady);
        compared.corrupt.insert(own.member);
    }
    let mut comparable = vec![(own.member, before.hash)];
    for (peer, answer) in peers {
        let hash = answer.hash;
        let mut found = |finding| {
            compared.findings.push(finding);
            compared.corrupt.insert(*peer);
        };
        if answer.revision > own.revision {
            found(Finding::AheadOfLeader { peer: *peer, revision: answer.revision });
        }
        if hash.compact_revision > after.compact_revision {
            let compact_revision = hash.compact_revision;
            found(Finding::CompactedBeyondLeader { peer: *peer, compact_revision });
        }
        if hash.compact_revision == before.compact_revision {
            comparable.push((*peer, hash.hash));
            if hash.hash != before.hash {
                compared.findings.push(Finding::OtherHash { peer: *peer, hash });
            }
        }
    }
    match judge(comparable.iter().copied(), members) {
        Verdict::Same => {}
        Verdict::Corrupt(corrupt) => compared.corrupt.extend(corrupt),
        Verdict::Undecided => {
            let others = comparable.iter().filter(|(_, hash)| *hash != before.hash);
            compared.corrupt.extend(others.map(|(member, _)| *member));
        }
    }
    compared
}

/// What a starting member makes of one peer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    Same,
    /// Another hash for the same rows: this member must not go on.
    OtherHash,
    /// Not comparable: one of the two has compacted more.
    OtherCompaction,
}

pub fn compare_initial(own: HashKv, peer: HashKv) -> Initial {
    if own.hash == peer.hash {
        Initial::Same
    } else if own.compact_revision == peer.compact_revision {
        Initial::OtherHash
    } else {
        Initial::OtherCompaction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: MemberId = MemberId(1);

    fn hash(hash: u32, compact_revision: i64) -> HashKv {
        HashKv { hash, compact_revision, hash_revision: 50 }
    }

    fn peer(id: u64, value: u32, compact_revision: i64, revision: i64) -> (MemberId, PeerHash) {
        (MemberId(id), PeerHash { hash: hash(value, compact_revision), revision })
    }

    fn leader() -> Own {
        let after = HashKv { hash_revision: 60, ..hash(88, 12) };
        Own { member: LEADER, before: hash(7, 10), after, revision: 60 }
    }

    fn corrupt(peers: &[(MemberId, PeerHash)], members: usize) -> Vec<u64> {
        let compared = compare(leader(), peers, members);
        assert_eq!(compared.findings.is_empty(), compared.corrupt.is_empty(), "{compared:?}");
        compared.corrupt.into_iter().map(|member| member.0).collect()
    }

    #[test]
    fn what_may_differ_is_not_found_to() {
        assert_eq!(corrupt(&[], 3), [] as [u64; 0]);
        assert_eq!(corrupt(&[peer(2, 7, 10, 50), peer(3, 7, 10, 60)], 3), [] as [u64; 0]);
        // It has compacted since, or not yet: other rows are left.
        assert_eq!(corrupt(&[peer(2, 9, 12, 60), peer(3, 9, 5, 50)], 3), [] as [u64; 0]);
    }

    #[test]
    fn a_majority_decides_and_without_one_the_leader_is_believed() {
        assert_eq!(corrupt(&[peer(2, 9, 10, 50), peer(3, 7, 10, 50)], 3), [2]);
        assert_eq!(corrupt(&[peer(2, 9, 10, 50), peer(3, 9, 10, 50)], 3), [1], "the leader is alone with what it has");
        assert_eq!(corrupt(&[peer(2, 9, 10, 50)], 3), [2]);
        assert_eq!(corrupt(&[peer(2, 9, 10, 50)], 2), [2]);
        assert_eq!(corrupt(&[peer(2, 8, 10, 50), peer(3, 9, 10, 50)], 3), [2, 3]);
    }

    #[test]
    fn nobody_may_be_ahead_of_the_leader() {
        assert_eq!(corrupt(&[peer(2, 7, 10, 61)], 3), [2]);
        assert_eq!(corrupt(&[peer(2, 9, 13, 60)], 3), [2]);
        let found = compare(leader(), &[peer(2, 9, 13, 61)], 3).findings;
        let peer = MemberId(2);
        let ahead = Finding::AheadOfLeader { peer, revision: 61 };
        assert_eq!(found, [ahead, Finding::CompactedBeyondLeader { peer, compact_revision: 13 }]);
    }

    #[test]
    fn a_leader_that_reads_other_rows_each_time_is_corrupt() {
        let own = Own { after: hash(8, 10), ..leader() };
        let compared = compare(own, &[], 3);
        assert_eq!((compared.findings, compared.corrupt), (vec![Finding::Unsteady], BTreeSet::from([LEADER])));
    }

    #[test]
    fn a_start_goes_on_unless_the_same_rows_have_another_hash() {
        assert_eq!(compare_initial(hash(7, 10), hash(7, 10)), Initial::Same);
        assert_eq!(compare_initial(hash(7, 10), hash(8, 10)), Initial::OtherHash);
        assert_eq!(compare_initial(hash(7, 10), hash(8, 11)), Initial::OtherCompaction);
    }
}
