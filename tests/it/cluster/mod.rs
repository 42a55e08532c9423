//! Several members.

mod failover;
mod membership;
mod peers;
mod serving;
mod snapshots;
mod start;
