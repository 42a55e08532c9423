//! From calls to steps: what was done to which file or directory below one root. Descriptors, paths and positions end here.
//!
//! Anything that would change a file in a way this does not follow is an error, not a silence: a shared writable mapping, a
//! copy within the kernel, a hard link, io_uring.

use crate::disk::Loss;
use crate::trace::{Argument, Call, Micros};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A file or directory, whatever it is called. The root is the first.
pub type Inode = usize;
pub const ROOT: Inode = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Create,
    Write,
    Allocate,
    Truncate,
    Sync,
    Rename,
    Remove,
    PowerFailure,
}

#[derive(Clone, Debug)]
pub enum Action {
    Create {
        directory: Inode,
        name: String,
        inode: Inode,
        is_directory: bool,
    },
    Write {
        inode: Inode,
        offset: u64,
        data: Arc<Vec<u8>>,
    },
    /// `fallocate`, which never shortens.
    Allocate {
        inode: Inode,
        size: u64,
    },
    Truncate {
        inode: Inode,
        size: u64,
    },
    /// Of a file or a directory.
    Sync {
        inode: Inode,
    },
    Rename {
        directory: Inode,
        from: String,
        to: String,
        inode: Inode,
    },
    Remove {
        directory: Inode,
        name: String,
    },
    /// The next life begins with what this one left.
    PowerFailure {
        loss: Loss,
        seed: u64,
    },
}

impl Action {
    pub fn kind(&self) -> Kind {
        match self {
            Action::Create { .. } => Kind::Create,
            Action::Write { .. } => Kind::Write,
            Action::Allocate { .. } => Kind::Allocate,
            Action::Truncate { .. } => Kind::Truncate,
            Action::Sync { .. } => Kind::Sync,
            Action::Rename { .. } => Kind::Rename,
            Action::Remove { .. } => Kind::Remove,
            Action::PowerFailure { .. } => Kind::PowerFailure,
        }
    }
}

/// What an inode is, as a process finds it.
pub enum Entry {
    File { size: u64 },
    Directory { names: BTreeMap<String, Inode> },
}

