//! Feature gates: switches for what etcd does not yet, or no longer, do by default.

use std::collections::BTreeMap;
use std::fmt;

use super::settings::{GateError, parse_gates};
use super::table::{GATES, Stage};

/// Every gate of etcd 3.7.1 with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    states: BTreeMap<&'static str, bool>,
    /// Those that were named, for the log.
    named: BTreeMap<String, bool>,
}

impl FeatureGates {
    /// `AllAlpha` and `AllBeta` set those of their stage that are not named.
    ///
    /// # Errors
    /// `GateError`.
    pub fn parse(text: &str) -> Result<FeatureGates, GateError> {
        let named = parse_gates(text)?;
        let state = |name: &str, stage: Stage| {
            let group = if stage == Stage::Alpha { "AllAlpha" } else { "AllBeta" };
            named.get(name).or_else(|| named.get(group)).copied().unwrap_or(stage == Stage::Beta)
        };
        let states = GATES.iter().map(|(name, stage)| (*name, state(name, *stage))).collect();
        Ok(FeatureGates { states, named })
    }

    /// A name that no gate has is off.
    pub fn is_on(&self, name: &str) -> bool {
        self.states.get(name).copied().unwrap_or(false)
    }

    /// Every gate with its stage, and the two groups, as `etcd_server_feature_enabled` shows them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        let group = |name| self.named.get(name).copied().unwrap_or(false);
        let groups = [("AllAlpha", "ALPHA", group("AllAlpha")), ("AllBeta", "BETA", group("AllBeta"))];
        let stage = |stage: Stage| if stage == Stage::Alpha { "ALPHA" } else { "BETA" };
        groups.into_iter().chain(GATES.iter().map(move |(name, of)| (*name, stage(*of), self.is_on(name))))
    }

    /// Gates whose state is not their default.
    pub fn changed(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let states = &self.states;
        GATES.iter().filter_map(move |(name, stage)| {
            let on = states.get(name).copied()?;
            (on != (*stage == Stage::Beta)).then_some((*name, on))
        })
    }
}

impl Default for FeatureGates {
    fn default() -> FeatureGates {
        match FeatureGates::parse("") {
            Ok(gates) => gates,
            Err(error) => unreachable!("no gates named: {error}"),
        }
    }
}

impl fmt::Display for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.named.iter().map(|(name, on)| format!("{name}={on}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_gate_counts_more_than_its_group_and_a_group_more_than_the_default() {
        let gates = FeatureGates::parse("AllAlpha=true,LeaseCheckpoint=false,AllBeta=false").expect("valid");
        assert!(gates.is_on("CompactHashCheck"));
        assert!(!gates.is_on("LeaseCheckpoint"));
        assert!(!gates.is_on("FastLeaseKeepAlive"));
        assert!(gates.all().any(|gate| gate == ("AllAlpha", "ALPHA", true)));
        assert!(gates.all().any(|gate| gate == ("FastLeaseKeepAlive", "BETA", false)));
        assert_eq!(gates.to_string(), "AllAlpha=true,AllBeta=false,LeaseCheckpoint=false");
        assert_eq!(FeatureGates::default().changed().count(), 0);
        assert!(FeatureGates::default().is_on("TxnModeWriteWithSharedBuffer"));
    }
}
