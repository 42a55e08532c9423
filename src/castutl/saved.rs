//! A file that a client saved: whether it is one of castd's, whole, and what was saved.
//!
//! ```text
//!   castd's snapshot, padded to a multiple of 512 bytes │ SHA-256 of it, appended by the client: 32 bytes
//! ```
//! etcd's tools tell by the length whether there is a checksum, and so does this. Without `--skip-hash-check` one has to be
//! there and fit. With it, a member's own files can be read, too; the checksums inside the file always count.

use crate::config::go::system_text;
use crate::snapshot::format::{ALIGNMENT_BYTES, SEAL_BYTES};
use crate::snapshot::{SnapshotError, SnapshotReader};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 256 << 10;
/// Of a bbolt file, in its first page.
const BBOLT_MAGIC: u32 = 0xED0C_DAED;
const BBOLT_MAGIC_AT: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    #[error("{operation} {}: {}", path.display(), system_text(source))]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoHash,
    #[error("expected sha256 {}, got {}", list(expected), list(found))]
    OtherHash { expected: [u8; SEAL_BYTES], found: [u8; SEAL_BYTES] },
    #[error(
        "{} is a snapshot of etcd (a bbolt database), which this release cannot read; a later one will. Until then restore it \
         with `etcdutl snapshot restore`, start etcd in that directory, and copy its keys with `etcdctl make-mirror \
         CASTD_ENDPOINT`",
        path.display()
    )]
    OfEtcd { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Snapshot { path: PathBuf, source: SnapshotError },
}

/// As Go prints bytes.
fn list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

/// One that is castd's.
#[derive(Debug)]
pub struct SavedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl SavedFile {
    /// # Errors
    /// When there is none, or it is etcd's.
    pub fn open(path: &Path) -> Result<Self, SavedError> {
        let failed = |operation| move |source| SavedError::Io { operation, path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed("open"))?;
        let bytes = file.metadata().map_err(failed("stat"))?.len();
        let mut head = Vec::new();
        let head_bytes = (BBOLT_MAGIC_AT + size_of::<u32>()) as u64;
        file.by_ref().take(head_bytes).read_to_end(&mut head).map_err(failed("read"))?;
        if head.get(BBOLT_MAGIC_AT..) == Some(&BBOLT_MAGIC.to_le_bytes()) {
            return Err(SavedError::OfEtcd { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Looks for the checksum at the end, and whether it fits.
    ///
    /// # Errors
    /// [`SavedError::NoHash`] and [`SavedError::OtherHash`].
    pub fn check_hash(&mut self) -> Result<(), SavedError> {
        if self.bytes % ALIGNMENT_BYTES != SEAL_BYTES as u64 {
            return Err(SavedError::NoHash);
        }
        let path = &self.path;
        let failed = |source| SavedError::Io { operation: "read", path: path.clone(), source };
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut digest = Sha256::new();
        let mut data = (&self.file).take(self.bytes - SEAL_BYTES as u64);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match data.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => digest.update(buffer.get(..read).unwrap_or_default()),
            }
        }
        let mut expected = [0; SEAL_BYTES];
        (&self.file).read_exact(&mut expected).map_err(failed)?;
        let found: [u8; SEAL_BYTES] = digest.finalize().into();
        if expected == found { Ok(()) } else { Err(SavedError::OtherHash { expected, found }) }
    }

    /// For its rows, from the first one on. Whatever is appended to it does not count here.
    ///
    /// # Errors
    /// When it is not castd's, or damaged at its beginning.
    pub fn reader(&self) -> Result<SnapshotReader<BufReader<&File>>, SavedError> {
        let failed = |source| SavedError::Io { operation: "read", path: self.path.clone(), source };
        (&self.file).seek(SeekFrom::Start(0)).map_err(failed)?;
        let reader = SnapshotReader::open(BufReader::with_capacity(BUFFER_BYTES, &self.file));
        reader.map(SnapshotReader::ignoring_seal).map_err(|source| self.damaged(source))
    }

    /// What reading its rows has come upon.
    pub fn damaged(&self, source: SnapshotError) -> SavedError {
        SavedError::Snapshot { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotWriter;
    use castd_backend_api::Table;
    use castd_proto::castdpb::SnapshotHeader;
    use std::fs;

    /// As a client saves it.
    fn saved() -> Vec<u8> {
        let mut writer = SnapshotWriter::create(Vec::new(), &SnapshotHeader::default()).expect("begun");
        for row in 0..500_u32 {
            writer.row(Table::Lease, &row.to_be_bytes(), &[3; 20]).expect("written");
        }
        let (mut bytes, _) = writer.finish_padded().expect("ended");
        let seal = Sha256::digest(&bytes);
        bytes.extend_from_slice(&seal);
        bytes
    }

    /// Rows, with and without a look at the checksum.
    fn read(bytes: &[u8]) -> (Result<u64, String>, Result<u64, String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        fs::write(&path, bytes).expect("written");
        let rows = |checks: bool| {
            let mut file = SavedFile::open(&path)?;
            if checks {
                file.check_hash()?;
            }
            let verified = file.reader()?.verify();
            verified.map(|(_, summary)| summary.rows).map_err(|source| file.damaged(source))
        };
        let shown = |result: Result<u64, SavedError>| {
            result.map_err(|error| error.to_string().replace(&format!("{}: ", path.display()), ""))
        };
        (shown(rows(true)), shown(rows(false)))
    }

    #[test]
    fn without_the_checksum_at_its_end_a_file_is_read_only_on_request() {
        let sound = saved();
        assert_eq!(read(&sound), (Ok(500), Ok(500)));
        let missing = Err("snapshot missing hash but --skip-hash-check=false".to_owned());
        assert_eq!(read(&sound[..sound.len() - SEAL_BYTES]), (missing.clone(), Ok(500)));
        let mut other = sound.clone();
        *other.last_mut().expect("not empty") ^= 1;
        let (checked, unchecked) = read(&other);
        assert!(checked.is_err_and(|error| error.starts_with("expected sha256 [") && error.contains("], got [")));
        assert_eq!(unchecked, Ok(500));
        let (checked, unchecked) = read(&sound[..1_000]);
        assert_eq!(checked, missing);
        assert!(unchecked.is_err_and(|error| error.contains("it ends too early")));
    }

    #[test]
    fn damage_inside_is_found_whatever_is_skipped() {
        let sound = saved();
        for at in (0..sound.len() - SEAL_BYTES).step_by(701) {
            let mut damaged = sound.clone();
            damaged[at] ^= 16;
            let (checked, unchecked) = read(&damaged);
            assert!(checked.is_err_and(|error| error.starts_with("expected sha256 [")), "{at}");
            assert!(unchecked.is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_not_castds_is_named() {
        let mut bbolt = vec![0; 4096 * 2 + SEAL_BYTES];
        bbolt[BBOLT_MAGIC_AT..BBOLT_MAGIC_AT + 4].copy_from_slice(&BBOLT_MAGIC.to_le_bytes());
        for result in <[_; 2]>::from(read(&bbolt)) {
            assert!(
                result.is_err_and(|error| error.contains("is a snapshot of etcd") && error.contains("make-mirror"))
            );
        }
        let (_, unchecked) = read(b"no snapshot at all");
        assert_eq!(unchecked, Err("this is not a Castd snapshot".to_owned()));
        let missing = SavedFile::open(Path::new("/nowhere/f")).expect_err("not there").to_string();
        assert_eq!(missing, "open /nowhere/f: no such file or directory");
    }
}
