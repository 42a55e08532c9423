//! The lines people grep for: about what is slow, about starting and stopping; and log files that are set aside.

use crate::harness::grpc::{compare, put, put_op, range, range_op};
use crate::harness::{Backend, Place, Server, Setup, block_on, for_each_backend, wait_until};
use castd_proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use castd_proto::etcdserverpb::{PutRequest, RangeRequest};
use serde_json::Value;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

for_each_backend!(castd: a_member_says_how_it_starts_and_stops, slow_requests_are_told_of_without_their_values);

const PATIENCE: Duration = Duration::from_secs(20);
/// Everything takes longer than that.
const ALL_IS_SLOW: [&str; 2] = ["--warning-apply-duration=1ns", "--warning-unary-request-duration=1ns"];

fn lines(server: &Server) -> Vec<Value> {
    server.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'l>(lines: &'l [Value], message: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["msg"] == message).collect()
}

async fn a_member_says_how_it_starts_and_stops(setup: Setup) {
    let mut server = setup.start();
    server.stop();
    let said = lines(&server);
    let mut rest = said.iter();
    // In etcd's order; other lines may stand between them.
    for message in [
        "Running: ",
        "configuring peer listeners",
        "configuring client listeners",
        "starting an etcd server",
        "bootstrapping cluster",
        "bootstrapping storage",
        "opened backend db",
        "bootstrapping raft",
        "starting local member",
        "bootstrap successfully",
        "starting etcd server",
        "became candidate at term 2",
        "published local member to cluster through raft",
        "set initial cluster version",
        "enabled capabilities for version",
        "cluster version is updated",
        "ready to serve client requests",
        "serving client traffic insecurely; this is strongly discouraged!",
        "received signal; shutting down",
        "closing etcd server",
        "skipped leadership transfer for single voting member cluster",
        "stopping serving peer traffic",
        "stopped serving peer traffic",
        "closed etcd server",
    ] {
        assert!(rest.any(|line| line["msg"] == message), "{message:?} is not where it belongs:\n{}", server.log());
    }
    let line = |message: &str| of(&said, message).first().copied().unwrap_or_else(|| panic!("no line {message:?}"));
    assert_eq!(line("configuring peer listeners")["listen-peer-urls"][0], server.setup.peer_url());
    assert_eq!(line("starting etcd server")["cluster-version"], "to_be_decided");
    assert_eq!(line("now serving peer/client/metrics")["advertise-client-urls"][0], server.setup.client_url());
    assert_eq!(line("closed etcd server")["name"], "m1");
    let id = line("starting local member")["local-member-id"].as_str().expect("an id");
    assert!(u64::from_str_radix(id, 16).is_ok_and(|number| format!("{number:x}") == id), "{id}");
    let elected = format!("raft.node: {id} elected leader {id} at term 2");
    assert_eq!(of(&said, &elected).len(), 1, "{elected}");

    server.restart();
    assert_eq!(of(&lines(&server), "restarting local member").len(), 1);
    assert_eq!(of(&lines(&server), "starting local member").len(), 1);
}

