//! At the limit: filled, refused, freed.

use super::*;
use crate::harness::grpc::{delete_op, put, put_op, range, range_op, txn_op};
use crate::harness::{for_each_backend, refused};
use etcd_client::{Compare, CompareOp, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use futures_util::future::join_all;

for_each_backend!(castd:
    a_quota_of_13_pages_is_filled_and_freed_again,
    a_full_store_is_still_full_after_a_restart_and_a_larger_quota_frees_it,
    disarmed_by_hand_it_is_raised_again_by_the_next_write,
    a_txn_costs_what_its_dearer_branch_puts,
    a_burst_raises_one_alarm,
    without_a_quota_nothing_is_refused,
    sizes_are_those_of_the_rows_and_survive_a_restart,
);

async fn a_quota_of_13_pages_is_filled_and_freed_again(setup: Setup) {
    let server = with_quota(setup).start();
    let api = server.api();
    let mut client = server.client().await;
    let member = member(&api).await;
    assert_eq!(alarms(&api).await, []);
    server.etcdctl(&["alarm", "list"]).prints("");
    assert_eq!(metric(&server, "etcd_server_quota_backend_bytes"), Some(QUOTA_BYTES as f64));

    // Twice: what was freed can be filled again.
    for round in 0..2 {
        client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(7))).await.expect("granted");
        client.put("leased", "v", Some(PutOptions::new().with_lease(7))).await.expect("put");
        let pages = fill(&api).await;
        assert!((9..13).contains(&pages), "there was room for {pages} pages");
        assert_eq!(alarms(&api).await, [(member, NOSPACE_KIND)]);
        server.etcdctl(&["alarm", "list"]).prints(&format!("memberID:{member} alarm:NOSPACE \n"));
        let full = status(&api).await;
        assert_eq!(full.db_size % PAGE_BYTES, 0);
        assert!(full.db_size <= QUOTA_BYTES && full.db_size_in_use <= full.db_size, "{full:?}");
        assert_eq!(full.errors, [format!("memberID:{member} alarm:NOSPACE ")]);
        assert_eq!(full.db_size_quota, QUOTA_BYTES);
        assert_eq!(alarm_metric(&server, member, "NOSPACE"), Some(1.0));

        // Refused in all tongues.
        refused(client.put("small", "v", None).await, Code::ResourceExhausted, NO_SPACE);
        server.etcdctl(&["put", "small", "v"]).fails(1, &format!("Error: {NO_SPACE}"));
        let txn = Txn::new().and_then([TxnOp::put("small", "v", None)]);
        refused(client.txn(txn).await, Code::ResourceExhausted, NO_SPACE);
        refused(client.lease_grant(60, None).await, Code::ResourceExhausted, NO_SPACE);
        server.etcdctl(&["lease", "grant", "60"]).fails(1, &format!("Error: failed to grant lease ({NO_SPACE})"));
        let two_faults = put("", &"v".repeat(PAGE_BYTES as usize));
        refused(api.put_with(two_faults).await, Code::ResourceExhausted, NO_SPACE);

        // What needs no room goes on.
        assert_eq!(client.get("page", None).await.expect("read").count(), 1);
        let read = Txn::new()
            .when([Compare::version("page", CompareOp::Greater, 0)])
            .and_then([TxnOp::txn(Txn::new().and_then([TxnOp::get("page", None)])), TxnOp::delete("gone", None)]);
        assert!(client.txn(read).await.expect("a txn without a put").succeeded());
        let (mut keeper, mut answers) = client.lease_keep_alive(7).await.expect("a stream opens");
        keeper.keep_alive().await.expect("sent");
        assert_eq!(answers.message().await.expect("goes on").expect("an answer").ttl(), 600);
        let health = |path| http_get(server.setup.ports.client, path).expect("answered");
        let ill = health("/health");
        assert_eq!((ill.status, ill.body.trim_end()), (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
        assert_eq!(health("/health?exclude=CORRUPT").status, 503);
        assert_eq!(health("/health?exclude=NOSPACE").body, r#"{"health":"true","reason":""}"#);
        assert_eq!(health("/readyz").status, 200, "NOSPACE is not looked at");
        client.lease_revoke(7).await.expect("revoked");
        assert_eq!(client.get("leased", None).await.expect("read").count(), 0);
        if round == 1 {
            assert_eq!(client.delete("page", None).await.expect("deleted").deleted(), 1);
        }

        compact(&api).await;
        wait_until_room(&api).await;
        assert_eq!(alarm_metric(&server, member, "NOSPACE"), Some(0.0));
        assert_eq!(says(&server, "there is room again; disarming the alarm").await, round + 1);
        assert_eq!(health("/health").status, 200);
        put_small(&api).await.expect("there is room");
        let free = status(&api).await;
        assert!(free.db_size <= 3 * PAGE_BYTES && free.errors.is_empty(), "{free:?}");
    }
}

async fn a_full_store_is_still_full_after_a_restart_and_a_larger_quota_frees_it(setup: Setup) {
    let larger = setup.clone().flag(format!("--quota-backend-bytes={}", 2 * QUOTA_BYTES));
    let mut server = with_quota(setup).start();
    fill(&server.api()).await;
    let before = status(&server.api()).await;
    for kills in [true, false] {
        if kills {
            server.kill();
        } else {
            server.end();
        }
        server.restart();
        let api = server.api();
        assert_eq!(alarms(&api).await.len(), 1);
        refused(put_small(&api).await, Code::ResourceExhausted, NO_SPACE);
        let after = status(&api).await;
        assert_eq!((after.db_size, after.db_size_in_use), (before.db_size, before.db_size_in_use));
        assert_eq!(alarm_metric(&server, member(&api).await, "NOSPACE"), Some(1.0));
    }
    server.end();
    server.setup = larger;
    server.restart();
    let api = server.api();
    wait_until_room(&api).await;
    put_small(&api).await.expect("there is room");
}

async fn disarmed_by_hand_it_is_raised_again_by_the_next_write(setup: Setup) {
    let server = by_hand(setup).start();
    let api = server.api();
    let member = member(&api).await;
    let line = format!("memberID:{member} alarm:NOSPACE \n");
    fill(&api).await;
    server.etcdctl(&["alarm", "disarm"]).prints(&line);
    server.etcdctl(&["alarm", "list"]).prints("");
    put_small(&api).await.expect("so small a write fits");
    assert_eq!(fill(&api).await, 0);
    server.etcdctl(&["alarm", "list"]).prints(&line);

    // With room it stays until somebody takes it back.
    compact(&api).await;
    wait_for("the rows are gone", SOON, async || (status(&api).await.db_size < 3 * PAGE_BYTES).then_some(())).await;
    for _ in 0..20 {
        refused(put_small(&api).await, Code::ResourceExhausted, NO_SPACE);
    }
    server.etcdctl(&["alarm", "list"]).prints(&line);
    assert_eq!(says(&server, "alarm raised").await, 2);
    server.etcdctl(&["alarm", "disarm"]).prints(&line);
    put_small(&api).await.expect("there is room");
    server.etcdctl(&["alarm", "disarm"]).prints("");
}

async fn a_txn_costs_what_its_dearer_branch_puts(setup: Setup) {
    let server = by_hand(setup).start();
    let api = server.api();
    let member = member(&api).await;
    let half = "v".repeat(QUOTA_BYTES as usize / 2);
    let cheap = || vec![put_op("a", "v")];
    let dear = |keys: [&str; 2]| keys.map(|key| put_op(key, &half)).to_vec();
    api.txn(vec![], vec![put_op("a", &half)], cheap()).await.expect("half of the quota fits");
    api.delete("a", "").await.expect("deleted");
    compact(&api).await;
    wait_for("the rows are gone", SOON, async || (status(&api).await.db_size == PAGE_BYTES).then_some(())).await;
    let refusals = [
        (dear(["a", "b"]), cheap()),
        // The branch that would not run counts, too; and so does what is nested.
        (cheap(), dear(["a", "b"])),
        (cheap(), vec![put_op("b", &half), txn_op(vec![], cheap(), vec![put_op("c", &half)])]),
    ];
    for (success, failure) in refusals {
        refused(api.txn(vec![], success, failure).await, Code::ResourceExhausted, NO_SPACE);
        assert_eq!(ask_alarm(&api, DEACTIVATE, member, NOSPACE_KIND).await, [(member, NOSPACE_KIND)]);
    }
    let free = vec![range_op("a", ""), delete_op("x", "y"), txn_op(vec![], vec![range_op("a", "")], vec![])];
    api.txn(vec![], free, vec![]).await.expect("what puts nothing costs nothing");
    api.txn(vec![], cheap(), vec![txn_op(vec![], vec![put_op("b", &half)], vec![put_op("c", &half)])])
        .await
        .expect("of two nested branches one runs");
    assert_eq!(alarms(&api).await, []);
}

/// All of them find room when they ask, and not all when it is their turn.
async fn a_burst_raises_one_alarm(setup: Setup) {
    let server = by_hand(setup).start();
    let api = server.api();
    let page = "v".repeat(PAGE_BYTES as usize);
    let puts = (0..64).map(|number| {
        let (api, put) = (api.clone(), put(&format!("{number:03}"), &page));
        async move { api.put_with(put).await }
    });
    let answers = join_all(puts).await;
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..13).contains(&done), "{done} puts had room");
    for answer in answers {
        if let Err(refusal) = answer {
            assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, NO_SPACE));
        }
    }
    assert_eq!(alarms(&api).await.len(), 1);
    assert_eq!(says(&server, "alarm raised").await, 1);
    let kept = api.range(range("000", "999")).await.expect("read").count;
    assert!(kept >= done as i64, "{kept} of {done} are there: a write at the limit is done, whatever its answer");
}

