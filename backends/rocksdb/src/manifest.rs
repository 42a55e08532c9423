//! The end of a manifest whose last write a power failure has cut short.
//!
//! ```text
//!   MANIFEST = blocks of 32 KiB, of records: CRC-32C (4 bytes) | length (2) | kind (1) | payload
//!              ── sound, to the end of an edit ──┃── torn: no sound record comes after it ──
//! ```
//!
//! RocksDB syncs each of its edits before it counts on one, and reads a manifest that ends within a record; but not one that
//! ends in zeros there, as some file systems leave it where the size was written before the data (XFS, ext4 with
//! `data=writeback`). The format is that of LevelDB's log (`doc/log_format.md` there).

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
const FULL: u8 = 1;
const LAST: u8 = 4;
const MASK_DELTA: u32 = 0xa282_ead8;

/// Cuts off what was never synced of the manifest in use, if it ends in something that is no record.
///
/// # Errors
/// When the disk fails.
pub(crate) fn cut_torn_end(directory: &Path) -> io::Result<()> {
    let current = match std::fs::read_to_string(directory.join("CURRENT")) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => return Ok(()),
        read => read?,
    };
    let manifest = directory.join(current.trim_end());
    let bytes = match std::fs::read(&manifest) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => return Ok(()),
        read => read?,
    };
    if let Some(end) = torn_at(&bytes) {
        let file = OpenOptions::new().write(true).open(&manifest)?;
        file.set_len(end as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Where the last whole edit ends, if nothing sound comes after it. A sound record behind one that is not says that the disk
/// has damaged what was synced: that is for RocksDB to refuse.
fn torn_at(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut whole) = (0, 0);
    while at < bytes.len() {
        if BLOCK - at % BLOCK < HEADER {
            at = at.next_multiple_of(BLOCK);
            continue;
        }
        let Some((kind, length)) = sound_record(bytes, at) else { break };
        at += HEADER + length;
        if kind == FULL || kind == LAST {
            whole = at;
        }
    }
    let is_torn = whole > 0 && at < bytes.len() && (at..bytes.len()).all(|at| sound_record(bytes, at).is_none());
    is_torn.then_some(whole)
}

/// Kind and length of the payload.
fn sound_record(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let in_block = &bytes[at..bytes.len().min((at / BLOCK + 1) * BLOCK)];
    let (header, behind) = in_block.split_at_checked(HEADER)?;
    let (length, kind) = (usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]);
    let payload = behind.get(..length)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[6..]), payload);
    let masked = crc.rotate_right(15).wrapping_add(MASK_DELTA);
    // A zero is what was never written.
    let is_sound = kind > 0 && header[..4] == masked.to_le_bytes();
    is_sound.then_some((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, RocksDb};
    use castd_backend_api::{Backend, Table, WriteBatch};
    use std::path::PathBuf;

    /// A store whose manifest has one edit more for each of these rows, and where each edit ends.
    fn store(rows: &[&'static str]) -> (tempfile::TempDir, PathBuf, Vec<usize>) {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksDb::open(dir.path(), &Options::default()).unwrap();
        let manifest = dir.path().join(std::fs::read_to_string(dir.path().join("CURRENT")).unwrap().trim_end());
        let mut ends = Vec::new();
        for row in rows {
            let mut batch = WriteBatch::new();
            batch.put(Table::Kv, *row, *row);
            store.write(&batch).unwrap();
            store.flush().unwrap();
            ends.push(std::fs::metadata(&manifest).unwrap().len() as usize);
        }
        (dir, manifest, ends)
    }

    fn rows(dir: &Path) -> Vec<String> {
        let store = RocksDb::open(dir, &Options::default()).unwrap();
        let mut rows = Vec::new();
        let scanned = store.scan(Table::Kv, b"", b"", &mut |key, _| {
            rows.push(String::from_utf8_lossy(key).into_owned());
            std::ops::ControlFlow::Continue(())
        });
        scanned.unwrap();
        rows
    }

    #[test]
    fn wherever_the_last_edits_are_torn_the_store_is_that_of_those_before() {
        let (dir, manifest, ends) = store(&["a", "b"]);
        let whole = std::fs::read(&manifest).unwrap();
        let copy = |bytes: &[u8]| {
            let to = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
                std::fs::copy(&entry, to.path().join(entry.file_name().unwrap())).unwrap();
            }
            std::fs::write(to.path().join(manifest.file_name().unwrap()), bytes).unwrap();
            to
        };
        assert_eq!(rows(copy(&whole).path()), ["a", "b"]);
        for rest in [0, 0xff] {
            let mut found = Vec::new();
            for kept in ends[0]..ends[1] {
                let mut torn = whole[..kept].to_vec();
                torn.resize(whole.len(), rest);
                found.push(rows(copy(&torn).path()).concat());
            }
            // The flush of a row writes more than one.
            let rows_after = found.iter().position(|rows| rows == "ab").unwrap_or(found.len());
            assert!(rows_after > HEADER, "{found:?}");
            assert!(found[..rows_after].iter().all(|rows| rows == "a"), "{found:?}");
            assert!(found[rows_after..].iter().all(|rows| rows == "ab"), "{found:?}");
        }
    }

    #[test]
    fn an_edit_that_others_follow_is_refused_if_it_is_damaged() {
        let (dir, manifest, ends) = store(&["a", "b", "c"]);
        let mut bytes = std::fs::read(&manifest).unwrap();
        bytes[ends[0] + HEADER + 1] ^= 1;
        assert_eq!(torn_at(&bytes), None);
        std::fs::write(&manifest, &bytes).unwrap();
        let error = RocksDb::open(dir.path(), &Options::default()).err().expect("it is damaged");
        assert!(matches!(error, castd_backend_api::OpenError::Corrupt { .. }), "{error}");
        assert_eq!(std::fs::read(&manifest).unwrap(), bytes);
    }

    #[test]
    fn an_edit_in_several_blocks_is_kept_or_cut_as_a_whole() {
        let record = |kind: u8, payload: &[u8]| {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
            let masked = crc.rotate_right(15).wrapping_add(MASK_DELTA);
            let length = payload.len() as u16;
            [&masked.to_le_bytes()[..], &length.to_le_bytes(), &[kind], payload].concat()
        };
        let (first, last) = (record(2, &[7; BLOCK - HEADER - 100]), record(LAST, b"end"));
        // What is too short for a header at the end of a block is filled with zeros.
        let whole = [record(FULL, &[1; 90]), first, vec![0; 3], last].concat();
        assert_eq!(whole.len(), BLOCK + HEADER + 3);
        assert_eq!(torn_at(&whole), None);
        let mut torn = whole.clone();
        torn[BLOCK + HEADER] ^= 1;
        assert_eq!(torn_at(&torn), Some(HEADER + 90));
        assert_eq!(torn_at(&[&whole[..], &[0; 40]].concat()), Some(whole.len()));
        assert_eq!(torn_at(&[]), None);
        assert_eq!(torn_at(&[0; 100]), None, "nothing of it is sound: that is not a torn end");
    }
}
