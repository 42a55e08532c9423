//! Several members.

mod failover;
mod membership;
mod serving;
mod start;
