//! Bugs that are planted on purpose, to see that the checks find them.
//!
//! Each is a switch, on for one world at a time: worlds have a thread to themselves while they run. Where a bug sits in a
//! shell (the order of an fsync and its answer, say), it is the simulator's member that does it wrong; one that sits in a
//! core needs a switch there.

use std::cell::Cell;

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];
        }
    };
}

bugs! {
    /// The LogWriter says "persisted" when it has written, before its fsync (H03).
    AnswersBeforeSync,
    /// What is forwarded again gets another tag (H34).
    ForgetsTags,
    /// A linearizable read is answered from whatever the member has.
    ReadsWithoutAsking,
    /// One member leaves out what an entry says, now and then.
    SkipsAnEntry,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants `bug`, and no other, in the worlds of this thread.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub fn is_on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// By its name.
pub fn find(name: &str) -> Option<Bug> {
    Bug::ALL.iter().copied().find(|bug| format!("{bug:?}") == name)
}