async fn slow_requests_are_told_of_without_their_values(setup: Setup) {
    let server = setup.flags(ALL_IS_SLOW).start();
    let api = server.api();
    api.put_with(PutRequest { prev_kv: true, ..put("lamp", "hidden-value") }).await.expect("a put");
    api.range(RangeRequest { limit: 3, ..range("lamp", "lamq") }).await.expect("a range");
    let is = compare("lamp", "", CompareResult::Equal, TargetUnion::Value("hidden-value".into()));
    api.txn(vec![is.clone()], vec![put_op("txn", "hidden-value")], Vec::new()).await.expect("a txn");
    api.txn(vec![is], vec![range_op("lamp", "")], Vec::new()).await.expect("a txn");
    api.revoke(7).await.expect_err("no such lease");
    let wanted =
        |said: &[Value]| of(said, "request stats").len() >= 5 && of(said, "failed to apply request").len() == 1;
    wait_until("five calls and a failure are told of", PATIENCE, || wanted(&lines(&server)));

    let said = lines(&server);
    let stats = |content: &str| {
        let stats = of(&said, "request stats");
        let found: Vec<_> = stats.iter().filter(|line| line["request content"] == content).collect();
        assert_eq!(found.len(), 1, "{content}: {stats:#?}");
        (*found[0]).clone()
    };
    let line = stats("key:\"lamp\" value_size:12 prev_kv:true ");
    assert_eq!((&line["level"], &line["response type"]), (&"warn".into(), &"/etcdserverpb.KV/Put".into()));
    assert_eq!((&line["request count"], &line["response count"]), (&1.into(), &0.into()));
    assert_eq!(line["request size"], 6 + 14 + 2, "key, value and the flag, each with its head");
    assert!(line["response size"].as_i64().is_some_and(|size| size > 10), "{line}");
    assert!(line["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{line}");
    assert!(
        line["start time"].as_str().is_some_and(|time| time.ends_with('Z') && time < line["ts"].as_str().unwrap_or(""))
    );
    assert!(line["time spent"].as_str().is_some_and(|took| took.ends_with('s')));
    assert_eq!(stats("key:\"lamp\" range_end:\"lamq\" limit:3 ")["response count"], 1);
    let txn = "compare:<target:VALUE key:\"lamp\" value_size:12 > success:<request_put:<key:\"txn\" value_size:12 >> failure:<>";
    assert_eq!(stats(txn)["request count"], 1);

    let slow = |prefix: &str, request: &str| {
        let slow = of(&said, "apply request took too long");
        let found = slow.iter().filter(|line| line["prefix"] == prefix && line["request"] == request).count();
        assert_eq!(found, 1, "{prefix}{request}: {slow:#?}");
    };
    slow("", "put:<key:\"lamp\" value_size:12 prev_kv:true >");
    slow("", &format!("txn:<{txn}>"));
    slow("", "lease_revoke:<id:0000000000000007>");
    slow("read-only range ", "key:\"lamp\" range_end:\"lamq\" limit:3 ");
    slow(
        "read-only txn ",
        "compare:<target:VALUE key:\"lamp\" value_size:12 > success:<request_range:<key:\"lamp\" >> failure:<>",
    );
    let first = of(&said, "apply request took too long")[0];
    assert_eq!((&first["expected-duration"], &first["level"]), (&"1ns".into(), &"warn".into()));
    let range = of(&said, "apply request took too long").into_iter().find(|line| line["prefix"] == "read-only range ");
    assert!(range.expect("one")["response"].as_str().is_some_and(|it| it.starts_with("range_response_count:1 size:")));
    let failed = of(&said, "failed to apply request")[0];
    assert_eq!(failed["request"], "lease_revoke:<id:0000000000000007>");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("lease not found")), "{failed}");
    assert!(!server.log().contains("hidden-value"), "values are nobody's business");
}

#[test]
fn a_flood_of_slow_requests_does_not_flood_the_log() {
    let _place = Place::take();
    block_on(async {
        let mut server = Setup::castd(Backend::Memory).flags(ALL_IS_SLOW).start();
        let api = server.api();
        let mut writers = tokio::task::JoinSet::new();
        const PUTS: usize = 4_000;
        for writer in 0..16 {
            let api = api.clone();
            writers.spawn(async move {
                for number in 0..PUTS / 16 {
                    api.put(&format!("w{writer}"), &format!("{number}")).await;
                }
            });
        }
        let started = std::time::Instant::now();
        writers.join_all().await;
        let seconds = started.elapsed().as_secs() as usize + 2;
        server.stop();
        for message in ["request stats", "apply request took too long"] {
            let told = of(&lines(&server), message).len();
            // Of a second the first 100 and every 100th after that, and some of the start.
            assert!((100..=seconds * 100 + PUTS / 100 + 20).contains(&told), "{message}: {told} in {seconds} s");
            assert!(told < PUTS / 2, "{message}: {told}");
        }
    });
}

/// Lets one fsync of each thread that makes some take longer than a second.
fn delay_one_fsync(server: &Server) -> Option<Child> {
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!("skipped: strace may not trace here");
        return None;
    }
    let tracer = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=1200000:when=1"])
        .args(["-o", &server.directory().join("strace.log").to_string_lossy(), "-p", &server.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed");
    wait_until("strace has attached to every thread", PATIENCE, || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server runs");
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.is_empty() || !status.contains("TracerPid:\t0\n")
        })
    });
    Some(tracer)
}

