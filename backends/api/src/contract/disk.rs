//! Flush, what is durable, reopening, and giving space back.

use super::{Engine, fresh, history, noise, put, revision_key};
use crate::{Table, WriteBatch};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub fn rows_survive_reopening<E: Engine>() {
    if !E::PROMISES.survives_reopening {
        return;
    }
    let (dir, mut backend) = fresh::<E>();
    let mut written = 0;
    for step in [40, 1, 90] {
        for n in written + 1..=written + step {
            backend.write(&history::batch(n)).unwrap();
        }
        written += step;
        backend.flush().unwrap();
        drop(backend);
        backend = E::open(&dir.path().join("state")).unwrap();
        assert_eq!(history::check(&*backend).unwrap(), written);
    }
}

/// One flush is enough for engines that are trusted, sled is given two.
pub fn a_flushed_row_becomes_durable<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    for n in 1..=10 {
        backend.write(&history::batch(n)).unwrap();
    }
    backend.flush().unwrap();
    backend.flush().unwrap();
    assert_eq!(history::durable(&*backend).unwrap(), if E::PROMISES.survives_reopening { 10 } else { 0 });
    backend.write(&history::batch(11)).unwrap();
    assert!(history::durable(&*backend).unwrap() <= 10);
    assert_eq!(history::applied(&*backend).unwrap(), 11);
}

pub fn nothing_is_durable_before_the_first_flush<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    for n in 1..=10 {
        backend.write(&history::batch(n)).unwrap();
        assert_eq!(history::durable(&*backend).unwrap(), 0);
    }
    assert_eq!(backend.durable(Table::Kv, &revision_key(1, 0)).unwrap(), None);
}

/// The durable index may lag, but a value shows only once a flush that began after its write has finished.
pub fn a_flush_beside_a_writer_never_shows_a_row_from_the_future<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let written = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=400 {
                backend.write(&history::batch(n)).unwrap();
                written.store(n, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            backend.flush().unwrap();
            let durable = history::durable(&*backend).unwrap();
            let newest = written.load(Ordering::Acquire) + 1;
            assert!(durable <= newest, "{durable} is durable, {newest} is the newest");
            assert!(durable >= last, "the durable index went back from {last} to {durable}");
            last = durable;
        }
    });
    assert_eq!(history::check(&*backend).unwrap(), 400);
}

pub fn size_grows_and_shrinks_while_a_writer_goes_on<E: Engine>() {
    const ROWS: u64 = 6000;
    const ROW_BYTES: usize = 2 << 10;
    let (_dir, backend) = fresh::<E>();
    let empty = backend.size().unwrap();
    for chunk in 0..ROWS / 500 {
        let mut batch = WriteBatch::new();
        for main in chunk * 500..(chunk + 1) * 500 {
            batch.put(Table::Kv, revision_key(main, 0), noise(main, ROW_BYTES));
        }
        backend.write(&batch).unwrap();
    }
    backend.flush().unwrap();
    let full = backend.size().unwrap();
    assert!(full.allocated_bytes >= empty.allocated_bytes + ROWS * ROW_BYTES as u64, "{empty:?} then {full:?}");
    assert!(full.in_use_bytes <= full.allocated_bytes, "{full:?}");

    let mut batch = WriteBatch::new();
    for main in 0..ROWS {
        batch.delete(Table::Kv, revision_key(main, 0));
    }
    backend.write(&batch).unwrap();
    let turns = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let turn = turns.fetch_add(1, Ordering::AcqRel);
                put(&*backend, Table::Meta, "turn", turn.to_be_bytes().to_vec());
            }
        });
        // The writer must get on while space is given back, not only before and after.
        let before = turns.load(Ordering::Acquire);
        backend.reclaim(Table::Kv).unwrap();
        while turns.load(Ordering::Acquire) < before + 10 {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Release);
    });
    backend.flush().unwrap();
    if E::PROMISES.shrinks {
        let reclaimed = backend.size().unwrap();
        assert!(reclaimed.allocated_bytes < full.allocated_bytes / 4, "{full:?} then {reclaimed:?}");
        assert!(reclaimed.in_use_bytes <= reclaimed.allocated_bytes, "{reclaimed:?}");
    }
}

pub fn a_healthy_engine_reports_no_background_errors<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    put(&*backend, Table::Kv, "a", "1");
    backend.flush().unwrap();
    backend.background_errors().unwrap();
}
