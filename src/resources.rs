//! What the process asks of the system before it starts: file descriptors, and memory that stays in RAM.
//!
//! Limits that turn out too low on the way cost connections or the whole process, so they are looked at first.

use rustix::io;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Descriptors that are not for clients: files, peers, listeners. etcd's number.
pub const RESERVED_DESCRIPTORS: u64 = 150;

/// Why the system does not give what the configuration needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// etcd's text.
    #[error("file descriptor limit of etcd process is too low; please set higher")]
    TooFewDescriptors { limit: u64 },
    #[error(
        "--memory-mlock: at most {limit} bytes may be locked, and castd would end when it needs more; lift the limit \
         (LimitMEMLOCK=infinity, ulimit -l unlimited), grant CAP_IPC_LOCK, or leave the flag out"
    )]
    LockLimit { limit: u64 },
    #[error("--memory-mlock: memory cannot be locked: {0}")]
    Lock(io::Errno),
}

/// Takes as many file descriptors as the process may have, as Go programs do, and says how many.
///
/// # Errors
/// There would be none for clients.
pub fn take_descriptors() -> Result<u64, ResourceError> {
    let given = getrlimit(Resource::Nofile);
    // Keeping the lower limit is no reason not to start.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: given.maximum, maximum: given.maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit <= RESERVED_DESCRIPTORS { Err(ResourceError::TooFewDescriptors { limit }) } else { Ok(limit) }
}

/// Keeps every page of the process, now and later, in RAM from when it is first used.
///
/// The kernel counts all of a process's address space against the limit, and refuses to map more when it is reached: so
/// there must be no limit.
///
/// # Errors
/// There is one, or the kernel refuses.
pub fn lock_memory() -> Result<(), ResourceError> {
    let may_always = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !may_always && let Some(limit) = getrlimit(Resource::Memlock).current {
        return Err(ResourceError::LockLimit { limit });
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(ResourceError::Lock)
}
