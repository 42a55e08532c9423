//! What operators do when members, or all of them, are lost: one goes on alone, or a saved snapshot founds a new cluster.

mod alone;
mod refusals;
mod restore;

use crate::harness::grpc::{put, range};
use crate::harness::{Api, Server, Setup, ctl, wait_for};
use castd_proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// castutl, not yet run.
fn castutl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_castutl"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// castutl to its end.
fn run_castutl(arguments: &[&str]) -> ctl::Answer {
    ctl::finish(castutl(arguments), None)
}

/// `castutl snapshot restore` of `file` for the member of `setup`, in a cluster of all `listed`.
fn restore_arguments(setup: &Setup, listed: &str, file: &Path, data_dir: &Path) -> Vec<String> {
    let storage = setup.backend().expect("castd").name();
    [
        "snapshot".to_owned(),
        "restore".to_owned(),
        file.display().to_string(),
        format!("--name={}", setup.name()),
        format!("--data-dir={}", data_dir.display()),
        format!("--initial-cluster={listed}"),
        format!("--initial-advertise-peer-urls={}", setup.peer_url()),
        format!("--storage={storage}"),
    ]
    .into()
}

fn restore(setup: &Setup, listed: &str, file: &Path, data_dir: &Path, more: &[&str]) -> ctl::Answer {
    let arguments = restore_arguments(setup, listed, file, data_dir);
    run_castutl(&[arguments.iter().map(String::as_str).collect(), more.to_vec()].concat())
}

/// Keys with history, some of it compacted, some of them leased, some deleted. Answers the revision.
async fn fill(api: &Api) -> i64 {
    api.grant(77, 3_600).await.expect("granted");
    for round in 0..120 {
        let lease = if round % 5 == 0 { 77 } else { 0 };
        let request = PutRequest { lease, ..put(&format!("key{:02}", round % 40), &format!("value{round}")) };
        api.put_with(request).await.expect("put");
    }
    api.delete("key03", "").await.expect("deleted");
    api.compact(60, false).await.expect("compacted");
    for round in 0..20 {
        api.put(&format!("late{round}"), "v").await;
    }
    api.revision().await
}

/// All there is, on that member alone.
async fn local(api: &Api) -> Result<RangeResponse, tonic::Status> {
    api.range(RangeRequest { serializable: true, ..range("a", "z") }).await
}

/// What `fill` wrote is there, with its history and its lease.
async fn assert_filled(api: &Api, expected: &RangeResponse, revision: i64) {
    assert_eq!(local(api).await.expect("read").kvs, expected.kvs);
    let past = api.range(RangeRequest { revision, ..range("a", "z") }).await.expect("history");
    assert_eq!(past.kvs, expected.kvs);
    let compacted = api.range(RangeRequest { revision: 59, ..range("a", "z") }).await.expect_err("compacted");
    assert_eq!(compacted.message(), crate::harness::grpc::text::COMPACTED);
    let lease = api.time_to_live(77).await;
    assert_eq!((lease.granted_ttl, lease.keys.len()), (3_600, 8), "{lease:?}");
}

/// Waits until the member has applied all up to that revision.
async fn has_applied(api: &Api, revision: i64) -> RangeResponse {
    let reached = async || {
        local(api).await.ok().filter(|answer| answer.header.as_ref().is_some_and(|it| it.revision >= revision))
    };
    wait_for("the member has it all", PATIENCE, reached).await
}

/// Saved by etcdctl, as an operator would.
fn save(server: &Server) -> std::path::PathBuf {
    let file = server.directory().join("saved.db");
    server.etcdctl(&["snapshot", "save", file.to_str().expect("text")]).ok();
    file
}
