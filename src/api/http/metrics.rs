//! `/metrics` in Prometheus' classic text format, compressed for those who can read that, as Prometheus itself.
//!
//! OpenMetrics is not spoken: it would rename counters (`etcd_server_health_success_total`), and whoever asks for it
//! accepts the classic format, too.

use super::HttpBackend;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Resource, web};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;
use std::sync::Arc;

pub(super) fn resource(backend: Arc<dyn HttpBackend>) -> Resource {
    // Any method, as Prometheus' own handler.
    web::resource("/metrics").to(move |request: HttpRequest| {
        let page = backend.metrics();
        let packed = takes_gzip(&request).then(|| gzip(page.as_bytes()).ok()).flatten();
        async move {
            let mut response = HttpResponse::Ok();
            response.insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"));
            match packed {
                Some(packed) => response.insert_header((header::CONTENT_ENCODING, "gzip")).body(packed),
                None => response.body(page),
            }
        }
    })
}

/// As promhttp looks at it: named, whatever its weight.
fn takes_gzip(request: &HttpRequest) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|part| part.split(';').next().is_some_and(|it| it.trim() == "gzip"))
}

fn gzip(page: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(page)?;
    encoder.finish()
}
