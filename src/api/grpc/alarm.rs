//! etcdserverpb.Maintenance/Alarm: which alarms are on, and turning them on and off.

use crate::api::grpc::{Admitted, Edge, mismatch};
use crate::cast::RequestError;
use crate::state::{Alarms, Outcome};
use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb::{self as pb, AlarmMember, alarm_request::AlarmAction};

/// A list is as of now and leaves nothing in the log; etcd sends it through there.
pub(super) async fn alarm(
    edge: &Edge,
    admitted: &Admitted,
    request: pb::AlarmRequest,
) -> Result<pb::AlarmResponse, RequestError> {
    if request.action == i32::from(AlarmAction::Get) {
        let view = edge.cast.linearizable_view(&admitted.permit, admitted.span()).await?;
        let header = Some(edge.cast.header(view.mvcc.revision().0));
        return Ok(pb::AlarmResponse { header, alarms: view.alarms.list(request.alarm) });
    }
    match edge.cast.replicate(&admitted.permit, Op::Alarm(request), admitted.span()).await? {
        Outcome::Alarm(mut answer) => {
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            answer.header = Some(edge.cast.header(revision));
            Ok(answer)
        }
        other => mismatch("alarm", &other),
    }
}

/// As Status tells of them. The blank at the end is etcd's.
pub(super) fn told(alarms: &Alarms) -> impl Iterator<Item = String> {
    alarms.iter().map(|alarm| format!("memberID:{} alarm:{} ", AlarmMember::from(alarm).member_id, alarm.name()))
}
