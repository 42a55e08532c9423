//! Looks at raft-engine's files before raft-engine does.
//!
//! ```text
//!   file   │ header │ batch 1 │ batch 2 │ batch 3 │ batch 4 …│ zeros
//!   batch  │ length, offset of footer │ entries, CRC │ footer: indexes, key-values, CRC ^ file number │
//! ```
//! raft-engine drops everything behind a damaged batch of its newest file and says so in a log line at most. That is
//! right for a write that a crash tore, and wrong for one that had been synced and rotted later: a member must not
//! forget what it has acknowledged. Each of our batches says which ones were synced before it ([`StateRecord::synced`]),
//! so a damaged batch that a later one vouches for is told from a torn one. What nothing vouches for is cut off here. A
//! synced batch that is the very last of the log has no witness; nobody can tell it from a torn one.
//!
//! Also here, because raft-engine would panic: headers with an alignment and file names it cannot slice; and because it
//! would not care: the checksums of entries, which it verifies only when it reads them.
//!
//! The end of the log that nothing vouches for is written again and synced. If the last fsync before the crash of the
//! process failed, the page cache shows data that is not on disk and that no later fsync would write.

use super::LogError;
use super::files::LogFiles;
use super::record::{STATE_KEY, StateRecord};
use crate::planted::{self, Bug};
use prost::Message;
use raft_engine::env::{Handle as _, Permission};
use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
/// Magic, version, alignment.
const FILE_HEADER_BYTES: usize = MAGIC.len() + 16;
const FILE_VERSION: u64 = 2;
const BATCH_HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
const NAME_DIGITS: usize = 16;

/// The only raft group in our engine.
pub(super) const GROUP: u64 = 1;

/// Checks every file under `dir` and repairs the end of the newest. Nothing happens to a directory that is not there.
pub(super) fn check_and_repair<F: LogFiles>(files: &F, dir: &Path) -> Result<(), LogError> {
    if !files.is_directory(dir) {
        return Ok(());
    }
    let _lock = lock(files, dir)?;
    let Queues { append, rewrite } = list(files, dir)?;
    for (at, (path, number)) in rewrite.iter().enumerate() {
        let newest = at + 1 == rewrite.len();
        let bytes = read(files, path)?;
        let survey = Survey::of(&bytes, *number, None);
        match survey.defect {
            None => {}
            // The copying of live entries was cut short; they are all still in the append files. If they were not, the
            // state in those would not match what is left, and the start ends there.
            Some(_) if newest => {
                truncate(files, path, if survey.end < FILE_HEADER_BYTES { None } else { Some(survey.end) })?;
            }
            Some(defect) => return Err(corrupt(path, survey.end, defect)),
        }
    }
    let mut last_number = None;
    for (at, (path, number)) in append.iter().enumerate() {
        let newest = at + 1 == append.len();
        let bytes = read(files, path)?;
        let survey = Survey::of(&bytes, *number, last_number);
        last_number = survey.last_number;
        if let Some(defect) = survey.defect
            && (!newest || survey.vouched_for(&bytes, *number))
        {
            return Err(corrupt(path, survey.end, defect));
        }
        if newest {
            repair(files, path, &bytes, &survey)?;
        }
    }
    Ok(())
}

fn corrupt(path: &Path, offset: usize, detail: &'static str) -> LogError {
    LogError::Corrupt { path: path.into(), offset: Some(offset as u64), detail: detail.into() }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { operation, path: path.into(), source }
}

fn read<F: LogFiles>(files: &F, path: &Path) -> Result<Vec<u8>, LogError> {
    let file = Arc::new(files.open(path, Permission::ReadOnly).map_err(failed("open", path))?);
    let mut bytes = Vec::with_capacity(file.file_size().map_err(failed("look at", path))?);
    let mut reader = files.new_reader(file).map_err(failed("open", path))?;
    reader.read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(bytes)
}

/// raft-engine takes the same lock on the same file right after.
fn lock<F: LogFiles>(files: &F, dir: &Path) -> Result<Option<File>, LogError> {
    let path = dir.join("LOCK");
    match files.lock(&path) {
        Ok(lock) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked { path: dir.into() }),
        Err(TryLockError::Error(source)) => Err(LogError::Io { operation: "lock", path, source }),
    }
}

#[derive(Default)]
struct Queues {
    append: Vec<(PathBuf, u64)>,
    rewrite: Vec<(PathBuf, u64)>,
}

