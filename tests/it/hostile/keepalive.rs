//! `--grpc-keepalive-interval` and `-timeout`: a client that has gone without a word is found out.

use super::frames::{ACK, Connection, PING, frame};
use super::{alone, soon};
use crate::harness::Server;
use std::time::{Duration, Instant};

/// The next PING of the server.
async fn ping(connection: &mut Connection) -> Option<Vec<u8>> {
    loop {
        match connection.next().await {
            Some((PING, flags, _, payload)) if flags & ACK == 0 => return Some(payload),
            Some(_) => {}
            None => return None,
        }
    }
}

#[test]
fn a_client_that_answers_pings_stays_and_one_that_does_not_is_hung_up_on() {
    alone(
        |setup| setup.flag("--grpc-keepalive-interval=300ms").flag("--grpc-keepalive-timeout=200ms"),
        async |server: &Server| {
            let mut lively = Connection::open(server).await;
            let opened = Instant::now();
            let mut dead = Connection::open(server).await;
            for _ in 0..3 {
                let payload = ping(&mut lively).await.expect("a ping");
                assert!(lively.send(&frame(PING, ACK, 0, &payload)).await);
            }
            assert!(ping(&mut dead).await.is_some(), "it was not asked");
            assert!(ping(&mut dead).await.is_none(), "it was asked again");
            assert!(opened.elapsed() >= Duration::from_millis(500), "{:?} is too soon", opened.elapsed());
            assert!(ping(&mut lively).await.is_some(), "the other one had to go, too");
        },
    );
}

#[test]
fn zero_turns_pings_off() {
    for flags in [
        ["--grpc-keepalive-interval=0s", "--grpc-keepalive-timeout=100ms"],
        ["--grpc-keepalive-interval=100ms", "--grpc-keepalive-timeout=0s"],
    ] {
        alone(
            |setup| setup.flags(flags),
            async |server: &Server| {
                let mut connection = Connection::open(server).await;
                let asked = tokio::time::timeout(Duration::from_secs(1), ping(&mut connection)).await;
                assert!(asked.is_err(), "{flags:?}: {asked:?}");
                // It is there all the same.
                connection.send(&frame(PING, 0, 0, b"anybody?")).await;
                let (kind, flags, ..) = soon("an answer", connection.next()).await.expect("an answer");
                assert_eq!((kind, flags), (PING, ACK));
            },
        );
    }
}
