//! How much of the files is live, judged by rows: a tombstone that was not compacted yet stands for itself and for the
//! row it hides. RocksDB's own estimate counts what overlaps in level 0 once, which hides most of a small store.

/// Rows in memtables and tables, tombstones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowCounts {
    pub(crate) entries: u64,
    pub(crate) deletions: u64,
}

impl RowCounts {
    /// Adds what `rocksdb.aggregated-table-properties` says: `# data blocks=2; # entries=10; # deletions=1; …`.
    pub(crate) fn add_tables(&mut self, properties: &str) {
        for property in properties.split(';') {
            let Some((name, value)) = property.split_once('=') else { continue };
            let Ok(count) = value.trim().parse::<u64>() else { continue };
            match name.trim() {
                "# entries" => self.entries += count,
                "# deletions" => self.deletions += count,
                _ => {}
            }
        }
    }

    /// The share of `bytes` that live rows take; all of it where nothing is known.
    pub(crate) fn live_part_of(&self, bytes: u64) -> u64 {
        if self.entries == 0 {
            return bytes;
        }
        let live = self.entries.saturating_sub(self.deletions.saturating_mul(2));
        // Bytes times rows fit in 128 bits, and live ≤ entries keeps the result within `bytes`.
        (u128::from(bytes) * u128::from(live) / u128::from(self.entries)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_counts_for_itself_and_for_the_row_it_hides() {
        let mut rows = RowCounts { entries: 10, deletions: 0 };
        rows.add_tables("# data blocks=2; # entries=90; # deletions=25; # merge operands=0; # entries for filter=7; ");
        assert_eq!(rows, RowCounts { entries: 100, deletions: 25 });
        assert_eq!(rows.live_part_of(1000), 500);
    }

    #[test]
    fn what_is_unknown_counts_as_live_and_nothing_goes_below_zero() {
        assert_eq!(RowCounts::default().live_part_of(1000), 1000);
        assert_eq!(RowCounts { entries: 3, deletions: 2 }.live_part_of(1000), 0);
        assert_eq!(RowCounts { entries: 1, deletions: 0 }.live_part_of(u64::MAX), u64::MAX);
    }
}
