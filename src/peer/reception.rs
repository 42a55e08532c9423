//! Takes in the snapshots that a leader sends.
//!
//! ```text
//!   offer ──needed? room?──▶ pieces ──▶ snap/….tmp ──verified, synced──▶ snap/<term>-<index>.cast ──Step(MsgSnapshot)──▶ RaftNode
//!                              └──interrupted──▶ kept for a while: the next offer of the same file goes on from there
//! ```
//! One at a time. An offer of a newer term, or again of the same one, takes the place of a transfer that is under way: a
//! connection that broke may look alive for a long time. What is unfinished when the process ends is removed by the next
//! start ([`SnapshotStore::open`]).

use crate::actors::raft_node::Step;
use crate::cast::{Identity, Published};
use crate::ids::MemberId;
use crate::peer::courier::{PIECE_BYTES, sized};
use crate::peer::handlers::{ReceivesSnapshots, SnapshotParts};
use crate::peer::wire::from_wire;
use crate::raft::node;
use crate::raft::terms::LogPosition;
use crate::snapshot::{Incoming, SnapshotError, SnapshotStore, expect_room, file_name};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use actix::Recipient;
use bytes::Bytes;
use castd_proto::castdpb::{
    PeerMessage, PeerSnapshotMeta, SnapshotHeader, SnapshotOffer, SnapshotPart, SnapshotPiece, SnapshotReceipt,
    snapshot_part::Part,
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use slog::{Logger, info, warn};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// A sender that is silent for so long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What is unfinished is kept for so long.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// Why a snapshot was not taken in. What its sender is told stands in `api::status`.
#[derive(Debug, thiserror::Error)]
pub enum ReceptionError {
    #[error("it is of term {offered}, and this member is at term {own}")]
    OldTerm { offered: u64, own: u64 },
    #[error("a newer offer has come")]
    Replaced,
    #[error("a piece at byte {found} in the place of one at byte {expected}")]
    OtherOffset { expected: u64, found: u64 },
    #[error("a piece that is empty, too long, or not one")]
    NoPiece,
    #[error("the piece at byte {0} was damaged on its way")]
    DamagedPiece(u64),
    #[error("it is not the one that was offered: {0}")]
    Another(&'static str),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the member is shutting down")]
    Stopping,
}

/// Names the file: what comes under one name can be put together from several transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileId {
    position: LogPosition,
    bytes: u64,
    sha256: Bytes,
}

struct Partial {
    id: FileId,
    incoming: Incoming,
    /// Of the transfer that brought it so far.
    transfer: u64,
}

/// The transfer that may write.
struct Turn {
    number: u64,
    term: u64,
    over: CancellationToken,
}

pub struct Reception(Arc<Inner>);

struct Inner {
    own: Identity,
    store: SnapshotStore,
    status: Published<node::Status>,
    step: Recipient<Step>,
    /// Whether the backend takes disk space beside the file.
    has_files: bool,
    turn: Mutex<Turn>,
    unfinished: AsyncMutex<Option<Partial>>,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
}

/// An offer, taken apart.
struct Offer {
    from: MemberId,
    id: FileId,
    meta: PeerSnapshotMeta,
    message: PeerMessage,
}

impl Reception {
    #[allow(clippy::too_many_arguments, reason = "made in one place")]
    pub fn new(
        own: Identity,
        store: SnapshotStore,
        status: Published<node::Status>,
        step: Recipient<Step>,
        has_files: bool,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> Self {
        let turn = Mutex::new(Turn { number: 0, term: 0, over: CancellationToken::new() });
        let unfinished = AsyncMutex::new(None);
        Reception(Arc::new(Inner { own, store, status, step, has_files, turn, unfinished, clock, metrics, log }))
    }
}

#[tonic::async_trait]
impl ReceivesSnapshots for Reception {
    async fn receive(
        &self,
        from: MemberId,
        offer: SnapshotOffer,
        parts: SnapshotParts,
    ) -> Result<SnapshotReceipt, Status> {
        let inner = Arc::clone(&self.0);
        // A connection that breaks ends this future, and what came by it is to be kept.
        let received = tokio::spawn(async move { inner.receive(from, offer, parts).await });
        Ok(received.await.unwrap_or(Err(ReceptionError::Stopping))?)
    }
}

impl Inner {
    async fn receive(
        self: Arc<Self>,
        from: MemberId,
        offer: SnapshotOffer,
        parts: SnapshotParts,
    ) -> Result<SnapshotReceipt, ReceptionError> {
        let SnapshotOffer { message, bytes, sha256, .. } = offer;
        let message = message.ok_or(ReceptionError::Another("it has no message"))?;
        let meta = message.snapshot.clone().ok_or(ReceptionError::Another("it is not named"))?;
        let id = FileId { position: LogPosition::new(meta.index, meta.term), bytes, sha256 };
        let offer = Offer { from, id, meta, message };
        let status = self.status.load();
        if offer.message.term < status.term.0 {
            return Err(ReceptionError::OldTerm { offered: offer.message.term, own: status.term.0 });
        }
        if status.committed >= offer.id.position.index {
            // The answer of raft tells the leader how far we are.
            return self.step(offer);
        }
        let (number, over) = self.begin_turn(&offer)?;
        let mut unfinished = self.unfinished.lock().await;
        if over.is_cancelled() {
            return Err(ReceptionError::Replaced);
        }
        let received = self.take_in(&mut unfinished, &offer, number, &over, parts).await;
        if unfinished.as_ref().is_some_and(|partial| partial.transfer == number) {
            tokio::spawn(Arc::clone(&self).forget(number));
        }
        match received {
            Ok(None) => self.step(offer),
            Ok(Some(received_bytes)) => Ok(SnapshotReceipt { received_bytes, complete: false }),
            Err(error) => Err(error),
        }
    }

    /// Ends the transfer that is under way, unless it is of a newer leader.
    fn begin_turn(&self, offer: &Offer) -> Result<(u64, CancellationToken), ReceptionError> {
        let mut turn = self.turn.lock();
        if turn.term > offer.message.term {
            return Err(ReceptionError::OldTerm { offered: offer.message.term, own: turn.term });
        }
        turn.over.cancel();
        *turn = Turn { number: turn.number + 1, term: offer.message.term, over: CancellationToken::new() };
        Ok((turn.number, turn.over.clone()))
    }

    async fn forget(self: Arc<Self>, transfer: u64) {
        tokio::time::sleep(KEPT_FOR).await;
        self.unfinished.lock().await.take_if(|partial| partial.transfer == transfer);
    }

    /// Answers `None` once the file is there, else how much of it is.
    async fn take_in(
        &self,
        unfinished: &mut Option<Partial>,
        offer: &Offer,
        transfer: u64,
        over: &CancellationToken,
        mut parts: SnapshotParts,
    ) -> Result<Option<u64>, ReceptionError> {
        if self.has_already(&offer.id).await? {
            return Ok(None);
        }
        // An offer alone is a question.
        let first = self.next(&mut parts, over).await?;
        let partial = unfinished.take_if(|partial| partial.id == offer.id);
        // Of another file, of which nobody speaks any more.
        *unfinished = None;
        let Some(mut piece) = first else {
            let received_bytes = partial.as_ref().map_or(0, |partial| partial.incoming.bytes());
            *unfinished = partial;
            return Ok(Some(received_bytes));
        };

        let mut incoming = match partial {
            Some(partial) => partial.incoming,
            None => self.begin(&offer.id)?,
        };
        let network = &self.metrics.network;
        let label = [&*offer.from.to_string()];
        let inflights = network.snapshot_receive_inflights.with_label_values(&label);
        inflights.inc();
        let started = self.clock.now();
        info!(self.log, "receiving database snapshot"; "local-member-id" => %self.own.member,
            "remote-snapshot-sender-id" => %offer.from, "incoming-snapshot-index" => offer.id.position.index.0,
            "incoming-snapshot-message-size-bytes" => offer.id.bytes,
            "incoming-snapshot-message-size" => sized(offer.id.bytes), "received-bytes" => incoming.bytes());
        let received_bytes = network.peer_received_bytes.with_label_values(&label);
        let ended = loop {
            received_bytes.inc_by(piece.data.len() as u64);
            let (back, written) = write(incoming, piece).await?;
            incoming = back;
            if let Err(error) = written {
                break Err(error);
            }
            if incoming.bytes() == offer.id.bytes {
                break Ok(true);
            }
            match self.next(&mut parts, over).await {
                Ok(Some(next)) => piece = next,
                Ok(None) => break Ok(false),
                Err(error) => break Err(error),
            }
        };
        let outcome = match ended {
            Ok(true) => self.finish(incoming, offer).await.map(|()| None),
            Ok(false) => {
                let bytes = incoming.bytes();
                *unfinished = Some(Partial { id: offer.id.clone(), incoming, transfer });
                Ok(Some(bytes))
            }
            Err(error) => {
                if !matches!(error, ReceptionError::Snapshot(_)) {
                    *unfinished = Some(Partial { id: offer.id.clone(), incoming, transfer });
                }
                Err(error)
            }
        };
        inflights.dec();
        let took = self.clock.now().saturating_sub(started);
        match &outcome {
            Ok(None) => {
                network.snapshot_receive_success.with_label_values(&label).inc();
                network.snapshot_receive_duration.with_label_values(&label).observe(took.as_secs_f64());
                info!(self.log, "received and saved database snapshot"; "local-member-id" => %self.own.member,
                    "remote-snapshot-sender-id" => %offer.from, "incoming-snapshot-index" => offer.id.position.index.0,
                    "bytes" => offer.id.bytes, "size" => sized(offer.id.bytes), "took" => ?took);
            }
            Ok(Some(received_bytes)) => {
                network.snapshot_receive_failures.with_label_values(&label).inc();
                warn!(self.log, "a database snapshot was interrupted on its way"; "local-member-id" => %self.own.member,
                    "remote-snapshot-sender-id" => %offer.from, "incoming-snapshot-index" => offer.id.position.index.0,
                    "received-bytes" => *received_bytes, "bytes" => offer.id.bytes);
            }
            Err(error) => {
                network.snapshot_receive_failures.with_label_values(&label).inc();
                warn!(self.log, "failed to save incoming database snapshot"; "local-member-id" => %self.own.member,
                    "remote-snapshot-sender-id" => %offer.from, "incoming-snapshot-index" => offer.id.position.index.0,
                    "error" => %error);
            }
        }
        outcome
    }

    /// Whether the file is there, from a transfer whose end its sender did not hear of.
    async fn has_already(&self, id: &FileId) -> Result<bool, ReceptionError> {
        let (store, id) = (self.store.clone(), id.clone());
        let found = spawn_blocking(move || {
            let Some(file) = store.find(&file_name(id.position))? else { return Ok(false) };
            if file.bytes != id.bytes {
                return Ok(false);
            }
            Ok(file.verify().is_ok_and(|(_, summary)| summary.sha256[..] == id.sha256[..]))
        });
        found.await.unwrap_or(Err(ReceptionError::Stopping))
    }

    fn begin(&self, id: &FileId) -> Result<Incoming, ReceptionError> {
        // The backend that is filled from it takes about as much again.
        let needed = if self.has_files { id.bytes.saturating_mul(2) } else { id.bytes };
        expect_room(self.store.dir(), needed)?;
        Ok(self.store.receive(id.position, id.bytes)?)
    }

    /// The next piece; `None` when the sender has no more, or is gone.
    async fn next(
        &self,
        parts: &mut SnapshotParts,
        over: &CancellationToken,
    ) -> Result<Option<SnapshotPiece>, ReceptionError> {
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE_MAX, parts.next()) => next,
            () = over.cancelled() => return Err(ReceptionError::Replaced),
        };
        match next {
            Ok(Some(Ok(SnapshotPart { part: Some(Part::Piece(piece)) }))) => Ok(Some(piece)),
            Ok(Some(Ok(_))) => Err(ReceptionError::NoPiece),
            Ok(Some(Err(_)) | None) | Err(_) => Ok(None),
        }
    }

    /// All bytes are there: verifies them, and makes them durable.
    async fn finish(&self, incoming: Incoming, offer: &Offer) -> Result<(), ReceptionError> {
        let (own, id, meta) = (self.own, offer.id.clone(), offer.meta.clone());
        let (clock, metrics) = (self.clock, self.metrics.clone());
        let finished = spawn_blocking(move || {
            let started = clock.now();
            let arrived = incoming.verify()?;
            if arrived.summary().sha256[..] != id.sha256[..] {
                return Err(ReceptionError::Another("its SHA-256 is another"));
            }
            is_as_named(arrived.header(), &meta, own)?;
            let verified = clock.now();
            arrived.publish()?;
            let ended = clock.now();
            metrics.snapshot.db_fsync.observe(ended.saturating_sub(verified).as_secs_f64());
            metrics.snapshot.db_save.observe(ended.saturating_sub(started).as_secs_f64());
            Ok(())
        });
        finished.await.unwrap_or(Err(ReceptionError::Stopping))
    }

    fn step(&self, offer: Offer) -> Result<SnapshotReceipt, ReceptionError> {
        let message = from_wire(offer.message).map_err(|_| ReceptionError::Another("an unknown number"))?;
        self.step.do_send(Step { messages: vec![message], room: None });
        Ok(SnapshotReceipt { received_bytes: offer.id.bytes, complete: true })
    }
}

