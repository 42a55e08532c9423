//! The HTTP of the client port, and that of `--listen-metrics-urls`, which is a part of it.

use super::gateway::{self, Gateway};
use super::health::{self, Health};
use super::{Access, HttpApp, HttpBackend, debug, metrics, not_found, version};
use actix_web::dev::ServiceRequest;
use actix_web::middleware::{Next, from_fn};
use actix_web::web;
use slog::Logger;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub struct ClientHttp {
    pub backend: Arc<dyn HttpBackend>,
    pub access: Access,
    /// For the read of a health check: etcd's is 5 s and twice the election timeout.
    pub read_timeout: Duration,
    /// None with `--enable-grpc-gateway=false`: its paths are not found then.
    pub gateway: Option<Gateway>,
    pub log: Logger,
}

impl ClientHttp {
    fn health(&self) -> Health {
        Health { backend: self.backend.clone(), read_timeout: self.read_timeout, log: self.log.clone() }
    }
}

pub fn client_app(http: ClientHttp) -> HttpApp {
    let access = Arc::new(http.access.clone());
    HttpApp::new(move |services| {
        let (access, log) = (access.clone(), http.log.clone());
        let guard = from_fn(move |request: ServiceRequest, next: Next<_>| {
            let (access, log) = (access.clone(), log.clone());
            async move { access.guard(&log, request, next).await }
        });
        let backend = http.backend.clone();
        let everything = web::scope("")
            .wrap(guard)
            .service(version::resource(Arc::new(move || backend.version())))
            .service(metrics::resource(http.backend.clone()))
            .service(debug::resource(http.backend.clone()))
            .configure(|services| health::configure(services, &http.health()))
            .configure(|services| http.gateway.iter().for_each(|gateway| gateway::configure(services, gateway)))
            .default_service(web::to(not_found));
        services.service(everything);
    })
}

/// `/metrics` and health, nothing else: the application of `--listen-metrics-urls`.
pub fn metrics_app(http: ClientHttp) -> HttpApp {
    HttpApp::new(move |services| {
        services.service(metrics::resource(http.backend.clone()));
        health::configure(services, &http.health());
        services.default_service(web::to(not_found));
    })
}
