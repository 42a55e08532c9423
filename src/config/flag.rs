//! What a flag is: the columns of the table in [`super::table`], from which parsing, environment, file keys and `--help`
//! all follow.

/// How the text of a flag is read. The names of the number kinds are Go's, because error texts say them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Uint,
    Uint64,
    Uint32,
    Int,
    Int64,
    Text,
    Duration,
    /// Comma list of URLs; duplicates are dropped. An empty text leaves the default.
    Urls,
    /// Comma list of URLs, or `*`.
    Origins,
    /// Comma list, sorted, without duplicates.
    Set,
    /// Comma list in the order given.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A comma list of these words.
    Choices(&'static [&'static str]),
    /// `Name=true,Other=false`; a repeated flag adds to the earlier one.
    Gates,
    /// Taken with any value or none, and forgotten.
    Ignored,
}

/// Where the setting stands in a config file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKey {
    /// At top level, under the flag's name.
    Same,
    /// Inside maps: the last word is the key.
    Nested(&'static [&'static str]),
    /// A file cannot set it.
    None,
}

/// The part of `--help` a flag is listed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Member,
    Storage,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    /// Not listed.
    Hidden,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes in front.
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written on the command line.
    pub default: &'static str,
    /// The first etcd release that had the name; `castd` for our own.
    pub since: &'static str,
    pub section: Section,
    pub file: FileKey,
    pub help: &'static str,
}

impl Flag {
    /// `--data-dir` is `ETCD_DATA_DIR`.
    pub fn environment_variable(&self) -> String {
        format!("ETCD_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Go's name of the type of the field a file sets.
    pub fn file_type(&self) -> &'static str {
        match self.kind {
            Kind::Bool => "bool",
            Kind::Uint => "uint",
            Kind::Uint64 => "uint64",
            Kind::Uint32 => "uint32",
            Kind::Int => "int",
            Kind::Int64 => "int64",
            Kind::Duration => "time.Duration",
            _ if self.is_file_list() => "[]string",
            _ => "string",
        }
    }

    /// What a command line or a variable takes, for people.
    pub fn type_in_words(&self) -> String {
        match self.kind {
            Kind::Bool => "bool".to_owned(),
            Kind::Uint | Kind::Uint64 | Kind::Uint32 | Kind::Int | Kind::Int64 => self.file_type().to_owned(),
            Kind::Text => "string".to_owned(),
            Kind::Duration => "duration".to_owned(),
            Kind::Urls => "URLs".to_owned(),
            Kind::Origins => "URLs or *".to_owned(),
            Kind::Set | Kind::List => "list".to_owned(),
            Kind::Choice(words) | Kind::Choices(words) => words.join(", "),
            Kind::Gates => "gates".to_owned(),
            Kind::Ignored => "anything".to_owned(),
        }
    }

    /// What a file takes, for people.
    pub fn file_type_in_words(&self) -> &'static str {
        match self.kind {
            Kind::Bool => "bool",
            Kind::Uint | Kind::Uint64 | Kind::Uint32 | Kind::Int | Kind::Int64 => "number",
            Kind::Duration => "nanoseconds",
            _ if self.is_file_list() => "list",
            _ => "string",
        }
    }

    /// The key that sets it in a file, with the sections around it, outermost first.
    pub fn file_path(&self) -> Option<Vec<&'static str>> {
        match self.file {
            FileKey::Same => Some(vec![self.name]),
            FileKey::Nested(path) => Some(path.to_vec()),
            FileKey::None => None,
        }
    }

    /// Whether a file gives a YAML list and not a comma text.
    pub fn is_file_list(&self) -> bool {
        self.kind == Kind::List || (self.kind == Kind::Set && self.name != "host-whitelist")
    }

    /// Whether it takes no word after it.
    pub fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Bool | Kind::Ignored)
    }
}
