//! Brings a snapshot to another member, over a connection of its own.
//!
//! ```text
//!   offer ──▶ "I have so much of it" ──▶ offer, pieces from there ──▶ complete
//!     ▲                                      └──interrupted──┐
//!     └──────────────────── a pause ◀────────────────────────┘
//! ```
//! Runs on a thread of its own for each transfer, where it may wait for the disk: a slow peer holds up nobody. It reads on
//! only as fast as the peer takes.

use crate::cast::{Identity, Published};
use crate::peer::dial::{Client, DialError, dial};
use crate::peer::identity_to;
use crate::peer::roster::Roster;
use crate::peer::wire::to_wire;
use crate::raft::node;
use crate::snapshot::outbound::Parcel;
use crate::snapshot::{Outgoing, SnapshotError};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use castd_proto::castdpb::{SnapshotOffer, SnapshotPart, SnapshotPiece, SnapshotReceipt, snapshot_part::Part};
use futures_util::stream;
use slog::{Logger, info, warn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Code;

/// Of one piece. Half of it is on its way while the other half is read.
pub const PIECE_BYTES: usize = 512 << 10;
/// Tries without any progress before raft is told that it failed.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// For [`Courier::pause_after_failure`].
pub const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The receiver reads and syncs all of it at the end: so long, and for so many bytes a second.
const FINISH_MAX: Duration = Duration::from_secs(60);
const FINISH_BYTES_PER_SEC: u64 = 10 << 20;

/// Why a snapshot did not get there.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error("the member is not known, or has no peer URL that can be dialled")]
    Unknown,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{}", .0.message())]
    Refused(tonic::Status),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the peer took nothing for {0:?}")]
    Stalled(Duration),
    #[error("the peer ended the transfer after {0} bytes")]
    Cut(u64),
    #[error("this member does not lead any more")]
    NotLeader,
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

impl CarryError {
    /// To try again at once would give the same.
    fn is_final(&self) -> bool {
        match self {
            CarryError::Unknown | CarryError::Snapshot(_) | CarryError::NotLeader | CarryError::Runtime(_) => true,
            CarryError::Refused(status) => matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::PermissionDenied
                    | Code::NotFound
                    | Code::ResourceExhausted
            ),
            CarryError::Dial(_) | CarryError::Stalled(_) | CarryError::Cut(_) => false,
        }
    }
}

/// How snapshots travel. Tests have others.
pub trait CarriesSnapshots: Send + Sync {
    /// Returns when the peer has all of it and has told its raft, or when there is no hope. Takes as long as that takes.
    ///
    /// # Errors
    /// Why there is none.
    fn carry(&self, parcel: &Parcel) -> Result<(), CarryError>;
}

pub struct Courier {
    pub own: Identity,
    pub roster: Published<Roster>,
    /// Only a leader's snapshot is worth anything.
    pub status: Published<node::Status>,
    pub open_timeout: Duration,
    /// A peer that takes nothing for so long is taken for gone.
    pub silence_max: Duration,
    /// Raft asks again as soon as it is told of a failure.
    pub pause_after_failure: Duration,
    pub clock: Clock,
    pub metrics: Metrics,
    pub log: Logger,
}

impl CarriesSnapshots for Courier {
    fn carry(&self, parcel: &Parcel) -> Result<(), CarryError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CarryError::Runtime)?;
        let (to, index, bytes) = (parcel.to, parcel.snapshot.position().index, parcel.snapshot.bytes());
        let network = &self.metrics.network;
        let label = [&*to.to_string()];
        let inflights = network.snapshot_send_inflights.with_label_values(&label);
        inflights.inc();
        let started = self.clock.now();
        info!(self.log, "sending database snapshot"; "snapshot-index" => index.0, "remote-peer-id" => %to,
            "bytes" => bytes, "size" => sized(bytes));
        let carried = runtime.block_on(async {
            let carried = self.carry_on(parcel).await;
            if let Err(error) = &carried {
                warn!(self.log, "failed to send database snapshot"; "snapshot-index" => index.0,
                    "remote-peer-id" => %to, "bytes" => bytes, "size" => sized(bytes), "error" => %error);
                tokio::time::sleep(self.pause_after_failure).await;
            }
            carried
        });
        let took = self.clock.now().saturating_sub(started);
        inflights.dec();
        if carried.is_ok() {
            info!(self.log, "sent database snapshot"; "snapshot-index" => index.0, "remote-peer-id" => %to,
                "bytes" => bytes, "size" => sized(bytes), "took" => ?took);
            network.snapshot_send_success.with_label_values(&label).inc();
            network.snapshot_send_duration.with_label_values(&label).observe(took.as_secs_f64());
        } else {
            network.snapshot_send_failures.with_label_values(&label).inc();
        }
        carried
    }
}

impl Courier {
    /// Takes up the transfer after each interruption, as long as it gets on.
    async fn carry_on(&self, parcel: &Parcel) -> Result<(), CarryError> {
        let (mut attempts, mut farthest) = (0, 0);
        loop {
            let error = match self.attempt(parcel, &mut farthest, &mut attempts).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            attempts += 1;
            if error.is_final() || attempts >= ATTEMPTS_MAX {
                return Err(error);
            }
            warn!(self.log, "sending a database snapshot was interrupted"; "remote-peer-id" => %parcel.to,
                "received-bytes" => farthest, "bytes" => parcel.snapshot.bytes(), "error" => %error);
            tokio::time::sleep(PAUSE * attempts).await;
        }
    }

