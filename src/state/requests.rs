//! Which requests of which members have been carried out: a request that comes twice must not be done twice.
//!
//! ```text
//!   origin = (member, boot) ──▶ highest sequence h, and for each of h - 4,095 ..= h whether it came
//!
//!   sequence   > h            new; the window moves up
//!              in the window  new if it has not come yet, else repeated
//!              below          too old to tell: refused
//! ```
//! A member that forwards a request repeats it until it has applied the entry, so the log may hold it more than once. Part of
//! the state machine: every member decides alike, so it is in the backend (a row for each origin), in snapshots, in views.
//!
//! An origin is forgotten once 100,000 entries have passed without one of its requests, except the newest one of a member
//! of the cluster. That member may be cut off for as long as the others need for 100,000 entries, a second or two, and will
//! then repeat what it could not learn the fate of. What remains are dead processes, which repeat nothing.

use crate::ids::{LogIndex, MemberId};
use crate::membership::members::Members;
use crate::raft::tag::{RequestTag, TAG_WINDOW};
use crate::state::StateError;
use castd_backend_api::{Backend, Table, WriteBatch};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// An origin that is not used for so many entries is forgotten.
const FORGOTTEN_AFTER: u64 = 100_000;
/// Which ones that are is looked at every so many entries, by every member at the same ones.
const SWEEP_EVERY: u64 = 1_000;

const WORDS: usize = (TAG_WINDOW / 64) as usize;
const _: () = assert!(TAG_WINDOW.is_multiple_of(64));
/// Highest sequence, index of the last use, window.
const ROW_BYTES: usize = 8 + 8 + WORDS * 8;

/// What to do with an entry that carries a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    New,
    Repeated,
    /// So far behind the newest request of its origin that nobody knows any more. No forwarder repeats such a one.
    TooOld,
}

type OriginId = (MemberId, u64);

/// What is known of the requests of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    highest: u64,
    /// The last entry with one of its tags.
    used: LogIndex,
    /// A ring: the place of a sequence is its remainder.
    came: [u64; WORDS],
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    origins: Arc<BTreeMap<OriginId, Arc<Origin>>>,
    /// Whose rows the backend does not have yet.
    changed: BTreeSet<OriginId>,
}

impl Requests {
    /// # Errors
    /// When the backend fails or a row is damaged.
    pub fn open(backend: &dyn Backend) -> Result<Self, StateError> {
        let mut origins = BTreeMap::new();
        let mut is_damaged = false;
        backend.scan(Table::Request, b"", b"", &mut |key, value| {
            let row = decode_key(key).zip(Origin::decode(value).map(Arc::new));
            is_damaged |= row.is_none();
            origins.extend(row);
            ControlFlow::Continue(())
        })?;
        if is_damaged {
            return Err(StateError::BadRow { table: Table::Request });
        }
        Ok(Requests { origins: Arc::new(origins), changed: BTreeSet::new() })
    }

    /// Processes that are remembered.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// The entry at `index` carries `tag`.
    pub fn admit(&mut self, tag: RequestTag, index: LogIndex) -> Admission {
        let id = (tag.member, tag.boot);
        self.changed.insert(id);
        let origin = Arc::make_mut(&mut self.origins).entry(id).or_default();
        Arc::make_mut(origin).admit(tag.sequence, index)
    }

    /// Every entry has been applied up to and with `index`, and `members` are those of then.
    pub fn applied(&mut self, index: LogIndex, members: &Members) {
        if self.origins.is_empty() || !index.0.is_multiple_of(SWEEP_EVERY) {
            return;
        }
        let mut newest: BTreeMap<MemberId, LogIndex> = BTreeMap::new();
        for ((member, _), origin) in self.origins.iter().filter(|((member, _), _)| members.get(*member).is_some()) {
            let newest = newest.entry(*member).or_default();
            *newest = origin.used.max(*newest);
        }
        let is_kept = |(member, _): &OriginId, origin: &Origin| {
            origin.used.0 + FORGOTTEN_AFTER > index.0 || newest.get(member) == Some(&origin.used)
        };
        let forgotten: Vec<OriginId> =
            self.origins.iter().filter(|(id, origin)| !is_kept(id, origin)).map(|(id, _)| *id).collect();
        for id in forgotten {
            Arc::make_mut(&mut self.origins).remove(&id);
            self.changed.insert(id);
        }
    }

