//! castd's configuration, read as etcd reads its own.
//!
//! ```text
//!   command line ─┐ (Go's flag rules)
//!   environment  ─┼─▶ Settings ─▶ verify ─▶ Config ─▶ main: not_yet? log the notes, run
//!   config file  ─┘ (instead of both)          └────▶ or an Exit / Failed with etcd's text and code
//! ```
//! All of it is a pure function of its [`Surroundings`]; nothing exits, prints or logs. What is to be logged comes as
//! [`Note`]s, because the logger is configured here, too. Not here: whether the data directory is usable, DNS.
//!
//! `table.rs` is the place to look first: one row per flag.

mod bootstrap;
mod command_line;
mod environment;
mod file;
pub mod flag;
mod gates;
pub mod go;
mod gone;
mod help;
mod not_yet;
mod note;
mod settings;
mod state;
mod surroundings;
pub mod table;
mod typed;
mod validate;
mod yaml;

pub use bootstrap::{BootstrapError, verify_member};
pub use gates::FeatureGates;
pub use help::{GIT_SHA, GO_VERSION, flags_text, go_architecture, usage, version_text};
pub use not_yet::{NotYet, Severity};
pub use note::{FieldValue, Level, Note};
pub use surroundings::Surroundings;
pub use typed::{AutoCompaction, Config, Discovery, InitialClusterState, TlsSide};
pub use validate::ConfigError;

use command_line::CommandLine;
use file::{FileError, FileSettings};
use settings::Settings;
use typed::Checked;
use validate::Origin;

use crate::membership::urls::UrlSet;
use crate::telemetry::log::LogSettings;

/// The etcd release whose API, flags and texts castd has.
pub const ETCD_VERSION: &str = "3.7.1";
/// The cluster version of members that all speak it.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// The version of etcd's storage schema whose data the API shows.
pub const STORAGE_VERSION: &str = "3.7.0";
pub const CASTD_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the process is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Set up logging, log the notes, run.
    Run(Box<Config>, Vec<Note>),
    /// Print [`usage`] to stderr and [`flags_text`] to stdout, exit with 0.
    Help,
    /// Print [`version_text`] to stdout, exit with 0.
    Version,
    /// Set up this logging, log the notes (the last one says why), exit with `code`.
    Failed { code: i32, logging: LogSettings, notes: Vec<Note> },
    /// Print and exit; nothing is logged.
    Exit { code: i32, stdout: String, stderr: String },
}

/// Reads everything an operator has said.
pub fn from_invocation(surroundings: &Surroundings<'_>) -> Invocation {
    let mut notes = Vec::new();
    if let Err(refusal) = check_architecture(surroundings, &mut notes) {
        return refusal;
    }
    let words = surroundings.arguments.get(1..).unwrap_or(&[]);
    if let Some(program @ ("gateway" | "grpc-proxy")) = words.first().map(String::as_str) {
        let stderr = format!(
            "castd {program} is not part of castd yet; etcd's serves in front of castd unchanged: etcd {program} start \
             --endpoints=ADDRESS\n"
        );
        return Invocation::Exit { code: 1, stdout: String::new(), stderr };
    }
    let (settings, left_over) = match command_line::read(words) {
        Ok(CommandLine::Help) => return Invocation::Help,
        Ok(CommandLine::Flags { settings, left_over }) => (settings, left_over),
        Err(error) => {
            let advice = match &error {
                command_line::CommandLineError::Unknown(name) => gone::advice_on(name),
                _ => None,
            };
            let advice = advice.map(|advice| format!("{advice}\n")).unwrap_or_default();
            let stderr = format!("{error}\n{advice}{}", usage());
            return Invocation::Exit { code: 2, stdout: String::new(), stderr };
        }
    };
    let reading = Reading { surroundings, notes, logging: LogSettings::default() };
    if let Some(word) = left_over {
        return reading.not_verified(&format!("{} is not a valid flag", go::quote(&word)));
    }
    if settings.bool("version") {
        return Invocation::Version;
    }
    let file_variable =
        surroundings.environment.iter().find(|(name, _)| name == environment::CONFIG_FILE_VARIABLE).map(|(_, v)| v);
    let file = match settings.text("config-file") {
        "" => file_variable.map_or("", String::as_str),
        given => given,
    };
    if file.is_empty() { reading.of_command_line(settings) } else { reading.of_file(file) }
}