#[derive(Clone, Debug)]
pub struct Step {
    pub action: Action,
    pub began: usize,
    pub ended: usize,
    pub at: Micros,
    /// For people: whose it was when it was made.
    pub path: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{call:.300}: {why}")]
pub struct NotFollowed {
    call: String,
    why: &'static str,
}

#[derive(Clone, Copy)]
struct Open {
    inode: Inode,
    position: u64,
    appends: bool,
}

/// What is where, as the running process sees it.
pub struct Recorder {
    root: String,
    /// Names in directories; files have none.
    entries: Vec<Option<BTreeMap<String, Inode>>>,
    sizes: Vec<u64>,
    paths: Vec<String>,
    /// Of the life being read. Duplicates share a place in `opens`.
    descriptors: HashMap<i64, usize>,
    opens: Vec<Open>,
    pub steps: Vec<Step>,
}

impl Recorder {
    /// `root` is an absolute path, and what it names was empty when the first life began.
    pub fn new(root: &str) -> Self {
        Recorder {
            root: root.to_owned(),
            entries: vec![Some(BTreeMap::new())],
            sizes: vec![0],
            paths: vec![String::new()],
            descriptors: HashMap::new(),
            opens: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// One life of the process, after those before.
    pub fn record(&mut self, calls: &[Call]) -> Result<(), NotFollowed> {
        self.descriptors.clear();
        // A descriptor is free when its close begins, and taken when the open ends; data counts from when its call ended.
        let mut events: Vec<(usize, bool, usize)> = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            events.push((call.began, false, number));
            events.push((call.ended, true, number));
        }
        events.sort_unstable();
        let mut used = HashMap::new();
        for (_, has_ended, number) in events {
            let call = &calls[number];
            let failed = |why| NotFollowed { call: format!("{call:?}"), why };
            if !has_ended {
                if let Some(Argument::Number(descriptor)) = call.arguments.first() {
                    let place = if call.name == "close" {
                        self.descriptors.remove(descriptor)
                    } else {
                        self.descriptors.get(descriptor).copied()
                    };
                    place.and_then(|place| used.insert(number, place));
                }
                if call.name == "io_uring_setup" {
                    return Err(failed("io_uring is not traced"));
                }
            } else {
                self.ended(call, used.remove(&number)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Between two lives. What it has left is to be adopted.
    pub fn power_failure(&mut self, loss: Loss, seed: u64, line: usize, at: Micros) -> &Step {
        let action = Action::PowerFailure { loss, seed };
        self.steps.push(Step { action, began: line, ended: line, at, path: String::new() });
        &self.steps[self.steps.len() - 1]
    }

    /// Goes on with what the next life finds on the disk: a power failure has taken some of what the last one had.
    pub fn adopt(&mut self, tree: &[Entry]) {
        for (inode, entry) in tree.iter().enumerate() {
            match entry {
                Entry::File { size } => self.sizes[inode] = *size,
                Entry::Directory { names } => self.entries[inode] = Some(names.clone()),
            }
        }
    }

    fn step(&mut self, call: &Call, inode: Inode, action: Action) {
        let path = self.paths[inode].clone();
        self.steps.push(Step { action, began: call.began, ended: call.ended, at: call.at, path });
    }

    fn ended(&mut self, call: &Call, place: Option<usize>) -> Result<(), &'static str> {
        let text = |index: usize| match call.arguments.get(index) {
            Some(Argument::Text(bytes)) => String::from_utf8(bytes.clone()).map_err(|_| "a path that is not UTF-8"),
            _ => Err("a path is missing"),
        };
        let number = |index: usize| match call.arguments.get(index) {
            Some(Argument::Number(number)) => Ok(*number),
            _ => Err("a number is missing"),
        };
        let word = |index: usize| match call.arguments.get(index) {
            Some(Argument::Word(word)) => word.as_str(),
            _ => "",
        };
        let bytes = |index: usize| match call.arguments.get(index) {
            Some(Argument::Text(bytes) | Argument::Vector(bytes)) => {
                let written = bytes.get(..call.result as usize).ok_or("fewer bytes than were written")?;
                Ok(Arc::new(written.to_vec()))
            }
            _ => Err("the bytes are missing"),
        };
        let place_of_at = |at: usize| if word(at) == "AT_FDCWD" { None } else { place };
        match call.name.as_str() {
            "open" | "creat" => return self.opened(call, None, &text(0)?, word(1)),
            "openat" => return self.opened(call, place_of_at(0), &text(1)?, word(2)),
            "mkdir" => return self.created(call, None, &text(0)?, true).map(drop),
            "mkdirat" => return self.created(call, place_of_at(0), &text(1)?, true).map(drop),
            "unlink" | "rmdir" => return self.removed(call, None, &text(0)?),
            "unlinkat" => return self.removed(call, place_of_at(0), &text(1)?),
            "rename" => return self.renamed(call, &text(0)?, &text(1)?),
            "renameat" | "renameat2" => {
                return match (word(0), word(2)) {
                    ("AT_FDCWD", "AT_FDCWD") => self.renamed(call, &text(1)?, &text(3)?),
                    _ => Err("renamed in an open directory"),
                };
            }
            "link" | "symlink" if self.is_below(&text(0)?) || self.is_below(&text(1)?) => return Err("a link"),
            "linkat" | "symlinkat" => return Err("a link"),
            "truncate" if self.is_below(&text(0)?) => return Err("truncated by path"),
            "mmap" => {
                let is_shared = word(3).contains("MAP_SHARED") && word(2).contains("PROT_WRITE");
                let descriptor = number(4).unwrap_or(-1);
                return match self.descriptors.contains_key(&descriptor) && is_shared {
                    true => Err("written through a mapping"),
                    false => Ok(()),
                };
            }
            // Not where descriptors come first, so that it is looked up here.
            "sendfile" | "splice" | "copy_file_range" => {
                let out = number(if call.name == "sendfile" { 0 } else { 2 })?;
                return if self.descriptors.contains_key(&out) { Err("copied by the kernel") } else { Ok(()) };
            }
            _ => {}
        }
        let Some(place) = place else { return Ok(()) };
        let Open { inode, position, appends } = self.opens[place];
        let action = match call.name.as_str() {
            "write" | "writev" => {
                let offset = if appends { self.sizes[inode] } else { position };
                self.opens[place].position = offset + call.result as u64;
                Action::Write { inode, offset, data: bytes(1)? }
            }
            "pwrite64" => Action::Write { inode, offset: number(3)? as u64, data: bytes(1)? },
            "pwritev" | "pwritev2" => Action::Write { inode, offset: number(3)? as u64, data: bytes(1)? },
            "ftruncate" => Action::Truncate { inode, size: number(1)? as u64 },
            // Mode 0 is written as a number, others as words.
            "fallocate" => match call.arguments.get(1) {
                Some(Argument::Number(0)) => Action::Allocate { inode, size: (number(2)? + number(3)?) as u64 },
                Some(Argument::Word(mode)) if mode == "FALLOC_FL_KEEP_SIZE" => return Ok(()),
                _ => return Err("holes are not followed"),
            },
            "fsync" | "fdatasync" | "syncfs" => Action::Sync { inode },
            "lseek" => {
                self.opens[place].position = call.result as u64;
                return Ok(());
            }
            "dup" | "dup2" | "dup3" => {
                self.descriptors.insert(call.result, place);
                return Ok(());
            }
            "fcntl" => {
                if word(1).starts_with("F_DUPFD") {
                    self.descriptors.insert(call.result, place);
                } else if word(1) == "F_SETFL" {
                    self.opens[place].appends = word(2).contains("O_APPEND");
                }
                return Ok(());
            }
            // Makes nothing durable.
            "close" | "sync_file_range" => return Ok(()),
            _ => return Err("a call that is not followed"),
        };
        match &action {
            Action::Write { offset, data, .. } => {
                self.sizes[inode] = self.sizes[inode].max(offset + data.len() as u64);
            }
            Action::Allocate { size, .. } => self.sizes[inode] = self.sizes[inode].max(*size),
            Action::Truncate { size, .. } => self.sizes[inode] = *size,
            _ => {}
        }
        self.step(call, inode, action);
        Ok(())
    }

    fn is_below(&self, path: &str) -> bool {
        path.strip_prefix(&self.root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The directory that a path's last name is in, and that name. Nothing for paths elsewhere, and for the root.
    fn split(&self, base: Option<usize>, path: &str) -> Result<Option<(Inode, String)>, &'static str> {
        let (mut directory, rest) = match (base, path.strip_prefix('/')) {
            (Some(place), None) => (self.opens[place].inode, path),
            // Relative to where the process began, which is not below the root.
            (None, None) => return Ok(None),
            (_, Some(_)) if !self.is_below(path) => return Ok(None),
            (_, Some(_)) => (ROOT, path.get(self.root.len()..).unwrap_or_default()),
        };
        let mut names: Vec<&str> = rest.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
        if names.contains(&"..") {
            return Err("a path that goes up");
        }
        let Some(last) = names.pop() else { return Ok(None) };
        for name in names {
            let entries = self.entries[directory].as_ref().ok_or("a file is used as a directory")?;
            directory = *entries.get(name).ok_or("a directory that was never made")?;
        }
        Ok(Some((directory, last.to_owned())))
    }

    fn names(&mut self, directory: Inode) -> Result<&mut BTreeMap<String, Inode>, &'static str> {
        self.entries[directory].as_mut().ok_or("a file is used as a directory")
    }

    fn opened(&mut self, call: &Call, base: Option<usize>, path: &str, flags: &str) -> Result<(), &'static str> {
        // Whatever the number stood for, it was closed.
        self.descriptors.remove(&call.result);
        let creates = call.name == "creat" || flags.contains("O_CREAT");
        let inode = match self.split(base, path)? {
            None if path.trim_end_matches('/') == self.root => ROOT,
            None => return Ok(()),
            Some((directory, name)) => match self.names(directory)?.get(&name) {
                Some(inode) => *inode,
                None if creates => self.created(call, base, path, false)?.ok_or("created nowhere")?,
                None => return Err("a file that was never made"),
            },
        };
        if (call.name == "creat" || flags.contains("O_TRUNC")) && self.sizes[inode] > 0 {
            self.sizes[inode] = 0;
            self.step(call, inode, Action::Truncate { inode, size: 0 });
        }
        self.descriptors.insert(call.result, self.opens.len());
        self.opens.push(Open { inode, position: 0, appends: flags.contains("O_APPEND") });
        Ok(())
    }

    fn created(
        &mut self,
        call: &Call,
        base: Option<usize>,
        path: &str,
        is_directory: bool,
    ) -> Result<Option<Inode>, &'static str> {
        let Some((directory, name)) = self.split(base, path)? else { return Ok(None) };
        let inode = self.entries.len();
        self.names(directory)?.insert(name.clone(), inode);
        self.entries.push(is_directory.then(BTreeMap::new));
        self.sizes.push(0);
        self.paths.push(format!("{}/{name}", self.paths[directory]));
        self.step(call, inode, Action::Create { directory, name, inode, is_directory });
        Ok(Some(inode))
    }

    fn removed(&mut self, call: &Call, base: Option<usize>, path: &str) -> Result<(), &'static str> {
        let Some((directory, name)) = self.split(base, path)? else { return Ok(()) };
        let inode = self.names(directory)?.remove(&name).ok_or("something was removed that was never made")?;
        self.step(call, inode, Action::Remove { directory, name });
        Ok(())
    }

    fn renamed(&mut self, call: &Call, from: &str, to: &str) -> Result<(), &'static str> {
        let (from, to) = match (self.split(None, from)?, self.split(None, to)?) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return Ok(()),
            _ => return Err("renamed into or out of the root"),
        };
        if from.0 != to.0 {
            return Err("renamed from one directory into another");
        }
        let names = self.names(from.0)?;
        let inode = names.remove(&from.1).ok_or("something was renamed that was never made")?;
        names.insert(to.1.clone(), inode);
        self.step(call, inode, Action::Rename { directory: from.0, from: from.1, to: to.1, inode });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::parse;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// Words in single quotes become strings as strace writes them.
    fn record(lines: &[&str]) -> Result<Vec<Step>, NotFollowed> {
        let mut text = String::new();
        for line in lines {
            let quoted: String = line
                .split('\'')
                .enumerate()
                .map(|(number, part)| if number % 2 == 1 { format!("\"{}\"", hex(part)) } else { part.to_owned() })
                .collect();
            text.push_str(&format!("1 1.000001 {quoted}\n"));
        }
        let mut recorder = Recorder::new("/r");
        recorder.record(&parse(&text, 0).expect("understood"))?;
        Ok(recorder.steps)
    }