#[test]
fn a_slow_disk_is_told_of_once() {
    let _place = Place::take();
    block_on(async {
        let server = Setup::castd(Backend::Memory).start();
        let Some(mut tracer) = delay_one_fsync(&server) else { return };
        let api = server.api();
        for number in 0..10 {
            api.put("slow", &format!("{number}")).await;
        }
        let trace = |line: &&Value| line["msg"].as_str().is_some_and(|message| message.ends_with("] put"));
        wait_until("the put is told of", PATIENCE, || lines(&server).iter().any(|line| trace(&line)));
        tracer.kill().expect("strace can be ended");
        tracer.wait().expect("strace ends");
        let said = lines(&server);
        let slow = of(&said, "slow fdatasync");
        assert_eq!(slow.len(), 1, "{slow:?}");
        assert_eq!(slow[0]["expected-duration"], "1s");
        assert!(slow[0]["took"].as_str().is_some_and(|took| took.starts_with("1.")), "{}", slow[0]);
        let stats = of(&said, "request stats");
        assert_eq!(stats.len(), 1, "{stats:?}");
        assert_eq!(stats[0]["request content"], "key:\"slow\" value_size:1 ");
        let traced: Vec<_> = said.iter().filter(trace).collect();
        assert_eq!(traced.len(), 1, "{traced:?}");
        assert!(traced[0]["steps"][0].as_str().is_some_and(|step| step.contains("'process raft request'")));
        assert_eq!(of(&said, "apply request took too long").len(), 0, "the disk was slow, applying was not");
    });
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_requests_nor_the_stop() {
    let _place = Place::take();
    block_on(async {
        let mut server = Setup::castd(Backend::Memory).flags(ALL_IS_SLOW).prepare();
        let path = server.directory().join("pipe.log");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo is installed").success());
        server.setup = server.setup.clone().flag(format!("--log-outputs={}", path.display()));
        server.spawn();
        let reader = std::fs::File::open(&path).expect("opened once the server has");
        server.wait_ready();
        let api = server.api();
        // Each second of these fills a pipe of 64 KiB.
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(1_200) {
            api.put("k", "v").await;
        }
        server.stop();
        drop(reader);
    });
}

#[test]
fn a_full_log_file_is_set_aside_and_compressed() {
    let _place = Place::take();
    block_on(async {
        let mut server = Setup::castd(Backend::Memory).prepare();
        let path = server.directory().join("castd.log");
        let old = "{\"msg\":\"of an earlier life\"}\n".repeat((1 << 20) / 29);
        std::fs::write(&path, &old).expect("written");
        server.setup =
            server.setup.clone().flags(["--enable-log-rotation", &format!("--log-outputs={}", path.display())]);
        server.setup = server
            .setup
            .clone()
            .flag(r#"--log-rotation-config-json={"maxsize": 1, "maxage": 0, "maxbackups": 1, "localtime": true, "compress": true}"#);
        server.restart();
        let packed = || {
            let names = std::fs::read_dir(server.directory()).expect("a directory").flatten().map(|entry| entry.path());
            let packed: Vec<_> = names.filter(|name| name.extension().is_some_and(|it| it == "gz")).collect();
            (packed.len() == 1).then(|| packed[0].clone())
        };
        wait_until("the old file is compressed and gone", PATIENCE, || {
            packed().is_some_and(|packed| !packed.with_extension("").exists())
        });
        let mut text = String::new();
        let file = std::fs::File::open(packed().expect("there")).expect("opened");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("compressed");
        server.stop();
        let now = std::fs::read_to_string(&path).expect("the new file");
        // Nothing is lost where one file ends and the next begins.
        assert!(text.starts_with(&old));
        let said: Vec<Value> = [&text[old.len()..], &now]
            .concat()
            .lines()
            .map(|line| serde_json::from_str(line).expect("whole lines"))
            .collect();
        for message in ["Running: ", "starting an etcd server", "ready to serve client requests", "closed etcd server"]
        {
            assert_eq!(of(&said, message).len(), 1, "{message}");
        }
        assert!(now.len() < 1 << 20);
    });
}
