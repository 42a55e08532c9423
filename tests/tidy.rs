//! Reads the sources: what a machine can check, nobody has to remember.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SOURCES: [&str; 10] = [
    "src",
    "backends",
    "judge",
    "proto/src",
    "sim/src",
    "sim/tests",
    "tests",
    "examples",
    "bench",
    "fuzz/fuzz_targets",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(under: &[&str]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = under.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Public messages of the cast: name → (file that declares it, type of the reply).
fn messages() -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    for path in rust_files(&["src/actors"]) {
        let file = path.file_stem().expect("a file name").to_string_lossy().into_owned();
        let mut reply = None;
        for line in read(&path).lines() {
            if let Some(rest) = line.strip_prefix("#[rtype(result = \"") {
                reply = rest.strip_suffix("\")]").map(str::to_owned);
            } else if let Some(rest) = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "))
                && let Some(reply) = reply.take()
            {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                found.insert(name, (file.clone(), reply));
            } else if line.starts_with("struct ") || line.starts_with("enum ") {
                // A message to oneself.
                reply = None;
            }
        }
    }
    found
}

/// The fields of a message, as they are written.
fn fields(file: &str, name: &str) -> Option<String> {
    let source = read(&root().join(format!("src/actors/{file}.rs")));
    let declaration = source.split(&format!("pub struct {name} {{")).nth(1)?;
    declaration.split('}').next().map(str::to_owned)
}

/// `WatchHub` → `watch_hub`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

struct Row {
    from: Vec<String>,
    to: Vec<String>,
    has_reply: bool,
}

/// The table *message | from | to | reply | why* of ARCHITECTURE.md.
fn table() -> BTreeMap<String, Row> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let section = text.split("## All messages").nth(1).expect("a section on messages");
    let section = section.split("\n## ").next().expect("its text");
    let names = |cell: &str| cell.split(',').map(|name| name.trim().to_owned()).collect();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.trim_end_matches('|').split('|').collect();
        let [name, from, to, reply, why] = cells.as_slice() else { panic!("five cells, please: {line}") };
        assert!(!why.trim().is_empty(), "why {name}?");
        let name = name.trim().trim_end_matches('`').to_owned();
        Some((name, Row { from: names(from), to: names(to), has_reply: reply.trim() != "–" }))
    });
    rows.collect()
}

#[test]
fn the_table_of_messages_and_the_sources_agree() {
    let (sources, table) = (messages(), table());
    assert!(sources.len() >= 15, "found only {} messages: is the parser still right?", sources.len());
    assert_eq!(table.keys().collect::<Vec<_>>(), sources.keys().collect::<Vec<_>>(), "table and sources");
    for (name, (file, _)) in &sources {
        let row = &table[name];
        for to in &row.to {
            let handler = read(&root().join(format!("src/actors/{}.rs", snake(to))));
            let implementation = format!("impl Handler<{name}> for {to}");
            assert!(handler.contains(&implementation), "the table says that {to} understands {name}");
        }
        let of_a_party = row.from.iter().chain(&row.to).any(|actor| snake(actor) == *file);
        assert!(of_a_party || file == "mod", "{name} is declared in {file}.rs, which neither sends nor gets it");
    }
    // And every handler of every actor stands in the table; probes of tests do not.
    for path in rust_files(&["src/actors"]).into_iter().filter(|path| !path.ends_with("tests.rs")) {
        for line in read(&path).lines() {
            let Some(rest) = line.strip_prefix("impl Handler<") else { continue };
            let Some((name, to)) = rest.trim_end_matches(" {").split_once("> for ") else { continue };
            if sources.contains_key(name) {
                assert!(table[name].to.iter().any(|actor| actor == to), "the table does not say that {to} gets {name}");
            }
        }
    }
}

#[test]
fn a_reply_in_the_table_is_a_reply_in_the_source() {
    let (sources, table) = (messages(), table());
    for (name, (file, reply)) in &sources {
        let has_channel = fields(file, name).is_some_and(|fields| fields.contains("reply:") || fields.contains(SHARED));
        assert_eq!(table[name].has_reply, has_channel || reply != "()", "reply of {name}");
    }
}

/// A message that several requests share: each of them has a reply and a span of its own.
const SHARED: &str = "pub reads: Vec<Read>";

#[test]
fn a_shared_message_has_a_reply_and_a_span_for_each_request() {
    let fields = fields("raft_node", "Read").expect("a struct");
    assert!(fields.contains("pub reply:") && fields.contains("pub span: SpanContext"), "{fields}");
}

/// What a client asked for is one trace across the cast, so the message that carries it in says which.
#[test]
fn every_request_from_the_edge_carries_its_span() {
    // What the edge says by itself about a stream.
    let not_requests = ["CloseStream", "StreamDrained"];
    let table = table();
    let requests = table.iter().filter(|(_, row)| row.from.iter().any(|from| from == "edge"));
    let mut checked = 0;
    for (name, _) in requests.filter(|(name, _)| !not_requests.contains(&name.as_str())) {
        let (file, _) = &messages()[name];
        let fields = fields(file, name).unwrap_or_else(|| panic!("{name} has no fields, and so no span"));
        let carries_it = fields.contains("pub span: SpanContext") || fields.contains(SHARED);
        assert!(carries_it, "{name} carries no span");
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} requests: is the parser still right?");
}

#[test]
fn every_module_says_what_it_is_for() {
    let files = rust_files(&SOURCES);
    assert!(files.len() > 60, "found only {} files", files.len());
    for path in files {
        assert!(read(&path).starts_with("//!"), "{} does not begin with //!", path.display());
    }
}

#[test]
fn nothing_is_left_undone_in_the_sources() {
    let forbidden = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("dbg", "!("), concat!("#[ig", "nore")];
    for path in rust_files(&SOURCES) {
        let text = read(&path);
        for word in forbidden {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}

/// Bugs can be planted for the simulator, and in nothing that is run.
#[test]
fn no_build_of_the_server_has_planted_bugs() {
    let planted = castd::planted::Bug::ALL.iter().filter(|bug| castd::planted::is_on(**bug)).count();
    assert_eq!(planted, 0);
    let manifest = read(&root().join("Cargo.toml"));
    let features: Vec<&str> = manifest.lines().filter(|line| line.contains("planted")).collect();
    let expected =
        ["# For the simulator: cores in which bugs can be planted. No server can be built with it.", "planted = []"];
    assert_eq!(features, expected, "the feature is asked for by another one");
    for (package, may) in [("bench", false), ("judge", false), ("sim", true), ("fuzz", false)] {
        assert_eq!(read(&root().join(package).join("Cargo.toml")).contains("planted"), may, "{package}");
    }
    assert!(read(&root().join("src/main.rs")).contains("#[cfg(feature = \"planted\")]\ncompile_error!"));
}
