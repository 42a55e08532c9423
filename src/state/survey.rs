//! What a saved state contains, found by reading all of it once.

use crate::mvcc::{RowKey, key_of};
use crate::snapshot::format::SEAL_BYTES;
use crate::snapshot::{Row, SnapshotError, SnapshotReader};
use crate::state::rows;
use castd_backend_api::Table;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read;

/// Of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// CRC-32C over table, key and value of all rows in their order, but for how far the log was applied.
    pub hash: u32,
    pub revision: i64,
    /// Keys that are not deleted.
    pub keys: u64,
    /// Without the checksum that clients append.
    pub bytes: u64,
    /// The version of the cluster; empty before it had one.
    pub version: String,
}

/// Reads to the end. Takes some ten bytes of memory for each key.
///
/// # Errors
/// When the snapshot is damaged.
pub fn survey(mut reader: SnapshotReader<impl Read>) -> Result<Survey, SnapshotError> {
    // By their hashes: two of ten million keys have the same with a chance of one to 300,000.
    let (mut keys, hasher) = (HashSet::new(), RandomState::new());
    let (mut hash, mut version) = (0, String::new());
    while let Some(chunk) = reader.next_rows()? {
        for Row { table, key, value } in chunk {
            if rows::is_position(table, &key) {
                continue;
            }
            hash = crc32c::crc32c_append(hash, &[table as u8]);
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
            if rows::is_cluster_version(table, &key) {
                version = String::from_utf8_lossy(&value).into_owned();
            }
            if table == Table::Kv {
                let damaged = SnapshotError::Damaged { offset: reader.summary().bytes, detail: "a key cannot be read" };
                let Some((row, name)) = RowKey::decode(&key).zip(key_of(&value)) else { return Err(damaged) };
                let name = hasher.hash_one(name);
                if row.tombstone {
                    keys.remove(&name)
                } else {
                    keys.insert(name)
                };
            }
        }
    }
    let seal_bytes = if reader.summary().is_sealed { SEAL_BYTES as u64 } else { 0 };
    let (revision, bytes) = (reader.header().revision, reader.summary().bytes - seal_bytes);
    Ok(Survey { hash, revision, keys: keys.len() as u64, bytes, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotWriter;
    use castd_proto::castdpb::SnapshotHeader;
    use castd_proto::mvccpb::KeyValue;
    use prost::Message as _;

    /// Of rows `(revision, key)`, tombstones marked by an upper-case key; and as applied up to `index`.
    fn surveyed(rows: &[(i64, &str)], index: u8) -> Survey {
        let header = SnapshotHeader { revision: 9, ..Default::default() };
        let mut writer = SnapshotWriter::create(Vec::new(), &header).expect("begun");
        writer.row(Table::Meta, b"applied", &[index; 24]).expect("written");
        writer.row(Table::Meta, b"cluster_version", b"3.7.0").expect("written");
        for (revision, key) in rows {
            let tombstone = key.chars().all(char::is_uppercase);
            let row = RowKey { tombstone, ..RowKey::first_of(crate::ids::Revision(*revision)) };
            let pair = KeyValue { key: key.to_lowercase().into(), value: "v".into(), ..Default::default() };
            writer.row(Table::Kv, &row.encode(), &pair.encode_to_vec()).expect("written");
        }
        let (bytes, _) = writer.finish().expect("ended");
        survey(SnapshotReader::open(&bytes[..]).expect("sound")).expect("sound")
    }

    #[test]
    fn keys_that_are_there_are_counted_and_all_rows_hashed() {
        let rows = [(2, "a"), (3, "b"), (4, "a"), (5, "A"), (6, "c"), (7, "C"), (8, "a")];
        let found = surveyed(&rows, 1);
        assert_eq!((found.keys, found.revision, found.version.as_str()), (2, 9, "3.7.0"));
        assert_eq!(surveyed(&rows, 2).hash, found.hash, "how far the log was applied is not data");
        assert_ne!(surveyed(&rows[..6], 1).hash, found.hash);
    }

    #[test]
    fn a_row_without_a_key_is_damage() {
        let mut writer = SnapshotWriter::create(Vec::new(), &SnapshotHeader::default()).expect("begun");
        writer.row(Table::Kv, b"no revision", b"").expect("written");
        let (bytes, _) = writer.finish().expect("ended");
        let found = survey(SnapshotReader::open(&bytes[..]).expect("sound"));
        assert!(matches!(found, Err(SnapshotError::Damaged { .. })), "{found:?}");
    }
}
