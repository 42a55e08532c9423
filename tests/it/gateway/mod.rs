//! The JSON gateway, over HTTP/1.1 and HTTP/2.

mod calls;
mod differential;
mod hostile;
mod socket;
mod streams;

use crate::harness::Server;
use crate::harness::curl::{Http, curl};
use crate::harness::http::HttpAnswer;
use serde_json::Value;

/// The JSON that a call answers, with success.
#[track_caller]
fn call(server: &Server, http: Http, path: &str, body: &Value) -> Value {
    let answer = curl(server, http, path, &body.to_string(), &[]);
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("grpc-metadata-content-type"), Some("application/grpc"));
    answer.json()
}

/// The call is refused with that status, code and text.
#[track_caller]
fn refused(answer: &HttpAnswer, status: u16, code: i32, message: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.json(), serde_json::json!({ "code": code, "message": message }));
}

/// Calls of Watch that have begun, and those that have ended.
fn watch_streams(server: &Server) -> (f64, f64) {
    let metrics = crate::harness::http_get(server.setup.ports.client, "/metrics").expect("answered").body;
    let of = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains("etcdserverpb.Watch"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    (of("grpc_server_started_total"), of("grpc_server_handled_total"))
}

/// Streams of watches that the server has open.
fn open_watch_streams(server: &Server) -> f64 {
    let (begun, ended) = watch_streams(server);
    begun - ended
}
