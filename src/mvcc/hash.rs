//! HashKV: one number for everything a store holds up to a revision, computed as etcd does.
//!
//! CRC-32C over `key`, then key and value of every row in revision order. At and below the compacted revision only rows count
//! that compaction at the hashed revision would keep: whether the others have been deleted yet is nobody's business. A
//! deletion exactly at the compacted revision never counts, because older releases of etcd do not keep it.

use std::ops::ControlFlow;

use castd_backend_api::{Table, Visit};

use crate::ids::Revision;

use super::{
    MvccError, RowKey, StoreError, View,
    index::{Version, Walk},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// -1 if nothing was ever compacted.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
}

impl View {
    /// `revision` 0 is the current one. Reads every row.
    ///
    /// # Errors
    /// [`MvccError::Compacted`] and [`MvccError::FutureRevision`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, MvccError> {
        let at = self.reader().revision(revision)?;
        // If nothing at all is left at the revision, etcd hashes what compaction kept.
        let kept = self.kept(at).unwrap_or_else(|| self.kept(self.compacted).unwrap_or_default());
        let mut hash = crc32c::crc32c(b"key");
        self.scan_kept(kept, at, &mut |key, row| {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), row);
            ControlFlow::Continue(())
        })?;
        Ok(HashKv { hash, compact_revision: self.compacted, hash_revision: at })
    }

    /// Visits every row that this view stands for, in revision order, and nothing else: rows that compaction has doomed are
    /// left out, whether they have been deleted yet or not. A plain scan of the table would see some of them go while it
    /// runs, a deletion perhaps and not the puts before it.
    ///
    /// # Errors
    /// When the backend fails or a row's key is damaged.
    pub fn scan_rows(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut kept = Vec::new();
        self.tree.walk(Walk { from: &[], to: None, descending: false, live_only: false }, &mut |entry| {
            let version =
                entry.at(self.compacted).filter(|version| version.is_live() || version.main == self.compacted);
            kept.extend(version.map(|version| version.row()));
            ControlFlow::Continue(())
        });
        kept.sort_unstable();
        self.scan_kept(kept, self.revision, visit)
    }

    /// Visits `kept`, ascending, of the rows up to the compacted revision, and all rows from there up to `at`.
    fn scan_kept(&self, kept: Vec<RowKey>, at: i64, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut kept = kept.into_iter().peekable();
        let mut damaged = None;
        let end = RowKey::first_of(Revision(at.saturating_add(1))).encode();
        self.backend.scan(Table::Kv, &[], &end, &mut |bytes, row| {
            let Some(key) = RowKey::decode(bytes) else {
                damaged = Some(StoreError::RowKeyDamaged(bytes.to_vec()));
                return ControlFlow::Break(());
            };
            if key.main.0 <= self.compacted {
                while kept.next_if(|kept| *kept < key).is_some() {}
                if kept.next_if_eq(&key).is_none() {
                    return ControlFlow::Continue(());
                }
            }
            visit(bytes, row)
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// The rows at or below the compacted revision that a reader at `at` sees, ascending. `None` if such a reader sees nothing
    /// whatever.
    fn kept(&self, at: i64) -> Option<Vec<RowKey>> {
        let mut rows = Vec::new();
        let mut sees_something = false;
        self.tree.walk(Walk { from: &[], to: None, descending: false, live_only: false }, &mut |entry| {
            let visible: Option<Version> = entry.live_at(at);
            sees_something |= visible.is_some();
            rows.extend(visible.filter(|version| version.main <= self.compacted).map(|version| version.row()));
            ControlFlow::Continue(())
        });
        rows.sort_unstable();
        sees_something.then_some(rows)
    }
}
