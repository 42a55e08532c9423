//! `/v3/…`, the JSON gateway to the gRPC services: not in this release, and it says so the way it says everything.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, Scope, web};
use serde::Serialize;
use tonic::Code;

#[derive(Serialize)]
struct GatewayError<'a> {
    code: i32,
    message: &'a str,
}

/// `prefix` is `/v3`, or `/v3beta`, which etcd still takes.
pub(super) fn scope(prefix: &str) -> Scope {
    web::scope(prefix).default_service(web::to(not_implemented))
}

async fn not_implemented() -> HttpResponse {
    super::json(
        StatusCode::NOT_IMPLEMENTED,
        &GatewayError {
            code: Code::Unimplemented as i32,
            message: "the JSON gateway is not part of this release: use gRPC on this port",
        },
    )
}
