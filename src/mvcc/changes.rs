//! What happened at a revision, for watchers: from a slice as it is applied, or read back from the rows.

use std::ops::ControlFlow;

use bytes::Bytes;
use castd_backend_api::Table;
use castd_proto::mvccpb::KeyValue;

use crate::ids::Revision;

use super::{MvccError, RowKey, StoreError, View, row};

/// A catch-up is cut after so many bytes of rows, at the end of a revision.
const CATCH_UP_BYTES: usize = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key. After a deletion `kv` has only key and revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KeyValue,
    /// The row the key had one revision earlier, for [`View::previous`]. None for a put that created the key.
    pub previous: Option<RowKey>,
}

/// All changes of one revision, in the order they were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub revision: Revision,
    pub events: Vec<Event>,
}

/// A stretch of the past.
#[derive(Clone, Debug, PartialEq)]
pub struct CatchUp {
    /// Ascending.
    pub changes: Vec<Changes>,
    /// The first revision that was not looked at.
    pub next: Revision,
}

impl View {
    /// The changes from `from` up to `to` (at most the revision of the view), not more than `revisions_max` revisions of them.
    ///
    /// # Errors
    /// [`MvccError::Compacted`] if `from` is below the compacted revision. Starting at it is fine.
    pub fn changes(&self, from: Revision, to: Revision, revisions_max: usize) -> Result<CatchUp, MvccError> {
        if from.0 < self.compacted {
            return Err(self.reader().compacted(from.0));
        }
        let end = Revision(to.0.min(self.revision).saturating_add(1));
        let from = Revision(from.0.max(0));
        let mut caught_up = CatchUp { changes: Vec::new(), next: end.max(from) };
        if from >= end {
            return Ok(caught_up);
        }
        let mut bytes = 0;
        let mut damaged = None;
        let (first, behind) = (RowKey::first_of(from).encode(), RowKey::first_of(end).encode());
        self.backend.scan(Table::Kv, &first, &behind, &mut |key, row| {
            let Some(key) = RowKey::decode(key) else {
                damaged = Some(StoreError::RowKeyDamaged(key.to_vec()));
                return ControlFlow::Break(());
            };
            let changes = &mut caught_up.changes;
            if changes.last().is_none_or(|last| last.revision != key.main) {
                if changes.len() >= revisions_max || bytes > CATCH_UP_BYTES {
                    caught_up.next = key.main;
                    return ControlFlow::Break(());
                }
                changes.push(Changes { revision: key.main, events: Vec::new() });
            }
            let Some(event) = self.event(key, row) else {
                damaged = Some(StoreError::RowDamaged(key));
                return ControlFlow::Break(());
            };
            bytes += row.len();
            if let Some(last) = changes.last_mut() {
                last.events.push(event);
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(caught_up), |error| Err(error.into()))
    }

    fn event(&self, key: RowKey, row: &[u8]) -> Option<Event> {
        let kv = row::key_value(&Bytes::copy_from_slice(row))?;
        if key.tombstone {
            let previous = self.row_before(&kv.key, key.main);
            let kv = KeyValue { key: kv.key, mod_revision: key.main.0, ..KeyValue::default() };
            return Some(Event { kind: EventKind::Delete, kv, previous });
        }
        let previous = if kv.create_revision == key.main.0 { None } else { self.row_before(&kv.key, key.main) };
        Some(Event { kind: EventKind::Put, kv, previous })
    }

    fn row_before(&self, key: &[u8], main: Revision) -> Option<RowKey> {
        let before = main.0.checked_sub(1).filter(|before| *before >= self.compacted)?;
        Some(self.tree.live_at(key, before)?.row())
    }
}
