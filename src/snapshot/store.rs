//! The directory of portable snapshots, `snap/`.
//!
//! ```text
//!   take()    ─▶ 000…03-000…0c.cast.0.tmp ─(rows)────────────▶ sync ─▶ rename ─▶ sync the directory
//!   receive() ─▶ 000…03-000…0c.cast.1.tmp ─(bytes, verify)───▶    the same
//!   newest_sound() ─▶ first that verifies; broken ones ─▶ *.broken
//! ```
//! A file with its final name is complete and on disk. Left-over `.tmp` files are removed when the store is opened;
//! broken ones are kept for whoever wants to know what happened. When to do any of this is the Snapshotter's decision; what
//! other members send comes in by `peer::reception`.

use super::format::{SnapshotError, SnapshotReader, SnapshotWriter, Summary, failed};
use crate::ids::LogIndex;
use crate::raft::terms::LogPosition;
use castd_proto::castdpb::SnapshotHeader;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const EXTENSION: &str = "cast";
const BUFFER_BYTES: usize = 256 << 10;

/// A snapshot with its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Of the last log entry it contains, by its name.
    pub position: LogPosition,
    pub path: PathBuf,
    pub bytes: u64,
}

impl SnapshotFile {
    /// The one at `position` in `dir`, if it is there.
    ///
    /// # Errors
    /// [`SnapshotError::Io`], also when it is not.
    pub fn at(dir: &Path, position: LogPosition) -> Result<Self, SnapshotError> {
        let path = dir.join(file_name(position));
        let bytes = fs::metadata(&path).map_err(failed("look at"))?.len();
        Ok(SnapshotFile { position, path, bytes })
    }

    /// `{term:016x}-{index:016x}.cast`, also used to name a pending install in the log.
    pub fn name(&self) -> String {
        file_name(self.position)
    }

    /// Opens it for reading its rows.
    ///
    /// # Errors
    /// [`SnapshotError::Unexpected`] if the header names another position than the file.
    pub fn open(&self) -> Result<SnapshotReader<BufReader<File>>, SnapshotError> {
        let file = File::open(&self.path).map_err(failed("open"))?;
        let reader = SnapshotReader::open(BufReader::with_capacity(BUFFER_BYTES, file))?;
        expect_position(self.position, reader.header())?;
        Ok(reader)
    }

    /// Opens it for sending its bytes.
    pub fn open_raw(&self) -> Result<File, SnapshotError> {
        File::open(&self.path).map_err(failed("open"))
    }

