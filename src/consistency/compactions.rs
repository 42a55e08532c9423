//! Compares what members had before each compaction, newest first, until one was found the same on all of them.
//!
//! All members compact at the same revisions, and keep the hashes of the last ones: these are there whatever has been written
//! since. A member that has forgotten one, or is not there yet, is skipped; then the compaction before is looked at.

use super::PeerHash;
use super::verdict::{Verdict, judge};
use crate::ids::MemberId;
use crate::mvcc::HashKv;

/// Why a peer was not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    NoResponse,
    /// Its hash is not of the same rows.
    OtherCompaction {
        peer: i64,
        leader: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub skipped: Vec<(MemberId, Skipped)>,
    pub checked: usize,
    pub verdict: Verdict,
    /// The peers that have another hash than the leader.
    pub differing: Vec<(MemberId, u32)>,
    /// Nothing older needs to be looked at.
    pub is_conclusive: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CompactionsCheck {
    /// Found the same on all members.
    latest_checked: i64,
}

impl CompactionsCheck {
    /// Those of `hashes` that are to be compared, newest first.
    pub fn unchecked(&self, mut hashes: Vec<HashKv>) -> Vec<HashKv> {
        hashes.retain(|hash| hash.hash_revision > self.latest_checked);
        hashes.sort_unstable_by_key(|hash| std::cmp::Reverse(hash.hash_revision));
        hashes
    }

    /// What `peers`, all of them, answered for the revision of `hash`.
    pub fn compare(&mut self, leader: MemberId, hash: HashKv, peers: &[(MemberId, Option<PeerHash>)]) -> Compared {
        let mut said = vec![(leader, hash.hash)];
        let mut skipped = Vec::new();
        for (peer, answer) in peers {
            match answer {
                None => skipped.push((*peer, Skipped::NoResponse)),
                Some(answer) if answer.hash.compact_revision != hash.compact_revision => {
                    let (peers, leaders) = (answer.hash.compact_revision, hash.compact_revision);
                    skipped.push((*peer, Skipped::OtherCompaction { peer: peers, leader: leaders }));
                }
                Some(answer) => said.push((*peer, answer.hash.hash)),
            }
        }
        let verdict = judge(said.iter().copied(), peers.len() + 1);
        let checked = said.len() - 1;
        let is_whole = checked == peers.len();
        if is_whole && verdict == Verdict::Same {
            self.latest_checked = self.latest_checked.max(hash.hash_revision);
        }
        let is_conclusive = is_whole || verdict != Verdict::Same;
        let differing = said.into_iter().filter(|(_, said)| *said != hash.hash).collect();
        Compared { skipped, checked, verdict, differing, is_conclusive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: MemberId = MemberId(1);

    fn hash(revision: i64, hash: u32) -> HashKv {
        HashKv { hash, compact_revision: revision - 5, hash_revision: revision }
    }

    fn peers(answers: &[Option<HashKv>]) -> Vec<(MemberId, Option<PeerHash>)> {
        let answer = |hash| PeerHash { hash, revision: 100 };
        (2..).map(MemberId).zip(answers.iter().map(|hash| hash.map(answer))).collect()
    }

    #[test]
    fn what_was_the_same_on_all_members_is_not_compared_again() {
        let mut check = CompactionsCheck::default();
        let hashes = vec![hash(10, 1), hash(20, 2), hash(30, 3)];
        let unchecked = check.unchecked(hashes.clone());
        assert_eq!(unchecked, [hash(30, 3), hash(20, 2), hash(10, 1)]);
        // One is not there yet: the one before is looked at.
        let compared = check.compare(LEADER, hash(30, 3), &peers(&[Some(hash(30, 3)), None]));
        assert_eq!((compared.checked, compared.is_conclusive, compared.verdict), (1, false, Verdict::Same));
        assert_eq!(compared.skipped, [(MemberId(3), Skipped::NoResponse)]);
        let compared = check.compare(LEADER, hash(20, 2), &peers(&[Some(hash(20, 2)); 2]));
        assert!(compared.is_conclusive && compared.skipped.is_empty());
        assert_eq!(check.unchecked(hashes), [hash(30, 3)]);
    }

    #[test]
    fn a_hash_of_other_rows_is_not_compared() {
        let other = HashKv { compact_revision: 1, ..hash(30, 9) };
        let compared = CompactionsCheck::default().compare(LEADER, hash(30, 3), &peers(&[Some(other)]));
        assert_eq!(compared.skipped, [(MemberId(2), Skipped::OtherCompaction { peer: 1, leader: 25 })]);
        assert_eq!((compared.checked, compared.verdict), (0, Verdict::Same));
    }

    #[test]
    fn a_majority_says_who_is_corrupt_and_without_one_nobody_does() {
        let mut check = CompactionsCheck::default();
        let mut compare = |answers: &[Option<u32>]| {
            let answers: Vec<_> = answers.iter().map(|answer| answer.map(|value| hash(30, value))).collect();
            let compared = check.compare(LEADER, hash(30, 3), &peers(&answers));
            assert!(compared.is_conclusive && !compared.differing.is_empty());
            compared.verdict
        };
        assert_eq!(compare(&[Some(3), Some(4)]), Verdict::Corrupt(vec![MemberId(3)]));
        assert_eq!(compare(&[Some(4), Some(4)]), Verdict::Corrupt(vec![LEADER]));
        assert_eq!(compare(&[Some(4), None]), Verdict::Undecided);
        assert_eq!(compare(&[Some(4), Some(5)]), Verdict::Undecided);
        assert_eq!(check.unchecked(vec![hash(30, 3)]), [hash(30, 3)], "it is looked at again");
    }
}
