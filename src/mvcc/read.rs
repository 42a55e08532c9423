//! Ranges, gets and counts at one revision, over whatever can fetch rows: a published view, or a slice that is still being
//! applied and whose newest rows are not in the backend yet.
//!
//! ```text
//!   request ──▶ which revision ──▶ walk the index: filter, stop at the limit ──▶ sort ──▶ fetch only the rows that are left
//! ```

use std::{cmp::Ordering, ops::ControlFlow};

use bytes::Bytes;
use castd_backend_api::{Backend, Table};
use castd_proto::{
    etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};
use prost::Message;

use crate::ids::Revision;

use super::{
    MvccError, RowKey, StoreError,
    check::has_revision_filter,
    index::{Entry, Span, Tree, Version, Walk},
    row,
};

/// So many rows are asked of the backend at once.
const ROWS_AT_ONCE: usize = 1024;

/// Where rows come from.
pub(super) trait Rows {
    /// The index names the row, so it is an error if there is none.
    fn row(&self, key: RowKey) -> Result<Bytes, StoreError>;

    fn rows(&self, keys: &[RowKey]) -> Result<Vec<Bytes>, StoreError> {
        keys.iter().map(|key| self.row(*key)).collect()
    }
}

impl Rows for &dyn Backend {
    fn row(&self, key: RowKey) -> Result<Bytes, StoreError> {
        self.get(Table::Kv, &key.encode())?.ok_or(StoreError::RowMissing(key))
    }

    fn rows(&self, keys: &[RowKey]) -> Result<Vec<Bytes>, StoreError> {
        let mut rows = Vec::with_capacity(keys.len());
        for keys in keys.chunks(ROWS_AT_ONCE) {
            let encoded: Vec<_> = keys.iter().map(|key| key.encode()).collect();
            let encoded: Vec<&[u8]> = encoded.iter().map(|key| &**key).collect();
            for (row, key) in self.get_many(Table::Kv, &encoded)?.into_iter().zip(keys) {
                rows.push(row.ok_or(StoreError::RowMissing(*key))?);
            }
        }
        assert_eq!(rows.len(), keys.len(), "a backend answers every key");
        Ok(rows)
    }
}

/// What a range is wanted as.
pub trait Pair: Sized {
    /// `None` if the row is damaged.
    fn from_row(row: Bytes) -> Option<Self>;
    fn from_message(message: KeyValue) -> Self;
}

impl Pair for KeyValue {
    fn from_row(row: Bytes) -> Option<Self> {
        row::key_value(&row)
    }
    fn from_message(message: KeyValue) -> Self {
        message
    }
}

/// The encoded message: rows go out as they are.
impl Pair for Bytes {
    fn from_row(row: Bytes) -> Option<Self> {
        Some(row)
    }
    fn from_message(message: KeyValue) -> Self {
        message.encode_to_vec().into()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOutcome<P = KeyValue> {
    pub kvs: Vec<P>,
    /// The limit left something out.
    pub more: bool,
    /// Keys in the range, whatever limit and filters say.
    pub count: i64,
}

/// What was found in the index.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    /// Empty unless the answer is made from the index alone.
    key: Bytes,
    version: Version,
}

/// The key space at one moment.
pub(super) struct Reader<'a, R> {
    pub tree: &'a Tree,
    pub current: i64,
    /// -1 if nothing was ever compacted.
    pub compacted: i64,
    pub rows: R,
}

