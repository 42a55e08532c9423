//! A set of keys made of single keys and ranges, to ask whether a key is in it.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use super::index::Span;

/// Ranges are kept disjoint, so that neither adding nor asking depends on how many were added before.
#[derive(Debug, Default)]
pub(super) struct Spans<'a> {
    keys: HashSet<&'a [u8]>,
    /// First key → first key behind; `None` is the end of the key space.
    ranges: BTreeMap<&'a [u8], Option<&'a [u8]>>,
}

impl<'a> Spans<'a> {
    pub(super) fn add(&mut self, span: Span<'a>) {
        match span {
            Span::One(key) => {
                self.keys.insert(key);
            }
            Span::Many(from, to) if to.is_none_or(|to| from < to) => self.add_range(from, to),
            Span::Many(..) => {}
        }
    }

    fn add_range(&mut self, mut from: &'a [u8], mut to: Option<&'a [u8]>) {
        if let Some((&start, &end)) = self.ranges.range(..=from).next_back()
            && reaches(end, from)
        {
            from = start;
            to = later(to, end);
        }
        while let Some((&start, &end)) = self.ranges.range(from..).next()
            && reaches(to, start)
        {
            self.ranges.remove(start);
            to = later(to, end);
        }
        self.ranges.insert(from, to);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.keys.extend(other.keys);
        other.ranges.into_iter().for_each(|(from, to)| self.add_range(from, to));
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let range = self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        self.keys.contains(key) || range.is_some_and(|(_, end)| end.is_none_or(|end| key < end))
    }
}

fn reaches(end: Option<&[u8]>, key: &[u8]) -> bool {
    end.is_none_or(|end| key <= end)
}

fn later<'a>(left: Option<&'a [u8]>, right: Option<&'a [u8]>) -> Option<&'a [u8]> {
    left.zip(right).map(|(left, right)| left.max(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_in_the_set_if_one_of_the_spans_has_it(
            spans in proptest::collection::vec((0u8..20, 0u8..20), 0..12),
            merged in proptest::collection::vec((0u8..20, 0u8..20), 0..12),
        ) {
            fn span(span: &(u8, u8)) -> Span<'_> {
                let (from, to) = (std::slice::from_ref(&span.0), std::slice::from_ref(&span.1));
                match span.1 {
                    0 => Span::Many(from, None),
                    1 => Span::One(from),
                    _ => Span::Many(from, Some(to)),
                }
            }
            let (mut set, mut other) = (Spans::default(), Spans::default());
            spans.iter().for_each(|it| set.add(span(it)));
            merged.iter().for_each(|it| other.add(span(it)));
            set.merge(other);
            for key in 0u8..22 {
                let expected = spans.iter().chain(&merged).any(|&(from, to)| match to {
                    0 => from <= key,
                    1 => from == key,
                    _ => from <= key && key < to,
                });
                prop_assert_eq!(set.contains(&[key]), expected);
            }
        }
    }
}
