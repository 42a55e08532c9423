//! What is looked at while it happens: each member against itself before, and all against each other.

use crate::clients::wire;
use crate::disk::Disk;
use crate::member::{Actors, Shared};
use crate::summary::Summary;
use castd::ids::{LogIndex, MemberId, Revision};
use castd::mvcc::{Changes, EventKind};
use castd::raft::node::{CommittedEntry, Status};
use castd::state::{Applied, Machine, StateHash};
use castd_judge::history::{Compaction, CompactionOutcome, Event, Log};
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The lease table is compared with the keys every so many slices: that reads all keys.
const LEASES_LOOKED_AT_EVERY: u64 = 32;

/// What a member was at the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    boot: u64,
    term: u64,
    committed: u64,
    applied: u64,
    revision: i64,
    compacted: i64,
}

#[derive(Default)]
pub struct Checks {
    pub summary: Summary,
    seen: BTreeMap<usize, Seen>,
    /// Who leads, or led, in each term.
    leaders: BTreeMap<u64, MemberId>,
    /// For whom each member has voted, by member and term.
    votes: BTreeMap<(MemberId, u64), u64>,
    /// Term of each entry that was committed, by index from 1.
    committed: Vec<u64>,
    /// State hash after each entry, as the first member that got there had it.
    hashes: BTreeMap<u64, StateHash>,
    /// What happened, by revision, as it was applied first.
    pub log: Log,
    /// Removed, as of some applied index.
    pub removed: BTreeSet<MemberId>,
    /// Compactions that members asked for by themselves.
    pub own_compactions: Vec<Compaction>,
    /// Changes of the membership that the state machine has applied and raft has yet to follow, of the member in its turn.
    conf_changes_under_way: i64,
    slices: u64,
}

impl Checks {
    fn seen(&mut self, place: usize, boot: u64) -> &mut Seen {
        let seen = self.seen.entry(place).or_default();
        if seen.boot != boot {
            *seen = Seen { boot, term: seen.term, ..Seen::default() };
        }
        seen
    }

    pub fn booted(&mut self, place: usize, boot: u64, machine: &Machine) {
        self.summary.count("a boot");
        let applied = machine.applied().0;
        *self.seen(place, boot) = Seen { boot, ..Seen::default() };
        self.agree(machine);
        let seen = self.seen(place, boot);
        (seen.applied, seen.revision) = (applied, machine.revision().0);
    }

    pub fn status(&mut self, place: usize, id: MemberId, boot: u64, status: Status) {
        let seen = self.seen(place, boot);
        assert!(status.term.0 >= seen.term, "member {id}: the term went from {} to {}", seen.term, status.term);
        assert!(
            status.committed.0 >= seen.committed,
            "member {id}: the commit index went from {} to {}",
            seen.committed,
            status.committed
        );
        (seen.term, seen.committed) = (status.term.0, status.committed.0);
        if status.is_leader {
            let before = self.leaders.insert(status.term.0, id);
            assert!(before.is_none_or(|before| before == id), "{id} and {before:?} lead in term {}", status.term);
            if before.is_none() {
                self.summary.count("a leader was elected");
            }
        }
    }

    /// In each term a member votes once, whatever it has forgotten since.
    pub fn sent(&mut self, id: MemberId, message: &Message) {
        let candidate = match message.get_msg_type() {
            MessageType::MsgRequestVote => id.0,
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            _ => return,
        };
        let before = *self.votes.entry((id, message.term)).or_insert(candidate);
        let term = message.term;
        assert_eq!(before, candidate, "member {id} votes for {candidate} in term {term}, and has voted for {before}");
    }

    /// At each index there is one entry, for ever.
    pub fn committed(&mut self, place: usize, entries: &[CommittedEntry]) {
        for CommittedEntry { entry, .. } in entries {
            let at = entry.index as usize - 1;
            match self.committed.get(at) {
                Some(term) => assert_eq!(*term, entry.term, "place {place}: another entry at index {}", entry.index),
                None => {
                    self.committed.resize(at, 0);
                    self.committed.push(entry.term);
                }
            }
        }
    }

    pub fn conf_change_applied(&mut self) {
        self.conf_changes_under_way += 1;
    }

    pub fn conf_change_followed(&mut self) {
        self.conf_changes_under_way -= 1;
        self.summary.count("raft followed a change of the membership");
    }

    pub fn applied(&mut self, place: usize, id: MemberId, boot: u64, machine: &Machine, applied: &Applied) {
        for changes in &applied.changes {
            self.remember(changes);
        }
        self.follow(place, id, boot, machine);
    }

    pub fn installed(&mut self, place: usize, boot: u64, machine: &Machine) {
        let id = MemberId(place as u64);
        self.follow(place, id, boot, machine);
    }

