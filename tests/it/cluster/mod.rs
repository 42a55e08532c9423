//! Several members.

mod failover;
mod membership;
mod serving;
mod snapshots;
mod start;
