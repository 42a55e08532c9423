//! Clients on the stage: sessions that ask one thing after another, floods that ask everything at once, and watchers.
//!
//! They go in where the edge goes in: `Cast::replicate`, `Cast::linearizable_view`, messages to WatchHub and LeaseKeeper.

use super::{PATIENCE, Script};
use crate::clients::wire;
use crate::dice::Dice;
use crate::member::edge::{Answer, Ask};
use actix::Addr;
use castd::actors::lease_keeper::KeepAlive;
use castd::actors::watch_hub::{OpenStream, OpenWatch, OpenedStream, StreamDrained, WatchHub};
use castd::api::permit::{Caller, Permit, authorize};
use castd::cast::{Cast, RequestError};
use castd::ids::{LeaseId, LogIndex};
use castd::lease::{self, Confirmation};
use castd::state::StateHash;
use castd::telemetry::clock::Clock;
use castd::telemetry::trace::SpanContext;
use castd::watch::{HeaderIds, NewWatch, Reply};
use castd_judge::history::{Compare, Event, History, Micros, Op, Operation, Outcome, Request, Told, Watch};
use castd_proto::Rpc;
use castd_proto::castdpb::raft_request;
use castd_proto::etcdserverpb as pb;
use castd_proto::mvccpb::event::EventType;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const KEYS: u64 = 20;
/// A session whose requests were left open so often goes.
const OPEN_MAX: usize = 3;
/// Of leases that nobody is to lose.
const TTL_SECS: i64 = 100_000;

fn permit(rpc: Rpc) -> Permit {
    authorize(&Caller::Anonymous, rpc).expect("everybody may do everything")
}

pub fn applied(cast: &Cast) -> (LogIndex, i64) {
    let view = cast.local_view(&permit(Rpc::KvRange));
    (view.applied, view.mvcc.revision().0)
}

pub fn state_hash(cast: &Cast) -> StateHash {
    cast.local_view(&permit(Rpc::KvRange)).state_hash
}

/// A write that changes no key.
pub async fn closing_word(cast: &Cast) -> bool {
    let nothing = pb::DeleteRangeRequest { key: "nobody has it".into(), ..Default::default() };
    cast.replicate(&permit(Rpc::KvDeleteRange), raft_request::Op::DeleteRange(nothing), SpanContext::default())
        .await
        .is_ok()
}

#[derive(Clone)]
pub struct Clients {
    seed: u64,
    sessions: usize,
    requests: usize,
    flood: usize,
    casts: Vec<Cast>,
    clock: Clock,
    history: Rc<RefCell<History>>,
    kept: Rc<Cell<usize>>,
    asked: Rc<Cell<usize>>,
}

impl Clients {
    pub fn new(script: &Script, casts: Vec<Cast>, clock: Clock, history: Rc<RefCell<History>>) -> Self {
        let Script { seed, sessions, requests, flood, .. } = *script;
        Clients { seed, sessions, requests, flood, casts, clock, history, kept: Rc::default(), asked: Rc::default() }
    }

    /// Keepalives that were answered with a time to live.
    pub fn kept(&self) -> usize {
        self.kept.get()
    }

    /// Requests to the key space that were begun.
    pub fn asked(&self) -> usize {
        self.asked.get()
    }

    pub fn begin(&self) -> Vec<JoinHandle<Result<(), String>>> {
        let mut tasks: Vec<_> = (0..self.sessions).map(|client| actix::spawn(self.clone().session(client))).collect();
        let mut dice = Dice::new(self.seed, "flood", 0);
        for number in 0..self.flood {
            let key = format!("k{}", dice.below(KEYS));
            let put = Op::Put { key, value: format!("flood-{number}"), lease: 0 };
            let cast = dice.pick(&self.casts).clone();
            let this = self.clone();
            tasks.push(actix::spawn(async move {
                this.ask(this.sessions + number, &cast, Request::plain(put)).await.map(drop)
            }));
        }
        tasks.push(actix::spawn(self.clone().keep_alive()));
        tasks
    }

