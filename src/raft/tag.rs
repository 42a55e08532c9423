//! Names one request of one member, wherever it is in the log.
//!
//! ```text
//!   member (8) │ boot (8) │ sequence (8)      big endian, the `context` of the raft entry
//! ```
//! A member that forwards a request repeats it, with the same tag, until it has applied the entry; so the entry may be in the
//! log more than once, and the state machine carries out the first one only. An entry without a tag was proposed by the
//! leader for itself, and never repeated.

use crate::ids::MemberId;

/// Bytes of a tag in an entry's context.
const LENGTH: usize = 24;

/// How far apart the sequences of one boot may be that are under way at the same time: the state machine remembers so many.
pub const TAG_WINDOW: u64 = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestTag {
    /// Whose client asked.
    pub member: MemberId,
    /// Of that member's process: each start draws another one.
    pub boot: u64,
    /// Counts the member's requests from 1.
    pub sequence: u64,
}

impl RequestTag {
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.member.0, self.boot, self.sequence]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// `None` if there is none: whoever proposed the entry did not want it told from others.
    pub fn from_context(context: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = context.try_into().ok()?;
        let mut numbers =
            bytes.chunks_exact(8).map(|chunk| chunk.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)));
        Some(RequestTag { member: MemberId(numbers.next()?), boot: numbers.next()?, sequence: numbers.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written_and_nothing_else_is_a_tag() {
        let tag = RequestTag { member: MemberId(0x8e9e_05c5_2164_694d), boot: u64::MAX - 1, sequence: 258 };
        let bytes = tag.to_bytes();
        assert_eq!(bytes[..9], [0x8e, 0x9e, 0x05, 0xc5, 0x21, 0x64, 0x69, 0x4d, 0xff]);
        assert_eq!(bytes[22..], [1, 2]);
        assert_eq!(RequestTag::from_context(&bytes), Some(tag));
        for context in [&bytes[..23], &[][..], &[0; 25]] {
            assert_eq!(RequestTag::from_context(context), None);
        }
    }
}
