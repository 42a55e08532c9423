//! Every file of a closed store is cut, emptied, removed and flipped, one at a time. What opens after that must be a
//! prefix of whole batches, or say that it is not.

use super::{Engine, history};
use crate::{Backend, BackendError, OpenError};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug)]
enum Damage {
    Remove,
    Empty,
    CutInHalf,
    CutLastByte,
    Flip { per_mille: usize },
}

const DAMAGES: [Damage; 8] = [
    Damage::Remove,
    Damage::Empty,
    Damage::CutInHalf,
    Damage::CutLastByte,
    Damage::Flip { per_mille: 0 },
    Damage::Flip { per_mille: 330 },
    Damage::Flip { per_mille: 800 },
    Damage::Flip { per_mille: 999 },
];

pub fn a_damaged_file_is_reported_or_leaves_whole_batches<E: Engine>() {
    if !E::PROMISES.survives_reopening {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    write_history::<E>(&sound);
    let mut damaged = 0;
    for file in files_of(&sound) {
        for (n, damage) in DAMAGES.into_iter().enumerate() {
            let copy = dir.path().join(format!("copy-{n}"));
            copy_tree(&sound, &copy);
            if !inflict(&copy.join(&file), damage) {
                continue;
            }
            damaged += 1;
            judge::<E>(&copy, &file, damage);
            let _ = fs::remove_dir_all(&copy);
        }
    }
    assert!(damaged >= 8, "only {damaged} cases");
}

fn write_history<E: Engine>(path: &Path) {
    let backend = E::open(path).unwrap();
    for n in 1..=130 {
        backend.write(&history::batch(n)).unwrap();
        if n % 31 == 0 {
            backend.flush().unwrap();
        }
    }
    backend.flush().unwrap();
    drop(backend);
    // A second life, so that files of a recovery are among those that get damaged.
    let backend = E::open(path).unwrap();
    backend.write(&history::batch(131)).unwrap();
    backend.flush().unwrap();
}

fn judge<E: Engine>(path: &Path, file: &Path, damage: Damage) {
    let backend = match E::open(path) {
        Ok(backend) => backend,
        Err(OpenError::Corrupt { .. }) => return,
        Err(error) => panic!("{damage:?} of {}: {error}", file.display()),
    };
    match history::check(&*backend) {
        Ok(_) | Err(BackendError::Corrupt { .. }) => {}
        Err(error) => panic!("{damage:?} of {}: {error}", file.display()),
    }
    // Whatever was found, the engine still answers.
    let _ = backend.size();
    let _ = Backend::background_errors(&*backend);
}

fn inflict(file: &Path, damage: Damage) -> bool {
    let mut bytes = fs::read(file).unwrap();
    match damage {
        Damage::Remove => {
            fs::remove_file(file).unwrap();
            return true;
        }
        _ if bytes.is_empty() => return false,
        Damage::Empty => bytes.clear(),
        Damage::CutInHalf => bytes.truncate(bytes.len() / 2),
        Damage::CutLastByte => bytes.truncate(bytes.len() - 1),
        Damage::Flip { per_mille } => {
            let at = bytes.len() * per_mille / 1000;
            bytes[at] ^= 0x55;
        }
    }
    fs::write(file, bytes).unwrap();
    true
}

/// Paths of all files below `dir`, relative to it.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(relative) = open.pop() {
        for entry in fs::read_dir(dir.join(&relative)).unwrap() {
            let entry = entry.unwrap();
            let relative = relative.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() { open.push(relative) } else { files.push(relative) }
        }
    }
    files.sort();
    files
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
