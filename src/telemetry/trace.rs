//! One trace per request, across every actor, sent to an OTLP collector.
//!
//! ```text
//!   client ──traceparent──▶ edge: Tracer::root("KV/Put") ─┐ span.context() travels in the message
//!            RaftNode: context.child("RaftNode") ◀────────┤
//!            LogWriter: context.record("LogWriter", …) ◀──┤
//!            Applier: context.child("Applier") ◀──────────┘
//!   every span, when it ends ─▶ bounded queue ─▶ thread, batches ─▶ thread "trace-export" ─▶ collector
//! ```
//! A [`SpanContext`] is one pointer, null for a request that nobody traces: then every call here is a test for null.
//! When the queue is full or the collector is away, spans are dropped; requests never wait.
//!
//! The OpenTelemetry API is used as it is. Its thread-local "current span" and the `tracing` macros are not: a request
//! crosses threads with every hop, so its context goes where it goes, inside the message.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use slog::Logger;
use tokio::sync::oneshot;

const TRACEPARENT: &str = "traceparent";
/// What `--distributed-tracing-sampling-rate` counts in.
const MILLION: u32 = 1_000_000;
const SPANS_QUEUED_MAX: usize = 16_384;
const BATCH_DELAY: Duration = Duration::from_secs(1);
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// Short: an absent collector must not hold up a restart.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// The `--distributed-tracing-*` flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    pub enabled: bool,
    /// Host and port of the collector, reached without TLS.
    pub address: String,
    pub service_name: String,
    /// Left out of the resource when empty.
    pub instance_id: String,
    /// How many of a million requests without a parent are sampled; with a parent, the parent decides.
    pub sampling_rate_per_million: u32,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            address: "localhost:4317".to_owned(),
            service_name: "etcd".to_owned(),
            instance_id: String::new(),
            sampling_rate_per_million: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("distributed tracing sampling rate must be between 0 and 1000000, got {0}")]
    SamplingRate(u32),
    #[error("distributed tracing address {address:?}: {source}")]
    Address { address: String, source: opentelemetry_otlp::ExporterBuildError },
    #[error("start the trace exporter: {0}")]
    Thread(#[source] std::io::Error),
}

/// The way out for spans. `main` keeps it and calls [`Tracing::shutdown`]; everybody else gets a [`Tracer`].
#[must_use = "dropping it ends tracing without sending what is queued"]
pub struct Tracing {
    tracer: Tracer,
    running: Option<Running>,
}

struct Running {
    provider: SdkTracerProvider,
    stop: oneshot::Sender<()>,
    runtime: JoinHandle<()>,
}

impl Tracing {
    /// Tracing that records nothing.
    pub fn off() -> Self {
        Self { tracer: Tracer::default(), running: None }
    }

    /// Starts exporting if the settings say so. The collector need not be there yet; when it cannot be reached, and when
    /// it can again, `logger` is told once.
    ///
    /// # Errors
    /// [`TraceError`] for settings that cannot work, or when the machine gives no thread.
    pub fn start(settings: &TraceSettings, logger: &Logger) -> Result<Self, TraceError> {
        if settings.sampling_rate_per_million > MILLION {
            return Err(TraceError::SamplingRate(settings.sampling_rate_per_million));
        }
        if !settings.enabled {
            return Ok(Self::off());
        }

        // The exporter's connection lives on a runtime of its own, so that a busy server cannot starve it nor be
        // starved by it; encoding happens on the batch processor's thread.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TraceError::Thread)?;
        let exporter = {
            let _inside = runtime.enter();
            opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint(&settings.address))
                .with_timeout(EXPORT_LIMIT)
                .build()
                .map_err(|source| TraceError::Address { address: settings.address.clone(), source })?
        };
        let (stop, stopped) = oneshot::channel();
        let runtime = std::thread::Builder::new()
            .name("trace-export".to_owned())
            .spawn(move || {
                // An error means that the sender is gone, which says the same.
                let _ = runtime.block_on(stopped);
            })
            .map_err(TraceError::Thread)?;

        let exporter = Reporting { exporter, logger: logger.clone(), failing: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_QUEUED_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let ratio = f64::from(settings.sampling_rate_per_million) / f64::from(MILLION);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(settings))
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .build();
        let source = Source {
            tracer: provider.tracer("castd"),
            starts_traces: settings.sampling_rate_per_million > 0,
            propagator: TraceContextPropagator::new(),
        };
        Ok(Self { tracer: Tracer(Some(Arc::new(source))), running: Some(Running { provider, stop, runtime }) })
    }

    #[must_use]
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends what is queued, waiting two seconds at most. Spans that end later are dropped. Blocks: not for async code.
    pub fn shutdown(self) {
        if let Some(Running { provider, stop, runtime }) = self.running {
            // Failed exports were reported one by one; there is nothing more to do about them.
            let _ = provider.shutdown_with_timeout(SHUTDOWN_LIMIT);
            drop(stop);
            let _ = runtime.join();
        }
    }
}

