//! What requests hold while they are incomplete: on all connections of a port together, within a limit.
//!
//! ```text
//!   body ──Charge::add──▶ Waiting ── above the limit ──▶ the oldest body: evicted, woken
//! ```
//! An honest request is complete a moment after it began, so the oldest incomplete one is the likeliest to be nobody's
//! loss. While little is held, which is always but under attack, a charge is an addition and takes no lock.

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

/// About what a call costs that has not said anything yet.
pub(super) const CALL_BYTES: usize = 12 << 10;
/// Up to here nobody is written down, and nobody can be made to go.
const UNNAMED_BYTES_MAX: usize = 64 << 20;
/// For all that is incomplete, on all connections of a port: as much as `cast.rs` lets wait once it is complete.
const BYTES_MAX: usize = 256 << 20;

/// What is incomplete on a port.
#[derive(Default)]
pub(super) struct Waiting {
    bytes: AtomicUsize,
    /// The oldest first; only those who came when there was little room left.
    named: Mutex<Named>,
}

#[derive(Default)]
struct Named {
    next: u64,
    places: BTreeMap<u64, Arc<Place>>,
}

#[derive(Default)]
struct Place {
    /// Given back once: by its owner, or by who evicts it.
    bytes: AtomicUsize,
    evicted: AtomicBool,
    waker: AtomicWaker,
}

/// One body's part of [`Waiting`].
pub(super) struct Charge {
    waiting: Arc<Waiting>,
    /// While there is no place.
    bytes: usize,
    place: Option<(u64, Arc<Place>)>,
}

impl Charge {
    pub(super) fn new(waiting: &Arc<Waiting>) -> Charge {
        Charge { waiting: Arc::clone(waiting), bytes: 0, place: None }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.bytes == 0 && self.place.is_none()
    }

    pub(super) fn add(&mut self, bytes: usize) {
        let total = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.place {
            Some((_, place)) => {
                place.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            None => {
                self.bytes += bytes;
                if total > UNNAMED_BYTES_MAX {
                    self.take_place();
                }
            }
        }
        if total > BYTES_MAX {
            self.waiting.evict();
        }
    }

    fn take_place(&mut self) {
        let place = Arc::new(Place { bytes: std::mem::take(&mut self.bytes).into(), ..Place::default() });
        let mut named = self.waiting.named.lock();
        let number = named.next;
        named.next += 1;
        named.places.insert(number, Arc::clone(&place));
        drop(named);
        self.place = Some((number, place));
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.place.as_ref().is_some_and(|(_, place)| place.evicted.load(Ordering::Acquire))
    }

    pub(super) fn wake_when_evicted(&self, cx: &Context<'_>) {
        if let Some((_, place)) = &self.place {
            place.waker.register(cx.waker());
        }
    }

    pub(super) fn release(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if let Some((number, place)) = self.place.take() {
            self.waiting.named.lock().places.remove(&number);
            bytes += place.bytes.swap(0, Ordering::Relaxed);
        }
        if bytes > 0 {
            self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.release();
    }
}

impl Waiting {
    fn evict(&self) {
        while self.bytes.load(Ordering::Relaxed) > BYTES_MAX {
            let Some((_, oldest)) = self.named.lock().places.pop_first() else { return };
            self.bytes.fetch_sub(oldest.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            oldest.evicted.store(true, Ordering::Release);
            oldest.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(waiting: &Arc<Waiting>, bytes: usize) -> Charge {
        let mut charge = Charge::new(waiting);
        charge.add(bytes);
        charge
    }

    #[test]
    fn the_oldest_goes_once_there_is_no_room() {
        let waiting = Arc::new(Waiting::default());
        let unnamed = charge(&waiting, UNNAMED_BYTES_MAX);
        let old = charge(&waiting, 50 << 20);
        let young = charge(&waiting, 100 << 20);
        assert!(!old.is_evicted());
        let youngest = charge(&waiting, 50 << 20);
        assert!(old.is_evicted() && !young.is_evicted() && !youngest.is_evicted() && !unnamed.is_evicted());
        drop((old, young, youngest));
        assert_eq!(waiting.bytes.load(Ordering::Relaxed), UNNAMED_BYTES_MAX);
        drop(unnamed);
        assert_eq!(waiting.bytes.load(Ordering::Relaxed), 0);
        assert!(waiting.named.lock().places.is_empty());
    }

    #[test]
    fn whoever_takes_it_all_goes_himself() {
        let waiting = Arc::new(Waiting::default());
        let mut greedy = charge(&waiting, UNNAMED_BYTES_MAX + 1);
        greedy.add(BYTES_MAX);
        assert!(greedy.is_evicted());
        // What is released is not given back twice.
        greedy.release();
        assert_eq!(waiting.bytes.load(Ordering::Relaxed), 0);
    }
}
