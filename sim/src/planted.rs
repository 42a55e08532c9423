//! Bugs that are planted on purpose, to see that the checks find them: each of them was real once, in etcd, in raft-rs, or in
//! what others built upon it.
//!
//! ```text
//!   plant(bug) ──▶ this thread ─┬─▶ the simulator's member, where the bug sat in a shell: the order of fsync and answer, say
//!                               └─▶ castd::planted, where it sits in a core
//! ```
//! One is on at a time, for the worlds of one thread: a world has its thread to itself while it runs. `tests/planted.rs` wants
//! each of them found.

use castd::planted as core;
use std::cell::Cell;

macro_rules! bugs {
    (
        in the member: { $($(#[doc = $was:literal])+ $name:ident of $history:literal at $place:literal,)* }
        in a core: { $($(#[doc = $core_was:literal])+ $core:ident of $core_history:literal at $core_place:literal,)* }
    ) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[doc = $was])+ $name,)*
            $($(#[doc = $core_was])+ $core,)*
        }

        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$name,)* $(Bug::$core,)*];

            pub fn about(self) -> About {
                match self {
                    $(Bug::$name => About { history: $history, was: concat!($($was),+), place: $place },)*
                    $(Bug::$core => About { history: $core_history, was: concat!($($core_was),+), place: $core_place },)*
                }
            }

            fn in_core(self) -> Option<core::Bug> {
                match self {
                    $(Bug::$name => None,)*
                    $(Bug::$core => Some(core::Bug::$core),)*
                }
            }
        }
    };
}

/// What a bug was, and where it is now.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its numbers in the list of historical bugs.
    pub history: &'static str,
    pub was: &'static str,
    /// The file in which it is switched.
    pub place: &'static str,
}