fn endpoint(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

fn resource(settings: &TraceSettings) -> Resource {
    let mut attributes = vec![KeyValue::new("service.name", settings.service_name.clone())];
    if !settings.instance_id.is_empty() {
        attributes.push(KeyValue::new("service.instance.id", settings.instance_id.clone()));
    }
    Resource::builder_empty().with_attributes(attributes).build()
}

/// Tells the log when the collector goes away and when it is back, not once a batch.
#[derive(Debug)]
struct Reporting {
    exporter: opentelemetry_otlp::SpanExporter,
    logger: Logger,
    failing: AtomicBool,
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => {
                slog::warn!(self.logger, "failed to export traces"; "error" => %error);
            }
            Ok(()) if was_failing => slog::info!(self.logger, "exporting traces again"),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Starts the first span of a request. The default one starts none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Source>>);

struct Source {
    tracer: SdkTracer,
    /// Whether a request without a sampled parent may become a trace.
    starts_traces: bool,
    propagator: TraceContextPropagator,
}

impl Tracer {
    /// The server's span of a request that arrived with `headers` (tonic: `metadata.as_ref()`). Records nothing unless the
    /// `traceparent` among them is sampled, or there is none and the sampling rate hits.
    pub fn root(&self, name: impl Into<Cow<'static, str>>, headers: &HeaderMap) -> Span {
        let Some(source) = &self.0 else { return Span::default() };
        let parent = if headers.contains_key(TRACEPARENT) {
            source.propagator.extract_with_context(&Context::new(), &Headers(headers))
        } else {
            Context::new()
        };
        let remote = parent.span().span_context().clone();
        let wanted = if remote.is_valid() { remote.is_sampled() } else { source.starts_traces };
        if !wanted {
            return Span::default();
        }
        Span::start(source, SpanBuilder::from_name(name).with_kind(SpanKind::Server), &parent)
    }

    /// Continues a trace of another member, which sent [`SpanContext::traceparent`] along with its message.
    #[must_use]
    pub fn resume(&self, traceparent: &str) -> SpanContext {
        let Some(source) = &self.0 else { return SpanContext::default() };
        let parent = source.propagator.extract_with_context(&Context::new(), &Traceparent(traceparent));
        if parent.span().span_context().is_sampled() {
            SpanContext(Some(Arc::new(Sampled { source: Arc::clone(source), parent })))
        } else {
            SpanContext::default()
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracer(on)" } else { "Tracer(off)" })
    }
}

/// Where in which trace a message belongs. Every request message carries one; the default belongs to none.
#[derive(Clone, Default)]
pub struct SpanContext(Option<Arc<Sampled>>);

const _: () = assert!(size_of::<SpanContext>() == size_of::<usize>());

struct Sampled {
    source: Arc<Source>,
    /// Holds nothing but the ids of the span this context stands for.
    parent: Context,
}

impl SpanContext {
    /// Whether the request is traced: worth asking before an attribute is computed.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.is_some()
    }

    /// A span of one hop, from now until it is dropped.
    pub fn child(&self, name: &'static str) -> Span {
        match &self.0 {
            Some(sampled) => Span::start(&sampled.source, SpanBuilder::from_name(name), &sampled.parent),
            None => Span::default(),
        }
    }

    /// A span that is already over: for actors that handle many requests in one go and know the times afterwards.
    pub fn record(&self, name: &'static str, start: SystemTime, end: SystemTime) {
        if let Some(sampled) = &self.0 {
            let builder = SpanBuilder::from_name(name).with_start_time(start);
            sampled.source.tracer.build_with_context(builder, &sampled.parent).end_with_timestamp(end);
        }
    }

    /// This context as W3C text, for a message to another member.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let sampled = self.0.as_ref()?;
        let mut traceparent = Traceparent(String::new());
        sampled.source.propagator.inject_context(&sampled.parent, &mut traceparent);
        Some(traceparent.0)
    }

    /// Adds `traceparent` and `tracestate` to the headers of a request to another member.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some(sampled) = &self.0 {
            sampled.source.propagator.inject_context(&sampled.parent, &mut Headers(headers));
        }
    }
}

impl fmt::Debug for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.traceparent() {
            Some(traceparent) => write!(f, "SpanContext({traceparent})"),
            None => f.write_str("SpanContext(none)"),
        }
    }
}

/// One hop of one request. Ends when dropped; does nothing if the request is not traced.
#[derive(Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Recording>>);

struct Recording {
    span: opentelemetry_sdk::trace::Span,
    context: SpanContext,
}

impl Span {
    fn start(source: &Arc<Source>, builder: SpanBuilder, parent: &Context) -> Self {
        let span = source.tracer.build_with_context(builder, parent);
        if !span.is_recording() {
            return Self::default();
        }
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        let context = SpanContext(Some(Arc::new(Sampled { source: Arc::clone(source), parent })));
        Self(Some(Box::new(Recording { span, context })))
    }

    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// What the messages caused by this hop carry.
    #[must_use]
    pub fn context(&self) -> SpanContext {
        self.0.as_ref().map_or_else(SpanContext::default, |recording| recording.context.clone())
    }

    pub fn attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attribute_with(key, || value);
    }

    /// Like [`Span::attribute`], for values that cost something: computed only if the span records.
    pub fn attribute_with<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(recording) = &mut self.0 {
            recording.span.set_attribute(KeyValue::new(key, value().into()));
        }
    }

    /// Marks the hop as failed.
    pub fn error(&mut self, text: impl Into<Cow<'static, str>>) {
        if let Some(recording) = &mut self.0 {
            recording.span.set_status(Status::error(text));
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.context()).finish()
    }
}

/// Headers as the propagator wants to see them.
struct Headers<H>(H);

impl Extractor for Headers<&HeaderMap> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Injector for Headers<&mut HeaderMap> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}

/// A `traceparent` on its own.
struct Traceparent<T>(T);

impl Extractor for Traceparent<&str> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Injector for Traceparent<String> {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = value;
        }
    }
}

#[cfg(test)]
mod tests;
