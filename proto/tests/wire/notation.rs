//! How expected bytes are written in the cases, and how they are taken apart.
//!
//! Words separated by blanks: two hex digits are a byte, `'text'` its ASCII bytes, `H` a whole first field with the
//! header [`crate::cases::header`], `KV` the body of [`crate::cases::key_value`].

use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

pub fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "H" => bytes.extend([0x0a, 8, 0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4]),
            "KV" => bytes.extend([0x0a, 1, b'k', 0x10, 2, 0x18, 3, 0x20, 4, 0x2a, 1, b'v', 0x30, 5]),
            _ => match word.strip_prefix('\'').and_then(|word| word.strip_suffix('\'')) {
                Some(ascii) => bytes.extend(ascii.bytes()),
                None => {
                    assert_eq!(word.len(), 2, "{word} is no byte");
                    bytes.push(u8::from_str_radix(word, 16).expect("two hex digits"));
                }
            },
        }
    }
    bytes
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The numbers of the fields an encoded message consists of, not looking into submessages.
pub fn field_numbers(mut encoded: &[u8]) -> Vec<i32> {
    let mut numbers = Vec::new();
    while !encoded.is_empty() {
        let (number, wire_type): (u32, WireType) = decode_key(&mut encoded).expect("a field's key");
        skip_field(wire_type, number, &mut encoded, DecodeContext::default()).expect("a whole field");
        numbers.push(i32::try_from(number).expect("a field number"));
    }
    numbers
}
