//! A row's key as engines with one key space store it: the table's prefix byte, then the key.
//!
//! Nearly every key is a revision (17 or 18 bytes), so it is put together on the stack.

use crate::Table;
use std::ops::Deref;

const INLINE_BYTES_MAX: usize = 63;

/// The table's prefix byte followed by the key.
pub struct RowKey(Repr);

enum Repr {
    Inline { length: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Heap(Vec<u8>),
}

impl RowKey {
    pub fn new(table: Table, key: &[u8]) -> Self {
        let length = key.len() + 1;
        if length <= INLINE_BYTES_MAX {
            let mut bytes = [0; INLINE_BYTES_MAX];
            bytes[0] = table as u8;
            bytes[1..length].copy_from_slice(key);
            return Self(Repr::Inline { length: length as u8, bytes });
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.push(table as u8);
        bytes.extend_from_slice(key);
        Self(Repr::Heap(bytes))
    }

    /// The upper bound of a scan of `table` that stops before `to`, or at the table's end where `to` is empty.
    pub fn scan_end(table: Table, to: &[u8]) -> Self {
        if !to.is_empty() {
            return Self::new(table, to);
        }
        let mut end = Self::new(table, &[]);
        if let Repr::Inline { bytes, .. } = &mut end.0 {
            bytes[0] = table as u8 + 1; // prefixes are ASCII letters
        }
        end
    }
}

impl Deref for RowKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for RowKey {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_carry_the_prefix() {
        for length in [0, 1, 17, INLINE_BYTES_MAX - 1, INLINE_BYTES_MAX, 1000] {
            let key = vec![7; length];
            assert_eq!(&*RowKey::new(Table::Kv, &key), [b"k".as_slice(), &key].concat());
        }
    }

    #[test]
    fn an_open_end_is_the_first_key_after_the_table() {
        assert_eq!(&*RowKey::scan_end(Table::Kv, b""), b"l");
        assert_eq!(&*RowKey::scan_end(Table::Kv, b"x"), b"kx");
        for pair in Table::ALL.windows(2) {
            assert!(*RowKey::scan_end(pair[0], b"") <= *RowKey::new(pair[1], b""));
        }
    }
}
