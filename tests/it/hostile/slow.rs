//! Clients that connect and then take their time, for ever.

use super::frames::{Connection, END_HEADERS, HEADERS, call, frame};
use super::{alone, besiege, connect, rest};
use crate::harness::{Server, http_get};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Time for a connection to say what it speaks, and for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_thousand_connections_that_never_finish_their_sentence_are_closed() {
    besiege(async |server: &Server| {
        let started = Instant::now();
        let mut clients: Vec<TcpStream> = Vec::new();
        for beginning in ["", "PRI * HT", "GET /version HT", "GET /version HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
            for _ in 0..250 {
                let mut stream = connect(server).await;
                stream.write_all(beginning.as_bytes()).await.expect("taken");
                clients.push(stream);
            }
        }
        // One that goes on a byte at a time is no better.
        let mut dripping = connect(server).await;
        dripping.write_all(b"GET /version HTTP/1.1\r\nX: ").await.expect("taken");
        let dripping = tokio::spawn(async move {
            while dripping.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        for mut client in clients {
            let answer = rest(&mut client).await;
            let text = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
        }
        let took = started.elapsed();
        assert!(took >= HEAD_WITHIN / 2, "{took:?}: an honest client may need a moment");
        super::soon("the dripping one to be closed", dripping).await.expect("it ends");
    });
}

#[test]
fn a_thousand_idle_clients_of_either_http_stay_and_cost_little() {
    besiege(async |server: &Server| {
        let mut idle = Vec::new();
        for _ in 0..500 {
            let mut connection = Connection::open(server).await;
            // Served: the settings have come.
            assert!(connection.next().await.is_some());
            idle.push(connection.0);
            let mut stream = connect(server).await;
            stream.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            let mut answer = [0; 15];
            super::soon("an answer", tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer)).await.expect("it");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            idle.push(stream);
        }
        assert_eq!(http_get(server.setup.ports.client, "/health").expect("answered").status, 200);
    });
}

#[test]
fn half_bodies_hold_up_nobody() {
    besiege(async |server: &Server| {
        let mut held = Vec::new();
        for _ in 0..200 {
            let mut stream = connect(server).await;
            let head = "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{\"key\":";
            stream.write_all(head.as_bytes()).await.expect("taken");
            held.push(stream);
            let mut connection = Connection::open(server).await;
            connection.send(&frame(HEADERS, END_HEADERS, 1, &call("/etcdserverpb.KV/Range"))).await;
            held.push(connection.0);
        }
        for _ in 0..50 {
            assert_eq!(http_get(server.setup.ports.client, "/health").expect("answered").status, 200);
        }
    });
}

/// An answer that nobody takes must not hold up the others on the connection, nor those elsewhere.
#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    alone(
        |setup| setup,
        async |server: &Server| {
            let api = server.api();
            for n in 0..20 {
                api.put(&format!("big/{n}"), &"v".repeat(1_000_000)).await;
            }
            let mut deaf = Vec::new();
            for _ in 0..20 {
                let mut connection = Connection::open(server).await;
                connection.send(&frame(HEADERS, END_HEADERS, 1, &call("/etcdserverpb.KV/Range"))).await;
                // All keys from "\0" on.
                let all = super::frames::message(&[0x0a, 1, 0, 0x12, 1, 0]);
                connection.send(&frame(super::frames::DATA, 1, 1, &all)).await;
                deaf.push(connection);
            }
            let started = Instant::now();
            for n in 0..20 {
                api.put("k", &format!("{n}")).await;
            }
            assert!(started.elapsed() < super::PUT_WITHIN);
        },
    );
}
