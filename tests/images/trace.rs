//! What strace wrote, as calls: one for each system call that succeeded, with the lines at which it began and ended.
//!
//! ```text
//!   8965  1795178045.317421 openat(AT_FDCWD, "\x2f\x61", O_WRONLY|O_CREAT, 0666) = 3
//!   8965  1795178045.317455 fsync(3 <unfinished ...>
//!   8965  1795178045.318033 <... fsync resumed>) = 0
//! ```
//! It expects `-f -ttt -xx` and strings that are not cut short. Which file a descriptor is, is the recording's business.

use std::collections::HashMap;

/// The calls that are recorded: those that change files, and those without which it is not known which file is changed.
pub const TRACED: &str = "openat,open,creat,close,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,\
    sync_file_range,sync,syncfs,rename,renameat,renameat2,ftruncate,truncate,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,\
    symlink,symlinkat,fallocate,lseek,dup,dup2,dup3,fcntl,mmap,copy_file_range,sendfile,splice,io_uring_setup,chdir";

/// Microseconds since 1970.
pub type Micros = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(Vec<u8>),
    /// Of `writev`: its pieces, in one.
    Vector(Vec<u8>),
    Number(i64),
    /// Names of flags, structures, and what else is not looked into.
    Word(String),
}

/// A call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<Argument>,
    pub result: i64,
    /// Numbers of lines. What ended before another began, happened before it.
    pub began: usize,
    pub ended: usize,
    /// When strace saw it end: not before it did.
    pub at: Micros,
}

#[derive(Debug, thiserror::Error)]
#[error("line {line} of the trace is not understood ({why}): {text}")]
pub struct TraceError {
    line: usize,
    why: &'static str,
    text: String,
}

/// Reads a whole trace. `first_line` counts on from an earlier one.
pub fn parse(text: &str, first_line: usize) -> Result<Vec<Call>, TraceError> {
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = first_line + number;
        let failed = |why| TraceError { line: number, why, text: line.chars().take(300).collect() };
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (stamp, rest) = rest.trim_start().split_once(' ').ok_or_else(|| failed("no time"))?;
        let at = micros(stamp).ok_or_else(|| failed("no time"))?;
        // Signals and ends of threads.
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        // Its process was killed in it: whether anything became of it is not known, so nothing is promised by it.
        if rest.ends_with("= ?") || rest.ends_with("= ? <unavailable>") {
            unfinished.remove(thread);
            continue;
        }
        let (began, whole) = if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (number, begun.trim_end().to_owned()));
            continue;
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>").ok_or_else(|| failed("resumed, but what?"))?;
            let (began, mut begun) = unfinished.remove(thread).ok_or_else(|| failed("resumed without a beginning"))?;
            begun.push_str(end);
            (began, begun)
        } else {
            (number, rest.to_owned())
        };
        let Some((call, result)) = whole.rsplit_once(" = ") else { return Err(failed("no result")) };
        // Failed.
        let Some(result) = self::number(result.split(' ').next().unwrap_or_default()).filter(|result| *result >= 0)
        else {
            continue;
        };
        let (name, arguments) = call.trim_end().split_once('(').ok_or_else(|| failed("no arguments"))?;
        let arguments = arguments.strip_suffix(')').ok_or_else(|| failed("arguments without end"))?;
        let arguments = split(arguments).map(argument).collect::<Option<_>>().ok_or_else(|| failed("an argument"))?;
        calls.push(Call { name: name.to_owned(), arguments, result, began, ended: number, at });
    }
    Ok(calls)
}

fn micros(stamp: &str) -> Option<Micros> {
    let (seconds, fraction) = stamp.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()?)
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(|number| number as i64),
        None => text.parse().ok(),
    }
}

/// At the commas that are in no bracket. Strings are hexadecimal, so a comma is never inside one.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |letter| {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .map(str::trim)
}

fn argument(text: &str) -> Option<Argument> {
    if let Some(quoted) = text.strip_prefix('"') {
        // An ellipsis behind it would mean that it was cut short.
        return unquoted(quoted.strip_suffix('"')?).map(Argument::Text);
    }
    if text.starts_with("[{iov_base=") {
        let mut all = Vec::new();
        for piece in text.split("iov_base=\"").skip(1) {
            let (quoted, after) = piece.split_once('"')?;
            if !after.starts_with(", iov_len=") {
                return None;
            }
            all.extend(unquoted(quoted)?);
        }
        return Some(Argument::Vector(all));
    }
    Some(number(text).map_or_else(|| Argument::Word(text.to_owned()), Argument::Number))
}

fn unquoted(text: &str) -> Option<Vec<u8>> {
    let digit = |letter: u8| char::from(letter).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(text.len() / 4);
    for letters in text.as_bytes().chunks(4) {
        let [b'\\', b'x', high, low] = letters else { return None };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Call {
        let mut calls = parse(line, 0).expect("understood");
        assert_eq!(calls.len(), 1);
        calls.remove(0)
    }

    #[test]
    fn a_call_is_read_with_its_bytes_and_numbers() {
        let call = one(r#"7  1795178045.000021 pwrite64(9, "\x00\xff\x2c", 3, 4096) = 3"#);
        let expected =
            [Argument::Number(9), Argument::Text(vec![0, 255, 44]), Argument::Number(3), Argument::Number(4096)];
        assert_eq!((call.name.as_str(), call.result, call.at), ("pwrite64", 3, 1_795_178_045_000_021));
        assert_eq!(call.arguments, expected);
    }

    #[test]
    fn pieces_of_a_vector_are_one() {
        let call = one(
            r#"7  1.000000 writev(9, [{iov_base="\x61", iov_len=1}, {iov_base="", iov_len=0}, {iov_base="\x62\x63", iov_len=2}], 3) = 3"#,
        );
        assert_eq!(call.arguments[1], Argument::Vector(b"abc".to_vec()));
        assert_eq!(call.arguments.len(), 3);
    }

    #[test]
    fn a_call_that_was_interrupted_in_the_trace_spans_its_lines() {
        let calls = parse(
            "7  1.000001 fsync(3 <unfinished ...>\n8  1.000002 close(4) = 0\n7  1.000009 <... fsync resumed>) = 0\n",
            100,
        )
        .expect("understood");
        assert_eq!((calls[0].name.as_str(), calls[0].began, calls[0].ended), ("close", 101, 101));
        assert_eq!(
            (calls[1].name.as_str(), calls[1].began, calls[1].ended, calls[1].at),
            ("fsync", 100, 102, 1_000_009)
        );
        assert_eq!(calls[1].arguments, [Argument::Number(3)]);
    }

    #[test]
    fn failed_calls_signals_and_ends_are_passed_over() {
        let text = "7  1.000001 unlink(\"\\x61\") = -1 ENOENT (No such file or directory)\n\
                    7  1.000001 --- SIGCHLD {si_signo=SIGCHLD} ---\n7  1.000001 +++ exited with 0 +++\n\
                    7  1.000001 close(3) = ?\n7  1.000001 <... ???? resumed>) = ?\n";
        assert_eq!(parse(text, 0).expect("understood"), []);
    }

    #[test]
    fn a_string_cut_short_is_an_error() {
        assert!(parse("7  1.000001 write(3, \"\\x61\"..., 2) = 2", 0).is_err());
    }

    #[test]
    fn results_with_words_behind_them_are_numbers() {
        assert_eq!(one("7  1.000001 fcntl(3, F_GETFL) = 0x8800 (flags O_RDONLY)").result, 0x8800);
    }
}
