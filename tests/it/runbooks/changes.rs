//! What operators do to a cluster that is well.

use super::stage::Stage;
use crate::harness::Setup;
use crate::harness::server::Ports;

const THREE: [&str; 3] = ["m1", "m2", "m3"];

pub fn start(setup: &Setup) {
    let mut stage = Stage::open("start", setup);
    stage.step_on_each();
    let printed = stage.step();
    assert_eq!(printed.matches("| started |").count(), 3, "{printed}");
    assert!(printed.ends_with("OK\nfirst-key\nworks\n"), "{printed}");
    stage.assert_members(&THREE);

    // Again, with what the data says.
    for name in THREE {
        stage.on(name).run("kill %castd; wait");
    }
    for name in THREE {
        stage.on(name).run("castd &");
    }
    for name in THREE {
        stage.on(name).run("until etcdctl --endpoints=$ENDPOINT endpoint health; do sleep 1; done");
    }
    assert_eq!(stage.ask(&["m2"], "get first-key"), "first-key\nworks\n");
    stage.finish();
}

pub fn health(setup: &Setup) {
    let mut stage = Stage::with_three_members("health", setup);
    let printed = stage.step();
    let rows: Vec<&str> = printed.lines().filter(|line| line.starts_with("| http://")).collect();
    assert_eq!(rows.len(), 3, "{printed}");
    // ENDPOINT | ID | VERSION | DB SIZE | IS LEADER | …
    let leaders = rows.iter().filter(|row| row.split('|').nth(5).is_some_and(|cell| cell.trim() == "true"));
    assert_eq!(leaders.count(), 1, "{printed}");
    assert_eq!(printed.matches(", started, m").count(), 3, "{printed}");
    assert!(!printed.contains("alarm:"), "{printed}");

    let printed = stage.step();
    assert!(printed.starts_with(r#"{"health":"true""#), "{printed}");
    assert!(printed.contains("[+]linearizable_read ok"), "{printed}");
    for line in ["etcd_server_has_leader 1", "etcd_server_proposals_pending 0", "etcd_network_active_peers{"] {
        assert!(printed.lines().any(|it| it.starts_with(line)), "{line:?} is not in {printed}");
    }
    stage.finish();
}

pub fn grow(setup: &Setup) {
    let mut stage = Stage::open("grow", setup);
    stage.step();
    stage.assert_members(&["m1"]);
    stage.write_keys(&["m1"], 20);
    stage.join("m2");
    stage.assert_members(&["m1", "m2"]);
    stage.join("m3");
    let printed = stage.step();
    assert_eq!(printed.matches("| started |").count(), 3, "{printed}");
    stage.assert_members(&THREE);
    stage.assert_keys(&THREE, 20);
    // They are enough without the first.
    stage.on("m1").crash();
    stage.on("m2").run("until etcdctl --endpoints=$ENDPOINT endpoint health; do sleep 1; done");
    stage.assert_keys(&["m2", "m3"], 20);
    stage.finish();
}

pub fn shrink(setup: &Setup) {
    let mut stage = Stage::with_three_members("shrink", setup);
    stage.write_keys(&THREE, 5);
    stage.step();
    stage.step();
    assert!(stage.on("m3").log().contains("the member has been permanently removed from the cluster"));
    stage.assert_members(&["m1", "m2"]);
    stage.step();
    stage.step();
    let printed = stage.step();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    stage.assert_members(&["m1"]);
    stage.assert_keys(&["m1"], 5);
    let last = "id=$(etcdctl --endpoints=$ENDPOINT member list | cut -d, -f1)
        ! etcdctl --endpoints=$ENDPOINT member remove $id 2>&1";
    assert!(stage.on("m1").run(last).contains("re-configuration failed due to not enough started members"));
    stage.finish();
}

pub fn move_member(setup: &Setup) {
    let new = Ports::free();
    let (peer, client) = (format!("http://127.0.0.1:{}", new.peer), format!("http://127.0.0.1:{}", new.client));
    let values = [("NEW_PEER", peer), ("NEW_CLIENT", client.clone())];
    let mut stage = Stage::open("move-member", setup).settings("move-member", values).and_three_members();
    stage.write_keys(&["m1"], 5);
    let id = |listed: &str| -> String {
        let line = listed.lines().find(|line| line.contains(", m3, ")).unwrap_or_else(|| panic!("{listed}"));
        line.split(',').next().unwrap_or_default().to_owned()
    };
    let before = id(&stage.ask(&["m1"], "member list"));
    let printed = stage.step();
    assert!(printed.contains(&client), "{printed}");
    stage.moved("m3", new);
    stage.assert_members(&THREE);
    assert_eq!(id(&stage.ask(&["m3"], "member list")), before);
    // Without m1 it takes the one that moved.
    stage.on("m1").crash();
    stage.on("m3").run("until etcdctl --endpoints=$ENDPOINT endpoint health; do sleep 1; done");
    stage.assert_keys(&["m2", "m3"], 5);
    stage.finish();
}

/// A client writes all the time. What it was told is written is there, and it hears of nothing but members that are away.
pub fn restart(setup: &Setup) {
    let mut stage = Stage::with_three_members("restart", setup);
    let writer = "( n=0
        while [ ! -e enough ]; do
          if etcdctl --endpoints=$ENDPOINTS --command-timeout=5s put key/$n value-$n > answer 2>> refusals; then n=$((n + 1)); fi
        done
        echo $n > written ) &
        until [ -s answer ]; do sleep 1; done";
    stage.on("client").run(writer);
    let lives = |stage: &mut Stage, name: &str| stage.on(name).log().matches("\"closed etcd server\"").count();
    stage.step_on_each();
    for name in THREE {
        assert_eq!(lives(&mut stage, name), 1, "{name} was stopped in good order");
    }
    let written = stage.on("client").run("touch enough; wait; cat written");
    let written: usize = written.trim().parse().expect("a number");
    assert!(written > 10, "{written} writes are not under load");
    let refusals = stage.on("client").run("sort -u refusals");
    for line in refusals.lines().filter(|line| line.starts_with("Error: ")) {
        let is_of_absence =
            ["unavailable", "transport", "server stopped", "leader", "timed out", "deadline", "refused", "closing"];
        assert!(is_of_absence.iter().any(|text| line.to_lowercase().contains(text)), "{refusals}");
    }
    // The last one was told of by an answer or not.
    stage.assert_keys(&THREE, written);
    stage.assert_members(&THREE);
    stage.finish();
}
