//! Where a watcher can be, and the steps from one place to another.
//!
//! ```text
//!                  ┌──bring_in_sync──▶ in sync ──leave_sync──┐
//!   nowhere ───────┤                                         ├──▶ nowhere
//!                  └──fall_behind──▶ waiting, parked, gone   │
//!                                     waiting ──a read──────┘
//! ```
//! Between two steps a watcher is nowhere: its state says `Reading`, and no set knows it.

use super::{Effect, Hub, State};
use crate::ids::Revision;
use crate::watch::interests::Member;
use crate::watch::reply::{Reply, ReplyBody};
use crate::watch::stream::StreamId;

impl Hub {
    /// From nowhere into the index: `next` is not in the past.
    pub(super) fn bring_in_sync(&mut self, slot: u32, next: Revision) {
        debug_assert!(next > self.revision);
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        let member = Member { watcher: slot, from: next, filters: watcher.filters };
        watcher.state = State::InSync(self.interests.join(&watcher.selector, member));
        let (id, start) = (watcher.stream, watcher.start);
        self.count_lagging(id, false);
        if start > self.revision {
            self.future.insert((start, slot));
            if let Some(stream) = self.streams.get_mut(id) {
                stream.future += 1;
            }
        }
    }

    /// Out of the index to nowhere; nothing happens if it is elsewhere.
    pub(super) fn leave_sync(&mut self, slot: u32) {
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        let State::InSync(place) = watcher.state else { return };
        watcher.state = State::Reading;
        let (id, start) = (watcher.stream, watcher.start);
        if let Some(moved) = self.interests.leave(place)
            && let Some(moved) = self.watchers[moved as usize].as_mut()
        {
            moved.state = State::InSync(place);
        }
        if self.future.remove(&(start, slot))
            && let Some(stream) = self.streams.get_mut(id)
        {
            stream.future -= 1;
        }
        self.count_lagging(id, true);
    }

    /// From nowhere to where history is waited for.
    pub(super) fn fall_behind(&mut self, slot: u32, next: Revision, effects: &mut Vec<Effect>) {
        if next < self.compacted {
            return self.drop_compacted(slot, effects);
        }
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        if self.streams.has_room(watcher.stream) {
            watcher.state = State::Waiting { next };
            self.waiting.add(next, slot);
        } else {
            watcher.state = State::Parked { next };
            self.parked.insert((next, slot));
            if let Some(stream) = self.streams.get_mut(watcher.stream) {
                stream.parked.insert(slot);
            }
        }
    }

    pub(super) fn drop_compacted(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let Some((id, watch_id)) = self.remove(slot) else { return };
        if let Some(stream) = self.streams.get_mut(id) {
            stream.watchers.insert(watch_id, None);
        }
        let body = ReplyBody::Compacted { compacted: self.compacted };
        self.streams.push(id, Reply { watch_id, revision: Revision(0), body }, effects);
    }

    /// From wherever it is to nothing. Its watch id stays with the stream.
    pub(super) fn remove(&mut self, slot: u32) -> Option<(StreamId, i64)> {
        self.leave_sync(slot);
        let watcher = self.watchers[slot as usize].take()?;
        self.free.push(slot);
        match watcher.state {
            State::InSync(_) | State::Reading => {}
            State::Waiting { next } => self.waiting.remove(next, slot),
            State::Parked { next } => {
                self.parked.remove(&(next, slot));
            }
        }
        self.count_lagging(watcher.stream, false);
        if let Some(stream) = self.streams.get_mut(watcher.stream) {
            stream.alive -= 1;
            stream.parked.remove(&slot);
            stream.notified.remove(&watcher.watch_id);
        }
        Some((watcher.stream, watcher.watch_id))
    }

    pub(super) fn count_lagging(&mut self, id: StreamId, more: bool) {
        let change = |count: usize| if more { count + 1 } else { count - 1 };
        self.lagging = change(self.lagging);
        if let Some(stream) = self.streams.get_mut(id) {
            stream.lagging = change(stream.lagging);
        }
    }
}
