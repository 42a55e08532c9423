//! Reads the value of a row, an encoded `mvccpb.KeyValue`, without copying: the fields are found, not decoded.
//!
//! Rebuilding an index needs the key and four numbers of a million rows, a get needs two slices of one: neither needs a
//! general decoder. Unknown fields are skipped, whatever is cut short or out of range is an error.

use std::ops::Range;

use bytes::Bytes;
use castd_proto::mvccpb::KeyValue;
use prost::Message as _;

use super::RowKey;

/// Where the fields of one encoded `KeyValue` are, and what its numbers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub key: Range<usize>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: Range<usize>,
    pub lease: i64,
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// `None` if `row` is not an encoded `KeyValue`.
pub(crate) fn fields(row: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    let mut at = 0;
    while at < row.len() {
        let tag = varint(row, &mut at)?;
        match (tag >> 3, tag & 7) {
            (2, VARINT) => fields.create_revision = varint(row, &mut at)? as i64,
            (3, VARINT) => fields.mod_revision = varint(row, &mut at)? as i64,
            (4, VARINT) => fields.version = varint(row, &mut at)? as i64,
            (6, VARINT) => fields.lease = varint(row, &mut at)? as i64,
            (1, LENGTH) => fields.key = span(row, &mut at)?,
            (5, LENGTH) => fields.value = span(row, &mut at)?,
            (7.., VARINT) => {
                varint(row, &mut at)?;
            }
            (7.., LENGTH) => {
                span(row, &mut at)?;
            }
            (7.., FIXED64) => at = at.checked_add(8).filter(|end| *end <= row.len())?,
            (7.., FIXED32) => at = at.checked_add(4).filter(|end| *end <= row.len())?,
            _ => return None,
        }
    }
    Some(fields)
}

/// What a field with a number other than 0 takes.
pub(crate) fn number_bytes(number: i64) -> u32 {
    1 + (64 - (number as u64 | 1).leading_zeros()).div_ceil(7)
}

/// What a row takes in a backend. More than 4 GiB cannot be sent.
pub(crate) fn row_bytes(key: &[u8], value: &[u8]) -> u32 {
    u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX)
}

/// The same before it is encoded, without the number fields that `pair` leaves at 0.
pub(crate) fn bytes(key: RowKey, pair: &KeyValue) -> u32 {
    u32::try_from(key.encode().len() + pair.encoded_len()).unwrap_or(u32::MAX)
}

/// The key that a row is of.
pub(crate) fn key_of(row: &[u8]) -> Option<&[u8]> {
    row.get(fields(row)?.key)
}

/// The row as a message whose key and value share the row's memory.
pub(crate) fn key_value(row: &Bytes) -> Option<KeyValue> {
    let fields = fields(row)?;
    Some(KeyValue {
        key: row.slice(fields.key),
        create_revision: fields.create_revision,
        mod_revision: fields.mod_revision,
        version: fields.version,
        value: row.slice(fields.value),
        lease: fields.lease,
    })
}

fn varint(row: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *row.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn span(row: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let len = usize::try_from(varint(row, at)?).ok()?;
    let start = *at;
    let end = start.checked_add(len).filter(|end| *end <= row.len())?;
    *at = end;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    proptest! {
        #[test]
        fn fields_are_what_a_decoder_finds(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            numbers in any::<[i64; 4]>(),
        ) {
            let message = KeyValue {
                key: key.into(),
                create_revision: numbers[0],
                mod_revision: numbers[1],
                version: numbers[2],
                value: value.into(),
                lease: numbers[3],
            };
            let row = Bytes::from(message.encode_to_vec());
            prop_assert_eq!(key_value(&row), Some(message));
        }

        #[test]
        fn garbage_never_panics(row in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(found) = key_value(&Bytes::from(row.clone())) {
                prop_assert!(found.key.len() + found.value.len() <= row.len());
            }
        }
    }

    #[test]
    fn a_number_takes_what_an_encoder_makes_of_it() {
        for number in [1, 127, 128, 16_383, 16_384, 1 << 40, i64::MAX, -1] {
            let alone = KeyValue { version: number, ..Default::default() };
            assert_eq!(number_bytes(number) as usize, alone.encoded_len(), "{number}");
        }
    }

    #[test]
    fn a_row_cut_short_is_refused() {
        let row =
            KeyValue { key: "key".into(), version: 300, value: "value".into(), ..Default::default() }.encode_to_vec();
        assert!(fields(&row[..row.len() - 1]).is_none());
        assert!(fields(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_none());
    }
}
