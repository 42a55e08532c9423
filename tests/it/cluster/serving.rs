//! Every member serves every call, whoever leads.

use crate::harness::grpc::{compare, put, put_op, range, range_op, shown, watch};
use crate::harness::{Cluster, Setup, ctl, for_each_backend, wait_for};
use castd_proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use castd_proto::etcdserverpb::{LeaseKeepAliveRequest, PutRequest, RangeRequest, WatchCreateRequest};
use etcd_client::PutOptions;
use std::time::Duration;

for_each_backend!(castd:
    what_one_member_writes_the_others_read_at_once,
    transactions_on_one_key_through_all_members_lose_no_update,
    a_watch_on_each_member_sees_all_writes_in_order,
    leases_are_kept_and_asked_after_and_revoked_through_each_member,
    many_clients_on_all_members_are_all_answered,
    a_value_of_the_largest_size_goes_through_a_follower,
);

const PATIENCE: Duration = Duration::from_secs(30);

async fn what_one_member_writes_the_others_read_at_once(setup: Setup) {
    let cluster = Cluster::start(&setup, 3);
    let apis = cluster.apis();
    for (writer, api) in apis.iter().enumerate() {
        for round in 0..10 {
            let (key, value) = (format!("k{writer}"), format!("{writer}-{round}"));
            let revision = api.put(&key, &value).await;
            for reader in &apis {
                let found = reader.get(&key).await.expect("written before");
                assert_eq!((found.value.as_ref(), found.mod_revision), (value.as_bytes(), revision));
            }
            // And without asking anybody, on the member that answered the write.
            let own = RangeRequest { serializable: true, ..range(&key, "") };
            let found = api.range(own).await.expect("read").kvs.pop().expect("its own write");
            assert_eq!(found.mod_revision, revision);
        }
        assert_eq!(api.delete(&format!("k{writer}"), "").await.expect("deleted").deleted, 1);
        assert!(apis[(writer + 1) % 3].get(&format!("k{writer}")).await.is_none());
    }
    cluster.assert_equal().await;
    for server in &cluster.servers {
        let table = ctl::command(&server.endpoint(), &["endpoint", "health"]).output().expect("etcdctl runs");
        assert!(table.status.success(), "{table:?}");
    }
}

async fn transactions_on_one_key_through_all_members_lose_no_update(setup: Setup) {
    const EACH: usize = 30;
    let cluster = Cluster::start(&setup, 3);
    cluster.servers[0].api().put("counter", "0").await;
    let adding = cluster.apis().into_iter().map(|api| {
        tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                let found = api.get("counter").await.expect("it is there");
                let next: u64 = std::str::from_utf8(&found.value).expect("text").parse::<u64>().expect("a number") + 1;
                let unchanged =
                    compare("counter", "", CompareResult::Equal, TargetUnion::ModRevision(found.mod_revision));
                let write = put_op("counter", &next.to_string());
                let answer = api.txn(vec![unchanged], vec![write], vec![range_op("counter", "")]).await;
                done += usize::from(answer.expect("answered").succeeded);
            }
        })
    });
    for task in adding.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    let found = cluster.servers[1].api().get("counter").await.expect("it is there");
    assert_eq!((found.value.as_ref(), found.version), ((3 * EACH).to_string().as_bytes(), 3 * EACH as i64 + 1));
    cluster.assert_equal().await;
}

async fn a_watch_on_each_member_sees_all_writes_in_order(setup: Setup) {
    const WRITES: usize = 60;
    let cluster = Cluster::start(&setup, 3);
    let apis = cluster.apis();
    let mut streams = Vec::new();
    for api in &apis {
        let mut stream = api.watch_stream();
        stream.create(WatchCreateRequest { start_revision: 1, ..watch("k", "l") }).await;
        streams.push(stream);
    }
    for write in 0..WRITES {
        apis[write % 3].put(&format!("k{}", write % 7), &write.to_string()).await;
    }
    let mut all = Vec::new();
    for stream in &mut streams {
        all.push(stream.events(WRITES).await.iter().map(shown).collect::<Vec<_>>());
    }
    assert!(all[0].len() == WRITES && all[0] == all[1] && all[1] == all[2], "{all:?}");
}

async fn leases_are_kept_and_asked_after_and_revoked_through_each_member(setup: Setup) {
    let cluster = Cluster::start(&setup, 3);
    let apis = cluster.apis();
    for (place, api) in apis.iter().enumerate() {
        let id = 100 + place as i64;
        api.grant(id, 600).await.expect("granted");
        api.put_with(PutRequest { lease: id, ..put(&format!("leased{place}"), "v") }).await.expect("put");
        for (other, asked) in apis.iter().enumerate() {
            let (requests, receiver) = tokio::sync::mpsc::channel(1);
            requests.send(LeaseKeepAliveRequest { id }).await.expect("taken");
            let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut answers = asked.lease.clone().lease_keep_alive(stream).await.expect("opened").into_inner();
            let answer = answers.message().await.expect("answered").expect("an answer");
            assert_eq!((answer.id, answer.ttl), (id, 600), "through member {other}");
            let left = asked.time_to_live(id).await;
            let own = asked.status().await.expect("answered").header.expect("a header").member_id;
            assert_eq!(left.header.as_ref().expect("a header").member_id, own, "whoever is asked answers");
            assert_eq!((left.granted_ttl, left.keys.len()), (600, 1));
            assert!((590..=600).contains(&left.ttl), "{left:?}");
        }
    }
    for (place, api) in apis.iter().enumerate() {
        let id = 100 + ((place + 1) % 3) as i64;
        api.revoke(id).await.expect("revoked");
        assert_eq!(apis[(place + 2) % 3].time_to_live(id).await.ttl, -1);
    }
    // One that nobody keeps alive runs out, for all.
    apis[2].grant(7, 1).await.expect("granted");
    let short = Some(PutOptions::new().with_lease(7));
    cluster.servers[1].client().await.put("short", "v", short).await.expect("put");
    for api in &apis {
        wait_for("the lease runs out", PATIENCE, async || api.get("short").await.is_none().then_some(())).await;
    }
    cluster.assert_equal().await;
}

async fn many_clients_on_all_members_are_all_answered(setup: Setup) {
    const CLIENTS: usize = 60;
    const EACH: usize = 40;
    let cluster = Cluster::start(&setup, 3);
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let api = cluster.servers[client % 3].api();
        tasks.push(tokio::spawn(async move {
            for write in 0..EACH {
                api.put(&format!("c{client}"), &write.to_string()).await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    for api in cluster.apis() {
        assert_eq!(api.revision().await, 1 + (CLIENTS * EACH) as i64, "each write was carried out once");
        assert_eq!(api.count("c").await, CLIENTS as i64);
    }
    cluster.assert_equal().await;
}

async fn a_value_of_the_largest_size_goes_through_a_follower(setup: Setup) {
    let cluster = Cluster::start(&setup, 3);
    let follower = (cluster.leader().await + 1) % 3;
    let value = "v".repeat(1_500_000);
    let apis = cluster.apis();
    for round in 0..8 {
        apis[follower].put(&format!("large{round}"), &value).await;
    }
    for api in &apis {
        assert_eq!(api.get("large7").await.expect("there").value.len(), value.len());
    }
}
