//! Reading and writing: batches, tables, bounds and order, readers beside a writer.

use super::{Engine, contents, fresh, noise, put, revision_key, scan};
use crate::{Backend, Table, WriteBatch};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub fn what_was_written_is_read_back<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let mut batch = WriteBatch::new();
    batch.put(Table::Kv, "a", "1");
    batch.put(Table::Kv, "b", "");
    batch.put(Table::Kv, "", "the empty key is a key");
    backend.write(&batch).unwrap();
    assert_eq!(backend.get(Table::Kv, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(backend.get(Table::Kv, b"b").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(backend.get(Table::Kv, b"").unwrap().as_deref(), Some(&b"the empty key is a key"[..]));
    assert_eq!(backend.get(Table::Kv, b"c").unwrap(), None);
    let mut batch = WriteBatch::new();
    batch.delete(Table::Kv, "a");
    batch.delete(Table::Kv, "never written");
    backend.write(&batch).unwrap();
    assert_eq!(backend.get(Table::Kv, b"a").unwrap(), None);
}

pub fn the_last_operation_on_a_row_wins_within_a_batch<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let mut batch = WriteBatch::new();
    batch.put(Table::Kv, "put put", "old");
    batch.put(Table::Kv, "put put", "new");
    batch.put(Table::Kv, "put delete", "old");
    batch.delete(Table::Kv, "put delete");
    batch.delete(Table::Kv, "delete put");
    batch.put(Table::Kv, "delete put", "new");
    backend.write(&batch).unwrap();
    assert_eq!(backend.get(Table::Kv, b"put put").unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(backend.get(Table::Kv, b"put delete").unwrap(), None);
    assert_eq!(backend.get(Table::Kv, b"delete put").unwrap().as_deref(), Some(&b"new"[..]));
}

pub fn tables_do_not_see_each_other<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let keys: [&'static [u8]; 4] = [b"", b"k", b"\xff", b"\xff\xff\xff"];
    let mut batch = WriteBatch::new();
    for table in Table::ALL {
        for key in keys {
            batch.put(table, key, vec![table as u8; key.len() + 1]);
        }
    }
    backend.write(&batch).unwrap();
    for table in Table::ALL {
        let rows = scan(&*backend, table, b"", b"").unwrap();
        let expected: Vec<_> = keys.iter().map(|key| (key.to_vec(), vec![table as u8; key.len() + 1])).collect();
        assert_eq!(rows, expected, "{table:?}");
    }
    let mut batch = WriteBatch::new();
    batch.delete(Table::Kv, &b"k"[..]);
    backend.write(&batch).unwrap();
    assert_eq!(contents(&*backend).unwrap().len(), Table::ALL.len() * keys.len() - 1);
}

pub fn an_empty_batch_changes_nothing<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    put(&*backend, Table::Kv, "a", "1");
    backend.write(&WriteBatch::new()).unwrap();
    assert_eq!(contents(&*backend).unwrap().len(), 1);
}

pub fn a_scan_is_ordered_and_keeps_to_its_bounds<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    // Written backwards, in two batches, with a flush between: order must not come from how rows arrived.
    let count = 2000;
    for half in [1, 0] {
        let mut batch = WriteBatch::new();
        for main in (0..count).rev().filter(|main| main % 2 == half) {
            batch.put(Table::Kv, revision_key(main, 0), main.to_be_bytes().to_vec());
        }
        backend.write(&batch).unwrap();
        backend.flush().unwrap();
    }
    let bounds = |from: &[u8], to: &[u8]| -> Vec<u64> {
        let rows = scan(&*backend, Table::Kv, from, to).unwrap();
        rows.iter().map(|(_, value)| u64::from_be_bytes(value.as_slice().try_into().unwrap())).collect()
    };
    assert_eq!(bounds(b"", b""), (0..count).collect::<Vec<_>>());
    assert_eq!(bounds(&revision_key(10, 0), b""), (10..count).collect::<Vec<_>>());
    assert_eq!(bounds(b"", &revision_key(10, 0)), (0..10).collect::<Vec<_>>());
    assert_eq!(bounds(&revision_key(3, 0), &revision_key(900, 0)), (3..900).collect::<Vec<_>>());
    assert_eq!(bounds(&revision_key(3, 1), &revision_key(5, 1)), vec![4, 5]);
    assert_eq!(bounds(&revision_key(7, 0), &revision_key(7, 0)), Vec::<u64>::new());
    assert_eq!(bounds(&revision_key(9, 0), &revision_key(7, 0)), Vec::<u64>::new());
    assert_eq!(bounds(&revision_key(count, 0), b""), Vec::<u64>::new());
    assert_eq!(bounds(&[], &[0xff; 20]), (0..count).collect::<Vec<_>>());
}

