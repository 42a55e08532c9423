//! watch, and through it what makes watching useful: nothing is missed and nothing comes twice.

use crate::harness::{Setup, for_each_backend};

for_each_backend!(
    watch_prints_history_and_then_what_happens,
    watch_prints_previous_pairs_and_runs_commands,
    watch_is_told_what_was_compacted,
    one_interactive_stream_has_many_watchers_and_progress,
    watch_goes_on_after_a_restart_of_the_server,
);

async fn watch_prints_history_and_then_what_happens(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["put", "a1", "x"]).ok();
    server.etcdctl(&["put", "b", "not this"]).ok();
    let watch = server.etcdctl_running(&["watch", "--rev=1", "--prefix", "a"]);
    watch.prints(&["PUT", "a1", "x"]);
    server.etcdctl(&["put", "a2", "y"]).ok();
    server.etcdctl(&["del", "a1"]).ok();
    watch.prints(&["PUT", "a2", "y", "DELETE", "a1", ""]);
    let range = server.etcdctl_running(&["watch", "--rev=1", "a2", "z"]);
    range.prints(&["PUT", "b", "not this", "PUT", "a2", "y"]);
}

async fn watch_prints_previous_pairs_and_runs_commands(setup: Setup) {
    let server = setup.start();
    for value in ["one", "two"] {
        server.etcdctl(&["put", "k", value]).ok();
    }
    let watch = server.etcdctl_running(&["watch", "--rev=3", "--prev-kv", "k"]);
    watch.prints(&["PUT", "k", "one", "k", "two"]);
    server.etcdctl(&["del", "k"]).ok();
    watch.prints(&["DELETE", "k", "two", "k", ""]);

    let command = "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
    let watch = server.etcdctl_running(&["watch", "--rev=2", "k", "--", "sh", "-c", command]);
    // A whole response is printed before its commands run.
    watch.prints(&["PUT", "k", "one", "PUT", "k", "two", "DELETE", "k", ""]);
    // The revision they get is that of the response's header.
    watch.prints(&[r#"4 "PUT" "k" "one""#, r#"4 "PUT" "k" "two""#, r#"4 "DELETE" "k" """#]);

    let json = server.etcdctl_running(&["watch", "--rev=2", "k", "-w", "json"]).line().expect("a line");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["Events"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["Events"][2]["type"], 1);
}

async fn watch_is_told_what_was_compacted(setup: Setup) {
    let server = setup.start();
    for value in ["1", "2", "3"] {
        server.etcdctl(&["put", "k", value]).ok();
    }
    server.etcdctl(&["compaction", "3"]).ok();
    let answer = server.etcdctl(&["watch", "--rev=1", "k"]);
    assert_eq!((answer.code, answer.last_stderr_line()), (5, "Error: watch is canceled by the server"));
    assert!(answer.stderr.contains("watch was canceled (etcdserver: mvcc: required revision has been compacted)"));
}

async fn one_interactive_stream_has_many_watchers_and_progress(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["put", "k", "1"]).ok();
    server.etcdctl(&["put", "l", "1"]).ok();
    let mut watch = server.etcdctl_running(&["watch", "--interactive"]);
    watch.say("watch k --rev=1");
    watch.prints(&["PUT", "k", "1"]);
    watch.say("watch l --rev=1");
    watch.prints(&["PUT", "l", "1"]);
    watch.say("progress");
    // One answer of the server, printed for each watcher.
    watch.prints(&["progress notify: 3", "progress notify: 3"]);
    server.etcdctl(&["put", "l", "2"]).ok();
    watch.prints(&["PUT", "l", "2"]);
}

async fn watch_goes_on_after_a_restart_of_the_server(setup: Setup) {
    let mut server = setup.start();
    let watch = server.etcdctl_running(&["watch", "--rev=1", "--prefix", "k"]);
    for round in 0..3 {
        let (key, value) = (format!("k{round}"), format!("{round}"));
        server.etcdctl(&["put", &key, &value]).ok();
        watch.prints(&["PUT", &key, &value]);
        if round == 0 {
            server.kill();
        } else {
            server.stop();
        }
        server.restart();
    }
    server.etcdctl(&["put", "k", "last"]).ok();
    watch.prints(&["PUT", "k", "last"]);
}
