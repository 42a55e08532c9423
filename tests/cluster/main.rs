//! Whole clusters of real processes, real clients and real faults, and judges that trust nobody.
//!
//! ```text
//!   history    what clients saw            check/       linearizable? watches whole? no lease early?
//!   model      what it has to look like    hand_made    the judges on histories with planted violations
//! ```
#![expect(clippy::disallowed_methods, reason = "processes live in real time, so their tests do")]

mod check;
#[cfg(test)]
mod hand_made;
mod history;
mod model;
