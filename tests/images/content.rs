//! What is in a file, in pages that are shared between the many moments at which a file is looked at.

use imbl::OrdMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

pub const PAGE: u64 = 4096;

/// Pages that are not there are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    pub pages: OrdMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut offset, mut rest) = (offset, data);
        while !rest.is_empty() {
            let within = (offset % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - within));
            let page = self.pages.entry(offset / PAGE).or_insert_with(|| Arc::new(vec![0; PAGE as usize]));
            Arc::make_mut(page)[within..within + now.len()].copy_from_slice(now);
            offset += now.len() as u64;
            rest = later;
        }
        self.size = self.size.max(offset);
    }

    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.pages = self.pages.split(&size.div_ceil(PAGE)).0;
            if let Some(page) = self.pages.get_mut(&(size / PAGE)) {
                Arc::make_mut(page)[(size % PAGE) as usize..].fill(0);
            }
        }
        self.size = size;
    }

    pub fn is_in(&self, path: &Path) -> io::Result<bool> {
        let found = std::fs::read(path)?;
        let is_page = |(number, found): (usize, &[u8])| match self.pages.get(&(number as u64)) {
            Some(page) => found == &page[..found.len()],
            None => found.iter().all(|byte| *byte == 0),
        };
        Ok(found.len() as u64 == self.size && found.chunks(PAGE as usize).enumerate().all(is_page))
    }

    pub fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        for (number, page) in &self.pages {
            let offset = number * PAGE;
            let length = self.size.saturating_sub(offset).min(PAGE) as usize;
            file.write_all_at(&page[..length], offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_was_cut_is_zero() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let stored = |content: &Content| {
            content.store(&path).expect("stored");
            assert!(content.is_in(&path).expect("read"));
            let bytes = std::fs::read(&path).expect("read");
            for other in [&[&bytes[..], &[0]].concat()[..], &[&bytes[..bytes.len() - 1], b"!"].concat()] {
                std::fs::write(&path, other).expect("written");
                assert!(!content.is_in(&path).expect("read"));
            }
            bytes
        };
        let mut content = Content::default();
        content.write(PAGE - 2, b"abcdef");
        let mut expected = vec![0; PAGE as usize - 2];
        expected.extend(b"abcdef");
        assert_eq!(stored(&content), expected);
        let before = content.clone();
        content.resize(PAGE);
        content.resize(PAGE + 4);
        expected[PAGE as usize..].fill(0);
        assert_eq!(stored(&content), expected);
        content.resize(3);
        assert_eq!(stored(&content), [0; 3]);
        assert_eq!(before.size, PAGE + 4, "an earlier moment is not changed");
        assert_eq!(stored(&before)[PAGE as usize..], *b"cdef");
    }
}
