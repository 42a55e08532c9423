//! Space that compaction has freed goes back to the file system, without an operator.