fn list<F: LogFiles>(files: &F, dir: &Path) -> Result<Queues, LogError> {
    let mut queues = Queues::default();
    for path in files.list(dir).map_err(failed("list", dir))? {
        let foreign = || LogError::Corrupt { path: path.clone(), offset: None, detail: "not a file of the log".into() };
        let name =
            path.file_name().and_then(|name| name.to_str()).filter(|name| name.is_ascii()).ok_or_else(foreign)?;
        let Some((stem, extension)) = name.split_once('.') else { continue };
        let queue = match extension {
            "raftlog" => &mut queues.append,
            "rewrite" => &mut queues.rewrite,
            _ => continue,
        };
        let digits = stem.len() == NAME_DIGITS && stem.bytes().all(|byte| byte.is_ascii_digit());
        let number = stem.parse().ok().filter(|_| digits).ok_or_else(foreign)?;
        queue.push((path, number));
    }
    for queue in [&mut queues.append, &mut queues.rewrite] {
        queue.sort_by_key(|file| file.1);
        // Files kept for reuse after a purge keep their names until a clean shutdown, and a later purge may have deleted
        // their successors: what is before a gap is stale, and raft-engine skips it too.
        let live = (1..queue.len()).rev().find(|&at| queue[at].1 != queue[at - 1].1 + 1).unwrap_or(0);
        queue.drain(..live);
    }
    Ok(queues)
}

/// What a walk over the batches of one file found.
struct Survey {
    /// Up to here everything is sound.
    end: usize,
    /// Up to here every batch was synced, says a later one.
    synced_end: usize,
    /// Of the last sound batch, or of the last in the files before.
    last_number: Option<u64>,
    defect: Option<&'static str>,
}

impl Survey {
    fn of(bytes: &[u8], file_number: u64, last_number: Option<u64>) -> Self {
        let mut survey = Survey { end: 0, synced_end: 0, last_number, defect: check_file_header(bytes) };
        if survey.defect.is_some() {
            return survey;
        }
        survey.end = FILE_HEADER_BYTES;
        let mut unsynced: VecDeque<(u64, usize)> = VecDeque::new();
        while survey.end < bytes.len() {
            let rest = &bytes[survey.end..];
            match Batch::read(rest, file_number) {
                Err(defect) => {
                    survey.defect = Some(defect);
                    break;
                }
                Ok(batch) => {
                    survey.end += batch.bytes;
                    if let Some(state) = batch.state {
                        survey.last_number = Some(state.number);
                        unsynced.push_back((state.number, survey.end));
                        while let Some(&(_, end)) = unsynced.front().filter(|batch| batch.0 <= state.synced) {
                            survey.synced_end = end;
                            unsynced.pop_front();
                        }
                    }
                }
            }
        }
        survey
    }

    /// Whether a sound batch behind the defect says that the damaged one had been synced. Any does so for the header of a file,
    /// which is synced before, or together with, the first batch in it.
    fn vouched_for(&self, bytes: &[u8], file_number: u64) -> bool {
        if planted::is_on(Bug::DropsDamagedSuffix) {
            return false;
        }
        let is_header = self.end < FILE_HEADER_BYTES;
        let damaged = self.last_number.map_or(1, |number| number.saturating_add(1));
        let mut at = self.end + 1;
        while at < bytes.len() {
            match Batch::read(&bytes[at..], file_number) {
                Ok(Batch { state: Some(state), .. }) if is_header || state.synced >= damaged => return true,
                Ok(batch) => at += batch.bytes,
                Err(_) => at += 1,
            }
        }
        false
    }
}

fn check_file_header(bytes: &[u8]) -> Option<&'static str> {
    let Some(header) = bytes.get(..FILE_HEADER_BYTES) else { return Some("the header of the file is cut short") };
    let (magic, numbers) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Some("the header of the file is not that of a raft log");
    }
    if be_u64(numbers, 0) != Some(FILE_VERSION) || be_u64(numbers, 8) != Some(0) {
        return Some("the header of the file names an unknown format");
    }
    None
}

