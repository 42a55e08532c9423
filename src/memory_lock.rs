//! `--memory-mlock`: the memory of the process stays in RAM.

use rustix::io;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Why memory cannot be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryLockError {
    #[error(
        "--memory-mlock: at most {limit} bytes may be locked, and castd would end when it needs more; lift the limit \
         (LimitMEMLOCK=infinity, ulimit -l unlimited), grant CAP_IPC_LOCK, or leave the flag out"
    )]
    Limit { limit: u64 },
    #[error("--memory-mlock: memory cannot be locked: {0}")]
    Refused(io::Errno),
}

/// Keeps every page of the process, now and later, in RAM from when it is first used.
///
/// The kernel counts all of a process's address space against the limit, and refuses to map more when it is reached: so
/// there must be no limit.
///
/// # Errors
/// There is one, or the kernel refuses.
pub fn lock_memory() -> Result<(), MemoryLockError> {
    let may_always = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !may_always && let Some(limit) = getrlimit(Resource::Memlock).current {
        return Err(MemoryLockError::Limit { limit });
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(MemoryLockError::Refused)
}
