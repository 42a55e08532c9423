//! Clients that do all kinds of things at once, wherever there is somebody to answer, and write down what came of it.
//!
//! ```text
//!   reg/N     one key a request: for the judge that believes no revision
//!   kv/N      transactions over several keys, lists, deletions of many
//!   lease/…   keys that go with their lease
//! ```

use crate::cluster::{Endpoints, connect};
use castd_judge::history::{
    Answer, Compare, LeaseOperation, LeaseOutcome, LeaseRequest, Micros, Op, OpAnswer, Operation, Outcome, Pair,
    Refusal, Request,
};
use etcd_client::{
    Client, CompareOp, DeleteOptions, DeleteResponse, Error, GetOptions, GetResponse, KeyValue, LeaseGrantOptions,
    PutOptions, PutResponse, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::Code;

/// What is not answered within, is unanswered.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two requests of one client: the machine belongs to the members.
const PAUSE_MAX: Duration = Duration::from_millis(6);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(30);

/// What all clients and watchers share.
#[derive(Clone)]
pub struct Shared {
    pub endpoints: Endpoints,
    pub began: Instant,
    pub stopping: Arc<AtomicBool>,
    pub answered: Arc<AtomicUsize>,
    /// Members may forget what is below: every watcher is past it.
    pub compacted: Arc<AtomicI64>,
}

impl Shared {
    pub fn new(endpoints: Endpoints) -> Self {
        Shared {
            endpoints,
            began: Instant::now(),
            stopping: Arc::default(),
            answered: Arc::default(),
            compacted: Arc::default(),
        }
    }

    pub fn now(&self) -> Micros {
        self.began.elapsed().as_micros() as Micros
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// One client's connection, which changes over to another member after a failure.
pub struct Connection {
    shared: Shared,
    rng: StdRng,
    client: Option<Client>,
}

impl Connection {
    pub fn new(shared: &Shared, seed: u64) -> Self {
        Connection { shared: shared.clone(), rng: StdRng::seed_from_u64(seed), client: None }
    }

    pub async fn client(&mut self) -> Client {
        loop {
            if let Some(client) = &self.client {
                return client.clone();
            }
            let urls = self.shared.endpoints.list();
            self.client = connect(&urls[self.rng.random_range(0..urls.len())]).await;
        }
    }

    pub fn leave(&mut self) {
        self.client = None;
    }

    /// After a failure: whoever is there gets the machine first.
    pub async fn give_up(&mut self) {
        self.leave();
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn pair(kv: &KeyValue) -> Pair {
    Pair {
        key: text(kv.key()),
        value: text(kv.value()),
        created: kv.create_revision(),
        modified: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

/// What an error says about what was done.
pub fn outcome_of(error: &Error) -> Outcome {
    let Error::GRpcStatus(status) = error else { return Outcome::Unknown(error.to_string()) };
    let is_refusal = match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::DataLoss => true,
        Code::Unknown => status.message() == "etcdserver: too many requests",
        _ => false,
    };
    let said = format!("{:?}: {}", status.code(), status.message());
    if is_refusal { Outcome::Refused(Refusal::Other(said)) } else { Outcome::Unknown(said) }
}

fn got(answer: &GetResponse) -> OpAnswer {
    OpAnswer::Got(answer.kvs().iter().map(pair).collect())
}

fn put(answer: &PutResponse) -> OpAnswer {
    OpAnswer::Put { previous: answer.prev_key().map(pair) }
}

fn deleted(answer: &DeleteResponse) -> OpAnswer {
    let pairs: Vec<_> = answer.prev_kvs().iter().map(pair).collect();
    assert_eq!(pairs.len() as i64, answer.deleted(), "as many are returned as were deleted");
    OpAnswer::Deleted(pairs)
}

fn put_options(lease: i64) -> PutOptions {
    PutOptions::new().with_prev_key().with_lease(lease)
}

fn txn_op(op: &Op) -> TxnOp {
    match op {
        Op::Get { key } => TxnOp::get(key.as_str(), None),
        Op::List { prefix } => TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix())),
        Op::Put { key, value, lease } => TxnOp::put(key.as_str(), value.as_str(), Some(put_options(*lease))),
        Op::Delete { key } => TxnOp::delete(key.as_str(), Some(DeleteOptions::new().with_prev_key())),
        Op::DeleteAll { prefix } => {
            TxnOp::delete(prefix.as_str(), Some(DeleteOptions::new().with_prev_key().with_prefix()))
        }
        Op::Past { prefix, revision } => {
            TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix().with_revision(*revision)))
        }
        Op::Nested(request) => TxnOp::txn(txn(request)),
    }
}

fn txn(request: &Request) -> Txn {
    let compares: Vec<_> = request
        .compares
        .iter()
        .map(|compare| match compare {
            Compare::Modified { key, is } => etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Equal, *is),
            Compare::Value { key, is } => etcd_client::Compare::value(key.as_str(), CompareOp::Equal, is.as_str()),
        })
        .collect();
    let ops = |ops: &[Op]| ops.iter().map(txn_op).collect::<Vec<_>>();
    Txn::new().when(compares).and_then(ops(&request.success)).or_else(ops(&request.failure))
}

fn results(answer: &TxnResponse) -> Vec<OpAnswer> {
    let responses = answer.op_responses();
    let results = responses.iter().map(|result| match result {
        TxnOpResponse::Get(answer) => got(answer),
        TxnOpResponse::Put(answer) => put(answer),
        TxnOpResponse::Delete(answer) => deleted(answer),
        TxnOpResponse::Txn(answer) => OpAnswer::Nested { succeeded: answer.succeeded(), results: results(answer) },
    });
    results.collect()
}

/// Asks for it in the way that etcd's API has for it.
async fn send(client: &mut Client, request: &Request) -> Result<Answer, Error> {
    let revision =
        |header: Option<&etcd_client::ResponseHeader>| header.map_or(0, etcd_client::ResponseHeader::revision);
    if let ([], [op]) = (&request.compares[..], &request.success[..])
        && !matches!(op, Op::Nested(_))
    {
        let mut options = GetOptions::new();
        if request.is_serializable {
            options = options.with_serializable();
        }
        let (revision, result) = match op {
            Op::Get { key } => {
                let answer = client.get(key.as_str(), Some(options)).await?;
                (revision(answer.header()), got(&answer))
            }
            Op::List { prefix } => {
                let answer = client.get(prefix.as_str(), Some(options.with_prefix())).await?;
                (revision(answer.header()), got(&answer))
            }
            Op::Put { key, value, lease } => {
                let answer = client.put(key.as_str(), value.as_str(), Some(put_options(*lease))).await?;
                (revision(answer.header()), put(&answer))
            }
            Op::Delete { key } => {
                let answer = client.delete(key.as_str(), Some(DeleteOptions::new().with_prev_key())).await?;
                (revision(answer.header()), deleted(&answer))
            }
            Op::DeleteAll { prefix } => {
                let options = DeleteOptions::new().with_prev_key().with_prefix();
                let answer = client.delete(prefix.as_str(), Some(options)).await?;
                (revision(answer.header()), deleted(&answer))
            }
            Op::Past { prefix, revision: at } => {
                let answer = client.get(prefix.as_str(), Some(options.with_prefix().with_revision(*at))).await?;
                (revision(answer.header()), got(&answer))
            }
            Op::Nested(_) => unreachable!("it is a transaction"),
        };
        return Ok(Answer { revision, succeeded: true, results: vec![result] });
    }
    let answer = client.txn(txn(request)).await?;
    Ok(Answer { revision: revision(answer.header()), succeeded: answer.succeeded(), results: results(&answer) })
}

/// Sends it, waits, and writes it down.
pub async fn carry_out(connection: &mut Connection, client: usize, request: Request) -> Operation {
    let mut channel = connection.client().await;
    let shared = connection.shared.clone();
    let invoked = shared.now();
    let answer = tokio::time::timeout(PATIENCE, send(&mut channel, &request)).await;
    let returned = shared.now();
    let outcome = match answer {
        Ok(Ok(answer)) => {
            shared.answered.fetch_add(1, Ordering::Relaxed);
            Outcome::Answered(answer)
        }
        Ok(Err(error)) => outcome_of(&error),
        Err(_) => Outcome::Unknown("no answer in time".to_owned()),
    };
    if matches!(outcome, Outcome::Unknown(_)) {
        connection.give_up().await;
    }
    Operation { client, invoked, returned, request, outcome }
}

/// Makes up requests, from what it has seen.
struct Imagination {
    rng: StdRng,
    client: usize,
    written: usize,
    /// The pair that it saw last, as something to compare with.
    seen: Vec<Pair>,
}

impl Imagination {
    fn value(&mut self) -> String {
        self.written += 1;
        let filler = if self.rng.random_range(0..50) == 0 { 4_000 } else { self.rng.random_range(0..60) };
        format!("{}.{}{}", self.client, self.written, "~".repeat(filler))
    }

    fn seen(&self, key: &str) -> Option<&Pair> {
        self.seen.iter().rev().find(|pair| pair.key == key)
    }

    fn request(&mut self) -> Request {
        let register = format!("reg/{}", self.rng.random_range(0..24));
        let key = format!("kv/{}", self.rng.random_range(0..40));
        let put = |key: &str, value| Op::Put { key: key.to_owned(), value, lease: 0 };
        let is_serializable = self.rng.random_range(0..4) == 0;
        match self.rng.random_range(0..40) {
            0..6 => Request::plain(put(&register, self.value())),
            6..12 => Request::plain(Op::Get { key: register }),
            12 => Request::plain(Op::Delete { key: register }),
            13..17 => {
                let is = self.seen(&register).map_or_else(|| "nothing".to_owned(), |pair| pair.value.clone());
                Request {
                    compares: vec![Compare::Value { key: register.clone(), is }],
                    success: vec![put(&register, self.value())],
                    failure: vec![Op::Get { key: register }],
                    ..Default::default()
                }
            }
            17..23 => Request::plain(put(&key, self.value())),
            23..28 => Request { is_serializable, ..Request::plain(Op::Get { key }) },
            28..30 => Request { is_serializable, ..Request::plain(Op::List { prefix: "kv/".to_owned() }) },
            30 => Request::plain(Op::Delete { key }),
            31 => Request::plain(Op::DeleteAll { prefix: format!("kv/{}", self.rng.random_range(0..4)) }),
            32..35 => Request {
                compares: vec![Compare::Modified {
                    is: self.seen(&key).map_or(0, |pair| pair.modified),
                    key: key.clone(),
                }],
                success: vec![put(&key, self.value())],
                failure: vec![Op::Get { key }],
                ..Default::default()
            },
            // Two counters that move together, and a look at all of it in the middle.
            35..38 => Request {
                success: vec![
                    put("kv/left", self.value()),
                    Op::List { prefix: "kv/".to_owned() },
                    put("kv/right", self.value()),
                ],
                ..Default::default()
            },
            _ => {
                let to = format!("kv/moved{}", self.rng.random_range(0..5));
                Request {
                    compares: vec![Compare::Modified {
                        is: self.seen(&key).map_or(0, |pair| pair.modified),
                        key: key.clone(),
                    }],
                    success: vec![Op::Delete { key: key.clone() }, put(&to, self.value())],
                    failure: vec![Op::Get { key }, Op::Get { key: to }],
                    ..Default::default()
                }
            }
        }
    }

    fn remember(&mut self, operation: &Operation) {
        let Some(answer) = operation.answer() else { return };
        for result in &answer.results {
            match result {
                OpAnswer::Got(pairs) if pairs.len() == 1 => self.seen.extend(pairs.iter().cloned()),
                _ => {}
            }
        }
        if let [Op::Put { key, value, .. }] = &operation.request.success[..]
            && answer.succeeded
        {
            let (created, version) = (0, 0);
            self.seen.push(Pair {
                key: key.clone(),
                value: value.clone(),
                created,
                modified: answer.revision,
                version,
                lease: 0,
            });
        }
        if self.seen.len() > 200 {
            self.seen.drain(..100);
        }
    }
}

/// Asks until it is told to stop.
pub async fn run(shared: Shared, client: usize, seed: u64) -> Vec<Operation> {
    let mut connection = Connection::new(&shared, seed);
    let rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut imagination = Imagination { rng, client, written: 0, seen: Vec::new() };
    let mut operations = Vec::new();
    while !shared.is_stopping() {
        let request = imagination.request();
        let operation = carry_out(&mut connection, client, request).await;
        imagination.remember(&operation);
        operations.push(operation);
        let pause = imagination.rng.random_range(Duration::ZERO..PAUSE_MAX);
        tokio::time::sleep(pause).await;
        // Others want to be asked, too.
        if imagination.rng.random_range(0..200) == 0 {
            connection.leave();
        }
    }
    operations
}

/// One lease after the other: granted, given keys, kept alive for a while, and left alone or revoked.
pub async fn run_leases(shared: Shared, client: usize, seed: u64) -> (Vec<Operation>, Vec<LeaseOperation>) {
    let mut connection = Connection::new(&shared, seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x1ea5e);
    let (mut operations, mut leases) = (Vec::new(), Vec::new());
    for number in 0.. {
        if shared.is_stopping() {
            break;
        }
        let lease = (client as i64) << 32 | (number + 1);
        let ttl_secs = rng.random_range(1..4);
        let granted = lease_request(&mut connection, lease, ttl_secs, LeaseRequest::Grant { ttl_secs }).await;
        let is_there = matches!(granted.outcome, LeaseOutcome::Done { .. });
        leases.push(granted);
        if !is_there {
            continue;
        }
        for key in 0..rng.random_range(1..4) {
            let (key, value) = (format!("lease/{lease:x}/{key}"), format!("{client}.{lease:x}.{key}"));
            let request = Request::plain(Op::Put { key, value, lease });
            operations.push(carry_out(&mut connection, client, request).await);
        }
        for _ in 0..rng.random_range(0..5) {
            let nap = Duration::from_millis(rng.random_range(100..ttl_secs as u64 * 1_000 + 200));
            tokio::time::sleep(nap).await;
            let kept = lease_request(&mut connection, lease, ttl_secs, LeaseRequest::KeepAlive).await;
            let is_gone = kept.outcome == LeaseOutcome::NotFound;
            leases.push(kept);
            if is_gone || shared.is_stopping() {
                break;
            }
        }
        if rng.random_range(0..4) == 0 {
            leases.push(lease_request(&mut connection, lease, ttl_secs, LeaseRequest::Revoke).await);
        }
    }
    (operations, leases)
}

async fn lease_request(
    connection: &mut Connection,
    lease: i64,
    ttl_secs: i64,
    request: LeaseRequest,
) -> LeaseOperation {
    let mut client = connection.client().await;
    let shared = connection.shared.clone();
    let invoked = shared.now();
    let asked = async {
        match request {
            LeaseRequest::Grant { ttl_secs } => {
                let options = LeaseGrantOptions::new().with_id(lease);
                let answer = client.lease_grant(ttl_secs, Some(options)).await?;
                Ok(LeaseOutcome::Done { ttl_secs: answer.ttl(), revision: 0 })
            }
            LeaseRequest::KeepAlive => match client.lease_keep_alive(lease).await {
                Ok(_) => Ok(LeaseOutcome::Done { ttl_secs, revision: 0 }),
                Err(Error::LeaseKeepAliveError(text)) if text == "lease not found" => Ok(LeaseOutcome::NotFound),
                Err(error) => Err(error),
            },
            LeaseRequest::Revoke => {
                let answer = client.lease_revoke(lease).await?;
                let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                Ok(LeaseOutcome::Done { ttl_secs: 0, revision })
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let returned = shared.now();
    let outcome = match answer {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(Error::GRpcStatus(status))) if status.code() == Code::NotFound => LeaseOutcome::NotFound,
        Ok(Err(_)) | Err(_) => LeaseOutcome::Unknown,
    };
    if outcome == LeaseOutcome::Unknown {
        connection.give_up().await;
    } else {
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
    LeaseOperation { lease, invoked, returned, request, outcome }
}
