//! Watch.

use castd_proto::{
    etcdserverpb::{watch_create_request::FilterType, watch_request::RequestUnion, *},
    mvccpb::{Event, event::EventType},
};

use super::{header, key_value};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    let request = |union| WatchRequest { request_union: Some(union) };
    vec![
        case(
            "etcdserverpb.WatchRequest",
            request(RequestUnion::CreateRequest(WatchCreateRequest {
                key: "k".into(),
                ..WatchCreateRequest::default()
            })),
            "0a 03 0a 01 'k'",
        ),
        case(
            "etcdserverpb.WatchRequest",
            request(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 1 })),
            "12 02 08 01",
        ),
        case("etcdserverpb.WatchRequest", request(RequestUnion::ProgressRequest(WatchProgressRequest {})), "1a 00"),
        case(
            "etcdserverpb.WatchCreateRequest",
            WatchCreateRequest {
                key: "k".into(),
                range_end: "l".into(),
                start_revision: 3,
                progress_notify: true,
                filters: vec![FilterType::Noput.into(), FilterType::Nodelete.into()],
                prev_kv: true,
                watch_id: 7,
                fragment: true,
            },
            "0a 01 'k' 12 01 'l' 18 03 20 01 2a 02 00 01 30 01 38 07 40 01",
        ),
        case("etcdserverpb.WatchCancelRequest", WatchCancelRequest { watch_id: 300 }, "08 ac 02"),
        case("etcdserverpb.WatchProgressRequest", WatchProgressRequest {}, ""),
        case(
            "etcdserverpb.WatchResponse",
            WatchResponse {
                header: header(),
                watch_id: -1,
                created: true,
                canceled: true,
                compact_revision: 5,
                cancel_reason: "why".to_owned(),
                fragment: true,
                events: vec![
                    Event { r#type: EventType::Put.into(), kv: Some(key_value()), prev_kv: None },
                    Event { r#type: EventType::Delete.into(), kv: None, prev_kv: None },
                ],
            },
            "H 10 ff ff ff ff ff ff ff ff ff 01 18 01 20 01 28 05 32 03 'why' 38 01 5a 10 12 0e KV 5a 02 08 01",
        ),
    ]
}