/// Releases of etcd are made for four processors; others must be asked for.
fn check_architecture(surroundings: &Surroundings<'_>, notes: &mut Vec<Note>) -> Result<(), Invocation> {
    let architecture = surroundings.architecture;
    if matches!(architecture, "amd64" | "arm64" | "ppc64le" | "s390x") {
        return Ok(());
    }
    let asked =
        surroundings.environment.iter().find(|(name, _)| name == environment::ARCHITECTURE_VARIABLE).map(|(_, v)| v);
    if asked.is_some_and(|asked| asked == architecture) {
        let text = "running etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is set";
        notes.push(Note::new(Level::Info, text).with("arch", architecture));
        return Ok(());
    }
    let text = "Refusing to run etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is not set";
    let notes = vec![Note::new(Level::Error, text).with("arch", architecture)];
    Err(Invocation::Failed { code: 1, logging: LogSettings::default(), notes })
}

/// A configuration being read: what has been said on the way, and how it will be logged.
struct Reading<'a> {
    surroundings: &'a Surroundings<'a>,
    notes: Vec<Note>,
    logging: LogSettings,
}

impl Reading<'_> {
    fn of_command_line(mut self, mut settings: Settings) -> Invocation {
        match environment::apply(&mut settings, &self.surroundings.environment, &mut self.notes) {
            Ok(()) => {}
            Err(environment::EnvironmentError::Conflict(_)) => return self.failed(1),
            Err(error @ environment::EnvironmentError::BadValue { .. }) => {
                return self.not_verified(&error.to_string());
            }
        }
        for flag in ["raft-read-timeout", "raft-write-timeout"] {
            if settings.nanos(flag) < typed::PEER_TIMEOUT_MIN_NANOS {
                self.notes.push(Note::new(Level::Info, format!("{flag} increased to minimum value: 5s")));
            }
        }
        let advertise_missing = settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls");
        let advertise = if advertise_missing { UrlSet::default() } else { settings.urls("advertise-client-urls") };
        let discovers = !settings.text("discovery-srv").is_empty()
            || !settings.text("discovery-srv-name").is_empty()
            || !settings.list("discovery-endpoints").is_empty()
            || !settings.text("discovery").is_empty();
        let initial_cluster = match settings.text("initial-cluster") {
            _ if discovers && !settings.is_set("initial-cluster") => "",
            given => given,
        };
        let initial_cluster = initial_cluster.to_owned();
        self.verified(&settings, Origin::CommandLine, advertise, initial_cluster, None)
    }

    fn of_file(mut self, path: &str) -> Invocation {
        let FileSettings { mut settings, unused } = match file::read(path, (self.surroundings.read_file)(path)) {
            Ok(read) => read,
            Err(error @ FileError::Urls { .. }) => {
                return Invocation::Exit { code: 1, stdout: String::new(), stderr: format!("{error}\n") };
            }
            Err(error @ FileError::Origins(_)) => {
                return Invocation::Exit { code: 2, stdout: String::new(), stderr: format!("panic: {error}\n") };
            }
            Err(error) => return self.not_verified(&error.to_string()),
        };
        if !unused.is_empty() {
            let advice: Vec<String> = unused.iter().filter_map(|key| gone::advice_on(key)).collect();
            let note =
                Note::new(Level::Warn, "keys of the config file that set nothing are ignored").with("keys", unused);
            self.notes.push(if advice.is_empty() { note } else { note.with("advice", advice) });
        }
        // Unlike a command line, a file cannot ask for certificates that are never valid.
        if settings.unsigned("self-signed-cert-validity") == 0 {
            let one_year = table::find("self-signed-cert-validity").map(|flag| (flag, settings::default_of(flag)));
            one_year.into_iter().for_each(|(flag, value)| settings.set_value(flag, value));
        }
        let discovers = !settings.text("discovery-srv").is_empty() || !settings.list("discovery-endpoints").is_empty();
        let initial_cluster = match settings.text("initial-cluster") {
            table::DEFAULT_INITIAL_CLUSTER if discovers => "",
            given => given,
        };
        let (advertise, initial_cluster) = (settings.urls("advertise-client-urls"), initial_cluster.to_owned());
        self.verified(&settings, Origin::File, advertise, initial_cluster, Some(path))
    }

    fn verified(
        mut self,
        settings: &Settings,
        origin: Origin,
        advertise_client_urls: UrlSet,
        initial_cluster: String,
        file: Option<&str>,
    ) -> Invocation {
        let verified = validate::verify(
            settings,
            origin,
            &advertise_client_urls,
            &initial_cluster,
            &mut self.logging,
            &mut self.notes,
        );
        if let Err(error @ ConfigError::LogLevel(_)) = &verified {
            return Invocation::Exit { code: 2, stdout: String::new(), stderr: format!("panic: {error}\n") };
        }
        if file.is_some() && verified.is_err() {
            // etcd forgets what a file said about logging when something else in it is wrong.
            self.logging = LogSettings::default();
        } else if let Some(path) = file {
            let text = "loaded server configuration, other configuration command line flags and environment variables \
                        will be ignored if provided";
            self.notes.push(Note::new(Level::Info, text).with("path", path));
        }
        for (flag, text) in DEPRECATED {
            if settings.is_set(flag) && (file.is_none() || verified.is_ok()) {
                self.notes.push(Note::new(Level::Warn, *text));
            }
        }
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                let invocation = self.not_verified(&error.to_string());
                return match (error, invocation) {
                    (ConfigError::AdvertiseMissing, Invocation::Failed { code, logging, mut notes }) => {
                        let text = ConfigError::AdvertiseMissing.to_string();
                        let note = Note::new(Level::Warn, "advertise client URLs are not set").with("error", text);
                        notes.push(note);
                        Invocation::Failed { code, logging, notes }
                    }
                    (_, invocation) => invocation,
                };
            }
        };
        self.notes.push(self.running());
        let watch_progress = settings.nanos("watch-progress-notify-interval");
        let mode_and_retention = (settings.text("auto-compaction-mode"), settings.text("auto-compaction-retention"));
        let auto_compaction = validate::auto_compaction(mode_and_retention.0, mode_and_retention.1);
        let checked = Checked {
            logging: self.logging.clone(),
            auto_compaction: auto_compaction.clone().unwrap_or(AutoCompaction::Off),
            feature_gates: verified.feature_gates,
            advertise_client_urls,
            initial_cluster,
        };
        let mut config = Config::from_settings(settings, checked);
        self.complete_from_default_host(&mut config);
        if settings.text("data-dir").is_empty() {
            let note = Note::new(Level::Warn, "'data-dir' was empty; using default");
            self.notes.push(note.with("data-dir", config.data_dir.display().to_string()));
        }
        // What etcd finds out only while it starts, it reports under a heading that has nothing to do with it.
        let start = validate::verify_start(&config, &mut self.notes).and_then(|()| auto_compaction.map(drop));
        if let Err(error) = start {
            self.notes.push(Note::new(Level::Fatal, "discovery failed").with("error", error.to_string()));
            return self.failed(1);
        }
        if (1..typed::WATCH_PROGRESS_MIN_NANOS).contains(&watch_progress) {
            let note = Note::new(Level::Warn, "adjusting watch progress notify interval to minimum period");
            self.notes.push(note.with("min-watch-progress-notify-interval", "100ms"));
        }
        Invocation::Run(Box::new(config), self.notes)
    }

    /// Whoever gives a name only, or listens everywhere only, should not have to say the rest.
    fn complete_from_default_host(&mut self, config: &mut Config) {
        let own_cluster = config.initial_cluster == table::DEFAULT_INITIAL_CLUSTER && !config.has_default_name();
        let everywhere = |host: &str| matches!(host, "0.0.0.0" | "::");
        let default_host = match (self.surroundings.default_host)() {
            Ok(host) => Some(host),
            Err(error) => {
                self.notes.push(Note::new(Level::Info, "failed to detect default host").with("error", error));
                None
            }
        };
        let mut used = None;
        for (advertised, listened, default) in [
            (&mut config.initial_advertise_peer_urls, &config.listen_peer_urls, table::DEFAULT_PEER_URL),
            (&mut config.advertise_client_urls, &config.listen_client_urls, table::DEFAULT_CLIENT_URL),
        ] {
            if let (Some(host), Some(listened)) = (default_host, listened.first())
                && everywhere(listened.host())
                && let [only] = advertised.texts().as_slice()
                && *only == default
            {
                let url = advertised.first().map(|url| url.with_address(host, listened.port_text()));
                *advertised = url.into_iter().collect::<Vec<_>>().into();
                used = Some(host);
            }
        }
        if own_cluster {
            config.initial_cluster = bootstrap::from_name(&config.name, &config.initial_advertise_peer_urls);
        }
        if let Some(host) = used {
            let note = Note::new(Level::Info, "detected default host for advertise");
            self.notes.push(note.with("host", host.to_string()));
        }
    }

    fn running(&self) -> Note {
        Note::new(Level::Info, "Running: ").with("args", self.surroundings.arguments.clone())
    }

    fn not_verified(mut self, error: &str) -> Invocation {
        self.notes.push(self.running());
        self.notes.push(Note::new(Level::Warn, "failed to verify flags").with("error", error));
        self.failed(1)
    }

    fn failed(self, code: i32) -> Invocation {
        Invocation::Failed { code, logging: self.logging, notes: self.notes }
    }
}

/// Flags that still work, for the last time.
const DEPRECATED: &[(&str, &str)] = &[
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. \
         The default value is enforced, ignoring user input.",
    ),
];

#[cfg(test)]
mod tests;
