//! Judges what clients saw, by itself: nothing in here knows how Castd works, or whether its members were real.
//!
//! ```text
//!   real processes (tests/cluster) ──┐                      ┌──▶ check ──▶ violations, and how much was looked at
//!   simulated clusters (sim)     ────┴─▶ history::History ──┘      ▲
//!                                                                model: what it has to be like
//! ```

pub mod check;
pub mod history;
pub mod model;
