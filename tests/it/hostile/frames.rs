//! HTTP/2 by hand, with all that a library would not let one do.

use super::connect;
use crate::harness::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header that goes into no table, each part shorter than 127 bytes or written with a longer length.
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    for part in [name.as_bytes(), value] {
        let mut rest = part.len();
        if rest < 127 {
            field.push(rest as u8);
        } else {
            field.push(127);
            rest -= 127;
            while rest >= 128 {
                field.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            field.push(rest as u8);
        }
        field.extend(part);
    }
    field
}

/// The head of a gRPC call.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(field(":path", path.as_bytes()));
    block.extend(field(":authority", b"localhost"));
    block.extend(field("content-type", b"application/grpc"));
    block.extend(field("te", b"trailers"));
    block
}

pub fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((bytes.len() as u32).to_be_bytes());
    message.extend(bytes);
    message
}

/// A connection that has begun.
pub struct Connection(pub TcpStream);

/// What came of a stream.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Header blocks as they came: names and values of what is in no table can be searched for.
    pub heads: Vec<u8>,
    pub reset: Option<u32>,
    pub gone: Option<u32>,
    /// The connection has ended.
    pub closed: bool,
}

impl Connection {
    pub async fn open(server: &Server) -> Connection {
        let mut stream = connect(server).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("taken");
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("taken");
        Connection(stream)
    }

    /// False once the server has hung up.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// The next frame: type, flags, stream, payload.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        super::soon("a frame", self.0.read_exact(&mut head)).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        super::soon("a payload", self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// Reads until that stream has ended, or the connection. Pings are answered.
    pub async fn outcome(&mut self, of: u32) -> Outcome {
        let mut outcome = Outcome::default();
        let code = |payload: &[u8]| payload.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
        while let Some((kind, flags, stream, payload)) = self.next().await {
            match kind {
                HEADERS if stream == of => outcome.heads.extend(&payload),
                RST_STREAM if stream == of => outcome.reset = code(&payload),
                GOAWAY => outcome.gone = code(&payload[4..]),
                PING if flags & ACK == 0 => {
                    let _ = self.send(&frame(PING, ACK, 0, &payload)).await;
                }
                _ => {}
            }
            if stream == of && (kind == RST_STREAM || kind <= HEADERS && flags & END_STREAM != 0) {
                return outcome;
            }
        }
        outcome.closed = true;
        outcome
    }
}
