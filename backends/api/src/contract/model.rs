//! Random batches, flushes and reopenings, compared with a map after every step.

use super::{Contents, Engine, contents, fresh, scan};
use crate::{Backend, Table, WriteBatch};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    Flush,
    Reopen,
}

#[derive(Clone, Debug)]
struct Change {
    table: Table,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

pub fn random_batches_match_a_map<E: Engine>() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let bounds = prop::collection::vec((key(), key()), 4);
    let steps = prop::collection::vec(step(), 1..12);
    TestRunner::new(config)
        .run(&(steps, bounds), |(steps, bounds)| {
            play::<E>(&steps, &bounds);
            Ok(())
        })
        .unwrap();
}

/// Few keys, so that they meet; bytes at both ends of the range, so that bounds are tried.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, b'l', 0xfe, 0xff]), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let table = prop::sample::select(Table::ALL.to_vec());
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..40));
    let change = (table, key(), value).prop_map(|(table, key, value)| Change { table, key, value });
    prop_oneof![
        8 => prop::collection::vec(change, 0..20).prop_map(Step::Write),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn play<E: Engine>(steps: &[Step], bounds: &[(Vec<u8>, Vec<u8>)]) {
    let (dir, mut backend) = fresh::<E>();
    let mut model = Contents::new();
    for step in steps {
        match step {
            Step::Write(changes) => {
                let mut batch = WriteBatch::new();
                for Change { table, key, value } in changes {
                    match value {
                        Some(value) => {
                            batch.put(*table, key.clone(), value.clone());
                            model.insert((*table, key.clone()), value.clone());
                        }
                        None => {
                            batch.delete(*table, key.clone());
                            model.remove(&(*table, key.clone()));
                        }
                    }
                }
                backend.write(&batch).unwrap();
            }
            Step::Flush => backend.flush().unwrap(),
            Step::Reopen if E::PROMISES.survives_reopening => {
                backend.flush().unwrap();
                drop(backend);
                backend = E::open(&dir.path().join("state")).unwrap();
            }
            Step::Reopen => {}
        }
        compare(&*backend, &model, bounds);
    }
}

fn compare(backend: &dyn Backend, model: &Contents, bounds: &[(Vec<u8>, Vec<u8>)]) {
    assert_eq!(&contents(backend).unwrap(), model);
    for (from, to) in bounds {
        for table in Table::ALL {
            let expected: Vec<_> = model
                .iter()
                .filter(|((owner, key), _)| *owner == table && key >= from && (to.is_empty() || key < to))
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(scan(backend, table, from, to).unwrap(), expected);
            let found = backend.get_many(table, &[from, to]).unwrap();
            for (key, value) in [from, to].into_iter().zip(found) {
                let expected = model.get(&(table, key.clone()));
                assert_eq!(value.as_deref(), expected.map(Vec::as_slice));
                assert_eq!(backend.get(table, key).unwrap(), value);
            }
        }
    }
}
