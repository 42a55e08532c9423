//! HTTP headers → what the gRPC call gets of them, as etcd's gateway maps them.
//!
//! ```text
//!   Authorization                      authorization
//!   Grpc-Metadata-<name>               <name>
//!   Accept, Cookie, User-Agent, …      grpcgateway-<name>
//!   traceparent, tracestate            the same
//!   Grpc-Timeout: 500m                 the deadline of the call
//! ```

use actix_web::http::header::{self, HeaderMap};
use http::{HeaderName, HeaderValue};
use std::time::Duration;
use tonic::Status;
use tonic::metadata::MetadataMap;

const METADATA_PREFIX: &str = "grpc-metadata-";
/// What HTTP itself knows; arrives with a prefix, so that a service can tell that a gateway was asked.
const PERMANENT: [&str; 24] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];
/// What clients must not say of a call: gRPC says it.
const RESERVED: [&str; 3] = ["content-type", "te", "user-agent"];

/// What the headers of a request say of the call.
#[derive(Debug, Default)]
pub struct Caller {
    pub metadata: MetadataMap,
    pub timeout: Option<Duration>,
}

impl Caller {
    /// # Errors
    /// When there is a Grpc-Timeout that is none.
    pub fn of(headers: &HeaderMap) -> Result<Caller, Status> {
        let mut metadata = http::HeaderMap::new();
        for (name, value) in headers {
            let name = name.as_str();
            // Metadata is visible ASCII, as header values mostly are.
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
            let mut forward = |name: &str, value: &HeaderValue| {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    metadata.append(name, value.clone());
                }
            };
            if matches!(name, "authorization" | "traceparent" | "tracestate") {
                forward(name, &value);
            }
            if PERMANENT.contains(&name) {
                forward(&format!("grpcgateway-{name}"), &value);
            } else if let Some(name) = name.strip_prefix(METADATA_PREFIX)
                && !name.starts_with("grpc-")
                && !RESERVED.contains(&name)
            {
                forward(name, &value);
            }
        }
        let timeout = headers.get("grpc-timeout").map(|value| value.to_str().unwrap_or_default());
        let timeout = timeout.map(|text| {
            timeout_of(text).ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text:?}")))
        });
        Ok(Caller { metadata: MetadataMap::from_headers(metadata), timeout: timeout.transpose()? })
    }

    /// As [`Caller::of`], and the token of a WebSocket's handshake: browsers cannot send headers with one.
    ///
    /// # Errors
    /// As [`Caller::of`].
    pub fn of_websocket(headers: &HeaderMap) -> Result<Caller, Status> {
        let mut caller = Caller::of(headers)?;
        let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let offered = bearer_protocol(headers).map(str::to_owned);
        let of_cookie = || {
            let cookies = text(header::COOKIE)?.split(';');
            cookies.map(str::trim).find_map(|cookie| cookie.strip_prefix("token=")).map(str::to_owned)
        };
        if let Some(token) = offered.or_else(of_cookie)
            && let Ok(value) = format!("Bearer {token}").parse()
        {
            caller.metadata.insert("authorization", value);
        }
        Ok(caller)
    }
}

/// The token in `Sec-WebSocket-Protocol: Bearer, <token>`.
pub fn bearer_protocol(headers: &HeaderMap) -> Option<&str> {
    let (kind, token) = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.split_once(',')?;
    (kind.trim() == "Bearer").then_some(token.trim())
}

/// As gRPC writes it: at most eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let request = list.iter().fold(TestRequest::default(), |request, header| request.append_header(*header));
        request.to_http_request().headers().clone()
    }

    fn get<'a>(caller: &'a Caller, name: &str) -> Option<&'a str> {
        caller.metadata.get(name).and_then(|value| value.to_str().ok())
    }

    #[test]
    fn headers_become_metadata_as_in_etcds_gateway() {
        let caller = Caller::of(&headers(&[
            ("Authorization", "abc"),
            ("Grpc-Metadata-HasLeader", "true"),
            ("Grpc-Metadata-Token", "t"),
            ("Accept", "*/*"),
            ("traceparent", "00-1-2-01"),
            ("X-Other", "no"),
        ]));
        let caller = caller.unwrap();
        assert_eq!(get(&caller, "authorization"), Some("abc"));
        assert_eq!(get(&caller, "grpcgateway-authorization"), Some("abc"));
        assert_eq!(get(&caller, "hasleader"), Some("true"));
        assert_eq!(get(&caller, "token"), Some("t"));
        assert_eq!(get(&caller, "grpcgateway-accept"), Some("*/*"));
        assert_eq!(get(&caller, "traceparent"), Some("00-1-2-01"));
        assert_eq!(caller.metadata.len(), 6);
        assert_eq!(caller.timeout, None);
    }

    #[test]
    fn what_grpc_says_itself_cannot_be_said_for_it() {
        let caller = Caller::of(&headers(&[
            ("Grpc-Metadata-Grpc-Encoding", "gzip"),
            ("Grpc-Metadata-TE", "x"),
            ("Grpc-Metadata-Content-Type", "text/html"),
            ("Grpc-Metadata-", "empty"),
        ]));
        assert!(caller.unwrap().metadata.is_empty());
    }

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        let timeout = |text| Caller::of(&headers(&[("Grpc-Timeout", text)])).map(|caller| caller.timeout);
        assert_eq!(timeout("2S").unwrap(), Some(Duration::from_secs(2)));
        assert_eq!(timeout("150m").unwrap(), Some(Duration::from_millis(150)));
        assert_eq!(timeout("99999999H").unwrap(), Some(Duration::from_secs(99_999_999 * 3_600)));
        for wrong in ["", "1", "S", "-1S", "1s", "999999999S", "1é"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_websocket_brings_its_token_as_a_protocol_or_a_cookie() {
        let token = |list: &[_]| {
            Caller::of_websocket(&headers(list)).map(|caller| get(&caller, "authorization").map(str::to_owned))
        };
        let bearer = Some("Bearer abc".to_owned());
        assert_eq!(token(&[("Sec-WebSocket-Protocol", "Bearer, abc")]).unwrap(), bearer);
        assert_eq!(token(&[("Cookie", "a=b; token=abc")]).unwrap(), bearer);
        assert_eq!(token(&[("Sec-WebSocket-Protocol", "chat")]).unwrap(), None);
    }
}
