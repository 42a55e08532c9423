//! Who is told about which change, in which order: the core that the WatchHub actor owns.
//!
//! ```text
//!   OpenWatch, CancelWatch, … ──▶ ┌─────────────── Hub ───────────────┐ ──Reply──▶ a stream's queue
//!   StoreChanged ───────────────▶ │ in sync    Interests (key, range) │              │ StreamDrained
//!   Compacted, StoreReplaced ───▶ │ lagging    waiting ▶ reading      │ ◀────────────┘
//!   CaughtUp ───────────────────▶ │            parked: stream is full │ ──CatchUp──▶ a read of history,
//!   Tick ───────────────────────▶ └───────────────────────────────────┘ ◀─CaughtUp── outside the actor
//! ```
//! A watcher is at any moment in one place. *In sync*: everything up to the hub's revision is in its stream's queue, new
//! changes are matched against it. *Lagging*: its next revision lies in the past; history is read for all that lag at
//! about the same place, outside the actor, until they are in sync again. *Parked*: it lags and its stream does not take
//! more for now; nothing is done for it, so a client that stops reading costs what its queue holds and slows nobody.
//!
//! The hub never sees a value's bytes: events are shared, encoded once by the first stream that sends them
//! ([`Delivery`]), and the previous value of a key is looked up there too. It knows nothing of permissions, of gRPC and
//! of how history is stored.

mod catch_up;
mod delivery;
mod hub;
mod interests;
mod ranges;
mod recent;
mod reply;
mod request;
mod stream;

#[cfg(test)]
mod model;

pub use catch_up::{CatchUpBatch, Cohort, Source};
pub use delivery::{Delivery, Encoded};
pub use hub::{Effect, Hub, Input, Limits, Stats};
pub use reply::{Frame, HeaderIds, Reply, ReplyBody};
pub use request::{Filters, KeyRange, NewWatch, Refusal, Selector};
pub use stream::{CREDIT_BYTES, StreamId};

use crate::mvcc::{Changes, Event, EventKind};
