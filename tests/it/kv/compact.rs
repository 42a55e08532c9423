//! Compaction: what it takes, what it leaves, what it refuses; and the hash that shows both.

use crate::harness::grpc::{range, text};
use crate::harness::{Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::RangeRequest;
use etcd_client::CompactionOptions;
use tonic::Code;

for_each_backend!(
    compaction_leaves_the_newest_below_its_revision_and_all_above,
    compaction_is_refused_twice_and_ahead_of_time,
    the_hash_of_a_history_is_the_one_etcd_computes,
    compacting_under_load_disturbs_nobody,
);

async fn compaction_leaves_the_newest_below_its_revision_and_all_above(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for value in ["1", "2", "3"] {
        api.put("kept", value).await; // 2, 3, 4
    }
    api.put("gone", "1").await; // 5
    api.delete("gone", "").await.expect("deleted"); // 6
    api.put("later", "1").await; // 7
    api.put("kept", "4").await; // 8

    let header = api.compact(6, true).await.expect("compacted");
    assert_eq!(header.revision, 8, "the revision is not moved");
    let at = |revision| RangeRequest { revision, ..range("a", "\0") };
    for old in 1..6 {
        refused(api.range(at(old)).await, Code::OutOfRange, text::COMPACTED);
    }
    let told = |answer: castd_proto::etcdserverpb::RangeResponse| {
        answer.kvs.iter().map(|kv| (kv.key.clone(), kv.value.clone(), kv.version)).collect::<Vec<_>>()
    };
    let pair = |key: &'static str, value: &'static str, version| (key.into(), value.into(), version);
    assert_eq!(told(api.range(at(6)).await.expect("at it")), [pair("kept", "3", 3)]);
    assert_eq!(told(api.range(at(7)).await.expect("above")), [pair("kept", "3", 3), pair("later", "1", 1)]);
    assert_eq!(told(api.range(at(0)).await.expect("now")), [pair("kept", "4", 4), pair("later", "1", 1)]);
    assert_eq!(api.put("gone", "again").await, 9);
    assert_eq!(api.get("gone").await.expect("there").version, 1);
    api.compact(9, false).await.expect("at the newest revision");
    assert_eq!(told(api.range(at(9)).await.expect("at it")).len(), 3);
}

async fn compaction_is_refused_twice_and_ahead_of_time(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    for index in 0..5 {
        client.put("k", format!("{index}"), None).await.expect("put");
    }
    refused(client.compact(7, None).await, Code::OutOfRange, text::FUTURE);
    client.compact(4, None).await.expect("compacted");
    refused(client.compact(4, None).await, Code::OutOfRange, text::COMPACTED);
    refused(client.compact(3, Some(CompactionOptions::new().with_physical())).await, Code::OutOfRange, text::COMPACTED);
    refused(client.compact(0, None).await, Code::OutOfRange, text::COMPACTED);
    refused(client.compact(-5, None).await, Code::OutOfRange, text::COMPACTED);
    client.compact(6, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
}

/// The hashes were asked of etcd 3.4.23. They cover keys, values, revisions, versions, tombstones and compaction.
async fn the_hash_of_a_history_is_the_one_etcd_computes(setup: Setup) {
    let is_etcd = setup.is_etcd();
    let server = setup.start();
    let api = server.api();
    let hash_of_nothing = api.hash_kv(0).await.expect("hashed");
    assert_eq!(hash_of_nothing.compact_revision, -1);
    api.put("a", "1").await; // 2
    api.put("b", "2").await; // 3
    api.put("a", "3").await; // 4
    api.delete("a", "c").await.expect("deleted"); // 5, two tombstones
    api.put("b", "4").await; // 6
    api.put("c", "5").await; // 7
    let mut found = Vec::new();
    for revision in [2, 3, 4, 5, 6, 7, 0] {
        let answer = api.hash_kv(revision).await.expect("hashed");
        assert_eq!((answer.compact_revision, answer.header.expect("a header").revision), (-1, 7));
        if !is_etcd {
            assert_eq!(answer.hash_revision, if revision == 0 { 7 } else { revision });
        }
        found.push(answer.hash);
    }
    let expected =
        [2_587_454_935, 1_827_592_406, 2_069_675_932, 1_223_078_702, 3_260_156_896, 2_672_287_330, 2_672_287_330];
    assert_eq!(found, expected, "by revision");
    refused(api.hash_kv(8).await, Code::OutOfRange, text::FUTURE);

    // At 4 one of two keys is below its revision, at 5 both are gone, at 6 one is back. The last two numbers are the hash of
    // the compacted revision as it was before, and the revision compacted to then.
    for (compacted, expected, before) in [
        (4, [2_671_492_319, 3_054_055_267], (2_069_675_932, -1)),
        (5, [294_517_486, 661_526_275], (2_671_492_319, 4)),
        (6, [661_526_275, 661_526_275], (294_517_486, 5)),
    ] {
        api.compact(compacted, true).await.expect("compacted");
        refused(api.hash_kv(3).await, Code::OutOfRange, text::COMPACTED);
        let mut found = Vec::new();
        if is_etcd {
            refused(api.hash_kv(compacted).await, Code::OutOfRange, text::COMPACTED);
        } else {
            let at_it = api.hash_kv(compacted).await.expect("hashed");
            assert_eq!((at_it.hash, at_it.compact_revision), before, "compacted at {compacted}");
            assert_eq!((at_it.hash_revision, at_it.header.expect("a header").revision), (compacted, 7));
        }
        for revision in [compacted + 1, 7] {
            let answer = api.hash_kv(revision).await.expect("hashed");
            assert_eq!(answer.compact_revision, compacted);
            found.push(answer.hash);
        }
        assert_eq!(found, expected, "compacted at {compacted}");
    }
    if !is_etcd {
        // The last ten compactions are remembered, even where nothing can be read any more.
        assert_eq!(api.hash_kv(4).await.expect("hashed").hash, 2_069_675_932);
    }
}

async fn compacting_under_load_disturbs_nobody(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let writer = tokio::spawn({
        let api = api.clone();
        async move {
            for round in 0..400 {
                api.put(&format!("k{}", round % 7), &format!("{round}")).await;
            }
        }
    });
    let mut compacted = 0;
    while !writer.is_finished() {
        let revision = api.revision().await;
        if revision > compacted + 10 {
            compacted = revision - 5;
            api.compact(compacted, compacted % 2 == 0).await.expect("compacted");
        }
        let at = RangeRequest { revision: api.revision().await, ..range("k", "l") };
        // A read at the newest revision may be overtaken by nothing but a compaction of ours, and there is none now.
        assert!(api.range(at).await.expect("a range succeeds").kvs.len() <= 7);
    }
    writer.await.expect("the writer ends");
    let kvs = api.range(range("k", "l")).await.expect("a range succeeds").kvs;
    assert_eq!(kvs.iter().map(|kv| kv.version).sum::<i64>(), 400);
    assert_eq!(api.revision().await, 401);
}
