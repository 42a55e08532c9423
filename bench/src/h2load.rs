//! Runs `h2load` with one gRPC request, framed, as the body of every HTTP/2 request.

use crate::Error;
use crate::server::Server;
use prost::Message;
use std::io::Write as _;
use std::process::Command;

/// What a run came to.
pub struct Run {
    pub requests_per_second: f64,
    pub cpu_microseconds: f64,
}

/// Sends `request` to `path`, `count` times, from `clients` connections with one request under way each.
pub fn run(server: &Server, path: &str, request: &impl Message, clients: usize, count: u64) -> Result<Run, Error> {
    let count = count.max(clients as u64);
    let body = request.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(body.len())?.to_be_bytes());
    framed.extend(body);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&framed)?;

    let cpu_before = server.cpu()?;
    let output = Command::new("h2load")
        .args(["-n", &count.to_string(), "-c", &clients.to_string(), "-m", "1", "-t", "1"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg("-d")
        .arg(file.path())
        .arg(format!("{}{path}", server.url()))
        .output()
        .map_err(|error| format!("h2load (Debian's nghttp2-client): {error}"))?;
    let cpu = server.cpu()?.saturating_sub(cpu_before);
    let text = String::from_utf8_lossy(&output.stdout);
    let succeeded = number_before(&text, " succeeded").ok_or_else(|| format!("h2load said: {text}"))?;
    if succeeded < count as f64 {
        return Err(format!("h2load: {succeeded} of {count} requests succeeded: {text}").into());
    }
    Ok(Run {
        requests_per_second: number_before(&text, " req/s").ok_or("h2load printed no rate")?,
        cpu_microseconds: cpu.as_secs_f64() * 1e6 / count as f64,
    })
}

/// The number that stands before `mark`.
fn number_before(text: &str, mark: &str) -> Option<f64> {
    let before = &text[..text.find(mark)?];
    before.rsplit([' ', ',']).next()?.parse().ok()
}
