//! Maintenance.Snapshot: the whole state, as a file that a client saves.
//!
//! ```text
//!   Snapshotter ──Exported (a file)──▶ sending ──32 KiB each──▶ a few wait ──▶ Blobs ──▶ the client
//!                                         └── last: the SHA-256 of all data
//! ```
//! The client sets the pace: what it has not taken stays in the file. One that takes nothing for a long time is given up,
//! because the file takes disk space as long as it is read.

use crate::actors::snapshotter::ExportSnapshot;
use crate::api::grpc::{Admitted, Edge, ServerStream};
use crate::cast::RequestError;
use crate::config::STORAGE_VERSION;
use crate::raft::node::RaftError;
use crate::snapshot::format::SEAL_BYTES;
use crate::snapshot::{Exported, SnapshotError};
use crate::telemetry::clock::Clock;
use bytes::Bytes;
use castd_proto::etcdserverpb as pb;
use futures_util::stream::{Stream, StreamExt as _};
use sha2::{Digest, Sha256};
use slog::Logger;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

/// Clients that may take a snapshot at once. Each may have a file of the size of the state.
pub const SNAPSHOTS_MAX: usize = 4;
/// As etcd's.
const BLOB_BYTES: usize = 32 << 10;
/// Read from the file at once.
const READ_BYTES: usize = 16 * BLOB_BYTES;
/// Blobs that may wait for the connection.
const BLOBS_WAITING_MAX: usize = 4;
/// A client that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(600);

type Blob = Result<pb::SnapshotResponse, Status>;

/// # Errors
/// When there are too many already, there is no room on the disk, or the state cannot be read.
pub async fn open(edge: &Edge, admitted: Admitted) -> Result<ServerStream<pb::SnapshotResponse>, RequestError> {
    let place = edge.snapshots.clone().try_acquire_owned().map_err(|_| RequestError::TooManyRequests)?;
    let (reply, exported) = oneshot::channel();
    let snapshotter = edge.cast.snapshotter(&admitted.permit);
    snapshotter.do_send(ExportSnapshot { reply, span: admitted.span() });
    let stopping = Box::pin(edge.stopping.clone().cancelled_owned());
    let exported = tokio::select! {
        exported = exported => exported.map_err(|_| RequestError::Stopped)??,
        () = edge.stopping.cancelled() => return Err(RequestError::Stopped),
    };
    let (sender, blobs) = mpsc::channel(BLOBS_WAITING_MAX);
    let sending = Sending { exported, sender, patience: PATIENCE, clock: edge.clock, log: edge.log.clone() };
    tokio::spawn(sending.run(place));
    Ok(Blobs { blobs, stopping, is_whole: false, is_over: false }.boxed())
}

/// Reads the file as fast as the client takes it.
struct Sending {
    exported: Exported,
    sender: mpsc::Sender<Blob>,
    patience: Duration,
    clock: Clock,
    log: Logger,
}

/// Why a snapshot was not sent to its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client went away")]
    ClientGone,
    #[error("the client took nothing for {0:?}")]
    ClientStalled(Duration),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the member is shutting down")]
    Stopped,
}

impl Sending {
    /// The place is free again when the file is.
    async fn run(self, _place: OwnedSemaphorePermit) {
        let started = self.clock.now();
        let total_bytes = self.exported.bytes();
        slog::info!(self.log, "sending database snapshot to client";
            "total-bytes" => total_bytes, "storage-version" => STORAGE_VERSION);
        match self.send_all().await {
            Ok(()) => slog::info!(self.log, "successfully sent database snapshot to client";
                "total-bytes" => total_bytes, "storage-version" => STORAGE_VERSION,
                "took" => ?self.clock.now().saturating_sub(started)),
            Err(ended) => {
                slog::warn!(self.log, "database snapshot was not sent to its end"; "error" => %ended);
                if let Ended::Snapshot(error) = ended {
                    let _ = self.send(Err(Status::internal(error.to_string()))).await;
                }
            }
        }
    }

