//! Auth. Which request calls its one name `name`, `user` or `role` follows no rule; etcd's table does.

use castd_proto::{
    authpb::{Permission, Role, User, UserAddOptions, permission},
    etcdserverpb::*,
};

use super::header;
use crate::{Case, case};

fn text(text: &str) -> String {
    text.to_owned()
}

pub fn cases() -> Vec<Case> {
    // 08 02 12 01 'k' 1a 01 'l': 8 bytes
    let permission =
        || Permission { perm_type: permission::Type::Readwrite.into(), key: "k".into(), range_end: "l".into() };
    let mut cases = stored(permission());
    cases.extend(requests(permission()));
    cases.extend(responses(permission()));
    cases
}

fn stored(permission: Permission) -> Vec<Case> {
    vec![
        case("authpb.Permission", permission.clone(), "08 02 12 01 'k' 1a 01 'l'"),
        case("authpb.UserAddOptions", UserAddOptions { no_password: true }, "08 01"),
        case(
            "authpb.User",
            User {
                name: "u".into(),
                password: "p".into(),
                roles: vec![text("r"), text("s")],
                options: Some(UserAddOptions { no_password: true }),
            },
            "0a 01 'u' 12 01 'p' 1a 01 'r' 1a 01 's' 22 02 08 01",
        ),
        case(
            "authpb.Role",
            Role { name: "r".into(), key_permission: vec![permission] },
            "0a 01 'r' 12 08 08 02 12 01 'k' 1a 01 'l'",
        ),
    ]
}

fn requests(permission: Permission) -> Vec<Case> {
    vec![
        case("etcdserverpb.AuthEnableRequest", AuthEnableRequest {}, ""),
        case("etcdserverpb.AuthDisableRequest", AuthDisableRequest {}, ""),
        case("etcdserverpb.AuthStatusRequest", AuthStatusRequest {}, ""),
        case("etcdserverpb.AuthUserListRequest", AuthUserListRequest {}, ""),
        case("etcdserverpb.AuthRoleListRequest", AuthRoleListRequest {}, ""),
        case(
            "etcdserverpb.AuthenticateRequest",
            AuthenticateRequest { name: text("u"), password: text("p") },
            "0a 01 'u' 12 01 'p'",
        ),
        case(
            "etcdserverpb.AuthUserAddRequest",
            AuthUserAddRequest {
                name: text("u"),
                password: text("p"),
                options: Some(UserAddOptions { no_password: true }),
                hashed_password: text("h"),
            },
            "0a 01 'u' 12 01 'p' 1a 02 08 01 22 01 'h'",
        ),
        case("etcdserverpb.AuthUserGetRequest", AuthUserGetRequest { name: text("u") }, "0a 01 'u'"),
        case("etcdserverpb.AuthUserDeleteRequest", AuthUserDeleteRequest { name: text("u") }, "0a 01 'u'"),
        case(
            "etcdserverpb.AuthUserChangePasswordRequest",
            AuthUserChangePasswordRequest { name: text("u"), password: text("p"), hashed_password: text("h") },
            "0a 01 'u' 12 01 'p' 1a 01 'h'",
        ),
        case(
            "etcdserverpb.AuthUserGrantRoleRequest",
            AuthUserGrantRoleRequest { user: text("u"), role: text("r") },
            "0a 01 'u' 12 01 'r'",
        ),
        case(
            "etcdserverpb.AuthUserRevokeRoleRequest",
            AuthUserRevokeRoleRequest { name: text("u"), role: text("r") },
            "0a 01 'u' 12 01 'r'",
        ),
        case("etcdserverpb.AuthRoleAddRequest", AuthRoleAddRequest { name: text("r") }, "0a 01 'r'"),
        case("etcdserverpb.AuthRoleGetRequest", AuthRoleGetRequest { role: text("r") }, "0a 01 'r'"),
        case("etcdserverpb.AuthRoleDeleteRequest", AuthRoleDeleteRequest { role: text("r") }, "0a 01 'r'"),
        case(
            "etcdserverpb.AuthRoleGrantPermissionRequest",
            AuthRoleGrantPermissionRequest { name: text("r"), perm: Some(permission) },
            "0a 01 'r' 12 08 08 02 12 01 'k' 1a 01 'l'",
        ),
        case(
            "etcdserverpb.AuthRoleRevokePermissionRequest",
            AuthRoleRevokePermissionRequest { role: text("r"), key: vec![0xff].into(), range_end: vec![0].into() },
            "0a 01 'r' 12 01 ff 1a 01 00",
        ),
    ]
}

fn responses(permission: Permission) -> Vec<Case> {
    let header = header();
    vec![
        case("etcdserverpb.AuthEnableResponse", AuthEnableResponse { header }, "H"),
        case("etcdserverpb.AuthDisableResponse", AuthDisableResponse { header }, "H"),
        case(
            "etcdserverpb.AuthStatusResponse",
            AuthStatusResponse { header, enabled: true, auth_revision: 300 },
            "H 10 01 18 ac 02",
        ),
        case("etcdserverpb.AuthenticateResponse", AuthenticateResponse { header, token: text("t") }, "H 12 01 't'"),
        case("etcdserverpb.AuthUserAddResponse", AuthUserAddResponse { header }, "H"),
        case(
            "etcdserverpb.AuthUserGetResponse",
            AuthUserGetResponse { header, roles: vec![text("r"), text("s")] },
            "H 12 01 'r' 12 01 's'",
        ),
        case("etcdserverpb.AuthUserDeleteResponse", AuthUserDeleteResponse { header }, "H"),
        case("etcdserverpb.AuthUserChangePasswordResponse", AuthUserChangePasswordResponse { header }, "H"),
        case("etcdserverpb.AuthUserGrantRoleResponse", AuthUserGrantRoleResponse { header }, "H"),
        case("etcdserverpb.AuthUserRevokeRoleResponse", AuthUserRevokeRoleResponse { header }, "H"),
        case(
            "etcdserverpb.AuthUserListResponse",
            AuthUserListResponse { header, users: vec![text("u"), text("v")] },
            "H 12 01 'u' 12 01 'v'",
        ),
        case("etcdserverpb.AuthRoleAddResponse", AuthRoleAddResponse { header }, "H"),
        case(
            "etcdserverpb.AuthRoleGetResponse",
            AuthRoleGetResponse { header, perm: vec![permission, Permission::default()] },
            "H 12 08 08 02 12 01 'k' 1a 01 'l' 12 00",
        ),
        case(
            "etcdserverpb.AuthRoleListResponse",
            AuthRoleListResponse { header, roles: vec![text("r")] },
            "H 12 01 'r'",
        ),
        case("etcdserverpb.AuthRoleDeleteResponse", AuthRoleDeleteResponse { header }, "H"),
        case("etcdserverpb.AuthRoleGrantPermissionResponse", AuthRoleGrantPermissionResponse { header }, "H"),
        case("etcdserverpb.AuthRoleRevokePermissionResponse", AuthRoleRevokePermissionResponse { header }, "H"),
    ]
}
