//! One script of curl requests, for etcd 3.4 and for Castd on each backend, at the same addresses one after the other. Status
//! and JSON must be the same but for what `DELTAS` lists, and each of those must be needed.

use crate::harness::curl::{Http, Stream, curl};
use crate::harness::server::Ports;
use crate::harness::{Backend, Place, Server, Setup, block_on};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SCRIPT: &str = include_str!("script.txt");
const REQUESTS_MIN: usize = 80;

/// What was answered: a status and each line.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    lines: Vec<Value>,
}

/// Where Castd, which answers as etcd 3.7.1, means to differ from etcd 3.4.23.
struct Delta {
    /// The line of the script, or its beginning.
    request: &'static str,
    /// What makes etcd's answer ours, which is given for what no delta is about.
    change: fn(&mut Answer, &Answer),
    /// Where it is written that etcd has changed it, or that we do otherwise.
    reference: &'static str,
}

const STATUS: &str = "fields since 3.4; the release whose API is spoken";
const NO_MATCH: &str = "JSON with code 5 since 3.6, plain text before";
const METHOD: &str = "501 with code 12 since 3.6, 405 in plain text before";
const MALFORMED: &str = "the message is the JSON parser's own";
const HEADER: &str = "Alarm has a header; 3.4's listing has none";
const PRECONDITION: &str = "FailedPrecondition is 400, with the gateway before 3.6 412";
const ALPHA: &str = "ours: /v3alpha/ is served as /v3/, for clients of 3.0 to 3.3";
const END_OF_INPUT: &str = "since 3.6 one parser for all; an object begun is malformed in both";

fn not_found(answer: &mut Answer, _: &Answer) {
    assert_eq!((answer.status, &answer.lines), (404, &vec![json!("Not Found")]));
    *answer = Answer { status: 404, lines: vec![json!({ "code": 5, "message": "Not Found" })] };
}

fn not_allowed(answer: &mut Answer, _: &Answer) {
    assert_eq!((answer.status, &answer.lines), (405, &vec![json!("Method Not Allowed")]));
    *answer = Answer { status: 501, lines: vec![json!({ "code": 12, "message": "Method Not Allowed" })] };
}

/// Only the message differs, and is checked where the parser is.
fn malformed(answer: &mut Answer, _: &Answer) {
    assert_eq!((answer.status, &answer.lines[0]["code"]), (400, &json!(3)));
    answer.lines = vec![json!({ "code": 3, "message": "…" })];
}

const fn other(request: &'static str, change: fn(&mut Answer, &Answer), reference: &'static str) -> Delta {
    Delta { request, change, reference }
}

