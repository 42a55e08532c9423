//! Opening, and telling damaged files from a directory that cannot be used.

use crate::{ENGINE, Options, manifest};
use castd_backend_api::OpenError;
use rocksdb::{DB, DEFAULT_COLUMN_FAMILY_NAME, ErrorKind};
use std::io;
use std::path::Path;

pub(crate) fn open(path: &Path, options: &Options) -> Result<DB, OpenError> {
    let unusable = |detail: String| OpenError::Unusable { engine: ENGINE, path: path.to_owned(), detail };
    let corrupt = |detail: String| OpenError::Corrupt { engine: ENGINE, path: path.to_owned(), detail };
    std::fs::create_dir_all(path).map_err(|error| unusable(error.to_string()))?;
    if has_rows_but_no_entry_point(path).map_err(|error| unusable(error.to_string()))? {
        return Err(corrupt("there are table files, but CURRENT is missing".to_owned()));
    }
    manifest::cut_torn_end(path).map_err(|error| unusable(error.to_string()))?;
    let options = options.engine();
    DB::open_cf_with_opts(&options, path, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())]).map_err(|error| {
        let kind = error.kind();
        let detail = error.into_string();
        // A file the store refers to is gone. (The directory itself was there a moment ago.)
        let file_missing = kind == ErrorKind::IOError && detail.contains("No such file or directory");
        if kind == ErrorKind::Corruption || file_missing { corrupt(detail) } else { unusable(detail) }
    })
}

/// Without `CURRENT` RocksDB takes the directory for a new one, deletes the tables in it and starts empty.
fn has_rows_but_no_entry_point(path: &Path) -> io::Result<bool> {
    if path.join("CURRENT").try_exists()? {
        return Ok(false);
    }
    for entry in std::fs::read_dir(path)? {
        if Path::new(&entry?.file_name()).extension().is_some_and(|extension| extension == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}
