//! Opening, and telling damaged files from a directory that cannot be used.

use crate::{ENGINE, Options};
use castd_backend_api::OpenError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// A store that was just closed in this process may hold its lock until its threads have ended.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn open(path: &Path, options: &Options) -> Result<sled::Db, OpenError> {
    let unusable = |detail: String| OpenError::Unusable { engine: ENGINE, path: path.to_owned(), detail };
    let corrupt = |detail: String| OpenError::Corrupt { engine: ENGINE, path: path.to_owned(), detail };
    std::fs::create_dir_all(path).map_err(|error| unusable(error.to_string()))?;
    let mut tries = 0;
    loop {
        let config = sled::Config::new().path(path).cache_capacity(options.cache_bytes);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let error = match opened {
            Ok(Ok(tree)) => return Ok(tree),
            Ok(Err(error)) => error,
            Err(_) => return Err(corrupt("sled panicked".to_owned())),
        };
        if is_locked(&error) && tries < LOCK_TRIES {
            tries += 1;
            std::thread::sleep(LOCK_PAUSE);
            continue;
        }
        return Err(if is_damage(&error) { corrupt(error.to_string()) } else { unusable(error.to_string()) });
    }
}

/// Whether the files are to blame, and not what is around them.
pub(crate) fn is_damage(error: &sled::Error) -> bool {
    match error {
        // "Unsupported" is what it makes of a damaged `conf`: our version of it is the only one that writes here.
        sled::Error::Corruption { .. }
        | sled::Error::ReportableBug(_)
        | sled::Error::Unsupported(_)
        | sled::Error::CollectionNotFound(_) => true,
        sled::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}
