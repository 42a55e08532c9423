//! Whole clusters under one seed: the cores of every actor of every member on one thread, in virtual time, with everything
//! going wrong that can; and every step and every answer checked.
//!
//! ```text
//!   seed ──▶ Plan ──▶ World: members (cores, mail, disk, clock), network, clients, faults ──▶ Summary, or a Failure
//!   campaign: many seeds on all cores           planted: bugs that have to be found           trace: the same seed, the same run
//! ```
//! Nothing in a world asks a clock, a thread or a random number generator of the machine, so a seed is a run. What is judged is
//! the contract: `castd-judge` for clients, [`check`] for what cores promise each other.

pub mod actors;
pub mod campaign;
pub mod check;
pub mod clients;
pub mod clock;
pub mod dice;
pub mod disk;
pub mod failure;
pub mod faults;
pub mod member;
pub mod network;
pub mod planted;
pub mod queue;
pub mod seed;
pub mod shrink;
pub mod summary;
pub mod trace;
pub mod world;

pub use failure::{Failure, run};
