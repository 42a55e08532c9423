//! Calls that stay open: several requests, several answers, both while they come.

use super::{call, open_watch_streams};
use crate::harness::curl::{Http, Stream, curl};
use crate::harness::{Setup, for_each_backend, wait_until};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

for_each_backend!(
    castd: a_watch_goes_on_in_both_directions,
    a_client_that_goes_ends_its_watch,
    keepalives_are_answered_and_then_it_ends,
    a_stream_that_fails_says_why,
    a_range_and_a_snapshot_are_streamed,
    hundreds_of_watches_are_served_at_once,
);

const PATIENCE: Duration = Duration::from_secs(10);

async fn a_watch_goes_on_in_both_directions(setup: Setup) {
    let server = setup.start();
    for http in Http::BOTH {
        let before = call(&server, http, "/v3/kv/put", &json!({ "key": "YQ==", "value": "MQ==" }));
        let revision = before["header"]["revision"].as_str().expect("a string");
        let mut watch = Stream::open(&server, http, "/v3/watch");
        watch.say(&json!({ "create_request": { "key": "YQ==", "start_revision": revision } }).to_string());
        assert_eq!(watch.result()["created"], true);
        let history = watch.result();
        assert_eq!(history["events"][0]["kv"]["value"], "MQ==", "{history}");
        assert_eq!(history["events"][0].get("type"), None, "a put is the default");

        // A second watcher, in two pieces, while the first is at work.
        watch.say("\n{\"create_request\":{\"key\":");
        call(&server, http, "/v3/kv/deleterange", &json!({ "key": "YQ==" }));
        assert_eq!(watch.result()["events"][0]["type"], "DELETE");
        watch.say("\"Yg==\",\"watch_id\":\"5\"}}");
        let created = watch.result();
        assert_eq!((&created["created"], &created["watch_id"]), (&json!(true), &json!("5")));

        // The end of the body is not the end of the watch.
        watch.close();
        call(&server, http, "/v3/kv/put", &json!({ "key": "Yg==" }));
        assert_eq!(watch.result()["watch_id"], "5");
        drop(watch);
    }
    wait_until("the streams are closed", PATIENCE, || open_watch_streams(&server) == 0.0);
}

