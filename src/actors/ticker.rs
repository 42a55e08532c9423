//! Time as mail: a thread that sends [`Tick`] to whoever keeps time.
//!
//! Not an actor: it owns nothing and understands no message. A late thread sends the ticks that it missed, up to a limit,
//! so that a paused process does not run through a storm of time-outs when it wakes.

use crate::actors::Tick;
use crate::telemetry::clock::Clock;
use actix::Recipient;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Missed ticks that are made up for at once.
const CATCH_UP_MAX: u32 = 10;

/// Who is told, and how often.
pub struct Listener {
    pub recipient: Recipient<Tick>,
    pub every: Duration,
}

/// Stops the thread when dropped.
pub struct Ticker {
    stopped: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(clock: Clock, listeners: Vec<Listener>) -> std::io::Result<Ticker> {
        let stopped = Arc::new(AtomicBool::new(false));
        let ticker = Ticker { stopped: Arc::clone(&stopped) };
        let step = listeners.iter().map(|listener| listener.every).min().unwrap_or(Duration::from_secs(1));
        std::thread::Builder::new().name("ticker".into()).spawn(move || {
            let start = clock.now();
            let mut due: Vec<Duration> = listeners.iter().map(|listener| start + listener.every).collect();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(step);
                let now = clock.now();
                for (listener, due) in listeners.iter().zip(&mut due) {
                    let mut sent = 0;
                    while *due <= now {
                        if sent < CATCH_UP_MAX {
                            listener.recipient.do_send(Tick { now });
                            sent += 1;
                        }
                        *due += listener.every;
                    }
                }
            }
        })?;
        Ok(ticker)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
