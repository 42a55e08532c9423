//! The key of a row: which revision, which change inside it, and whether that change was a deletion.
//!
//! ```text
//!   8 bytes main, big-endian │ `_` │ 8 bytes sub, big-endian │ `t` if a tombstone
//! ```
//! Byte order is revision order, and it is etcd's own format: the hash of a store covers these bytes.

use std::ops::Deref;

use crate::ids::Revision;

const PLAIN_BYTES: usize = 17;
const TOMBSTONE_BYTES: usize = 18;

/// Names one row of the table [`Kv`](castd_backend_api::Table::Kv).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    pub main: Revision,
    /// Counts the changes of one request, from 0.
    pub sub: u32,
    pub tombstone: bool,
}

/// A [`RowKey`] as the backend sees it.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRowKey {
    bytes: [u8; TOMBSTONE_BYTES],
    len: usize,
}

impl RowKey {
    /// Sorts before every row of `main` (and, without its sub-revision, is how compaction revisions are kept).
    pub fn first_of(main: Revision) -> Self {
        Self { main, sub: 0, tombstone: false }
    }

    pub fn encode(self) -> EncodedRowKey {
        let mut bytes = [0; TOMBSTONE_BYTES];
        bytes[..8].copy_from_slice(&self.main.0.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..PLAIN_BYTES].copy_from_slice(&u64::from(self.sub).to_be_bytes());
        bytes[PLAIN_BYTES] = b't';
        EncodedRowKey { bytes, len: if self.tombstone { TOMBSTONE_BYTES } else { PLAIN_BYTES } }
    }

    /// `None` if `bytes` is not the key of a row.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (main, rest) = bytes.split_first_chunk::<8>()?;
        let (separator, rest) = rest.split_first()?;
        let (sub, mark) = rest.split_first_chunk::<8>()?;
        let tombstone = match mark {
            [] => false,
            [b't'] => true,
            _ => return None,
        };
        let main = i64::from_be_bytes(*main);
        let sub = u32::try_from(u64::from_be_bytes(*sub)).ok()?;
        (*separator == b'_' && main >= 0).then_some(Self { main: Revision(main), sub, tombstone })
    }
}

impl Deref for EncodedRowKey {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_key_is_encoded_as_etcd_does() {
        let put = RowKey { main: Revision(0x0102), sub: 3, tombstone: false };
        assert_eq!(&*put.encode(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        let delete = RowKey { tombstone: true, ..put };
        assert_eq!(&*delete.encode(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        for key in [put, delete] {
            assert_eq!(RowKey::decode(&key.encode()), Some(key));
        }
    }

    #[test]
    fn what_is_not_a_row_key_is_refused() {
        let good = RowKey::first_of(Revision(7)).encode();
        assert!(RowKey::decode(&good[..16]).is_none());
        assert!(RowKey::decode(b"").is_none());
        let mut bytes = good.to_vec();
        bytes[8] = b'-';
        assert!(RowKey::decode(&bytes).is_none());
        bytes[8] = b'_';
        bytes.push(b'x');
        assert!(RowKey::decode(&bytes).is_none());
        bytes.pop();
        bytes[0] = 0xff;
        assert!(RowKey::decode(&bytes).is_none());
        bytes[0] = 0;
        bytes[9] = 1;
        assert!(RowKey::decode(&bytes).is_none());
    }

    #[test]
    fn byte_order_is_revision_order() {
        let keys = [(1, 0, false), (1, 0, true), (1, 1, false), (2, 0, false), (256, 0, false)]
            .map(|(main, sub, tombstone)| RowKey { main: Revision(main), sub, tombstone });
        for pair in keys.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(*pair[0].encode() < *pair[1].encode());
        }
    }
}