    async fn session(self, client: usize) -> Result<(), String> {
        let mut dice = Dice::new(self.seed, "session", client as u64);
        let mut open = 0;
        for number in 0..self.requests {
            let cast = dice.pick(&self.casts).clone();
            let key = format!("k{}", dice.below(KEYS));
            let value = format!("{client}-{number}");
            let request = match dice.below(10) {
                0..4 => Request::plain(Op::Put { key, value, lease: 0 }),
                4..7 => Request::plain(Op::Get { key }),
                7 => Request::plain(Op::List { prefix: "k".to_owned() }),
                8 => Request::plain(Op::Delete { key }),
                _ => Request {
                    compares: vec![Compare::Modified { key: key.clone(), is: 0 }],
                    success: vec![Op::Put { key: key.clone(), value, lease: 0 }],
                    failure: vec![Op::Get { key }],
                    is_serializable: false,
                },
            };
            open += usize::from(!self.ask(client, &cast, request).await?);
            if open >= OPEN_MAX {
                break;
            }
            if dice.chance(200) {
                tokio::time::sleep(dice.time(Duration::ZERO, Duration::from_millis(30))).await;
            }
        }
        Ok(())
    }

    /// Whether it is known what came of it.
    async fn ask(&self, client: usize, cast: &Cast, request: Request) -> Result<bool, String> {
        let invoked = self.now();
        self.asked.set(self.asked.get() + 1);
        let answer = match tokio::time::timeout(PATIENCE, answer(cast, wire::ask(&request))).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Failed(error),
            Err(_) => return Err(format!("nobody answers {request:?} since {PATIENCE:?}")),
        };
        let outcome = wire::outcome(&answer);
        let is_known = !matches!(outcome, Outcome::Unknown(_));
        let returned = self.now();
        self.history.borrow_mut().operations.push(Operation { client, invoked, returned, request, outcome });
        Ok(is_known)
    }

    /// One lease, and as many keepalives at once as there are puts; every one has to come to an end.
    async fn keep_alive(self) -> Result<(), String> {
        let lease = LeaseId(7_000);
        let grant = pb::LeaseGrantRequest { id: lease.0, ttl: TTL_SECS };
        let Some(cast) = self.casts.first() else { return Ok(()) };
        let permit_to_grant = permit(Rpc::LeaseGrant);
        let granted = cast.replicate(&permit_to_grant, raft_request::Op::LeaseGrant(grant), SpanContext::default());
        let granted = tokio::time::timeout(PATIENCE, granted).await;
        if granted.map_err(|_| format!("nobody answers a grant since {PATIENCE:?}"))?.is_err() {
            return Ok(());
        }
        let renewals: Vec<_> = (0..self.flood)
            .map(|_| {
                let this = self.clone();
                actix::spawn(async move { this.renew(lease).await })
            })
            .collect();
        for renewal in renewals {
            renewal.await.map_err(|error| format!("a keepalive failed: {error}"))??;
        }
        Ok(())
    }

    /// As the edge does it: the leader's word alone counts, once it is sure that it leads.
    async fn renew(&self, lease: LeaseId) -> Result<(), String> {
        let Some(cast) = self.casts.iter().find(|cast| cast.status().is_leader) else { return Ok(()) };
        let permit = permit(Rpc::LeaseKeepAlive);
        let mut confirmed = None;
        loop {
            let (reply, answer) = oneshot::channel();
            let span = SpanContext::default();
            cast.lease_keeper(&permit).do_send(KeepAlive { lease, confirmed, reply, span });
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            match answer.map_err(|_| format!("nobody answers a keepalive since {PATIENCE:?}"))? {
                Ok(lease::Answer::Renewed { ttl_secs: TTL_SECS }) => {
                    self.kept.set(self.kept.get() + 1);
                    return Ok(());
                }
                Ok(lease::Answer::Renewed { ttl_secs }) => return Err(format!("a lease was renewed for {ttl_secs} s")),
                Ok(lease::Answer::Gone) => return Err("a lease that was granted is said to be gone".to_owned()),
                Ok(lease::Answer::Unconfirmed) if confirmed.is_none() => {
                    confirmed = Some(Confirmation { term: cast.status().term, asked_at: self.clock.now() });
                    let view = tokio::time::timeout(PATIENCE, cast.linearizable_view(&permit, SpanContext::default()));
                    if view.await.map_err(|_| format!("nobody answers a read since {PATIENCE:?}"))?.is_err() {
                        return Ok(());
                    }
                }
                // It leads no longer, it took too long, or the keeper has gone.
                Ok(lease::Answer::NotLeader | lease::Answer::Unconfirmed) | Err(_) => return Ok(()),
            }
        }
    }

    fn now(&self) -> Micros {
        self.clock.now().as_micros() as Micros
    }
}

