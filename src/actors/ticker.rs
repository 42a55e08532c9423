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

/// When each listener is to be told next.
struct Schedule {
    listeners: Vec<Listener>,
    due: Vec<Duration>,
}

impl Schedule {
    fn new(now: Duration, listeners: Vec<Listener>) -> Self {
        let due = listeners.iter().map(|listener| now + listener.every).collect();
        Schedule { listeners, due }
    }

    fn step(&self) -> Duration {
        self.listeners.iter().map(|listener| listener.every).min().unwrap_or(Duration::from_secs(1))
    }

    fn tell(&mut self, now: Duration) {
        for (listener, due) in self.listeners.iter().zip(&mut self.due) {
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
}

/// Stops the ticks when dropped.
pub struct Ticker {
    stopped: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(clock: Clock, listeners: Vec<Listener>) -> std::io::Result<Ticker> {
        let (ticker, stopped) = Ticker::new();
        std::thread::Builder::new().name("ticker".into()).spawn(move || {
            let mut schedule = Schedule::new(clock.now(), listeners);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(schedule.step());
                schedule.tell(clock.now());
            }
        })?;
        Ok(ticker)
    }

    /// As a task of the caller's thread, by tokio's time: where that is paused, ticks come as soon as nothing else is to do.
    pub fn start_here(clock: Clock, listeners: Vec<Listener>) -> Ticker {
        let (ticker, stopped) = Ticker::new();
        actix::spawn(async move {
            let mut schedule = Schedule::new(clock.now(), listeners);
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(schedule.step()).await;
                schedule.tell(clock.now());
            }
        });
        ticker
    }

    fn new() -> (Ticker, Arc<AtomicBool>) {
        let stopped = Arc::new(AtomicBool::new(false));
        (Ticker { stopped: Arc::clone(&stopped) }, stopped)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
