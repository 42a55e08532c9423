//! What the key space was when it was compacted: HashKV of the last ten compactions, each as of the moment before it.
//!
//! ```text
//!   compacted(view of before) ─▶ waiting ──▶ a worker hashes ─▶ hashed ─▶ the last ten ◀─ ask
//! ```
//! Members compare these: they compact at the same revisions, and at such a revision the rows up to it are the same on all
//! of them, whatever has been written since. As in etcd they are forgotten with the process.

use super::{HashKv, View};
use crate::ids::Revision;
use std::collections::VecDeque;
use std::fmt;
use tokio::sync::oneshot;

/// etcd's `hashStorageMaxSize`.
const KEPT: usize = 10;
/// While a view waits, what it sees is not deleted; so only so many do. Of more, the oldest are given up.
const WAITING_MAX: usize = 10;

/// A compaction whose rows are to be hashed.
pub struct Compacted {
    pub revision: Revision,
    /// From before it.
    pub view: View,
}

impl fmt::Debug for Compacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compacted").field("revision", &self.revision).finish_non_exhaustive()
    }
}

type Answer = oneshot::Sender<Option<HashKv>>;

#[derive(Default)]
pub struct CompactionHashes {
    waiting: VecDeque<Compacted>,
    /// At the worker.
    under_way: Option<Revision>,
    hashed: VecDeque<HashKv>,
    asked: Vec<(Revision, Answer)>,
}

impl CompactionHashes {
    pub fn compacted(&mut self, compacted: Compacted) {
        if self.waiting.len() == WAITING_MAX
            && let Some(given_up) = self.waiting.pop_front()
        {
            self.answer(given_up.revision, None);
        }
        self.waiting.push_back(compacted);
    }

    /// The next to be hashed, if none is.
    pub fn begin_next(&mut self) -> Option<Compacted> {
        if self.under_way.is_some() {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.under_way = Some(next.revision);
        Some(next)
    }

    /// What [`CompactionHashes::begin_next`] gave out has been hashed; or nobody could.
    pub fn hashed(&mut self, hash: Option<HashKv>) {
        let Some(revision) = self.under_way.take() else { return };
        if let Some(hash) = hash {
            if self.hashed.len() == KEPT {
                self.hashed.pop_front();
            }
            self.hashed.push_back(hash);
        }
        self.answer(revision, hash);
    }

    /// Those that are known.
    pub fn known(&self) -> Vec<HashKv> {
        self.hashed.iter().copied().collect()
    }

    /// Answers now, or when the compaction at `revision` has been hashed.
    pub fn ask(&mut self, revision: Revision, reply: Answer) {
        let is_to_come = self.under_way == Some(revision) || self.waiting.iter().any(|next| next.revision == revision);
        if is_to_come {
            if self.asked.len() == self.asked.capacity() {
                // Before the list grows, those who have gone are taken off it.
                self.asked.retain(|(_, reply)| !reply.is_closed());
            }
            self.asked.push((revision, reply));
            return;
        }
        // Whoever asked may have gone; then nobody needs the answer.
        let _ = reply.send(self.hashed.iter().find(|hash| hash.hash_revision == revision.0).copied());
    }

    fn answer(&mut self, revision: Revision, hash: Option<HashKv>) {
        for (_, reply) in self.asked.extract_if(.., |(asked, _)| *asked == revision) {
            let _ = reply.send(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Store;
    use castd_backend_memory::Memory;
    use std::sync::Arc;

    fn compacted(revision: i64) -> Compacted {
        let view = Store::open(Arc::new(Memory::new())).expect("an empty store").view();
        Compacted { revision: Revision(revision), view }
    }

    fn hash(revision: i64) -> HashKv {
        HashKv { hash: revision as u32, compact_revision: revision - 1, hash_revision: revision }
    }

    fn ask(hashes: &mut CompactionHashes, revision: i64) -> oneshot::Receiver<Option<HashKv>> {
        let (reply, answer) = oneshot::channel();
        hashes.ask(Revision(revision), reply);
        answer
    }

    #[test]
    fn the_last_ten_are_known() {
        let mut hashes = CompactionHashes::default();
        for revision in 1..=12 {
            hashes.compacted(compacted(revision));
            assert_eq!(hashes.begin_next().expect("one").revision, Revision(revision));
            hashes.hashed(Some(hash(revision)));
        }
        for revision in 0..15 {
            let known = (3..=12).contains(&revision).then(|| hash(revision));
            assert_eq!(ask(&mut hashes, revision).try_recv(), Ok(known));
        }
    }

    #[test]
    fn one_is_hashed_at_a_time_and_who_asks_for_one_to_come_waits() {
        let mut hashes = CompactionHashes::default();
        hashes.compacted(compacted(5));
        hashes.compacted(compacted(7));
        let (mut five, mut seven) = (ask(&mut hashes, 5), ask(&mut hashes, 7));
        assert_eq!(hashes.begin_next().expect("one").revision, Revision(5));
        assert!(hashes.begin_next().is_none());
        assert!(five.try_recv().is_err());
        hashes.hashed(Some(hash(5)));
        assert_eq!(five.try_recv(), Ok(Some(hash(5))));
        assert!(seven.try_recv().is_err());
        assert_eq!(hashes.begin_next().expect("one").revision, Revision(7));
        hashes.hashed(None);
        assert_eq!(seven.try_recv(), Ok(None), "it could not be hashed");
        assert_eq!(ask(&mut hashes, 7).try_recv(), Ok(None));
    }

    #[test]
    fn of_too_many_the_oldest_are_given_up() {
        let mut hashes = CompactionHashes::default();
        hashes.compacted(compacted(1));
        let mut first = ask(&mut hashes, 1);
        for revision in 2..=WAITING_MAX as i64 + 1 {
            hashes.compacted(compacted(revision));
        }
        assert_eq!(first.try_recv(), Ok(None));
        assert_eq!(hashes.begin_next().expect("one").revision, Revision(2));
    }
}
