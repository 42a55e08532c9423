//! The threads on which actix-web runs: actix's services never leave the thread they were made on, and tokio's workers
//! are shared, so connections and requests are sent here.
//!
//! ```text
//!   acceptor ──Connection──▶ thread ─▶ actix-http ─┐
//!   bridge ────Request─────▶ thread ───────────────┴▶ HttpApp
//! ```
//! Bounded by what is sent: connections by the acceptor's permits, requests by the bridge's.

use super::ListenSettings;
use super::bridge::{self, BridgedRequest};
use super::connection::{DetachedSocket, Remote, Socket};
use super::drain::Drain;
use super::handshake::{Prefix, Rewound};
use super::hang_up::Listening;
use crate::api::http::HttpApp;
use actix_http::body::BoxBody;
use actix_http::{HttpService, KeepAlive, Protocol, Request, Response};
use actix_service::{Service, ServiceFactory as _, fn_service, map_config};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::{App, web};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(super) enum Job {
    Connection(Connection),
    Request(Box<BridgedRequest>),
}

pub(super) struct Connection {
    /// Without a runtime: it came from the listener's and is now registered with the thread's own.
    stream: DetachedSocket,
    prefix: Prefix,
    remote: Remote,
    /// Dropped when the connection has ended. Closed by the other side, it ends the connection.
    ended: oneshot::Sender<()>,
}

/// Hands jobs to the threads in turn.
#[derive(Clone)]
pub(super) struct JobSender {
    threads: Arc<[mpsc::UnboundedSender<Job>]>,
    turn: Arc<AtomicUsize>,
}

impl JobSender {
    pub(super) fn send(&self, job: Job) -> io::Result<()> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.threads.len().max(1);
        let sent = self.threads.get(turn).is_some_and(|thread| thread.send(job).is_ok());
        if sent { Ok(()) } else { Err(io::Error::other("the HTTP thread has ended")) }
    }

    /// Has an HTTP/1.1 connection served, until it ends. Dropping this future closes it.
    pub(super) async fn connection(&self, stream: Rewound<Socket>, remote: Remote) -> io::Result<()> {
        let Rewound { prefix, stream } = stream;
        let (ended, end) = oneshot::channel();
        let job = Job::Connection(Connection { stream: stream.detach()?, prefix, remote, ended });
        self.send(job)?;
        // Never answered, only dropped.
        let _ = end.await;
        Ok(())
    }
}

/// Dropped, the threads end and close what they serve.
pub(super) struct HttpThreads {
    sender: JobSender,
    threads: Vec<thread::JoinHandle<()>>,
    stop: DropGuard,
}

impl HttpThreads {
    pub(super) async fn start(settings: &ListenSettings, app: &HttpApp, drain: &Drain) -> io::Result<HttpThreads> {
        let stopped = CancellationToken::new();
        let stop = stopped.clone().drop_guard();
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for number in 0..settings.http_threads.max(1) {
            let (sender, jobs) = mpsc::unbounded_channel();
            let (started, ready) = oneshot::channel();
            let worker = Worker {
                app: app.clone(),
                drain: drain.clone(),
                stopped: stopped.clone(),
                head_timeout: settings.handshake_timeout,
                idle_timeout: settings.idle_timeout,
                body_bytes_max: settings.request_body_bytes_max,
            };
            let thread = thread::Builder::new()
                .name(format!("http-{}-{number}", settings.name))
                .spawn(move || actix_rt::System::new().block_on(worker.run(jobs, started)))?;
            ready.await.map_err(|_| io::Error::other("the HTTP application cannot be built"))?;
            senders.push(sender);
            threads.push(thread);
        }
        let sender = JobSender { threads: senders.into(), turn: Arc::default() };
        Ok(HttpThreads { sender, threads, stop })
    }

    pub(super) fn sender(&self) -> JobSender {
        self.sender.clone()
    }

    pub(super) async fn join(self) {
        drop(self.stop);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                // A panic there has ended the process already, or was a test's.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

/// What a thread needs to build its own application.
struct Worker {
    app: HttpApp,
    drain: Drain,
    stopped: CancellationToken,
    head_timeout: Duration,
    idle_timeout: Duration,
    body_bytes_max: usize,
}

impl Worker {
    async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>, started: oneshot::Sender<()>) {
        let body_bytes_max = self.body_bytes_max;
        let configure = self.app;
        let app = App::new()
            .app_data(web::PayloadConfig::new(body_bytes_max))
            .app_data(web::JsonConfig::default().limit(body_bytes_max))
            .app_data(web::FormConfig::default().limit(body_bytes_max))
            .configure(|services| configure.configure(services));
        let Ok(app) = map_config(app, |()| AppConfig::default()).new_service(()).await else { return };
        let app = Rc::new(app);

        let answering = app.clone();
        let drain = self.drain;
        let http1 = HttpService::build()
            .keep_alive(KeepAlive::Timeout(self.idle_timeout))
            .client_request_timeout(self.head_timeout)
            .client_disconnect_timeout(self.head_timeout)
            .graceful_shutdown_signal(move || drain.begun())
            .on_connect_ext(|stream: &Listening<Rewound<Socket>>, extensions| {
                extensions.insert(stream.hang_up());
            })
            .finish(fn_service(move |request: Request| {
                let app = answering.clone();
                async move { Ok::<_, Infallible>(respond(&*app, request).await) }
            }))
            .new_service(());
        let Ok(http1) = http1.await else { return };
        let http1 = Rc::new(http1);
        if started.send(()).is_err() {
            return;
        }

        while let Some(Some(job)) = self.stopped.run_until_cancelled(jobs.recv()).await {
            match job {
                Job::Connection(connection) => {
                    let Connection { stream, prefix, remote, mut ended } = connection;
                    let http1 = http1.clone();
                    actix_rt::spawn(async move {
                        let Ok(stream) = stream.attach() else { return };
                        let stream = Listening::new(Rewound { prefix, stream });
                        tokio::select! {
                            // The application is always ready, so nobody is asked.
                            // Errors here are clients that left, sent nonsense, or took too long.
                            _ = http1.call((stream, Protocol::Http1, remote.tcp())) => {}
                            () = ended.closed() => {}
                        }
                    });
                }
                Job::Request(request) => {
                    let app = app.clone();
                    actix_rt::spawn(async move { bridge::run(&*app, *request).await });
                }
            }
        }
    }
}

/// One request through the application. Header names leave as Go writes them (`X-Etcd-Index`): scripts grep for them.
pub(super) async fn respond<A>(app: &A, request: Request) -> Response<BoxBody>
where
    A: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
{
    let mut response = match app.call(request).await {
        Ok(response) => Response::from(response),
        Err(error) => Response::from(error),
    };
    response.head_mut().set_camel_case_headers(true);
    response
}
