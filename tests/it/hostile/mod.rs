//! Clients that mean harm, or are merely broken: nobody else may notice.
//!
//! ```text
//!   besiege ─┬─ an attack, on connections of its own
//!            ├─ a client that puts all the while ─▶ every put is answered, in time
//!            └─ /proc/PID/status before and after ─▶ the memory it took at most, and that it is alive
//! ```
//! What storage is behind the port plays no part, so these cases run on one backend.

mod floods;
mod frames;
mod grpc;
mod http;
mod keepalive;
mod peers;
mod permits;
mod slow;

use crate::harness::{Api, Backend, Place, Server, Setup, block_on};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// More memory than this a flood may not take.
const MEMORY_MAX: u64 = 128 << 20;
/// For a put of a bystander. It takes a millisecond on an idle machine; this one runs other tests meanwhile.
const PUT_WITHIN: Duration = Duration::from_secs(10);
/// For what the server does by itself at once: to answer, or to close.
const SOON: Duration = Duration::from_secs(20);

/// Runs `case` on a server of its own, without anybody else.
fn alone(setup: impl FnOnce(Setup) -> Setup, case: impl AsyncFnOnce(&Server)) {
    let _place = Place::take();
    block_on(async {
        let server = setup(Setup::castd(Backend::Memory)).start();
        case(&server).await;
        server.api().put("after", "it").await;
    });
}

/// Runs `attack` on a server of its own, beside a client whose puts have to go on.
fn besiege(attack: impl AsyncFnOnce(&Server)) {
    besiege_within(MEMORY_MAX, attack);
}

/// As [`besiege`], where what is held for many clients is more.
fn besiege_within(memory_max: u64, attack: impl AsyncFnOnce(&Server)) {
    alone(
        |setup| setup,
        async |server: &Server| {
            let api = server.api();
            for _ in 0..20 {
                api.put("bystander", "warm").await;
            }
            let before = memory(server, "VmRSS");
            let over = Arc::new(AtomicBool::new(false));
            let putting = tokio::spawn(bystander(api.clone(), Arc::clone(&over)));
            attack(server).await;
            over.store(true, Ordering::Relaxed);
            let (puts, slowest) = putting.await.expect("the bystander's puts are answered");
            let most = memory(server, "VmHWM").saturating_sub(before);
            println!("{puts} puts, the slowest {slowest:?}; {} KiB of memory", most >> 10);
            assert!(slowest < PUT_WITHIN, "a put took {slowest:?}");
            assert!(most < memory_max, "{} MiB of memory", most >> 20);
        },
    );
}

/// Puts until it is over, and once more. How many, and how long the slowest took.
async fn bystander(api: Api, over: Arc<AtomicBool>) -> (usize, Duration) {
    let (mut puts, mut slowest) = (0, Duration::ZERO);
    loop {
        let last = over.load(Ordering::Relaxed);
        let started = Instant::now();
        api.put("bystander", "still here").await;
        slowest = slowest.max(started.elapsed());
        puts += 1;
        if last {
            return (puts, slowest);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A number of /proc/PID/status, in bytes.
fn memory(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("in every status");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// CPU time of the server so far.
fn cpu(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("behind the name");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    // Linux counts in hundredths of a second for all of user space.
    Duration::from_millis(ticks * 10)
}

async fn connect(server: &Server) -> TcpStream {
    connect_to(server.setup.ports.client).await
}

async fn connect_to(port: u16) -> TcpStream {
    let stream = soon("a connection", TcpStream::connect(("127.0.0.1", port))).await.expect("accepted");
    stream.set_nodelay(true).expect("a TCP option");
    stream
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {SOON:?} in vain: {what}"),
    }
}

/// Sends that, and returns all that comes back until the server closes.
async fn converse(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect_to(port).await;
    // The server may hang up in the middle of it.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// What comes until the server closes; a reset is a way of closing.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = soon("the server to close", stream.read_to_end(&mut answer)).await;
    answer
}
