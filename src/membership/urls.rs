//! URLs as etcd takes them, with the rules and the texts of Go's `net/url`.
//!
//! ```text
//!   "n1=http://a:1,n1=http://b:1,n2=…" ─▶ ClusterMap ─ name ─▶ UrlSet ─ sorted ─▶ Url
//! ```
//! A URL keeps the text it was given: member ids are hashed over it, so nothing here lower-cases a host, appends a slash
//! or resolves a name. That is also why the `url` crate is not used: it follows the browsers' rules and rewrites.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::go_url::{Parts, split_host_port};
use crate::config::go::{quote, quote_list};

/// Why a URL, a list of them or an `--initial-cluster` was refused; the texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Go could not parse it at all.
    #[error("parse {}: {reason}", quote(url))]
    Unparsable { url: String, reason: String },
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    /// A socket in the file system, plain.
    Unix,
    /// A socket in the file system, with TLS.
    Unixs,
}

impl Scheme {
    pub fn as_text(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// One URL that a member listens on or is reached at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    /// Host and port, unescaped; for `unix://name:1` the name of the socket.
    authority: String,
    /// The path of a unix socket; always empty for http and https.
    path: String,
    /// As printed, hashed and compared.
    text: String,
}

impl Url {
    /// # Errors
    /// As etcd's `types.NewURLs` for one URL. Blanks around it are cut off first.
    pub fn parse(given: &str) -> Result<Url, UrlError> {
        let given = given.trim();
        let parts = Parts::parse(given)?;
        let scheme = match parts.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(UrlError::Scheme(given.to_owned())),
        };
        if !scheme.is_unix() {
            if split_host_port(&parts.host).is_none() {
                return Err(UrlError::HostPort(given.to_owned()));
            }
            if !parts.path.is_empty() {
                return Err(UrlError::Path(given.to_owned()));
            }
        }
        let text = parts.to_string();
        let path = if parts.opaque.is_empty() { parts.path } else { parts.opaque };
        Ok(Url { scheme, authority: parts.host, path, text })
    }

