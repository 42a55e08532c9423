//! Which of many key ranges contain a key: a treap over the ranges' starts, each node knowing the greatest end below it.
//!
//! Finding the `k` ranges around a key among `n` takes about `k · log n` comparisons, whatever the ranges look like:
//! nested prefixes, one range over everything, a hundred thousand that do not touch.

use super::request::KeyRange;
use std::cmp::Ordering;

const NONE: u32 = u32::MAX;

struct Node {
    range: KeyRange,
    value: u32,
    priority: u64,
    left: u32,
    right: u32,
    /// The node in this subtree whose range ends last.
    last_to_end: u32,
}

/// A set of distinct ranges, each with a number.
pub struct RangeIndex {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    /// Priorities come from here. Seeded, so that nobody who chooses ranges can make the tree a list.
    random: u64,
}

fn order(a: &KeyRange, b: &KeyRange) -> Ordering {
    a.start.cmp(&b.start).then_with(|| order_of_ends(a, b))
}

fn order_of_ends(a: &KeyRange, b: &KeyRange) -> Ordering {
    match (&a.end, &b.end) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn ends_after(range: &KeyRange, key: &[u8]) -> bool {
    range.end.as_ref().is_none_or(|end| key < end.as_ref())
}

/// SplitMix64: the next of a sequence of well-mixed numbers.
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl RangeIndex {
    pub fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, random: seed }
    }

    /// The number the range was inserted with.
    pub fn get(&self, range: &KeyRange) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match order(range, &node.range) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(node.value),
            };
        }
        None
    }

    /// Adds a range that is not there yet.
    pub fn insert(&mut self, range: KeyRange, value: u32) {
        debug_assert!(self.get(&range).is_none());
        let priority = next_random(&mut self.random);
        let node = Node { range, value, priority, left: NONE, right: NONE, last_to_end: NONE };
        let new = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = node;
                free
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.refresh(new);
        self.root = self.insert_below(self.root, new);
    }

    /// Takes a range out; nothing happens if it is not there.
    pub fn remove(&mut self, range: &KeyRange) {
        self.root = self.remove_below(self.root, range);
    }

    /// Calls `hit` with the number of every range that contains `key`, in order of the ranges.
    pub fn containing(&self, key: &[u8], hit: &mut impl FnMut(u32)) {
        self.containing_below(self.root, key, hit);
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn containing_below(&self, at: u32, key: &[u8], hit: &mut impl FnMut(u32)) {
        if at == NONE {
            return;
        }
        let node = self.node(at);
        if !ends_after(&self.node(node.last_to_end).range, key) {
            return;
        }
        self.containing_below(node.left, key, hit);
        if node.range.start.as_ref() <= key {
            if ends_after(&node.range, key) {
                hit(node.value);
            }
            self.containing_below(node.right, key, hit);
        }
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE {
            return new;
        }
        if self.node(new).priority > self.node(at).priority {
            let (left, right) = self.split(at, new);
            self.nodes[new as usize].left = left;
            self.nodes[new as usize].right = right;
            self.refresh(new);
            return new;
        }
        if order(&self.node(new).range, &self.node(at).range) == Ordering::Less {
            let left = self.insert_below(self.node(at).left, new);
            self.nodes[at as usize].left = left;
        } else {
            let right = self.insert_below(self.node(at).right, new);
            self.nodes[at as usize].right = right;
        }
        self.refresh(at);
        at
    }

    /// Cuts a subtree into what comes before the range of `pivot` and what comes after.
    fn split(&mut self, at: u32, pivot: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        if order(&self.node(at).range, &self.node(pivot).range) == Ordering::Less {
            let (left, right) = self.split(self.node(at).right, pivot);
            self.nodes[at as usize].right = left;
            self.refresh(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.node(at).left, pivot);
            self.nodes[at as usize].left = right;
            self.refresh(at);
            (left, at)
        }
    }

    fn remove_below(&mut self, at: u32, range: &KeyRange) -> u32 {
        if at == NONE {
            return NONE;
        }
        match order(range, &self.node(at).range) {
            Ordering::Less => {
                let left = self.remove_below(self.node(at).left, range);
                self.nodes[at as usize].left = left;
            }
            Ordering::Greater => {
                let right = self.remove_below(self.node(at).right, range);
                self.nodes[at as usize].right = right;
            }
            Ordering::Equal => {
                let joined = self.join(self.node(at).left, self.node(at).right);
                self.nodes[at as usize].range = KeyRange { start: bytes::Bytes::new(), end: None };
                self.free.push(at);
                return joined;
            }
        }
        self.refresh(at);
        at
    }

    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE {
            return right;
        }
        if right == NONE {
            return left;
        }
        if self.node(left).priority > self.node(right).priority {
            let joined = self.join(self.node(left).right, right);
            self.nodes[left as usize].right = joined;
            self.refresh(left);
            left
        } else {
            let joined = self.join(left, self.node(right).left);
            self.nodes[right as usize].left = joined;
            self.refresh(right);
            right
        }
    }

    fn refresh(&mut self, at: u32) {
        let node = self.node(at);
        let mut last = at;
        for child in [node.left, node.right] {
            if child != NONE {
                let candidate = self.node(child).last_to_end;
                if order_of_ends(&self.node(candidate).range, &self.node(last).range) == Ordering::Greater {
                    last = candidate;
                }
            }
        }
        self.nodes[at as usize].last_to_end = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        ("[a-d]{0,3}", proptest::option::of("[a-d]{0,3}"))
            .prop_map(|(start, end)| KeyRange { start: Bytes::from(start), end: end.map(Bytes::from) })
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_each_range_finds(
            steps in prop::collection::vec((any::<bool>(), range()), 0..60),
            keys in prop::collection::vec("[a-e]{0,4}", 1..10),
        ) {
            let mut index = RangeIndex::new(1);
            let mut model: Vec<(KeyRange, u32)> = Vec::new();
            for (number, (add, range)) in steps.into_iter().enumerate() {
                let known = model.iter().position(|(it, _)| *it == range);
                match (add, known) {
                    (true, None) => {
                        index.insert(range.clone(), number as u32);
                        model.push((range, number as u32));
                    }
                    (true, Some(at)) => prop_assert_eq!(index.get(&range), Some(model[at].1)),
                    (false, known) => {
                        index.remove(&range);
                        known.map(|at| model.remove(at));
                    }
                }
            }
            for key in keys {
                let mut found = Vec::new();
                index.containing(key.as_bytes(), &mut |value| found.push(value));
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|(range, _)| range.start.as_ref() <= key.as_bytes() && ends_after(range, key.as_bytes()))
                    .cloned()
                    .collect();
                expected.sort_by(|(a, _), (b, _)| order(a, b));
                prop_assert_eq!(found, expected.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_hundred_thousand_ranges_in_order_make_no_list() {
        let mut index = RangeIndex::new(7);
        let range = |number: u32| KeyRange {
            start: Bytes::from(format!("/{number:06}/")),
            end: Some(Bytes::from(format!("/{number:06}0"))),
        };
        for number in 0..100_000 {
            index.insert(range(number), number);
        }
        fn depth(index: &RangeIndex, at: u32) -> usize {
            match at {
                NONE => 0,
                _ => 1 + depth(index, index.node(at).left).max(depth(index, index.node(at).right)),
            }
        }
        assert!(depth(&index, index.root) < 80);
        let mut found = Vec::new();
        index.containing(b"/054321/pod", &mut |value| found.push(value));
        assert_eq!(found, [54_321]);
        for number in 0..100_000 {
            index.remove(&range(number));
        }
        assert_eq!(index.root, NONE);
    }
}
