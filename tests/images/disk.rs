//! A file system that keeps apart what is on the platter and what is still to come, and what may be left of both.
//!
//! ```text
//!   step ──▶ newest ──fsync of the file──▶ durable         names: the same, by fsync of the directory
//!                 └──power failure: Loss──▶ durable + some of what came later
//! ```
//! Nothing is taken for granted that POSIX does not promise: an fsync of a file does not keep its name. Pages are kept or lost
//! each for itself, names of a directory in their order.

use crate::content::{Content, PAGE};
use crate::recording::{Action, Entry, Inode, ROOT, Step};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    Dropped,
    /// As after a crash of the process only.
    Kept,
    /// Each page as it was at some moment since the last sync.
    Scattered,
    /// Up to some moment, and then half of a write, in sectors.
    Torn,
    /// As torn, and the missing half is zeros: the size was written before the data.
    Zeroed,
}

pub const LOSSES: [Loss; 5] = [Loss::Dropped, Loss::Kept, Loss::Scattered, Loss::Torn, Loss::Zeroed];
const SECTOR: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Write(u64, Arc<Vec<u8>>),
    Allocate(u64),
    Truncate(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NameChange {
    Add(String, Inode),
    Rename(String, String, Inode),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        match self {
            NameChange::Add(name, inode) => drop(names.insert(name.clone(), *inode)),
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Remove(name) => drop(names.remove(name)),
        }
    }
}

fn apply(change: &Change, content: &mut Content) {
    match change {
        Change::Write(offset, data) => content.write(*offset, data),
        Change::Allocate(size) => content.size = content.size.max(*size),
        Change::Truncate(size) => content.resize(*size),
    }
}

/// Each change with the line at which it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File { durable: Content, pending: Vec<(usize, Change)> },
    Directory { durable: BTreeMap<String, Inode>, pending: Vec<(usize, NameChange)> },
}

impl Node {
    /// With nothing pending: what is left of it.
    fn after(&self, loss: Loss, dice: &mut StdRng) -> Node {
        match self {
            Node::File { durable, pending } => {
                let changes: Vec<&Change> = pending.iter().map(|(_, change)| change).collect();
                Node::File { durable: left(durable, &changes, loss, dice), pending: Vec::new() }
            }
            Node::Directory { durable, pending } => {
                let kept = match loss {
                    Loss::Dropped => 0,
                    Loss::Kept => pending.len(),
                    Loss::Scattered | Loss::Torn | Loss::Zeroed => dice.random_range(0..=pending.len()),
                };
                let mut names = durable.clone();
                pending[..kept].iter().for_each(|(_, change)| change.apply(&mut names));
                Node::Directory { durable: names, pending: Vec::new() }
            }
        }
    }

    /// With nothing pending: what a process that starts now finds.
    fn newest(&self) -> Node {
        // Nothing is by chance where nothing is lost.
        self.after(Loss::Kept, &mut StdRng::seed_from_u64(0))
    }
}

#[derive(Clone, Debug)]
pub struct Disk {
    nodes: Vec<Arc<Node>>,
}

impl Disk {
    pub fn new() -> Self {
        let root = Node::Directory { durable: BTreeMap::new(), pending: Vec::new() };
        Disk { nodes: vec![Arc::new(root)] }
    }

    fn change(&mut self, inode: Inode, ended: usize, change: Change) {
        if let Node::File { pending, .. } = Arc::make_mut(&mut self.nodes[inode]) {
            pending.push((ended, change));
        }
    }

    fn rename(&mut self, directory: Inode, ended: usize, change: NameChange) {
        if let Node::Directory { pending, .. } = Arc::make_mut(&mut self.nodes[directory]) {
            pending.push((ended, change));
        }
    }

