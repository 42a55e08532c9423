//! Put and DeleteRange.

use crate::harness::grpc::{put, text};
use crate::harness::{Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::PutRequest;
use etcd_client::{DeleteOptions, PutOptions};
use tonic::Code;

for_each_backend!(
    a_put_makes_a_revision_and_keeps_count_of_its_key,
    a_put_may_keep_the_old_value_or_the_old_lease,
    a_put_that_cannot_be_is_refused_and_changes_nothing,
    a_delete_takes_a_range_in_one_revision_and_returns_it_when_asked,
    concurrent_puts_each_have_a_revision_of_their_own,
);

async fn a_put_makes_a_revision_and_keeps_count_of_its_key(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    let first = client.put("k", "one", Some(PutOptions::new().with_prev_key())).await.expect("put");
    let header = first.header().expect("a header");
    assert_eq!(header.revision(), 2, "a new store is at revision 1");
    assert!(first.prev_key().is_none());
    assert!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() > 0);

    let second = client.put("k", "two", Some(PutOptions::new().with_prev_key())).await.expect("put");
    let old = second.prev_key().expect("there was one");
    assert_eq!((old.value(), old.create_revision(), old.mod_revision(), old.version()), (&b"one"[..], 2, 2, 1));
    assert!(client.put("k", "two", None).await.expect("the same again").prev_key().is_none());

    let found = client.get("k", None).await.expect("read");
    let kv = &found.kvs()[0];
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (2, 4, 3));

    client.delete("k", None).await.expect("deleted");
    client.put("k", "anew", None).await.expect("put");
    let found = client.get("k", None).await.expect("read");
    let kv = &found.kvs()[0];
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (6, 6, 1), "a new life");
}

async fn a_put_may_keep_the_old_value_or_the_old_lease(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for lease in [7, 8] {
        api.grant(lease, 3_600).await.expect("granted");
    }
    api.put_with(PutRequest { lease: 7, ..put("k", "v") }).await.expect("put");

    let request = PutRequest { ignore_value: true, lease: 8, prev_kv: true, ..put("k", "") };
    let old = api.put_with(request).await.expect("the value stays").prev_kv.expect("asked for");
    assert_eq!((old.value.as_ref(), old.lease), (b"v".as_slice(), 7));
    let now = api.get("k").await.expect("there");
    assert_eq!((now.value.as_ref(), now.lease, now.version), (b"v".as_slice(), 8, 2));

    api.put_with(PutRequest { ignore_lease: true, ..put("k", "w") }).await.expect("the lease stays");
    let now = api.get("k").await.expect("there");
    assert_eq!((now.value.as_ref(), now.lease, now.version), (b"w".as_slice(), 8, 3));

    api.put_with(PutRequest { ignore_value: true, ignore_lease: true, ..put("k", "") }).await.expect("both stay");
    let now = api.get("k").await.expect("there");
    assert_eq!((now.value.as_ref(), now.lease, now.version), (b"w".as_slice(), 8, 4));

    api.put("k", "x").await;
    assert_eq!(api.get("k").await.expect("there").lease, 0, "a put without a lease leaves the old one");
    assert!(api.time_to_live(8).await.keys.is_empty());
    api.revoke(8).await.expect("revoked");
    assert_eq!(api.get("k").await.expect("there").value, "x");
}

async fn a_put_that_cannot_be_is_refused_and_changes_nothing(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let revision = api.put("there", "1").await;
    let invalid = Code::InvalidArgument;
    refused(api.put_with(put("", "v")).await, invalid, text::EMPTY_KEY);
    let request = PutRequest { ignore_value: true, ..put("there", "v") };
    refused(api.put_with(request).await, invalid, "etcdserver: value is provided");
    let request = PutRequest { ignore_lease: true, lease: 5, ..put("there", "v") };
    refused(api.put_with(request).await, invalid, "etcdserver: lease is provided");
    let request = PutRequest { ignore_value: true, ..put("nowhere", "") };
    refused(api.put_with(request).await, invalid, text::KEY_NOT_FOUND);
    let request = PutRequest { ignore_lease: true, ..put("nowhere", "v") };
    refused(api.put_with(request).await, invalid, text::KEY_NOT_FOUND);
    let request = PutRequest { lease: 404, ..put("there", "v") };
    refused(api.put_with(request).await, Code::NotFound, text::LEASE_NOT_FOUND);
    // The first mistake in this order is the one that is told.
    let request = PutRequest { ignore_value: true, ignore_lease: true, lease: 404, ..put("", "v") };
    refused(api.put_with(request).await, invalid, text::EMPTY_KEY);
    let request = PutRequest { ignore_value: true, ignore_lease: true, lease: 404, ..put("there", "v") };
    refused(api.put_with(request).await, invalid, "etcdserver: value is provided");

    assert_eq!(api.revision().await, revision);
    assert_eq!(api.get("there").await.expect("there").version, 1);
}

async fn a_delete_takes_a_range_in_one_revision_and_returns_it_when_asked(setup: Setup) {
    let server = setup.start();
    let mut client = server.client().await;
    for key in ["a", "b1", "b2", "b3", "c", "d"] {
        client.put(key, format!("{key}'s value"), None).await.expect("put");
    }
    let options = DeleteOptions::new().with_prefix().with_prev_key();
    let answer = client.delete("b", Some(options)).await.expect("deleted");
    assert_eq!((answer.deleted(), answer.header().expect("a header").revision()), (3, 8));
    let old: Vec<_> = answer.prev_kvs().iter().map(|kv| (kv.key_str().expect("text"), kv.version())).collect();
    assert_eq!(old, [("b1", 1), ("b2", 1), ("b3", 1)]);

    let nothing = client.delete("b", Some(DeleteOptions::new().with_prefix())).await.expect("nothing to delete");
    assert_eq!((nothing.deleted(), nothing.header().expect("a header").revision()), (0, 8));
    let one = client.delete("c", None).await.expect("deleted");
    assert_eq!((one.deleted(), one.prev_kvs().len(), one.header().expect("a header").revision()), (1, 0, 9));
    let rest = client.delete("b", Some(DeleteOptions::new().with_from_key())).await.expect("deleted");
    assert_eq!((rest.deleted(), rest.header().expect("a header").revision()), (1, 10));
    let all = client.delete("", Some(DeleteOptions::new().with_all_keys())).await.expect("deleted");
    assert_eq!((all.deleted(), all.header().expect("a header").revision()), (1, 11));

    let api = server.api();
    refused(api.delete("", "").await, Code::InvalidArgument, text::EMPTY_KEY);
    refused(api.delete("", "z").await, Code::InvalidArgument, text::EMPTY_KEY);
    api.put("m", "1").await;
    assert_eq!(api.delete("z", "a").await.expect("an empty range").deleted, 0);
    assert_eq!(api.revision().await, 12);
}

async fn concurrent_puts_each_have_a_revision_of_their_own(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let api = api.clone();
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for round in 0..20 {
                let revision = api.put(&format!("w{writer}"), &format!("{round}")).await;
                let read = api.get(&format!("w{writer}")).await.expect("one's own write is seen");
                assert_eq!((read.mod_revision, read.version), (revision, round + 1));
                revisions.push(revision);
            }
            assert!(revisions.is_sorted());
            revisions
        });
    }
    let mut revisions: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..2 + 16 * 20).collect::<Vec<_>>());
}
