//! Whether a member that starts from an image keeps every promise that was made before the power went.

use crate::trace::Micros;
use crate::workload::{Deed, Promise, Recording, SPAWNING, Writes, flags};
use castd::boot::{Boot, boot};
use castd::config::{self, Config, Invocation, Surroundings};
use castd::ids::{LeaseId, LogIndex};
use castd::raft::log::LogWrite;
use castd::state;
use castd::telemetry::clock::Clock;
use castd_proto::etcdserverpb::RangeRequest;
use raft::eraftpb::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What every image of one recording is compared with.
pub struct Truth {
    /// By revision.
    written: BTreeMap<i64, Writes>,
    promises: Vec<Promise>,
    ports: Vec<(u16, u16)>,
    member: usize,
    /// The state hash of every applied index that an image has come to: there is one for each.
    hashes: Mutex<BTreeMap<u64, Found>>,
}

/// What is done with a member that has started and kept its promises.
#[derive(Clone, Copy)]
enum Then {
    /// Its log gets one entry more, an empty one; and every second one is stopped in good order.
    Write,
    Leave,
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
        let (promises, ports, member) = (recording.promises.clone(), recording.ports.clone(), recording.member);
        Truth { written, promises, ports, member, hashes: Mutex::default() }
    }

    /// `until` is when the power failed.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, storage: &str, root: &Path, until: Micros) -> Result<Found, String> {
        let first = self.open(storage, root, until, Then::Write)?;
        // The start itself repairs and writes, and then an entry came: the next start finds all of it.
        let second =
            self.open(storage, root, until, Then::Leave).map_err(|wrong| format!("at the second start: {wrong}"))?;
        if second != (Found { index: first.index + 1, ..first }) {
            return Err(format!("the second start found {second:?}, the first {first:?} and one entry more"));
        }
        Ok(first)
    }

    fn open(&self, storage: &str, root: &Path, until: Micros, then: Then) -> Result<Found, String> {
        let _nobody_spawns = SPAWNING.read().unwrap_or_else(PoisonError::into_inner);
        catch_unwind(AssertUnwindSafe(|| self.open_and_compare(storage, root, until, then)))
            .unwrap_or_else(|panic| Err(format!("a panic: {}", said(&*panic))))
    }

    fn open_and_compare(&self, storage: &str, root: &Path, until: Micros, then: Then) -> Result<Found, String> {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let started = boot(&self.config(storage, root)?, Clock::start(), &log).map_err(|error| error.to_string())?;
        let Boot { mut cores, is_new, data_dir, .. } = started;
        // It is alone: what is in its log is committed as soon as it leads.
        let applied = cores.machine.applied();
        let left = cores.log_store.load(applied).map_err(|error| error.to_string())?;
        cores.machine.apply(&left.entries).map_err(|error| error.to_string())?;
        let (view, index) = (cores.machine.view(), cores.machine.applied().0);
        if LogIndex(index) != LogIndex(left.terms.last_index()) {
            return Err(format!("applied {index} of a log that ends at {}", left.terms.last_index()));
        }
        let revision = cores.machine.revision().0;

        let kept = self.promises.iter().take_while(|promise| promise.at <= until);
        // A store that was never compacted says -1.
        let (mut newest, mut term, mut compacted, mut leases) = (1, 0, -1, BTreeSet::new());
        for promise in kept.filter(|promise| promise.binds) {
            term = term.max(promise.term);
            match &promise.deed {
                Deed::Wrote { revision, .. } | Deed::Shown { revision } => newest = newest.max(*revision),
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
        if left.hard_state.term < term {
            return Err(format!("term {term} was told, the image is in {}", left.hard_state.term));
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
        let found = Found { revision, index, hash };
        match then {
            Then::Leave => {}
            Then::Write => {
                let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
                let other = *hashes.entry(index).or_insert(found);
                if other != found {
                    return Err(format!("an image comes to {found:?}, another one came to {other:?}"));
                }
                let term = left.hard_state.term.max(1);
                let entry = Entry { index: index + 1, term, ..Entry::default() };
                let write = LogWrite { entries: vec![entry], hard_state: None, must_sync: true };
                cores.log_store.append(&write).map_err(|error| format!("cannot go on: {error}"))?;
                cores.machine.apply(&write.entries).map_err(|error| format!("cannot go on: {error}"))?;
                // The other half ends as by a crash.
                if index % 2 == 0 {
                    let backend = Arc::clone(view.backend());
                    drop((view, cores));
                    let is_closed = data_dir.close_backend(backend).map_err(|error| format!("cannot end: {error}"))?;
                    assert!(is_closed, "nobody else has the backend");
                }
            }
        }
        Ok(found)
    }

    fn config(&self, storage: &str, root: &Path) -> Result<Config, String> {
        // Nothing listens, but who a member is follows from its URLs.
        let arguments = flags(storage, &root.join("data"), &self.ports, self.member);
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