    pub fn step(&mut self, step: &Step) {
        let ended = step.ended;
        match &step.action {
            Action::Create { directory, name, inode, is_directory } => {
                assert_eq!(*inode, self.nodes.len(), "steps come in order");
                self.nodes.push(Arc::new(match is_directory {
                    true => Node::Directory { durable: BTreeMap::new(), pending: Vec::new() },
                    false => Node::File { durable: Content::default(), pending: Vec::new() },
                }));
                self.rename(*directory, ended, NameChange::Add(name.clone(), *inode));
            }
            Action::Write { inode, offset, data } => {
                self.change(*inode, ended, Change::Write(*offset, Arc::clone(data)))
            }
            Action::Allocate { inode, size } => self.change(*inode, ended, Change::Allocate(*size)),
            Action::Truncate { inode, size } => self.change(*inode, ended, Change::Truncate(*size)),
            Action::Rename { directory, from, to, inode } => {
                self.rename(*directory, ended, NameChange::Rename(from.clone(), to.clone(), *inode));
            }
            Action::Remove { directory, name } => self.rename(*directory, ended, NameChange::Remove(name.clone())),
            Action::Sync { inode } => self.sync(*inode, step.began),
            Action::PowerFailure { loss, seed } => {
                let mut dice = StdRng::seed_from_u64(*seed);
                self.nodes.iter_mut().for_each(|node| *node = Arc::new(node.after(*loss, &mut dice)));
            }
        }
    }

    /// Only what had ended before the sync began is promised.
    fn sync(&mut self, inode: Inode, began: usize) {
        match Arc::make_mut(&mut self.nodes[inode]) {
            Node::File { durable, pending } => {
                let covered = pending.partition_point(|(ended, _)| *ended < began);
                pending.drain(..covered).for_each(|(_, change)| apply(&change, durable));
            }
            Node::Directory { durable, pending } => {
                let covered = pending.partition_point(|(ended, _)| *ended < began);
                pending.drain(..covered).for_each(|(_, change)| change.apply(durable));
            }
        }
    }

    /// What a process finds that starts now.
    pub fn tree(&self) -> Vec<Entry> {
        let found = self.nodes.iter().map(|node| match node.newest() {
            Node::File { durable, .. } => Entry::File { size: durable.size },
            Node::Directory { durable, .. } => Entry::Directory { names: durable },
        });
        found.collect()
    }

    /// Where that directory is not what a process would find, if it is not.
    pub fn difference(&self, directory: &Path) -> io::Result<Option<PathBuf>> {
        self.difference_of(ROOT, directory)
    }

