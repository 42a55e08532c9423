//! castutl: works on castd's files while no member does.

use castd::castutl;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Whatever is written from here on is the owner's alone, by whichever library.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let castutl::Ending { code, stdout, stderr } = castutl::run(std::env::args_os());
    // Output that nobody reads is not worth failing over.
    let _ = std::io::stderr().write_all(stderr.as_bytes());
    let _ = std::io::stdout().write_all(stdout.as_bytes());
    ExitCode::from(code)
}
