//! The tree over the leaves: look up, walk, count, change.

use std::{ops::ControlFlow, sync::Arc};

use super::super::row;
use super::history::Version;
use super::keys::{Keys, separator};
use super::leaf::Leaf;

pub(super) const CHILDREN_MAX: usize = 24;

/// Which keys a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span<'a> {
    One(&'a [u8]),
    /// From the first key on, up to and without the second, or to the end.
    Many(&'a [u8], Option<&'a [u8]>),
}

impl<'a> Span<'a> {
    /// etcd's convention: no end is one key, an end of one zero byte is no limit.
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::Many(key, None),
            end => Self::Many(key, Some(end)),
        }
    }
}

/// How to go through a span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'a> {
    pub from: &'a [u8],
    pub to: Option<&'a [u8]>,
    pub descending: bool,
    /// Leave out stretches in which every key is deleted.
    pub live_only: bool,
}

/// One change, to be given to [`Tree::apply`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Put {
        main: i64,
        sub: u32,
        /// Of the row, but for the fields that are only known here: when the key was created, and its version.
        bytes: u32,
    },
    /// Of a key that is there.
    Delete { main: i64, sub: u32, bytes: u32 },
    /// A version as it was found in a row.
    Known(Version),
}

/// A key in the tree.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    leaf: &'a Leaf,
    position: usize,
}

impl<'a> Entry<'a> {
    pub(crate) fn key(&self) -> &'a [u8] {
        self.leaf.key(self.position)
    }

    /// The newest version, deletion or not, at revision `main`.
    pub(crate) fn at(&self, main: i64) -> Option<Version> {
        self.leaf.at(self.position, main)
    }

    /// The version a reader sees at revision `main`.
    pub(crate) fn live_at(&self, main: i64) -> Option<Version> {
        self.at(main).filter(Version::is_live)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Leaf(Arc<Leaf>),
    Inner(Arc<Inner>),
}

/// A node and what is under it.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) node: Node,
    pub(super) live: u64,
    pub(super) stale: u64,
}

/// `bounds[i]` is greater than every key under `children[i]` and not greater than any under `children[i + 1]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Inner {
    pub(super) bounds: Keys,
    pub(super) children: Vec<Child>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(super) root: Child,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Child::leaf(Leaf::default()) }
    }
}

impl Child {
    pub(super) fn leaf(leaf: Leaf) -> Self {
        let (live, stale) = (leaf.live.into(), leaf.stale.into());
        Self { node: Node::Leaf(Arc::new(leaf)), live, stale }
    }

    pub(super) fn inner(inner: Inner) -> Self {
        let (live, stale) = inner.counts();
        Self { node: Node::Inner(Arc::new(inner)), live, stale }
    }
}

impl Inner {
    pub(super) fn counts(&self) -> (u64, u64) {
        self.children.iter().fold((0, 0), |(live, stale), child| (live + child.live, stale + child.stale))
    }

    /// Cuts off the children from `at` on, and says what separates the halves.
    fn split(&mut self, at: usize) -> (Vec<u8>, Self) {
        let mut bounds = self.bounds.split_off(at - 1);
        let between = bounds.get(0).to_vec();
        bounds.remove(0);
        let right = Self { bounds, children: self.children.split_off(at) };
        self.children.shrink_to_fit();
        (between, right)
    }
}

