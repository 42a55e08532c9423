//! Judges a history by itself: nothing here knows how Castd works.
//!
//! ```text
//!   History ──▶ revisions   the whole key space, complete: answers say at which revision they hold
//!          ├──▶ registers   single keys, without trusting any revision (Wing and Gong's search)
//!          ├──▶ watches     ordered, each event once, revisions whole, nothing missing, resumable
//!          ├──▶ leases      none ends before its time
//!          └──▶ refusals    what is refused for want of history, and what should have been
//! ```

pub mod leases;
pub mod refusals;
pub mod registers;
pub mod revisions;
pub mod truth;
pub mod watches;

/// What is wrong, in words for whoever reads the failure.
pub type Violation = String;
