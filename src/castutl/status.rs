//! `snapshot status`: what a saved file contains.

use super::saved::{SavedError, SavedFile};
use crate::state::survey::{Survey, survey};
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Simple,
    Json,
    Fields,
    Table,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StatusError {
    #[error(transparent)]
    Saved(#[from] SavedError),
    #[error("snapshot file integrity check failed. 1 errors found.\n{0}")]
    Damaged(SavedError),
}

/// Reads all of `file` and says what is in it, as etcd's printers do.
pub(super) fn status(file: &Path, format: Format) -> Result<String, StatusError> {
    let saved = SavedFile::open(file).map_err(|error| match error {
        SavedError::Io { operation: "open", path, source } => SavedError::Io { operation: "stat", path, source },
        other => other,
    })?;
    let found = survey(saved.reader()?).map_err(|source| StatusError::Damaged(saved.damaged(source)))?;
    Ok(printed(&found, format))
}

fn printed(found: &Survey, format: Format) -> String {
    let Survey { hash, revision, keys, bytes, version } = found;
    let cells = [format!("{hash:x}"), revision.to_string(), keys.to_string(), humane(*bytes), version.clone()];
    match format {
        Format::Simple => format!("{}\n", cells.join(", ")),
        Format::Json => {
            let version = serde_json::Value::from(version.as_str());
            format!(
                "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{bytes},\"version\":{version}}}\n"
            )
        }
        Format::Fields => {
            let version = crate::config::go::quote(version);
            format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {bytes}\n\"Version\" : {version}\n"
            )
        }
        Format::Table => table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &cells),
    }
}

/// Headings in the middle, cells on the right.
fn table(headings: [&str; 5], cells: &[String; 5]) -> String {
    let widths: Vec<usize> = headings.iter().zip(cells).map(|(heading, cell)| heading.len().max(cell.len())).collect();
    let line: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
    let heading: String =
        headings.iter().zip(&widths).map(|(heading, width)| format!("| {heading:^width$} ")).collect();
    let row: String = cells.iter().zip(&widths).map(|(cell, width)| format!("| {cell:>width$} ")).collect();
    format!("{line}+\n{heading}|\n{line}+\n{row}|\n{line}+\n")
}

/// Two digits and a unit that counts in thousands.
fn humane(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    let rounded = (value * 10.0 + 0.5).floor() / 10.0;
    if bytes >= 10 && rounded < 10.0 { format!("{rounded:.1} {unit}") } else { format!("{rounded:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_etcds() {
        let found = Survey { hash: 0xd7ba_fe8f, revision: 15, keys: 21, bytes: 20_480, version: "3.7.0".to_owned() };
        assert_eq!(printed(&found, Format::Simple), "d7bafe8f, 15, 21, 20 kB, 3.7.0\n");
        assert_eq!(
            printed(&found, Format::Json),
            "{\"hash\":3619356303,\"revision\":15,\"totalKey\":21,\"totalSize\":20480,\"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            printed(&found, Format::Fields),
            "\"Hash\" : 3619356303\n\"Revision\" : 15\n\"Keys\" : 21\n\"Size\" : 20480\n\"Version\" : \"3.7.0\"\n"
        );
        let table = "\
+----------+----------+------------+------------+---------+
|   HASH   | REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |
+----------+----------+------------+------------+---------+
| d7bafe8f |       15 |         21 |      20 kB |   3.7.0 |
+----------+----------+------------+------------+---------+
";
        assert_eq!(printed(&found, Format::Table), table);
    }

    #[test]
    fn sizes_have_two_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_500, "1.5 kB"),
            (20_480, "20 kB"),
            (82_854_982, "83 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(humane(bytes), text);
        }
    }
}