    async fn attempt(&self, parcel: &Parcel, farthest: &mut u64, attempts: &mut u32) -> Result<(), CarryError> {
        self.is_still_wanted(parcel)?;
        let mut client = self.dial(parcel).await?;
        let offer = SnapshotPart { part: Some(Part::Offer(self.offer(parcel))) };
        let asked = client.send_snapshot(stream::iter([offer.clone()]));
        // Of a snapshot that it has whole, the receiver may read all before it answers.
        let limit = finish_limit(&parcel.snapshot);
        let asked = tokio::time::timeout(limit, asked).await.map_err(|_| CarryError::Stalled(limit))?;
        let SnapshotReceipt { received_bytes, complete } = asked.map_err(CarryError::Refused)?.into_inner();
        if complete {
            return Ok(());
        }
        if received_bytes > *farthest {
            *farthest = received_bytes;
            *attempts = 0;
        }
        let handed_over = Arc::new(AtomicU64::new(received_bytes));
        let pieces = Pieces { snapshot: parcel.snapshot.clone(), handed_over: Arc::clone(&handed_over) };
        let parts = stream::unfold((Some(offer), pieces), |(offer, pieces)| async move {
            let part = match offer {
                Some(offer) => offer,
                None => pieces.next()?,
            };
            Some((part, (None, pieces)))
        });
        let sent = tokio::select! {
            sent = client.send_snapshot(parts) => sent.map_err(CarryError::Refused),
            error = self.watch(parcel, &handed_over) => Err(error),
        };
        let handed_over = handed_over.load(Ordering::Relaxed);
        let network = &self.metrics.network;
        let sent_bytes = handed_over.saturating_sub(received_bytes);
        network.peer_sent_bytes.with_label_values(&[&parcel.to.to_string()]).inc_by(sent_bytes);
        let SnapshotReceipt { received_bytes, complete } = sent?.into_inner();
        if complete { Ok(()) } else { Err(CarryError::Cut(received_bytes)) }
    }

    async fn dial(&self, parcel: &Parcel) -> Result<Client, CarryError> {
        let urls = self.roster.load().urls(parcel.to).ok_or(CarryError::Unknown)?;
        let mut failure = CarryError::Unknown;
        for url in &urls {
            match dial(url, self.open_timeout).await {
                Ok((dialled, _)) => return Ok(dialled.client()),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    fn offer(&self, parcel: &Parcel) -> SnapshotOffer {
        SnapshotOffer {
            identity: Some(identity_to(self.own, parcel.to)),
            message: Some(to_wire(parcel.message.clone())),
            bytes: parcel.snapshot.bytes(),
            sha256: parcel.snapshot.sha256().to_vec().into(),
        }
    }

    fn is_still_wanted(&self, parcel: &Parcel) -> Result<(), CarryError> {
        let status = self.status.load();
        if !status.is_leader || status.term.0 != parcel.message.term {
            return Err(CarryError::NotLeader);
        }
        if self.roster.load().knows(parcel.to) { Ok(()) } else { Err(CarryError::Unknown) }
    }

    /// Ends when the transfer makes no sense any more.
    async fn watch(&self, parcel: &Parcel, handed_over: &AtomicU64) -> CarryError {
        let (mut seen, mut since) = (handed_over.load(Ordering::Relaxed), self.clock.now());
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.is_still_wanted(parcel) {
                return error;
            }
            let (now, bytes) = (self.clock.now(), handed_over.load(Ordering::Relaxed));
            if bytes != seen {
                (seen, since) = (bytes, now);
            }
            let limit =
                if bytes == parcel.snapshot.bytes() { finish_limit(&parcel.snapshot) } else { self.silence_max };
            if now >= since + limit {
                return CarryError::Stalled(limit);
            }
        }
    }
}

fn finish_limit(snapshot: &Outgoing) -> Duration {
    FINISH_MAX + Duration::from_secs(snapshot.bytes() / FINISH_BYTES_PER_SEC)
}

struct Pieces {
    snapshot: Outgoing,
    /// So far from the beginning of the file: where the next piece begins.
    handed_over: Arc<AtomicU64>,
}

impl Pieces {
    /// A file that cannot be read ends the stream: the receiver then says how much it has, which is not all.
    fn next(&self) -> Option<SnapshotPart> {
        let offset = self.handed_over.load(Ordering::Relaxed);
        let data: Bytes = self.snapshot.read(offset, PIECE_BYTES).ok().filter(|data| !data.is_empty())?;
        self.handed_over.store(offset + data.len() as u64, Ordering::Relaxed);
        let piece = SnapshotPiece { offset, crc32c: crc32c::crc32c(&data), data };
        Some(SnapshotPart { part: Some(Part::Piece(piece)) })
    }
}

/// For people: `20 kB`, as etcd prints it.
pub fn sized(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1_000.0, UNITS[0]);
    for next in &UNITS[1..] {
        if value < 1_000.0 {
            break;
        }
        (value, unit) = (value / 1_000.0, next);
    }
    if (value * 10.0).round() < 100.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::sized;

    #[test]
    fn sizes_are_printed_as_etcd_prints_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (20_480, "20 kB"),
            (82_854_982, "83 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(sized(bytes), text);
        }
    }
}
