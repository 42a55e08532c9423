//! Four machines on this one, and the blocks of a runbook to be run on them.

use super::document::{self, Block};
use super::machine::Machine;
use crate::harness::server::Ports;
use crate::harness::{Setup, wait_until};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

pub const JOIN: &str = "join";
const PATIENCE: Duration = Duration::from_secs(30);
/// A shell on no particular machine.
const ANYWHERE: &str = "any";

pub struct Stage {
    runbook: &'static str,
    /// Still to be run.
    blocks: VecDeque<Block>,
    ports: BTreeMap<&'static str, Ports>,
    storage: &'static str,
    /// Values for the page's own variables of this runbook, and for such that it does not need to name.
    more: Vec<(String, String)>,
    machines: BTreeMap<String, Machine>,
    directory: Option<TempDir>,
}

impl Stage {
    /// With nothing running.
    pub fn open(runbook: &'static str, setup: &Setup) -> Stage {
        let directory = tempfile::Builder::new().prefix("castd-runbook-").tempdir().expect("a temporary directory");
        Stage {
            runbook,
            blocks: document::runbook(runbook).into(),
            ports: ["m1", "m2", "m3", "m4"].map(|name| (name, Ports::free())).into(),
            storage: setup.backend().expect("castd's").name(),
            more: Vec::new(),
            machines: BTreeMap::new(),
            directory: Some(directory),
        }
    }

    /// With three members, started by their runbook.
    pub fn with_three_members(runbook: &'static str, setup: &Setup) -> Stage {
        Stage::open(runbook, setup).and_three_members()
    }

    /// The values of the variables that the page gives for one runbook alone. Before anything is run.
    pub fn settings<const N: usize>(mut self, of: &str, values: [(&str, String); N]) -> Stage {
        assert_eq!(values.each_ref().map(|(name, _)| *name).to_vec(), document::settings(of));
        self.more.extend(values.map(|(name, value)| (name.to_owned(), value)));
        self
    }

    pub fn and_three_members(mut self) -> Stage {
        self.follow("start");
        self
    }

