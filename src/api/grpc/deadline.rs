//! How long a caller will wait, as it says itself. A client that gives up resets its stream as well; this is for those
//! that cannot say so any more, and whose place in a queue must not outlive them.

use std::time::Duration;
use tonic::metadata::MetadataMap;

/// gRPC allows no more.
const DIGITS_MAX: usize = 8;

/// What `grpc-timeout` says: up to eight digits and a unit. `None` if it is not there, or not that.
pub fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().expect("it can be sent"));
        patience(&metadata)
    }

    #[test]
    fn every_unit_is_understood() {
        assert_eq!(said("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(said("2M"), Some(Duration::from_secs(120)));
        assert_eq!(said("2S"), Some(Duration::from_secs(2)));
        assert_eq!(said("2m"), Some(Duration::from_millis(2)));
        assert_eq!(said("2u"), Some(Duration::from_micros(2)));
        assert_eq!(said("2n"), Some(Duration::from_nanos(2)));
        assert_eq!(said("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
    }

    #[test]
    fn what_is_not_a_time_is_no_limit() {
        for text in ["", "S", "2", "2x", "-2S", "+2S", "2.5S", "999999999S", "2 S"] {
            assert_eq!(said(text), None, "{text}");
        }
        assert_eq!(patience(&MetadataMap::new()), None);
    }
}