impl Tree {
    /// How many keys are not deleted.
    pub(crate) fn live(&self) -> u64 {
        self.root.live
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        let mut node = &self.root.node;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.bounds.up_to(key)].node,
                Node::Leaf(leaf) => {
                    return leaf.keys().search(key).ok().map(|position| Entry { leaf, position });
                }
            }
        }
    }

    /// What a reader of `key` sees at revision `main`.
    pub(crate) fn live_at(&self, key: &[u8], main: i64) -> Option<Version> {
        self.get(key)?.live_at(main)
    }

    /// How many keys that are not deleted `from <= key < to` has, now.
    pub(crate) fn count(&self, from: &[u8], to: Option<&[u8]>) -> u64 {
        let end = to.map_or(self.root.live, |to| self.live_before(to));
        end.saturating_sub(self.live_before(from))
    }

    fn live_before(&self, key: &[u8]) -> u64 {
        let mut node = &self.root.node;
        let mut before = 0;
        loop {
            match node {
                Node::Inner(inner) => {
                    let position = inner.bounds.up_to(key);
                    before += inner.children[..position].iter().map(|child| child.live).sum::<u64>();
                    node = &inner.children[position].node;
                }
                Node::Leaf(leaf) => return before + leaf.live_before(leaf.keys().before(key)) as u64,
            }
        }
    }

    /// Visits the keys of a span in order until `visit` breaks.
    pub(crate) fn walk<'t>(&'t self, walk: Walk<'_>, visit: &mut impl FnMut(Entry<'t>) -> ControlFlow<()>) {
        if walk.to.is_none_or(|to| walk.from < to) {
            let _ = walk_node(&self.root.node, Some(walk.from), walk.to, walk, visit);
        }
    }

    /// Makes a change and says what it came to: the version before, if the tree had the key, and the version now. A deletion
    /// of a key that is not there changes nothing.
    pub(crate) fn apply(&mut self, key: &[u8], change: Change) -> (Option<Version>, Version) {
        let mut applied = Applied { before: None, now: change.version(None) };
        if let Some((between, right)) = self.root.apply(key, change, true, &mut applied) {
            let mut bounds = Keys::default();
            bounds.push(&between);
            let left = std::mem::replace(&mut self.root, Child::leaf(Leaf::default()));
            self.root = Child::inner(Inner { bounds, children: vec![left, right] });
        }
        (applied.before, applied.now)
    }
}

fn walk_node<'t>(
    node: &'t Node,
    from: Option<&[u8]>,
    to: Option<&[u8]>,
    walk: Walk<'_>,
    visit: &mut impl FnMut(Entry<'t>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(leaf) => {
            let first = from.map_or(0, |from| leaf.keys().before(from));
            let end = to.map_or(leaf.len(), |to| leaf.keys().before(to));
            if walk.descending {
                (first..end).rev().try_for_each(|position| visit(Entry { leaf, position }))
            } else {
                (first..end).try_for_each(|position| visit(Entry { leaf, position }))
            }
        }
        Node::Inner(inner) => {
            let first = from.map_or(0, |from| inner.bounds.up_to(from));
            let last = to.map_or(inner.children.len() - 1, |to| inner.bounds.up_to(to));
            let mut step = |position: usize| {
                let child = &inner.children[position];
                if walk.live_only && child.live == 0 {
                    return ControlFlow::Continue(());
                }
                let from = from.filter(|_| position == first);
                let to = to.filter(|_| position == last);
                walk_node(&child.node, from, to, walk, visit)
            };
            if walk.descending {
                (first..=last).rev().try_for_each(&mut step)
            } else {
                (first..=last).try_for_each(&mut step)
            }
        }
    }
}

impl Change {
    /// The new version of a key whose newest one is `before`.
    fn version(self, before: Option<Version>) -> Version {
        match (self, before.filter(Version::is_live)) {
            (Self::Known(version), _) => version,
            (Self::Delete { main, sub, bytes }, _) => Version { main, create: 0, version: 0, sub, bytes },
            (Self::Put { main, sub, bytes }, before) => {
                let (create, version) = before.map_or((main, 1), |before| (before.create, before.version + 1));
                Version {
                    main,
                    create,
                    version,
                    sub,
                    bytes: bytes.saturating_add(row::number_bytes(create) + row::number_bytes(version)),
                }
            }
        }
    }
}

struct Applied {
    before: Option<Version>,
    now: Version,
}

