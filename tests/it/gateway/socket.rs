//! The gateway by WebSocket, as pages in a browser use it.

use super::open_watch_streams;
use crate::harness::{Server, Setup, for_each_backend, wait_until};
use actix_http::ws::{Codec, Frame, Message};
use bytes::BytesMut;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tokio_util::codec::{Decoder as _, Encoder as _};

for_each_backend!(
    castd: a_call_is_a_frame_each_way,
    a_watch_lasts_as_long_as_the_socket,
    a_token_is_taken_as_a_protocol,
);

const PATIENCE: Duration = Duration::from_secs(10);

struct Socket {
    stream: TcpStream,
    codec: Codec,
    buffer: BytesMut,
    /// The answer to the handshake.
    head: String,
}

impl Socket {
    fn open(server: &Server, path: &str, header: &str) -> Socket {
        let mut stream = TcpStream::connect(("127.0.0.1", server.setup.ports.client)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        Socket { stream, codec: Codec::new().client_mode(), buffer: BytesMut::new(), head }
    }

    fn send(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        self.codec.encode(message, &mut bytes).expect("encoded");
        self.stream.write_all(&bytes).expect("sent");
    }

    fn say(&mut self, json: &Value) {
        self.send(Message::Text(json.to_string().into()));
    }

    fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.buffer).expect("a frame") {
                return frame;
            }
            let mut bytes = [0; 4_096];
            let read = self.stream.read(&mut bytes).expect("in time");
            assert_ne!(read, 0, "closed without a word");
            self.buffer.extend_from_slice(&bytes[..read]);
        }
    }

    #[track_caller]
    fn hear(&mut self) -> Value {
        match self.frame() {
            Frame::Text(text) => serde_json::from_slice(&text).expect("JSON"),
            other => panic!("not text: {other:?}"),
        }
    }
}

async fn a_call_is_a_frame_each_way(setup: Setup) {
    let server = setup.start();
    for prefix in ["/v3", "/v3beta"] {
        let mut socket = Socket::open(&server, &format!("{prefix}/kv/put"), "");
        assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
        socket.say(&json!({ "key": "YQ==", "value": "Yg==" }));
        assert!(socket.hear()["header"]["revision"].is_string());
        assert!(matches!(socket.frame(), Frame::Close(_)));
    }
    let mut socket = Socket::open(&server, "/v3/kv/range", "");
    socket.send(Message::Binary("{}".into()));
    assert_eq!(socket.hear(), json!({ "code": 3, "message": "etcdserver: key is not provided" }));
    assert!(matches!(socket.frame(), Frame::Close(_)));
    let refused = Socket::open(&server, "/v3/nothing", "");
    assert!(refused.head.starts_with("HTTP/1.1 404 "), "{}", refused.head);
}

async fn a_watch_lasts_as_long_as_the_socket(setup: Setup) {
    let server = setup.start();
    let mut socket = Socket::open(&server, "/v3/watch", "");
    socket.say(&json!({ "create_request": { "key": "YQ==" } }));
    assert_eq!(socket.hear()["result"]["created"], true);
    server.api().put("a", "b").await;
    assert_eq!(socket.hear()["result"]["events"][0]["kv"]["value"], "Yg==");
    socket.send(Message::Ping("there?".into()));
    assert!(matches!(socket.frame(), Frame::Pong(text) if text == "there?"));
    socket.say(&json!({ "create_request": { "key": "Yg==", "watch_id": 9 } }));
    assert_eq!(socket.hear()["result"]["watch_id"], "9");
    assert_eq!(open_watch_streams(&server), 1.0);
    socket.send(Message::Close(None));
    wait_until("the stream is closed", PATIENCE, || open_watch_streams(&server) == 0.0);

    // One that is torn down, too.
    let mut socket = Socket::open(&server, "/v3/watch", "");
    socket.say(&json!({ "create_request": { "key": "YQ==" } }));
    assert_eq!(socket.hear()["result"]["created"], true);
    drop(socket);
    wait_until("the stream is closed", PATIENCE, || open_watch_streams(&server) == 0.0);
}

async fn a_token_is_taken_as_a_protocol(setup: Setup) {
    let server = setup.start();
    let socket = Socket::open(&server, "/v3/kv/range", "Sec-WebSocket-Protocol: Bearer, abc\r\n");
    assert!(socket.head.to_lowercase().contains("sec-websocket-protocol: bearer\r\n"), "{}", socket.head);
}