bugs! {
    in the member: {
        /// A write was answered before its fsync, and lost with the power.
        AnswersBeforeSync of "H03" at "sim/src/member/log_writer.rs",
        /// A forwarded proposal that was sent again was applied again.
        ForgetsTags of "H34" at "sim/src/member/raft_node.rs",
        /// The server proposed a write anew after an error that does not say whether it was done.
        RetriesWrites of "H35" at "sim/src/member/raft_node.rs",
        /// A read was answered from whatever the member had, without a word of the leader.
        ReadsWithoutAsking of "H26" at "sim/src/member/raft_node.rs",
        /// An entry was left out by one member, and nobody compared.
        SkipsAnEntry of "H21" at "sim/src/member/applier.rs",
        /// A sync that had failed was taken for one that had not, and what it was to write was gone.
        IgnoresFailedSync of "H98" at "sim/src/disk/files.rs",
        /// A snapshot was written over the state it was to replace, row by row.
        InstallsInPlace of "H02 H31" at "sim/src/disk/mod.rs",
        /// A store that a power failure had torn was opened as if it had been closed.
        BelievesATornStore of "H95" at "sim/src/disk/mod.rs",
        /// Leases were counted by the date, which jumps.
        LeasesByTheDate of "H68" at "sim/src/member/lease_keeper.rs",
        /// What was known of leases was not loaded at a start, so that they never ended.
        LeasesNotLoaded of "H11" at "sim/src/member/mod.rs",
    }
    in a core: {
        /// A vote went out before it was on disk; after a crash the member voted for another one.
        VotesBeforeSync of "H30" at "src/raft/node.rs",
        /// A follower acknowledged entries before they were on disk, and forgot them.
        AcceptsBeforeSync of "H30" at "src/raft/node.rs",
        /// A ReadIndex that was asked again had the context of the one before, whose late answer was taken for its own.
        ReusesReadContexts of "H26" at "src/raft/node/reads.rs",
        /// A new leader answered reads before it had committed anything in its term.
        SkipsTermCheck of "H28" at "src/raft/node/reads.rs",
        /// The log of before an install kept its entries behind the snapshot.
        KeepsStaleSuffix of "H31" at "src/raft/log/memory.rs",
        /// Damage in the middle of the log was taken for a torn end, and what came behind it was dropped.
        DropsDamagedSuffix of "H96" at "src/raft/log/verify.rs",
        /// A start believed the page cache over a disk that had failed to sync.
        TrustsThePageCache of "H98" at "src/raft/log/verify.rs",
        /// The applied index was written apart from what was applied.
        AppliedIndexApart of "H01" at "src/state/machine.rs",
        /// A leader that had been replaced still revoked leases that its successor had renewed.
        StaleLeaderRevokes of "H64" at "src/state/machine.rs",
        /// A member that was removed stayed in the store, and was back after a restart.
        ZombieMember of "H25 H42" at "src/state/membership.rs",
        /// A learner counted as a voter for raft, and as a learner for everybody else.
        CountsLearners of "H41" at "src/state/membership.rs",
        /// An update of a member's URLs made a voter of a learner.
        UpdatePromotes of "H43" at "src/membership/members.rs",
        /// A transaction failed in its middle, and what it had written by then stayed.
        PartialTxn of "H07 H08" at "src/mvcc/slice.rs",
        /// Compaction at the revision of a delete took the delete along, which watchers from there on had to see.
        LosesTombstones of "H55" at "src/mvcc/index/leaf.rs",
        /// Events for a stream that was full were lost.
        DropsOnOverflow of "H54" at "src/watch/hub/history.rs",
        /// After a snapshot watchers were told what they had been told long before.
        WatchBackInTime of "H53" at "src/watch/hub/history.rs",
        /// A watch from a revision to come was told of those before.
        FutureWatchHearsOld of "H57" at "src/watch/hub.rs",
        /// Progress was reported that the events on the stream had not made.
        ProgressTooEarly of "H56" at "src/watch/hub.rs",
        /// Events came twice when a watcher had caught up.
        RepeatsEvents of "H58" at "src/watch/hub/history.rs",
        /// Watchers whose revisions had been compacted stayed, and were told again and again.
        KeepsCompactedWatchers of "H59" at "src/watch/hub/history.rs",
        /// A restore put a watcher that waits for a revision to come among those that have missed something.
        MisplacesFutureWatchers of "H52" at "src/watch/hub/history.rs",
        /// A leader that had been replaced went on answering keepalives.
        StaleLeaderKeepsAlive of "H65" at "src/lease/keeper.rs",
        /// A lease was renewed, as its owner was told, that was being revoked.
        RenewsExpired of "H66" at "src/lease/keeper.rs",
        /// A keepalive overtook its grant, and was told that there is no such lease.
        KeepAliveRacesGrant of "H69" at "src/lease/keeper.rs",
        /// A lease lost track of its keys.
        LosesTrackOfKeys of "H71" at "src/lease/table.rs",
        /// The log was cut where neither snapshot nor store could take its place.
        CutsTooMuch of "H17" at "src/snapshot/policy.rs",
    }
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants `bug`, and no other, in the worlds of this thread.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
    core::plant(bug.and_then(Bug::in_core));
}

pub fn is_on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// By its name.
pub fn find(name: &str) -> Option<Bug> {
    Bug::ALL.iter().copied().find(|bug| format!("{bug:?}") == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_bug_is_switched_where_its_entry_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for bug in Bug::ALL {
            let About { place, history, was } = bug.about();
            let text = std::fs::read_to_string(root.join(place)).expect("a file");
            let switch = format!("Bug::{bug:?}");
            assert!(text.contains(&switch), "{place} knows nothing of {switch}");
            assert!(history.split(' ').all(|number| number.starts_with('H')) && was.len() > 20, "{bug:?}");
        }
    }

    #[test]
    fn every_bug_of_a_core_is_listed() {
        for bug in core::Bug::ALL {
            assert!(Bug::ALL.iter().any(|listed| listed.in_core() == Some(*bug)), "{bug:?} is planted by nobody");
        }
    }
}
