//! Watchers that write down what they are told, and go on elsewhere when their member goes away, or just so.

use crate::clients::{Connection, Shared, pair};
use castd_judge::history::{Event, Told, Watch};
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A watcher asks how far it is after so long without news, and gives its member up after twice that.
const QUIET: Duration = Duration::from_millis(700);

/// What a watcher wants.
#[derive(Clone, Debug)]
pub struct Wish {
    pub prefix: &'static str,
    pub wants_previous: bool,
}

/// Watches until it has been told everything up to `until`, once that is known. Its place is published: below it nothing is
/// needed any more.
pub async fn run(
    shared: Shared,
    watcher: usize,
    wish: Wish,
    seed: u64,
    place: Arc<AtomicI64>,
    until: Arc<AtomicI64>,
) -> Vec<Watch> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut connection = Connection::new(&shared, seed);
    let mut watches = Vec::new();
    let mut start = 2;
    loop {
        let mut watch = Watch {
            watcher,
            prefix: wish.prefix.to_owned(),
            start,
            wants_previous: wish.wants_previous,
            told: Vec::new(),
        };
        // Some lives are short.
        let patience = if rng.random_range(0..3) == 0 { rng.random_range(1..40) } else { 2_000 };
        listen(&shared, &mut connection, &mut watch, patience, &place, &until).await;
        start = watch.next_start();
        watches.push(watch);
        connection.leave();
        if start > until.load(Ordering::Relaxed) {
            return watches;
        }
    }
}

/// One life: until the connection ends, `responses_max` have come, or everything has.
async fn listen(
    shared: &Shared,
    connection: &mut Connection,
    watch: &mut Watch,
    responses_max: usize,
    place: &AtomicI64,
    until: &AtomicI64,
) {
    let mut options = WatchOptions::new().with_start_revision(watch.start);
    options = if watch.prefix.is_empty() { options.with_all_keys() } else { options.with_prefix() };
    if watch.wants_previous {
        options = options.with_prev_key();
    }
    let mut client = connection.client().await;
    let opened = tokio::time::timeout(QUIET * 2, client.watch(watch.prefix.as_str(), Some(options))).await;
    let Ok(Ok(mut stream)) = opened else { return connection.give_up().await };
    let mut is_quiet = false;
    while watch.told.len() < responses_max && watch.next_start() <= until.load(Ordering::Relaxed) {
        match tokio::time::timeout(QUIET, stream.message()).await {
            Ok(Ok(Some(response))) => {
                is_quiet = false;
                let is_over = response.canceled();
                watch.told.extend(told(&response).map(|told| (shared.now(), told)));
                place.store(watch.next_start(), Ordering::Relaxed);
                if is_over {
                    return;
                }
                if watch.told.len().is_multiple_of(16) {
                    ask_progress(&mut stream).await;
                }
            }
            Ok(Ok(None) | Err(_)) => return,
            Err(_) if is_quiet => return,
            Err(_) => {
                is_quiet = true;
                ask_progress(&mut stream).await;
            }
        }
    }
}

async fn ask_progress(stream: &mut WatchStream) {
    // A stream that has ended says so itself.
    let _ = tokio::time::timeout(QUIET, stream.request_progress()).await;
}

fn told(response: &WatchResponse) -> Option<Told> {
    if response.canceled() {
        return (response.compact_revision() > 0).then(|| Told::Compacted(response.compact_revision()));
    }
    if response.created() {
        return None;
    }
    if response.events().is_empty() {
        return Some(Told::Progress(response.header().map_or(0, etcd_client::ResponseHeader::revision)));
    }
    let events = response.events().iter().map(|event| {
        let kv = event.kv().map(pair).expect("an event has a pair");
        let revision = kv.modified;
        let previous = event.prev_kv().map(pair);
        match event.event_type() {
            EventType::Put => (revision, Event::Put(kv), previous),
            EventType::Delete => (revision, Event::Delete { key: kv.key }, previous),
        }
    });
    Some(Told::Events(events.collect()))
}