impl<R: Rows> Reader<'_, R> {
    /// The revision a request means: 0 or less is the current one.
    pub(super) fn revision(&self, requested: i64) -> Result<i64, MvccError> {
        match requested {
            ..=0 => Ok(self.current),
            revision if revision > self.current => Err(self.future(revision)),
            revision if revision < self.compacted => Err(self.compacted(revision)),
            revision => Ok(revision),
        }
    }

    pub(super) fn future(&self, requested: i64) -> MvccError {
        MvccError::FutureRevision { requested: Revision(requested), current: Revision(self.current) }
    }

    pub(super) fn compacted(&self, requested: i64) -> MvccError {
        MvccError::Compacted { requested: Revision(requested), compacted: Revision(self.compacted) }
    }

    pub(super) fn exists(&self, key: &[u8]) -> bool {
        self.tree.live_at(key, self.current).is_some()
    }

    /// The pair under `key` now.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.tree.live_at(key, self.current).map(|version| self.pair(version)).transpose()
    }

    pub(super) fn pair<P: Pair>(&self, version: Version) -> Result<P, StoreError> {
        let key = version.row();
        P::from_row(self.rows.row(key)?).ok_or(StoreError::RowDamaged(key))
    }

    pub(super) fn pairs<P: Pair>(&self, keys: &[RowKey]) -> Result<Vec<P>, StoreError> {
        let rows = self.rows.rows(keys)?;
        rows.into_iter().zip(keys).map(|(row, key)| P::from_row(row).ok_or(StoreError::RowDamaged(*key))).collect()
    }

    /// How many keys a span had at revision `at`: two paths of the index now, a walk for the past.
    pub(super) fn count(&self, span: Span<'_>, at: i64) -> i64 {
        match span {
            Span::One(key) => i64::from(self.tree.live_at(key, at).is_some()),
            Span::Many(from, to) if at == self.current => self.tree.count(from, to) as i64,
            Span::Many(from, to) => {
                let mut count = 0;
                self.tree.walk(Walk { from, to, descending: false, live_only: false }, &mut |entry| {
                    count += i64::from(entry.live_at(at).is_some());
                    ControlFlow::Continue(())
                });
                count
            }
        }
    }

    pub(super) fn range<P: Pair>(&self, request: &RangeRequest) -> Result<RangeOutcome<P>, MvccError> {
        let at = self.revision(request.revision)?;
        let span = Span::new(&request.key, &request.range_end);
        if request.count_only {
            return Ok(RangeOutcome { kvs: Vec::new(), more: false, count: self.count(span, at) });
        }
        match span {
            Span::One(key) => self.range_of_one(request, key, at),
            Span::Many(from, to) => self.range_of_many(request, from, to, at),
        }
    }

    fn range_of_one<P: Pair>(&self, request: &RangeRequest, key: &[u8], at: i64) -> Result<RangeOutcome<P>, MvccError> {
        let Some(version) = self.tree.live_at(key, at) else {
            return Ok(RangeOutcome { kvs: Vec::new(), more: false, count: 0 });
        };
        let kvs = if !passes(request, version) {
            Vec::new()
        } else if !request.keys_only {
            vec![self.pair(version)?]
        } else if request.sort_target() == SortTarget::Value {
            vec![without_value(self.pair(version)?)]
        } else {
            vec![from_index(request.key.clone(), version)]
        };
        Ok(RangeOutcome { kvs, more: false, count: 1 })
    }

    fn range_of_many<P: Pair>(
        &self,
        request: &RangeRequest,
        from: &[u8],
        to: Option<&[u8]>,
        at: i64,
    ) -> Result<RangeOutcome<P>, MvccError> {
        let (target, order) = (request.sort_target(), request.sort_order());
        let from_index_alone = request.keys_only && target != SortTarget::Value;
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        // Sorting by anything but the key comes before the limit, except without an explicit order: etcd then sorts the first
        // `limit + 1` keys only.
        let by_key = target == SortTarget::Key;
        let cut_early = by_key || order == SortOrder::None && !has_revision_filter(request);
        let picks_max = limit.filter(|_| cut_early).map_or(usize::MAX, |limit| limit.saturating_add(1));
        let walk = Walk { from, to, descending: by_key && order == SortOrder::Descend, live_only: at == self.current };
        let (mut picks, count) = self.pick(walk, at, picks_max, from_index_alone, |version| passes(request, version));
        let more = limit.is_some_and(|limit| picks.len() > limit);
        let kept = limit.map_or(picks.len(), |limit| limit.min(picks.len()));
        let kvs = if by_key {
            picks.truncate(kept);
            self.answer(picks, from_index_alone)?
        } else {
            let direct = |ordering: Ordering| if order == SortOrder::Descend { ordering.reverse() } else { ordering };
            if target == SortTarget::Value {
                let mut pairs: Vec<KeyValue> = self.answer(picks, false)?;
                pairs.sort_by(|left, right| direct(left.value.cmp(&right.value)));
                pairs.truncate(kept);
                pairs
                    .into_iter()
                    .map(|pair| if request.keys_only { without_value(pair) } else { P::from_message(pair) })
                    .collect()
            } else {
                let number = |pick: &Pick| match target {
                    SortTarget::Version => pick.version.version,
                    SortTarget::Create => pick.version.create,
                    _ => pick.version.main,
                };
                picks.sort_by(|left, right| direct(number(left).cmp(&number(right))));
                picks.truncate(kept);
                self.answer(picks, from_index_alone)?
            }
        };
        Ok(RangeOutcome { kvs, more, count })
    }

    /// The first `max` versions on the walk that `passes` lets through, and the count of all keys.
    pub(super) fn pick(
        &self,
        walk: Walk<'_>,
        at: i64,
        max: usize,
        with_keys: bool,
        passes: impl Fn(Version) -> bool,
    ) -> (Vec<Pick>, i64) {
        let mut picks = Vec::new();
        let mut count = 0;
        // The count of now is known without walking on.
        let counted = (at == self.current).then(|| self.count(Span::Many(walk.from, walk.to), at));
        self.tree.walk(walk, &mut |entry: Entry<'_>| {
            if let Some(version) = entry.live_at(at) {
                count += 1;
                if picks.len() < max && passes(version) {
                    let key = if with_keys { Bytes::copy_from_slice(entry.key()) } else { Bytes::new() };
                    picks.push(Pick { key, version });
                }
            }
            if picks.len() >= max && counted.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (picks, counted.unwrap_or(count))
    }

    /// The first `max` keys with their versions. Stops there, because nobody asks for the count.
    pub(super) fn pick_first(&self, walk: Walk<'_>, at: i64, max: usize) -> Vec<Pick> {
        let mut picks = Vec::new();
        self.tree.walk(walk, &mut |entry: Entry<'_>| {
            if let Some(version) = entry.live_at(at) {
                picks.push(Pick { key: Bytes::copy_from_slice(entry.key()), version });
            }
            if picks.len() >= max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        picks
    }

    pub(super) fn pick_one(&self, key: &[u8], at: i64) -> Vec<Pick> {
        let version = self.tree.live_at(key, at);
        version.map(|version| Pick { key: Bytes::copy_from_slice(key), version }).into_iter().collect()
    }

    pub(super) fn answer<P: Pair>(&self, picks: Vec<Pick>, from_index_alone: bool) -> Result<Vec<P>, StoreError> {
        if from_index_alone {
            return Ok(picks.into_iter().map(|pick| from_index(pick.key, pick.version)).collect());
        }
        let keys: Vec<RowKey> = picks.iter().map(|pick| pick.version.row()).collect();
        self.pairs(&keys)
    }
}

impl Pick {
    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }
}

fn passes(request: &RangeRequest, version: Version) -> bool {
    let least = |limit: i64, actual: i64| limit == 0 || actual >= limit;
    let most = |limit: i64, actual: i64| limit == 0 || actual <= limit;
    most(request.max_mod_revision, version.main)
        && least(request.min_mod_revision, version.main)
        && most(request.max_create_revision, version.create)
        && least(request.min_create_revision, version.create)
}

/// An answer without a value needs no row. It does not know the lease: neither does etcd 3.7.
fn from_index<P: Pair>(key: Bytes, version: Version) -> P {
    P::from_message(KeyValue {
        key,
        create_revision: version.create,
        mod_revision: version.main,
        version: version.version,
        ..KeyValue::default()
    })
}

fn without_value<P: Pair>(pair: KeyValue) -> P {
    P::from_message(KeyValue { value: Bytes::new(), ..pair })
}