async fn a_client_that_goes_ends_its_watch(setup: Setup) {
    let server = setup.start();
    for http in Http::BOTH {
        let mut watch = Stream::open(&server, http, "/v3/watch");
        watch.say(r#"{"create_request":{"key":"YQ=="}}"#);
        assert_eq!(watch.result()["created"], true);
        assert_eq!(open_watch_streams(&server), 1.0);
        // Nothing happens to its key any more, so nobody writes to it.
        drop(watch);
        wait_until("the stream is closed", PATIENCE, || open_watch_streams(&server) == 0.0);
    }
    // Nor does half a connection keep one open, as etcd has it.
    let mut half = raw_watch(server.setup.ports.client, "YQ==").await;
    assert!(line(&mut half).await.contains("\"created\":true"));
    half.get_mut().shutdown().await.expect("open");
    wait_until("the stream is closed", PATIENCE, || open_watch_streams(&server) == 0.0);
}

async fn keepalives_are_answered_and_then_it_ends(setup: Setup) {
    let server = setup.start();
    for (http, id) in Http::BOTH.into_iter().zip(["7", "8"]) {
        call(&server, http, "/v3/lease/grant", &json!({ "ID": id, "TTL": 600 }));
        let mut alive = Stream::open(&server, http, "/v3/lease/keepalive");
        for _ in 0..3 {
            alive.say(&json!({ "ID": id }).to_string());
            assert_eq!(alive.result()["TTL"], "600");
        }
        // One that is not there has no time left.
        alive.say(r#"{"ID":1}{"ID":7}"#);
        assert_eq!((&alive.result()["ID"], alive.result()["TTL"].as_str()), (&json!("1"), Some("600")));
        alive.close();
        assert_eq!(alive.line(), None);
        // All at once, as scripts do it.
        let answer = curl(&server, http, "/v3/lease/keepalive", r#"{"ID":7} {"ID":1}"#, &[]);
        assert_eq!((answer.status, answer.body.lines().count()), (200, 2), "{}", answer.body);
        assert_eq!(answer.header("grpc-metadata-content-type"), Some("application/grpc"));
    }
}

async fn a_stream_that_fails_says_why(setup: Setup) {
    let server = setup.start();
    for http in Http::BOTH {
        let answer = curl(&server, http, "/v3/watch", "watch please", &[]);
        assert_eq!(answer.status, 400);
        let complaint = "a JSON object is expected, not 'w'";
        assert_eq!(answer.json(), json!({ "error": { "code": 3, "message": complaint } }));
        let mut watch = Stream::open(&server, http, "/v3/watch");
        watch.say(r#"{"create_request":{"key":"YQ=="}}"#);
        assert_eq!(watch.result()["created"], true);
        watch.say(r#"{"create_request":[]}"#);
        let error = watch.line().expect("an error");
        assert_eq!(error["error"]["code"], 3, "{error}");
        // What cannot be watched is said by the watch itself.
        let mut watch = Stream::open(&server, http, "/v3/watch");
        watch.say(r#"{"create_request":{"key":"Yg==","range_end":"YQ=="}}"#);
        let refused = watch.result();
        assert_eq!((&refused["canceled"], &refused["watch_id"]), (&json!(true), &json!("-1")), "{refused}");
    }
}

async fn a_range_and_a_snapshot_are_streamed(setup: Setup) {
    let server = setup.start();
    for number in 0..50 {
        server.api().put(&format!("key{number}"), "value").await;
    }
    for http in Http::BOTH {
        let body = json!({ "key": "AA==", "range_end": "AA==" }).to_string();
        let answer = curl(&server, http, "/v3/kv/rangestream", &body, &[]);
        let lines = answer.body.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let kvs = lines.map(|line| line["result"]["range_response"]["kvs"].as_array().map_or(0, Vec::len));
        assert_eq!(kvs.sum::<usize>(), 50);
        let answer = curl(&server, http, "/v3/maintenance/snapshot", "", &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let last: serde_json::Value = serde_json::from_str(answer.body.lines().last().expect("lines")).expect("JSON");
        // Its last piece is a checksum of 32 bytes.
        assert_eq!(last["result"]["blob"].as_str().map(str::len), Some(44), "{last}");
        assert_eq!(last["result"].get("remaining_bytes"), None);
    }
}

async fn hundreds_of_watches_are_served_at_once(setup: Setup) {
    let server = setup.start();
    let mut watches = Vec::new();
    for _ in 0..300 {
        watches.push(raw_watch(server.setup.ports.client, "YQ==").await);
    }
    for watch in &mut watches {
        assert!(line(watch).await.contains("\"created\":true"));
    }
    assert_eq!(open_watch_streams(&server), 300.0);
    call(&server, Http::Two, "/v3/kv/put", &json!({ "key": "YQ==", "value": "aGVyZQ==" }));
    for watch in &mut watches {
        assert!(line(watch).await.contains("\"value\":\"aGVyZQ==\""));
    }
    drop(watches);
    wait_until("the streams are closed", PATIENCE, || open_watch_streams(&server) == 0.0);
}

/// A watch over a connection of its own, without the weight of a curl.
async fn raw_watch(port: u16, key: &str) -> BufReader<TcpStream> {
    let body = json!({ "create_request": { "key": key } }).to_string();
    let head = format!("POST /v3/watch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    BufReader::new(stream)
}

/// The next line of the answer that is a result.
async fn line(stream: &mut BufReader<TcpStream>) -> String {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await;
        assert_ne!(read.expect("a line in time").expect("an open stream"), 0, "the stream goes on");
        if line.starts_with('{') {
            return line;
        }
    }
}
