//! Who reads on which thread.
//!
//! raft-engine keeps, for each thread, the block of entries that was read last, and knows it again by file number, place and
//! length alone. Two logs in one process have such blocks in common: a thread that has read one of them is given its entries
//! for the other's, and a purge would write them into the other's files.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// The one that has read here first; 0 for nobody.
    static FIRST: Cell<u64> = const { Cell::new(0) };
}

/// One opened log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader(u64);

impl Reader {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Reader(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Reads on this thread if no other log has ever done so, and on one of its own otherwise: a member's LogWriter always has
    /// its thread to itself, members that share a program may not.
    pub(super) fn alone<T: Send>(self, read: impl FnOnce() -> T + Send) -> T {
        let is_first = FIRST.with(|first| {
            if first.get() == 0 {
                first.set(self.0);
            }
            first.get() == self.0
        });
        if is_first {
            return read();
        }
        std::thread::scope(|scope| scope.spawn(read).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EngineLog, EngineLogOptions, LogStore, LogWrite};
    use super::*;
    use crate::ids::LogIndex;
    use crate::raft::log::Install;
    use crate::raft::terms::LogPosition;
    use raft::eraftpb::{ConfState, Entry, HardState};
    use std::path::Path;

    /// Logs of the same shape that say different things.
    fn write(path: &Path, said: &'static str) {
        let mut log = EngineLog::open(EngineLogOptions::new(path)).expect("opened");
        let (position, conf_state) = (LogPosition::new(0, 0), ConfState::default());
        let hard_state = HardState::default();
        log.replace(&Install { position, conf_state, hard_state, pending: None }).expect("begun");
        let entries = vec![Entry { index: 1, term: 1, data: said.into(), ..Entry::default() }];
        log.append(&LogWrite { entries, hard_state: None, must_sync: true }).expect("written");
    }

    fn read(log: &mut EngineLog) -> Vec<u8> {
        log.load(LogIndex(0)).expect("sound").entries[0].data.to_vec()
    }

    #[test]
    fn logs_that_are_read_on_one_thread_do_not_get_each_others_entries() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        write(&one, "one");
        write(&other, "two");
        let open = |path: &Path| EngineLog::open(EngineLogOptions::new(path)).expect("opened");
        for _ in 0..3 {
            assert_eq!(read(&mut open(&one)), b"one");
            assert_eq!(read(&mut open(&other)), b"two");
        }
        let (mut one, mut other) = (open(&one), open(&other));
        for _ in 0..3 {
            assert_eq!(read(&mut one), b"one");
            assert_eq!(read(&mut other), b"two");
        }
    }

    #[test]
    fn a_thread_is_its_first_readers() {
        let (first, second) = (Reader::new(), Reader::new());
        std::thread::spawn(move || {
            let here = std::thread::current().id();
            let place = || std::thread::current().id();
            assert_eq!(first.alone(place), here);
            assert_ne!(second.alone(place), here);
            assert_eq!(first.alone(place), here);
        })
        .join()
        .expect("as said");
    }
}
