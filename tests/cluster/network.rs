//! The network between members: every connection of one to another goes through here, and may be cut, in one direction or
//! both, or slowed down.
//!
//! ```text
//!   member 1 ──dials the advertised URL of 2──▶ proxy of 2 ──▶ member 2
//!                                                 └ who dials? the process that holds the other end of the socket
//! ```
//! A cut holds bytes back instead of closing connections, as a broken cable does: the other side hears nothing, and once it is
//! mended what was under way arrives.
//!
//! Who dialled is found out beside, in the tables of the kernel, which take a second to read where there are ten thousand
//! sockets. Until it is known, a connection counts as cut if any other is to or from the member that it leads to.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of bytes on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Open,
    Held,
    /// Each piece takes so long.
    Slow(Duration),
}

/// From one member to another, by their numbers.
pub type Way = (usize, usize);
type Flows = BTreeMap<Way, Flow>;

const PIECE_BYTES: usize = 64 << 10;
/// A process that has just begun may not have told its number.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Network {
    flows: Arc<watch::Sender<Flows>>,
    /// Of the running members.
    processes: Arc<Mutex<BTreeMap<usize, u32>>>,
    unknown: mpsc::Sender<Unknown>,
}

impl Network {
    pub fn new() -> Self {
        let (flows, processes) = (Arc::new(watch::channel(Flows::new()).0), Arc::default());
        let (unknown, asked) = mpsc::channel();
        let (lookup_flows, lookup_processes) = (Arc::clone(&flows), Arc::clone(&processes));
        std::thread::spawn(move || look_up(&asked, &lookup_processes, &lookup_flows));
        Network { flows, processes, unknown }
    }

    pub fn member_runs(&self, member: usize, process: u32) {
        self.processes.lock().expect("nobody panics with it").insert(member, process);
    }

    pub fn set(&self, way: Way, flow: Flow) {
        self.flows.send_modify(|flows| {
            flows.insert(way, flow);
        });
    }

    /// Every way is open again.
    pub fn mend(&self) {
        self.flows.send_modify(BTreeMap::clear);
    }

    /// Takes connections for `member` at `listener` and leads them to where it really listens. Within a runtime.
    pub fn serve(&self, member: usize, listener: std::net::TcpListener, target: u16) {
        listener.set_nonblocking(true).expect("a socket can be asked not to block");
        let listener = TcpListener::from_std(listener).expect("within a runtime");
        let network = self.clone();
        tokio::spawn(async move {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
            while let Ok((incoming, from)) = listener.accept().await {
                let own = incoming.local_addr().expect("it is connected");
                let Ok(outgoing) = TcpStream::connect(target).await else { continue };
                let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
                let source = Arc::new(OnceLock::new());
                let (from_source, to_source) = incoming.into_split();
                let (from_member, to_member) = outgoing.into_split();
                let line =
                    |is_inward| Line { network: network.clone(), source: Arc::clone(&source), member, is_inward };
                tokio::spawn(pump(from_source, to_member, line(true)));
                tokio::spawn(pump(from_member, to_source, line(false)));
                // They end together.
                let _ = network.unknown.send(Unknown { from: from.port(), to: own.port(), source, looks: 0 });
            }
        });
    }
}

/// A connection of which only the ports are known.
struct Unknown {
    from: u16,
    to: u16,
    source: Arc<OnceLock<usize>>,
    looks: usize,
}

/// Finds out who dials, until nobody asks any more.
fn look_up(asked: &mpsc::Receiver<Unknown>, processes: &Mutex<BTreeMap<usize, u32>>, flows: &watch::Sender<Flows>) {
    while let Ok(first) = asked.recv() {
        let mut unknown = vec![first];
        while !unknown.is_empty() {
            unknown.extend(asked.try_iter());
            let processes = processes.lock().expect("nobody panics with it").clone();
            let sockets = sockets(&unknown);
            for (member, process) in processes {
                let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
                for target in descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok()) {
                    if let Some(place) = target.to_str().and_then(|socket| sockets.get(socket)) {
                        let _ = unknown[*place].source.set(member);
                    }
                }
            }
            unknown.iter_mut().for_each(|it| it.looks += 1);
            unknown.retain(|it| it.source.get().is_none() && it.looks < LOOKS);
            flows.send_modify(|_| {});
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
}

/// What the kernel calls the ends that were dialled from, all on this machine; with the places of `unknown`.
fn sockets(unknown: &[Unknown]) -> BTreeMap<String, usize> {
    let address = |port: u16| format!("0100007F:{port:04X}");
    let ends = unknown.iter().enumerate().map(|(place, it)| ((address(it.from), address(it.to)), place));
    let wanted: BTreeMap<(String, String), usize> = ends.collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let found = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let place = wanted.get(&((*fields.get(1)?).to_owned(), (*fields.get(2)?).to_owned()))?;
        Some((format!("socket:[{}]", fields.get(9)?), *place))
    });
    found.collect()
}

/// One direction of a connection to `member`.
struct Line {
    network: Network,
    /// Set once it is known who opened it.
    source: Arc<OnceLock<usize>>,
    member: usize,
    is_inward: bool,
}

impl Line {
    /// While it is not known whose it is, it may be that of one who is cut off.
    fn flow(&self, flows: &Flows) -> Flow {
        let way = |source| if self.is_inward { (source, self.member) } else { (self.member, source) };
        match self.source.get() {
            Some(source) => flows.get(&way(*source)).copied().unwrap_or(Flow::Open),
            None => {
                let may_be = |(from, to): &Way| [*from, *to].contains(&self.member);
                let is_held = flows.iter().any(|(way, flow)| *flow == Flow::Held && may_be(way));
                if is_held { Flow::Held } else { Flow::Open }
            }
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: Line) {
    let mut flows = line.network.flows.subscribe();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // The end of a connection is news, too.
        let length = from.read(&mut piece).await.unwrap_or(0);
        loop {
            let flow = line.flow(&flows.borrow_and_update());
            match flow {
                Flow::Open => break,
                Flow::Slow(time) => {
                    tokio::time::sleep(time).await;
                    break;
                }
                Flow::Held => {
                    if flows.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
        if length == 0 || to.write_all(&piece[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
