//! HTTP/1.1 that is not quite, and what is no HTTP at all.

use super::{alone, besiege, connect, converse, rest, soon};
use crate::harness::Server;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Status lines in what came back.
fn answers(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.match_indices("HTTP/1.1 ").filter_map(|(at, found)| text[at + found.len()..].get(..3)?.parse().ok()).collect()
}

#[test]
fn a_request_with_two_ends_is_refused_and_what_follows_is_not_a_request() {
    alone(
        |setup| setup,
        async |server: &Server| {
            let smuggled = "GET /version HTTP/1.1\r\nHost: b\r\n\r\n";
            for ambiguous in [
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
                "Content-Length: +5\r\n\r\nhello",
                "Content-Length: 0x5\r\n\r\nhello",
                "Content-Length: -1\r\n\r\n",
                "Content-Length: 99999999999999999999999\r\n\r\n",
                "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
                "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
                "Content-Length : 5\r\n\r\nhello",
                "X: a\r\n b\r\n\r\n",
                "\u{0}: x\r\n\r\n",
            ] {
                let request = format!("POST /health HTTP/1.1\r\nHost: a\r\n{ambiguous}{smuggled}");
                let answer = converse(server.setup.ports.client, request.as_bytes()).await;
                let answers = answers(&answer);
                assert!(
                    answers.len() <= 1 && answers.iter().all(|status| matches!(status, 400 | 405 | 501)),
                    "{ambiguous:?}: {}",
                    String::from_utf8_lossy(&answer)
                );
            }
        },
    );
}

#[test]
fn what_is_no_http_is_hung_up_on() {
    besiege(async |server: &Server| {
        // TLS 1.2 and up, as curl begins.
        let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        hello.extend([7; 506]);
        let beginnings = [
            hello,
            b"\0\0\0\0\0\0\0\0".to_vec(),
            b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
            b"\r\n\r\n\r\n\r\n".to_vec(),
            b"GET\r\n\r\n".to_vec(),
            b"GET / HTTP/9.9\r\n\r\n".to_vec(),
            b"GET \xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frames at all, but a lot of text in their place".to_vec(),
            // The first bytes of a frame that announces sixteen megabytes.
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\0\0\0\0\0".to_vec(),
            vec![b'x'; 1 << 20],
        ];
        // What might still become a head is waited for. The peer port is nothing else.
        let ports = [server.setup.ports.client, server.setup.ports.peer];
        let everywhere = ports.iter().flat_map(|port| beginnings.iter().map(|beginning| converse(*port, beginning)));
        for answer in join_all(everywhere).await {
            let answers = answers(&answer);
            let refused = answers.iter().all(|status| matches!(status, 400 | 408 | 431));
            assert!(refused, "{}", String::from_utf8_lossy(&answer));
        }
    });
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    besiege(async |server: &Server| {
        for request in [
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 20)),
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100_000)),
        ] {
            let answer = converse(server.setup.ports.client, request.as_bytes()).await;
            let answers = answers(&answer);
            assert!(answers.iter().all(|status| matches!(status, 400 | 414 | 431)), "{answers:?}");
        }
    });
}

/// What comes behind the answer is thrown away, for a while or up to its end; nobody keeps it.
#[test]
fn a_body_of_a_gigabyte_is_refused_before_it_has_come() {
    besiege(async |server: &Server| {
        for (path, head) in [
            ("/v3/kv/put", "Content-Length: 1000000000"),
            ("/health", "Content-Length: 1000000000"),
            ("/v3/kv/put", "Transfer-Encoding: chunked"),
        ] {
            let (mut from, mut to) = connect(server).await.into_split();
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n");
            to.write_all(head.as_bytes()).await.expect("taken");
            let sending = tokio::spawn(async move {
                let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
                for _ in 0..900 {
                    if to.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                }
                // Not yet the end of it.
                std::future::pending::<()>().await;
            });
            let mut answer = [0; 12];
            soon("an answer", from.read_exact(&mut answer)).await.expect("an answer");
            assert!(answers(&answer).first().is_some_and(|status| *status >= 400), "{answer:?}");
            sending.abort();
        }
    });
}

#[test]
fn a_connection_that_goes_on_after_a_refusal_is_closed() {
    alone(
        |setup| setup,
        async |server: &Server| {
            let mut stream = connect(server).await;
            let request = "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("taken");
            let _ = stream.write_all(&vec![b'x'; 3_000_000]).await;
            let _ = stream.shutdown().await;
            let answers = answers(&rest(&mut stream).await);
            assert!(answers.len() <= 1 && answers.iter().all(|status| *status >= 400), "{answers:?}");
        },
    );
}
