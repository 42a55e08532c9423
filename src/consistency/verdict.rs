//! Who is wrong, when members say different things about what should be the same.

use crate::ids::MemberId;
use std::collections::BTreeMap;

/// Of all members, each of which either said something or was not heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that were heard.
    Same,
    /// A majority of all members says one thing, and these say another.
    Corrupt(Vec<MemberId>),
    /// They differ, and nobody knows who is right.
    Undecided,
}

/// What `said` means in a cluster of `members`.
pub fn judge<T: Ord>(said: impl IntoIterator<Item = (MemberId, T)>, members: usize) -> Verdict {
    let mut groups: BTreeMap<T, Vec<MemberId>> = BTreeMap::new();
    for (member, what) in said {
        groups.entry(what).or_default().push(member);
    }
    if groups.len() <= 1 {
        return Verdict::Same;
    }
    if groups.values().all(|group| group.len() <= members / 2) {
        return Verdict::Undecided;
    }
    let mut corrupt: Vec<_> = groups.into_values().filter(|group| group.len() <= members / 2).flatten().collect();
    corrupt.sort_unstable();
    Verdict::Corrupt(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_all_members_decides_and_not_of_those_who_were_heard() {
        let judge = |said: &[u32], members| judge((1..).map(MemberId).zip(said), members);
        let corrupt = |ids: &[u64]| Verdict::Corrupt(ids.iter().copied().map(MemberId).collect());
        for (said, members, expected) in [
            (&[][..], 3, Verdict::Same),
            (&[5], 3, Verdict::Same),
            (&[5, 5, 5], 3, Verdict::Same),
            (&[5, 6], 3, Verdict::Undecided),
            (&[5, 6], 2, Verdict::Undecided),
            (&[5, 6, 7], 3, Verdict::Undecided),
            (&[6, 5, 5], 3, corrupt(&[1])),
            (&[5, 5, 6], 3, corrupt(&[3])),
            (&[5, 5, 6], 4, Verdict::Undecided),
            (&[5, 6, 5, 7, 5], 5, corrupt(&[2, 4])),
            (&[5, 6, 5, 6], 4, Verdict::Undecided),
        ] {
            assert_eq!(judge(said, members), expected, "{said:?} of {members}");
        }
    }
}
