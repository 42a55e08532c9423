//! A sorted list of keys in one block of memory.

/// Copies of a list keep room for this many more keys, so that the insert which caused the copy does not copy again.
pub(super) const SPARE_KEYS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    ends: Vec<u32>,
}

impl Clone for Keys {
    fn clone(&self) -> Self {
        let spare = if self.ends.is_empty() { 0 } else { SPARE_KEYS * (self.bytes.len() / self.ends.len() + 1) };
        let mut bytes = Vec::with_capacity(self.bytes.len() + spare);
        bytes.extend_from_slice(&self.bytes);
        let mut ends = Vec::with_capacity(self.ends.len() + SPARE_KEYS);
        ends.extend_from_slice(&self.ends);
        Self { bytes, ends }
    }
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn start(&self, position: usize) -> usize {
        position.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(super) fn get(&self, position: usize) -> &[u8] {
        &self.bytes[self.start(position)..self.ends[position] as usize]
    }

    /// The position of `key`, or where it would go.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// How many keys are smaller than `key`.
    pub(super) fn before(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|position| position)
    }

    /// How many keys are smaller than `key` or equal to it.
    pub(super) fn up_to(&self, key: &[u8]) -> usize {
        self.search(key).map_or_else(|position| position, |position| position + 1)
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.insert(self.len(), key);
    }

    pub(super) fn insert(&mut self, position: usize, key: &[u8]) {
        if self.ends.len() == self.ends.capacity() {
            self.ends.reserve_exact(2 * SPARE_KEYS);
        }
        if self.bytes.capacity() - self.bytes.len() < key.len() {
            self.bytes.reserve_exact(2 * SPARE_KEYS * key.len());
        }
        let start = self.start(position);
        self.bytes.extend_from_slice(key);
        self.bytes[start..].rotate_right(key.len());
        let length = length(key);
        for end in &mut self.ends[position..] {
            *end += length;
        }
        self.ends.insert(position, start as u32 + length);
    }

    pub(super) fn remove(&mut self, position: usize) {
        let (start, end) = (self.start(position), self.ends[position]);
        self.bytes.drain(start..end as usize);
        self.ends.remove(position);
        for later in &mut self.ends[position..] {
            *later -= end - start as u32;
        }
    }

    /// Cuts the list before `position` and gives the rest back.
    pub(super) fn split_off(&mut self, position: usize) -> Self {
        let start = self.start(position);
        let rest = Self {
            bytes: self.bytes[start..].to_vec(),
            ends: self.ends[position..].iter().map(|end| end - start as u32).collect(),
        };
        self.bytes.truncate(start);
        self.ends.truncate(position);
        self.shrink();
        rest
    }

    pub(super) fn append(&mut self, other: &Self) {
        for position in 0..other.len() {
            self.push(other.get(position));
        }
    }

    pub(super) fn with_capacity(keys: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(keys) }
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// A key comes out of one request: far below 4 GiB, and a leaf is split long before its keys reach that together.
fn length(key: &[u8]) -> u32 {
    assert!(key.len() < (u32::MAX / 2) as usize, "a key of {} bytes", key.len());
    key.len() as u32
}

/// The shortest key that is greater than `left` and not greater than `right`.
pub(super) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    let common = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    &right[..right.len().min(common + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn contents(keys: &Keys) -> Vec<Vec<u8>> {
        (0..keys.len()).map(|position| keys.get(position).to_vec()).collect()
    }

    proptest! {
        #[test]
        fn a_list_of_keys_is_a_sorted_set(
            steps in proptest::collection::vec((proptest::collection::vec(0u8..3, 0..4), any::<bool>()), 0..60),
            cut in 0usize..60,
        ) {
            let mut keys = Keys::default();
            let mut model = BTreeSet::new();
            for (key, insert) in steps {
                match keys.search(&key) {
                    Err(position) if insert => keys.insert(position, &key),
                    Ok(position) if !insert => keys.remove(position),
                    _ => {}
                }
                if insert { model.insert(key) } else { model.remove(&key) };
                prop_assert_eq!(contents(&keys), model.iter().cloned().collect::<Vec<_>>());
            }
            let cut = cut.min(keys.len());
            let mut left = keys.clone();
            let right = left.split_off(cut);
            prop_assert_eq!(contents(&left), contents(&keys)[..cut].to_vec());
            prop_assert_eq!(contents(&right), contents(&keys)[cut..].to_vec());
            left.append(&right);
            prop_assert_eq!(contents(&left), contents(&keys));
        }

        #[test]
        fn a_separator_separates(left in proptest::collection::vec(0u8..3, 0..5), right in proptest::collection::vec(0u8..3, 0..5)) {
            prop_assume!(left < right);
            let between = separator(&left, &right);
            prop_assert!(left.as_slice() < between && between <= right.as_slice());
        }
    }
}
