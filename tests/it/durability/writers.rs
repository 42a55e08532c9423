//! A client that writes one thing after another, and remembers what it was told of each.

use super::Load;
use crate::harness::Api;
use crate::harness::grpc::{delete_op, put, put_op};
use castd_proto::etcdserverpb::{PutRequest, response_op};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::Status;

/// Keys of each writer. Nobody else writes them, so that what it knows of them is so.
const KEYS: u32 = 12;
const LEASE_TTL_SECS: i64 = 3_600;

/// A change of one key, as a watcher will be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put { key: String, value: String, lease: i64 },
    Delete { key: String },
}

/// What became of one request.
#[derive(Debug)]
pub enum Outcome {
    /// Answered: these changes, in that revision.
    Acknowledged {
        revision: i64,
        changes: Vec<Change>,
    },
    /// Not answered: all of these changes in one revision, or none. Deletes of keys that were not there are missing.
    Unknown {
        changes: Vec<Change>,
    },
    LeaseGranted(i64),
    LeaseRevoked(i64),
    LeaseUnknown(i64),
}

pub struct Writer {
    id: usize,
    random: StdRng,
    /// Makes every value and every lease unique.
    number: i64,
}

impl Writer {
    pub fn new(id: usize, seed: u64) -> Self {
        Writer { id, random: StdRng::seed_from_u64(seed), number: 0 }
    }

    /// Writes until the server is gone.
    pub async fn work(mut self, api: Api, load: Load) -> (Self, Vec<Outcome>) {
        let mut outcomes = Vec::new();
        loop {
            if let Err(error) = self.write(&api, &load, &mut outcomes).await {
                load.assert_killed(&error);
                return (self, outcomes);
            }
        }
    }

    fn key(&mut self) -> String {
        format!("w{}/{}", self.id, self.random.random_range(0..KEYS))
    }

    fn value(&mut self) -> String {
        self.number += 1;
        let padding = if self.random.random_bool(0.05) { 20_000 } else { self.random.random_range(0..200) };
        format!("{}.{}.{}", self.id, self.number, "v".repeat(padding))
    }

    async fn write(&mut self, api: &Api, load: &Load, outcomes: &mut Vec<Outcome>) -> Result<(), Status> {
        match self.random.random_range(0..100) {
            0..60 => {
                let (key, value) = (self.key(), self.value());
                let request = put(&key, &value);
                self.put(api, load, outcomes, request, vec![Change::Put { key, value, lease: 0 }]).await
            }
            60..75 => self.delete(api, load, outcomes).await,
            75..92 => self.txn(api, load, outcomes).await,
            _ => self.lease(api, load, outcomes).await,
        }
    }

    async fn put(
        &mut self,
        api: &Api,
        load: &Load,
        outcomes: &mut Vec<Outcome>,
        request: PutRequest,
        changes: Vec<Change>,
    ) -> Result<(), Status> {
        match api.put_with(request).await {
            Ok(answer) => {
                let revision = answer.header.expect("a header").revision;
                outcomes.push(Outcome::Acknowledged { revision, changes });
                load.acknowledge();
                Ok(())
            }
            Err(error) => {
                outcomes.push(Outcome::Unknown { changes });
                Err(error)
            }
        }
    }

    async fn delete(&mut self, api: &Api, load: &Load, outcomes: &mut Vec<Outcome>) -> Result<(), Status> {
        let key = self.key();
        let changes = vec![Change::Delete { key: key.clone() }];
        match api.delete(&key, "").await {
            Ok(answer) if answer.deleted == 0 => Ok(()),
            Ok(answer) => {
                let revision = answer.header.expect("a header").revision;
                outcomes.push(Outcome::Acknowledged { revision, changes });
                load.acknowledge();
                Ok(())
            }
            Err(error) => {
                outcomes.push(Outcome::Unknown { changes });
                Err(error)
            }
        }
    }

    /// Two puts and a delete, of three different keys.
    async fn txn(&mut self, api: &Api, load: &Load, outcomes: &mut Vec<Outcome>) -> Result<(), Status> {
        let first = self.random.random_range(0..KEYS);
        let [one, other, gone] = [0, 1, 2].map(|step| format!("w{}/{}", self.id, (first + step) % KEYS));
        let (value, other_value) = (self.value(), self.value());
        let ops = vec![put_op(&one, &value), delete_op(&gone, ""), put_op(&other, &other_value)];
        let mut changes = vec![
            Change::Put { key: one, value, lease: 0 },
            Change::Delete { key: gone },
            Change::Put { key: other, value: other_value, lease: 0 },
        ];
        match api.txn(vec![], ops, vec![]).await {
            Ok(answer) => {
                let Some(response_op::Response::ResponseDeleteRange(deleted)) = &answer.responses[1].response else {
                    panic!("{answer:?}");
                };
                if deleted.deleted == 0 {
                    changes.remove(1);
                }
                let revision = answer.header.expect("a header").revision;
                outcomes.push(Outcome::Acknowledged { revision, changes });
                load.acknowledge();
                Ok(())
            }
            Err(error) => {
                outcomes.push(Outcome::Unknown { changes });
                Err(error)
            }
        }
    }

    /// A lease of its own, a key of its own on it, and, half of the time, the end of both.
    async fn lease(&mut self, api: &Api, load: &Load, outcomes: &mut Vec<Outcome>) -> Result<(), Status> {
        self.number += 1;
        let lease = self.id as i64 * 1_000_000 + self.number;
        if let Err(error) = api.grant(lease, LEASE_TTL_SECS).await {
            outcomes.push(Outcome::LeaseUnknown(lease));
            return Err(error);
        }
        outcomes.push(Outcome::LeaseGranted(lease));
        let (key, value) = (format!("w{}/lease/{lease}", self.id), self.value());
        let changes = vec![Change::Put { key: key.clone(), value: value.clone(), lease }];
        self.put(api, load, outcomes, PutRequest { lease, ..put(&key, &value) }, changes).await?;
        if self.random.random_bool(0.5) {
            return Ok(());
        }
        let changes = vec![Change::Delete { key }];
        match api.revoke(lease).await {
            Ok(answer) => {
                outcomes.push(Outcome::LeaseRevoked(lease));
                let revision = answer.header.expect("a header").revision;
                outcomes.push(Outcome::Acknowledged { revision, changes });
                load.acknowledge();
                Ok(())
            }
            Err(error) => {
                outcomes.push(Outcome::LeaseUnknown(lease));
                outcomes.push(Outcome::Unknown { changes });
                Err(error)
            }
        }
    }
}
