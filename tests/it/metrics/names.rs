//! Which names there are, and of which kind.

use super::{Page, work};
use crate::harness::server::Ports;
use crate::harness::{Backend, Place, Server, Setup, block_on, for_each_backend, http_get, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

for_each_backend!(castd: the_table_of_the_docs_is_what_a_member_shows);

const TABLE: &str = include_str!("../../../docs/metrics.md");
/// Fewer would not be all that etcd has.
const ROWS_MIN: usize = 150;

struct Row {
    kind: &'static str,
    labels: BTreeSet<&'static str>,
    here: &'static str,
}

fn table() -> BTreeMap<&'static str, Row> {
    let rows = TABLE.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim().strip_prefix("| `")?.split('|').map(str::trim).collect();
        let [name, kind, labels, here, ..] = cells[..] else { panic!("not a row: {line}") };
        let labels = labels.split(", ").filter(|label| !label.is_empty()).collect();
        Some((name.trim_end_matches('`'), Row { kind, labels, here }))
    });
    rows.collect()
}

/// Labels of the first series of a name.
fn labels<'p>(page: &'p Page, name: &str, kind: &str) -> BTreeSet<&'p str> {
    let first = if kind == "histogram" { format!("{name}_sum") } else { name.to_owned() };
    let series = page.series.keys().find(|series| series.split('{').next() == Some(&first)).expect("a series");
    let inside = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
    inside
        .split("\",")
        .filter(|label| !label.is_empty())
        .map(|label| label.split('=').next().unwrap_or(label))
        .collect()
}

async fn the_table_of_the_docs_is_what_a_member_shows(setup: Setup) {
    let server = setup.flag("--metrics=extensive").start();
    work(&server).await;
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(http_get(server.setup.ports.client, path).expect("answered").status, 200, "{path}");
    }
    let (table, page) = (table(), Page::of(&server));
    assert!(table.len() >= ROWS_MIN, "{} rows", table.len());
    for (name, row) in &table {
        let shown = page.kinds.get(*name).map(String::as_str);
        if row.here == "served" || row.here.starts_with("served;") || name == &"grpc_server_handling_seconds" {
            assert_eq!(shown, Some(row.kind), "{name}: {}", row.here);
            if !row.labels.contains("the same") {
                assert_eq!(labels(&page, name, row.kind), row.labels, "{name}");
            }
        } else if row.here.starts_with("served when ") {
            assert!(shown.is_none_or(|kind| kind == row.kind), "{name}");
        } else {
            assert!(row.here.starts_with("with ") || row.here.starts_with("does not apply: "), "{name}: {}", row.here);
            assert_eq!(shown, None, "{name}: {}", row.here);
        }
    }
    for name in page.kinds.keys() {
        assert!(table.contains_key(name.as_str()), "{name} is served and not in docs/metrics.md");
    }
}

/// Names etcd 3.4 does not have yet: since 3.5, 3.6 or 3.7.
const SINCE_3_4: &[&str] = &[
    "etcd_debugging_mvcc_db_compaction_last",
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_server_apply_duration_seconds",
    "etcd_server_feature_enabled",
    "etcd_server_healthcheck",
    "etcd_server_healthchecks_total",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
];

/// The kinds of `server`'s metrics after some work.
async fn kinds(server: &Server) -> BTreeMap<String, String> {
    work(server).await;
    for path in ["/health", "/livez", "/readyz"] {
        let _ = http_get(server.setup.ports.client, path);
    }
    // etcd fills in some of them a moment after its start.
    wait_until("the cluster's version is shown", Duration::from_secs(10), || {
        Page::of(server).kinds.contains_key("etcd_cluster_version")
    });
    Page::of(server).kinds
}

#[test]
fn names_and_kinds_are_etcds_but_for_those_that_are_listed() {
    let _place = Place::take();
    let ports = Ports::free();
    let etcd = block_on(async { kinds(&Setup::etcd("etcd").ports(ports).start()).await });
    let castd = block_on(async { kinds(&Setup::castd(Backend::Memory).ports(ports).start()).await });
    let table = table();
    assert!(etcd.len() > 100, "{etcd:?}");
    for (name, kind) in &etcd {
        match castd.get(name) {
            Some(ours) => assert_eq!(ours, kind, "{name}"),
            None if name.starts_with("go_") => {}
            None => {
                let row =
                    table.get(name.as_str()).unwrap_or_else(|| panic!("etcd has {name}, docs/metrics.md has not"));
                let left_out = ["with ", "does not apply", "served when"].iter().any(|it| row.here.starts_with(it));
                assert!(left_out, "etcd shows {name} and castd does not: {}", row.here);
            }
        }
    }
    let added: Vec<&str> = castd
        .keys()
        .map(String::as_str)
        .filter(|name| !etcd.contains_key(*name) && !name.starts_with("castd_"))
        .collect();
    assert_eq!(added, SINCE_3_4);
}