    /// The rows that changed since the last time, for the batch of a slice.
    pub fn write(&mut self, batch: &mut WriteBatch) {
        for id in std::mem::take(&mut self.changed) {
            match self.origins.get(&id) {
                Some(origin) => batch.put(Table::Request, encode_key(id), origin.encode()),
                None => batch.delete(Table::Request, encode_key(id)),
            }
        }
    }

    /// All rows, for a snapshot.
    pub fn put_rows(&self, batch: &mut WriteBatch) {
        for (id, origin) in self.origins.iter() {
            batch.put(Table::Request, encode_key(*id), origin.encode());
        }
    }
}

impl Default for Origin {
    fn default() -> Self {
        Origin { highest: 0, used: LogIndex(0), came: [0; WORDS] }
    }
}

impl Origin {
    fn admit(&mut self, sequence: u64, index: LogIndex) -> Admission {
        self.used = index;
        if sequence > self.highest {
            if sequence - self.highest >= TAG_WINDOW {
                self.came = [0; WORDS];
            } else {
                (self.highest + 1..sequence).for_each(|skipped| self.mark(skipped, false));
            }
            self.highest = sequence;
        } else if self.highest - sequence >= TAG_WINDOW {
            return Admission::TooOld;
        } else if self.has(sequence) {
            return Admission::Repeated;
        }
        self.mark(sequence, true);
        Admission::New
    }

    fn place(sequence: u64) -> (usize, u64) {
        let place = sequence % TAG_WINDOW;
        ((place / 64) as usize, 1 << (place % 64))
    }

    fn has(&self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        self.came[word] & bit != 0
    }

