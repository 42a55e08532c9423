//! Places where the simulator makes a core do it wrong, to see that its checks find out.
//!
//! ```text
//!   the simulator: plant(bug) ──▶ this thread ──▶ a core, or an actor: if planted::is_on(Bug::…) { what once was wrong }
//! ```
//! Without the feature `planted`, which nothing but the simulator asks for, nothing can be planted: the question has a
//! constant answer, and the compiler leaves the wrong branch out. A server cannot be built with it.

macro_rules! bugs {
    ($($name:ident,)*; $($shell:ident,)*) => {
        /// A bug that sits in a core, or in an actor's shell. What each of them was in history, the simulator's list says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($name,)*
            $($shell,)*
        }

        impl Bug {
            /// Those in cores.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];
            /// Those in shells, for the level that runs the actors.
            pub const IN_SHELLS: &[Bug] = &[$(Bug::$shell,)*];
        }
    };
}

bugs! {
    // raft::node
    VotesBeforeSync,
    AcceptsBeforeSync,
    ReusesReadContexts,
    SkipsTermCheck,
    // raft::log::memory
    KeepsStaleSuffix,
    // raft::log::verify
    DropsDamagedSuffix,
    TrustsThePageCache,
    // state
    AppliedIndexApart,
    StaleLeaderRevokes,
    ZombieMember,
    CountsLearners,
    UpdatePromotes,
    // mvcc
    PartialTxn,
    LosesTombstones,
    // watch::hub
    DropsOnOverflow,
    WatchBackInTime,
    FutureWatchHearsOld,
    ProgressTooEarly,
    RepeatsEvents,
    KeepsCompactedWatchers,
    MisplacesFutureWatchers,
    // lease
    StaleLeaderKeepsAlive,
    RenewsExpired,
    KeepAliveRacesGrant,
    LosesTrackOfKeys,
    // snapshot::policy
    CutsTooMuch,
    ;
    // actors::applier: a write is answered before readers see it
    PublishesLate,
    // actors::raft_node: a read is answered by the read index of one that was asked before
    JoinsReadUnderWay,
}

#[cfg(feature = "planted")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants `bug`, and no other, in all cores of this thread.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub fn is_on(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use switch::{is_on, plant};

#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_on(_: Bug) -> bool {
    false
}
