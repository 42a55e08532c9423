//! Keys: reading, writing, transactions, compaction, and how much of it at once.

mod compact;
mod limits;
mod range;
mod range_stream;
mod txn;
mod txn_compare;
mod write;
