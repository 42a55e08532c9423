//! The newest changes, kept so that a watcher that is only a little behind needs no read of storage.
//!
//! It also closes the gap that opens while history is read: under load there would always be one more change by the time
//! the read is back, and a watcher would never be in sync again.

use super::Changes;
use super::delivery::event_bytes;
use crate::ids::Revision;
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) struct Recent {
    slices: VecDeque<(Arc<[Changes]>, usize)>,
    revisions: usize,
    bytes: usize,
    revisions_max: usize,
    bytes_max: usize,
}

impl Recent {
    pub fn new(revisions_max: usize, bytes_max: usize) -> Self {
        Self { slices: VecDeque::new(), revisions: 0, bytes: 0, revisions_max, bytes_max }
    }

    /// Adds the changes that follow the newest there are.
    pub fn push(&mut self, changes: Arc<[Changes]>) {
        let bytes = changes.iter().flat_map(|change| &change.events).map(event_bytes).sum();
        self.bytes += bytes;
        self.revisions += changes.len();
        self.slices.push_back((changes, bytes));
        while self.revisions > self.revisions_max || self.bytes > self.bytes_max {
            let Some((oldest, bytes)) = self.slices.pop_front() else { break };
            self.bytes -= bytes;
            self.revisions -= oldest.len();
        }
    }

    /// Everything from `from` on, if it is all here. The first slice may begin earlier.
    pub fn since(&self, from: Revision) -> Option<Vec<Arc<[Changes]>>> {
        let oldest = self.slices.front()?.0.first()?.revision;
        if from < oldest {
            return None;
        }
        let begin = self.slices.partition_point(|(slice, _)| slice.last().is_some_and(|last| last.revision < from));
        Some(self.slices.range(begin..).map(|(slice, _)| slice.clone()).collect())
    }

    pub fn clear(&mut self) {
        self.slices.clear();
        self.revisions = 0;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(revisions: std::ops::RangeInclusive<i64>) -> Arc<[Changes]> {
        revisions.map(|revision| Changes { revision: Revision(revision), events: Vec::new() }).collect()
    }

    #[test]
    fn it_gives_all_or_nothing_and_forgets_the_oldest() {
        let mut recent = Recent::new(5, 1_000);
        assert!(recent.since(Revision(1)).is_none(), "an empty one knows nothing");
        recent.push(slice(2..=3));
        recent.push(slice(4..=6));
        assert_eq!(recent.since(Revision(2)).unwrap().len(), 2);
        assert_eq!(recent.since(Revision(3)).unwrap().len(), 2);
        assert_eq!(recent.since(Revision(4)).unwrap().len(), 1);
        recent.push(slice(7..=7));
        assert!(recent.since(Revision(3)).is_none());
        assert_eq!(recent.since(Revision(5)).unwrap().len(), 2);
    }
}
