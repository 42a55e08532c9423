//! Taking a URL apart, and putting it together again, by the rules of Go 1.26's `net/url` and `net`.
//!
//! What is allowed as a URL of a member is not decided here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::urls::UrlError;
use crate::config::go::quote;

/// Go's `net.SplitHostPort`, without its reasons: nobody prints them.
pub(super) fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        let port = rest.strip_prefix(':')?;
        return (!host.contains('[') && !port.contains([':', '[', ']'])).then_some((host, port));
    }
    let (host, port) = authority.rsplit_once(':')?;
    (!host.contains([':', '[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
}

/// What Go's `url.Parse` takes a text apart into.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) scheme: String,
    pub(super) opaque: String,
    user_info: Option<String>,
    pub(super) host: String,
    host_omitted: bool,
    pub(super) path: String,
    query: Option<String>,
    fragment: String,
}

impl Parts {
    pub(super) fn parse(given: &str) -> Result<Parts, UrlError> {
        let (before, fragment) = given.split_once('#').unwrap_or((given, ""));
        let refused = |url: &str, reason: String| UrlError::Unparsable { url: url.to_owned(), reason };
        let mut parts = Parts::parse_before_fragment(before).map_err(|reason| refused(before, reason))?;
        check_escapes(fragment).map_err(|reason| refused(given, reason))?;
        parts.fragment = fragment.to_owned();
        Ok(parts)
    }

    fn parse_before_fragment(text: &str) -> Result<Parts, String> {
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = split_scheme(text)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        let mut parts = Parts { scheme: scheme.to_ascii_lowercase(), query, ..Parts::default() };
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                parts.opaque = rest.to_owned();
                return Ok(parts);
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        let mut path = rest;
        if let Some(after_slashes) = rest.strip_prefix("//")
            && (!scheme.is_empty() || !rest.starts_with("///"))
        {
            let authority;
            (authority, path) = after_slashes.split_at(after_slashes.find('/').unwrap_or(after_slashes.len()));
            let (user_info, host) = match authority.rsplit_once('@') {
                Some((user_info, host)) => (Some(user_info), host),
                None => (None, authority),
            };
            parts.host = parse_host(&parts.scheme, host)?;
            if let Some(user_info) = user_info {
                if !user_info.chars().all(|c| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c)) {
                    return Err("net/url: invalid userinfo".to_owned());
                }
                check_escapes(user_info)?;
                parts.user_info = Some(user_info.to_owned());
            }
        } else if !scheme.is_empty() {
            parts.host_omitted = rest.starts_with('/');
        }
        check_escapes(path)?;
        parts.path = path.to_owned();
        Ok(parts)
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.opaque.is_empty() {
            f.write_str(&self.opaque)?;
        } else {
            let nothing_follows = self.host.is_empty() && self.path.is_empty() && self.user_info.is_none();
            if !self.host_omitted && !nothing_follows {
                f.write_str("//")?;
            }
            if let Some(user_info) = &self.user_info {
                write!(f, "{user_info}@")?;
            }
            for byte in self.host.bytes() {
                if byte < 0x80 && is_host_byte(byte) {
                    write!(f, "{}", char::from(byte))?;
                } else {
                    write!(f, "%{byte:02X}")?;
                }
            }
            f.write_str(&self.path)?;
        }
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        if !self.fragment.is_empty() {
            write!(f, "#{}", self.fragment)?;
        }
        Ok(())
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if position > 0 => {}
            b':' if position == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((text.get(..position).unwrap_or(""), text.get(position + 1..).unwrap_or(""))),
            // No scheme then.
            _ => break,
        }
    }
    Ok(("", text))
}

fn parse_host(scheme: &str, host: &str) -> Result<String, String> {
    let after_host = |port: &str| -> Result<(), String> {
        let digits = port.strip_prefix(':').unwrap_or(port);
        if (port.is_empty() || port.starts_with(':')) && digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(());
        }
        Err(format!("invalid port {} after host", quote(port)))
    };
    match host.rfind('[') {
        Some(0) => {
            let (name, port) = host.get(1..).and_then(|rest| rest.rsplit_once(']')).ok_or("missing ']' in host")?;
            after_host(port)?;
            let (address, zone) = match name.find("%25") {
                Some(at) => name.split_at(at),
                None => (name, ""),
            };
            let address = unescape_host(address, false)?;
            let zone = unescape_host(zone, true)?;
            if address.parse::<Ipv4Addr>().is_ok() && zone.is_empty() {
                return Err("invalid IP-literal".to_owned());
            }
            if address.parse::<Ipv6Addr>().is_err() || zone == "%" {
                return Err(format!("invalid host: ParseAddr({}): unable to parse IP", quote(&(address + &zone))));
            }
            Ok(format!("[{address}{zone}]{port}"))
        }
        Some(_) => Err("invalid IP-literal".to_owned()),
        None => {
            let strict = matches!(scheme, "http" | "https");
            let colon = if strict { host.find(':') } else { host.rfind(':') };
            after_host(colon.and_then(|at| host.get(at..)).unwrap_or(""))?;
            unescape_host(host, false)
        }
    }
}

/// A host may escape only what is not ASCII; the zone of an IPv6 address also a percent sign, a blank and what could
/// have stood there anyway.
fn unescape_host(text: &str, zone: bool) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digits = rest.get(1..3).unwrap_or(&[]);
            let value = hex_value(digits).ok_or_else(|| bad_escape(rest))?;
            let allowed = value == b'%' || if zone { value == b' ' || is_host_byte(value) } else { value >= 0x80 };
            if !allowed {
                return Err(bad_escape(rest));
            }
            out.push(value);
            rest = rest.get(3..).unwrap_or(&[]);
        } else {
            if byte < 0x80 && !is_host_byte(byte) {
                return Err(format!("invalid character {} in host name", quote(&char::from(byte).to_string())));
            }
            out.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(out).map_err(|_| "invalid UTF-8 in host name".to_owned())
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$&'()*+,;=:[]<>\"-_.~".contains(&byte)
}

fn check_escapes(text: &str) -> Result<(), String> {
    for (position, _) in text.match_indices('%') {
        let rest = text.as_bytes().get(position..).unwrap_or(&[]);
        if rest.get(1..3).and_then(hex_value).is_none() {
            return Err(bad_escape(rest));
        }
    }
    Ok(())
}

fn bad_escape(rest: &[u8]) -> String {
    format!("invalid URL escape {}", quote(&String::from_utf8_lossy(rest.get(..3).unwrap_or(rest))))
}

fn hex_value(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let value = char::from(*high).to_digit(16)? * 16 + char::from(*low).to_digit(16)?;
    u8::try_from(value).ok()
}
