//! A disk that fails. The kernel reports a lost write once and then forgets it, so a failed fsync is never tried again:
//! the process ends, and what it had acknowledged is what was on disk.
//!
//! strace makes the calls fail; where it may not trace, these tests say so and pass.

use crate::harness::grpc::put;
use crate::harness::{Server, Setup, for_each_backend, wait_until};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

for_each_backend!(a_failed_fsync_ends_the_process_and_breaks_no_promise);

/// Calls of one thread that succeed before the first that fails.
const CALLS_BEFORE: usize = 20;

pub fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Lets fsync and fdatasync fail in a running server, after a while.
fn fail_fsync(server: &Server) -> Child {
    inject(server, &format!("error=EIO:when={}+", CALLS_BEFORE + 1))
}

/// Lets each fsync and fdatasync of a running server take that much longer.
pub fn delay_fsync(server: &Server, delay: Duration) -> Child {
    inject(server, &format!("delay_enter={}", delay.as_micros()))
}

fn inject(server: &Server, what: &str) -> Child {
    let pid = server.pid();
    let tracer = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync"])
        .args(["-e", &format!("inject=fsync,fdatasync:{what}")])
        .args(["-o", &server.directory().join("strace.log").to_string_lossy(), "-p", &pid.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed");
    wait_until("strace has attached to every thread", Duration::from_secs(10), || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            // A thread that is gone meanwhile has no status.
            status.is_empty() || !status.contains("TracerPid:\t0\n")
        })
    });
    tracer
}

async fn a_failed_fsync_ends_the_process_and_breaks_no_promise(setup: Setup) {
    if !strace_works() {
        println!("skipped: strace may not trace here");
        return;
    }
    let mut server = setup.start();
    let api = server.api();
    let mut tracer = fail_fsync(&server);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let api = api.clone();
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for round in 0.. {
                let (key, value) = (format!("w{writer}/{}", round % 5), format!("{round}"));
                match api.put_with(put(&key, &value)).await {
                    Ok(answer) => acknowledged.push((answer.header.expect("a header").revision, key, value)),
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    let mut acknowledged: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    let status = server.wait_exit();
    tracer.wait().expect("strace ends with its tracee");
    assert!(!status.success(), "{status}");
    assert!(status.code().is_none_or(|code| code != 0));
    let log = server.log().to_lowercase();
    assert!(log.contains("sync"), "the log does not say what failed");
    assert!(!log.contains("a bug in castd"), "a failed disk is not a bug");
    assert!(acknowledged.len() >= CALLS_BEFORE, "only {} writes before the failure", acknowledged.len());

    server.restart();
    acknowledged.sort();
    let newest = acknowledged.last().expect("some were").0;
    assert!(api.revision().await >= newest);
    let mut stream = api.watch_stream();
    stream
        .create(castd_proto::etcdserverpb::WatchCreateRequest {
            start_revision: 1,
            ..crate::harness::grpc::watch("w", "x")
        })
        .await;
    let mut events: Vec<(i64, String, String)> = Vec::new();
    while events.last().is_none_or(|(revision, ..)| *revision < newest) {
        for event in stream.next().await.events {
            let kv = event.kv.expect("events have a pair");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            events.push((kv.mod_revision, text(&kv.key), text(&kv.value)));
        }
    }
    for promised in acknowledged {
        assert!(events.binary_search(&promised).is_ok(), "{promised:?} was acknowledged and is lost");
    }
    assert_eq!(api.put("after", "1").await, api.revision().await);
}
