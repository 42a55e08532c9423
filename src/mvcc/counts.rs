//! How many operations were carried out, counted as etcd's metrics count them.
//!
//! Every comparison of a txn is a range of one key, and so is looking up what a put or a delete is to return. Operations
//! that read or write together are a transaction from the second one on, whatever the request was called: a put that
//! returns the previous value is one, a txn with a single put is not. The comparisons of a txn that writes stand for
//! themselves, because etcd makes them before it begins to write.

/// Of one slice, or of one request that only reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCounts {
    pub ranges: u64,
    pub puts: u64,
    /// Of keys and values.
    pub put_bytes: u64,
    /// Each for one key or range, whatever it finds.
    pub deletes: u64,
    pub txns: u64,
}

impl OpCounts {
    pub(super) fn operations(&self) -> u64 {
        self.ranges + self.puts + self.deletes
    }

    /// What was counted since there were `before` operations belongs together.
    pub(super) fn end_txn(&mut self, before: u64) {
        self.txns += u64::from(self.operations() - before > 1);
    }

    /// Comparisons that were made on their own.
    pub(super) fn compared(&mut self, compares: u64) {
        self.ranges += compares;
        self.txns += u64::from(compares > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::OpCounts;

    #[test]
    fn two_operations_are_a_transaction_and_one_is_not() {
        let mut counts = OpCounts::default();
        counts.puts += 1;
        counts.end_txn(0);
        assert_eq!(counts.txns, 0);
        counts.puts += 1;
        counts.ranges += 1;
        counts.end_txn(1);
        assert_eq!(counts.txns, 1);
        counts.compared(1);
        counts.compared(2);
        assert_eq!(counts, OpCounts { ranges: 4, puts: 2, txns: 2, ..OpCounts::default() });
    }
}
