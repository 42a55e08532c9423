//! The live index: every key with its versions, in memory. Values stay in the backend.
//!
//! ```text
//!   Tree ──▶ Inner (separators, counts) ──▶ Inner ──▶ Leaf (keys, slots, histories)
//! ```
//! A B+tree of shared nodes. A clone of the tree is one reference; the writer copies a node the first time it touches it
//! after a clone was taken, and changes it in place from then on. Every reference to a node carries how many keys under it
//! are not deleted, so that counting a range walks two paths and nothing between them.
//!
//! Deleted keys stay, as deletions, until compaction reaches them.

mod build;
mod history;
mod keys;
mod leaf;
mod sweep;
mod tree;

pub(crate) use build::Loader;
pub use history::Version;
pub(crate) use sweep::{Doomed, Sweep};
pub(crate) use tree::{Change, Entry, Span, Tree, Walk};
