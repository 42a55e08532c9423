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
//! Who dialled is found out beside, in the tables of the kernel. Until it is known, a connection counts as cut if any is to the
//! member it leads to.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, Weak};
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

const PIECE_BYTES: usize = 64 << 10;
/// Its answer takes the kernel up to a second where there are many sockets: one look is for all who wait.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Network {
    flows: Arc<watch::Sender<BTreeMap<Way, Flow>>>,
    /// Of the running members.
    processes: Arc<Mutex<BTreeMap<usize, u32>>>,
    strangers: Arc<Mutex<Vec<Stranger>>>,
}

/// A connection whose other end is not known yet.
struct Stranger {
    from: u16,
    to: u16,
    source: Weak<OnceLock<usize>>,
    looks_left: usize,
}

impl Network {
    pub fn new() -> Self {
        let (flows, _) = watch::channel(BTreeMap::new());
        let network = Network { flows: Arc::new(flows), processes: Arc::default(), strangers: Arc::default() };
        let (flows, processes) = (Arc::downgrade(&network.flows), Arc::clone(&network.processes));
        let strangers = Arc::clone(&network.strangers);
        // Ends with the last proxy.
        std::thread::spawn(move || {
            while let Some(flows) = flows.upgrade() {
                let found = introduce(&strangers, &processes);
                if found {
                    flows.send_modify(|_| {});
                }
                drop(flows);
                std::thread::sleep(BETWEEN_LOOKS);
            }
        });
        network
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
                let stranger =
                    Stranger { from: from.port(), to: own.port(), source: Arc::downgrade(&source), looks_left: LOOKS };
                network.strangers.lock().expect("nobody panics with it").push(stranger);
            }
        });
    }
}

/// Finds out who the strangers are, with one look at the kernel's table; answers whether any was found. A process that has just
/// begun may not have told its number: who is not found is looked for again.
fn introduce(strangers: &Mutex<Vec<Stranger>>, processes: &Mutex<BTreeMap<usize, u32>>) -> bool {
    let mut waiting = std::mem::take(&mut *strangers.lock().expect("nobody panics with it"));
    waiting.retain(|stranger| stranger.source.strong_count() > 0);
    if waiting.is_empty() {
        return false;
    }
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else { return false };
    let processes = processes.lock().expect("nobody panics with it").clone();
    let waited = waiting.len();
    waiting.retain_mut(|stranger| {
        stranger.looks_left -= 1;
        let found = inode(&table, stranger.from, stranger.to).and_then(|inode| owner(inode, &processes));
        if let (Some(member), Some(source)) = (found, stranger.source.upgrade()) {
            let _ = source.set(member);
        }
        found.is_none() && stranger.looks_left > 0
    });
    let any_found = waiting.len() < waited;
    strangers.lock().expect("nobody panics with it").append(&mut waiting);
    any_found
}

/// The kernel's number of the socket from port `from` to port `to`, both on this machine.
fn inode(table: &str, from: u16, to: u16) -> Option<&str> {
    let (from, to) = (format!("0100007F:{from:04X}"), format!("0100007F:{to:04X}"));
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next() == Some(&from) && fields.next() == Some(&to);
        if is_it { fields.nth(6) } else { None }
    })
}

/// The member whose process has that socket.
fn owner(inode: &str, processes: &BTreeMap<usize, u32>) -> Option<usize> {
    let socket = format!("socket:[{inode}]");
    let has_it = |process: &u32| {
        let mut descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let is_it = descriptors.any(|descriptor| {
            let target = descriptor.and_then(|descriptor| fs::read_link(descriptor.path()));
            target.is_ok_and(|target| target.as_os_str() == socket.as_str())
        });
        is_it.then_some(())
    };
    processes.iter().find(|(_, process)| has_it(process).is_some()).map(|(member, _)| *member)
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
    fn flow(&self, flows: &BTreeMap<Way, Flow>) -> Flow {
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
