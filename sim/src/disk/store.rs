//! A backend that forgets: batches reach readers at once and the disk only with a flush, or in part at a crash.

use super::fuse::Fuse;
use crate::dice::Dice;
use bytes::Bytes;
use castd_backend_api::{Backend, BackendError, Op, Size, Table, Visit, WriteBatch};
use parking_lot::RwLock;
use std::collections::{BTreeMap, VecDeque};

type Rows = [BTreeMap<Bytes, Bytes>; Table::ALL.len()];

#[derive(Default)]
struct State {
    rows: Rows,
    durable: Rows,
    /// Batches that readers see and the disk does not have.
    unsynced: VecDeque<WriteBatch>,
}

pub struct ForgetfulStore {
    state: RwLock<State>,
    fuse: Fuse,
    /// False for one that has no disk at all.
    is_durable: bool,
}

fn place(table: Table) -> usize {
    Table::ALL.iter().position(|known| *known == table).unwrap_or(0)
}

fn apply(rows: &mut Rows, op: &Op) {
    match op {
        Op::Put { table, key, value } => rows[place(*table)].insert(key.clone(), value.clone()),
        Op::Delete { table, key } => rows[place(*table)].remove(key),
    };
}

impl ForgetfulStore {
    pub fn new(is_durable: bool, fuse: Fuse) -> Self {
        ForgetfulStore { state: RwLock::default(), fuse, is_durable }
    }

    pub fn unsynced(&self) -> usize {
        self.state.read().unsynced.len()
    }

    /// The first `batches` that were not flushed reach the disk, as engines do by themselves.
    pub fn persist(&self, batches: usize) {
        if !self.is_durable {
            return;
        }
        let state = &mut *self.state.write();
        let batches = batches.min(state.unsynced.len());
        for batch in state.unsynced.drain(..batches) {
            batch.ops().iter().for_each(|op| apply(&mut state.durable, op));
        }
    }

    /// The power goes, and of what was not flushed rows survive here and there, as the dice say: what an engine leaves that writes
    /// its pages in any order and takes together what it finds.
    pub fn crash_torn(&self, dice: &mut Dice) -> usize {
        let state = &mut *self.state.write();
        let lost = state.unsynced.len();
        for batch in state.unsynced.drain(..) {
            batch.ops().iter().filter(|_| dice.chance(500)).for_each(|op| apply(&mut state.durable, op));
        }
        state.rows = state.durable.clone();
        lost
    }

    /// The power goes: of the batches that were not flushed, the first `keep` survive. Answers how many did not.
    pub fn crash(&self, keep: usize) -> usize {
        self.persist(keep);
        let state = &mut *self.state.write();
        let lost = state.unsynced.len();
        state.unsynced.clear();
        state.rows = state.durable.clone();
        lost
    }
}

impl Backend for ForgetfulStore {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), BackendError> {
        self.fuse.step(|| {
            let state = &mut *self.state.write();
            batch.ops().iter().for_each(|op| apply(&mut state.rows, op));
            if self.is_durable {
                state.unsynced.push_back(batch.clone());
            }
            Ok(())
        })
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.state.read().rows[place(table)].get(key).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        let state = self.state.read();
        for (key, value) in state.rows[place(table)].range(Bytes::copy_from_slice(from)..) {
            if (!to.is_empty() && key.as_ref() >= to) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        if !self.is_durable {
            return Ok(());
        }
        self.fuse.step(|| {
            self.persist(usize::MAX);
            Ok(())
        })
    }

    fn durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.state.read().durable[place(table)].get(key).cloned())
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
