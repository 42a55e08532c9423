//! What nobody should send.

use super::{call, refused};
use crate::harness::curl::{Http, curl};
use crate::harness::{Server, Setup, for_each_backend, http_get};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

for_each_backend!(
    castd: what_is_too_large_is_refused_as_by_grpc,
    what_is_nested_too_deeply_is_refused,
    bodies_that_never_end_hold_up_nobody,
    requests_that_are_broken_off_leave_nothing,
);

/// A put whose message is of `bytes` bytes.
fn put_of(bytes: usize) -> String {
    // Tag and length of each field: 3 bytes for the key, 4 for the value.
    json!({ "key": "YQ==", "value": base64(bytes - 7) }).to_string()
}

/// Of that many zero bytes.
fn base64(bytes: usize) -> String {
    let full = "AAAA".repeat(bytes / 3);
    full + ["", "AA==", "AAA="][bytes % 3]
}

async fn what_is_too_large_is_refused_as_by_grpc(setup: Setup) {
    let server = setup.start();
    let limit = 2 << 20;
    for http in Http::BOTH {
        let put = |bytes| curl(&server, http, "/v3/kv/put", &put_of(bytes), &[]);
        assert_eq!(put(1_500_000).status, 200);
        refused(&put(limit), 400, 3, "etcdserver: request is too large");
        let text = format!("grpc: received message larger than max ({} vs. {limit})", limit + 1);
        refused(&put(limit + 1), 429, 8, &text);
        let answer = put(5 * limit);
        assert_eq!((answer.status, &answer.json()["code"]), (429, &json!(8)), "{}", answer.body);
    }
}

async fn what_is_nested_too_deeply_is_refused(setup: Setup) {
    let server = setup.start();
    let nested = |depth: usize| r#"{"success":[{"request_txn":"#.repeat(depth) + "{}" + &"}]}".repeat(depth);
    for http in Http::BOTH {
        assert_eq!(curl(&server, http, "/v3/kv/txn", &nested(40), &[]).status, 200);
        for depth in [100, 50_000] {
            let answer = curl(&server, http, "/v3/kv/txn", &nested(depth), &[]);
            assert_eq!(answer.status, 400);
            let message = answer.json()["message"].as_str().map(str::to_owned).unwrap_or_default();
            assert!(message.starts_with("recursion limit exceeded"), "{message}");
        }
    }
    // In gRPC's own form, where it is prost that bounds it.
    let deep = (0..5_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        let op = [&[0x22][..], &varint(inner.len()), &inner].concat();
        [&[0x12][..], &varint(op.len()), &op].concat()
    });
    assert_eq!(grpc_status(&server, "/etcdserverpb.KV/Txn", &deep), "13");
    assert_eq!(call(&server, Http::Two, "/v3/kv/range", &json!({ "key": "YQ==" })).get("kvs"), None);
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// What a gRPC call with those bytes as its message is answered.
fn grpc_status(server: &Server, path: &str, message: &[u8]) -> String {
    let file = server.directory().join("message");
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    std::fs::write(&file, [&[0][..], &length, message].concat()).expect("written");
    let output = std::process::Command::new("curl")
        .args([
            "--silent",
            "--http2-prior-knowledge",
            "--max-time",
            "10",
            "--dump-header",
            "-",
            "--output",
            "/dev/null",
        ])
        .args(["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(format!("{}{path}", server.setup.client_url()))
        .output()
        .expect("curl is installed");
    let headers = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = headers.lines().find_map(|line| line.strip_prefix("grpc-status: "));
    status.unwrap_or_else(|| panic!("no status: {headers}")).trim().to_owned()
}

async fn begin(port: u16, path: &str, body: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let head = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

async fn bodies_that_never_end_hold_up_nobody(setup: Setup) {
    let server = setup.start();
    let port = server.setup.ports.client;
    let mut half = Vec::new();
    for _ in 0..200 {
        half.push(begin(port, "/v3/kv/put", "{\"key\":\"", 1_000_000).await);
        half.push(begin(port, "/v3/watch", "{\"create_request\"", 1_000_000).await);
    }
    for http in Http::BOTH {
        call(&server, http, "/v3/kv/put", &json!({ "key": "YQ==" }));
        assert_eq!(http_get(port, "/health").expect("answered").status, 200);
    }
    // One of them thinks better of it.
    let stream = half.first_mut().expect("there are some");
    stream.write_all(b"Yg==\"}").await.expect("sent");
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await;
    read.expect("in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

async fn requests_that_are_broken_off_leave_nothing(setup: Setup) {
    let server = setup.start();
    let port = server.setup.ports.client;
    for _ in 0..50 {
        drop(begin(port, "/v3/kv/put", "{\"key\":\"Yg==\"", 100).await);
        drop(begin(port, "/v3/watch", "{\"create_request\":{}}", 100).await);
        drop(begin(port, "/v3/lease/keepalive", "{\"ID\":\"1\"} {", 100).await);
    }
    let patience = Duration::from_secs(10);
    crate::harness::wait_until("nothing is open", patience, || super::watch_streams(&server) == (50.0, 50.0));
    assert_eq!(call(&server, Http::One, "/v3/kv/range", &json!({ "key": "Yg==" })).get("kvs"), None);
}
