//! castd: reads what the operator wants, starts one member, and runs it until a signal.

#[cfg(feature = "planted")]
compile_error!("the feature `planted` is for the simulator: no server is built with it");

use castd::config::{self, Invocation, Level, Note, Severity, Surroundings};
use castd::member::{Member, StartError};
use castd::ports::PortsError;
use castd::process::Stop;
use castd::telemetry::log::{self, LogGuard, LogSettings};
use castd::{memory_lock, process, storage};
use slog::{Logger, error, info, warn};
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match config::from_invocation(&Surroundings::of_this_process()) {
        Invocation::Run(config, notes) => run(&config, &notes),
        Invocation::Help => say(0, &config::flags_text(), config::usage()),
        Invocation::Version => say(0, &config::version_text(), ""),
        Invocation::Exit { code, stdout, stderr } => say(code, &stdout, &stderr),
        Invocation::Failed { code, logging, notes } => match start_log(&logging) {
            Ok((log, _guard)) => {
                notes.iter().for_each(|note| write_note(&log, note));
                exit_code(code)
            }
            Err(failed) => failed,
        },
    }
}

fn run(config: &config::Config, notes: &[Note]) -> ExitCode {
    // Whatever is written from here on is the owner's alone, by whichever library.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let (log, guard) = match start_log(&config.logging) {
        Ok(started) => started,
        Err(failed) => return failed,
    };
    process::install_panic_hook(log.clone(), guard.flusher());
    notes.iter().for_each(|note| write_note(&log, note));
    let has_data = has_data(config);
    on_data(config, has_data).iter().for_each(|note| write_note(&log, note));
    if !may_start(config, has_data, &log) {
        return exit_code(process::EXIT_FAILURE);
    }
    let signals = match process::StopSignals::listen(log.clone()) {
        Ok(signals) => signals,
        Err(failure) => {
            error!(log, "cannot wait for signals"; "error" => %failure);
            return exit_code(process::EXIT_FAILURE);
        }
    };
    process::raise_descriptor_limit();
    for (text, field, urls) in [
        ("configuring peer listeners", "listen-peer-urls", &config.listen_peer_urls),
        ("configuring client listeners", "listen-client-urls", &config.listen_client_urls),
    ] {
        let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        write_note(&log, &Note::new(Level::Info, text).with(field, urls));
    }
    write_note(&log, &starting(config, has_data));
    let member = match Member::start_logged(config, &log) {
        Ok(member) => member,
        Err(StartError::Removed) => {
            say_removed(&log);
            return ExitCode::SUCCESS;
        }
        Err(failure) => {
            match &failure {
                StartError::Ports(few @ PortsError::TooFewDescriptors { limit }) => slog::crit!(log, "{}", few;
                    "limit" => limit, "recommended-limit" => process::DESCRIPTORS_RESERVED),
                _ => slog::crit!(log, "discovery failed"; "error" => %failure),
            }
            return exit_code(process::EXIT_FAILURE);
        }
    };
    notify_ready(&log);

    member.when_removed(signals.on_removal());
    let stop = signals.wait();
    if stop == Stop::Removed {
        say_removed(&log);
    }
    member.stop();
    drop(log);
    // Waits for the last lines.
    drop(guard);
    match stop {
        Stop::Signal(signal) => process::die_of(signal),
        // Not a failure: whoever restarts failed services has nothing to restart.
        Stop::Removed => ExitCode::SUCCESS,
    }
}

/// In etcd's words.
fn say_removed(log: &Logger) {
    error!(log, "server error"; "error" => StartError::Removed.to_string());
    warn!(log, "data-dir used by this member must be removed");
}

fn start_log(settings: &LogSettings) -> Result<(Logger, LogGuard), ExitCode> {
    log::start(settings).map_err(|failure| say(process::EXIT_FAILURE, "", &format!("{failure}\n")))
}

/// Whether a member lives in the data directory. One that cannot be read is refused later, with the reason.
fn has_data(config: &config::Config) -> bool {
    let wal_dir = config.wal_dir.clone();
    let settings = storage::Settings { wal_dir, ..storage::Settings::new(&config.data_dir, config.storage) };
    storage::DataDir::inspect(&settings).is_ok_and(|member| member.is_some())
}

/// Says what of the configuration has no effect, takes what it needs of the system, and tells whether the start may go on.
fn may_start(config: &config::Config, has_data: bool, log: &Logger) -> bool {
    let mut may = true;
    for not_yet in config.not_yet().into_iter().filter(|found| !(has_data && found.is_for_new_members())) {
        match not_yet.severity {
            Severity::WithoutEffect => warn!(log, "has no effect"; "flag" => not_yet.flag, "reason" => not_yet.text),
            Severity::Warn => warn!(log, "has no effect yet"; "flag" => not_yet.flag, "reason" => not_yet.text),
            Severity::Refuse => {
                may = false;
                error!(log, "failed to verify flags"; "error" => %not_yet);
            }
        }
    }
    if config.memory_mlock
        && let Err(failure) = memory_lock::lock_memory()
    {
        may = false;
        error!(log, "failed to verify flags"; "error" => %failure);
    }
    may
}

/// etcd's lines, by which people find out what a member was started with.
fn starting(config: &config::Config, has_data: bool) -> Note {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let note = Note::new(Level::Info, "starting an etcd server")
        .with("etcd-version", config::ETCD_VERSION)
        .with("castd-version", config::CASTD_VERSION)
        .with("git-sha", config::GIT_SHA)
        .with("go-version", config::GO_VERSION)
        .with("go-os", std::env::consts::OS)
        .with("go-arch", config::go_architecture(std::env::consts::ARCH))
        .with("max-cpu-set", processors)
        .with("max-cpu-available", processors)
        .with("member-initialized", has_data);
    config.summary().into_iter().fold(note, |note, (field, value)| note.with(field, value))
}

/// etcd's word on whose data directory this is, and on settings that its data makes superfluous.
fn on_data(config: &config::Config, has_data: bool) -> Vec<Note> {
    let directory = config.data_dir.display().to_string();
    let note = |text: &str, kind: &str| {
        Note::new(Level::Info, text).with("data-dir", directory.as_str()).with("dir-type", kind)
    };
    if !has_data {
        return vec![note("Initialize and start etcd server", "empty")];
    }
    let mut notes = vec![note("server has already been initialized", "member")];
    if config.discovery.is_asked_for() {
        let text = "discovery token is ignored since cluster already initialized; valid logs are found";
        notes.push(Note::new(Level::Warn, text));
    }
    notes
}

fn notify_ready(log: &Logger) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    info!(log, "notifying init daemon");
    match sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        Ok(()) => info!(log, "successfully notified init daemon"),
        Err(failure) => error!(log, "failed to notify systemd for readiness"; "error" => %failure),
    }
}

fn write_note(log: &Logger, note: &Note) {
    let fields = note.values();
    match note.level {
        Level::Debug => slog::debug!(log, "{}", note.message; fields),
        Level::Info => info!(log, "{}", note.message; fields),
        Level::Warn => warn!(log, "{}", note.message; fields),
        Level::Error | Level::Dpanic => error!(log, "{}", note.message; fields),
        Level::Panic | Level::Fatal => slog::crit!(log, "{}", note.message; fields),
    }
}

/// Output that nobody reads is not worth failing over.
fn say(code: i32, stdout: &str, stderr: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(stderr.as_bytes());
    let _ = std::io::stdout().write_all(stdout.as_bytes());
    exit_code(code)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
