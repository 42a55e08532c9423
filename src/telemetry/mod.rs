//! What operators see of a running member: its logs, its traces, its metrics; and the clock the shells read.
//!
//! ```text
//!   slog::Logger ─┐
//!   log crate    ─┼─▶ log: level ▸ sampling ▸ one line ▸ queue ─▶ thread "log" ─▶ stderr, files, journal
//!   tracing      ─┘
//!   SpanContext in every request message ─▶ trace: batches ─▶ thread "trace-export" ─▶ OTLP collector
//!   counters bumped in place ─▶ metrics: rendered when /metrics is read
//! ```
//! Nothing here takes part in a decision of the server, and nothing here may slow one down: a request pays for an
//! atomic addition, and for a span only if its caller asked for a trace.

pub mod clock;
pub mod log;
pub mod metrics;
pub mod request_text;
pub mod trace;