    #[test]
    fn positions_follow_writes_and_seeks_and_files_elsewhere_are_nobodys_business() {
        let steps = record(&[
            "openat(AT_FDCWD, '/elsewhere', O_WRONLY|O_CREAT, 0600) = 3",
            "write(3, 'no', 2) = 2",
            "openat(AT_FDCWD, '/r/a', O_WRONLY|O_CREAT, 0600) = 4",
            "write(4, 'abc', 3) = 3",
            "fcntl(4, F_DUPFD_CLOEXEC, 3) = 5",
            "write(5, 'de', 2) = 2",
            "lseek(4, 1, SEEK_SET) = 1",
            "write(4, 'x', 1) = 1",
        ])
        .expect("followed");
        let offsets: Vec<u64> = steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Write { offset, .. } => Some(*offset),
                _ => None,
            })
            .collect();
        assert_eq!(offsets, [0, 3, 1]);
    }

    #[test]
    fn a_directory_that_was_renamed_is_where_it_is_now() {
        let steps = record(&[
            "mkdir('/r/a', 0700) = 0",
            "rename('/r/a', '/r/b') = 0",
            "openat(AT_FDCWD, '/r/b', O_RDONLY|O_DIRECTORY) = 3",
            "openat(3, 'c', O_WRONLY|O_CREAT|O_TRUNC, 0600) = 4",
            "unlinkat(3, 'c', 0) = 0",
            "fsync(3) = 0",
        ])
        .expect("followed");
        let kinds: Vec<Kind> = steps.iter().map(|step| step.action.kind()).collect();
        assert_eq!(kinds, [Kind::Create, Kind::Rename, Kind::Create, Kind::Remove, Kind::Sync]);
        assert!(matches!(&steps[4].action, Action::Sync { inode: 1 }));
    }

    #[test]
    fn what_is_not_followed_is_an_error() {
        let open = "openat(AT_FDCWD, '/r/a', O_RDWR|O_CREAT, 0600) = 4";
        assert!(record(&[open, "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4, 0) = 0x7f0000000000"]).is_err());
        assert!(record(&[open, "mmap(NULL, 4096, PROT_READ, MAP_SHARED, 4, 0) = 0x7f0000000000"]).is_ok());
        assert!(record(&[open, "copy_file_range(9, NULL, 4, NULL, 10, 0) = 10"]).is_err());
        assert!(record(&["link('/r/a', '/r/b') = 0"]).is_err());
    }
}
