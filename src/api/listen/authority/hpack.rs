//! Finds the `:authority` that a HEADERS frame spells out, and makes it valid without changing any length.
//!
//! Both sides of a connection keep a table of earlier fields, limited by the lengths of what is in it. Were the value's
//! decoded length another one, the tables would come apart; were the encoded one, the frame would.

use super::FRAME_HEADER_BYTES;
use super::huffman::{self, Code};
use http::uri::Authority;
use std::ops::Range;

const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// `:authority` in the static table. Go and h2 name it by this index, never by its letters.
const AUTHORITY_INDEX: usize = 1;

/// Looks into one whole HEADERS frame. What is malformed stays so.
pub(super) fn repair(frame: &mut [u8]) {
    let Some(block) = block(frame) else { return };
    let Some((range, is_huffman)) = authority(block) else { return };
    let Some(value) = block.get_mut(range) else { return };
    if is_huffman {
        repair_huffman(value);
    } else {
        repair_raw(value);
    }
}

/// The frame without its header, priority and padding.
fn block(frame: &mut [u8]) -> Option<&mut [u8]> {
    let (header, payload) = frame.split_at_mut_checked(FRAME_HEADER_BYTES)?;
    let flags = *header.get(4)?;
    let (mut start, mut end) = (0, payload.len());
    if flags & FLAG_PADDED != 0 {
        start += 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    if flags & FLAG_PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    payload.get_mut(start..end)
}

/// Where the value of the first literal `:authority` is, and whether it is Huffman coded (RFC 7541, section 6).
fn authority(block: &[u8]) -> Option<(Range<usize>, bool)> {
    let mut at = 0;
    loop {
        let (is_literal, prefix_bits) = match *block.get(at)? {
            0x80.. => (false, 7),
            0x40.. => (true, 6),
            // The table's new size.
            0x20.. => (false, 5),
            _ => (true, 4),
        };
        let (index, after) = integer(block, at, prefix_bits)?;
        at = after;
        if is_literal {
            if index == 0 {
                at = string(block, at)?.end;
            }
            let value = string(block, at)?;
            if index == AUTHORITY_INDEX {
                return Some((value, block.get(at)? & 0x80 != 0));
            }
            at = value.end;
        }
    }
}

fn string(block: &[u8], at: usize) -> Option<Range<usize>> {
    let (length, start) = integer(block, at, 7)?;
    let end = start + length;
    (end <= block.len()).then_some(start..end)
}

/// The number, and where it ends. None in a frame of ours needs more than three further bytes.
fn integer(block: &[u8], at: usize, prefix_bits: u32) -> Option<(usize, usize)> {
    let prefix_max = (1 << prefix_bits) - 1;
    let mut number = usize::from(*block.get(at)?) & prefix_max;
    if number < prefix_max {
        return Some((number, at + 1));
    }
    for place in 0..3 {
        let byte = *block.get(at + 1 + place)?;
        number += usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, at + 2 + place));
        }
    }
    None
}

fn repair_raw(value: &mut [u8]) {
    if must_be_repaired(value) {
        let port_start = port_start(value);
        for byte in &mut value[..port_start] {
            if !is_plain(*byte) {
                *byte = b'-';
            }
        }
    }
}

/// Every symbol in question is exchanged for one whose code is as long. Where there is none, a shorter one is taken and
/// the next symbol, whatever it was, makes up for it: `#i` (12 and 5 bits) becomes `+-` (11 and 6). What is left in the
/// end must fit into the padding, else the value stays as it is.
fn repair_huffman(value: &mut [u8]) {
    let Some(symbols) = huffman::decode(value) else { return };
    if !must_be_repaired(&symbols) {
        return;
    }
    let port_start = port_start(&symbols);
    let mut bits_behind = 0;
    let mut codes = Vec::with_capacity(symbols.len());
    for (place, symbol) in symbols.into_iter().enumerate() {
        let Some(code) = huffman::code_of(symbol) else { return };
        let bits = code.bits + bits_behind;
        let keeps = bits_behind == 0 && (is_plain(symbol) || place >= port_start);
        let Some(new) = (if keeps { Some(code) } else { stand_in(bits) }) else { return };
        bits_behind = bits - new.bits;
        codes.push(new);
    }
    let repaired = huffman::encode(&codes);
    if repaired.len() == value.len() {
        value.copy_from_slice(&repaired);
    }
}

