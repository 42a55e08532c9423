//! A TCP proxy that can fail in the ways of a network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Connections are closed, new ones too.
    Cut,
    /// Nothing gets through, nothing is closed.
    Silent,
    /// So many bytes a second get through each connection.
    Slow(usize),
    /// One byte of each buffer that is as full as this is changed.
    Flipping(usize),
}

pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (state, watched) = watch::channel(State::Open);
        let (connections, accepted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (open, counted) = (Arc::clone(&connections), Arc::clone(&accepted));
        let acceptor = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (open, watched) = (Arc::clone(&open), watched.clone());
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    carry(stream, target, watched).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Proxy { address, state, connections, accepted, acceptor }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    pub fn slow_down(&self, bytes_per_sec: usize) {
        self.state.send_replace(State::Slow(bytes_per_sec));
    }

    /// From now on a byte of each buffer of so many bytes is another one at the other end.
    pub fn flip_in(&self, bytes: usize) {
        self.state.send_replace(State::Flipping(bytes));
    }

    pub fn mend(&self) {
        self.state.send_replace(State::Open);
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub async fn is_used(&self) {
        while self.connections.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub async fn is_unused(&self) {
        while self.connections.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn carry(stream: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    if *state.borrow() == State::Cut {
        return;
    }
    let Ok(onward) = TcpStream::connect(target).await else { return };
    for stream in [&stream, &onward] {
        stream.set_nodelay(true).expect("a socket");
    }
    let ((from, back), (onward_from, onward_to)) = (stream.into_split(), onward.into_split());
    let mut cut = state.clone();
    tokio::select! {
        () = pump(from, onward_to, state.clone()) => {}
        () = pump(onward_from, back, state) => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // What is on its way when the network falls silent is lost in it.
        if state.wait_for(|state| *state != State::Silent).await.is_err() {
            return;
        }
        let Ok(read) = from.read(&mut buffer).await else { return };
        let now = *state.borrow();
        if let State::Flipping(bytes) = now
            && read >= bytes
        {
            buffer[read / 2] ^= 0x10;
        }
        if read == 0 || (now != State::Silent && to.write_all(&buffer[..read]).await.is_err()) {
            return;
        }
        if let State::Slow(bytes_per_sec) = now {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / bytes_per_sec as f64)).await;
        }
        if now == State::Silent {
            std::future::pending::<()>().await;
        }
    }
}
