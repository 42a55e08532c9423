//! What an observer of an election is told: each value of each leader.
//!
//! ```text
//!            ┌── somebody put the first key ─▶ told ──┐
//!   nobody ◀─┤                                        ├─▶ one key ── it was put ─▶ told
//!            └── the view has no key      has one ────┘      └─ it was deleted ─▶ look at a view again
//! ```

use super::Queue;
use crate::ids::Revision;
use crate::mvcc::{Event, EventKind};
use crate::watch::{KeyRange, Selector};
use bytes::Bytes;
use castd_proto::mvccpb::KeyValue;

pub struct Following {
    queue: Queue,
    /// The key whose events count; `None` while there is none.
    leader: Option<Bytes>,
    /// What was told last: it is not told twice when the same is found by looking again.
    told: Option<(Bytes, i64)>,
}

/// A leader's value, and the revision of the answer that it was found in.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    pub kv: KeyValue,
    pub revision: Revision,
}

/// What an event is to an observer.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Nothing,
    /// The leader has a new value.
    Proclaimed(News),
    /// There is a leader now. From its revision on, its key alone is to be watched.
    Elected(News),
    /// The leader is gone: who is next is for a view to say.
    Gone,
}

impl Following {
    pub fn new(queue: Queue) -> Self {
        Self { queue, leader: None, told: None }
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes what [`Queue::first`] has found at `revision`; answers it if it is news. Afterwards [`Following::selector`]
    /// is to be watched, from the next revision on.
    pub fn find(&mut self, first: Option<KeyValue>, revision: Revision) -> Option<News> {
        self.leader = first.as_ref().map(|kv| kv.key.clone());
        first.filter(|kv| !self.was_told(kv)).map(|kv| self.tell(kv, revision))
    }

    /// The keys whose events may be news.
    pub fn selector(&self) -> Selector {
        match &self.leader {
            Some(key) => Selector::Key(key.clone()),
            None => Selector::Range(KeyRange { start: self.queue.prefix.clone(), end: Some(self.queue.end.clone()) }),
        }
    }

    /// `revision` is that of the notification, which may be later than the event's.
    pub fn hear(&mut self, event: &Event, revision: Revision) -> Heard {
        match (event.kind, &self.leader) {
            (EventKind::Delete, Some(key)) if *key == event.kv.key => {
                self.leader = None;
                Heard::Gone
            }
            (EventKind::Put, Some(key)) if *key == event.kv.key => {
                Heard::Proclaimed(self.tell(event.kv.clone(), revision))
            }
            (EventKind::Put, None) => {
                self.leader = Some(event.kv.key.clone());
                Heard::Elected(self.tell(event.kv.clone(), Revision(event.kv.mod_revision)))
            }
            (EventKind::Delete | EventKind::Put, _) => Heard::Nothing,
        }
    }

    fn was_told(&self, kv: &KeyValue) -> bool {
        self.told.as_ref().is_some_and(|(key, revision)| *key == kv.key && *revision == kv.mod_revision)
    }

    fn tell(&mut self, kv: KeyValue, revision: Revision) -> News {
        self.told = Some((kv.key.clone(), kv.mod_revision));
        News { kv, revision }
    }
}
