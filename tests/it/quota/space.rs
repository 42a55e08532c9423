//! Space that compaction has freed goes back to the file system, without an operator.

use super::*;
use crate::harness::for_each_backend;
use crate::harness::grpc::put;
use futures_util::future::join_all;
use std::path::Path;

for_each_backend!(castd: what_compaction_frees_goes_back_to_the_file_system);

/// Enough for several files of each engine.
const HISTORY_BYTES: usize = 60 << 20;
const VALUE_BYTES: usize = 64 << 10;

/// What the files under `path` take on disk.
fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // A file may go while it is looked at.
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(it) if it.is_dir() => disk_bytes(&entry.path()),
        Ok(it) => it.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Puts a history that cannot be compressed away.
async fn put_history(api: &Api) {
    let mut noise = 1_u64;
    let mut value = || {
        let letters = (0..VALUE_BYTES).map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + (noise >> 33) as u8 % 90)
        });
        letters.collect::<String>()
    };
    for _ in 0..HISTORY_BYTES / VALUE_BYTES / 16 {
        let puts = (0..16).map(|number| (api.clone(), put(&format!("{}", number % 4), &value())));
        let done = join_all(puts.map(|(api, put)| async move { api.put_with(put).await })).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
}

async fn what_compaction_frees_goes_back_to_the_file_system(setup: Setup) {
    // sled gives it to later writes, but its file keeps its length.
    let shrinks = setup.backend().is_some_and(|backend| backend.name() != "sled");
    let server = setup.flags(["--snapshot-count=100", "--snapshot-catchup-entries=10"]).start();
    let api = server.api();
    let state = server.data_dir().join("member/state");
    let allocated = || metric(&server, "castd_storage_allocated_bytes").expect("told") as u64;
    let mut peaks = Vec::new();
    for _ in 0..2 {
        put_history(&api).await;
        assert!(status(&api).await.db_size > HISTORY_BYTES as i64);
        peaks.push(allocated());
        compact(&api).await;
        let logical = async || (status(&api).await.db_size < 2 << 20).then_some(());
        wait_for("the rows are gone", SOON, logical).await;
        if shrinks {
            let small = HISTORY_BYTES as u64 / 10;
            wait_for("the engine gives its space back", SOON, async || (allocated() < small).then_some(())).await;
            wait_for("so do the files", SOON, async || (disk_bytes(&state) < small).then_some(())).await;
        }
    }
    assert!(peaks[0] > HISTORY_BYTES as u64 / 2, "{peaks:?}");
    assert!(peaks[1] < peaks[0] + peaks[0] / 2, "what was freed is used again: {peaks:?}");
}