async fn answer(cast: &Cast, ask: Ask) -> Result<Answer, RequestError> {
    let (rpc, op) = match ask {
        Ask::Put(put) => (Rpc::KvPut, raft_request::Op::Put(put)),
        Ask::Delete(delete) => (Rpc::KvDeleteRange, raft_request::Op::DeleteRange(delete)),
        Ask::Txn(txn) => (Rpc::KvTxn, raft_request::Op::Txn(txn)),
        Ask::Range(range) => {
            let view = cast.linearizable_view(&permit(Rpc::KvRange), SpanContext::default()).await?;
            let header = Some(cast.header(view.mvcc.revision().0));
            let found = view.mvcc.range(&range)?;
            return Ok(Answer::Range(pb::RangeResponse {
                header,
                kvs: found.kvs,
                more: found.more,
                count: found.count,
            }));
        }
        other => panic!("no session asks for {}", other.name()),
    };
    cast.replicate(&permit(rpc), op, SpanContext::default()).await.map(Answer::Written)
}

/// One watcher of everything, from the first change on.
pub struct Watcher {
    pub place: usize,
    told: Rc<Cell<i64>>,
}

impl Watcher {
    pub async fn begin(
        place: usize,
        cast: &Cast,
        history: &Rc<RefCell<History>>,
        clock: Clock,
        script: &Script,
    ) -> Result<Watcher, String> {
        let told = Rc::new(Cell::new(0));
        let watcher = Watcher { place, told: Rc::clone(&told) };
        let hub = cast.watch_hub(&permit(Rpc::Watch)).clone();
        let (replies, receiver) = mpsc::unbounded_channel();
        let opened =
            tokio::time::timeout(PATIENCE, hub.send(OpenStream { replies, span: SpanContext::default() })).await;
        // The hub may have ended: then there is nothing to see.
        let Ok(stream) = opened.map_err(|_| format!("nobody opens a stream since {PATIENCE:?}"))? else {
            return Ok(watcher);
        };
        let request = pb::WatchCreateRequest {
            key: b"\0".as_slice().into(),
            range_end: b"\0".as_slice().into(),
            start_revision: 2,
            ..Default::default()
        };
        let watch = NewWatch::from_request(&request).map_err(|refusal| refusal.to_string())?;
        hub.do_send(OpenWatch { stream: stream.id, watch, span: SpanContext::default() });
        let number = history.borrow().watches.len();
        history.borrow_mut().watches.push(Watch {
            watcher: place,
            prefix: String::new(),
            start: 2,
            wants_previous: false,
            told: Vec::new(),
        });
        let dice = Dice::new(script.seed, "watcher", place as u64);
        actix::spawn(read(receiver, stream, hub, Rc::clone(history), number, told, clock, dice));
        Ok(watcher)
    }

    /// The newest revision that it was told.
    pub fn told(&self) -> i64 {
        self.told.get()
    }
}

#[allow(clippy::too_many_arguments, reason = "a task that is started in one place")]
async fn read(
    mut replies: mpsc::UnboundedReceiver<Reply>,
    stream: OpenedStream,
    hub: Addr<WatchHub>,
    history: Rc<RefCell<History>>,
    number: usize,
    told: Rc<Cell<i64>>,
    clock: Clock,
    mut dice: Dice,
) {
    while let Some(reply) = replies.recv().await {
        let ids = HeaderIds { cluster_id: 1, member_id: 1, raft_term: 1 };
        let frames = reply.frames::<()>(ids, usize::MAX, |_| Ok(None)).expect("nothing is looked up");
        for frame in frames {
            let response = frame.to_message().expect("it was just encoded");
            assert!(!response.canceled, "a watcher was cancelled: {}", response.cancel_reason);
            let events: Vec<_> = response
                .events
                .iter()
                .map(|event| {
                    let kv = event.kv.as_ref().expect("every event has a key");
                    let pair = wire::pair(kv);
                    let happened = match event.r#type() {
                        EventType::Put => Event::Put(pair),
                        EventType::Delete => Event::Delete { key: pair.key },
                    };
                    (kv.mod_revision, happened, None)
                })
                .collect();
            if let Some((revision, ..)) = events.last() {
                told.set(*revision);
                let at = clock.now().as_micros() as Micros;
                if let Some(watch) = history.borrow_mut().watches.get_mut(number) {
                    watch.told.push((at, Told::Events(events)));
                }
            }
        }
        hub.do_send(StreamDrained { stream: stream.id, bytes: reply.charged_bytes() });
        if dice.chance(50) {
            tokio::time::sleep(dice.time(Duration::ZERO, Duration::from_millis(50))).await;
        }
    }
    // Only now: the hub forgets the stream with it.
    drop(stream);
}