async fn without_a_quota_nothing_is_refused(setup: Setup) {
    let server = setup.flag("--quota-backend-bytes=-1").start();
    let api = server.api();
    let page = "v".repeat(PAGE_BYTES as usize);
    for _ in 0..20 {
        api.put("page", &page).await;
    }
    let status = status(&api).await;
    assert!(status.db_size > QUOTA_BYTES && status.db_size_quota < 0, "{status:?}");
    assert_eq!(alarms(&api).await, []);
    assert_eq!(says(&server, "disabled backend quota").await, 1);
}

async fn sizes_are_those_of_the_rows_and_survive_a_restart(setup: Setup) {
    let mut server = setup.start();
    let api = server.api();
    let sizes = async |api: &Api| {
        let status = status(api).await;
        (status.db_size, status.db_size_in_use)
    };
    assert_eq!(sizes(&api).await, (PAGE_BYTES, PAGE_BYTES), "an empty store");
    for number in 0..40 {
        api.put(&format!("{}", number % 7), &"v".repeat(number * 100)).await;
        api.grant(1_000 + number as i64, 100).await.expect("granted");
    }
    api.delete("3", "5").await.expect("deleted");
    let revision = api.revision().await;
    // 78,000 bytes of values, and some 40 to 60 for each row beside it.
    let before = sizes(&api).await;
    assert!((78_000..78_000 + 83 * 60).contains(&(before.0 - PAGE_BYTES / 2)), "{before:?}");
    server.kill();
    server.restart();
    assert_eq!(sizes(&server.api()).await, before);
    let api = server.api();
    api.compact(revision, true).await.expect("compacted");
    wait_for("the rows are gone", SOON, async || (sizes(&api).await.0 < 40_000).then_some(())).await;
    let compacted = sizes(&api).await;
    assert_eq!(compacted.0, compacted.1, "nothing waits for deletion");
    assert_eq!(metric(&server, "etcd_mvcc_db_total_size_in_bytes"), Some(compacted.0 as f64));
    assert_eq!(metric(&server, "etcd_mvcc_db_total_size_in_use_in_bytes"), Some(compacted.1 as f64));
    server.end();
    server.restart();
    let api = server.api();
    // Memory replays its log, and so deletes once more.
    wait_for("the size is what it was", SOON, async || (sizes(&api).await == compacted).then_some(())).await;
}
