//! What running servers must not take from each other: the machine's time, and ports.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};

/// Tests that may have servers running at once.
const PLACES: usize = 4;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The right to run servers. A test takes one, at its start, however many servers it needs.
pub struct Place(());

impl Place {
    pub fn take() -> Place {
        // A test that failed while it held the lock has not broken a number.
        let mut taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while *taken == PLACES {
            taken = FREED.wait(taken).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *taken += 1;
        Place(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        FREED.notify_one();
    }
}

/// Below the range from which the kernel takes the ports of outgoing connections (32768 and up): a port that is free
/// while its server restarts must not become the source port of somebody's client.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port that nobody listens on and that this process has not given out before.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test binaries that run side by side start at different places.
    let next = NEXT.get_or_init(|| AtomicU16::new((std::process::id() % 200 * 100) as u16));
    for _ in PORTS {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}
