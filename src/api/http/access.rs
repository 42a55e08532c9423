//! What stands before every HTTP request of the client port: `--host-whitelist`, `--cors`, and OPTIONS.
//!
//! The list of hosts guards browsers against DNS rebinding (CVE-2018-5702), and only where there is no TLS.

use super::plain_error;
use actix_web::Error;
use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use slog::{Logger, warn};
use std::collections::BTreeSet;

/// Who may ask. An empty set, or one with `*`, allows everybody.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `--cors`: origins.
    pub origins: BTreeSet<String>,
    /// `--host-whitelist`: host names without ports.
    pub hosts: BTreeSet<String>,
}

fn allows_all(set: &BTreeSet<String>) -> bool {
    set.is_empty() || set.contains("*")
}

/// `localhost` of `localhost:2379`, `::1` of `[::1]:2379`.
fn host_without_port(host: &str) -> &str {
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.split_once(']').map_or(bracketed, |(host, _)| host);
    }
    host.split_once(':').map_or(host, |(host, _)| host)
}

impl Access {
    fn allows_host(&self, host: &str) -> bool {
        allows_all(&self.hosts) || self.hosts.contains(host)
    }

    /// The value of Access-Control-Allow-Origin, if the headers may be sent at all.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if allows_all(&self.origins) {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(header::ORIGIN)?;
        origin.to_str().is_ok_and(|origin| self.origins.contains(origin)).then(|| origin.clone())
    }

    pub(super) async fn guard(
        &self,
        log: &Logger,
        request: ServiceRequest,
        next: Next<impl MessageBody + 'static>,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host_without_port(named);
        if !request.app_config().secure() && !self.allows_host(host) {
            warn!(log, "rejecting HTTP request to prevent DNS rebinding attacks"; "host" => host);
            let refused = plain_error(
                StatusCode::MISDIRECTED_REQUEST,
                format_args!(
                    "the Host header names {host:?}, which this member does not know (CVE-2018-5702).\n\
                     Use TLS, or allow the name with --host-whitelist {host:?}."
                ),
            );
            return Ok(request.into_response(refused));
        }
        let origin = self.allowed_origin(request.headers());
        let mut response = if request.method() == Method::OPTIONS {
            request.into_response(HttpResponse::Ok().finish())
        } else {
            next.call(request).await?.map_into_boxed_body()
        };
        if let Some(origin) = origin {
            let headers = response.headers_mut();
            let mut set = |name: HeaderName, value: HeaderValue| drop(headers.insert(name, value));
            set(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_its_port() {
        assert_eq!(host_without_port("localhost:2379"), "localhost");
        assert_eq!(host_without_port("[::1]:2379"), "::1");
        assert_eq!(host_without_port("db.example.com"), "db.example.com");
    }

    #[test]
    fn only_listed_origins_are_echoed() {
        let access = Access { origins: BTreeSet::from(["https://a.example".to_owned()]), ..Access::default() };
        let mut headers = HeaderMap::new();
        assert_eq!(access.allowed_origin(&headers), None);
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://b.example"));
        assert_eq!(access.allowed_origin(&headers), None);
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://a.example"));
        assert_eq!(access.allowed_origin(&headers), Some(HeaderValue::from_static("https://a.example")));
        assert_eq!(Access::default().allowed_origin(&HeaderMap::new()), Some(HeaderValue::from_static("*")));
    }
}
