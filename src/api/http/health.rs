//! `/health` for load balancers, `/livez` and `/readyz` for Kubernetes.
//!
//! ```text
//!   /health   alarms (less ?exclude=NOSPACE), a leader (unless ?serializable=true), one read
//!   /livez    serializable_read
//!   /readyz   data_corruption, serializable_read, linearizable_read, non_learner
//! ```

use super::{HttpBackend, get_only, method_not_allowed, not_found, plain_error};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpRequest, HttpResponse, web};
use castd_proto::etcdserverpb::AlarmType;
use serde::Serialize;
use slog::{Logger, warn};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As of now, by a quorum.
    Linearizable,
    /// What this member knows.
    Serializable,
}

/// What the checks need.
#[derive(Clone)]
pub(super) struct Health {
    pub(super) backend: Arc<dyn HttpBackend>,
    pub(super) read_timeout: Duration,
    pub(super) log: Logger,
}

/// Why a member is not healthy. The texts are etcd's.
#[derive(Debug, PartialEq, thiserror::Error)]
enum Fault {
    #[error("ALARM {}", alarm_name(*.0))]
    Alarm(AlarmType),
    #[error("RAFT NO LEADER")]
    NoLeader,
    #[error("RANGE ERROR:{0}")]
    Read(String),
}

fn alarm_name(alarm: AlarmType) -> &'static str {
    match alarm {
        AlarmType::Nospace | AlarmType::Corrupt => alarm.as_str_name(),
        AlarmType::None => "UNKNOWN",
    }
}

impl Health {
    async fn read(&self, consistency: Consistency) -> Result<(), String> {
        match tokio::time::timeout(self.read_timeout, self.backend.read_one_key(consistency)).await {
            Ok(result) => result,
            Err(_) => Err("etcdserver: request timed out".to_owned()),
        }
    }

    async fn check(&self, query: &Query) -> Result<(), Fault> {
        let raised = self.backend.alarms();
        if let Some(alarm) = raised.into_iter().find(|alarm| !query.excluded.contains(alarm.as_str_name())) {
            return Err(Fault::Alarm(alarm));
        }
        if query.consistency == Consistency::Linearizable && !self.backend.has_leader() {
            return Err(Fault::NoLeader);
        }
        self.read(query.consistency).await.map_err(Fault::Read)
    }
}

#[derive(Debug)]
struct Query {
    excluded: BTreeSet<String>,
    consistency: Consistency,
    verbose: bool,
}

impl Query {
    fn of(request: &HttpRequest) -> Query {
        let mut query = Query { excluded: BTreeSet::new(), consistency: Consistency::Linearizable, verbose: false };
        let mut serializable = None;
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            match name.as_ref() {
                "exclude" if !value.is_empty() => {
                    query.excluded.insert(value.into_owned());
                }
                "serializable" => {
                    serializable.get_or_insert(value == "true");
                }
                "verbose" => query.verbose = true,
                _ => {}
            }
        }
        if serializable == Some(true) {
            query.consistency = Consistency::Serializable;
        }
        query
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    health: &'a str,
    reason: &'a str,
}

pub(super) fn configure(services: &mut web::ServiceConfig, health: &Health) {
    let for_health = health.clone();
    services.service(get_only(
        "/health",
        web::get().to(move |request: HttpRequest| {
            let health = for_health.clone();
            async move { answer(&health, &Query::of(&request)).await }
        }),
    ));
    for (path, checks) in [("/livez", LIVEZ), ("/readyz", READYZ)] {
        let (for_all, for_one) = (health.clone(), health.clone());
        services.service(get_only(
            path,
            web::get().to(move |request: HttpRequest| {
                let health = for_all.clone();
                async move { run(&health, request.path(), checks, &Query::of(&request)).await }
            }),
        ));
        services.service(
            web::resource(format!("{path}/{{check}}"))
                .route(web::get().to(move |request: HttpRequest| {
                    let health = for_one.clone();
                    async move {
                        let name = request.match_info().get("check").unwrap_or_default();
                        match checks.iter().position(|check| check.name() == name) {
                            Some(at) => run(&health, request.path(), &checks[at..=at], &Query::of(&request)).await,
                            None => not_found().await,
                        }
                    }
                }))
                .default_service(web::to(method_not_allowed)),
        );
    }
}

async fn answer(health: &Health, query: &Query) -> HttpResponse {
    let checked = health.check(query).await;
    health.backend.count_health_check(checked.is_ok());
    let reason = match &checked {
        Ok(()) => String::new(),
        Err(fault) => fault.to_string(),
    };
    let answer = Answer { health: if checked.is_ok() { "true" } else { "false" }, reason: &reason };
    let body = match serde_json::to_string(&answer) {
        Ok(body) => body,
        Err(error) => return plain_error(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    if checked.is_ok() {
        return HttpResponse::Ok().insert_header(ContentType::plaintext()).body(body);
    }
    warn!(health.log, "serving /health false"; "reason" => &reason);
    plain_error(StatusCode::SERVICE_UNAVAILABLE, body)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, health: &Health) -> Result<(), String> {
        match self {
            Check::DataCorruption if health.backend.alarms().contains(&AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::NonLearner if health.backend.is_learner() => Err("member is a learner".to_owned()),
            Check::DataCorruption | Check::NonLearner => Ok(()),
            Check::SerializableRead => health.read(Consistency::Serializable).await,
            Check::LinearizableRead => health.read(Consistency::Linearizable).await,
        }
    }
}

async fn run(health: &Health, path: &str, checks: &[Check], query: &Query) -> HttpResponse {
    let unknown: Vec<&str> = query
        .excluded
        .iter()
        .map(String::as_str)
        .filter(|name| !checks.iter().any(|check| check.name() == *name))
        .collect();
    if !unknown.is_empty() {
        warn!(health.log, "some health checks cannot be excluded"; "missing-health-checks" => unknown.join(","));
    }
    let mut report = String::new();
    let mut healthy = true;
    for check in checks {
        let name = check.name();
        let line = if query.excluded.contains(name) {
            format!("[+]{name} excluded: ok")
        } else {
            let checked = check.run(health).await;
            let kind = path.split('/').nth(1).unwrap_or_default();
            health.backend.count_check(kind, name, checked.is_ok());
            match checked {
                Ok(()) => format!("[+]{name} ok"),
                Err(error) => {
                    healthy = false;
                    format!("[-]{name} failed: {error}")
                }
            }
        };
        // Writing to a String does not fail.
        let _ = writeln!(report, "{line}");
    }
    if !healthy {
        warn!(health.log, "health check failed"; "path" => path, "output" => &report);
        return plain_error(StatusCode::SERVICE_UNAVAILABLE, report.trim_end());
    }
    if !query.verbose {
        report.clear();
    }
    report.push_str("ok\n");
    HttpResponse::Ok()
        .insert_header(ContentType::plaintext())
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(report)
}
