//! What goes wrong, one round at a time: something is broken, stays so for a while, and is mended.

use crate::cluster::Cluster;
use crate::member::Member;
use crate::network::Flow;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::{Duration, Instant};

const LEFT_BEHIND_FOR: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillOne,
    KillLeader,
    KillAll,
    PauseOne,
    PauseLeader,
    CutOne,
    CutLeader,
    /// What it says is not heard.
    MuteOne,
    /// It does not hear.
    DeafLeader,
    /// One way between two members.
    CutOneWay,
    Slow,
    /// SIGTERM and a start, one after the other.
    Roll,
    /// One is cut off, and behind when another one goes.
    CutAndKillAnother,
    /// One is away until the others have cut what it needs off their logs.
    LeftBehind,
}

impl Fault {
    pub const ALL: [Fault; 14] = [
        Fault::KillOne,
        Fault::KillLeader,
        Fault::KillAll,
        Fault::PauseOne,
        Fault::PauseLeader,
        Fault::CutOne,
        Fault::CutLeader,
        Fault::MuteOne,
        Fault::DeafLeader,
        Fault::CutOneWay,
        Fault::Slow,
        Fault::Roll,
        Fault::CutAndKillAnother,
        Fault::LeftBehind,
    ];
}

/// Every fault comes once before any comes twice.
pub struct Faults {
    rng: StdRng,
    to_come: Vec<Fault>,
}

impl Faults {
    pub fn new(rng: StdRng) -> Self {
        Faults { rng, to_come: Vec::new() }
    }

    fn next(&mut self) -> Fault {
        if self.to_come.is_empty() {
            self.to_come = Fault::ALL.to_vec();
            self.to_come.shuffle(&mut self.rng);
        }
        self.to_come.pop().expect("just filled")
    }

    async fn hold(&mut self, millis: std::ops::Range<u64>) {
        let time = Duration::from_millis(self.rng.random_range(millis));
        tokio::time::sleep(time).await;
    }

    /// Breaks something, lets it be so for a while, and mends it; does not wait for everybody to be well.
    pub async fn round(&mut self, cluster: &mut Cluster) -> Fault {
        let fault = self.next();
        let members = cluster.members.len();
        let one = self.rng.random_range(0..members);
        let leader = cluster.leader().await.unwrap_or(one);
        match fault {
            Fault::KillOne => self.kill(cluster, &[one]).await,
            Fault::KillLeader => self.kill(cluster, &[leader]).await,
            Fault::KillAll => self.kill(cluster, &(0..members).collect::<Vec<_>>()).await,
            Fault::PauseOne | Fault::PauseLeader => {
                let member = if fault == Fault::PauseOne { one } else { leader };
                cluster.members[member].pause();
                self.hold(300..3_000).await;
                cluster.members[member].go_on();
            }
            Fault::CutOne => self.cut(cluster, one, true, true).await,
            Fault::CutLeader => self.cut(cluster, leader, true, true).await,
            Fault::MuteOne => self.cut(cluster, one, true, false).await,
            Fault::DeafLeader => self.cut(cluster, leader, false, true).await,
            Fault::CutOneWay => {
                let way = (cluster.members[one].number, cluster.members[(one + 1) % members].number);
                cluster.network.set(way, Flow::Held);
                self.hold(500..3_000).await;
            }
            Fault::Slow => {
                let time = Duration::from_millis(self.rng.random_range(5..60));
                self.set_all(cluster, one, true, true, Flow::Slow(time));
                self.hold(1_000..3_000).await;
            }
            Fault::Roll => {
                for place in 0..members {
                    cluster.members[place].terminate();
                    cluster.members[place].spawn();
                    cluster.wait_healthy().await;
                }
            }
            Fault::CutAndKillAnother => {
                self.set_all(cluster, one, true, true, Flow::Held);
                self.hold(1_500..3_000).await;
                let other = (one + 1) % members;
                cluster.members[other].kill();
                self.hold(100..500).await;
                cluster.members[other].spawn();
                self.hold(100..1_500).await;
            }
            Fault::LeftBehind => {
                cluster.members[one].kill();
                let others: Vec<usize> = (0..members).filter(|other| *other != one).collect();
                let (gone, started) =
                    (cluster.ask(others[0]).await.map_or(u64::MAX, |said| said.applied), Instant::now());
                // Whoever leads when it comes back has cut what it needs.
                while started.elapsed() < LEFT_BEHIND_FOR
                    && others.iter().any(|other| cluster.members[*other].cut_upto().is_none_or(|upto| upto <= gone))
                {
                    self.hold(50..100).await;
                }
                cluster.members[one].spawn();
            }
        }
        cluster.network.mend();
        fault
    }

    async fn kill(&mut self, cluster: &mut Cluster, places: &[usize]) {
        places.iter().for_each(|place| cluster.members[*place].kill());
        self.hold(100..1_500).await;
        for place in places {
            Member::spawn(&mut cluster.members[*place]);
            self.hold(0..300).await;
        }
    }

    async fn cut(&mut self, cluster: &Cluster, place: usize, out: bool, inward: bool) {
        self.set_all(cluster, place, out, inward, Flow::Held);
        self.hold(500..3_000).await;
    }

    fn set_all(&self, cluster: &Cluster, place: usize, out: bool, inward: bool, flow: Flow) {
        let one = cluster.members[place].number;
        for other in cluster.members.iter().map(|member| member.number).filter(|other| *other != one) {
            if out {
                cluster.network.set((one, other), flow);
            }
            if inward {
                cluster.network.set((other, one), flow);
            }
        }
    }
}