impl Child {
    /// Gives back the right half and what separates it, if the node had to be split.
    fn apply(&mut self, key: &[u8], change: Change, rightmost: bool, applied: &mut Applied) -> Option<(Vec<u8>, Self)> {
        match &mut self.node {
            Node::Leaf(leaf) => {
                let leaf = match leaf.keys().search(key) {
                    Ok(position) => {
                        let before = leaf.newest(position);
                        if matches!(change, Change::Delete { .. }) && !before.is_live() {
                            return None;
                        }
                        *applied = Applied { before: Some(before), now: change.version(Some(before)) };
                        let leaf = Arc::make_mut(leaf);
                        leaf.replace(position, applied.now);
                        leaf
                    }
                    Err(_) if matches!(change, Change::Delete { .. }) => return None,
                    Err(position) => {
                        let leaf = Arc::make_mut(leaf);
                        leaf.insert(position, key, applied.now);
                        leaf
                    }
                };
                let split = leaf.is_too_big().then(|| leaf.split(rightmost)).map(|right| {
                    let between = separator(leaf.key(leaf.len() - 1), right.key(0)).to_vec();
                    (between, Self::leaf(right))
                });
                (self.live, self.stale) = (leaf.live.into(), leaf.stale.into());
                split
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let position = inner.bounds.up_to(key);
                let is_last = position + 1 == inner.children.len();
                let child = &mut inner.children[position];
                let (live, stale) = (child.live, child.stale);
                let split = child.apply(key, change, rightmost && is_last, applied);
                self.live = self.live - live + child.live;
                self.stale = self.stale - stale + child.stale;
                let (between, right) = split?;
                self.live += right.live;
                self.stale += right.stale;
                inner.bounds.insert(position, &between);
                inner.children.insert(position + 1, right);
                if inner.children.len() <= CHILDREN_MAX {
                    return None;
                }
                let at = if rightmost && is_last { CHILDREN_MAX } else { inner.children.len() / 2 };
                let (between, right) = inner.split(at);
                let right = Self::inner(right);
                self.live -= right.live;
                self.stale -= right.stale;
                Some((between, right))
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// What must hold after every change.
    pub(crate) fn check(&self) {
        check_node(&self.root, None, None);
    }
}

/// Returns the height.
#[cfg(test)]
fn check_node(child: &Child, from: Option<&[u8]>, to: Option<&[u8]>) -> usize {
    match &child.node {
        Node::Leaf(leaf) => {
            leaf.check();
            assert_eq!((child.live, child.stale), (leaf.live.into(), leaf.stale.into()));
            if leaf.len() > 0 {
                assert!(from.is_none_or(|from| from <= leaf.key(0)));
                assert!(to.is_none_or(|to| leaf.key(leaf.len() - 1) < to));
            }
            0
        }
        Node::Inner(inner) => {
            assert_eq!(inner.bounds.len() + 1, inner.children.len());
            assert_eq!((child.live, child.stale), inner.counts());
            let heights: Vec<usize> = (0..inner.children.len())
                .map(|position| {
                    let from = position.checked_sub(1).map_or(from, |before| Some(inner.bounds.get(before)));
                    let to = if position < inner.bounds.len() { Some(inner.bounds.get(position)) } else { to };
                    check_node(&inner.children[position], from, to)
                })
                .collect();
            assert!(heights.iter().all(|height| *height == heights[0]), "all leaves are equally deep");
            heights[0] + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Doomed, Sweep};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u64) -> [u8; 8] {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
    }

    fn live_keys(tree: &Tree, from: &[u8], to: Option<&[u8]>, descending: bool) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        tree.walk(Walk { from, to, descending, live_only: true }, &mut |entry| {
            if entry.live_at(i64::MAX).is_some() {
                keys.push(entry.key().to_vec());
            }
            ControlFlow::Continue(())
        });
        keys
    }

    #[test]
    fn a_large_tree_finds_walks_and_counts() {
        let mut tree = Tree::default();
        let mut model = BTreeMap::new();
        for number in 0..20_000u64 {
            let main = 2 + number as i64;
            tree.apply(&key(number), Change::Put { main, sub: 0, bytes: 40 });
            model.insert(key(number), main);
            if number % 3 == 0 {
                tree.apply(&key(number / 2), Change::Delete { main, sub: 1, bytes: 40 });
                model.remove(&key(number / 2));
            }
        }
        tree.check();
        assert_eq!(tree.live(), model.len() as u64);
        for number in 0..20_000 {
            let found = tree.live_at(&key(number), i64::MAX).map(|version| version.main);
            assert_eq!(found, model.get(&key(number)).copied());
        }
        for (from, to) in [(0, 7), (7, 0), (11, 12), (500, 9000)].map(|(a, b)| (key(a), key(b))) {
            let expected: Vec<Vec<u8>> =
                if from < to { model.range(from..to).map(|(key, _)| key.to_vec()).collect() } else { Vec::new() };
            assert_eq!(tree.count(&from, Some(&to)), expected.len() as u64);
            assert_eq!(live_keys(&tree, &from, Some(&to), false), expected);
            let mut descending = live_keys(&tree, &from, Some(&to), true);
            descending.reverse();
            assert_eq!(descending, expected);
            assert_eq!(tree.count(&from, None), model.range(from..).count() as u64);
        }
    }

    #[test]
    fn an_ascending_load_leaves_full_leaves() {
        fn leaves(node: &Node) -> Vec<usize> {
            match node {
                Node::Leaf(leaf) => vec![leaf.len()],
                Node::Inner(inner) => inner.children.iter().flat_map(|child| leaves(&child.node)).collect(),
            }
        }
        let mut tree = Tree::default();
        for number in 0..100_000u64 {
            // Two loads at once, one of them in the middle of the key space.
            let key = [b"a".as_slice(), &number.to_be_bytes()].concat();
            tree.apply(&key, Change::Put { main: 2, sub: 0, bytes: 40 });
            if number % 10 == 0 {
                let key = [b"z".as_slice(), &number.to_be_bytes()].concat();
                tree.apply(&key, Change::Put { main: 2, sub: 0, bytes: 40 });
            }
        }
        tree.check();
        let leaves = leaves(&tree.root.node);
        assert!(110_000 / leaves.len() > 80, "{} leaves", leaves.len());
    }

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut tree = Tree::default();
        for number in 0..3000 {
            tree.apply(&key(number), Change::Put { main: 2, sub: number as u32, bytes: 40 });
        }
        let clone = tree.clone();
        for number in 0..3000 {
            tree.apply(&key(number), Change::Delete { main: 3, sub: number as u32, bytes: 40 });
            tree.apply(&key(number + 3000), Change::Put { main: 4, sub: 0, bytes: 40 });
        }
        clone.check();
        assert_eq!(clone.live(), 3000);
        assert!((0..3000).all(|number| clone.live_at(&key(number), i64::MAX).is_some()));
        assert!((3000..6000).all(|number| clone.get(&key(number)).is_none()));
    }

    proptest! {
        #[test]
        fn sweeping_in_steps_forgets_exactly_what_cannot_be_read(
            steps in proptest::collection::vec((0u64..400, prop::bool::weighted(0.4)), 1..3000),
            compact in 0usize..3000,
            rows in 1usize..200,
        ) {
            let mut tree = Tree::default();
            let mut versions: BTreeMap<[u8; 8], Vec<Version>> = BTreeMap::new();
            for (position, (number, delete)) in steps.iter().enumerate() {
                let main = 2 + position as i64;
                let live = tree.live_at(&key(*number), i64::MAX).is_some();
                let (sub, bytes) = (0, 20 + position as u32 % 5 * 30);
                let change = if *delete { Change::Delete { main, sub, bytes } } else { Change::Put { main, sub, bytes } };
                let (_, now) = tree.apply(&key(*number), change);
                if live || !delete {
                    versions.entry(key(*number)).or_default().push(now);
                }
            }
            tree.check();
            let at = 1 + compact.min(steps.len()) as i64;
            let mut doomed = Vec::new();
            let mut from = None;
            loop {
                let mut sweep = Sweep::new(at, rows);
                from = tree.sweep(from.as_deref(), &mut sweep);
                tree.check();
                doomed.append(&mut sweep.doomed);
                if from.is_none() {
                    break;
                }
            }
            doomed.sort();
            let mut expected = Vec::new();
            for (key, versions) in &versions {
                let visible = versions.iter().rposition(|version| version.main <= at);
                let kept = visible.map_or(0, |it| it + usize::from(!versions[it].is_live() && versions[it].main < at));
                expected.extend(versions[..kept].iter().copied().map(Doomed::of));
                for main in at..=2 + steps.len() as i64 {
                    let seen = versions.iter().rfind(|version| version.main <= main).filter(|it| it.is_live());
                    prop_assert_eq!(tree.live_at(key, main), seen.copied());
                }
            }
            expected.sort();
            prop_assert_eq!(doomed, expected);
        }
    }
}
