//! Several members.

mod disks;
mod failover;
mod leases;
mod membership;
mod peers;
mod refusals;
mod serving;
mod snapshots;
mod start;
mod watches;