    async fn send_all(&self) -> Result<(), Ended> {
        let total_bytes = self.exported.bytes();
        let mut digest = Sha256::new();
        let mut sent_bytes = 0;
        while sent_bytes < total_bytes {
            let exported = self.exported.clone();
            let read = tokio::task::spawn_blocking(move || {
                let part = exported.read(sent_bytes, READ_BYTES)?;
                digest.update(&part);
                Ok::<_, SnapshotError>((part, digest))
            });
            let (mut part, digested) = read.await.map_err(|_| Ended::Stopped)??;
            digest = digested;
            while !part.is_empty() {
                let blob = part.split_to(part.len().min(BLOB_BYTES));
                sent_bytes += blob.len() as u64;
                self.send(Ok(message(blob, total_bytes - sent_bytes))).await?;
            }
        }
        let seal: [u8; SEAL_BYTES] = digest.finalize().into();
        self.send(Ok(message(Bytes::copy_from_slice(&seal), 0))).await
    }

    async fn send(&self, blob: Blob) -> Result<(), Ended> {
        match tokio::time::timeout(self.patience, self.sender.send(blob)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::ClientGone),
            Err(_) => Err(Ended::ClientStalled(self.patience)),
        }
    }
}

fn message(blob: Bytes, remaining_bytes: u64) -> pb::SnapshotResponse {
    pb::SnapshotResponse { header: None, remaining_bytes, blob, version: STORAGE_VERSION.to_owned() }
}

/// The answers of one call.
struct Blobs {
    blobs: mpsc::Receiver<Blob>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The blob behind the data has been given out.
    is_whole: bool,
    is_over: bool,
}

impl Stream for Blobs {
    type Item = Blob;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Blob>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let item = if this.stopping.as_mut().poll(context).is_ready() {
            Some(Err(RequestError::Stopped.into()))
        } else {
            match ready!(this.blobs.poll_recv(context)) {
                // The client was given up: what it has is not a snapshot, and must not look like one.
                None if !this.is_whole => Some(Err(RequestError::from(RaftError::Timeout).into())),
                item => item,
            }
        };
        match &item {
            Some(Ok(blob)) => this.is_whole = blob.remaining_bytes == 0 && blob.blob.len() == SEAL_BYTES,
            Some(Err(_)) | None => this.is_over = true,
        }
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Exporting;
    use castd_backend_api::Table;
    use castd_proto::castdpb::SnapshotHeader;
    use std::sync::Arc;
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    const BLOBS: usize = 20;

    /// A snapshot being sent with that much patience, and what the client gets.
    fn sending(patience: Duration) -> (Sending, Blobs, CancellationToken) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut exporting = Exporting::begin(dir.path(), &SnapshotHeader::default()).expect("begun");
        for row in 0..BLOBS as u32 {
            exporting.writer().row(Table::Kv, &row.to_be_bytes(), &[7; BLOB_BYTES]).expect("written");
        }
        let (sender, blobs) = mpsc::channel(BLOBS_WAITING_MAX);
        let exported = exporting.finish_padded().expect("written");
        let log = Logger::root(slog::Discard, slog::o!());
        let stop = CancellationToken::new();
        let stopping = Box::pin(stop.clone().cancelled_owned());
        let sending = Sending { exported, sender, patience, clock: Clock::start(), log };
        (sending, Blobs { blobs, stopping, is_whole: false, is_over: false }, stop)
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_and_is_told_so_if_it_comes_back() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().expect("free");
        let (sending, mut blobs, _stop) = sending(Duration::from_millis(10));
        tokio::spawn(sending.run(place)).await.expect("ended");
        assert_eq!(places.available_permits(), 1);
        let mut taken = 0;
        let end = loop {
            match blobs.next().await.expect("an error ends it") {
                Ok(_) => taken += 1,
                Err(end) => break end,
            }
        };
        assert_eq!((taken, end.message()), (BLOBS_WAITING_MAX, "etcdserver: request timed out"));
        assert!(blobs.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_takes_all_gets_all() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().expect("free");
        let (sending, mut blobs, _stop) = sending(PATIENCE);
        let (total_bytes, task) = (sending.exported.bytes(), tokio::spawn(sending.run(place)));
        let mut received = Vec::new();
        while let Some(blob) = blobs.next().await {
            received.extend_from_slice(&blob.expect("no error").blob);
        }
        task.await.expect("ended");
        let (data, seal) = received.split_at(total_bytes as usize);
        assert_eq!(seal, &Sha256::digest(data)[..]);
    }

    #[tokio::test]
    async fn a_member_that_stops_ends_it_with_an_error() {
        let (_sending, mut blobs, stop) = sending(PATIENCE);
        stop.cancel();
        let end = blobs.next().await.expect("one more").expect_err("it is not whole");
        assert_eq!(end.message(), "etcdserver: server stopped");
        assert!(blobs.next().await.is_none());
    }
}
