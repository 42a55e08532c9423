//! Floods of frames, each of which costs the sender next to nothing.

use super::frames::{
    ACK, CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, call, field,
    frame, message,
};
use super::{besiege, besiege_within, cpu};
use crate::harness::Server;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::time::Duration;

const PUT: &str = "/etcdserverpb.KV/Put";
const FRAMES: usize = 200_000;
/// A write of that many frames at once.
const BATCH: usize = 1_000;

/// Sends frames for ever, or until the server hangs up, and takes what comes back without looking at it.
async fn flood(server: &Server, frames: usize, mut make: impl FnMut(usize) -> Vec<u8>) -> bool {
    let Connection(stream) = Connection::open(server).await;
    let (mut from, mut to) = stream.into_split();
    let reading = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
    let mut went_through = true;
    for batch in 0..frames / BATCH {
        let bytes: Vec<u8> = (batch * BATCH..(batch + 1) * BATCH).flat_map(&mut make).collect();
        if tokio::io::AsyncWriteExt::write_all(&mut to, &bytes).await.is_err() {
            went_through = false;
            break;
        }
    }
    drop(to);
    let _ = super::soon("the server to close", reading).await;
    went_through
}

/// CPU that a frame may cost the server: a hundred times what it does, and less than a request.
const CPU_OF_A_FRAME: Duration = Duration::from_micros(50);

#[test]
fn pings_cost_little_and_no_memory() {
    besiege(async |server: &Server| {
        let before = cpu(server);
        assert!(flood(server, FRAMES, |_| frame(PING, 0, 0, b"pingping")).await, "pings are not refused");
        let each = (cpu(server) - before) / FRAMES as u32;
        println!("{each:?} of CPU for a ping");
        assert!(each < CPU_OF_A_FRAME, "{each:?} of CPU for a ping");
    });
}

#[test]
fn pings_whose_answers_nobody_reads_wait_in_the_kernel() {
    besiege(async |server: &Server| {
        let mut connection = Connection::open(server).await;
        let pings: Vec<u8> = (0..BATCH).flat_map(|_| frame(PING, 0, 0, b"pingping")).collect();
        // Until the server takes no more, because it cannot get rid of the answers.
        for _ in 0..FRAMES * 10 / BATCH {
            let sent = tokio::time::timeout(Duration::from_secs(1), connection.send(&pings)).await;
            if sent.is_err() {
                return;
            }
        }
        panic!("two million answers have gone somewhere");
    });
}

#[test]
fn settings_cost_little_and_no_memory() {
    besiege(async |server: &Server| {
        let before = cpu(server);
        // MAX_CONCURRENT_STREAMS, another each time.
        flood(server, FRAMES, |n| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, (n % 250) as u8])).await;
        let each = (cpu(server) - before) / FRAMES as u32;
        println!("{each:?} of CPU for settings");
        assert!(each < CPU_OF_A_FRAME, "{each:?} of CPU for settings");
    });
}