    fn difference_of(&self, inode: Inode, found: &Path) -> io::Result<Option<PathBuf>> {
        match self.nodes[inode].newest() {
            Node::File { durable, .. } => Ok((!found.is_file() || !durable.is_in(found)?).then(|| found.to_owned())),
            Node::Directory { .. } if !found.is_dir() => Ok(Some(found.to_owned())),
            Node::Directory { durable: names, .. } => {
                for entry in std::fs::read_dir(found)? {
                    let entry = entry?;
                    if !entry.file_name().to_str().is_some_and(|name| names.contains_key(name)) {
                        return Ok(Some(entry.path()));
                    }
                }
                for (name, inode) in &names {
                    if let Some(difference) = self.difference_of(*inode, &found.join(name))? {
                        return Ok(Some(difference));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Writes into the empty directory `to` what a power failure now may leave. Answers whether anything was lost.
    pub fn store(&self, to: &Path, loss: Loss, dice: &mut StdRng) -> io::Result<bool> {
        self.store_node(ROOT, to, loss, dice)
    }

    fn store_node(&self, inode: Inode, to: &Path, loss: Loss, dice: &mut StdRng) -> io::Result<bool> {
        let node = &self.nodes[inode];
        let left = node.after(loss, dice);
        let mut has_lost = left != node.newest();
        match &left {
            Node::File { durable, .. } => durable.store(to)?,
            Node::Directory { durable: names, .. } => {
                if inode != ROOT {
                    use std::os::unix::fs::DirBuilderExt as _;
                    std::fs::DirBuilder::new().mode(0o700).create(to)?;
                }
                for (name, inode) in names {
                    has_lost |= self.store_node(*inode, &to.join(name), loss, dice)?;
                }
            }
        }
        Ok(has_lost)
    }
}

fn left(durable: &Content, pending: &[&Change], loss: Loss, dice: &mut StdRng) -> Content {
    let mut content = durable.clone();
    match loss {
        Loss::Dropped => {}
        Loss::Kept => pending.iter().for_each(|change| apply(change, &mut content)),
        Loss::Scattered => return scattered(durable, pending, dice),
        Loss::Torn | Loss::Zeroed => {
            let whole = dice.random_range(0..=pending.len());
            pending[..whole].iter().for_each(|change| apply(change, &mut content));
            if let Some(Change::Write(offset, data)) = pending.get(whole) {
                // Sectors of the disk, not of the write.
                let lead = (*offset as usize) % SECTOR;
                let sectors = (lead + data.len()).div_ceil(SECTOR);
                let kept = (dice.random_range(0..=sectors) * SECTOR).saturating_sub(lead).min(data.len());
                content.write(*offset, &data[..kept]);
                if loss == Loss::Zeroed {
                    content.size = content.size.max(offset + data.len() as u64);
                }
            }
        }
    }
    content
}

/// A journal keeps what it says of sizes in order, and no file system brings back what a truncation took: a page comes from
/// between the last truncation that reached it and the moment of the loss.
fn scattered(durable: &Content, pending: &[&Change], dice: &mut StdRng) -> Content {
    let newest = dice.random_range(0..=pending.len());
    let mut moments = vec![durable.clone()];
    let mut touched = BTreeSet::new();
    let mut truncations = Vec::new();
    for (number, change) in pending[..newest].iter().enumerate() {
        let before = &moments[number];
        let mut after = before.clone();
        apply(change, &mut after);
        match change {
            Change::Write(offset, data) => touched.extend(offset / PAGE..(offset + data.len() as u64).div_ceil(PAGE)),
            Change::Truncate(size) => {
                touched.extend(before.pages.range(size / PAGE..).map(|(page, _)| *page));
                truncations.push((number + 1, *size));
            }
            Change::Allocate(_) => {}
        }
        moments.push(after);
    }
    let mut moment = |since: usize| &moments[dice.random_range(since..=newest)];
    let mut content = durable.clone();
    for page in touched {
        let reached = truncations.iter().rev().find(|(_, size)| size / PAGE <= page);
        match moment(reached.map_or(0, |(number, _)| *number)).pages.get(&page) {
            Some(bytes) => drop(content.pages.insert(page, Arc::clone(bytes))),
            None => drop(content.pages.remove(&page)),
        }
    }
    let size = moment(truncations.last().map_or(0, |(number, _)| *number)).size;
    // What is beyond the end is gone, not hidden.
    content.size = u64::MAX;
    content.resize(size);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(began: usize, ended: usize, action: Action) -> Step {
        Step { action, began, ended, at: 0, path: String::new() }
    }

    fn stored(disk: &Disk, loss: Loss, seed: u64) -> BTreeMap<String, Vec<u8>> {
        let directory = tempfile::tempdir().expect("a directory");
        disk.store(directory.path(), loss, &mut StdRng::seed_from_u64(seed)).expect("stored");
        let entries = std::fs::read_dir(directory.path()).expect("readable").flatten();
        entries
            .map(|entry| {
                (entry.file_name().into_string().expect("UTF-8"), std::fs::read(entry.path()).expect("a file"))
            })
            .collect()
    }

    fn written(inode: Inode, offset: u64, text: &str) -> Action {
        Action::Write { inode, offset, data: Arc::new(text.into()) }
    }

    fn disk(steps: &[Step]) -> Disk {
        let mut disk = Disk::new();
        steps.iter().for_each(|step| disk.step(step));
        disk
    }

    fn file(text: &str) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([("a".to_owned(), text.into())])
    }

    #[test]
    fn only_what_ended_before_a_sync_began_is_durable() {
        let create = Action::Create { directory: ROOT, name: "a".to_owned(), inode: 1, is_directory: false };
        let mut steps = vec![step(1, 1, create), step(2, 2, written(1, 0, "one"))];
        assert_eq!(stored(&disk(&steps), Loss::Dropped, 0), BTreeMap::new());
        assert_eq!(stored(&disk(&steps), Loss::Kept, 0), file("one"));
        steps.push(step(3, 5, Action::Sync { inode: ROOT }));
        assert_eq!(stored(&disk(&steps), Loss::Dropped, 0), file(""));
        // Ended while the sync was under way.
        steps.extend([step(4, 7, written(1, 3, "two")), step(6, 8, Action::Sync { inode: 1 })]);
        assert_eq!(stored(&disk(&steps), Loss::Dropped, 0), file("one"));
        assert_eq!(stored(&disk(&steps), Loss::Kept, 0), file("onetwo"));
    }

    #[test]
    fn whatever_is_lost_what_was_synced_is_there() {
        let create = Action::Create { directory: ROOT, name: "a".to_owned(), inode: 1, is_directory: false };
        let long = "x".repeat(3 * PAGE as usize);
        let disk = disk(&[
            step(1, 1, create),
            step(2, 2, written(1, 0, "synced")),
            step(3, 3, Action::Sync { inode: 1 }),
            step(4, 4, Action::Sync { inode: ROOT }),
            step(5, 5, written(1, 6, &long)),
            step(6, 6, written(1, 6 + long.len() as u64, "end")),
        ]);
        for loss in LOSSES {
            let mut lengths = BTreeSet::new();
            for seed in 0..50 {
                let content = stored(&disk, loss, seed).remove("a").expect("its name was synced");
                assert_eq!(&content[..6], b"synced", "{loss:?} {seed}");
                lengths.insert(content.len());
            }
            let is_chance = matches!(loss, Loss::Torn | Loss::Zeroed | Loss::Scattered);
            assert_eq!(lengths.len() > 1, is_chance, "{loss:?}: {lengths:?}");
        }
    }

    #[test]
    fn a_directory_that_is_not_what_was_recorded_is_told_from_one_that_is() {
        let create = |name: &str, inode, is_directory| Action::Create {
            directory: ROOT,
            name: name.to_owned(),
            inode,
            is_directory,
        };
        let steps =
            [step(1, 1, create("a", 1, false)), step(2, 2, written(1, 0, "one")), step(3, 3, create("b", 2, true))];
        let disk = disk(&steps);
        let directory = tempfile::tempdir().expect("a directory");
        let (root, mut dice) = (directory.path(), StdRng::seed_from_u64(0));
        disk.store(root, Loss::Kept, &mut dice).expect("stored");
        assert_eq!(disk.difference(root).expect("readable"), None);
        std::fs::write(root.join("b/c"), "").expect("written");
        assert_eq!(disk.difference(root).expect("readable"), Some(root.join("b/c")));
        std::fs::remove_dir_all(root.join("b")).expect("removed");
        assert_eq!(disk.difference(root).expect("readable"), Some(root.join("b")));
        std::fs::write(root.join("a"), "two").expect("written");
        assert_eq!(disk.difference(root).expect("readable"), Some(root.join("a")));
    }

    #[test]
    fn what_a_truncation_took_is_not_mixed_with_what_came_later() {
        let mut durable = Content::default();
        durable.write(0, &[b'o'; 2 * PAGE as usize]);
        let pending = [Change::Truncate(0), Change::Write(0, Arc::new(vec![b'n'; 2 * PAGE as usize]))];
        let pending: Vec<&Change> = pending.iter().collect();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let content = scattered(&durable, &pending, &mut StdRng::seed_from_u64(seed));
            let bytes: BTreeSet<u8> = content.pages.values().flat_map(|page| page.iter().copied()).collect();
            assert!(!(bytes.contains(&b'o') && bytes.contains(&b'n')), "old and new bytes at once");
            seen.insert((content.size, bytes));
        }
        assert!(seen.len() >= 3, "{seen:?}");
    }
}
