//! Takes out of answers what no two runs have in common: times, sizes on disk, places in the raft log.

use crate::harness::Answer;

pub fn blur(line: &str, mut answer: Answer) -> Answer {
    for text in [&mut answer.stdout, &mut answer.stderr] {
        *text = after_each(text, "took = ", |rest| rest.find(char::is_whitespace).unwrap_or(rest.len()));
        *text = after_each(text, "\"took\":\"", |rest| rest.find('"').unwrap_or(rest.len()));
        *text = after_each(text, "\"Took\" : ", |rest| rest.find('\n').unwrap_or(rest.len()));
        *text = after_each(text, "remaining(", |rest| rest.find(')').unwrap_or(rest.len()));
        for field in ["\"ttl\":", "\"TTL\" : "] {
            if line.contains("timetolive") {
                *text = after_each(text, field, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
            }
        }
        for field in ["\"dbSize\":", "\"dbSizeInUse\":", "\"raftIndex\":", "\"raftAppliedIndex\":"] {
            *text = after_each(text, field, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        }
        for field in ["\"DBSize\" : ", "\"RaftIndex\" : ", "\"RaftAppliedIndex\" : "] {
            *text = after_each(text, field, |rest| rest.find('\n').unwrap_or(rest.len()));
        }
    }
    if line.starts_with("endpoint status") && !line.contains("-w") {
        answer.stdout = columns(&answer.stdout, ", ", &[3, 7, 8]);
    }
    if line.ends_with("-w table") {
        let rows = answer.stdout.lines().filter(|row| row.starts_with('|')).map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            cells.join("|")
        });
        answer.stdout = rows.collect::<Vec<_>>().join("\n");
        if line.starts_with("endpoint status") {
            answer.stdout = columns(&answer.stdout, "|", &[3, 7, 8]);
        }
        if line.starts_with("endpoint health") {
            answer.stdout = columns(&answer.stdout, "|", &[2]);
        }
    }
    answer
}

/// Replaces what follows each `mark`, for as many bytes as `length` says, by `…`.
fn after_each(text: &str, mark: &str, length: impl Fn(&str) -> usize) -> String {
    let mut pieces = text.split(mark);
    let mut blurred = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let unsharp = length(piece);
        blurred += mark;
        // What says that there is nothing, as a TTL of -1, stays.
        blurred += if unsharp > 0 { "…" } else { "" };
        blurred += &piece[unsharp..];
    }
    blurred
}

/// Blurs those columns of each row but the headers.
fn columns(text: &str, separator: &str, unsharp: &[usize]) -> String {
    let rows = text.lines().map(|row| {
        let header = row.starts_with("ENDPOINT");
        let cells = row.split(separator).enumerate();
        let cells = cells.map(|(column, cell)| if unsharp.contains(&column) && !header { "…" } else { cell });
        cells.collect::<Vec<_>>().join(separator)
    });
    rows.collect::<Vec<_>>().join("\n")
}
