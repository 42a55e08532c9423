//! The part of HPACK's Huffman code (RFC 7541, appendix B) that an authority can be written in: printable ASCII.
//!
//! The code is canonical: the symbols of one length have consecutive codes. So it is a table of eleven rows, searched
//! row by row, which is enough for one value in the first request of a connection.

struct Row {
    code_bits: u32,
    first_code: u32,
    /// In the order of their codes.
    symbols: &'static [u8],
}

const fn row(code_bits: u32, first_code: u32, symbols: &'static [u8]) -> Row {
    Row { code_bits, first_code, symbols }
}

/// Shorter codes first. In the last row two more symbols follow, which are not ASCII.
static ROWS: [Row; 11] = [
    row(5, 0x0, b"012aceiost"),
    row(6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    row(7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    row(8, 0xf8, b"&*,;XZ"),
    row(10, 0x3f8, b"!\"()?"),
    row(11, 0x7fa, b"'+|"),
    row(12, 0xffa, b"#>"),
    row(13, 0x1ff8, b"\0$@[]~"),
    row(14, 0x3ffc, b"^}"),
    row(15, 0x7ffc, b"<`{"),
    row(19, 0x7fff0, b"\\"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Code {
    pub(super) bits: u32,
    code: u32,
}

/// Of a symbol in the table.
pub(super) fn code_of(symbol: u8) -> Option<Code> {
    ROWS.iter().find_map(|row| {
        let place = row.symbols.iter().position(|known| *known == symbol)?;
        Some(Code { bits: row.code_bits, code: row.first_code + u32::try_from(place).ok()? })
    })
}

/// Nothing if a symbol is not in the table or the padding is wrong.
pub(super) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut symbols = Vec::with_capacity(encoded.len() * 8 / 5);
    let bits = encoded.len() * 8;
    let mut at = 0;
    loop {
        let window = window(encoded, at);
        if bits - at < 8 && window == u32::MAX {
            return Some(symbols);
        }
        let (symbol, code_bits) = ROWS.iter().find_map(|row| {
            let place = (window >> (32 - row.code_bits)).checked_sub(row.first_code)?;
            Some((*row.symbols.get(usize::try_from(place).ok()?)?, usize::try_from(row.code_bits).ok()?))
        })?;
        if code_bits > bits - at {
            return None;
        }
        symbols.push(symbol);
        at += code_bits;
    }
}

/// The 32 bits from a bit on; ones after the end, as the padding is.
fn window(encoded: &[u8], at: usize) -> u32 {
    let bytes = (0..5).map(|next| encoded.get(at / 8 + next).copied().unwrap_or(0xff));
    let forty_bits = bytes.fold(0u64, |bits, byte| bits << 8 | u64::from(byte));
    // The lower half, on purpose.
    (forty_bits >> (8 - at % 8)) as u32
}

pub(super) fn encode(codes: &[Code]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(codes.len() * 2);
    let (mut pending, mut pending_bits) = (0u64, 0);
    for code in codes {
        pending = pending << code.bits | u64::from(code.code);
        pending_bits += code.bits;
        while pending_bits >= 8 {
            pending_bits -= 8;
            encoded.push((pending >> pending_bits) as u8);
        }
    }
    if pending_bits > 0 {
        encoded.push((pending << (8 - pending_bits)) as u8 | 0xff >> pending_bits);
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(text: &str) -> Vec<u8> {
        encode(&text.bytes().map(|symbol| code_of(symbol).unwrap()).collect::<Vec<_>>())
    }

    /// RFC 7541, appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc_are_read_and_written() {
        let examples: [(&str, &[u8]); 4] = [
            ("www.example.com", &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]),
            ("custom-value", &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]),
            ("302", &[0x64, 0x02]),
            (
                "https://www.example.com",
                &[0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3],
            ),
        ];
        for (text, bytes) in examples {
            assert_eq!(encoded(text), bytes, "{text}");
            assert_eq!(decode(bytes).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn every_printable_symbol_has_a_code_and_no_code_begins_another() {
        let codes: Vec<_> = (b' '..=b'~').map(|symbol| code_of(symbol).unwrap()).collect();
        for (place, short) in codes.iter().enumerate() {
            for (other, long) in codes.iter().enumerate() {
                if place != other && short.bits <= long.bits {
                    assert_ne!(short.code, long.code >> (long.bits - short.bits));
                }
            }
        }
    }

    #[test]
    fn wrong_padding_and_unknown_symbols_are_not_read() {
        for bytes in [&[0x00][..], &[0xff], &[0x1f, 0xff], &[0xff, 0xff, 0xff, 0xff], &[0x07, 0xff, 0xff, 0xf0]] {
            assert_eq!(decode(bytes), None, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "[ -~]{0,60}") {
            prop_assert_eq!(decode(&encoded(&text)).unwrap(), text.as_bytes());
        }

        #[test]
        fn there_is_one_way_to_write_what_can_be_read(bytes in any::<Vec<u8>>()) {
            if let Some(symbols) = decode(&bytes) {
                let codes: Vec<_> = symbols.into_iter().map(|symbol| code_of(symbol).unwrap()).collect();
                prop_assert_eq!(encode(&codes), bytes);
            }
        }
    }
}
