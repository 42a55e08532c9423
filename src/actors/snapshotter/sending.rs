//! Snapshots for members that lag: found or written on a worker, offered to raft, and sent by one thread for each transfer.

use super::{Done, SendSnapshot, SnapshotOffered, SnapshotSent, SnapshotWithdrawn, Snapshotter};
use crate::actors::raft_node::SnapshotWanted;
use crate::ids::{ClusterId, LogIndex, MemberId};
use crate::peer::courier::sized;
use crate::raft::window::has_member;
use crate::snapshot::outbound::{Parcel, Wanted, will_do};
use crate::snapshot::{Outgoing, SnapshotError, SnapshotFile, SnapshotStore, expect_room};
use crate::state::portable::{self, PortableError};
use crate::state::{View, conf_state_from_row};
use actix::Context;
use slog::Logger;
use std::sync::Arc;

/// What the worker found or wrote.
pub(super) struct Prepared {
    snapshot: Outgoing,
    /// It stands in `snap/` since just now.
    pub(super) was_taken: bool,
}

/// Where to look, and what to write if nothing there will do.
struct Preparation {
    store: SnapshotStore,
    view: Arc<View>,
    cluster: ClusterId,
    /// The state is written into `snap/`, where it is of use for this member, too.
    keeps_snapshot: bool,
    to: MemberId,
    index_min: LogIndex,
}

impl Snapshotter {
    pub(super) fn snapshot_wanted(&mut self, wanted: SnapshotWanted, context: &mut Context<Self>) {
        // The one that is being taken may do; raft asks again.
        if self.is_taking {
            return;
        }
        match self.outbound.wanted(self.clock.now(), wanted.to, wanted.index_min) {
            Wanted::Wait => {}
            Wanted::OfferAgain => self.offer(),
            Wanted::Prepare => self.prepare(wanted, context),
        }
    }

    fn prepare(&mut self, wanted: SnapshotWanted, context: &mut Context<Self>) {
        let preparation = Preparation {
            store: self.store.clone(),
            view: self.links.view.load(),
            cluster: self.cluster,
            keeps_snapshot: self.policy.keeps_snapshot(),
            to: wanted.to,
            index_min: wanted.index_min,
        };
        // Two would write the same file.
        self.is_taking = true;
        let log = self.log.clone();
        self.on_worker("snapshot", context, move || Ok(Done::Prepared(preparation.carry_out(&log))));
    }

    pub(super) fn prepared(&mut self, prepared: Option<Prepared>) {
        self.is_taking = false;
        let now = self.clock.now();
        let Some(Prepared { snapshot, was_taken }) = prepared else { return self.outbound.not_prepared(now) };
        let position = snapshot.position();
        if was_taken {
            self.policy.snapshot_taken(position.index);
            slog::info!(self.log, "saved snapshot"; "snapshot-index" => position.index.0);
        }
        self.outbound.prepared(now, snapshot);
        self.policy.hold(self.outbound.held());
        self.offer();
    }

    fn offer(&self) {
        let Some(snapshot) = self.outbound.offered() else { return };
        let position = snapshot.position();
        let conf_state = snapshot.header().conf_state.clone().map(conf_state_from_row).unwrap_or_default();
        self.links.snapshot_offered.do_send(SnapshotOffered { position, conf_state });
    }

    pub(super) fn send_snapshot(&mut self, send: SendSnapshot, context: &mut Context<Self>) {
        match self.outbound.send(self.clock.now(), send.message) {
            Ok(parcel) => self.begin_transfer(parcel, context),
            Err(to) => self.links.snapshot_sent.do_send(SnapshotSent { to, ok: false }),
        }
    }

    fn begin_transfer(&mut self, parcel: Option<Parcel>, context: &mut Context<Self>) {
        self.policy.hold(self.outbound.held());
        let Some(parcel) = parcel else { return };
        let courier = Arc::clone(&self.links.courier);
        self.on_worker("send-snapshot", context, move || {
            // What went wrong has been told.
            let ok = courier.carry(&parcel).is_ok();
            Ok(Done::Carried { to: parcel.to, ok })
        });
    }

    pub(super) fn carried(&mut self, to: MemberId, ok: bool, context: &mut Context<Self>) {
        self.links.snapshot_sent.do_send(SnapshotSent { to, ok });
        let next = self.outbound.ended(self.clock.now(), to);
        self.begin_transfer(next, context);
    }

    pub(super) fn withdraw_unused(&mut self) {
        if self.outbound.withdraw_unused(self.clock.now()) {
            self.links.snapshot_withdrawn.do_send(SnapshotWithdrawn);
            self.policy.hold(self.outbound.held());
        }
    }
}

impl Preparation {
    /// A failure is no reason to end: this member itself is well.
    fn carry_out(self, log: &Logger) -> Option<Prepared> {
        let found = match self.find() {
            Ok(None) => self.write(),
            found => found,
        };
        match found {
            Ok(None) => None,
            Ok(Some(prepared)) => {
                let (snapshot, bytes) = (&prepared.snapshot, prepared.snapshot.bytes());
                slog::info!(log, "a snapshot is ready for a member that lags"; "remote-peer-id" => %self.to,
                    "snapshot-index" => snapshot.position().index.0, "bytes" => bytes, "size" => sized(bytes));
                Some(prepared)
            }
            Err(error) => {
                slog::warn!(log, "there is no snapshot for a member that lags"; "remote-peer-id" => %self.to,
                    "error" => %error);
                None
            }
        }
    }

    /// The newest in `snap/` that is sound and will do. One above our state is of another member; it may be void.
    fn find(&self) -> Result<Option<Prepared>, PortableError> {
        for file in self.store.list()? {
            if file.position.index > self.view.applied {
                continue;
            }
            if file.position.index < self.index_min {
                break;
            }
            match Outgoing::of(&file) {
                Ok(snapshot) if will_do(&snapshot, self.to, self.index_min) => {
                    return Ok(Some(Prepared { snapshot, was_taken: false }));
                }
                Ok(_) | Err(SnapshotError::Io { .. } | SnapshotError::NewerFormat { .. }) => {}
                Err(_) => self.store.set_aside(&file).map(drop)?,
            }
        }
        Ok(None)
    }

    /// `None` while the state has not come far enough.
    fn write(&self) -> Result<Option<Prepared>, PortableError> {
        if self.view.applied < self.index_min || !has_member(&self.view.conf_state, self.to.0) {
            return Ok(None);
        }
        if !self.keeps_snapshot {
            let snapshot = portable::write_outgoing(self.store.dir(), &self.view, self.cluster)?;
            return Ok(Some(Prepared { snapshot, was_taken: false }));
        }
        expect_room(self.store.dir(), self.view.size().in_use)?;
        let position = portable::take(&self.store, &self.view, self.cluster)?;
        let file = SnapshotFile::at(self.store.dir(), position)?;
        Ok(Some(Prepared { snapshot: Outgoing::of(&file)?, was_taken: true }))
    }
}
