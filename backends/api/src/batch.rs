//! A set of changes for a backend.

use crate::Table;
use bytes::Bytes;

/// One change of one row, or of a range of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put { table: Table, key: Bytes, value: Bytes },
    Delete { table: Table, key: Bytes },
}

/// Changes that reach the disk together or not at all. Later operations win over earlier ones on the same row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<Op>,
    bytes: usize,
}

impl WriteBatch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put { table, key, value });
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(Op::Delete { table, key });
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Sum of the lengths of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes = 0;
    }
}