    /// A URL of the same scheme at another place; an IPv6 address gets its brackets.
    #[must_use]
    pub fn with_address(&self, host: IpAddr, port: &str) -> Url {
        let authority = match host {
            IpAddr::V4(host) => format!("{host}:{port}"),
            IpAddr::V6(host) => format!("[{host}]:{port}"),
        };
        let text = format!("{}://{authority}", self.scheme.as_text());
        Url { scheme: self.scheme, authority, path: String::new(), text }
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// `host:port` as given, or what stands between `unix://` and the path.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Without port and brackets. Empty for `http://:2379` and unix sockets.
    pub fn host(&self) -> &str {
        if self.scheme.is_unix() { "" } else { split_host_port(&self.authority).map_or("", |(host, _)| host) }
    }

    /// As given, so it may be empty (any free port, to a listener) or more than a port can be.
    pub fn port_text(&self) -> &str {
        if self.scheme.is_unix() { "" } else { split_host_port(&self.authority).map_or("", |(_, port)| port) }
    }

    /// `None` when it is no port number. An empty port is 0.
    pub fn port(&self) -> Option<u16> {
        let port = self.port_text();
        if port.is_empty() { Some(0) } else { port.parse().ok() }
    }

    /// Where the socket file of a unix URL is: `unix:///run/c.sock`, or `unix://name:1` in the working directory.
    pub fn socket_path(&self) -> Option<String> {
        self.scheme.is_unix().then(|| format!("{}{}", self.authority, self.path))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// URLs in the order of their text. Equal ones may occur twice, as in etcd's `types.URLs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UrlSet(Vec<Url>);

impl UrlSet {
    /// A comma list. An empty text is one empty URL, which is an error.
    ///
    /// # Errors
    /// The first URL's that is refused.
    pub fn parse(list: &str) -> Result<UrlSet, UrlError> {
        let urls = list.split(',').map(Url::parse).collect::<Result<Vec<Url>, UrlError>>()?;
        Ok(UrlSet::from(urls))
    }

    #[must_use]
    pub fn without_duplicates(mut self) -> UrlSet {
        self.0.dedup_by(|a, b| a.text == b.text);
        self
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Url> {
        self.0.iter()
    }

    pub fn first(&self) -> Option<&Url> {
        self.0.first()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn texts(&self) -> Vec<&str> {
        self.0.iter().map(Url::as_str).collect()
    }
}

impl From<Vec<Url>> for UrlSet {
    fn from(mut urls: Vec<Url>) -> UrlSet {
        urls.sort_by(|a, b| a.text.cmp(&b.text));
        UrlSet(urls)
    }
}

impl<'a> IntoIterator for &'a UrlSet {
    type Item = &'a Url;
    type IntoIter = std::slice::Iter<'a, Url>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for UrlSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

/// `--initial-cluster`: the peer URLs of each member by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap(BTreeMap<String, UrlSet>);

impl ClusterMap {
    /// `n1=u1,n1=u2,n2=u3`; empty parts are skipped, a part without `=` is a name with an empty URL, which is an error.
    ///
    /// # Errors
    /// That of a URL which is refused; the first by name.
    pub fn parse(text: &str) -> Result<ClusterMap, UrlError> {
        let mut lists: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, url) = part.split_once('=').unwrap_or((part, ""));
            lists.entry(name).or_default().push(url);
        }
        let mut members = BTreeMap::new();
        for (name, urls) in lists {
            let urls = urls.into_iter().map(Url::parse).collect::<Result<Vec<Url>, UrlError>>()?;
            members.insert(name.to_owned(), UrlSet::from(urls));
        }
        Ok(ClusterMap(members))
    }

    pub fn get(&self, name: &str) -> Option<&UrlSet> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &UrlSet)> {
        self.0.iter().map(|(name, urls)| (name.as_str(), urls))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether two members, or one of them twice, have the same URL.
    pub fn has_duplicate_url(&self) -> bool {
        let mut seen = BTreeSet::new();
        self.0.values().flat_map(UrlSet::iter).any(|url| !seen.insert(url.as_str()))
    }
}

impl fmt::Display for ClusterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs: Vec<String> =
            self.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
        pairs.sort_unstable();
        f.write_str(&pairs.join(","))
    }
}

/// Whether two sets name the same places, resolving host names where the texts differ.
///
/// `resolve` gets a host name and answers its first address; `localhost`, addresses and unix sockets are not asked for.
///
/// # Errors
/// Why they are not the same, in etcd's words.
pub fn same_places(
    a: &UrlSet,
    b: &UrlSet,
    resolve: &mut dyn FnMut(&str) -> Result<IpAddr, String>,
) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", quote_list(&a.texts()), quote_list(&b.texts())));
    }
    if a == b {
        return Ok(());
    }
    let mut resolved = |set: &UrlSet| -> Result<UrlSet, String> {
        let urls = set.iter().map(|url| {
            let host = url.host();
            if url.scheme().is_unix() || host == "localhost" || host.parse::<IpAddr>().is_ok() {
                return Ok(url.clone());
            }
            let address = resolve(host).map_err(|e| format!("failed to resolve {} ({e})", quote(url.as_str())))?;
            Ok(url.with_address(address, url.port_text()))
        });
        urls.collect::<Result<Vec<Url>, String>>().map(UrlSet::from)
    };
    let (a, b) = (resolved(a)?, resolved(b)?);
    match a.iter().zip(&b).find(|(a, b)| a.as_str() != b.as_str()) {
        None => Ok(()),
        Some((a, b)) => Err(format!("resolved urls: {} != {}", quote(a.as_str()), quote(b.as_str()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(url: &str) -> String {
        match Url::parse(url) {
            Ok(url) => format!("taken as {url}"),
            Err(error) => error.to_string(),
        }
    }

    /// Checked against etcd 3.4.23; where Go became stricter since, against Go 1.26, which etcd 3.7.1 is built with.
    #[test]
    fn a_bad_url_is_refused_in_gos_words() {
        for (url, text) in [
            ("http://localhost", "URL address does not have the form \"host:port\": http://localhost"),
            ("http:h:80", "URL address does not have the form \"host:port\": http:h:80"),
            ("http://h:80/", "URL must not contain a path: http://h:80/"),
            ("localhost:80", "URL scheme must be http, https, unix, or unixs: localhost:80"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("//x:1", "URL scheme must be http, https, unix, or unixs: //x:1"),
            ("*", "URL scheme must be http, https, unix, or unixs: *"),
            ("a/b:c", "URL scheme must be http, https, unix, or unixs: a/b:c"),
            ("1.2.3.4:80", "parse \"1.2.3.4:80\": first path segment in URL cannot contain colon"),
            (":1", "parse \":1\": missing protocol scheme"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://a\\b:80", "parse \"http://a\\\\b:80\": invalid character \"\\\\\" in host name"),
            ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
            ("http://[::1]x:80", "parse \"http://[::1]x:80\": invalid port \"x:80\" after host"),
            ("http://h[::1]:80", "parse \"http://h[::1]:80\": invalid IP-literal"),
            ("http://[1.2.3.4]:80", "parse \"http://[1.2.3.4]:80\": invalid IP-literal"),
            ("http://[zz]:80", "parse \"http://[zz]:80\": invalid host: ParseAddr(\"zz\"): unable to parse IP"),
            ("http://%zz:1", "parse \"http://%zz:1\": invalid URL escape \"%zz\""),
            ("http://h%41b:80", "parse \"http://h%41b:80\": invalid URL escape \"%41\""),
            ("http://h:1%41", "parse \"http://h:1%41\": invalid port \":1%41\" after host"),
            ("http://h:port", "parse \"http://h:port\": invalid port \":port\" after host"),
            ("http://h:1:2", "parse \"http://h:1:2\": invalid port \":1:2\" after host"),
            ("http://h\u{1}:80", "parse \"http://h\\x01:80\": net/url: invalid control character in URL"),
            ("http://u u@h:1", "parse \"http://u u@h:1\": net/url: invalid userinfo"),
            ("http://h:80#%zz", "parse \"http://h:80#%zz\": invalid URL escape \"%zz\""),
            ("%zz", "parse \"%zz\": invalid URL escape \"%zz\""),
        ] {
            assert_eq!(refusal(url), text, "{url}");
        }
    }

    #[test]
    fn a_good_url_keeps_its_text() {
        for (given, text, host, port) in [
            (" http://127.0.0.1:2380 ", "http://127.0.0.1:2380", "127.0.0.1", Some(2380)),
            ("HTTP://Host:80", "http://Host:80", "Host", Some(80)),
            ("https://[::1]:443", "https://[::1]:443", "::1", Some(443)),
            ("http://[fe80::1%25en0]:80", "http://[fe80::1%25en0]:80", "fe80::1%en0", Some(80)),
            ("http://é:80", "http://%C3%A9:80", "é", Some(80)),
            ("http://:80", "http://:80", "", Some(80)),
            ("http://h:", "http://h:", "h", Some(0)),
            ("http://h:99999", "http://h:99999", "h", None),
            ("http://u:p@h:80", "http://u:p@h:80", "h", Some(80)),
            ("http://h:80?x=y#f", "http://h:80?x=y#f", "h", Some(80)),
            ("unix:///run/castd.sock", "unix:///run/castd.sock", "", Some(0)),
            ("unix://localhost:12379", "unix://localhost:12379", "", Some(0)),
            ("unix:a", "unix:a", "", Some(0)),
            ("unix:/a", "unix:/a", "", Some(0)),
            ("unixs://", "unixs:", "", Some(0)),
        ] {
            let url = Url::parse(given).expect(given);
            assert_eq!((url.as_str(), url.host(), url.port()), (text, host, port), "{given}");
        }
        assert_eq!(Url::parse("unix:///run/c").expect("valid").socket_path().as_deref(), Some("/run/c"));
        assert_eq!(Url::parse("unix://c:1").expect("valid").socket_path().as_deref(), Some("c:1"));
    }

    #[test]
    fn sets_are_sorted_by_text_and_clusters_by_name() {
        let set = UrlSet::parse("http://b:1,http://a:2,http://a:10,http://b:1").expect("valid");
        assert_eq!(set.to_string(), "http://a:10,http://a:2,http://b:1,http://b:1");
        assert_eq!(set.without_duplicates().len(), 3);
        let cluster = ClusterMap::parse("n2=http://c:1,,n1=http://b:1,n1=http://a:1").expect("valid");
        assert_eq!(cluster.to_string(), "n1=http://a:1,n1=http://b:1,n2=http://c:1");
        assert!(!cluster.has_duplicate_url());
        assert!(ClusterMap::parse("a=http://h:1,b=http://h:1").expect("valid").has_duplicate_url());
        assert_eq!(
            ClusterMap::parse("n1").map_err(|e| e.to_string()),
            Err("URL scheme must be http, https, unix, or unixs: ".to_owned())
        );
    }

    #[test]
    fn names_and_addresses_of_one_place_are_the_same() {
        let set = |text| UrlSet::parse(text).expect("valid");
        let mut dns = |host: &str| match host {
            "node1" => Ok(IpAddr::from([10, 0, 0, 1])),
            _ => Err(format!("lookup {host}: no such host")),
        };
        assert_eq!(same_places(&set("http://node1:1"), &set("http://10.0.0.1:1"), &mut dns), Ok(()));
        assert_eq!(
            same_places(&set("http://10.0.0.1:1"), &set("http://10.0.0.2:1"), &mut dns),
            Err("resolved urls: \"http://10.0.0.1:1\" != \"http://10.0.0.2:1\"".to_owned())
        );
        assert_eq!(
            same_places(&set("http://node2:1"), &set("http://10.0.0.2:1"), &mut dns),
            Err("failed to resolve \"http://node2:1\" (lookup node2: no such host)".to_owned())
        );
        assert_eq!(
            same_places(&set("http://a:1"), &set("http://a:1,http://b:1"), &mut dns),
            Err("len([\"http://a:1\"]) != len([\"http://a:1\" \"http://b:1\"])".to_owned())
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_is_taken_again(
            text in "(http|https|unix|unixs|HTTP|)?(://|:|//|)?[\\[\\]a-z0-9:%@/?#.,= é\\\\-]{0,24}|\\PC*",
        ) {
            if let Ok(url) = Url::parse(&text) {
                let again = Url::parse(url.as_str());
                prop_assert_eq!(again.map(|u| u.text), Ok(url.text));
            }
            let _ = ClusterMap::parse(&text);
        }

        #[test]
        fn a_list_that_is_taken_is_sorted_and_taken_again(
            urls in proptest::collection::vec("(http|https|unix)://[a-c.:\\[\\]]{1,4}:[0-9]{1,4}|[a-z:/, ]{0,6}|\\PC{0,8}", 0..5),
        ) {
            let text = urls.join(",");
            if let Ok(set) = UrlSet::parse(&text) {
                prop_assert!(set.texts().is_sorted());
                prop_assert_eq!(UrlSet::parse(&set.to_string()).map(|again| again.to_string()), Ok(set.to_string()));
                prop_assert!(set.clone().without_duplicates().texts().len() <= set.texts().len());
            }
        }
    }
}
