//! Compaction's two clocks, which the Compactor keeps: when history is compacted by itself, and how fast what a
//! compaction left is deleted. Pure: told the time with every step.
//!
//! ```text
//!   Tick, leadership ──▶ auto  ──▶ revision to compact to        (--auto-compaction-mode, -retention)
//!   Tick, pieces done ─▶ pace  ──▶ "delete so many rows now"     (--compaction-batch-limit, -sleep-interval)
//! ```
//! Neither touches the store: a compaction goes through the log, and rows are deleted by the Applier.

pub mod auto;
pub mod pace;
