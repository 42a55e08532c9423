//! A snapshot for others: a file that is gone with its last reader.
//!
//! ```text
//!   Exporting ──rows──▶ finish_padded ──▶ Exported ──read──▶ Snapshot streams of clients (several may share it)
//!             └───────▶ finish ──▶ Outgoing ──read──▶ members that lag; or a file of `snap/` is an Outgoing
//! ```
//! A file, because a client may take hours to read what this machine writes in seconds. Sent straight from a view, all that
//! time compaction could not delete what the view sees; and the length, which clients are told with each message, would
//! take a first pass over all rows. The price is disk space while somebody reads. So the file may not take the last of it:
//! a log that cannot be written ends the member.

use super::format::{SnapshotError, SnapshotWriter, Summary, failed};
use super::store::SnapshotFile;
use crate::raft::terms::LogPosition;
use bytes::Bytes;
use castd_proto::castdpb::SnapshotHeader;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER_BYTES: usize = 256 << 10;
/// Left to the log and the backend: a new file of the log, and what the backend writes meanwhile.
const RESERVE_BYTES: u64 = 128 << 20;
/// The disk is looked at whenever so much has been written.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// An export being written.
pub struct Exporting {
    writer: SnapshotWriter<BufWriter<File>>,
    file: File,
    looked_at_bytes: u64,
}

impl Exporting {
    /// Begins a file in `dir`. A crash leaves none: its name is removed before anything is written, and the moment between
    /// the two is cleaned up by [`super::SnapshotStore::open`].
    ///
    /// # Errors
    /// [`SnapshotError::NoSpace`] when the disk is nearly full; [`SnapshotError::Io`].
    pub fn begin(dir: &Path, header: &SnapshotHeader) -> Result<Self, SnapshotError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("export.{}.tmp", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = options.map_err(failed("create"))?;
        fs::remove_file(&path).map_err(failed("create"))?;
        leave_reserve(&file)?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file.try_clone().map_err(failed("create"))?);
        Ok(Self { writer: SnapshotWriter::create(out, header)?, file, looked_at_bytes: 0 })
    }

    /// For the rows.
    pub fn writer(&mut self) -> &mut SnapshotWriter<BufWriter<File>> {
        &mut self.writer
    }

    /// To be called now and then.
    ///
    /// # Errors
    /// [`SnapshotError::NoSpace`] when the disk is nearly full.
    pub fn look_at_disk(&mut self) -> Result<(), SnapshotError> {
        if self.writer.bytes() >= self.looked_at_bytes + LOOK_EVERY_BYTES {
            self.looked_at_bytes = self.writer.bytes();
            leave_reserve(&self.file)?;
        }
        Ok(())
    }

    /// Ends it, padded. Not synced: it is of no use after a crash.
    pub fn finish_padded(self) -> Result<Exported, SnapshotError> {
        let (_, summary) = self.writer.finish_padded()?;
        Ok(Exported { file: Arc::new(self.file), bytes: summary.bytes })
    }

    /// Ends it, as the file of a member. Not synced.
    pub fn finish(self, header: SnapshotHeader) -> Result<Outgoing, SnapshotError> {
        let (_, summary) = self.writer.finish()?;
        Ok(Outgoing::new(header, Arc::new(self.file), &summary))
    }
}

/// Whether `bytes` more could be written to the disk of `dir`, and the reserve would still be left.
///
/// # Errors
/// [`SnapshotError::NoSpace`] if not; [`SnapshotError::Io`].
pub fn expect_room(dir: &Path, bytes: u64) -> Result<(), SnapshotError> {
    let disk = rustix::fs::statvfs(dir).map_err(io::Error::from).map_err(failed("find room for"))?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free_bytes < RESERVE_BYTES.saturating_add(bytes) { Err(SnapshotError::NoSpace { free_bytes }) } else { Ok(()) }
}

fn leave_reserve(file: &File) -> Result<(), SnapshotError> {
    let disk = rustix::fs::fstatvfs(file).map_err(io::Error::from).map_err(failed("find room for"))?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free_bytes < RESERVE_BYTES { Err(SnapshotError::NoSpace { free_bytes }) } else { Ok(()) }
}

/// A complete snapshot, to be read by anybody who holds it.
#[derive(Clone, Debug)]
pub struct Exported {
    file: Arc<File>,
    bytes: u64,
}

impl Exported {
    /// A multiple of [`super::format::ALIGNMENT_BYTES`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Up to `bytes_max` bytes from `offset`; none at the end. Reads a file: not for a thread that must not wait.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        read_part(&self.file, self.bytes, offset, bytes_max)
    }
}

/// A complete snapshot for another member. It stays whole while somebody holds it, whatever becomes of its name.
#[derive(Clone, Debug)]
pub struct Outgoing {
    header: Arc<SnapshotHeader>,
    file: Arc<File>,
    bytes: u64,
    sha256: [u8; 32],
}

impl Outgoing {
    fn new(header: SnapshotHeader, file: Arc<File>, summary: &Summary) -> Self {
        Outgoing { header: Arc::new(header), file, bytes: summary.bytes, sha256: summary.sha256 }
    }

    /// Reads all of `file`, and holds it open.
    ///
    /// # Errors
    /// When it is not sound.
    pub fn of(file: &SnapshotFile) -> Result<Self, SnapshotError> {
        // Opened before it is verified, or it could be another one by then.
        let open = file.open_raw()?;
        let (header, summary) = file.verify()?;
        Ok(Outgoing::new(header, Arc::new(open), &summary))
    }

    pub fn position(&self) -> LogPosition {
        LogPosition::new(self.header.index, self.header.term)
    }

    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of everything before the trailer, which says the same.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// As [`Exported::read`].
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        read_part(&self.file, self.bytes, offset, bytes_max)
    }
}

fn read_part(file: &File, bytes: u64, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
    let length = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes_max);
    let mut part = vec![0; length];
    file.read_exact_at(&mut part, offset).map_err(failed("read"))?;
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotReader;
    use castd_backend_api::Table;

    #[test]
    fn an_export_has_no_name_and_is_read_in_pieces_by_whoever_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let header = SnapshotHeader { format: 1, index: 3, ..SnapshotHeader::default() };
        let mut exporting = Exporting::begin(dir.path(), &header).unwrap();
        for row in 0..3_000_u32 {
            exporting.writer().row(Table::Kv, &row.to_be_bytes(), &[7; 300]).unwrap();
            exporting.look_at_disk().unwrap();
        }
        let exported = exporting.finish_padded().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let other_reader = exported.clone();
        let mut data = Vec::new();
        loop {
            let part = exported.read(data.len() as u64, 10_007).unwrap();
            if part.is_empty() {
                break;
            }
            data.extend_from_slice(&part);
        }
        assert_eq!(data.len() as u64, exported.bytes());
        let (found, summary) = SnapshotReader::open(&data[..]).unwrap().verify().unwrap();
        assert_eq!((found, summary.rows), (header, 3_000));
        drop(exported);
        assert_eq!(other_reader.read(0, 8).unwrap(), "CASTSNAP");
    }
}