const DELTAS: &[Delta] = &[
    other(
        "/v3/maintenance/status",
        |answer, _| {
            let ours = [("version", "3.7.1"), ("storageVersion", "3.7.0"), ("dbSizeQuota", "2147483648")];
            ours.iter().for_each(|(name, value)| answer.lines[0][name] = json!(value));
            answer.lines[0]["downgradeInfo"] = json!({});
        },
        STATUS,
    ),
    other(
        "/v3alpha/kv/range",
        |answer, ours| {
            assert_eq!((answer.status, &answer.lines), (404, &vec![json!("404 page not found")]));
            let kv = json!({ "key": "Zm9w", "create_revision": "5", "mod_revision": "5", "version": "1" });
            let header = &ours.lines[0]["header"];
            *answer = Answer { status: 200, lines: vec![json!({ "header": header, "kvs": [kv], "count": "1" })] };
        },
        ALPHA,
    ),
    other("/v3/maintenance/alarm", |answer, ours| answer.lines[0]["header"] = ours.lines[0]["header"].clone(), HEADER),
    other(r#"/v3/lease/grant {"ID":4660,"TTL":600}"#, |answer, _| answer.status = 400, PRECONDITION),
    other("/v3/kv/nothing", not_found, NO_MATCH),
    other("/v3/ {}", not_found, NO_MATCH),
    other("GET /v3/kv/range", not_allowed, METHOD),
    other("DELETE /v3/watch", not_allowed, METHOD),
    other(r#"/v3/kv/range {"key":5}"#, malformed, MALFORMED),
    other(r#"/v3/kv/range {"key":"%%%"}"#, malformed, MALFORMED),
    other(r#"/v3/kv/range {"key":"Zm9w","limit":"many"}"#, malformed, MALFORMED),
    other(r#"/v3/kv/range {"key":"Zm9w","sort_order":"SIDEWAYS"}"#, malformed, MALFORMED),
    other("/v3/kv/range {bad", malformed, MALFORMED),
    other(r#"/v3/kv/range {"key":"#, malformed, END_OF_INPUT),
    other("/v3/kv/range []", malformed, MALFORMED),
];

fn requests() -> Vec<&'static str> {
    SCRIPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn ask(server: &Server, request: &str) -> Answer {
    println!("{request}");
    let (request, lines) = match request.strip_prefix("@lines=").and_then(|rest| rest.split_once(' ')) {
        Some((count, request)) => (request, Some(count.parse::<usize>().expect("a number"))),
        None => (request, None),
    };
    let (method, request) = match request.split_once(' ') {
        Some((method, rest)) if !method.starts_with('/') => (method, rest),
        _ => ("POST", request),
    };
    let (path, body) = request.split_once(' ').unwrap_or((request, ""));
    let mut answer = match lines {
        None => {
            let answer = curl(server, Http::One, path, body, &["--request", method]);
            let json = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| json!(line));
            Answer { status: answer.status, lines: answer.body.lines().map(json).collect() }
        }
        Some(count) => {
            let stream = Stream::post(server, Http::One, path, body);
            Answer { status: 200, lines: (0..count).map_while(|_| stream.line()).collect() }
        }
    };
    answer.lines.iter_mut().for_each(|line| blur(path, line));
    answer
}

/// Takes out what no two runs have in common, and brings errors of before 3.6 into today's form.
fn blur(path: &str, json: &mut Value) {
    match json {
        Value::Object(fields) => {
            // The text came twice.
            if fields.contains_key("code") && fields.remove("error").is_some() {
                assert_eq!(fields.len(), 2, "{fields:?}");
            }
            for (name, value) in fields {
                let unsharp = ["raftIndex", "raftAppliedIndex", "dbSize", "dbSizeInUse"].contains(&name.as_str())
                    || name == "TTL" && path.contains("timetolive") && value != "-1";
                if unsharp { *value = json!("…") } else { blur(path, value) }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| blur(path, value)),
        _ => {}
    }
}

async fn play(setup: Setup) -> Vec<Answer> {
    let server = setup.start();
    // etcd decides on the cluster's version a moment after it has begun to serve.
    requests().into_iter().map(|request| ask(&server, request)).collect()
}

#[test]
fn castd_answers_json_as_etcd_does_but_for_the_listed_deltas() {
    // It starts its own etcd.
    if std::env::var_os("CASTD_TEST_SERVER").is_some() {
        return;
    }
    let _place = Place::take();
    let ports = Ports::free();
    assert!(requests().len() >= REQUESTS_MIN, "only {} requests", requests().len());
    let etcd = block_on(play(Setup::etcd("etcd").ports(ports)));
    for backend in Backend::ALL {
        let castd = block_on(play(Setup::castd(*backend).ports(ports)));
        compare(backend.name(), &etcd, &castd);
    }
}

fn compare(name: &str, etcd: &[Answer], castd: &[Answer]) {
    assert_eq!(etcd.len(), castd.len());
    let mut needed = BTreeSet::new();
    let mut differences = String::new();
    for ((request, theirs), ours) in requests().into_iter().zip(etcd).zip(castd) {
        let (mut expected, mut ours) = (theirs.clone(), ours.clone());
        if expected == ours {
            continue;
        }
        let delta = DELTAS.iter().position(|delta| {
            request == delta.request || {
                delta.request.ends_with(|last: char| last.is_alphanumeric()) && request.starts_with(delta.request)
            }
        });
        if let Some(number) = delta {
            let Delta { change, reference, .. } = DELTAS[number];
            change(&mut expected, &ours);
            if [MALFORMED, END_OF_INPUT].contains(&reference) {
                malformed(&mut ours, &expected);
            }
            needed.insert(number);
        }
        if expected != ours {
            differences += &format!("\n=== {request}\n--- etcd, with deltas\n{expected:?}\n--- {name}\n{ours:?}\n");
        }
    }
    for (number, delta) in DELTAS.iter().enumerate().filter(|(number, _)| !needed.contains(number)) {
        differences += &format!("\n=== delta {number} never occurs: {} ({})\n", delta.request, delta.reference);
    }
    assert!(differences.is_empty(), "{differences}");
}
