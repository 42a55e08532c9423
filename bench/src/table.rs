//! Medians and ratios.

use crate::Error;
use crate::server::Kind;
use std::collections::BTreeMap;
use std::fmt;

/// A measured quantity, and whether more of it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    PerSecond,
    CpuMicroseconds,
    Milliseconds,
    /// Latencies: half of the requests took no longer, all but one in a hundred, and the longest.
    P50Milliseconds,
    P99Milliseconds,
    WorstMilliseconds,
    Megabytes,
}

impl Figure {
    fn unit(self) -> &'static str {
        match self {
            Figure::PerSecond => "/s",
            Figure::CpuMicroseconds => "us CPU/op",
            Figure::Milliseconds => "ms",
            Figure::P50Milliseconds => "ms p50",
            Figure::P99Milliseconds => "ms p99",
            Figure::WorstMilliseconds => "ms worst",
            Figure::Megabytes => "MB",
        }
    }
}

/// In the order in which they were measured first.
#[derive(Default)]
pub struct Results {
    order: Vec<(&'static str, Figure)>,
    values: BTreeMap<(&'static str, Figure, Kind), Vec<f64>>,
}

impl Results {
    pub fn add(&mut self, case: &'static str, figure: Figure, kind: Kind, value: f64) {
        if !self.order.contains(&(case, figure)) {
            self.order.push((case, figure));
        }
        self.values.entry((case, figure, kind)).or_default().push(value);
    }

    fn median(&self, case: &'static str, figure: Figure, kind: Kind) -> Option<f64> {
        let mut values = self.values.get(&(case, figure, kind))?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Every figure was measured in every round, for both servers, and is a positive number.
    pub fn check(&self, rounds: usize) -> Result<(), Error> {
        if self.order.is_empty() {
            return Err("nothing was measured".into());
        }
        for (case, figure) in &self.order {
            for kind in [Kind::Castd, Kind::Etcd] {
                let values = self.values.get(&(*case, *figure, kind)).map_or(&[][..], Vec::as_slice);
                if values.len() != rounds || values.iter().any(|value| !value.is_finite() || *value < 0.0) {
                    return Err(format!("{case} {figure:?} {kind:?}: {values:?} in {rounds} rounds").into());
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<24} {:>12} {:>12} {:<10} {:>11}", "case", "castd", "etcd", "", "castd/etcd")?;
        for (case, figure) in &self.order {
            let medians = [Kind::Castd, Kind::Etcd].map(|kind| self.median(case, *figure, kind));
            if let [Some(castd), Some(etcd)] = medians {
                let ratio = if etcd > 0.0 { castd / etcd } else { f64::NAN };
                writeln!(out, "{case:<24} {castd:>12.1} {etcd:>12.1} {:<10} {ratio:>10.2}x", figure.unit())?;
            }
        }
        Ok(())
    }
}
