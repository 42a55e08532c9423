//! Who the member says it is, how it is, and what it cannot do yet.

use crate::harness::grpc::range;
use crate::harness::{Setup, for_each_backend, refused, wait_for};
use castd_proto::etcdserverpb::{MemberListRequest, RangeRequest, StatusRequest};
use castd_proto::health::{HealthCheckRequest, health_client::HealthClient};
use sha1::{Digest, Sha1};
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

for_each_backend!(
    ids_are_computed_from_peer_urls_and_token_as_etcd_does,
    the_status_of_a_member_alone_is_that_of_a_leader,
    health_is_answered_for_the_server_as_a_whole,
    requests_that_need_a_leader_find_one,
    unknown_calls_are_unimplemented,
);
for_each_backend!(castd: a_client_version_that_is_not_text_is_refused);

fn first_eight_bytes(text: &[u8]) -> u64 {
    let digest = Sha1::digest(text);
    u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
}

async fn ids_are_computed_from_peer_urls_and_token_as_etcd_does(setup: Setup) {
    let setup = setup.flag("--initial-cluster-token=some token");
    let (peer_url, client_url) = (setup.peer_url(), setup.client_url());
    let member_id = first_eight_bytes(format!("{peer_url}some token").as_bytes());
    let cluster_id = first_eight_bytes(&member_id.to_be_bytes());
    let server = setup.start();
    let api = server.api();
    let header = api.range(range("k", "")).await.expect("a range succeeds").header.expect("a header");
    assert_eq!((header.member_id, header.cluster_id), (member_id, cluster_id));
    for linearizable in [false, true] {
        let request = MemberListRequest { linearizable };
        let list = api.cluster.clone().member_list(request).await.expect("listed").into_inner();
        let header = list.header.expect("a header");
        assert_eq!((header.member_id, header.cluster_id, header.revision), (member_id, cluster_id, 0));
        assert!(header.raft_term > 0);
        let [member] = list.members.as_slice() else { panic!("{list:?}") };
        assert_eq!((member.id, member.name.as_str(), member.is_learner), (member_id, "m1", false));
        assert_eq!(member.peer_urls, [peer_url.as_str()]);
        assert_eq!(member.client_urls, [client_url.as_str()]);
    }
    let mut client = server.client().await;
    let list = client.member_list().await.expect("listed");
    assert_eq!(list.members()[0].id(), member_id);
    server
        .etcdctl(&["member", "list"])
        .prints(&format!("{member_id:x}, started, m1, {peer_url}, {client_url}, false\n"));
}

async fn the_status_of_a_member_alone_is_that_of_a_leader(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let before = api.maintenance.clone().status(StatusRequest {}).await.expect("answered").into_inner();
    for index in 0..10 {
        api.put("k", &"v".repeat(1_000 * index)).await;
    }
    let status = wait_for("all is applied", Duration::from_secs(10), async || {
        let status = api.maintenance.clone().status(StatusRequest {}).await.expect("answered").into_inner();
        assert!(status.raft_applied_index <= status.raft_index, "applied but not committed: {status:?}");
        (status.raft_applied_index == status.raft_index).then_some(status)
    });
    let status = status.await;
    let header = status.header.expect("a header");
    assert_eq!(header.revision, 11);
    assert_eq!(status.leader, header.member_id);
    assert_eq!((status.raft_term, status.is_learner), (header.raft_term, false));
    assert!(status.errors.is_empty(), "{:?}", status.errors);
    assert!(status.raft_index >= before.raft_index + 10);
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size);
    if !server.setup.is_etcd() {
        assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.1", "3.7.0"));
        assert_eq!(status.db_size_quota, 2_147_483_648);
        let downgrade = status.downgrade_info.expect("always there");
        assert_eq!((downgrade.enabled, downgrade.target_version.as_str()), (false, ""));
    }
}

async fn health_is_answered_for_the_server_as_a_whole(setup: Setup) {
    let server = setup.start();
    let mut health = HealthClient::new(server.api().channel);
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let serving = 1;
    assert_eq!(health.check(check("")).await.expect("checked").into_inner().status, serving);
    refused(health.check(check("etcdserverpb.KV")).await, Code::NotFound, "unknown service");
    let mut statuses = health.watch(check("")).await.expect("a stream opens").into_inner();
    assert_eq!(statuses.message().await.expect("goes on").expect("a status").status, serving);
    let service_unknown = 3;
    let mut statuses = health.watch(check("nothing")).await.expect("a stream opens").into_inner();
    assert_eq!(statuses.message().await.expect("goes on").expect("a status").status, service_unknown);
}

async fn requests_that_need_a_leader_find_one(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut request = Request::new(range("k", ""));
    request.metadata_mut().insert("hasleader", "true".parse().expect("text"));
    api.kv.clone().range(request).await.expect("there is a leader");
}

async fn a_client_version_that_is_not_text_is_refused(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut request = Request::new(RangeRequest { ..range("k", "") });
    let version = MetadataValue::try_from(b"3.\xff".as_slice()).expect("bytes a header may have");
    request.metadata_mut().insert("client-api-version", version);
    refused(api.kv.clone().range(request).await, Code::InvalidArgument, "etcdserver: invalid client api version");
    let mut request = Request::new(range("k", ""));
    request.metadata_mut().insert("client-api-version", "3.99".parse().expect("text"));
    api.kv.clone().range(request).await.expect("any text will do");
}

async fn unknown_calls_are_unimplemented(setup: Setup) {
    let server = setup.start();
    let codec = || tonic_prost::ProstCodec::<RangeRequest, RangeRequest>::default();
    let mut raw = tonic::client::Grpc::new(server.api().channel);
    for path in ["/etcdserverpb.KV/Nothing", "/etcdserverpb.Nothing/Range"] {
        raw.ready().await.expect("connected");
        let path = http::uri::PathAndQuery::from_static(path);
        let outcome = raw.unary(Request::new(range("k", "")), path, codec()).await;
        assert_eq!(outcome.expect_err("there is no such call").code(), Code::Unimplemented);
    }
}
