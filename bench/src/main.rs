//! castd and etcd side by side: same machine, same disk, same flags, same load, one after the other in each round.
//!
//! ```text
//!   for each round: for each group of cases: for each of the two: start ▶ cases ▶ stop      medians ▶ table of ratios
//! ```
//!
//! - alone (`cases`): put, range, txn, watch, lease, bulk load, memory, restart; puts beside a compaction (`disturbed`).
//! - three members on this machine (`clustered`): `cluster-…`, and `failover`, the time without a leader after one was killed.
//!
//! `--only` runs some of them: `make bench ARGS="--only cluster-put-64,failover"`.
//!
//! put, range and txn are driven by `h2load` (Debian's nghttp2-client), which costs the machine less than any gRPC client;
//! watch, lease, bulk load and failover by this program. Both servers sync every write to disk. Figures are ratios because
//! machines are shared and noisy; nothing here is a test. `--smoke` runs everything once, briefly, to see that it runs.

mod cases;
mod cluster;
mod clustered;
mod disturbed;
mod failover;
mod h2load;
mod server;
mod table;
mod target;

use cases::{Case, GROUPS, Group};
use cluster::Cluster;
use server::{Program, Server};
use std::path::PathBuf;
use table::{Kind, Results};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How much of everything.
pub struct Effort {
    rounds: usize,
    /// Multiplies the number of operations of each case.
    scale: f64,
    load_keys: u64,
    /// Leaders to kill in each round.
    kills: usize,
}

struct Arguments {
    effort: Effort,
    castd: PathBuf,
    etcd: PathBuf,
    storage: String,
    only: Vec<String>,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn program(&self, kind: Kind) -> Program {
        let path = if kind == Kind::Castd { &self.castd } else { &self.etcd };
        Program { kind, path: path.clone(), storage: self.storage.clone() }
    }
}

fn arguments() -> Result<Arguments, Error> {
    let target = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let mut parsed = Arguments {
        effort: Effort { rounds: 5, scale: 1.0, load_keys: 1_000_000, kills: 0 },
        castd: target.join("castd"),
        etcd: "/usr/bin/etcd".into(),
        storage: "rocksdb".into(),
        only: Vec::new(),
    };
    let mut kills_in_all: usize = 30;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--smoke" => {
                (parsed.effort.rounds, parsed.effort.scale, parsed.effort.load_keys, kills_in_all) =
                    (1, 0.01, 5_000, 1);
            }
            "--rounds" => parsed.effort.rounds = value()?.parse()?,
            "--scale" => parsed.effort.scale = value()?.parse()?,
            "--keys" => parsed.effort.load_keys = value()?.parse()?,
            "--kills" => kills_in_all = value()?.parse()?,
            "--castd" => parsed.castd = value()?.into(),
            "--etcd" => parsed.etcd = value()?.into(),
            "--storage" => parsed.storage = value()?,
            "--only" => parsed.only = value()?.split(',').map(str::to_owned).collect(),
            other => {
                return Err(format!(
                    "unknown argument {other}; known: --smoke --rounds N --scale F --keys N --kills N --castd PATH \
                     --etcd PATH --storage NAME --only CASE,CASE"
                )
                .into());
            }
        }
    }
    if parsed.effort.rounds == 0 || kills_in_all == 0 {
        return Err("--rounds and --kills are at least 1".into());
    }
    parsed.effort.kills = kills_in_all.div_ceil(parsed.effort.rounds);
    let names: Vec<&str> = GROUPS.iter().flat_map(Group::names).collect();
    if let Some(unknown) = parsed.only.iter().find(|only| !names.contains(&only.as_str())) {
        return Err(format!("there is no case {unknown}; there are: {}", names.join(" ")).into());
    }
    Ok(parsed)
}

/// Puts its cases, those that are wanted, to a server or a cluster.
async fn measure<On>(
    on: &mut On,
    cases: &[Case<On>],
    (round, kind): (usize, Kind),
    arguments: &Arguments,
    results: &mut Results,
) -> Result<(), Error> {
    for case in cases.iter().filter(|case| arguments.wants(case.name)) {
        eprintln!("round {round}, {kind:?}: {}", case.name);
        let figures = (case.run)(on, &arguments.effort).await;
        for (figure, value) in figures.map_err(|error| format!("{} with {kind:?}: {error}", case.name))? {
            results.add(case.name, figure, kind, value);
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = arguments()?;
    let mut results = Results::default();
    for round in 1..=arguments.effort.rounds {
        for group in GROUPS.iter().filter(|group| group.names().iter().any(|name| arguments.wants(name))) {
            // Whoever comes second may find a machine that is busier, or a disk that is.
            let mut kinds = Kind::BOTH;
            kinds.rotate_left(round % 2);
            for kind in kinds {
                let (run, program) = ((round, kind), arguments.program(kind));
                match group {
                    Group::Lone(cases) => {
                        let mut server = Server::start(&program).await?;
                        measure(&mut server, cases, run, &arguments, &mut results).await?;
                        server.stop()?;
                    }
                    Group::Cluster(cases) => {
                        let mut cluster = Cluster::start(&program).await?;
                        measure(&mut cluster, cases, run, &arguments, &mut results).await?;
                        cluster.stop()?;
                    }
                }
            }
        }
    }
    println!("{results}");
    results.check(arguments.effort.rounds)
}
