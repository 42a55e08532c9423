//! `/metrics` in Prometheus' classic text format.

use super::HttpBackend;
use actix_web::http::header;
use actix_web::{HttpResponse, Resource, web};
use std::sync::Arc;

pub(super) fn resource(backend: Arc<dyn HttpBackend>) -> Resource {
    // Any method, as Prometheus' own handler.
    web::resource("/metrics").to(move || {
        let body = backend.metrics();
        async move {
            HttpResponse::Ok()
                .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
                .body(body)
        }
    })
}