/// Writes again what may not have reached the disk, and cuts off what a crash tore.
fn repair<F: LogFiles>(files: &F, path: &Path, bytes: &[u8], survey: &Survey) -> Result<(), LogError> {
    if survey.end < FILE_HEADER_BYTES {
        return truncate(files, path, None);
    }
    let file = Arc::new(files.open(path, Permission::ReadWrite).map_err(failed("open", path))?);
    if survey.end < bytes.len() {
        file.truncate(survey.end).map_err(failed("truncate", path))?;
    }
    if planted::is_on(Bug::TrustsThePageCache) {
        return Ok(());
    }
    let mut writer = files.new_writer(Arc::clone(&file)).map_err(failed("open", path))?;
    writer.seek(SeekFrom::Start(survey.synced_end as u64)).map_err(failed("write", path))?;
    writer.write_all(&bytes[survey.synced_end..survey.end]).map_err(failed("write", path))?;
    file.sync().map_err(failed("sync", path))
}

/// Cuts a file; without a length, removes it: raft-engine would go on in it with an older format.
fn truncate<F: LogFiles>(files: &F, path: &Path, length: Option<usize>) -> Result<(), LogError> {
    let Some(length) = length else {
        files.delete(path).map_err(failed("remove", path))?;
        return sync_directory(files, path.parent().unwrap_or(path));
    };
    let file = files.open(path, Permission::ReadWrite).map_err(failed("open", path))?;
    file.truncate(length).map_err(failed("truncate", path))?;
    file.sync().map_err(failed("sync", path))
}

pub(super) fn sync_directory<F: LogFiles>(files: &F, dir: &Path) -> Result<(), LogError> {
    files.sync_directory(dir).map_err(failed("sync", dir))
}

struct Batch {
    bytes: usize,
    state: Option<StateRecord>,
}

impl Batch {
    /// Reads the batch at the start of `bytes`. Lengths are held against what is there before they are used.
    fn read(bytes: &[u8], file_number: u64) -> Result<Self, &'static str> {
        let (Some(length), Some(footer)) = (be_u64(bytes, 0), be_u64(bytes, 8)) else {
            return Err("a batch is cut short");
        };
        let (length, compression) = (length >> 8, length & 0xff);
        let (Ok(length), Ok(footer)) = (usize::try_from(length), usize::try_from(footer)) else {
            return Err("a batch has an impossible length");
        };
        if compression > 1 || footer < BATCH_HEADER_BYTES || footer >= length {
            return Err("the header of a batch is damaged");
        }
        let Some(batch) = bytes.get(..length) else { return Err("a batch is cut short") };
        let (entries, footer) = (&batch[BATCH_HEADER_BYTES..footer], &batch[footer..]);
        // raft-engine signs with the low half of the number, so that a reused file's old batches are not taken for new.
        let Some(items) = checked(footer, file_number as u32) else {
            return Err("the footer of a batch has a wrong checksum");
        };
        if !entries.is_empty() && checked(entries, 0).is_none() {
            return Err("the entries of a batch have a wrong checksum");
        }
        let state = find_state(items).ok_or("the footer of a batch cannot be read")?;
        Ok(Self { bytes: length, state })
    }
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// The block without its checksum, if that is right.
fn checked(block: &[u8], signature: u32) -> Option<&[u8]> {
    let (content, checksum) = block.split_at(block.len().checked_sub(CHECKSUM_BYTES)?);
    let expected = u32::from_le_bytes(checksum.try_into().ok()?) ^ signature;
    (!content.is_empty() && crc32fast::hash(content) == expected).then_some(content)
}

/// Walks the items of a footer. The outer `None` means that they do not parse.
fn find_state(items: &[u8]) -> Option<Option<StateRecord>> {
    let mut items = Items(items);
    let mut state = None;
    for _ in 0..items.varint()? {
        let group = items.varint()?;
        match items.byte()? {
            // Indexes of entries: count, first index, the end of each in the block of entries.
            1 => {
                let count = items.varint()?;
                for _ in 0..count.saturating_add(u64::from(count > 0)) {
                    items.varint()?;
                }
            }
            2 => match items.byte()? {
                1 => {}
                2 => {
                    items.varint()?;
                }
                _ => return None,
            },
            3 => {
                let put = items.byte()? == 1;
                let key = items.bytes()?;
                if put {
                    let value = items.bytes()?;
                    if group == GROUP && key == STATE_KEY {
                        state = Some(StateRecord::decode(value).ok()?);
                    }
                }
            }
            _ => return None,
        }
    }
    items.0.is_empty().then_some(state)
}

struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}