#[test]
fn acknowledgements_of_nothing_end_the_connection() {
    besiege(async |server: &Server| {
        // The first is due: the server has sent settings.
        let mut connection = Connection::open(server).await;
        connection.send(&[frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await;
        let outcome = connection.outcome(u32::MAX).await;
        assert!(outcome.closed && outcome.gone == Some(1), "{outcome:?}");
    });
}

/// CVE-2023-44487.
#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    besiege(async |server: &Server| {
        let head = call(PUT);
        for _ in 0..20 {
            flood(server, 20_000, |n| {
                let stream = n as u32 * 2 + 1;
                [frame(HEADERS, END_HEADERS, stream, &head), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
            .await;
        }
    });
}

/// RUSTSEC-2024-0003: the server is made to reset streams.
#[test]
fn streams_that_the_server_has_to_reset_end_the_connection() {
    besiege(async |server: &Server| {
        let head = call(PUT);
        // A window update of nothing is an error of the stream.
        let went_through = flood(server, 100_000, |n| {
            let stream = n as u32 * 2 + 1;
            [frame(HEADERS, END_HEADERS, stream, &head), frame(8, 0, stream, &[0; 4])].concat()
        })
        .await;
        assert!(!went_through, "a hundred thousand errors were answered one by one");
    });
}

#[test]
fn empty_data_costs_little_and_no_memory() {
    besiege(async |server: &Server| {
        let head = frame(HEADERS, END_HEADERS, 1, &call(PUT));
        flood(server, FRAMES, |n| if n == 0 { head.clone() } else { frame(DATA, 0, 1, &[]) }).await;
    });
}

/// CVE-2024-27316 and its like.
#[test]
fn a_head_that_never_ends_ends_the_connection() {
    besiege(async |server: &Server| {
        let head = frame(HEADERS, 0, 1, &call(PUT));
        let more = field("x-flood", &[b'x'; 1_000]);
        let went_through =
            flood(server, FRAMES, |n| if n == 0 { head.clone() } else { frame(CONTINUATION, 0, 1, &more) }).await;
        assert!(!went_through, "200 MB of headers were taken");
        // The same, of nothing.
        let went_through =
            flood(server, FRAMES, |n| if n == 0 { head.clone() } else { frame(CONTINUATION, 0, 1, &[]) }).await;
        assert!(!went_through, "200,000 continuations were taken");
    });
}

#[test]
fn ten_thousand_calls_that_say_nothing_are_held_cheaply() {
    // 20 KiB for each.
    besiege_within(200 << 20, async |server: &Server| {
        let mut connection = Connection::open(server).await;
        let head = call(PUT);
        for n in 0..10_000 {
            assert!(connection.send(&frame(HEADERS, END_HEADERS, n * 2 + 1, &head)).await);
        }
        // All of them have come: this one is answered behind them.
        let last = 20_001;
        connection.send(&frame(HEADERS, END_HEADERS, last, &call("/no.Such/Thing"))).await;
        let outcome = connection.outcome(last).await;
        assert!(!outcome.closed, "{outcome:?}");
    });
}

/// What a client may have under way at once, over all its connections and calls: a message that has begun and never
/// ends is room that others do not have.
#[test]
fn ten_thousand_half_messages_do_not_fill_the_memory() {
    // Of which 256 MiB for messages.
    besiege_within(640 << 20, async |server: &Server| {
        // Two megabytes are announced, of which 256 KiB come: two and a half gigabytes in all.
        let mut begun = message(&[0; 256 << 10]);
        begun[1..5].copy_from_slice(&2_000_000_u32.to_be_bytes());
        let begun = Bytes::from(begun);
        let mut attackers = tokio::task::JoinSet::new();
        let mut connections = Vec::new();
        for _ in 0..10 {
            let io = TokioIo::new(super::connect(server).await);
            let (sender, connection) = handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            connections.push(tokio::spawn(connection));
            for _ in 0..1_000 {
                let mut sender = sender.clone();
                let begun = Frame::data(begun.clone());
                let request = Request::post(format!("http://{}{PUT}", server.endpoint()));
                let request = request.header("content-type", "application/grpc").header("te", "trailers");
                let parts = stream::iter([Ok::<_, Infallible>(begun)]).chain(stream::pending());
                let request = request.body(BoxBody::new(StreamBody::new(parts))).expect("a request");
                attackers.spawn(async move {
                    // Refused is refused; what is taken waits for the rest.
                    tokio::time::timeout(Duration::from_secs(10), sender.send_request(request)).await.is_ok()
                });
            }
        }
        let refused = attackers.join_all().await.into_iter().filter(|answered| *answered).count();
        assert!(refused > 5_000, "only {refused} were refused");
    });
}

#[test]
fn a_stream_beyond_the_limit_is_refused_and_the_limit_is_told() {
    super::alone(
        |setup| setup.flag("--max-concurrent-streams=3"),
        async |server: &Server| {
            let mut connection = Connection::open(server).await;
            let (kind, _, _, settings) = connection.next().await.expect("settings");
            assert_eq!(kind, SETTINGS);
            assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 3]), "{settings:?}");
            for n in 0..4 {
                connection.send(&frame(HEADERS, END_HEADERS, n * 2 + 1, &call("/etcdserverpb.Watch/Watch"))).await;
            }
            // REFUSED_STREAM, which says that nothing has been done: clients try again.
            assert_eq!(connection.outcome(7).await.reset, Some(7));
            connection.send(&frame(DATA, END_STREAM, 1, &[])).await;
        },
    );
}