    /// Reads all of it.
    pub fn verify(&self) -> Result<(SnapshotHeader, Summary), SnapshotError> {
        self.open()?.verify()
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
}

/// Makes the names of unfinished files unique: one may be taken while another of the same position arrives.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

impl SnapshotStore {
    /// Opens the directory, creating it for the owner only, and removes what an earlier process left unfinished.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        let dir = dir.into();
        if !dir.is_dir() {
            DirBuilder::new().mode(0o700).recursive(true).create(&dir).map_err(failed("create the directory of"))?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_directory(parent)?;
            }
        }
        for item in fs::read_dir(&dir).map_err(failed("list"))? {
            let path = item.map_err(failed("list"))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(failed("remove an unfinished file of"))?;
            }
        }
        Ok(Self { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Newest first.
    pub fn list(&self) -> Result<Vec<SnapshotFile>, SnapshotError> {
        let mut files = Vec::new();
        for item in fs::read_dir(&self.dir).map_err(failed("list"))? {
            let path = item.map_err(failed("list"))?.path();
            let Some(position) = position_of(&path) else { continue };
            let bytes = fs::metadata(&path).map_err(failed("look at"))?.len();
            files.push(SnapshotFile { position, path, bytes });
        }
        files.sort_by_key(|file| std::cmp::Reverse(file.position));
        Ok(files)
    }

    /// The one of this name, as [`SnapshotFile::name`] gives it.
    pub fn find(&self, name: &str) -> Result<Option<SnapshotFile>, SnapshotError> {
        Ok(self.list()?.into_iter().find(|file| file.name() == name))
    }

    /// The newest of those whose position is `wanted` that is sound to its last byte. Newer ones that are not are set aside.
    pub fn newest_sound(
        &self,
        wanted: impl Fn(LogPosition) -> bool,
    ) -> Result<Option<(SnapshotFile, SnapshotHeader)>, SnapshotError> {
        for file in self.list()?.into_iter().filter(|file| wanted(file.position)) {
            match file.verify() {
                Ok((header, _)) => return Ok(Some((file, header))),
                Err(error @ (SnapshotError::Io { .. } | SnapshotError::NewerFormat { .. })) => return Err(error),
                Err(_) => self.set_aside(&file).map(drop)?,
            }
        }
        Ok(None)
    }

    /// Renames a broken one to `.broken`, where nobody takes it for a snapshot. Answers its new path.
    pub fn set_aside(&self, file: &SnapshotFile) -> Result<PathBuf, SnapshotError> {
        let mut path = OsString::from(&file.path);
        path.push(".broken");
        fs::rename(&file.path, &path).map_err(failed("set aside"))?;
        sync_directory(&self.dir)?;
        Ok(path.into())
    }

    /// Removes all up to `upto` but the newest `keep` of them. Those above are of other members, and whether they will be
    /// needed is not known yet. Who has one open can still read it. Answers what was removed.
    pub fn keep(&self, keep: usize, upto: LogIndex) -> Result<Vec<SnapshotFile>, SnapshotError> {
        let files = self.list()?.into_iter().filter(|file| file.position.index <= upto);
        let superfluous: Vec<_> = files.skip(keep).collect();
        for file in &superfluous {
            fs::remove_file(&file.path).map_err(failed("remove"))?;
        }
        if !superfluous.is_empty() {
            sync_directory(&self.dir)?;
        }
        Ok(superfluous)
    }

    /// Begins a snapshot of our own, at the position its header names.
    pub fn take(&self, header: &SnapshotHeader) -> Result<Taking, SnapshotError> {
        let unfinished = self.unfinished(LogPosition::new(header.index, header.term))?;
        let file = unfinished.file.try_clone().map_err(failed("create"))?;
        let writer = SnapshotWriter::create(BufWriter::with_capacity(BUFFER_BYTES, file), header)?;
        Ok(Taking { writer, unfinished })
    }

    /// Begins one that another member sends. `bytes_max` is what its sender announced, or the operator's limit.
    pub fn receive(&self, position: LogPosition, bytes_max: u64) -> Result<Incoming, SnapshotError> {
        Ok(Incoming { unfinished: self.unfinished(position)?, bytes: 0, bytes_max })
    }

    fn unfinished(&self, position: LogPosition) -> Result<Unfinished, SnapshotError> {
        let name = file_name(position);
        let temporary = self.dir.join(format!("{name}.{}.tmp", UNFINISHED.fetch_add(1, Ordering::Relaxed)));
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        let file = options.map_err(failed("create"))?;
        Ok(Unfinished { file, position, temporary, path: self.dir.join(name), finished: false })
    }
}

/// A file without its final name. Dropped, it is gone.
#[derive(Debug)]
struct Unfinished {
    file: File,
    position: LogPosition,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl Unfinished {
    fn publish(mut self, bytes: u64) -> Result<SnapshotFile, SnapshotError> {
        self.file.sync_all().map_err(failed("sync"))?;
        fs::rename(&self.temporary, &self.path).map_err(failed("rename"))?;
        self.finished = true;
        sync_directory(self.path.parent().unwrap_or(&self.path))?;
        Ok(SnapshotFile { position: self.position, path: self.path.clone(), bytes })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // If it cannot be removed now, the next start does it.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A snapshot of our own being written.
pub struct Taking {
    writer: SnapshotWriter<BufWriter<File>>,
    unfinished: Unfinished,
}

impl Taking {
    /// For the rows.
    pub fn writer(&mut self) -> &mut SnapshotWriter<BufWriter<File>> {
        &mut self.writer
    }

    /// On disk under its final name when this returns.
    pub fn finish(self) -> Result<(SnapshotFile, Summary), SnapshotError> {
        let (_, summary) = self.writer.finish()?;
        let file = self.unfinished.publish(summary.bytes)?;
        Ok((file, summary))
    }
}

/// A snapshot of another member arriving.
#[derive(Debug)]
pub struct Incoming {
    unfinished: Unfinished,
    bytes: u64,
    bytes_max: u64,
}

impl Incoming {
    /// The next bytes of the file, however they were cut into messages.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(SnapshotError::Unexpected { detail: format!("longer than {} bytes", self.bytes_max) });
        }
        self.unfinished.file.write_all(bytes).map_err(failed("write"))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what arrived from the beginning, and believes it if all of it is sound.
    ///
    /// # Errors
    /// When it is damaged, incomplete, or of another position.
    pub fn verify(mut self) -> Result<Arrived, SnapshotError> {
        let file = &mut self.unfinished.file;
        file.seek(SeekFrom::Start(0)).map_err(failed("read"))?;
        let reader = SnapshotReader::open(BufReader::with_capacity(BUFFER_BYTES, &*file))?;
        let (header, summary) = reader.verify()?;
        expect_position(self.unfinished.position, &header)?;
        Ok(Arrived { unfinished: self.unfinished, header, summary })
    }
}

/// All of a snapshot of another member, found sound.
#[derive(Debug)]
pub struct Arrived {
    unfinished: Unfinished,
    header: SnapshotHeader,
    summary: Summary,
}

impl Arrived {
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// On disk under its final name when this returns.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn publish(self) -> Result<SnapshotFile, SnapshotError> {
        self.unfinished.publish(self.summary.bytes)
    }
}

fn expect_position(named: LogPosition, header: &SnapshotHeader) -> Result<(), SnapshotError> {
    let found = LogPosition::new(header.index, header.term);
    if found == named {
        return Ok(());
    }
    let detail = format!("index {} of term {}, not {} of {}", found.index, found.term, named.index, named.term);
    Err(SnapshotError::Unexpected { detail })
}

/// Name of the file of a snapshot at `position`.
pub fn file_name(position: LogPosition) -> String {
    format!("{:016x}-{:016x}.{EXTENSION}", position.term.0, position.index.0)
}

fn position_of(path: &Path) -> Option<LogPosition> {
    let name = path.file_name()?.to_str()?;
    let (term, index) = name.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
    let position = LogPosition::new(u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(term, 16).ok()?);
    (file_name(position) == name && path.is_file()).then_some(position)
}

fn sync_directory(dir: &Path) -> Result<(), SnapshotError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the directory of"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_backend_api::Table;

    fn header(index: u64, term: u64) -> SnapshotHeader {
        SnapshotHeader { format: 1, index, term, ..SnapshotHeader::default() }
    }

    fn take(store: &SnapshotStore, index: u64, term: u64) -> SnapshotFile {
        let mut taking = store.take(&header(index, term)).unwrap();
        for row in 0..index {
            taking.writer().row(Table::Kv, &row.to_be_bytes(), &[7; 50]).unwrap();
        }
        let (file, summary) = taking.finish().unwrap();
        assert_eq!(summary.rows, index);
        file
    }

    fn names(store: &SnapshotStore) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(store.dir()).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn positions(files: &[SnapshotFile]) -> Vec<(u64, u64)> {
        files.iter().map(|file| (file.position.term.0, file.position.index.0)).collect()
    }

    #[test]
    fn the_newest_are_kept_and_listed_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path().join("member/snap")).unwrap();
        for (index, term) in [(10, 1), (300, 2), (40, 2), (500, 11)] {
            take(&store, index, term);
        }
        assert_eq!(positions(&store.list().unwrap()), [(11, 500), (2, 300), (2, 40), (1, 10)]);
        assert_eq!(positions(&store.keep(2, LogIndex(499)).unwrap()), [(1, 10)], "those above do not count");
        assert_eq!(positions(&store.keep(2, LogIndex(500)).unwrap()), [(2, 40)]);
        assert_eq!(names(&store), ["0000000000000002-000000000000012c.cast", "000000000000000b-00000000000001f4.cast"]);
        let found = store.find("0000000000000002-000000000000012c.cast").unwrap().unwrap();
        assert_eq!(found.verify().unwrap().1.rows, 300);
        assert!(store.find("0000000000000009-000000000000012c.cast").unwrap().is_none());
    }

    #[test]
    fn the_unfinished_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path()).unwrap();
        drop(store.take(&header(3, 1)).unwrap());
        drop(store.receive(LogPosition::new(3, 1), 100).unwrap());
        assert!(names(&store).is_empty());
        let orphan = dir.path().join("0000000000000001-0000000000000003.cast.0.tmp");
        fs::write(&orphan, "torn").unwrap();
        assert!(store.list().unwrap().is_empty());
        let store = SnapshotStore::open(dir.path()).unwrap();
        assert!(names(&store).is_empty());
    }

    #[test]
    fn a_broken_one_is_set_aside_and_the_one_before_it_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path()).unwrap();
        take(&store, 10, 1);
        let newer = take(&store, 20, 1);
        let mut bytes = fs::read(&newer.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&newer.path, bytes).unwrap();
        let (sound, found) = store.newest_sound(|_| true).unwrap().unwrap();
        assert_eq!((sound.position, found), (LogPosition::new(10, 1), header(10, 1)));
        assert!(names(&store).contains(&"0000000000000001-0000000000000014.cast.broken".into()));
        fs::rename(&sound.path, dir.path().join(file_name(LogPosition::new(11, 1)))).unwrap();
        assert!(store.newest_sound(|_| true).unwrap().is_none(), "its name lies");
    }

    #[test]
    fn what_another_member_sends_is_published_only_if_it_is_sound() {
        let dir = tempfile::tempdir().unwrap();
        let leader = SnapshotStore::open(dir.path().join("leader")).unwrap();
        let follower = SnapshotStore::open(dir.path().join("follower")).unwrap();
        let sent = take(&leader, 2000, 3);
        let bytes = fs::read(&sent.path).unwrap();
        let send = |bytes: &[u8], position| {
            let mut incoming = follower.receive(position, sent.bytes)?;
            bytes.chunks(1000).try_for_each(|part| incoming.write(part))?;
            incoming.verify()
        };
        assert!(send(&bytes[..bytes.len() - 1], sent.position).is_err());
        assert!(send(&[&bytes[..], &[0]].concat(), sent.position).is_err());
        assert!(send(&bytes, LogPosition::new(2001, 3)).is_err());
        drop(send(&bytes, sent.position).unwrap());
        assert!(names(&follower).is_empty(), "sound, but not wanted");
        let arrived = send(&bytes, sent.position).unwrap();
        assert_eq!((arrived.header(), arrived.summary().rows), (&header(2000, 3), 2000));
        let file = arrived.publish().unwrap();
        assert_eq!(file.bytes, sent.bytes);
        assert_eq!(fs::read(file.path).unwrap(), bytes);
    }
}
