//! Runs `h2load` with one gRPC request, framed, as the body of every HTTP/2 request.
//!
//! It knows one server only. So where clients go to several, there is one `h2load` for each, all at the same time, with its
//! share of the clients; and a lone client goes to one server after the other.

use crate::Error;
use crate::target::Target;
use prost::Message;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// What every client does, as often as it takes until `count` requests have been answered.
pub struct Load<'a, M> {
    pub path: &'a str,
    pub request: &'a M,
    /// An error is a shorter answer, which h2load would count as a success.
    pub answer_bytes_min: usize,
    pub clients: usize,
    pub count: u64,
}

/// What a run came to.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub requests_per_second: f64,
    pub cpu_microseconds: f64,
}

/// A gRPC message has five bytes in front.
const FRAME_HEAD_BYTES: usize = 5;

/// Sends the requests from connections with one request under way each.
pub fn run<M: Message>(target: &Target, load: &Load<M>) -> Result<Run, Error> {
    let body = load.request.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(body.len())?.to_be_bytes());
    framed.extend(body);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&framed)?;

    let endpoints = target.endpoints.len();
    let in_turn = load.clients < endpoints;
    let cpu_before = target.cpu()?;
    let mut started = Vec::new();
    let (mut requests, mut seconds) = (0, 0.0);
    for (place, server) in target.endpoints.iter().enumerate() {
        let clients = if in_turn { load.clients } else { share(load.clients, endpoints, place) };
        let count = (load.count / endpoints as u64).max(clients as u64);
        let one = Part { process: start(&server.url(), load.path, file.path(), clients, count)?, count };
        requests += count;
        if in_turn {
            seconds += one.finish(load.answer_bytes_min)?;
        } else {
            started.push(one);
        }
    }
    for one in started {
        seconds = one.finish(load.answer_bytes_min)?.max(seconds);
    }
    let cpu = target.cpu()?.saturating_sub(cpu_before);
    Ok(Run {
        requests_per_second: requests as f64 / seconds,
        cpu_microseconds: cpu.as_secs_f64() * 1e6 / requests as f64,
    })
}

/// Of `clients`, for the server at `place` among so many.
fn share(clients: usize, servers: usize, place: usize) -> usize {
    clients / servers + usize::from(place < clients % servers)
}

fn start(url: &str, path: &str, body: &Path, clients: usize, count: u64) -> Result<Child, Error> {
    Command::new("h2load")
        .args(["-n", &count.to_string(), "-c", &clients.to_string(), "-m", "1", "-t", "1"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg("-d")
        .arg(body)
        .arg(format!("{url}{path}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("h2load (Debian's nghttp2-client): {error}").into())
}

/// One h2load, towards one server.
struct Part {
    process: Child,
    count: u64,
}

impl Part {
    /// The seconds that it took.
    fn finish(self, answer_bytes_min: usize) -> Result<f64, Error> {
        let Output { stdout, stderr, .. } = self.process.wait_with_output()?;
        let text = String::from_utf8_lossy(&stdout);
        seconds(&text, self.count, answer_bytes_min)
            .map_err(|error| format!("{error}; h2load said: {text}{}", String::from_utf8_lossy(&stderr)).into())
    }
}

fn seconds(text: &str, count: u64, answer_bytes_min: usize) -> Result<f64, String> {
    let number = |mark: &str| number_before(text, mark).ok_or_else(|| format!("no number before {mark:?}"));
    let succeeded = number(" succeeded")?;
    if succeeded < count as f64 {
        return Err(format!("{succeeded} of {count} requests succeeded"));
    }
    let (bytes, least) = (number(") data")?, count as f64 * (FRAME_HEAD_BYTES + answer_bytes_min) as f64);
    if bytes < least {
        return Err(format!("{bytes} bytes are no {count} answers: some are errors"));
    }
    Ok(count as f64 / number(" req/s")?)
}

/// The number that stands before `mark`.
fn number_before(text: &str, mark: &str) -> Option<f64> {
    let before = &text[..text.find(mark)?];
    before.rsplit([' ', ',', '(']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "finished in 1.00s, 200.00 req/s, 15.20KB/s\n\
        requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout\n\
        traffic: 15.20KB (15566) total, 4.85KB (4966) headers (space savings 71.12%), 2.93KB (3000) data\n";

    #[test]
    fn the_time_follows_from_the_rate() {
        assert_eq!(seconds(SAID, 100, 25), Ok(0.5));
    }

    #[test]
    fn short_answers_and_missing_ones_are_errors() {
        assert!(seconds(SAID, 100, 26).is_err_and(|error| error.contains("errors")));
        assert!(seconds(SAID, 101, 0).is_err_and(|error| error.contains("100 of 101")));
        assert!(seconds("nothing", 1, 0).is_err());
    }

    #[test]
    fn every_client_goes_to_one_of_the_servers() {
        for clients in [3, 64, 1_000] {
            let shares: Vec<usize> = (0..3).map(|place| share(clients, 3, place)).collect();
            assert_eq!(shares.iter().sum::<usize>(), clients);
            assert!(shares.iter().all(|share| share.abs_diff(clients / 3) <= 1));
        }
    }
}
