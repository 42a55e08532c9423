//! Numbers that must not be mistaken for one another.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// By numbers that this process gives out itself, so that nobody can choose them to collide. Its order is the same in each run:
/// who waits in it is told in the same order when it goes.
pub type CountedMap<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// An index in the raft log; the first entry has 1, 0 means "before everything".
    LogIndex(u64)
}
id! {
    /// A raft term.
    Term(u64)
}
id! {
    /// A main revision of the key space: one for each request that changed something. A fresh store is at 1.
    Revision(i64)
}
id! {
    /// A lease. Negative ids are legal; 0 is "no lease".
    LeaseId(i64)
}
id! {
    /// Numbers one client request on its way through this member. Never leaves the process.
    RequestId(u64)
}

/// A member, printed as etcd prints it: lower-case hex without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A cluster, printed like a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
