//! A watch that a handler keeps for itself, on the way that clients' watches go.
//!
//! ```text
//!   OwnWatch ──OpenStream, OpenWatch──▶ WatchHub ──Reply──▶ OwnWatch::next
//! ```
//! It says what happened, not what it means: who has missed something to compaction has to look at a view again.

use crate::actors::watch_hub::{OpenStream, OpenWatch, OpenedStream, StreamDrained, WatchHub};
use crate::api::grpc::Edge;
use crate::api::permit::Permit;
use crate::cast::RequestError;
use crate::ids::Revision;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::SpanContext;
use crate::watch::{CREDIT_BYTES, Delivery, Filters, NewWatch, Reply, ReplyBody, Selector};
use actix::Addr;
use std::sync::Arc;
use tokio::sync::mpsc;

pub struct OwnWatch {
    hub: Addr<WatchHub>,
    stream: OpenedStream,
    replies: mpsc::UnboundedReceiver<Reply>,
    /// Taken, and not yet told to the hub.
    unreported_bytes: usize,
    metrics: Metrics,
}

pub enum Happened {
    Events {
        delivery: Arc<Delivery>,
        /// Of the notification.
        revision: Revision,
    },
    /// Some of what happened is not known any more.
    Compacted,
}

impl OwnWatch {
    /// Watches each of `selectors` from the revision `from` on.
    pub async fn open(
        edge: &Edge,
        permit: &Permit,
        span: SpanContext,
        selectors: impl IntoIterator<Item = Selector>,
        from: Revision,
        filters: Filters,
    ) -> Result<Self, RequestError> {
        let hub = edge.cast.watch_hub(permit).clone();
        let (sender, replies) = mpsc::unbounded_channel();
        let opening = hub.send(OpenStream { replies: sender, span: span.clone() });
        let stream = opening.await.map_err(|_| RequestError::Stopped)?;
        for selector in selectors {
            let watch = NewWatch {
                watch_id: 0,
                selector,
                start_revision: Some(from),
                filters,
                prev_kv: false,
                fragment: false,
                progress_notify: false,
            };
            hub.do_send(OpenWatch { stream: stream.id, watch, span: span.clone() });
        }
        Ok(Self { hub, stream, replies, unreported_bytes: 0, metrics: edge.metrics.clone() })
    }

    /// Waits for the next thing to happen.
    pub async fn next(&mut self) -> Result<Happened, RequestError> {
        loop {
            let reply = self.replies.recv().await.ok_or(RequestError::Stopped)?;
            self.give_credit(reply.charged_bytes());
            match reply.body {
                ReplyBody::Events { delivery, .. } => {
                    let events = delivery.events().len();
                    self.metrics.watch.pending_events.sub(events as i64);
                    self.metrics.watch.events.inc_by(events as u64);
                    return Ok(Happened::Events { delivery, revision: reply.revision });
                }
                ReplyBody::Compacted { .. } => return Ok(Happened::Compacted),
                ReplyBody::Refused(_) => return Err(RequestError::TooManyRequests),
                ReplyBody::Canceled { .. } => return Err(RequestError::Stopped),
                ReplyBody::Created | ReplyBody::Progress => {}
            }
        }
    }

    fn give_credit(&mut self, bytes: usize) {
        self.unreported_bytes += bytes;
        if self.unreported_bytes >= CREDIT_BYTES {
            let bytes = std::mem::take(&mut self.unreported_bytes);
            self.hub.do_send(StreamDrained { stream: self.stream.id, bytes });
        }
    }
}

impl Drop for OwnWatch {
    fn drop(&mut self) {
        self.replies.close();
        while let Ok(reply) = self.replies.try_recv() {
            self.metrics.watch.pending_events.sub(reply.events() as i64);
        }
    }
}
