//! etcdserverpb.Auth: users, roles, tokens.
//!
//! Comes in a later release: every call says so.

use crate::api::grpc::Edge;
use crate::cast::RequestError;
use castd_proto::Rpc;
use castd_proto::etcdserverpb as pb;
use castd_proto::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

const NOT_YET: &str = "castd does not have users and roles yet";

#[tonic::async_trait]
impl Auth for Edge {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        self.unary(Rpc::AuthEnable, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        self.unary(Rpc::AuthDisable, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.unary(Rpc::AuthStatus, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.unary(Rpc::Authenticate, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        self.unary(Rpc::AuthUserAdd, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        self.unary(Rpc::AuthUserGet, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        self.unary(Rpc::AuthUserList, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        self.unary(Rpc::AuthUserDelete, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        self.unary(Rpc::AuthUserChangePassword, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        self.unary(Rpc::AuthUserGrantRole, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        self.unary(Rpc::AuthUserRevokeRole, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        self.unary(Rpc::AuthRoleAdd, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        self.unary(Rpc::AuthRoleGet, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        self.unary(Rpc::AuthRoleList, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        self.unary(Rpc::AuthRoleDelete, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        self.unary(Rpc::AuthRoleGrantPermission, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        self.unary(Rpc::AuthRoleRevokePermission, request, |_, _| async { Err(RequestError::NotYet(NOT_YET)) }).await
    }
}