pub fn a_scan_stops_where_the_visitor_says<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let mut batch = WriteBatch::new();
    for main in 0..1000 {
        batch.put(Table::Kv, revision_key(main, 0), "");
    }
    backend.write(&batch).unwrap();
    for stop_after in [1, 15, 16, 17, 272, 999] {
        let mut seen = 0;
        backend
            .scan(Table::Kv, b"", b"", &mut |key, _| {
                assert_eq!(key, revision_key(seen, 0));
                seen += 1;
                if seen == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(seen, stop_after);
    }
}

pub fn many_rows_are_answered_in_the_order_they_were_asked_for<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let mut batch = WriteBatch::new();
    for main in 0..700 {
        batch.put(Table::Kv, revision_key(main, 0), main.to_be_bytes().to_vec());
    }
    backend.write(&batch).unwrap();
    backend.flush().unwrap();
    put(&*backend, Table::Kv, revision_key(700, 0), 700u64.to_be_bytes().to_vec());
    // Scattered, with a repetition and with rows that do not exist (701 and up).
    let asked: Vec<u64> = (0..703).map(|n| n * 397 % 703).chain([5]).collect();
    let keys: Vec<Vec<u8>> = asked.iter().map(|main| revision_key(*main, 0)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let found = backend.get_many(Table::Kv, &keys).unwrap();
    assert_eq!(found.len(), asked.len());
    for (main, value) in asked.iter().zip(found) {
        let expected = (*main <= 700).then(|| main.to_be_bytes().to_vec());
        assert_eq!(value.map(|bytes| bytes.to_vec()), expected, "row {main}");
    }
    assert_eq!(backend.get_many(Table::Kv, &[]).unwrap(), vec![]);
    assert_eq!(backend.get_many(Table::Lease, &keys[..2]).unwrap(), vec![None, None]);
}

pub fn long_keys_and_values_are_kept<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let lengths = [0, 1, 22, 23, 62, 63, 64, 1000, 33 << 10];
    let mut batch = WriteBatch::new();
    for length in lengths {
        batch.put(Table::Auth, vec![b'x'; length], noise(length as u64, length * 50));
    }
    backend.write(&batch).unwrap();
    backend.flush().unwrap();
    for length in lengths {
        let value = backend.get(Table::Auth, &vec![b'x'; length]).unwrap().unwrap();
        assert_eq!(value, noise(length as u64, length * 50), "a key of {length} bytes");
    }
    let rows = scan(&*backend, Table::Auth, b"", b"").unwrap();
    assert_eq!(rows.iter().map(|(key, _)| key.len()).collect::<Vec<_>>(), lengths);
}

/// Point-in-time reads are reads of revision rows: once a batch is written, any thread finds its rows, whatever follows.
pub fn a_published_revision_stays_readable_while_later_ones_are_written<E: Engine>() {
    const LAST: u64 = 1500;
    let (_dir, backend) = fresh::<E>();
    let published = AtomicU64::new(0);
    let value = |main: u64, sub: u64| noise(main * 2 + sub, 64);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (backend, published) = (&backend, &published);
            scope.spawn(move || {
                let mut turn = reader;
                loop {
                    let newest = published.load(Ordering::Acquire);
                    turn += 1;
                    if newest > 0 {
                        let main = noise(turn, 8).iter().fold(0, |sum, byte| sum * 31 + u64::from(*byte)) % newest + 1;
                        for main in [main, newest] {
                            for sub in 0..2 {
                                let found = backend.get(Table::Kv, &revision_key(main, sub)).unwrap();
                                assert_eq!(found.as_deref(), Some(&*value(main, sub)), "revision {main} of {newest}");
                            }
                        }
                        let from = newest.saturating_sub(20).max(1);
                        let rows = scan(&**backend, Table::Kv, &revision_key(from, 0), &revision_key(newest + 1, 0));
                        let expected: Vec<_> = (from..=newest)
                            .flat_map(|main| [0, 1].map(|sub| (revision_key(main, sub), value(main, sub))))
                            .collect();
                        assert_eq!(rows.unwrap(), expected);
                    }
                    if newest == LAST {
                        return;
                    }
                }
            });
        }
        for main in 1..=LAST {
            let mut batch = WriteBatch::new();
            batch.put(Table::Kv, revision_key(main, 0), value(main, 0));
            batch.put(Table::Kv, revision_key(main, 1), value(main, 1));
            batch.put(Table::Meta, "applied", main.to_be_bytes().to_vec());
            backend.write(&batch).unwrap();
            published.store(main, Ordering::Release);
            if main == LAST / 2 {
                backend.flush().unwrap();
            }
        }
    });
}

pub fn a_visitor_may_read_while_a_writer_waits<E: Engine>() {
    let (_dir, backend) = fresh::<E>();
    let mut batch = WriteBatch::new();
    for main in 0..2000 {
        batch.put(Table::Kv, revision_key(main, 0), "value");
    }
    backend.write(&batch).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn: u64 = 0;
            while !done.load(Ordering::Acquire) {
                turn += 1;
                put(&*backend, Table::Meta, "turn", turn.to_be_bytes().to_vec());
            }
        });
        let mut seen = 0;
        let visitor: &dyn Backend = &*backend;
        visitor
            .scan(Table::Kv, b"", b"", &mut |key, _| {
                assert!(visitor.get(Table::Kv, key).unwrap().is_some());
                seen += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        done.store(true, Ordering::Release);
        assert_eq!(seen, 2000);
    });
}
