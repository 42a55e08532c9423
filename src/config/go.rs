//! Go's text forms of values, because etcd's operators, tools and error texts speak them.
//!
//! `strconv.Quote`, `ParseBool`, `ParseInt`/`ParseUint` with base 0, and `time.Duration` both ways. Nothing here knows
//! about etcd.

use std::fmt::Write as _;

/// Why a number was refused. Flags print these two words, whatever the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    #[error("parse error")]
    Syntax,
    #[error("value out of range")]
    Range,
}

/// `%q`: double quotes, Go's escapes, everything printable left as it is.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            ' '..='~' => out.push(c),
            _ => {
                let code = u32::from(c);
                // Writing to a String cannot fail.
                let _ = match code {
                    0..0x20 | 0x7f => write!(out, "\\x{code:02x}"),
                    _ if is_printable(c) => write!(out, "{c}"),
                    0..0x10000 => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

/// `%q` of a `[]string`: `["a" "b"]`.
pub fn quote_list<S: AsRef<str>>(items: &[S]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

/// Rust knows which characters Debug output may show; combining marks, which it hides, Go shows.
fn is_printable(c: char) -> bool {
    let mut escaped = c.escape_debug();
    let shown_as_is = escaped.next() == Some(c) && escaped.next().is_none();
    shown_as_is || (!c.is_control() && !c.is_whitespace() && c.is_alphanumeric())
}

/// As the system's C library puts it, which is how Go does: `no such file or directory`.
pub fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or("");
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseUint(text, 0, 64)`: `0x`, `0o`, `0b`, a leading 0 for octal, underscores between digits.
///
/// # Errors
/// As Go's: nothing that is not a number, nothing above `u64::MAX`.
pub fn parse_uint(text: &str) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..).unwrap_or("")),
        [b'0', b'o', ..] => (8, lower.get(2..).unwrap_or("")),
        [b'0', b'b', ..] => (2, lower.get(2..).unwrap_or("")),
        [b'0', _, ..] => (8, lower.get(1..).unwrap_or("")),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || (digits.contains('_') && !underscores_are_well_placed(&lower)) {
        return Err(NumberError::Syntax);
    }
    let mut value: Option<u64> = Some(0);
    for c in digits.chars().filter(|c| *c != '_') {
        let digit = c.to_digit(radix).ok_or(NumberError::Syntax)?;
        value = value.and_then(|v| v.checked_mul(u64::from(radix))?.checked_add(u64::from(digit)));
    }
    value.ok_or(NumberError::Range)
}

/// `strconv.ParseInt(text, 0, 64)`.
///
/// # Errors
/// As [`parse_uint`], with the limits of `i64`.
pub fn parse_int(text: &str) -> Result<i64, NumberError> {
    let (negative, magnitude) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let magnitude = i128::from(parse_uint(magnitude)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NumberError::Range)
}

/// An underscore must stand between digits, or between the base's prefix and a digit.
fn underscores_are_well_placed(lower: &str) -> bool {
    let has_prefix = matches!(lower.as_bytes(), [b'0', b'x' | b'o' | b'b', ..]);
    let mut previous_is_digit = has_prefix;
    for c in lower.chars().skip(if has_prefix { 2 } else { 0 }) {
        if c == '_' && !previous_is_digit {
            return false;
        }
        previous_is_digit = c != '_';
    }
    previous_is_digit
}

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `time.ParseDuration`, in nanoseconds: `-1h2m3.5s`, `300ms`, `0`.
///
/// # Errors
/// Go's text, such as `time: invalid duration "x"`.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after_whole) = split_digits(rest);
        let (fraction, after_number) = match after_whole.strip_prefix('.') {
            Some(tail) => split_digits(tail),
            None => ("", after_whole),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = after_number.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after_number.len());
        let (unit, after_unit) = after_number.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let nanos = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, nanos)| *nanos)
            .ok_or_else(|| format!("time: unknown unit {} in duration {}", quote(unit), quote(text)))?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| invalid())?.into() };
        total = total.saturating_add(whole.saturating_mul(nanos)).saturating_add(fraction_of(fraction, nanos));
        if total > i128::from(i64::MAX) + 1 {
            return Err(invalid());
        }
        rest = after_unit;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Digits after the point, as nanoseconds, cut off like Go does. Nobody can tell the digits after the fifteenth.
fn fraction_of(digits: &str, unit_nanos: i128) -> i128 {
    let mut scale: i128 = 1;
    let mut value: i128 = 0;
    for digit in digits.chars().take(15).filter_map(|c| c.to_digit(10)) {
        value = value * 10 + i128::from(digit);
        scale *= 10;
    }
    value * unit_nanos / scale
}

/// `time.Duration.String`: `1m0s`, `300ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let magnitude = nanos.unsigned_abs();
    let body = match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{magnitude}ns"),
        1_000..1_000_000 => format!("{}µs", with_fraction(magnitude, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", with_fraction(magnitude, 1_000_000)),
        _ => {
            let seconds = with_fraction(magnitude % 60_000_000_000, 1_000_000_000);
            let minutes = magnitude / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{body}")
}

fn with_fraction(value: u64, unit: u64) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{}.{}", value / unit, digits.trim_end_matches('0'))
}

/// A float as `encoding/json` writes it: shortest digits, an exponent only below 1e-6 and from 1e21 on.
pub fn json_float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
            _ => text,
        };
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let cases: [(&str, Result<u64, NumberError>); 18] = [
            ("0", Ok(0)),
            ("10", Ok(10)),
            ("010", Ok(8)),
            ("0x1F", Ok(31)),
            ("0b101", Ok(5)),
            ("0o17", Ok(15)),
            ("0x_f", Ok(15)),
            ("1_000", Ok(1000)),
            ("0_1", Ok(1)),
            ("1__0", Err(NumberError::Syntax)),
            ("0_", Err(NumberError::Syntax)),
            ("0x", Err(NumberError::Syntax)),
            ("09", Err(NumberError::Syntax)),
            ("", Err(NumberError::Syntax)),
            ("-1", Err(NumberError::Syntax)),
            ("+1", Err(NumberError::Syntax)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(NumberError::Range)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_uint(text), expected, "{text}");
        }
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(parse_int("+0x10"), Ok(16));
        assert_eq!(parse_int("--1"), Err(NumberError::Syntax));
    }

    #[test]
    fn durations_go_both_ways() {
        for (text, nanos, printed) in [
            ("1h2m3.5s", 3_723_500_000_000, "1h2m3.5s"),
            ("300ms", 300_000_000, "300ms"),
            ("1m", 60_000_000_000, "1m0s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1.5us", 1_500, "1.5µs"),
            ("-.5s", -500_000_000, "-500ms"),
            ("0", 0, "0s"),
            ("1ns", 1, "1ns"),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
            assert_eq!(format_duration(nanos), printed);
        }
        for (text, error) in [
            ("xx", "time: invalid duration \"xx\""),
            ("", "time: invalid duration \"\""),
            ("-1", "time: missing unit in duration \"-1\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn quoting_shows_what_go_shows() {
        assert_eq!(quote("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\n\\x01é\"");
        assert_eq!(quote("\u{200b}\u{a0}\u{1f600}"), "\"\\u200b\\u00a0😀\"");
        assert_eq!(quote_list(&["a", "b"]), "[\"a\" \"b\"]");
    }

    #[test]
    fn floats_are_printed_as_json_prints_them() {
        for (value, text) in
            [(1000.0, "1000"), (1.5, "1.5"), (1.234_567_890_123_456_8e22, "1.2345678901234568e+22"), (1e-7, "1e-7")]
        {
            assert_eq!(json_float(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_printed_duration_is_read_back(nanos in any::<i64>()) {
            prop_assert_eq!(parse_duration(&format_duration(nanos)), Ok(nanos));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (quote(&text), parse_bool(&text), parse_int(&text), parse_uint(&text), parse_duration(&text));
        }
    }
}
