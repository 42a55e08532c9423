//! Brings in what libraries log through `log` (raft-engine, actix) and through `tracing` (tonic, h2, hyper).
//!
//! Both interfaces are global to the process and can be claimed once; whoever claims them later is ignored, and the
//! lines go to the logger that was installed last. `tracing` spans are not taken: our spans have their own way out, see
//! `telemetry::trace`.

use std::fmt;

use slog::{BorrowedKV, KV, Key, Level, Logger, Record, RecordLocation, RecordStatic, SingleKV};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Crates whose info lines are about single connections and frames.
const CHATTY: [&str; 7] = ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls", "opentelemetry"];

/// Sends the lines of libraries to `logger`, which lets through `level` and above.
pub(super) fn install(logger: &Logger, level: Level) {
    // Without the guard's reset, which would make a late line of a library panic.
    slog_scope::set_global_logger(logger.clone()).cancel_reset();
    let _ = slog_stdlog::init();
    log::set_max_level(match level {
        Level::Critical | Level::Error => log::LevelFilter::Error,
        Level::Warning => log::LevelFilter::Warn,
        Level::Info => log::LevelFilter::Info,
        Level::Debug => log::LevelFilter::Debug,
        Level::Trace => log::LevelFilter::Trace,
    });
    let layer = SlogLayer { level: as_tracing_filter(level) };
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

fn as_tracing_filter(level: Level) -> LevelFilter {
    match level {
        Level::Critical | Level::Error => LevelFilter::ERROR,
        Level::Warning => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

struct SlogLayer {
    level: LevelFilter,
}

impl SlogLayer {
    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        let limit = if CHATTY.contains(&root) { self.level.min(LevelFilter::WARN) } else { self.level };
        metadata.is_event() && *metadata.level() <= limit
    }
}

impl<S: Subscriber> Layer<S> for SlogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.takes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.takes(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        slog_scope::with_logger(|logger| forward(event, logger));
    }
}

fn forward(event: &Event<'_>, logger: &Logger) {
    let metadata: &'static Metadata<'static> = event.metadata();
    let level = match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    };
    let location = RecordLocation {
        file: metadata.file().unwrap_or_else(|| metadata.target()),
        line: metadata.line().unwrap_or_default(),
        column: 0,
        function: "",
        module: metadata.module_path().unwrap_or_else(|| metadata.target()),
    };
    let mut fields = EventFields::default();
    event.record(&mut fields);
    let record = RecordStatic { location: &location, level, tag: metadata.target() };
    logger.log(&Record::new(&record, &format_args!("{}", fields.message), BorrowedKV(&fields)));
}

#[derive(Default)]
struct EventFields {
    message: String,
    others: Vec<(Key, String)>,
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.others.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.others.push((name, format!("{value:?}"))),
        }
    }
}

impl KV for EventFields {
    /// Last one first, as slog's own lists do.
    fn serialize(&self, record: &Record<'_>, serializer: &mut dyn slog::Serializer) -> slog::Result {
        self.others
            .iter()
            .rev()
            .try_for_each(|(key, value)| SingleKV(key, value.as_str()).serialize(record, serializer))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use slog::{Drain, Never, OwnedKVList};

    use super::*;

    /// Keeps `level message key=value…` of every record.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Drain for Kept {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            struct Text(String);
            impl slog::Serializer for Text {
                fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
                    self.0.push_str(&format!(" {key}={value}"));
                    Ok(())
                }
            }
            let mut text = Text(format!("{} {}", record.level().as_short_str(), record.msg()));
            record.kv().serialize(record, &mut text).expect("fields");
            self.0.lock().expect("lines").push(text.0);
            Ok(())
        }
    }

    #[test]
    fn events_of_libraries_arrive_with_their_fields_and_chatty_ones_from_warn_on() {
        let kept = Kept::default();
        let logger = Logger::root(kept.clone(), slog::o!());
        // Scoped to this thread, so that other tests may claim the global interfaces.
        let layer = SlogLayer { level: as_tracing_filter(Level::Info) };
        slog_scope::scope(&logger, || {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::info!(target: "actix_server", workers = 2, name = "a", "starting {}", "service");
                tracing::debug!(target: "actix_server", "below the level");
                tracing::info!(target: "h2::codec", "frame");
                tracing::warn!(target: "h2::codec", "reset");
            });
        });
        assert_eq!(*kept.0.lock().expect("lines"), ["INFO starting service name=a workers=2", "WARN reset"]);
    }
}
