//! Compaction of the index, a stretch of leaves at a time.
//!
//! Subtrees in which no key has a history or is deleted are passed over. Leaves that became empty go, small neighbours are
//! joined, so that a key space that shrinks gives its memory back.

use std::{mem, sync::Arc};

use super::super::RowKey;
use super::history::Version;
use super::leaf::{self, Leaf};
use super::tree::{CHILDREN_MAX, Child, Inner, Node, Tree};

/// So many leaves are looked at in one step, however little they yield.
const LEAVES_PER_STEP: usize = 64;

/// A row that nobody can read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Doomed {
    pub row: RowKey,
    pub bytes: u32,
}

impl Doomed {
    pub(super) fn of(version: Version) -> Self {
        Self { row: version.row(), bytes: version.bytes }
    }
}

/// One step of a compaction.
#[derive(Debug)]
pub(crate) struct Sweep {
    main: i64,
    rows_max: usize,
    leaves_left: usize,
    /// A single leaf may exceed the limit.
    pub doomed: Vec<Doomed>,
    /// Where the next step begins.
    resume: Option<Vec<u8>>,
}

impl Sweep {
    pub(crate) fn new(main: i64, rows_max: usize) -> Self {
        Self { main, rows_max: rows_max.max(1), leaves_left: LEAVES_PER_STEP, doomed: Vec::new(), resume: None }
    }

    fn is_over(&self) -> bool {
        self.leaves_left == 0 || self.doomed.len() >= self.rows_max
    }
}

impl Tree {
    /// Goes on at key `from`. Gives back the key to go on at next, `None` once the end is reached.
    pub(crate) fn sweep(&mut self, from: Option<&[u8]>, sweep: &mut Sweep) -> Option<Vec<u8>> {
        self.root.sweep(from, sweep);
        while let Node::Inner(inner) = &mut self.root.node
            && inner.children.len() <= 1
        {
            let only = Arc::make_mut(inner).children.pop();
            self.root = only.unwrap_or_else(|| Child::leaf(Leaf::default()));
        }
        sweep.resume.take()
    }
}

impl Child {
    fn sweep(&mut self, from: Option<&[u8]>, sweep: &mut Sweep) {
        match &mut self.node {
            Node::Leaf(leaf) => {
                sweep.leaves_left -= 1;
                if leaf.may_compact(sweep.main) {
                    let leaf = Arc::make_mut(leaf);
                    leaf.compact(sweep.main, &mut sweep.doomed);
                    (self.live, self.stale) = (leaf.live.into(), leaf.stale.into());
                }
            }
            Node::Inner(inner) => {
                let first = from.map_or(0, |from| inner.bounds.up_to(from));
                if inner.children[first..].iter().all(|child| child.stale == 0) {
                    return;
                }
                let inner = Arc::make_mut(inner);
                for position in first..inner.children.len() {
                    if sweep.is_over() {
                        if sweep.resume.is_none() {
                            sweep.resume = Some(inner.bounds.get(position - 1).to_vec());
                        }
                        break;
                    }
                    if inner.children[position].stale > 0 {
                        inner.children[position].sweep(from.filter(|_| position == first), sweep);
                    }
                }
                inner.tidy();
                (self.live, self.stale) = inner.counts();
            }
        }
    }

    fn is_empty(&self) -> bool {
        match &self.node {
            Node::Leaf(leaf) => leaf.len() == 0,
            Node::Inner(inner) => inner.children.is_empty(),
        }
    }

    /// Whether both together leave room for more.
    fn can_take(&self, right: &Self) -> bool {
        match (&self.node, &right.node) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.len() + right.len() <= leaf::KEYS_MAX * 3 / 4
                    && left.key_bytes() + right.key_bytes() <= leaf::BYTES_MAX
            }
            (Node::Inner(left), Node::Inner(right)) => {
                left.children.len() + right.children.len() <= CHILDREN_MAX * 3 / 4
            }
            _ => false,
        }
    }

    fn take(&mut self, between: &[u8], right: Self) {
        match (&mut self.node, right.node) {
            (Node::Leaf(left), Node::Leaf(right)) => Arc::make_mut(left).append(&right),
            (Node::Inner(left), Node::Inner(right)) => {
                let left = Arc::make_mut(left);
                left.bounds.push(between);
                left.bounds.append(&right.bounds);
                left.children.extend(right.children.iter().cloned());
            }
            _ => unreachable!("all leaves are equally deep"),
        }
        self.live += right.live;
        self.stale += right.stale;
    }
}

impl Inner {
    /// Drops empty children, then joins neighbours.
    fn tidy(&mut self) {
        for position in (0..self.children.len()).rev() {
            if self.children[position].is_empty() {
                self.children.remove(position);
                if self.bounds.len() > 0 {
                    self.bounds.remove(position.saturating_sub(1));
                }
            }
        }
        let mut position = 1;
        while position < self.children.len() {
            if self.children[position - 1].can_take(&self.children[position]) {
                let right = self.children.remove(position);
                let bounds = mem::take(&mut self.bounds);
                self.children[position - 1].take(bounds.get(position - 1), right);
                self.bounds = bounds;
                self.bounds.remove(position - 1);
            } else {
                position += 1;
            }
        }
    }
}
