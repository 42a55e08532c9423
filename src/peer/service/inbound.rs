//! Reads one stream after another: guards what comes, finds room for it, and hands it to RaftNode.

use crate::actors::peer_links::PeerIntroduced;
use crate::actors::raft_node::{Forwarded, Step};
use crate::cast::{Identity, Published};
use crate::config::ETCD_VERSION;
use crate::ids::{ClusterId, MemberId};
use crate::peer::guard::{Guard, Refusal};
use crate::peer::quiet::Quiet;
use crate::peer::roster::Roster;
use crate::peer::wire::{forwarded_from_wire, from_wire};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use actix::Recipient;
use castd_proto::castdpb::{PeerAck, PeerEnvelope, PeerIdentity, PeerLane, SnapshotOffer};
use parking_lot::Mutex;
use prost::Message as _;
use slog::{Logger, warn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Bytes of one stream that may wait for RaftNode. A larger message waits until it is alone.
const URGENT_BYTES_MAX: usize = 4 << 20;
const BULK_BYTES_MAX: usize = 32 << 20;
/// Streams at once of members that our log does not know. Before a member that joins has its log, that is all of them.
const STRANGERS_MAX: usize = 64;
/// What an envelope takes beside its bytes.
const ENVELOPE_BYTES_MIN: usize = 256;

/// Room taken by what a message carries, given back when RaftNode is done with it. Tests need none.
pub type InboundRoom = Option<OwnedSemaphorePermit>;

/// What all streams share.
pub struct Inbound {
    guard: Guard,
    roster: Published<Roster>,
    step: Recipient<Step>,
    forwarded: Recipient<Forwarded>,
    introduced: Recipient<PeerIntroduced>,
    /// The newest stream of each peer and lane; an older one is what a broken connection left.
    streams: Mutex<BTreeMap<(MemberId, i32), (u64, CancellationToken)>>,
    strangers: Strangers,
    next_stream: AtomicU64,
    quiet: Mutex<Quiet<(Refusal, u64)>>,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

/// What members that our log does not know share, however many somebody invents: places, and room on each lane.
struct Strangers {
    places: Arc<Semaphore>,
    urgent: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

impl Strangers {
    fn new() -> Self {
        let places = Arc::new(Semaphore::new(STRANGERS_MAX));
        Strangers { places, urgent: room_of(PeerLane::Urgent), bulk: room_of(PeerLane::Bulk) }
    }
}

/// Where what was let in goes.
#[derive(Clone)]
pub struct Receivers {
    pub step: Recipient<Step>,
    pub forwarded: Recipient<Forwarded>,
    pub introduced: Recipient<PeerIntroduced>,
}

/// The stream that is being read.
struct Opened {
    from: MemberId,
    lane: PeerLane,
    room: Arc<Semaphore>,
    /// Until our log knows the sender.
    as_stranger: Option<OwnedSemaphorePermit>,
    /// None for a sender of whom nobody knows.
    received_bytes: Option<prometheus::IntCounter>,
    place: Place,
}

/// A stream's place among the newest ones, given up on drop.
struct Place {
    inbound: Arc<Inbound>,
    key: (MemberId, i32),
    number: u64,
    replaced: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.inbound.streams.lock();
        if streams.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            streams.remove(&self.key);
        }
    }
}

impl Inbound {
    pub fn new(
        own: Identity,
        roster: Published<Roster>,
        receivers: Receivers,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        let Receivers { step, forwarded, introduced } = receivers;
        Inbound {
            guard: Guard { own },
            roster,
            step,
            forwarded,
            introduced,
            streams: Mutex::default(),
            strangers: Strangers::new(),
            next_stream: AtomicU64::new(0),
            quiet: Mutex::default(),
            clock,
            metrics,
            log,
        }
    }

    /// Whoever asks a single question.
    pub(super) fn caller(&self, identity: Option<&PeerIdentity>) -> Result<MemberId, Refusal> {
        let checked = self.guard.sender(identity, &self.roster.load(), false);
        checked.inspect_err(|refusal| self.tell_refused(*refusal, identity))
    }

    pub(super) fn check_snapshot(&self, offer: &SnapshotOffer, from: MemberId) -> Result<(), Refusal> {
        let checked = self.guard.snapshot(offer, from);
        checked.inspect_err(|refusal| self.tell_refused(*refusal, offer.identity.as_ref()))
    }

    /// Reads `stream` to its end. An error is for its sender.
    pub(super) async fn read(
        self: &Arc<Self>,
        mut stream: Streaming<PeerEnvelope>,
        acks: &mpsc::Sender<Result<PeerAck, Status>>,
    ) -> Result<(), Status> {
        let Some(first) = stream.message().await? else { return Ok(()) };
        let mut opened = self.open(&first)?;
        let replaced = opened.place.replaced.clone();
        let carried = async {
            let mut next = Some(first);
            while let Some(envelope) = next {
                let stamp = envelope.sent_at_nanos;
                self.take(envelope, &mut opened).await?;
                // A sender that does not read its answers is not read either.
                if stamp != 0 && acks.send(Ok(PeerAck { sent_at_nanos: stamp })).await.is_err() {
                    break;
                }
                next = stream.message().await?;
            }
            Ok(())
        };
        let ended = replaced.run_until_cancelled(carried).await;
        ended.unwrap_or_else(|| Err(Status::cancelled("the member has opened a newer stream")))
    }

    /// Lets the sender of a first envelope in.
    fn open(self: &Arc<Self>, first: &PeerEnvelope) -> Result<Opened, Status> {
        let roster = self.roster.load();
        let from = self.admitted(first, None, &roster)?;
        let lane = PeerLane::try_from(first.lane).map_err(|_| Refusal::Malformed("an unknown lane"))?;
        if !first.peer_urls.is_empty() {
            self.introduced.do_send(PeerIntroduced { peer: from, urls: first.peer_urls.clone() });
        }
        let mut as_stranger = None;
        let room = if roster.is_member(from) {
            room_of(lane)
        } else {
            let place = Arc::clone(&self.strangers.places).try_acquire_owned();
            let place = place.map_err(|_| Refusal::UnknownSender);
            as_stranger = Some(place.inspect_err(|refusal| self.tell_refused(*refusal, first.identity.as_ref()))?);
            let Strangers { urgent, bulk, .. } = &self.strangers;
            Arc::clone(if lane == PeerLane::Bulk { bulk } else { urgent })
        };
        let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (key, replaced) = ((from, first.lane), CancellationToken::new());
        let before = self.streams.lock().insert(key, (number, replaced.clone()));
        if let Some((_, older)) = before {
            older.cancel();
        }
        let place = Place { inbound: Arc::clone(self), key, number, replaced };
        Ok(Opened { from, lane, room, as_stranger, received_bytes: None, place })
    }

    /// What changes for a stream once more is known of its sender.
    fn follow(&self, opened: &mut Opened, roster: &Roster) {
        if opened.as_stranger.is_some() && roster.is_member(opened.from) {
            (opened.as_stranger, opened.room) = (None, room_of(opened.lane));
        }
        if opened.received_bytes.is_none() && roster.knows(opened.from) {
            let received_bytes = &self.metrics.network.peer_received_bytes;
            opened.received_bytes = Some(received_bytes.with_label_values(&[&opened.from.to_string()]));
        }
    }

    /// Checks an envelope and hands on what it carries.
    async fn take(&self, envelope: PeerEnvelope, opened: &mut Opened) -> Result<(), Status> {
        let from = opened.from;
        let roster = self.roster.load();
        self.admitted(&envelope, Some(from), &roster)?;
        self.follow(opened, &roster);
        drop(roster);
        let bytes = envelope.encoded_len();
        if let Some(received_bytes) = &opened.received_bytes {
            received_bytes.inc_by(bytes as u64);
        }
        let PeerEnvelope { identity, messages, forwarded, .. } = envelope;
        let told = |refusal| {
            self.tell_refused(refusal, identity.as_ref());
            Status::from(refusal)
        };

        let mut steps = Vec::with_capacity(messages.len());
        for message in messages {
            self.guard.message(&message, from).map_err(told)?;
            steps.push(from_wire(message).map_err(|_| told(Refusal::Malformed("an unknown number")))?);
        }
        let mut requests = Vec::with_capacity(forwarded.len());
        for request in forwarded {
            self.guard.forwarded(&request).map_err(told)?;
            requests.push(forwarded_from_wire(request).map_err(|_| told(Refusal::Malformed("an unknown number")))?);
        }
        if !steps.is_empty() {
            let Some(room) = self.room(bytes, opened).await else { return Ok(()) };
            self.step.do_send(Step { messages: steps, room });
        }
        if !requests.is_empty() {
            let Some(room) = self.room(bytes, opened).await else { return Ok(()) };
            self.forwarded.do_send(Forwarded { from, requests, room });
        }
        Ok(())
    }

    /// `None` if what came is to be dropped.
    async fn room(&self, bytes: usize, opened: &Opened) -> Option<InboundRoom> {
        let most = bytes_max(opened.lane);
        let bytes = u32::try_from((bytes + ENVELOPE_BYTES_MIN).min(most)).unwrap_or(u32::MAX);
        let room = Arc::clone(&opened.room);
        let taken = match opened.lane {
            PeerLane::Urgent => room.try_acquire_many_owned(bytes).ok(),
            PeerLane::Bulk => room.acquire_many_owned(bytes).await.ok(),
        };
        if taken.is_none() {
            self.count_failure(opened.from);
        }
        taken.map(Some)
    }

    fn admitted(&self, envelope: &PeerEnvelope, from: Option<MemberId>, roster: &Roster) -> Result<MemberId, Refusal> {
        let checked = self.guard.envelope(envelope, from, roster);
        checked.inspect_err(|refusal| self.tell_refused(*refusal, envelope.identity.as_ref()))
    }

    /// Only of those who are in the cluster: others could fill the page with names.
    fn count_failure(&self, from: MemberId) {
        if self.roster.load().knows(from) {
            self.metrics.network.peer_received_failures.with_label_values(&[&from.to_string()]).inc();
        }
    }

    /// In etcd's words.
    fn tell_refused(&self, refusal: Refusal, identity: Option<&PeerIdentity>) {
        let from = identity.map_or(0, |identity| identity.from);
        self.count_failure(MemberId(from));
        if !self.quiet.lock().may_say((refusal, from), self.clock.now()) {
            return;
        }
        let text = match refusal {
            Refusal::OtherCluster => "request cluster ID mismatch",
            Refusal::OtherVersion => "failed version compatibility check",
            Refusal::OtherReceiver => "ignored streaming request; ID mismatch",
            Refusal::UnknownSender => "failed to find remote peer in cluster",
            Refusal::RemovedSender => "rejected stream from remote peer because it was removed",
            Refusal::Malformed(_) => "rejected a message from remote peer",
        };
        let Identity { cluster, member } = self.guard.own;
        let (version, theirs, to) =
            identity.map_or(("", 0, 0), |it| (it.server_version.as_str(), it.cluster_id, it.to));
        warn!(self.log, "{text}"; "local-member-id" => %member, "local-member-cluster-id" => %cluster,
            "local-member-server-version" => ETCD_VERSION, "remote-peer-id" => %MemberId(from),
            "remote-peer-cluster-id" => %ClusterId(theirs), "remote-peer-server-version" => version,
            "remote-peer-to" => %MemberId(to), "error" => %refusal);
    }
}

fn bytes_max(lane: PeerLane) -> usize {
    match lane {
        PeerLane::Urgent => URGENT_BYTES_MAX,
        PeerLane::Bulk => BULK_BYTES_MAX,
    }
}

fn room_of(lane: PeerLane) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes_max(lane)))
}