    fn mark(&mut self, sequence: u64, came: bool) {
        let (word, bit) = Self::place(sequence);
        if came {
            self.came[word] |= bit;
        } else {
            self.came[word] &= !bit;
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(ROW_BYTES);
        for number in [self.highest, self.used.0].iter().chain(&self.came) {
            row.extend_from_slice(&number.to_be_bytes());
        }
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let row: &[u8; ROW_BYTES] = row.try_into().ok()?;
        let mut numbers = row.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let mut origin = Origin { highest: numbers.next()?, used: LogIndex(numbers.next()?), came: [0; WORDS] };
        origin.came.iter_mut().zip(numbers).for_each(|(word, number)| *word = number);
        // The highest one is the highest because it came.
        origin.has(origin.highest).then_some(origin)
    }
}

fn encode_key((member, boot): OriginId) -> Vec<u8> {
    [member.0, boot].map(u64::to_be_bytes).concat()
}

fn decode_key(key: &[u8]) -> Option<OriginId> {
    let key: &[u8; 16] = key.try_into().ok()?;
    let (member, boot) = key.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some((MemberId(number(member)?), number(boot)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::members::MemberRow;
    use castd_backend_memory::Memory;
    use castd_proto::etcdserverpb::Member;
    use proptest::prelude::*;

    fn tag(member: u64, boot: u64, sequence: u64) -> RequestTag {
        RequestTag { member: MemberId(member), boot, sequence }
    }

    fn members(ids: &[u64]) -> Members {
        let row = |id: &u64| MemberRow::Set(Member { id: *id, ..Default::default() });
        Members::restore(ids.iter().map(row), LogIndex(1))
    }

    fn from_rows(requests: &Requests) -> Requests {
        let (copy, mut batch) = (Memory::new(), WriteBatch::new());
        requests.put_rows(&mut batch);
        copy.write(&batch).unwrap();
        Requests::open(&copy).unwrap()
    }

    /// Everything that came, for ever; the window is arithmetic.
    #[derive(Default)]
    struct Naive {
        came: BTreeMap<OriginId, BTreeSet<u64>>,
    }

    impl Naive {
        fn admit(&mut self, tag: RequestTag) -> Admission {
            let came = self.came.entry((tag.member, tag.boot)).or_default();
            let highest = came.last().copied().unwrap_or(0);
            if tag.sequence + TAG_WINDOW <= highest {
                return Admission::TooOld;
            }
            if came.insert(tag.sequence) { Admission::New } else { Admission::Repeated }
        }
    }

    /// Mostly close together, as a member's are; sometimes far away.
    fn steps() -> impl Strategy<Value = Vec<(u64, u64, i64)>> {
        let stride = prop_oneof![
            4 => -3..4_i64,
            2 => -200..300_i64,
            1 => -9_000..9_000_i64,
            1 => prop::sample::select(vec![-4_097, -4_096, -4_095, 4_095, 4_096, 4_097, 1 << 40]),
        ];
        prop::collection::vec((1..3_u64, 0..2_u64, stride), 1..300)
    }

    proptest! {
        #[test]
        fn each_request_is_admitted_once_also_after_restarts_and_from_snapshots(steps in steps()) {
            let backend = Memory::new();
            let (mut requests, mut naive) = (Requests::default(), Naive::default());
            let mut at = BTreeMap::new();
            for (step, (member, boot, stride)) in (1..).zip(steps) {
                let sequence: &mut i64 = at.entry((member, boot)).or_default();
                *sequence = (*sequence + stride).max(0);
                let tag = tag(member, boot, *sequence as u64);
                prop_assert_eq!(requests.admit(tag, LogIndex(step)), naive.admit(tag), "{:?}", tag);
                if step % 3 == 0 {
                    let mut batch = WriteBatch::new();
                    requests.write(&mut batch);
                    backend.write(&batch).unwrap();
                    prop_assert_eq!(&Requests::open(&backend).unwrap(), &requests);
                    prop_assert_eq!(&from_rows(&requests), &requests);
                }
                if step % 45 == 0 {
                    requests = from_rows(&requests);
                }
            }
        }
    }

    #[test]
    fn the_window_is_4096_wide() {
        let mut requests = Requests::default();
        assert_eq!(requests.admit(tag(1, 1, 5_000), LogIndex(1)), Admission::New);
        assert_eq!(requests.admit(tag(1, 1, 905), LogIndex(2)), Admission::New);
        assert_eq!(requests.admit(tag(1, 1, 904), LogIndex(3)), Admission::TooOld);
        assert_eq!(requests.admit(tag(1, 1, 905), LogIndex(4)), Admission::Repeated);
        assert_eq!(requests.admit(tag(1, 2, 904), LogIndex(5)), Admission::New, "another life");
    }

    fn rows(backend: &Memory) -> usize {
        let mut rows = 0;
        let counted = backend.scan(Table::Request, b"", b"", &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        });
        counted.unwrap();
        rows
    }

    #[test]
    fn lives_that_are_over_are_forgotten_and_the_current_one_of_a_member_is_not() {
        let backend = Memory::new();
        let mut requests = Requests::default();
        let members = members(&[1, 2]);
        // Two lives of member 1, one of member 2, and one of somebody who has left.
        for (index, (member, boot)) in (1..).zip([(1, 7), (1, 8), (2, 7), (3, 7)]) {
            assert_eq!(requests.admit(tag(member, boot, 1), LogIndex(index)), Admission::New);
        }
        let write = |requests: &mut Requests| {
            let mut batch = WriteBatch::new();
            requests.write(&mut batch);
            backend.write(&batch).unwrap();
            assert_eq!(&Requests::open(&backend).unwrap(), requests);
            rows(&backend)
        };
        assert_eq!(write(&mut requests), 4);
        requests.applied(LogIndex(100_000), &members);
        assert_eq!(write(&mut requests), 4, "not a moment sooner");
        requests.applied(LogIndex(100_999), &members);
        assert_eq!(write(&mut requests), 4, "looked at every thousand entries");
        requests.applied(LogIndex(101_000), &members);
        assert_eq!(write(&mut requests), 2);
        assert_eq!(requests.admit(tag(1, 8, 1), LogIndex(101_001)), Admission::Repeated);
        assert_eq!(requests.admit(tag(2, 7, 1), LogIndex(101_002)), Admission::Repeated);
        assert_eq!(requests.admit(tag(1, 7, 1), LogIndex(101_003)), Admission::New, "forgotten");
    }

    #[test]
    fn a_damaged_row_is_an_error() {
        let sound = Origin { highest: 3, came: [0b1000; WORDS], ..Origin::default() }.encode();
        let key = encode_key((MemberId(1), 2));
        for (key, value) in [
            (key.clone(), sound[1..].to_vec()),
            (key[1..].to_vec(), sound.clone()),
            (key.clone(), Origin { highest: 4, ..Origin::decode(&sound).unwrap() }.encode()),
        ] {
            let (backend, mut batch) = (Memory::new(), WriteBatch::new());
            batch.put(Table::Request, key, value);
            backend.write(&batch).unwrap();
            assert!(matches!(Requests::open(&backend), Err(StateError::BadRow { table: Table::Request })));
        }
    }
}
