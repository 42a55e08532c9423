//! What the ports answer over HTTP, as actix-web applications: one file for each group of paths.
//!
//! ```text
//!   client.rs    the client port: all of the below behind access.rs, and 404
//!   peer.rs      the peer port: /version, /members, /downgrade/enabled
//!   metrics.rs   /metrics; with health.rs also the application of --listen-metrics-urls
//!   health.rs    /health, /livez, /readyz
//!   debug.rs     /debug/vars
//!   version.rs   /version
//!   gateway/     /v3/…: the JSON gateway
//!   access.rs    CORS, OPTIONS, --host-whitelist
//! ```
//! What they need to know of the member stands in [`HttpBackend`]; they reach no actor by themselves.

mod access;
pub mod client;
pub mod debug;
pub(crate) mod gateway;
pub mod health;
mod metrics;
pub mod peer;
#[cfg(test)]
pub(crate) mod probe;
#[cfg(test)]
mod tests;
pub mod version;

pub use access::Access;
pub use client::{ClientHttp, client_app, metrics_app};
pub use debug::DebugVars;
pub use gateway::Gateway;
pub use health::Consistency;
pub use peer::{PeerHttp, PeerHttpBackend, PeerMember, peer_app};
pub use version::VersionInfo;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpResponse, Resource, web};
use castd_proto::etcdserverpb::AlarmType;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// What the client port's HTTP may ask the member.
pub trait HttpBackend: Send + Sync + 'static {
    fn version(&self) -> VersionInfo;
    /// The alarms that are raised, of any member.
    fn alarms(&self) -> Vec<AlarmType>;
    fn has_leader(&self) -> bool;
    /// Whether this member is a learner.
    fn is_learner(&self) -> bool;
    /// Reads one key, without permission checks, as a client's Range would. The error is the text a client would get.
    fn read_one_key(&self, consistency: Consistency) -> BoxFuture<'static, Result<(), String>>;
    /// Counts one answer of `/health` (`etcd_server_health_success`, `etcd_server_health_failures`).
    fn count_health_check(&self, healthy: bool);
    /// Counts one check of `/livez` or `/readyz` (`etcd_server_healthcheck`, `etcd_server_healthchecks_total`).
    fn count_check(&self, kind: &str, name: &str, healthy: bool);
    /// What `/debug/vars` shows.
    fn debug_vars(&self) -> DebugVars;
    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// An application, built once for each thread that serves it.
#[derive(Clone)]
pub struct HttpApp(Arc<dyn Fn(&mut web::ServiceConfig) + Send + Sync>);

impl HttpApp {
    pub fn new(configure: impl Fn(&mut web::ServiceConfig) + Send + Sync + 'static) -> HttpApp {
        HttpApp(Arc::new(configure))
    }

    pub fn configure(&self, services: &mut web::ServiceConfig) {
        (self.0)(services);
    }
}

impl fmt::Debug for HttpApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpApp")
    }
}

/// A path that answers GET only: all else, HEAD too, is 405.
fn get_only(path: &str, get: actix_web::Route) -> Resource {
    web::resource(path).route(get).default_service(web::to(method_not_allowed))
}

async fn method_not_allowed() -> HttpResponse {
    let mut response = plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
    response
}

async fn not_found() -> HttpResponse {
    plain_error(StatusCode::NOT_FOUND, "404 page not found")
}

/// An error as Go's `http.Error` writes it.
fn plain_error(status: StatusCode, text: impl fmt::Display) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header(ContentType::plaintext())
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(format!("{text}\n"))
}

/// JSON without a line break at its end, as etcd answers.
fn json(status: StatusCode, value: &impl serde::Serialize) -> HttpResponse {
    match serde_json::to_vec(value) {
        Ok(body) => HttpResponse::build(status).insert_header((header::CONTENT_TYPE, "application/json")).body(body),
        Err(error) => plain_error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
