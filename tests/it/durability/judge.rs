//! Holds what clients were told against what the server says after its restart.

use super::writers::{Change, Outcome};
use crate::harness::Api;
use crate::harness::grpc::{range, watch};
use castd_proto::etcdserverpb::WatchCreateRequest;
use castd_proto::mvccpb::{Event, KeyValue, event::EventType};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Judge {
    /// Everything that ever happened, by revision, as watchers were told it.
    history: BTreeMap<i64, Vec<Change>>,
    /// What the history makes of the store.
    state: BTreeMap<String, KeyValue>,
    /// Told by the server since it was last seen; by revision, which is nobody else's.
    acknowledged: BTreeMap<i64, Vec<Change>>,
    acknowledged_ever: usize,
    unknown: Vec<Vec<Change>>,
    leases: BTreeSet<i64>,
    /// Granted or revoked without an answer.
    leases_unknown: BTreeSet<i64>,
    compacted: i64,
    compaction_unknown: Option<i64>,
    /// The hash at a revision, and the compaction it was taken under.
    hash: Option<(i64, i64, u32)>,
}

fn change(event: &Event) -> Change {
    let kv = event.kv.as_ref().expect("events have a pair");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ours are text");
    match event.r#type() {
        EventType::Put => Change::Put { key: text(&kv.key), value: text(&kv.value), lease: kv.lease },
        EventType::Delete => Change::Delete { key: text(&kv.key) },
    }
}

/// What an unanswered request may have done: all its puts, and those of its deletes that found something.
fn may_be(unknown: &[Change], seen: &[Change]) -> bool {
    let mut seen = seen.iter().peekable();
    for change in unknown {
        if seen.peek() == Some(&change) {
            seen.next();
        } else if matches!(change, Change::Put { .. }) {
            return false;
        }
    }
    seen.next().is_none()
}

impl Judge {
    /// The newest revision the server was seen to have.
    pub fn seen(&self) -> i64 {
        self.history.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged_ever
    }

    pub fn history(&self) -> &BTreeMap<i64, Vec<Change>> {
        &self.history
    }

    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    pub fn hear(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged { revision, changes } => {
                assert!(revision > self.seen(), "revision {revision} was given out again");
                let twice = self.acknowledged.insert(revision, changes);
                assert!(twice.is_none(), "revision {revision} was given to two");
                self.acknowledged_ever += 1;
            }
            Outcome::Unknown { changes } => self.unknown.push(changes),
            Outcome::LeaseGranted(lease) => assert!(self.leases.insert(lease)),
            Outcome::LeaseRevoked(lease) => assert!(self.leases.remove(&lease)),
            Outcome::LeaseUnknown(lease) => {
                self.leases.remove(&lease);
                self.leases_unknown.insert(lease);
            }
        }
    }

    pub fn hear_compaction(&mut self, revision: i64, acknowledged: bool) {
        if acknowledged {
            self.compacted = revision;
        } else {
            self.compaction_unknown = Some(revision);
        }
    }

    /// Looks at everything a restarted server has.
    pub async fn see(&mut self, api: &Api) {
        self.see_history(api).await;
        self.see_leases(api).await;
        self.see_pairs(api).await;
        self.see_hash(api).await;
    }

    async fn see_history(&mut self, api: &Api) {
        let before = self.seen();
        let revision = api.revision().await;
        let promised = self.acknowledged.last_key_value().map_or(before, |(revision, _)| *revision);
        assert!(revision >= promised, "revision {promised} was acknowledged, {revision} is what is left");
        let mut stream = api.watch_stream();
        stream.create(WatchCreateRequest { start_revision: before + 1, ..watch("w", "x") }).await;
        while self.seen() < revision {
            for event in stream.next().await.events {
                let at = event.kv.as_ref().expect("events have a pair").mod_revision;
                assert!(at == self.seen() || at == self.seen() + 1, "{at} follows {}", self.seen());
                let change = change(&event);
                self.apply(at, &change);
                self.history.entry(at).or_default().push(change);
            }
        }
        assert_eq!(self.seen(), revision);

        let acknowledged = std::mem::take(&mut self.acknowledged);
        for (revision, changes) in &acknowledged {
            assert_eq!(self.history.get(revision), Some(changes), "revision {revision} is not what was acknowledged");
        }
        // What else there is must be of those who got no answer.
        let mut unknown = std::mem::take(&mut self.unknown);
        for (revision, changes) in self.history.range(before + 1..) {
            if acknowledged.contains_key(revision) {
                continue;
            }
            let claim = unknown.iter().position(|unknown| may_be(unknown, changes));
            let claim = claim.unwrap_or_else(|| panic!("nobody wrote what is at {revision}: {changes:?}"));
            unknown.swap_remove(claim);
        }
    }

    fn apply(&mut self, revision: i64, change: &Change) {
        match change {
            Change::Delete { key } => {
                assert!(self.state.remove(key).is_some(), "{key} was deleted at {revision} although it was not there");
            }
            Change::Put { key, value, lease } => {
                let new = KeyValue { key: key.clone().into(), create_revision: revision, ..Default::default() };
                let kv = self.state.entry(key.clone()).or_insert(new);
                kv.mod_revision = revision;
                kv.version += 1;
                kv.value = value.clone().into();
                kv.lease = *lease;
            }
        }
    }

    async fn see_leases(&mut self, api: &Api) {
        let there: BTreeSet<_> = api.leases().await.into_iter().collect();
        let lost: Vec<_> = self.leases.difference(&there).collect();
        assert!(lost.is_empty(), "leases {lost:?} were granted and are gone");
        let invented: Vec<_> =
            there.iter().filter(|id| !self.leases.contains(id) && !self.leases_unknown.contains(id)).collect();
        assert!(invented.is_empty(), "leases {invented:?} are there although nobody has them");
        // Now it is known of those, too.
        self.leases_unknown.clear();
        self.leases = there;
    }

    async fn see_pairs(&self, api: &Api) {
        let found = api.range(range("\0", "\0")).await.expect("readable").kvs;
        let expected: Vec<_> = self.state.values().cloned().collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "the store is not what its history makes it");
        }
    }

    async fn see_hash(&mut self, api: &Api) {
        let answer = api.hash_kv(0).await.expect("hashed");
        let attempted = self.compaction_unknown.take();
        let compacted = answer.compact_revision.max(0);
        assert!(
            compacted == self.compacted || Some(compacted) == attempted,
            "compacted at {compacted}, expected {} or {attempted:?}",
            self.compacted
        );
        self.compacted = compacted;
        if let Some((revision, under, hash)) = self.hash.filter(|(_, under, _)| *under == compacted) {
            let again = api.hash_kv(revision).await.expect("hashed").hash;
            assert_eq!(again, hash, "the hash at {revision}, compacted at {under}, has changed");
        }
        self.hash = Some((self.seen(), compacted, answer.hash));
    }
}