    /// The whole of another runbook.
    pub fn follow(&mut self, runbook: &str) {
        for block in document::runbook(runbook) {
            self.run(&block);
        }
    }

    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("held until dropped").path()
    }

    fn url(&self, machine: &str, port: impl Fn(&Ports) -> u16) -> String {
        format!("http://127.0.0.1:{}", port(&self.ports[machine]))
    }

    pub fn client_url(&self, machine: &str) -> String {
        self.url(machine, |ports| ports.client)
    }

    pub fn peer_url(&self, machine: &str) -> String {
        self.url(machine, |ports| ports.peer)
    }

    /// What a machine's shell begins with: the page's settings with values for here, and fast elections.
    fn environment(&self, name: &str) -> Vec<(String, String)> {
        // A shell elsewhere has the settings of m1.
        let member = if self.ports.contains_key(name) { name } else { "m1" };
        let directory = self.directory().join(name);
        let file = |name: &str| directory.join(name).display().to_string();
        let (client, peer) = (self.client_url(member), self.peer_url(member));
        let three = ["m1", "m2", "m3"];
        let values = [
            ("ETCD_NAME", member.to_owned()),
            ("ETCD_DATA_DIR", file("data")),
            ("ETCD_LISTEN_PEER_URLS", peer.clone()),
            ("ETCD_INITIAL_ADVERTISE_PEER_URLS", peer),
            ("ETCD_LISTEN_CLIENT_URLS", client.clone()),
            ("ETCD_ADVERTISE_CLIENT_URLS", client.clone()),
            ("ETCD_INITIAL_CLUSTER", three.map(|name| format!("{name}={}", self.peer_url(name))).join(",")),
            ("ETCD_INITIAL_CLUSTER_TOKEN", "production-1".to_owned()),
            ("ETCD_INITIAL_CLUSTER_STATE", "new".to_owned()),
            ("ETCD_LOG_OUTPUTS", file("castd.log")),
            ("ETCDCTL_API", "3".to_owned()),
            ("ENDPOINT", client),
            ("ENDPOINTS", three.map(|name| self.client_url(name)).join(",")),
        ];
        assert_eq!(values.each_ref().map(|(name, _)| *name).to_vec(), document::settings("machine"));
        let fast =
            [("ETCD_HEARTBEAT_INTERVAL", "50"), ("ETCD_ELECTION_TIMEOUT", "500"), ("ETCD_STORAGE", self.storage)];
        let fast = fast.map(|(name, value)| (name.to_owned(), value.to_owned()));
        values.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(fast).chain(self.more.clone()).collect()
    }

    /// The shell on that machine.
    pub fn on(&mut self, name: &str) -> &mut Machine {
        if !self.machines.contains_key(name) {
            let programs = Path::new(env!("CARGO_BIN_EXE_castd")).parent().expect("in a directory").display();
            let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
            let machine = Machine::start(&self.directory().join(name), &path, &self.environment(name));
            self.machines.insert(name.to_owned(), machine);
        }
        self.machines.get_mut(name).expect("just made")
    }

    fn run(&mut self, block: &Block) -> Vec<String> {
        eprintln!("--- docs/operations.md:{}, {} on {}", block.line, block.runbook, block.machines.join(", "));
        block.machines.iter().map(|name| self.on(name).run(&block.commands)).collect()
    }

    /// Runs the next block of the runbook, which is for one machine; what it printed.
    #[track_caller]
    pub fn step(&mut self) -> String {
        let printed = self.step_on_each();
        let [printed] = &printed[..] else { panic!("the block is for {} machines", printed.len()) };
        printed.clone()
    }

    /// Runs the next block of the runbook on each of its machines; what it printed there.
    #[track_caller]
    pub fn step_on_each(&mut self) -> Vec<String> {
        let block = self.blocks.pop_front().unwrap_or_else(|| panic!("{} has no more blocks", self.runbook));
        self.run(&block)
    }

    /// Where a runbook says "join".
    pub fn join(&mut self, machine: &str) {
        for block in document::runbook(JOIN) {
            assert_eq!(block.machines, ["new"]);
            self.run(&Block { machines: vec![machine.to_owned()], ..block });
        }
    }

    /// etcdctl by somebody who knows which members there are.
    pub fn ask(&mut self, machines: &[&str], command: &str) -> String {
        let endpoints = machines.iter().map(|name| self.client_url(name)).collect::<Vec<_>>().join(",");
        self.on(ANYWHERE).run(&format!("etcdctl --endpoints={endpoints} {command}"))
    }

    /// So many keys, for losses to show.
    pub fn write_keys(&mut self, machines: &[&str], count: usize) {
        for key in 0..count {
            assert_eq!(self.ask(machines, &format!("put key/{key} value-{key}")), "OK\n");
        }
    }

    #[track_caller]
    pub fn assert_keys(&mut self, machines: &[&str], count: usize) {
        let mut expected: Vec<String> = (0..count).map(|key| format!("key/{key}\nvalue-{key}\n")).collect();
        expected.sort_unstable();
        for machine in machines {
            assert_eq!(self.ask(&[*machine], "get --prefix key/"), expected.concat());
        }
    }

    /// Exactly these are members, all of them voters that have started, and all of them take part and agree.
    #[track_caller]
    pub fn assert_members(&mut self, machines: &[&str]) {
        for machine in machines {
            let listed = self.ask(&[*machine], "member list");
            let mut found: Vec<&str> = listed.lines().collect();
            let mut names: Vec<&str> = Vec::new();
            for line in &mut found {
                let fields: Vec<&str> = line.split(", ").collect();
                let &[_, "started", name, peers, clients, "false"] = &fields[..] else { panic!("{listed}") };
                assert_eq!((peers, clients), (&*self.peer_url(name), &*self.client_url(name)));
                names.push(name);
            }
            names.sort_unstable();
            assert_eq!(names, machines, "{listed}");
            assert_eq!(self.ask(&[*machine], &format!("put through-{machine} works")), "OK\n");
        }
        let hashes = |stage: &mut Stage| -> Vec<String> {
            let printed = stage.ask(machines, "endpoint hashkv");
            printed.lines().filter_map(|line| line.split(", ").nth(1).map(str::to_owned)).collect()
        };
        wait_until("equal hashes", PATIENCE, || {
            let found = hashes(self);
            assert_eq!(found.len(), machines.len());
            found.iter().all(|hash| *hash == found[0])
        });
    }

    /// For a member that has moved.
    pub fn moved(&mut self, name: &'static str, ports: Ports) {
        self.ports.insert(name, ports);
    }

    /// All that the page says has been done.
    #[track_caller]
    pub fn finish(self) {
        let left: Vec<usize> = self.blocks.iter().map(|block| block.line).collect();
        assert!(left.is_empty(), "blocks of {} that the test does not run, in lines {left:?}", self.runbook);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for machine in self.machines.values() {
                eprintln!("{}", machine.told());
            }
            if let Some(directory) = self.directory.take() {
                eprintln!("--- kept: {}", directory.keep().display());
            }
        }
        // Before the directory goes.
        self.machines.clear();
    }
}
