//! FORMAT: the file that says whose directory this is and how it is laid out. Written once, last of all, at the first
//! start.
//!
//! ```json
//! {"format":1,"backend":"rocksdb","cluster_id":"cdf818194e3a8c32","member_id":"8e9e05c52164694d"}
//! ```
//!
//! Fields this build does not know are ignored; a change that an older castd must not overlook raises the version.

use super::StorageKind;
use super::error::DataDirError;
use super::paths::{read_file, write_file};
use crate::ids::{ClusterId, MemberId};
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(super) const FORMAT_FILE: &str = "FORMAT";
/// The newest layout this build reads and the one it writes.
pub(super) const FORMAT_VERSION: u64 = 1;

/// Whose directory it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The name of the [`super::StorageKind`]; kept as text, because a later castd may know more of them.
    pub backend: String,
    pub cluster_id: ClusterId,
    pub member_id: MemberId,
}

#[derive(Deserialize)]
struct Version {
    format: u64,
}

/// Ids are hexadecimal text, as they are printed everywhere: JSON numbers lose the low bits of 64 in many readers.
#[derive(Serialize, Deserialize)]
struct FileV1 {
    format: u64,
    backend: String,
    cluster_id: String,
    member_id: String,
}

impl Format {
    pub fn new(kind: StorageKind, cluster_id: ClusterId, member_id: MemberId) -> Self {
        Self { backend: kind.name().to_owned(), cluster_id, member_id }
    }

    /// Reads FORMAT in `directory`, if there is one.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, DataDirError> {
        let path = directory.join(FORMAT_FILE);
        let Some(content) = read_file(&path)? else { return Ok(None) };
        let unreadable = |detail: String| DataDirError::UnreadableFormat { path: path.clone(), detail };
        let version: Version = serde_json::from_slice(&content).map_err(|error| unreadable(error.to_string()))?;
        if version.format > FORMAT_VERSION {
            return Err(DataDirError::NewerFormat { path, found: version.format });
        }
        if version.format == 0 {
            return Err(unreadable("format version 0 never existed".to_owned()));
        }
        let file: FileV1 = serde_json::from_slice(&content).map_err(|error| unreadable(error.to_string()))?;
        let id = |text: &str| u64::from_str_radix(text, 16).map_err(|_| unreadable(format!("{text:?} is not an id")));
        let (cluster_id, member_id) = (ClusterId(id(&file.cluster_id)?), MemberId(id(&file.member_id)?));
        Ok(Some(Self { backend: file.backend, cluster_id, member_id }))
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), DataDirError> {
        let path = directory.join(FORMAT_FILE);
        let file = FileV1 {
            format: FORMAT_VERSION,
            backend: self.backend.clone(),
            cluster_id: self.cluster_id.to_string(),
            member_id: self.member_id.to_string(),
        };
        let mut content = serde_json::to_vec(&file)
            .map_err(|error| DataDirError::UnreadableFormat { path: path.clone(), detail: error.to_string() })?;
        content.push(b'\n');
        write_file(&path, &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GOLDEN_V1: &str = "{\"format\":1,\"backend\":\"rocksdb\",\"cluster_id\":\"cdf818194e3a8c32\",\"member_id\":\"8e9e05c52164694d\"}\n";

    fn golden() -> Format {
        Format {
            backend: "rocksdb".to_owned(),
            cluster_id: ClusterId(0xcdf8_1819_4e3a_8c32),
            member_id: MemberId(0x8e9e_05c5_2164_694d),
        }
    }

    fn read(content: &str) -> Result<Option<Format>, DataDirError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FORMAT_FILE), content).unwrap();
        Format::read(dir.path())
    }

    #[test]
    fn version_1_is_written_and_read_byte_for_byte() {
        assert_eq!(read(GOLDEN_V1).unwrap(), Some(golden()));
        let dir = tempfile::tempdir().unwrap();
        golden().write(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), GOLDEN_V1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_field_this_build_does_not_know_is_ignored() {
        let with_more = GOLDEN_V1.replace("\"format\":1", "\"later\":[1],\"format\":1");
        assert_eq!(read(&with_more).unwrap(), Some(golden()));
    }

    #[test]
    fn a_newer_version_is_refused_whatever_it_looks_like() {
        for content in [GOLDEN_V1.replace(":1", ":2"), "{\"format\":7}".to_owned()] {
            assert!(matches!(read(&content), Err(DataDirError::NewerFormat { .. })), "{content}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_fresh_directory() {
        for content in [
            "",
            "{",
            "null",
            "{\"format\":0}",
            "{\"format\":1}",
            "{\"format\":\"1\"}",
            &GOLDEN_V1.replace("cdf8", "xyz"),
        ] {
            assert!(matches!(read(content), Err(DataDirError::UnreadableFormat { .. })), "{content}");
        }
    }
}
