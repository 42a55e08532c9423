//! A key that needs no allocation up to 22 bytes, which revisions (17 or 18 bytes) always stay below: a third of the
//! memory of a handle with its own allocation, and a comparison without a cache miss.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Deref;

const INLINE_BYTES_MAX: usize = 22;

#[derive(Clone)]
pub(crate) enum SmallKey {
    Inline { length: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<SmallKey>() == 24);

impl SmallKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES_MAX {
            return Self::Heap(key.into());
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Self::Inline { length: key.len() as u8, bytes }
    }
}

impl Deref for SmallKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Heap(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for SmallKey {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SmallKey {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SmallKey {}

impl PartialOrd for SmallKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SmallKey {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_bytes_wherever_they_are_kept() {
        let keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![1; 22], vec![1; 23], vec![1; 40], vec![2]];
        for left in &keys {
            assert_eq!(&*SmallKey::new(left), left.as_slice());
            for right in &keys {
                assert_eq!(SmallKey::new(left).cmp(&SmallKey::new(right)), left.cmp(right));
            }
        }
    }
}
