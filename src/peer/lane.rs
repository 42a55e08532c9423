//! The calling end of one lane: dials, introduces itself, carries what waits, and starts over when that ends.
//!
//! ```text
//!   dial ─▶ introduce ─▶ first acknowledgement ─▶ Opened ─▶ carry … ─▶ lost ─▶ Closed ─▶ pause ─▶ next URL
//! ```
//! A task of [`crate::actors::peer_link::PeerLink`], which hears of it by mail. It never ends by itself.

use crate::api::status::refusal_by_peer;
use crate::ids::MemberId;
use crate::membership::urls::Url;
use crate::peer::dial::{DialError, dial};
use crate::peer::flight::{Flight, Look};
use crate::peer::guard::Refusal;
use crate::peer::outbox::{Item, Outbox, outbox};
use crate::peer::pauses::Pauses;
use crate::peer::{PeerSettings, identity_to};
use crate::telemetry::clock::Clock;
use castd_proto::castdpb::{PeerAck, PeerLane};
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

/// How often an idle lane is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Enough to read what has come, if this thread was held up.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(20);

/// Why a lane is not open.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    #[error("{}", .0.message())]
    Failed(Status),
    #[error("the peer ended the stream")]
    Ended,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the member has no peer URL")]
    NoUrl,
}

impl From<Status> for Closed {
    fn from(status: Status) -> Self {
        refusal_by_peer(&status).map_or(Closed::Failed(status), Closed::Refused)
    }
}

#[derive(Debug)]
pub enum Event {
    /// What is pushed from now on is carried.
    Opened(Outbox),
    Closed {
        reason: Closed,
        /// Whether it had been open.
        was_open: bool,
        /// Empty when there was none to dial.
        url: String,
    },
}

#[derive(Clone)]
pub struct LaneMetrics {
    pub sent_bytes: IntCounter,
    pub round_trip: Histogram,
}

/// What one lane has to know.
#[derive(Clone)]
pub struct LaneTask {
    pub peer: MemberId,
    pub lane: PeerLane,
    /// Where the peer is. May change; a connection that is open stays.
    pub urls: Arc<Mutex<Vec<Url>>>,
    pub settings: Arc<PeerSettings>,
    pub clock: Clock,
    pub metrics: LaneMetrics,
}

impl LaneTask {
    /// Runs until it is aborted.
    pub async fn run(self, tell: impl Fn(Event)) -> Infallible {
        let seed = self.settings.identity.member.0 ^ self.peer.0.rotate_left(32) ^ self.clock.now().as_nanos() as u64;
        let mut pauses = Pauses::new(self.settings.pause_max(), seed);
        loop {
            let urls = self.urls.lock().clone();
            if urls.is_empty() {
                tell(Event::Closed { reason: Closed::NoUrl, was_open: false, url: String::new() });
            }
            for url in &urls {
                let mut opened_at = None;
                let opened = |outbox| {
                    opened_at = Some(self.clock.now());
                    tell(Event::Opened(outbox));
                };
                let Err(reason) = self.attempt(url, opened).await;
                // One that breaks as soon as it is open is no better than one that does not open.
                if opened_at.is_some_and(|at| self.clock.now() > at + self.settings.pause_max()) {
                    pauses.reset();
                }
                tell(Event::Closed { reason, was_open: opened_at.is_some(), url: url.to_string() });
            }
            tokio::time::sleep(pauses.after_failure()).await;
        }
    }

    fn silence_max(&self) -> Duration {
        match self.lane {
            PeerLane::Urgent => self.settings.urgent_silence_max(),
            PeerLane::Bulk => self.settings.read_timeout,
        }
    }

    /// Opens the lane at `url` and carries until that ends.
    async fn attempt(&self, url: &Url, opened: impl FnOnce(Outbox)) -> Result<Infallible, Closed> {
        let limit = self.settings.open_timeout();
        let (dialled, driver) = dial(url, limit).await?;
        // Whatever ends this, the connection goes too: what is in its buffers is old.
        let _driver = AbortOnDropHandle::new(driver);
        let silence_max = self.silence_max();
        let flight = Arc::new(Mutex::new(Flight::new(silence_max, self.clock.now())));
        let (outbox, envelopes) = outbox(
            identity_to(self.settings.identity, self.peer),
            self.settings.advertised_urls.clone(),
            self.lane,
            Arc::clone(&flight),
            self.clock,
            self.metrics.sent_bytes.clone(),
        );
        let mut client = dialled.client();
        let introduced = async {
            let mut answers = client.stream(envelopes).await?.into_inner();
            let first = answers.message().await?.ok_or(Closed::Ended)?;
            Ok::<_, Closed>((answers, first))
        };
        let (answers, first) = tokio::time::timeout(limit, introduced).await.unwrap_or(Err(Closed::Silent(limit)))?;
        self.heard(&flight, first);
        opened(outbox.clone());
        self.carry(answers, &flight, &outbox).await
    }

    /// The envelopes leave by themselves; here is who listens for answers, and who notices that there are none.
    async fn carry(
        &self,
        mut answers: Streaming<PeerAck>,
        flight: &Mutex<Flight>,
        outbox: &Outbox,
    ) -> Result<Infallible, Closed> {
        let mut probes = tokio::time::interval(PROBE_EVERY.min(self.silence_max() / 2));
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = answers.message() => self.heard(flight, answer?.ok_or(Closed::Ended)?),
                _ = probes.tick() => {
                    let mut flight = flight.lock();
                    let now = self.clock.now();
                    match flight.look(now) {
                        Look::Present => {}
                        Look::Suspected => {
                            probes.reset_after(SECOND_LOOK_AFTER);
                            continue;
                        }
                        Look::Lost => return Err(Closed::Silent(self.silence_max())),
                    }
                    let is_due = flight.probe(now);
                    drop(flight);
                    if is_due {
                        // A full lane stamps what waits in it.
                        let _ = outbox.push(Item::Probe);
                    }
                }
            }
        }
    }

    fn heard(&self, flight: &Mutex<Flight>, answer: PeerAck) {
        if let Some(round_trip) = flight.lock().acknowledged(answer.sent_at_nanos, self.clock.now()) {
            self.metrics.round_trip.observe(round_trip.as_secs_f64());
        }
    }
}
