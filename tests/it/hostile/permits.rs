//! More requests than may wait: the ones that find no place are told so at once, the others are answered.
//!
//! strace makes each fsync of the log take seconds, so that writes wait. Where it may not trace, this says so and passes.

use crate::fsync::{delay_fsync, strace_works};
use crate::harness::grpc::put;
use crate::harness::{Backend, Place, Setup, block_on};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Code;

/// `cast.rs` lets 16,384 writes wait.
const PUTS: usize = 17_500;
const CONNECTIONS: usize = 5;

#[test]
fn requests_that_find_no_place_are_refused_and_the_others_are_answered() {
    let _place = Place::take();
    if !strace_works() {
        println!("skipped: strace may not trace here");
        return;
    }
    block_on(async {
        let mut server = Setup::castd(Backend::Memory).default_timing().start();
        let warm = server.api();
        warm.put("warm", "1").await;
        let mut tracer = delay_fsync(&server, Duration::from_millis(1_500));
        let mut puts = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let api = server.api();
            for number in 0..PUTS / CONNECTIONS {
                let api = api.clone();
                puts.spawn(async move { api.put_with(put(&format!("k{number}"), "v")).await });
            }
        }
        let (mut done, mut refused) = (0, 0);
        for outcome in puts.join_all().await {
            match outcome {
                Ok(_) => done += 1,
                Err(status) => {
                    // Whoever has a place may still wait for too long on such a disk.
                    if status.message() == "etcdserver: request timed out" {
                        done += 1;
                        continue;
                    }
                    assert_eq!((status.code(), status.message()), (Code::Unknown, "etcdserver: too many requests"));
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "all {done} puts found a place");
        assert!(done >= 16_000, "only {done} puts found a place");
        server.kill();
        tracer.wait().expect("strace ends with its tracee");
    });
}
