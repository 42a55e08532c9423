//! A snapshot on its way from one member to another, through a network that fails.

use super::ends::{CLUSTER, End, Received, soon};
use super::{A, B, pair};
use crate::peer::courier::{CarriesSnapshots as _, CarryError};
use crate::raft::terms::LogPosition;
use crate::snapshot::outbound::Parcel;
use crate::snapshot::{Exporting, SnapshotFile, file_name};
use castd_backend_api::Table;
use castd_proto::castdpb::{ConfStateRow, SnapshotHeader};
use raft::eraftpb::{Message, MessageType};
use std::time::Duration;
use tokio::task::JoinHandle;

const TERM: u64 = 5;
const POSITION: (u64, u64) = (100, 4);

fn header() -> SnapshotHeader {
    SnapshotHeader {
        format: 1,
        cluster_id: CLUSTER.0,
        index: POSITION.0,
        term: POSITION.1,
        conf_state: Some(ConfStateRow { voters: vec![A.0, B.0], ..Default::default() }),
        ..Default::default()
    }
}

/// Of some 300 bytes for each row.
fn parcel(header: SnapshotHeader, rows: u32) -> Parcel {
    let dir = tempfile::tempdir().expect("a directory");
    let mut exporting = Exporting::begin(dir.path(), &header).expect("begun");
    for row in 0..rows {
        let value: Vec<u8> = (0..300).map(|byte| (row.wrapping_mul(2_654_435_761) >> (byte % 24)) as u8).collect();
        exporting.writer().row(Table::Kv, &row.to_be_bytes(), &value).expect("written");
    }
    let mut message = Message { from: A.0, to: B.0, term: TERM, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (header.index, header.term);
    metadata.set_conf_state(crate::state::conf_state_from_row(header.conf_state.clone().unwrap_or_default()));
    Parcel { to: B, message, snapshot: exporting.finish(header).expect("written") }
}

/// On a thread of its own, as the Snapshotter does it.
fn carried(a: &End, parcel: &Parcel, silence_max: Duration) -> JoinHandle<Result<(), CarryError>> {
    let (courier, parcel) = (a.courier(silence_max), parcel.clone());
    tokio::task::spawn_blocking(move || courier.carry(&parcel))
}

const PATIENT: Duration = Duration::from_secs(30);

/// Raft of `b` hears of it, and the file is there, byte for byte.
async fn arrived(b: &mut End, parcel: &Parcel) {
    soon(async {
        loop {
            if let Received::Step { messages, .. } = b.next().await
                && messages.contains(&parcel.message)
            {
                return;
            }
        }
    })
    .await;
    let file = SnapshotFile::at(b.snapshots.path(), parcel.snapshot.position()).expect("it is there");
    let sent = parcel.snapshot.read(0, usize::MAX).expect("readable");
    assert!(std::fs::read(&file.path).expect("readable") == sent, "another file has arrived");
    assert_eq!(b.files(), [file.name()], "and nothing else is left");
}

/// Value of a metric without its labels' names.
fn metric(page: &str, line: &str) -> f64 {
    let value = page.lines().find_map(|shown| shown.strip_prefix(line)?.strip_prefix(' ')).map(str::to_owned);
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn received_bytes(b: &End) -> f64 {
    metric(&b.metrics.render(), "etcd_network_peer_received_bytes_total{From=\"a\"}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_arrives_as_it_was_sent_and_is_counted() {
    let (a, mut b, _proxy) = pair().await;
    a.leads(TERM);
    let parcel = parcel(header(), 10_000);
    carried(&a, &parcel, PATIENT).await.expect("no panic").expect("sent");
    arrived(&mut b, &parcel).await;
    let (sent, received) = (a.metrics.render(), b.metrics.render());
    assert_eq!(metric(&sent, "etcd_network_snapshot_send_success{To=\"b\"}"), 1.0);
    assert_eq!(metric(&sent, "etcd_network_snapshot_send_inflights_total{To=\"b\"}"), 0.0);
    assert_eq!(metric(&sent, "etcd_network_snapshot_send_total_duration_seconds_count{To=\"b\"}"), 1.0);
    assert_eq!(metric(&received, "etcd_network_snapshot_receive_success{From=\"a\"}"), 1.0);
    assert_eq!(metric(&received, "etcd_network_snapshot_receive_inflights_total{From=\"a\"}"), 0.0);
    assert_eq!(metric(&received, "etcd_snap_db_fsync_duration_seconds_count"), 1.0);
    // Once more, because the end of it was not heard: nothing is sent, and raft hears of it again.
    let before = received_bytes(&b);
    carried(&a, &parcel, PATIENT).await.expect("no panic").expect("sent");
    arrived(&mut b, &parcel).await;
    assert!(received_bytes(&b) - before < 100_000.0, "it was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_transfer_goes_on_where_it_was() {
    let (a, mut b, proxy) = pair().await;
    a.leads(TERM);
    let parcel = parcel(header(), 40_000);
    let bytes = parcel.snapshot.bytes() as f64;
    proxy.slow_down(12 << 20);
    let sending = carried(&a, &parcel, PATIENT);
    for share in [0.25, 0.5] {
        soon(async {
            while received_bytes(&b) < bytes * share {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        proxy.cut();
        proxy.is_unused().await;
        assert!(b.files().iter().all(|name| name.ends_with(".tmp")), "{:?}", b.files());
        proxy.slow_down(12 << 20);
    }
    proxy.mend();
    sending.await.expect("no panic").expect("sent");
    arrived(&mut b, &parcel).await;
    assert!(received_bytes(&b) < bytes * 1.2, "{} bytes for {bytes}", received_bytes(&b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_damaged_on_its_way_is_noticed_at_once_and_sent_again() {
    let (a, mut b, proxy) = pair().await;
    a.leads(TERM);
    let parcel = parcel(header(), 40_000);
    proxy.slow_down(24 << 20);
    let sending = carried(&a, &parcel, PATIENT);
    soon(async {
        while received_bytes(&b) < 1_000_000.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Only what is large: heartbeats go through.
        proxy.flip_in(16 << 10);
        while metric(&b.metrics.render(), "etcd_network_snapshot_receive_failures{From=\"a\"}") == 0.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    proxy.mend();
    sending.await.expect("no panic").expect("sent");
    arrived(&mut b, &parcel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_is_given_up_and_a_leader_that_leads_no_more_stops() {
    let (a, b, proxy) = pair().await;
    a.leads(TERM);
    let parcel = parcel(header(), 40_000);
    proxy.slow_down(4 << 20);
    let sending = carried(&a, &parcel, Duration::from_millis(300));
    soon(async {
        while received_bytes(&b) < 100_000.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // Nothing that is tried from now on gets anywhere, and nobody says so.
    proxy.cut();
    let error = sending.await.expect("no panic").expect_err("there is no way");
    assert!(matches!(error, CarryError::Dial(_) | CarryError::Refused(_)), "{error}");
    assert_eq!(metric(&a.metrics.render(), "etcd_network_snapshot_send_failures{To=\"b\"}"), 1.0);

    proxy.slow_down(1 << 20);
    let sending = carried(&a, &parcel, PATIENT);
    soon(async {
        while metric(&b.metrics.render(), "etcd_network_snapshot_receive_inflights_total{From=\"a\"}") == 0.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    a.leads(TERM + 1);
    let error = soon(sending).await.expect("no panic").expect_err("it is of no use any more");
    assert!(matches!(error, CarryError::NotLeader), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_the_network_swallows_is_begun_anew() {
    let (a, b, proxy) = pair().await;
    a.leads(TERM);
    let parcel = parcel(header(), 40_000);
    proxy.slow_down(4 << 20);
    let sending = carried(&a, &parcel, Duration::from_millis(300));
    soon(async {
        while received_bytes(&b) < 100_000.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let connections = proxy.accepted();
        proxy.silence();
        while proxy.accepted() == connections {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    proxy.mend();
    soon(sending).await.expect("no panic").expect("sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_needed_sound_and_of_this_cluster_is_taken() {
    let (a, mut b, _proxy) = pair().await;
    a.leads(TERM);
    let refused = async |parcel: &Parcel| {
        let error = carried(&a, parcel, PATIENT).await.expect("no panic").expect_err("it is refused");
        error.to_string()
    };
    let of_another = parcel(SnapshotHeader { cluster_id: 8, ..header() }, 10);
    assert_eq!(
        refused(&of_another).await,
        "snapshot not taken: it is not the one that was offered: it is of another cluster"
    );
    let mut with_others = parcel(header(), 10);
    with_others.message.mut_snapshot().mut_metadata().mut_conf_state().voters.push(3);
    assert_eq!(
        refused(&with_others).await,
        "snapshot not taken: it is not the one that was offered: its members are others"
    );
    let mut of_another_place = parcel(header(), 10);
    of_another_place.message.mut_snapshot().mut_metadata().index += 1;
    assert!(refused(&of_another_place).await.starts_with("snapshot not taken: the snapshot is another one"));
    assert!(b.files().is_empty() && b.nothing_came(), "{:?}", b.files());

    let status = *b.status.load();
    b.status.store(crate::raft::node::Status { term: crate::ids::Term(TERM + 1), ..status });
    assert!(refused(&parcel(header(), 10)).await.contains("it is of term 5, and this member is at term 6"));
    b.status.store(crate::raft::node::Status { committed: crate::ids::LogIndex(POSITION.0), ..status });
    let unneeded = parcel(header(), 10);
    carried(&a, &unneeded, PATIENT).await.expect("no panic").expect("it is as good as there");
    let Received::Step { messages, .. } = soon(b.next()).await else { panic!("not for raft") };
    assert_eq!(messages, [unneeded.message], "its raft answers how far it is");
    assert!(b.files().is_empty());
    assert_eq!(file_name(LogPosition::new(POSITION.0, POSITION.1)), "0000000000000004-0000000000000064.cast");
}
