//! `/debug/vars`: what Go's expvar shows of an etcd, as far as it means something here.
//!
//! | variable | here |
//! |---|---|
//! | `cmdline` | as started |
//! | `file_descriptor_limit` | of the process |
//! | `memstats` | `Sys`, `HeapInuse` and `StackInuse`, from the kernel; a garbage collector's other numbers do not exist |
//! | `raft.status` | `id`, `term`, `commit`, `applied`, `lead`, `raftState`, `progress`, as etcd writes them |
//!
//! `/debug/requests` and `/debug/events`, pages of Go's tracer, are not there.

use super::{HttpBackend, get_only};
use actix_web::http::header;
use actix_web::{HttpResponse, Resource, web};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Variables by name.
pub type DebugVars = Map<String, Value>;

pub(super) fn resource(backend: Arc<dyn HttpBackend>) -> Resource {
    let answer = move || {
        let body = page(&backend.debug_vars());
        async move { HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/json; charset=utf-8")).body(body) }
    };
    get_only("/debug/vars", web::get().to(answer))
}

/// One variable a line, as expvar lays them out.
fn page(vars: &DebugVars) -> String {
    let lines: Vec<String> =
        vars.iter().map(|(name, value)| format!("{}: {value}", Value::from(name.as_str()))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_json_with_a_line_for_each_variable() {
        let vars: DebugVars =
            [("b".to_owned(), Value::from(1)), ("a\"".to_owned(), Value::from("x"))].into_iter().collect();
        let page = page(&vars);
        assert_eq!(page, "{\n\"a\\\"\": \"x\",\n\"b\": 1\n}\n");
        assert_eq!(serde_json::from_str::<DebugVars>(&page).expect("JSON"), vars);
    }
}