/// Gives the file back, with what became of the piece.
async fn write(
    mut incoming: Incoming,
    piece: SnapshotPiece,
) -> Result<(Incoming, Result<(), ReceptionError>), ReceptionError> {
    let written = spawn_blocking(move || {
        let written = write_piece(&mut incoming, &piece);
        (incoming, written)
    });
    written.await.map_err(|_| ReceptionError::Stopping)
}

fn write_piece(incoming: &mut Incoming, piece: &SnapshotPiece) -> Result<(), ReceptionError> {
    let SnapshotPiece { offset, data, crc32c } = piece;
    if *offset != incoming.bytes() {
        return Err(ReceptionError::OtherOffset { expected: incoming.bytes(), found: *offset });
    }
    if data.is_empty() || data.len() > PIECE_BYTES {
        return Err(ReceptionError::NoPiece);
    }
    if crc32c::crc32c(data) != *crc32c {
        return Err(ReceptionError::DamagedPiece(*offset));
    }
    Ok(incoming.write(data)?)
}

fn is_as_named(header: &SnapshotHeader, meta: &PeerSnapshotMeta, own: Identity) -> Result<(), ReceptionError> {
    if header.cluster_id != own.cluster.0 {
        return Err(ReceptionError::Another("it is of another cluster"));
    }
    if header.conf_state != meta.conf_state {
        return Err(ReceptionError::Another("its members are others"));
    }
    Ok(())
}
