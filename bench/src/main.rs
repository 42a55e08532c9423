//! castd and etcd side by side: same machine, same disk, same load, one after the other in each round.
//!
//! ```text
//!   for each round: for each server: start ▶ cases ▶ stop        medians ▶ table of ratios
//! ```
//!
//! put, range and txn are driven by `h2load` (Debian's nghttp2-client), which costs the machine less than any gRPC client;
//! watch, lease and bulk load by this program. Both servers sync every write to disk. Figures are ratios because machines
//! are shared and noisy; nothing here is a test. `--smoke` runs everything once, briefly, to see that it runs.

mod cases;
mod disturbed;
mod h2load;
mod server;
mod table;

use cases::Case;
use server::{Kind, Server};
use std::path::PathBuf;
use table::Results;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How much of everything.
pub struct Effort {
    rounds: usize,
    /// Multiplies the number of operations of each case.
    scale: f64,
    load_keys: u64,
}

struct Arguments {
    effort: Effort,
    castd: PathBuf,
    etcd: PathBuf,
    storage: String,
    only: Vec<String>,
}

fn arguments() -> Result<Arguments, Error> {
    let target = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let mut parsed = Arguments {
        effort: Effort { rounds: 5, scale: 1.0, load_keys: 1_000_000 },
        castd: target.join("castd"),
        etcd: "/usr/bin/etcd".into(),
        storage: "rocksdb".into(),
        only: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--smoke" => parsed.effort = Effort { rounds: 1, scale: 0.01, load_keys: 5_000 },
            "--rounds" => parsed.effort.rounds = value()?.parse()?,
            "--scale" => parsed.effort.scale = value()?.parse()?,
            "--keys" => parsed.effort.load_keys = value()?.parse()?,
            "--castd" => parsed.castd = value()?.into(),
            "--etcd" => parsed.etcd = value()?.into(),
            "--storage" => parsed.storage = value()?,
            "--only" => parsed.only = value()?.split(',').map(str::to_owned).collect(),
            other => {
                return Err(format!(
                    "unknown argument {other}; known: --smoke --rounds N --scale F --keys N --castd PATH --etcd PATH \
                     --storage NAME --only CASE,CASE"
                )
                .into());
            }
        }
    }
    Ok(parsed)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = arguments()?;
    let mut results = Results::default();
    for round in 1..=arguments.effort.rounds {
        for kind in [Kind::Castd, Kind::Etcd] {
            let program = if kind == Kind::Castd { &arguments.castd } else { &arguments.etcd };
            for group in cases::GROUPS {
                let wanted =
                    |case: &&Case| arguments.only.is_empty() || arguments.only.iter().any(|only| only == case.name);
                let chosen: Vec<&Case> = group.iter().filter(wanted).collect();
                if chosen.is_empty() {
                    continue;
                }
                let mut server = Server::start(kind, program, &arguments.storage).await?;
                for case in chosen {
                    eprintln!("round {round}, {kind:?}: {}", case.name);
                    for (figure, value) in (case.run)(&mut server, &arguments.effort).await? {
                        results.add(case.name, figure, kind, value);
                    }
                }
                server.stop()?;
            }
        }
    }
    println!("{results}");
    results.check(arguments.effort.rounds)
}
