//! Compares the rolling hashes of members, each of which is at another index.
//!
//! ```text
//!   member 1:  … 7000  8000        8412
//!   member 2:  … 7000  8000  8200              ──▶ compared at 7000 and at 8000
//!   member 3:  …       8000             8700
//! ```
//! Hashes that have once become different stay so. So where nobody has a majority, there is time to wait for the members
//! that could not be compared yet.

use super::verdict::{Verdict, judge};
use crate::ids::MemberId;
use crate::state::{HashPoint, StateHash};
use std::collections::{BTreeMap, BTreeSet};

/// How often in a row members may differ without a majority, before that is all there is to know.
const UNDECIDED_ROUNDS_MAX: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub verdict: Verdict,
    /// The highest index at which two members were compared, or at which they differ.
    pub index: Option<u64>,
    /// What each said there.
    pub said: Vec<(MemberId, StateHash)>,
}

#[derive(Debug, Default)]
pub struct StatesCheck {
    undecided_rounds: u32,
}

impl StatesCheck {
    /// One round of questions. `said` has those who answered, of `members` in all. [`Verdict::Undecided`] is final.
    pub fn compare(&mut self, members: usize, said: &[(MemberId, Vec<HashPoint>)]) -> Compared {
        let mut by_index: BTreeMap<u64, BTreeMap<MemberId, StateHash>> = BTreeMap::new();
        for (member, points) in said {
            for point in points {
                by_index.entry(point.index).or_default().insert(*member, point.hash);
            }
        }
        by_index.retain(|_, said| said.len() > 1);
        let at = |index: Option<u64>| {
            let said = index.and_then(|index| by_index.get(&index)).into_iter().flatten();
            said.map(|(member, hash)| (*member, *hash)).collect()
        };
        let mut corrupt = BTreeSet::new();
        let (mut decided_at, mut undecided_at) = (None, None);
        for (index, said) in &by_index {
            match judge(said.iter().map(|(member, hash)| (*member, *hash)), members) {
                Verdict::Same => {}
                Verdict::Corrupt(ids) => {
                    corrupt.extend(ids);
                    decided_at = Some(*index);
                }
                Verdict::Undecided => undecided_at = Some(*index),
            }
        }
        if decided_at.is_some() {
            self.undecided_rounds = 0;
            let verdict = Verdict::Corrupt(corrupt.into_iter().collect());
            return Compared { verdict, index: decided_at, said: at(decided_at) };
        }
        let Some(index) = undecided_at else {
            self.undecided_rounds = 0;
            let index = by_index.keys().next_back().copied();
            return Compared { verdict: Verdict::Same, index, said: at(index) };
        };
        self.undecided_rounds += 1;
        let all_were_compared = by_index[&index].len() == members;
        let is_final = all_were_compared || self.undecided_rounds >= UNDECIDED_ROUNDS_MAX;
        let verdict = if is_final { Verdict::Undecided } else { Verdict::Same };
        Compared { verdict, index: Some(index), said: at(Some(index)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(points: &[(u64, u64)]) -> Vec<HashPoint> {
        points.iter().map(|(index, hash)| HashPoint { index: *index, hash: StateHash(*hash) }).collect()
    }

    fn said(members: &[&[(u64, u64)]]) -> Vec<(MemberId, Vec<HashPoint>)> {
        (1..).map(MemberId).zip(members.iter().map(|member| points(member))).collect()
    }

    fn compare(members: &[&[(u64, u64)]]) -> (Verdict, Option<u64>) {
        let compared = StatesCheck::default().compare(3, &said(members));
        (compared.verdict, compared.index)
    }

    #[test]
    fn members_are_compared_where_they_have_been_both() {
        let same = |index| (Verdict::Same, index);
        assert_eq!(compare(&[&[(1_000, 1), (1_500, 2)], &[(1_000, 1)], &[(1_200, 9)]]), same(Some(1_000)));
        assert_eq!(compare(&[&[(1_000, 1)], &[(1_001, 2)], &[]]), same(None));
        assert_eq!(compare(&[&[(7, 1)]]), same(None));
        assert_eq!(compare(&[]), same(None));
        let corrupt = (Verdict::Corrupt(vec![MemberId(2)]), Some(2_000));
        assert_eq!(compare(&[&[(1_000, 1), (2_000, 2)], &[(1_000, 1), (2_000, 3)], &[(2_000, 2)]]), corrupt);
        // Whoever was found out at one index is, although at a later one there is nobody to decide.
        let later: &[&[(u64, u64)]] = &[&[(1_000, 1), (2_000, 2)], &[(1_000, 5), (2_000, 3)], &[(1_000, 1)]];
        assert_eq!(compare(later), (Verdict::Corrupt(vec![MemberId(2)]), Some(1_000)));
    }

    #[test]
    fn without_a_majority_the_others_are_given_time_to_answer() {
        let mut check = StatesCheck::default();
        let two = said(&[&[(1_000, 1)], &[(1_000, 2)]]);
        assert_eq!(check.compare(3, &two).verdict, Verdict::Same);
        assert_eq!(check.compare(3, &two).verdict, Verdict::Same);
        let third = said(&[&[(1_000, 1), (2_000, 5)], &[(1_000, 2), (2_000, 6)], &[(2_000, 5)]]);
        assert_eq!(check.compare(3, &third).verdict, Verdict::Corrupt(vec![MemberId(2)]));
        // It begins anew, and does not last for ever.
        let verdicts: Vec<_> = (0..3).map(|_| check.compare(3, &two).verdict).collect();
        assert_eq!(verdicts, [Verdict::Same, Verdict::Same, Verdict::Undecided]);
        // Nobody is missing: nothing is to be waited for.
        let three = said(&[&[(1_000, 1)], &[(1_000, 2)], &[(1_000, 3)]]);
        assert_eq!(StatesCheck::default().compare(3, &three).verdict, Verdict::Undecided);
        assert_eq!(StatesCheck::default().compare(2, &two).verdict, Verdict::Undecided);
    }
}
