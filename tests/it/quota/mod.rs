//! A store at its quota: who is refused what, and how it becomes free again.

mod alarm;
mod limit;
mod space;

use crate::harness::{Api, Server, Setup, http_get, wait_for};
use castd_proto::etcdserverpb::{AlarmMember, AlarmRequest, StatusRequest, StatusResponse};
use std::time::Duration;
use tonic::{Code, Status};

const PAGE_BYTES: i64 = 4_096;
/// etcd's own end-to-end test fills a quota of so many pages.
const QUOTA_BYTES: i64 = 13 * PAGE_BYTES;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "etcdserver: corrupt cluster";

/// For what happens by itself.
const SOON: Duration = Duration::from_secs(30);

const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;

const NONE_KIND: i32 = 0;
const NOSPACE_KIND: i32 = 1;
const CORRUPT_KIND: i32 = 2;

fn with_quota(setup: Setup) -> Setup {
    setup.flag(format!("--quota-backend-bytes={QUOTA_BYTES}"))
}

/// By hand, as etcd has it.
fn by_hand(setup: Setup) -> Setup {
    with_quota(setup).flag("--quota-auto-disarm=false")
}

async fn ask_alarm(api: &Api, action: i32, member_id: u64, alarm: i32) -> Vec<(u64, i32)> {
    let answer = api.maintenance.clone().alarm(AlarmRequest { action, member_id, alarm }).await;
    let answer = answer.expect("alarms are answered").into_inner();
    // etcd 3.4 leaves it out.
    assert!(answer.header.is_none_or(|header| header.revision >= 1 && header.raft_term > 0));
    let mut alarms: Vec<_> =
        answer.alarms.iter().map(|AlarmMember { member_id, alarm }| (*member_id, *alarm)).collect();
    alarms.sort_unstable();
    alarms
}

async fn alarms(api: &Api) -> Vec<(u64, i32)> {
    ask_alarm(api, GET, 0, NONE_KIND).await
}

async fn status(api: &Api) -> StatusResponse {
    api.maintenance.clone().status(StatusRequest {}).await.expect("answered").into_inner()
}

async fn member(api: &Api) -> u64 {
    status(api).await.header.expect("a header").member_id
}

/// Puts pages until there is no room, and says how many there was room for.
async fn fill(api: &Api) -> usize {
    let page = "v".repeat(PAGE_BYTES as usize);
    for number in 0..100 {
        match api.put_with(crate::harness::grpc::put("page", &page)).await {
            Ok(_) => {}
            Err(refusal) => {
                assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, NO_SPACE));
                return number;
            }
        }
    }
    panic!("13 pages never become full");
}

/// What etcd's operators do: only the newest page is left.
async fn compact(api: &Api) {
    let revision = api.revision().await;
    api.compact(revision, true).await.expect("compaction works without room");
}

async fn put_small(api: &Api) -> Result<(), Status> {
    api.put_with(crate::harness::grpc::put("small", "v")).await.map(drop)
}

async fn wait_until_room(api: &Api) {
    wait_for("the alarm goes", SOON, async || alarms(api).await.is_empty().then_some(())).await;
}

/// How often it has said so, once it has: its log is written behind its back.
async fn says(server: &Server, text: &str) -> usize {
    wait_for(text, SOON, async || Some(server.log().matches(text).count()).filter(|count| *count > 0)).await
}

/// The value of one line of /metrics.
fn metric(server: &Server, line: &str) -> Option<f64> {
    let page = http_get(server.setup.ports.client, "/metrics").expect("answered").body;
    let value = page.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' ').map(str::to_owned));
    value.map(|value| value.parse().unwrap_or_else(|_| panic!("{line}: {value}")))
}

fn alarm_metric(server: &Server, member: u64, kind: &str) -> Option<f64> {
    metric(server, &format!("etcd_debugging_server_alarms{{alarm_type=\"{kind}\",server_id=\"{member:x}\"}}"))
}
