//! What is measured with a cluster of three: the loads of a lone server, and what follows the end of a leader.
//!
//! Three servers and their clients share the cores of one machine. So the figures show what a request costs all of them
//! together rather than what a cluster of machines does.

use crate::Effort;
use crate::cases::{Case, case, put, range, watch};
use crate::cluster::{Cluster, Way};
use crate::failover;
use Way::{AllInTurn, Leader};

const PUTS_ALONE: f64 = 3_000.0;
const PUTS: f64 = 60_000.0;
const RANGES_ALONE: f64 = 6_000.0;
const RANGES: f64 = 100_000.0;

macro_rules! put {
    ($name:literal, $way:expr, $clients:expr, $count:expr) => {
        case!($name, async |c: &mut Cluster, e: &Effort| put(&c.target($way).await?, e, $clients, $count))
    };
}

macro_rules! range {
    ($name:literal, $way:expr, $clients:expr, $count:expr, $serializable:expr) => {
        case!($name, async |c: &mut Cluster, e: &Effort| {
            range(&c.target($way).await?, e, $clients, $count, $serializable)
        })
    };
}

/// `-any` goes to all members in turn, the others to the leader.
pub const LOADS: &[Case<Cluster>] = &[
    put!("cluster-put-1", Leader, 1, PUTS_ALONE),
    put!("cluster-put-64", Leader, 64, PUTS),
    put!("cluster-put-1000", Leader, 1_000, PUTS),
    put!("cluster-put-any-1", AllInTurn, 1, PUTS_ALONE),
    put!("cluster-put-any-64", AllInTurn, 64, PUTS),
    put!("cluster-put-any-1000", AllInTurn, 1_000, PUTS),
    range!("cluster-range-1", Leader, 1, RANGES_ALONE, false),
    range!("cluster-range-64", Leader, 64, RANGES, false),
    range!("cluster-range-1000", Leader, 1_000, RANGES, false),
    range!("cluster-range-any-1", AllInTurn, 1, RANGES_ALONE, false),
    range!("cluster-range-any-64", AllInTurn, 64, RANGES, false),
    range!("cluster-range-any-1000", AllInTurn, 1_000, RANGES, false),
    range!("cluster-serializable-1", AllInTurn, 1, RANGES_ALONE, true),
    range!("cluster-serializable-64", AllInTurn, 64, RANGES, true),
    range!("cluster-serializable-1000", AllInTurn, 1_000, RANGES, true),
];

/// The writer at the leader, the watchers at all members.
pub const WATCH: &[Case<Cluster>] =
    &[case!("cluster-watch-1000", async |c: &mut Cluster, e: &Effort| watch(&c.target(AllInTurn).await?, e).await)];

pub const FAILOVER: &[Case<Cluster>] = &[case!("failover", failover::run)];
