//! MoveLeader, of a member that is alone.

use crate::harness::{Setup, for_each_backend, refused};
use castd_proto::etcdserverpb as pb;
use tonic::Code;

for_each_backend!(leadership_goes_to_oneself_and_to_no_stranger);

async fn leadership_goes_to_oneself_and_to_no_stranger(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let status = api.maintenance.clone().status(pb::StatusRequest {}).await.expect("answered").into_inner();
    let own = status.leader;
    let move_to = |target_id| {
        let mut maintenance = api.maintenance.clone();
        async move { maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await.map(|it| it.into_inner()) }
    };
    assert_eq!(move_to(own).await.expect("moved").header, None);
    for stranger in [0, 1, own + 1, u64::MAX] {
        refused(move_to(stranger).await, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    }
    let id = format!("{own:x}");
    server.etcdctl(&["move-leader", &id]).prints(&format!("Leadership transferred from {id} to {id}\n"));
    server.etcdctl(&["move-leader", "1234"]).fails(1, "Error: etcdserver: bad leader transferee");
    server.etcdctl(&["move-leader"]).fails(128, "Error: move-leader command needs 1 argument");
    api.put("k", "v").await;
    let after = api.maintenance.clone().status(pb::StatusRequest {}).await.expect("answered").into_inner();
    assert_eq!((after.leader, after.raft_term), (own, status.raft_term));
}
