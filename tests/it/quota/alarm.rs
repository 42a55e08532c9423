//! Alarms that somebody sets and clears by hand.

use super::*;
use crate::harness::grpc::{put_op, range, range_op, txn_op};
use crate::harness::{for_each_backend, refused};

for_each_backend!(alarms_are_a_list_of_pairs, a_corrupt_store_is_not_written_and_can_be_read);
for_each_backend!(castd: an_alarm_raised_by_hand_stays, checks_tell_of_a_corrupt_store);

async fn alarms_are_a_list_of_pairs(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let both = [(3, CORRUPT_KIND), (5, NOSPACE_KIND)];
    if !server.setup.is_etcd() {
        // 3.4 raises it.
        assert_eq!(ask_alarm(&api, ACTIVATE, 5, NONE_KIND).await, [], "nothing to raise");
    }
    assert_eq!(ask_alarm(&api, ACTIVATE, 5, NOSPACE_KIND).await, [(5, NOSPACE_KIND)]);
    assert_eq!(ask_alarm(&api, ACTIVATE, 5, NOSPACE_KIND).await, [(5, NOSPACE_KIND)], "told again");
    assert_eq!(ask_alarm(&api, ACTIVATE, 3, CORRUPT_KIND).await, [(3, CORRUPT_KIND)]);
    assert_eq!(alarms(&api).await, both);
    assert_eq!(ask_alarm(&api, GET, 99, NONE_KIND).await, both, "of all members");
    assert_eq!(ask_alarm(&api, GET, 0, CORRUPT_KIND).await, [(3, CORRUPT_KIND)]);
    assert_eq!(ask_alarm(&api, DEACTIVATE, 5, CORRUPT_KIND).await, [], "another kind");
    assert_eq!(ask_alarm(&api, DEACTIVATE, 3, NOSPACE_KIND).await, [], "another member");
    assert_eq!(ask_alarm(&api, DEACTIVATE, 5, NONE_KIND).await, []);
    assert_eq!(alarms(&api).await, both);
    assert_eq!(ask_alarm(&api, DEACTIVATE, 3, CORRUPT_KIND).await, [(3, CORRUPT_KIND)]);
    assert_eq!(ask_alarm(&api, DEACTIVATE, 3, CORRUPT_KIND).await, []);
    if !server.setup.is_etcd() {
        // 3.4 forgets the one alarm when it clears the other.
        refused(put_small(&api).await, Code::ResourceExhausted, NO_SPACE);
        assert_eq!(api.revision().await, 1, "alarms make no revision");
    }
    assert_eq!(ask_alarm(&api, DEACTIVATE, 5, NOSPACE_KIND).await, [(5, NOSPACE_KIND)]);
    put_small(&api).await.expect("there is room");
}

async fn a_corrupt_store_is_not_written_and_can_be_read(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    api.put("a", "1").await;
    let revision = api.put("a", "2").await;
    api.grant(7, 600).await.expect("granted");
    ask_alarm(&api, ACTIVATE, 3, CORRUPT_KIND).await;
    refused(put_small(&api).await, Code::DataLoss, CORRUPT);
    refused(api.delete("a", "").await, Code::DataLoss, CORRUPT);
    refused(api.txn(vec![], vec![put_op("a", "3")], vec![]).await, Code::DataLoss, CORRUPT);
    let nested = txn_op(vec![], vec![range_op("a", "")], vec![]);
    refused(api.txn(vec![], vec![nested], vec![]).await, Code::DataLoss, CORRUPT);
    refused(api.compact(revision, false).await, Code::DataLoss, CORRUPT);
    refused(api.grant(8, 600).await, Code::DataLoss, CORRUPT);
    refused(api.revoke(7).await, Code::DataLoss, CORRUPT);
    assert_eq!(api.range(range("a", "")).await.expect("read").count, 1);
    let read = api.txn(vec![], vec![range_op("a", "")], vec![]).await.expect("read");
    assert!(read.succeeded);
    assert_eq!(ask_alarm(&api, DEACTIVATE, 3, CORRUPT_KIND).await, [(3, CORRUPT_KIND)]);
    assert_eq!(api.put("a", "3").await, revision + 1, "what was refused has left nothing");
    api.revoke(7).await.expect("it was never revoked");
}

/// The store has always had room: whoever raised it had another reason.
async fn an_alarm_raised_by_hand_stays(setup: Setup) {
    let mut server = with_quota(setup).start();
    let member = member(&server.api()).await;
    ask_alarm(&server.api(), ACTIVATE, member, NOSPACE_KIND).await;
    server.kill();
    server.restart();
    let api = server.api();
    for _ in 0..20 {
        refused(put_small(&api).await, Code::ResourceExhausted, NO_SPACE);
    }
    assert_eq!(alarms(&api).await, [(member, NOSPACE_KIND)]);
    for action in [GET, ACTIVATE] {
        let request = AlarmRequest { action, member_id: member, alarm: NOSPACE_KIND };
        let answer = api.maintenance.clone().alarm(request).await.expect("answered").into_inner();
        assert_eq!(answer.header.expect("since 3.5").member_id, member);
    }
    server.etcdctl(&["alarm", "disarm"]).prints(&format!("memberID:{member} alarm:NOSPACE \n"));
    put_small(&api).await.expect("there is room");
}

async fn checks_tell_of_a_corrupt_store(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    ask_alarm(&api, ACTIVATE, 3, CORRUPT_KIND).await;
    let get = |path| http_get(server.setup.ports.client, path).expect("answered");
    let ill = get("/health");
    assert_eq!((ill.status, ill.body.trim_end()), (503, r#"{"health":"false","reason":"ALARM CORRUPT"}"#));
    assert_eq!(get("/health?exclude=CORRUPT").status, 200);
    let unready = get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.body.contains("[-]data_corruption failed: alarm activated: CORRUPT"), "{}", unready.body);
    assert_eq!(get("/readyz?exclude=data_corruption").status, 200);
    assert_eq!(get("/livez").status, 200);
    assert_eq!(alarm_metric(&server, 3, "CORRUPT"), Some(1.0));
    assert_eq!(status(&api).await.errors, ["memberID:3 alarm:CORRUPT "]);
    assert_eq!(ask_alarm(&api, DEACTIVATE, 3, CORRUPT_KIND).await, [(3, CORRUPT_KIND)]);
    assert_eq!(get("/readyz").status, 200);
}
