//! Watches: what a watcher is told, what the stream says about watchers, and many of both.

mod events;
mod many;
mod progress;
mod stream;
