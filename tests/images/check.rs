//! Whether a member that starts from an image keeps every promise that was made before the power went.

use crate::trace::Micros;
use crate::workload::{Deed, Promise, Recording, Writes, flags};
use castd::boot::{Boot, boot};
use castd::config::{self, Config, Invocation, Surroundings};
use castd::ids::{LeaseId, LogIndex};
use castd::state;
use castd::telemetry::clock::Clock;
use castd_proto::etcdserverpb::RangeRequest;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

/// What every image of one recording is compared with.
pub struct Truth {
    /// By revision.
    written: BTreeMap<i64, Writes>,
    promises: Vec<Promise>,
    /// The state hash of every applied index that an image has come to: there is one for each.
    hashes: Mutex<BTreeMap<u64, (u32, i64)>>,
}

/// What was found in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub revision: i64,
    pub index: u64,
    hash: u32,
}

impl Truth {
    pub fn of(recording: &Recording) -> Self {
        let mut written = BTreeMap::new();
        for promise in &recording.promises {
            if let Deed::Wrote { revision, writes } = &promise.deed {
                assert!(written.insert(*revision, writes.clone()).is_none(), "revision {revision} was given twice");
            }
        }
        Truth { written, promises: recording.promises.clone(), hashes: Mutex::default() }
    }

    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, storage: &str, root: &Path, cut: Micros) -> Result<Found, String> {
        let first = self.open(storage, root, cut)?;
        // The start itself repairs and writes: the next one finds no less.
        let second = self.open(storage, root, cut).map_err(|wrong| format!("at the second start: {wrong}"))?;
        if first != second {
            return Err(format!("the second start found {second:?}, the first {first:?}"));
        }
        Ok(first)
    }

    fn open(&self, storage: &str, root: &Path, cut: Micros) -> Result<Found, String> {
        catch_unwind(AssertUnwindSafe(|| self.open_and_compare(storage, root, cut)))
            .unwrap_or_else(|panic| Err(format!("a panic: {}", said(&*panic))))
    }

    fn open_and_compare(&self, storage: &str, root: &Path, cut: Micros) -> Result<Found, String> {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let started = boot(&config(storage, root)?, Clock::start(), &log).map_err(|error| error.to_string())?;
        let Boot { mut cores, is_new, .. } = started;
        // It is alone: what is in its log is committed as soon as it leads.
        let applied = cores.machine.applied();
        let left = cores.log_store.load(applied).map_err(|error| error.to_string())?;
        cores.machine.apply(&left.entries).map_err(|error| error.to_string())?;
        let (view, index) = (cores.machine.view(), cores.machine.applied().0);
        if LogIndex(index) != LogIndex(left.terms.last_index()) {
            return Err(format!("applied {index} of a log that ends at {}", left.terms.last_index()));
        }
        let revision = cores.machine.revision().0;

        let kept = self.promises.iter().take_while(|promise| promise.at <= cut);
        let (mut newest, mut compacted, mut leases) = (1, 0, BTreeSet::new());
        for promise in kept {
            match &promise.deed {
                Deed::Wrote { revision, .. } => newest = newest.max(*revision),
                Deed::Compacted { revision } => compacted = compacted.max(*revision),
                Deed::Granted { lease } => drop(leases.insert(*lease)),
                Deed::Revoked { lease } => {
                    leases.remove(lease);
                    if view.leases.get(LeaseId(*lease)).is_some() {
                        return Err(format!("lease {lease:x} was revoked and is there"));
                    }
                }
            }
        }
        if is_new && newest > 1 {
            return Err(format!("the member is gone, with all up to revision {newest}"));
        }
        if revision < newest {
            return Err(format!("revision {newest} was acknowledged, the image ends at {revision}"));
        }
        if view.mvcc.compact_revision().0 < compacted {
            return Err(format!("compacted to {compacted}, the image only to {}", view.mvcc.compact_revision().0));
        }
        // One that was granted and revoked later, unheard, may be gone.
        let revoked: BTreeSet<i64> = self.promises.iter().filter_map(revoked).collect();
        if let Some(lease) = leases.difference(&revoked).find(|lease| view.leases.get(LeaseId(**lease)).is_none()) {
            return Err(format!("lease {lease:x} was granted and is lost"));
        }

        let all = RangeRequest { key: b"w".as_slice().into(), range_end: b"x".as_slice().into(), ..Default::default() };
        let found = view.mvcc.range(&all).map_err(|error| format!("a range: {error:?}"))?;
        let found = found.kvs.into_iter().map(|kv| (kv.key.to_vec(), (kv.mod_revision, kv.value.to_vec(), kv.lease)));
        let found: BTreeMap<_, _> = found.collect();
        let expected = self.expected(revision);
        if let Some(key) = expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key)) {
            let short = |it: Option<&(i64, Vec<u8>, i64)>| {
                it.map(|(revision, value, lease)| (*revision, value.len(), crc32c::crc32c(value), *lease))
            };
            let (key_text, wanted, got) =
                (String::from_utf8_lossy(key), short(expected.get(key)), short(found.get(key)));
            return Err(format!("at revision {revision} {key_text} is {got:?}, not {wanted:?}"));
        }

        let hash = state::hash(&view).map_err(|error| format!("a hash: {error}"))?;
        if !is_new {
            let mut hashes = self.hashes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let other = *hashes.entry(index).or_insert((hash, revision));
            if other != (hash, revision) {
                return Err(format!(
                    "at index {index} hash and revision are {:?}, in another image {other:?}",
                    (hash, revision)
                ));
            }
        }
        Ok(Found { revision, index, hash })
    }

    /// The naive model: everything up to that revision, one after the other.
    fn expected(&self, revision: i64) -> BTreeMap<Vec<u8>, (i64, Vec<u8>, i64)> {
        let mut state = BTreeMap::new();
        for (revision, writes) in self.written.range(..=revision) {
            for (key, write) in writes {
                match write {
                    Some((value, lease)) => drop(state.insert(key.clone(), (*revision, value.clone(), *lease))),
                    None => drop(state.remove(key)),
                }
            }
        }
        state
    }
}

fn revoked(promise: &Promise) -> Option<i64> {
    match promise.deed {
        Deed::Revoked { lease } => Some(lease),
        _ => None,
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words").to_owned()
}

fn config(storage: &str, root: &Path) -> Result<Config, String> {
    // Nothing listens: who a member is follows from its URLs, and these are those of nobody.
    let arguments = flags(storage, &root.join("data"), 1, 2);
    let surroundings = Surroundings {
        arguments: std::iter::once("castd".to_owned()).chain(arguments).collect(),
        environment: Vec::new(),
        ..Surroundings::of_this_process()
    };
    match config::from_invocation(&surroundings) {
        Invocation::Run(config, _) => Ok(*config),
        other => Err(format!("the flags are refused: {other:?}")),
    }
}
