//! Downgrade: checked and agreed on as in etcd, and nothing more.

use crate::harness::grpc::Api;
use crate::harness::{Server, Setup, for_each_backend, http_get, refused};
use castd_proto::etcdserverpb::downgrade_request::DowngradeAction::{self, Cancel, Enable, Validate};
use castd_proto::etcdserverpb::{DowngradeInfo, DowngradeRequest, DowngradeResponse, StatusRequest};
use tonic::{Code, Status};

for_each_backend!(castd:
    a_downgrade_is_checked_begun_once_and_ended,
    a_downgrade_under_way_outlives_a_restart,
);

async fn downgrade(api: &Api, action: DowngradeAction, version: &str) -> Result<DowngradeResponse, Status> {
    let request = DowngradeRequest { action: action.into(), version: version.to_owned() };
    api.maintenance.clone().downgrade(request).await.map(tonic::Response::into_inner)
}

/// Target, or nothing, by what the status says; the peer port says the same.
async fn under_way(server: &Server) -> Option<String> {
    let status = server.api().maintenance.clone().status(StatusRequest {}).await.expect("answered").into_inner();
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.1", "3.7.0"));
    let DowngradeInfo { enabled, target_version } = status.downgrade_info.expect("always there");
    let answer = http_get(server.setup.ports.peer, "/downgrade/enabled").expect("answered");
    assert_eq!((answer.status, answer.body), (200, enabled.to_string()));
    assert_eq!(enabled, !target_version.is_empty());
    enabled.then_some(target_version)
}

async fn a_downgrade_is_checked_begun_once_and_ended(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    assert_eq!(under_way(&server).await, None);
    let bad_format = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    let bad_target = (Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    let in_process = (Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress");
    for action in [Validate, Enable] {
        for version in ["", "3", "v3.6", "3.6.0.0", "three.six"] {
            refused(downgrade(&api, action, version).await, bad_format.0, bad_format.1);
        }
        for version in ["3.7", "3.8.0", "3.5", "2.6.0"] {
            refused(downgrade(&api, action, version).await, bad_target.0, bad_target.1);
        }
    }
    let revision = api.put("k", "v").await;
    let answer = downgrade(&api, Cancel, "").await.expect("there is nothing to cancel, and that is fine");
    assert_eq!(answer.version, "3.7");
    assert_eq!(answer.header.expect("a header").revision, revision);
    assert_eq!(downgrade(&api, Validate, "3.6.4").await.expect("possible").version, "3.7");
    assert_eq!(under_way(&server).await, None);

    // Of many at once one is begun.
    let begun = futures_util::future::join_all((0..8).map(|_| downgrade(&api, Enable, "3.6"))).await;
    assert_eq!(begun.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in begun.into_iter().filter(Result::is_err) {
        refused(outcome, in_process.0, in_process.1);
    }
    assert_eq!(under_way(&server).await.as_deref(), Some("3.6.0"));
    super::wait_for_log(&server, "a downgrade is enabled, but castd's data has one format");
    for action in [Validate, Enable] {
        refused(downgrade(&api, action, "3.6").await, in_process.0, in_process.1);
        refused(downgrade(&api, action, "3.5").await, bad_target.0, bad_target.1);
    }
    // Nothing that an operator waits for before replacing a binary comes.
    let version = http_get(server.setup.ports.client, "/version").expect("answered").body;
    assert_eq!(version, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    assert_eq!(downgrade(&api, Cancel, "nonsense").await.expect("ended").version, "3.7");
    assert_eq!(under_way(&server).await, None);

    let unknown = DowngradeRequest { action: 9, version: "3.6".to_owned() };
    let outcome = api.maintenance.clone().downgrade(unknown).await;
    refused(outcome, Code::Unknown, "etcdserver: unknown method");
}

async fn a_downgrade_under_way_outlives_a_restart(setup: Setup) {
    // Snapshots often, so that backends which come back from one do.
    let mut server = setup.flags(["--snapshot-count=20", "--snapshot-catchup-entries=5"]).start();
    let api = server.api();
    downgrade(&api, Enable, "3.6.0").await.expect("begun");
    for index in 0..60 {
        api.put("k", &format!("{index}")).await;
    }
    server.kill();
    server.restart();
    assert_eq!(under_way(&server).await.as_deref(), Some("3.6.0"));
    downgrade(&server.api(), Cancel, "").await.expect("ended");
    server.end();
    server.restart();
    assert_eq!(under_way(&server).await, None);
}