    fn follow(&mut self, place: usize, id: MemberId, boot: u64, machine: &Machine) {
        let (applied, revision) = (machine.applied().0, machine.revision().0);
        // -1 of a store that was never compacted.
        let compacted = machine.view().mvcc.compact_revision().0.max(0);
        let seen = self.seen(place, boot);
        let before = *seen;
        (seen.applied, seen.revision, seen.compacted) = (applied, revision, compacted);
        assert!(applied > before.applied, "member {id}: applied went from {} to {applied}", before.applied);
        assert!(revision >= before.revision, "member {id}: the revision went from {} to {revision}", before.revision);
        assert!(compacted >= before.compacted, "member {id}: compacted went from {} to {compacted}", before.compacted);
        self.agree(machine);
        self.slices += 1;
        if self.slices.is_multiple_of(LEASES_LOOKED_AT_EVERY) {
            check_leases(machine);
        }
    }

    /// Whoever has applied the same has the same.
    fn agree(&mut self, machine: &Machine) {
        let view = machine.view();
        let hash = *self.hashes.entry(view.applied.0).or_insert(view.state_hash);
        self.summary.count("hashes compared");
        assert_eq!(hash, view.state_hash, "two members differ at index {}", view.applied);
        let members = machine.members();
        let ids = |learn: bool| members.list().filter(move |it| it.is_learner == learn).map(|it| it.id);
        assert!(
            ids(false).eq(view.conf_state.voters.iter().copied()),
            "members {members:?}, not {:?}",
            view.conf_state
        );
        assert!(
            ids(true).eq(view.conf_state.learners.iter().copied()),
            "members {members:?}, not {:?}",
            view.conf_state
        );
        for member in members.list() {
            assert!(!members.is_removed(MemberId(member.id)), "{:x} is removed, and there", member.id);
        }
        for row in members.rows() {
            if let castd::membership::members::MemberRow::Removed(id) = row {
                self.removed.insert(id);
            }
        }
    }

    pub fn hash_at(&self, index: u64) -> u64 {
        self.hashes.get(&index).map_or(0, |hash| hash.0)
    }

    /// Writes a revision down that nobody had before.
    fn remember(&mut self, changes: &Changes) {
        let Revision(revision) = changes.revision;
        let newest = self.log.last_key_value().map_or(1, |(newest, _)| *newest);
        if revision <= newest {
            return;
        }
        assert_eq!(revision, newest + 1, "a revision was left out");
        let events = changes.events.iter().map(|event| {
            let pair = wire::pair(&event.kv);
            match event.kind {
                EventKind::Put => Event::Put(pair),
                EventKind::Delete => Event::Delete { key: pair.key },
            }
        });
        self.log.insert(revision, events.collect());
    }

    /// The highest revision that any member has had.
    pub fn newest_revision(&self) -> i64 {
        self.log.last_key_value().map_or(1, |(newest, _)| *newest)
    }

    pub fn compaction_asked(&mut self, at: Duration, revision: i64) {
        let (invoked, outcome) = (at.as_micros() as u64, CompactionOutcome::Unknown);
        self.own_compactions.push(Compaction { revision, invoked, returned: u64::MAX, outcome });
    }

    /// After each step: what the cores themselves say must hold.
    pub fn look(&mut self, place: usize, actors: &Actors, shared: &Shared, disk: &mut Disk, is_disk_touched: bool) {
        let status = actors.raft_node.node.status();
        let applied = actors.applier.machine.applied();
        assert!(
            shared.view.applied == applied || actors.applier.is_installing(),
            "place {place}: an old view is published"
        );
        assert!(status.committed >= applied, "place {place}: applied {applied}, committed {}", status.committed);
        actors.watch_hub.hub.check_invariants();
        actors.lease_keeper.core.check_invariants();
        if is_disk_touched && let Err(reason) = disk.is_recoverable() {
            panic!("place {place}: a crash now would leave nothing to start from: {reason}");
        }
    }

    pub fn applied_index(&self, place: usize) -> LogIndex {
        LogIndex(self.seen.get(&place).map_or(0, |seen| seen.applied))
    }
}

/// Each key of a lease is there and says so, and no other key does.
fn check_leases(machine: &Machine) {
    let view = machine.view();
    let all = castd_proto::etcdserverpb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    let pairs = view.mvcc.range(&all).expect("the present can be read").kvs;
    let by_key: BTreeSet<_> = pairs.iter().filter(|kv| kv.lease != 0).map(|kv| (kv.lease, kv.key.clone())).collect();
    let by_lease: BTreeSet<_> =
        view.leases.iter().flat_map(|(id, lease)| lease.keys.iter().map(move |key| (id.0, key.clone()))).collect();
    assert_eq!(by_key, by_lease, "keys and leases differ at index {}", view.applied);
}
