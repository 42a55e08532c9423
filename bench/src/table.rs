//! Medians and ratios.

use crate::Error;
use std::collections::BTreeMap;
use std::fmt;

/// The two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Castd,
    Etcd,
}

impl Kind {
    pub const BOTH: [Kind; 2] = [Kind::Castd, Kind::Etcd];
}

/// A measured quantity.
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
    /// Of time without a leader: the median, and of the same the longest.
    ElectionTimeouts,
    WorstElectionTimeouts,
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
            Figure::ElectionTimeouts => "timeouts",
            Figure::WorstElectionTimeouts => "worst",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Figure::ElectionTimeouts | Figure::WorstElectionTimeouts => 2,
            Figure::PerSecond
            | Figure::CpuMicroseconds
            | Figure::Milliseconds
            | Figure::P50Milliseconds
            | Figure::P99Milliseconds
            | Figure::WorstMilliseconds
            | Figure::Megabytes => 1,
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

    fn of(&self, case: &'static str, figure: Figure, kind: Kind) -> &[f64] {
        self.values.get(&(case, figure, kind)).map_or(&[], Vec::as_slice)
    }

    /// One number for all that were measured: their median, or the worst where that is what the figure tells.
    fn summary(&self, case: &'static str, figure: Figure, kind: Kind) -> Option<f64> {
        let mut values = self.of(case, figure, kind).to_vec();
        values.sort_by(f64::total_cmp);
        let place =
            if figure == Figure::WorstElectionTimeouts { values.len().checked_sub(1)? } else { values.len() / 2 };
        values.get(place).copied()
    }

    /// Every figure was measured in every round, as often for one server as for the other, and is a positive number.
    pub fn check(&self, rounds: usize) -> Result<(), Error> {
        if self.order.is_empty() {
            return Err("nothing was measured".into());
        }
        for (case, figure) in &self.order {
            let [castd, etcd] = Kind::BOTH.map(|kind| self.of(case, *figure, kind));
            let is_sound = |value: &f64| value.is_finite() && *value >= 0.0;
            let is_complete = castd.len() == etcd.len() && castd.len() >= rounds && castd.len().is_multiple_of(rounds);
            if !is_complete || !castd.iter().chain(etcd).all(is_sound) {
                return Err(format!("{case} {figure:?}: {castd:?} against {etcd:?} in {rounds} rounds").into());
            }
        }
        Ok(())
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<25} {:>12} {:>12} {:<10} {:>11}", "case", "castd", "etcd", "", "castd/etcd")?;
        for (case, figure) in &self.order {
            let summaries = Kind::BOTH.map(|kind| self.summary(case, *figure, kind));
            if let [Some(castd), Some(etcd)] = summaries {
                let ratio = if etcd > 0.0 { castd / etcd } else { f64::NAN };
                let (unit, decimals) = (figure.unit(), figure.decimals());
                writeln!(out, "{case:<25} {castd:>12.decimals$} {etcd:>12.decimals$} {unit:<10} {ratio:>10.2}x")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(castd: &[f64], etcd: &[f64]) -> Results {
        let mut results = Results::default();
        for figure in [Figure::ElectionTimeouts, Figure::WorstElectionTimeouts] {
            castd.iter().for_each(|value| results.add("failover", figure, Kind::Castd, *value));
            etcd.iter().for_each(|value| results.add("failover", figure, Kind::Etcd, *value));
        }
        results
    }

    #[test]
    fn the_table_shows_medians_the_worst_and_their_ratios() {
        let text = results(&[1.0, 3.0, 1.5], &[2.0, 2.0, 12.0]).to_string();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["failover", "1.50", "2.00", "timeouts", "0.75x"]);
        assert_eq!(rows[1], ["failover", "3.00", "12.00", "worst", "0.25x"]);
    }

    #[test]
    fn what_was_measured_less_than_asked_for_is_an_error() {
        assert!(Results::default().check(1).is_err());
        assert!(results(&[1.0, 2.0], &[1.0, 2.0]).check(2).is_ok());
        assert!(results(&[1.0, 2.0], &[1.0, 2.0]).check(1).is_ok(), "several in a round");
        assert!(results(&[1.0, 2.0], &[1.0]).check(1).is_err());
        assert!(results(&[1.0, 2.0], &[1.0, 2.0]).check(3).is_err());
        assert!(results(&[f64::NAN], &[1.0]).check(1).is_err());
    }
}
