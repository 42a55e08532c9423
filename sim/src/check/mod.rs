//! What must hold, whatever goes wrong.
//!
//! ```text
//!   after each step    steps      each core's own invariants; terms, leaders, revisions, hashes, members
//!   at the end         end        what clients saw, by the judges of `castd-judge`; what members have by then
//! ```
//! A check that fails panics; whoever runs the world turns that into a failure with the seed in it.

mod end;
mod steps;

pub use end::judge;
pub use steps::Checks;