/// A symbol that may be anywhere in an authority, with the longest code of at most so many bits.
fn stand_in(bits: u32) -> Option<Code> {
    huffman::code_of(match bits {
        ..=5 => b'a',
        6 => b'-',
        7 => b'B',
        8..=9 => b'X',
        10 => b'!',
        11..=12 => b'+',
        13.. => b'~',
    })
}

/// h2 would refuse it, and etcd would not: Go does not let control characters pass either.
fn must_be_repaired(value: &[u8]) -> bool {
    let port_start = port_start(value);
    let (host, _) = value.split_at(port_start);
    if !host.is_empty() && host.iter().copied().all(is_plain) {
        return false;
    }
    !value.is_empty() && value.iter().all(|byte| matches!(byte, b' '..=b'~')) && Authority::try_from(value).is_err()
}

/// What any host may have. Brackets, colons and percent signs are good in some places only.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Where the final `:port` begins, or the end.
fn port_start(value: &[u8]) -> usize {
    match value.iter().rposition(|byte| !byte.is_ascii_digit()) {
        Some(colon) if colon > 0 && value[colon] == b':' && colon + 1 < value.len() => colon,
        _ => value.len(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn huffman(text: &[u8]) -> Vec<u8> {
        huffman::encode(&text.iter().map(|symbol| huffman::code_of(*symbol).unwrap()).collect::<Vec<_>>())
    }

    fn repaired_raw(text: &str) -> String {
        let mut value = text.as_bytes().to_vec();
        repair_raw(&mut value);
        String::from_utf8(value).unwrap()
    }

    fn repaired_huffman(text: &str) -> String {
        let mut value = huffman(text.as_bytes());
        repair_huffman(&mut value);
        String::from_utf8(huffman::decode(&value).unwrap()).unwrap()
    }

    #[test]
    fn an_authority_that_is_one_stays_as_it_is() {
        for text in ["127.0.0.1:2379", "localhost", "[::1]:2379", "user:secret@host:80", "a_b~c.example", "host:"] {
            assert_eq!(repaired_raw(text), text);
            assert_eq!(repaired_huffman(text), text);
        }
    }

    #[test]
    fn what_clients_of_etcd_send_becomes_an_authority() {
        for (text, raw, huffman) in [
            ("http://127.0.0.1:2379", "http---127.0.0.1:2379", "httpB--127.0.0.1:2379"),
            ("https://[::1]:2379", "https------1-:2379", "httpsB--~BB1~:2379"),
            ("#initially=[127.0.0.1:2379]", "-initially--127.0.0.1-2379-", "+-nitially-~127.0.0.1B2379~"),
            (
                "#initially=[http://a:1;http://b:2]",
                "-initially--http---a-1-http---b-2-",
                "+-nitially-~httpB--aB1XhttpB--bB2~",
            ),
            ("etcd-endpoints://0xc0001/a:1", "etcd-endpoints---0xc0001-a:1", "etcd-endpointsB--0xc0001-a:1"),
            ("/tmp/x.sock", "-tmp-x.sock", "-tmp-x.sock"),
            ("%2Ftmp%2Fx.sock:0", "-2Ftmp-2Fx.sock:0", "-2Ftmp-2Fx.sock:0"),
            ("unix:///tmp/x sock", "unix----tmp-x-sock", "unixB---tmp-x-sock"),
        ] {
            assert_eq!(repaired_raw(text), raw);
            assert_eq!(repaired_huffman(text), huffman);
            for text in [raw, huffman] {
                assert!(text.parse::<Authority>().is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn control_characters_are_left_for_h2_to_refuse() {
        for text in ["http://a\n", "http://\u{e9}", ""] {
            assert_eq!(repaired_raw(text), text);
        }
        // As above, with the 30 bits of a line feed at the end.
        let mut value = huffman(b"/a");
        value.extend_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        let sent = value.clone();
        repair_huffman(&mut value);
        assert_eq!(value, sent);
    }

    #[test]
    fn lengths_that_lie_are_not_followed() {
        for payload in [&[0x41][..], &[0x41, 0xff], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff], &[0x41, 5, b'/'], &[0, 9]] {
            let mut frame = vec![0, 0, 0, 1, 4, 0, 0, 0, 1];
            frame.extend_from_slice(payload);
            let sent = frame.clone();
            repair(&mut frame);
            assert_eq!(frame, sent);
        }
        for flags in [FLAG_PADDED, FLAG_PRIORITY, FLAG_PADDED | FLAG_PRIORITY] {
            for payload in [&[][..], &[200, 0x41, 1, b'/']] {
                let mut frame = vec![0, 0, 0, 1, flags, 0, 0, 0, 1];
                frame.extend_from_slice(payload);
                let sent = frame.clone();
                repair(&mut frame);
                assert_eq!(frame, sent);
            }
        }
    }

    fn put_string(block: &mut Vec<u8>, huffman_flag: u8, text: &[u8]) {
        match u8::try_from(text.len()).unwrap() {
            length @ ..127 => block.push(huffman_flag | length),
            length => block.extend_from_slice(&[huffman_flag | 127, length - 127]),
        }
        block.extend_from_slice(text);
    }

    fn a_field() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![0x42u8..0x7f, 0x02u8..0x0f, 0x12u8..0x1f];
        prop_oneof![
            (0x81u8..0xff).prop_map(|index| vec![index]),
            (0u8..=255).prop_map(|more| vec![0xff, more | 0x80, more & 0x7f]),
            (0x20u8..0x3f).prop_map(|size| vec![size]),
            (first, vec(any::<u8>(), 0..200)).prop_map(|(first, value)| {
                let mut field = vec![first];
                put_string(&mut field, 0, &value);
                field
            }),
            (vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20)).prop_map(|(name, value)| {
                let mut field = vec![0x40];
                put_string(&mut field, 0x80, &name);
                put_string(&mut field, 0, &value);
                field
            }),
        ]
    }

    /// Flags, payload, and where in the payload the authority is.
    pub(in super::super) fn a_block() -> impl Strategy<Value = (u8, Vec<u8>, Range<usize>)> {
        (
            any::<u8>(),
            vec(a_field(), 0..5),
            prop_oneof![Just(0x41u8), Just(0x01), Just(0x11)],
            any::<bool>(),
            "[ -~]{1,150}",
            vec(any::<u8>(), 0..30),
        )
            .prop_map(|(flags, before, first, is_huffman, text, after)| {
                let mut payload = Vec::new();
                if flags & FLAG_PADDED != 0 {
                    payload.push(u8::try_from(after.len()).unwrap());
                }
                if flags & FLAG_PRIORITY != 0 {
                    payload.extend_from_slice(&[0x41; PRIORITY_BYTES]);
                }
                payload.extend(before.into_iter().flatten());
                payload.push(first);
                let value = if is_huffman { huffman(text.as_bytes()) } else { text.into_bytes() };
                put_string(&mut payload, if is_huffman { 0x80 } else { 0 }, &value);
                let range = payload.len() - value.len()..payload.len();
                payload.extend_from_slice(&after);
                (flags, payload, range)
            })
    }

    proptest! {
        #[test]
        fn nothing_but_the_value_changes((flags, payload, range) in a_block()) {
            let mut frame = vec![0, 0, 0, 1, flags, 0, 0, 0, 1];
            frame.extend_from_slice(&payload);
            repair(&mut frame);
            let repaired = &frame[FRAME_HEADER_BYTES..];
            prop_assert_eq!(&repaired[..range.start], &payload[..range.start]);
            prop_assert_eq!(&repaired[range.end..], &payload[range.end..]);
            let is_huffman = payload[..range.start].iter().rev().take(2).any(|byte| byte & 0x80 != 0);
            if !is_huffman {
                prop_assert!(Authority::try_from(&repaired[range]).is_ok());
            }
        }

        #[test]
        fn a_raw_value_becomes_an_authority(text in "[ -~]{1,150}") {
            let repaired = repaired_raw(&text);
            prop_assert_eq!(repaired.len(), text.len());
            prop_assert!(repaired.parse::<Authority>().is_ok(), "{repaired}");
        }

        /// The exception: a symbol without a stand-in of its length, for which nothing after it makes up.
        #[test]
        fn a_huffman_value_becomes_an_authority_of_both_lengths_or_stays(text in "[ -~]{1,150}") {
            let repaired = repaired_huffman(&text);
            prop_assert_eq!(repaired.len(), text.len());
            let stays = repaired == text && text.contains(['#', '>', '^', '}', '<', '`', '{', '\\']);
            prop_assert!(stays || repaired.parse::<Authority>().is_ok(), "{repaired}");
        }

        #[test]
        fn bytes_of_any_kind_are_survived(mut frame in vec(any::<u8>(), 0..200)) {
            let length = frame.len();
            repair(&mut frame);
            prop_assert_eq!(frame.len(), length);
        }
    }
}
