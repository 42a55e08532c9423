//! Takes out of answers what no two runs have in common: times, sizes on disk, places in the raft log, log lines.

use crate::harness::Answer;

/// Members come in the order of their ids, which are made up. This gives those of a JSON answer another order, as long as
/// the ids in it are numbers.
pub fn in_order(line: &str, mut answer: Answer) -> Answer {
    if line.starts_with("member")
        && let Ok(mut json) = serde_json::from_str::<serde_json::Value>(&answer.stdout)
    {
        if let Some(members) = json["members"].as_array_mut() {
            members.sort_by_key(|member| member["peerURLs"].to_string());
        }
        answer.stdout = json.to_string();
    }
    answer
}

/// `ETCD_INITIAL_CLUSTER`, with its members in another order.
fn sorted_list(line: &str) -> String {
    let Some(list) = line.strip_prefix("ETCD_INITIAL_CLUSTER=") else { return line.to_owned() };
    let mut members: Vec<_> = list.trim_matches('"').split(',').collect();
    members.sort_unstable();
    format!("ETCD_INITIAL_CLUSTER={}", members.join(","))
}

pub fn blur(line: &str, mut answer: Answer) -> Answer {
    let complaints = answer.stderr.lines().filter(|line| !is_log(line) && !line.trim().is_empty());
    let mut complaints: Vec<_> = complaints.map(|line| without_time(line).to_owned() + "\n").collect();
    if line.starts_with("endpoint health") {
        // Endpoints are asked side by side.
        complaints.sort();
    }
    answer.stderr = complaints.concat();
    if line.starts_with("member") && !answer.stdout.starts_with('{') {
        let mut lines: Vec<String> = answer.stdout.lines().map(sorted_list).collect();
        lines.sort();
        answer.stdout = lines.join("\n");
    }
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
        // Progress, as it is drawn over and over.
        *text = after_each(text, "\n\r", |rest| rest.find('\n').unwrap_or(rest.len()));
        *text = after_each(text, "memory used : ", |rest| rest.find(' ').unwrap_or(rest.len()));
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

/// What etcdctl's libraries say.
fn is_log(line: &str) -> bool {
    ["{", "INFO: ", "WARNING: "].iter().any(|start| line.starts_with(start))
}

/// Without the date and time in front of it.
fn without_time(line: &str) -> &str {
    let is_time = |word: &str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains([':', '-']);
    match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [date, time, rest] if is_time(date) && is_time(time) => rest,
        _ => line,
    }
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
