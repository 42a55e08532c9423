//! A backend that forgets: batches reach readers at once and the disk only with a flush, or in part at a crash.

use bytes::Bytes;
use castd_backend_api::{Backend, BackendError, Op, Size, Table, Visit, WriteBatch};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Rows = BTreeMap<(Table, Bytes), Bytes>;

#[derive(Default)]
struct State {
    rows: Rows,
    durable: Rows,
    /// Batches that readers see and the disk does not have.
    unsynced: Vec<WriteBatch>,
}

#[derive(Default)]
pub struct ForgetfulBackend(Mutex<State>);

impl ForgetfulBackend {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    /// The power goes: of the batches that were not flushed, the first `keep` survive.
    pub fn crash(&self, keep: usize) {
        let state = &mut *self.state();
        for batch in state.unsynced.drain(..).take(keep) {
            apply(&mut state.durable, &batch);
        }
        state.rows = state.durable.clone();
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&self) {
        *self.state() = State::default();
    }
}

fn apply(rows: &mut Rows, batch: &WriteBatch) {
    for op in batch.ops() {
        match op {
            Op::Put { table, key, value } => rows.insert((*table, key.clone()), value.clone()),
            Op::Delete { table, key } => rows.remove(&(*table, key.clone())),
        };
    }
}

impl Backend for ForgetfulBackend {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
        let state = &mut *self.state();
        apply(&mut state.rows, batch);
        state.unsynced.push(batch.clone());
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.state().rows.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        let state = self.state();
        let start = (table, Bytes::copy_from_slice(from));
        for ((found, key), value) in state.rows.range(start..) {
            if *found != table || (!to.is_empty() && key.as_ref() >= to) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        let state = &mut *self.state();
        state.unsynced.clear();
        state.durable = state.rows.clone();
        Ok(())
    }

    fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.state().durable.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn size(&self) -> Result<Size, BackendError> {
        Ok(Size::default())
    }

    fn reclaim(&self, _: Table) -> Result<(), BackendError> {
        Ok(())
    }

    fn background_errors(&self) -> Result<(), BackendError> {
        Ok(())
    }
}
